"""How answers go out: one thread that turns tokens into text and sends what has gathered, merging more under load.

It alone sends, ends and asks for cancellation: asking a sender after its final flag kills the whole server, so each
chat's reply has one owner. A send costs as much as a small model's token, so the thread rests after each round in
proportion to what the round took: tokens gather meanwhile and travel together. First tokens and ends do not wait.

Triton 2.51 frees a cancelled stream with its final answer, and dies when gRPC reports an earlier answer's write of that
stream afterwards (a race like those of triton-inference-server/server issues #7368 and #8034, since mended). So a final
answer keeps its distance: SETTLE_S from the answer before it, and PARTING_S from a client's leaving, which ends the
chat at once but needs no haste with what nobody reads.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from .errors import RequestError, internal, waited_too_long
from .job import Job
from .metrics import Metrics
from .text import Detokeniser, StopStrings

POLL_S = 0.03  # how often each chat is asked whether its client is gone
SETTLE_S = 0.005  # how long gRPC gets to report an answer's write before the final answer follows it
PARTING_S = 0.5  # how long the final answer to a client that is gone is held back
TURN_S = 0.1  # most that one turn of the sender counts for of that: while a machine stood still, gRPC did too
PACE_S = 0.01  # least time between rounds, so that one chat gets at most a hundred answers a second
REST = 3.0  # seconds of rest for each second of sending
REST_LIMIT_S = 0.05


class _Outgoing:
    """What the sender keeps for one chat."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job = job
        self.detokeniser = Detokeniser(tokenizer)
        self.stops = StopStrings(job.stop)
        self.held = ""  # for answers that go out whole
        self.next_poll = time.monotonic() + POLL_S
        self.settled = 0.0  # when its last answer's write will have been reported


class Sender:
    """Sends the answers of all chats that it was given."""

    def __init__(self, tokenizer: Any, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._tokenizer, self._metrics, self._log = tokenizer, metrics, log
        self._live: dict[Job, _Outgoing] = {}
        self._parting: deque[tuple[float, Callable[[], None]]] = deque()  # final answers held back: when, how
        self._turn, self._lived = 0.0, 0.0  # when its turn began; seconds of its turns, the clock of what is held back
        self._news, self._urgent = threading.Event(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="slipway-send", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def add(self, job: Job) -> None:
        """Takes over the chat's reply; nobody else may use it from now on."""
        outgoing = _Outgoing(job, self._tokenizer)
        self._live[job] = outgoing

    def wake(self, urgent: bool) -> None:
        """Says that there is something to send; `urgent`: a first token or an end."""
        self._news.set()
        if urgent:
            self._urgent.set()

    def close(self) -> None:
        """Sends what is left of chats that have ended, and stops."""
        self._closing = True
        self.wake(True)
        self._thread.join()

    @property
    def live(self) -> int:
        """Chats that have no final answer yet."""
        return len(self._live)

    def _run(self) -> None:
        self._turn = time.monotonic()
        while True:
            self._news.wait(POLL_S if self._live or self._parting else 0.25)
            closing = self._closing
            self._news.clear()
            self._urgent.clear()
            began = time.monotonic()
            self._lived, self._turn = self._lived + min(began - self._turn, TURN_S), began
            self._round(list(self._live.values()), began)
            self._see_off()
            self._metrics.flush(began)
            if closing and not self._parting and all(job.end is None for job in self._live):
                return
            if self._live:
                spent = time.monotonic() - began
                self._urgent.wait(min(REST_LIMIT_S, max(PACE_S, spent * REST)))

    def _round(self, outgoing: list[_Outgoing], now: float) -> None:
        for chat in outgoing:
            try:
                self._serve(chat, now)
            except Exception as error:  # one reply that cannot be sent must not stop the others
                self._log(f"an answer could not be sent: {error!r}")
                self._part(chat, "failed", partial(chat.job.reply.error, internal(error)))

    def _part(self, chat: _Outgoing, outcome: str, last: Callable[[], None]) -> None:
        """Ends a chat that nobody reads any more, its last answer later."""
        self._parting.append((self._lived + time.monotonic() - self._turn + PARTING_S, last))
        self._forget(chat, outcome)

    def _see_off(self) -> None:
        """Sends the last answers that were held back long enough."""
        while self._parting and self._parting[0][0] <= self._lived:
            last = self._parting.popleft()[1]
            try:
                last()
            except Exception as error:  # as in a round
                self._log(f"a chat could not be ended: {error!r}")

    def _serve(self, chat: _Outgoing, now: float) -> None:
        job = chat.job
        end = job.end  # read before the tokens: the decode thread writes it after the last of them
        text = self._text(chat)
        ends = chat.stops.hit or end is not None or (job.admitted is None and now > job.deadline)
        if ends:
            time.sleep(max(0.0, chat.settled - time.monotonic()))
        if (ends or now >= chat.next_poll) and job.reply.gone():
            self._part(chat, "cancelled", partial(job.reply.final, "", "cancelled", job))
            return
        if now >= chat.next_poll:
            chat.next_poll = now + POLL_S
        if chat.stops.hit:
            self._finish(chat, text, "stop")
        elif isinstance(end, RequestError):
            self._refuse(chat, end)
        elif end is not None:
            text += chat.stops.feed(chat.detokeniser.flush())
            self._finish(chat, text + chat.stops.flush(), "stop" if chat.stops.hit else end)
        elif ends:
            self._refuse(chat, waited_too_long(now - job.arrived))
        elif not job.stream:
            chat.held += text
        elif text:
            job.reply.delta(text)
            chat.settled = time.monotonic() + SETTLE_S

    def _text(self, chat: _Outgoing) -> str:
        fresh, job = chat.job.fresh, chat.job
        if not fresh:
            return ""
        ids = []
        while fresh:
            ids.append(fresh.popleft())
        self._metrics.tokens(job, len(ids))
        if not job.stop:
            return chat.detokeniser.feed(ids)
        out = ""
        for token in ids:  # one by one, to end at the token that completes the stop string
            out += chat.stops.feed(chat.detokeniser.feed((token,)))
            if chat.stops.hit:
                break
        return out

    def _finish(self, chat: _Outgoing, text: str, finish: str) -> None:
        chat.job.reply.final(chat.held + text, finish, chat.job)
        self._forget(chat, "finished")

    def _refuse(self, chat: _Outgoing, error: RequestError) -> None:
        chat.job.reply.error(error)
        self._forget(chat, "failed")

    def _forget(self, chat: _Outgoing, outcome: str) -> None:
        chat.job.dropped = True
        if self._live.pop(chat.job, None) is not None:
            self._metrics.ended(chat.job, outcome)
