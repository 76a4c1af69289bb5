"""Who decodes when: the queue, the admission, prefill in pieces between steps, and what happens when a step fails.

One thread owns the model and the batch. In each turn it lets go of chats that nobody waits for, prefills at most one
piece of those that have come, and launches one token for all that run. Chats are taken in the order of their arrival.
"""

from __future__ import annotations

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from . import single
from .errors import RequestError, internal, shutting_down
from .job import Job
from .network import Network
from .sampling import Sampler
from .slots import later
from .window import Group, Step

RESUME_LIMIT = 2  # times a chat is prefilled again after a step of its batch failed
GROUP_TOKENS = 16_384  # prompt tokens, padding counted, that are prefilled together at most


class Batch(Protocol):
    """Rows that are decoded together: the window or the slots."""

    jobs: list[Job]
    max_rows: int
    lookahead: int

    def fits(self, jobs: Sequence[Job]) -> bool: ...

    def join(self, jobs: Sequence[Job], group: Group, ids: torch.Tensor) -> None: ...

    def leave(self, job: Job) -> None: ...

    def clear(self) -> None: ...

    def launch(self) -> Step: ...


class _Worker:
    """A queue of chats and the one thread that serves them."""

    max_rows: int

    def __init__(self, eos: frozenset[int], wake: Callable[[bool], None], log: Callable[[str], None]) -> None:
        self._eos, self._wake, self._log = eos, wake, log
        self._queue: deque[Job] = deque()
        self._news = threading.Condition()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._run, name="slipway-decode", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queues a chat. Raises RequestError when the server is shutting down."""
        with self._news:
            if self._closing:
                raise shutting_down()
            self._queue.append(job)
            self._news.notify()

    @property
    def queued(self) -> int:
        """Chats that wait for a place."""
        return len(self._queue)

    @property
    def active(self) -> int:
        """Chats that are being answered."""
        raise NotImplementedError

    def close(self, patience_s: float) -> None:
        """Takes no more, waits so long for those that run, then ends them; returns when the thread is gone."""
        with self._news:
            self._closing = True
            self._news.notify()
        self._thread.join(patience_s)
        self._stopped = True
        with self._news:
            self._news.notify()
        self._thread.join()

    def _run(self) -> None:
        device = self._device()
        if device.type == "cuda":
            torch.cuda.set_device(device)  # a thread begins on the first GPU
        with torch.inference_mode():
            while not self._stopped:
                with self._news:
                    while not (self._queue or self.active or self._closing):
                        self._news.wait()
                if self._closing and not (self._queue or self.active):
                    break
                try:
                    self._turn()
                except Exception as error:  # a mistake in this file must not leave people waiting for ever
                    for job in self._everyone():
                        self._fail(job, error)
        for job in (*self._queue, *self._everyone()):
            self._end(job, shutting_down())

    def _turn(self) -> None:
        raise NotImplementedError

    def _device(self) -> torch.device:
        raise NotImplementedError

    def _everyone(self) -> list[Job]:
        raise NotImplementedError

    def _deliver(self, job: Job, token: int) -> None:
        """One more token of a chat, and its end if that is it."""
        if job.end is not None or job.dropped:
            return
        job.produced.append(token)
        job.last = time.monotonic()
        first = job.first is None
        if first:
            job.first = job.last
        if token in self._eos:
            self._end(job, "stop")
            return
        job.fresh.append(token)
        if len(job.produced) >= job.limit:
            self._end(job, "length")
            return
        if first:
            self._wake(True)

    def _end(self, job: Job, end: str | RequestError) -> None:
        if job.end is None:
            job.end = end
        self._wake(True)

    def _fail(self, job: Job, error: Exception) -> None:
        self._log(f"a request failed: {_told(error)}")
        self._end(job, internal(error))


class Scheduler(_Worker):
    """Serves a batch. `piece_tokens`: how many prompt tokens are prefilled between two steps of those that run."""

    def __init__(
        self,
        network: Network,
        batch: Batch,
        piece_tokens: int,
        eos: frozenset[int],
        wake: Callable[[bool], None],
        log: Callable[[str], None],
    ) -> None:
        super().__init__(eos, wake, log)
        self._network, self.batch, self._piece = network, batch, piece_tokens
        self.max_rows = batch.max_rows
        self._group: Group | None = None
        self._alone: deque[Job] = deque()  # to be prefilled one by one: something failed in their company
        self._flight: deque[Step] = deque()  # launched, not read yet

    @property
    def active(self) -> int:
        """Chats that are being answered."""
        group = self._group
        return len(self.batch.jobs) + (len(group.jobs) if group else 0) + len(self._alone) + bool(self._flight)

    def _device(self) -> torch.device:
        return self._network.device

    def _everyone(self) -> list[Job]:
        return [*self.batch.jobs, *(self._group.jobs if self._group else ()), *self._alone]

    def _turn(self) -> None:
        for job in [job for job in self.batch.jobs if job.dropped or job.end or job.launched >= job.limit]:
            self.batch.leave(job)
        self._admit()
        try:
            self._prefill()
        except Exception as error:
            self._prefill_failed(error)
        try:
            launched = bool(self.batch.jobs)
            if launched:
                self._flight.append(self.batch.launch())
            while len(self._flight) > (self.batch.lookahead if launched else 0):
                self._read(self._flight.popleft())
        except Exception as error:
            self._step_failed(error)

    def _read(self, step: Step) -> None:
        for job, token in zip(step.jobs, step.tokens(), strict=True):
            self._deliver(job, token)
        self._wake(False)

    # --- those that come ---------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        if self._group is not None:
            return
        jobs = self._take_alone() or self._take_queued()
        if jobs:
            now = time.monotonic()
            for job in jobs:
                job.admitted = job.admitted or now
            try:
                self._group = Group(self._network, jobs)
            except Exception as error:
                self._prefill_failed(error, jobs)

    def _take_alone(self) -> list[Job]:
        while self._alone and (self._alone[0].dropped or self._alone[0].end):
            self._alone.popleft()
        if self._alone and self.batch.fits([self._alone[0]]):
            return [self._alone.popleft()]
        return []

    def _take_queued(self) -> list[Job]:
        """The next chats in order, as many as fit and as are of a length: padding may at most double the work.

        While it is prefilled a group has a cache of its own beside the batch's, so its size is bounded.
        """
        jobs: list[Job] = []
        total = longest = 0
        while self._queue and not self._alone:
            job = self._queue[0]
            if job.dropped or job.end:
                self._queue.popleft()
                continue
            size = len(job.prompt)
            if jobs and (len(jobs) + 1) * max(longest, size) > min(2 * (total + size), GROUP_TOKENS):
                break
            if not self.batch.fits([*jobs, job]):
                break
            jobs.append(self._queue.popleft())
            total, longest = total + size, max(longest, size)
        return jobs

    def _prefill(self) -> None:
        group = self._group
        if group is None:
            return
        if all(job.dropped or job.end for job in group.jobs):
            self._group = None
            return
        if not group.advance(self._piece):
            return
        ids = Sampler(self._network.device)(group.logits, group.jobs)
        for job in group.jobs:
            job.launched += 1
        going_on = [job for job in group.jobs if job.launched < job.limit and not job.dropped]
        self._group = None
        try:
            self.batch.join(going_on, group, ids)
        except Exception as error:
            self._step_failed(error, group.jobs)
            return
        self._flight.append(later(tuple(group.jobs), ids))
        if not self.batch.lookahead:
            self._read(self._flight.popleft())
            for job in [job for job in going_on if job.end]:
                self.batch.leave(job)

    # --- what may go wrong -------------------------------------------------------------------------------------------

    def _prefill_failed(self, error: Exception, jobs: Sequence[Job] | None = None) -> None:
        """A chat that failed alone has failed; several are tried again one by one."""
        group, self._group = self._group, None
        jobs = jobs or (group.jobs if group else [])
        del group
        _give_memory_back(error)
        jobs = [job for job in jobs if job not in self.batch.jobs and not job.end and not job.dropped]
        if len(jobs) == 1:
            self._fail(jobs[0], error)
        else:
            self._alone.extend(jobs)

    def _step_failed(self, error: Exception, joining: Sequence[Job] = ()) -> None:
        """Everyone is prefilled again, one by one, with what they already wrote; who fails alone then has failed."""
        self._log(f"a decoding step failed and is tried again: {_told(error)}")
        flying = [job for step in self._flight for job in step.jobs]
        jobs = list(dict.fromkeys([*self.batch.jobs, *flying, *joining]))
        self._flight.clear()
        self.batch.clear()
        _give_memory_back(error)
        for job in jobs:
            if job.end or job.dropped:
                continue
            job.resumed += 1
            job.launched = len(job.produced)
            job.seen = job.tail = None
            if job.resumed > RESUME_LIMIT:
                self._fail(job, error)
            else:
                self._alone.append(job)


def _told(error: Exception) -> str:
    """The error with the innermost places that it came through."""
    return "".join(traceback.format_exception(error, limit=-4)).strip()


def _give_memory_back(error: Exception) -> None:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        torch.cuda.empty_cache()


class Serial(_Worker):
    """Serves one chat at a time."""

    max_rows = 1

    def __init__(
        self, model: Any, eos: frozenset[int], wake: Callable[[bool], None], log: Callable[[str], None]
    ) -> None:
        super().__init__(eos, wake, log)
        self._model = model
        self._current: Job | None = None

    @property
    def active(self) -> int:
        """Chats that are being answered."""
        return int(self._current is not None)

    def _device(self) -> torch.device:
        device: torch.device = self._model.device
        return device

    def _everyone(self) -> list[Job]:
        return [self._current] if self._current else []

    def _turn(self) -> None:
        self._current = job = self._queue.popleft()
        try:
            if not job.dropped:
                job.admitted = time.monotonic()
                single.answer(self._model, job, self._deliver_awake)
                if job.end is None and not job.dropped:
                    self._end(job, "stop")  # `generate` ended for a reason of the model's own
        except Exception as error:
            self._fail(job, error)
        self._current = None

    def _deliver_awake(self, job: Job, token: int) -> None:
        if self._stopped:
            self._end(job, shutting_down())
        self._deliver(job, token)
        self._wake(False)
