"""One worker for each run: plan x target -> events -> store.

A worker is a process of its own. It outlives the page, the terminal and the panel, holds the run's lock as long as it
lives (the kernel lets go of it at any death), carries the plan out step by step, and watches the server afterwards.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import random
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from sqlalchemy.exc import OperationalError

from app.jobs import RunFolder, Stamps, hold
from backends import restarts
from backends.errors import SlipwayError, StepFailed, Stopped, Unreachable
from backends.events import Event, Kind
from backends.logs import last_lines
from backends.probes import graphics
from backends.runs import Run, State, Trouble
from backends.spec import Endpoint
from backends.steps import Service, Step, digest, fill_step
from backends.targets.base import Target, Work
from backends.text import Text
from backends.transformers import metrics
from storage.store import Store

WATCH_S = 0.25
log = logging.getLogger(__name__)
PORT_TRIES = 3
PORTS = range(20_000, 32_000)  # below those that Linux gives to who asks for any: net.ipv4.ip_local_port_range, ip(7)


class Worker:
    """Carries one run out. `asset_root` is the folder of the files that come with Slipway.

    `prepare` loads what the first question takes; it is called in a thread while the server starts, which takes longer.
    """

    def __init__(
        self,
        store: Store,
        target: Target,
        home: Path,
        asset_root: Path,
        run_id: str,
        gpu_memory: Callable[[], int | None] = graphics.memory_used_mib,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._gpu_memory = gpu_memory  # MiB in use on all GPUs; None: no GPU, or nobody tells
        self._gpu_before: int | None = None
        self._prepare = prepare
        self._target = target
        self._home = home
        self._stamps = Stamps(home, asset_root)
        self._id = run_id
        self._folder = RunFolder(home, run_id)
        self._stop = threading.Event()
        self._unsaid: list[Event] = []  # what the store could not take yet: locked, or the disk is full
        self._looked = 0.0
        self._noted: dict[str, float] = {}
        self._current: str | None = None
        self._answer: str | None = None
        self._ends: list[restarts.End] = []  # of the server, each by itself
        self._since: float | None = None  # when it began to serve

    def work(self) -> State:
        """Carries the run out to its end and returns the state it ends in. The caller holds the run's lock."""
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        run = self._store.run(self._id)
        self._folder.make()
        try:
            adopted = run.state is State.SERVING and self._target.watch(self._id) is None
            if not adopted:
                self._move(State.RUNNING)
                self._start(run)
            if run.plan.service is None:
                return self._end(State.DONE)
            while True:
                try:
                    return self._watch()
                except StepFailed as ended:
                    self._start_again(run, ended)
        except Stopped:
            self._clear_away()
            return self._end(State.STOPPED)
        except StepFailed as failed:
            self._clear_away()
            return self._fail(failed, failed.exit_status, failed.last_lines)
        except SlipwayError as failed:
            self._clear_away()
            return self._fail(failed)
        except (Exception, asyncio.CancelledError) as error:
            # A fault of ours. The run must not look alive for it, so it ends, and worker.log tells where it was.
            log.exception("the worker of %s failed", self._id)
            self._clear_away()
            return self._fail(_fault(error, self._folder.path / "worker.log"))

    def _clear_away(self) -> None:
        """Ends what is left of the run. Where nobody answers, the run ends all the same; its error says who is away."""
        with contextlib.suppress(Unreachable):
            self._target.stop(self._id)

    # --- the steps ------------------------------------------------------------------------------------------------

    def _start(self, run: Run, kept: Endpoint | None = None) -> None:
        """Carries out all steps; on `kept` ports where a server that ended is started again there, without a word on
        what is done already."""
        for attempt in range(1, PORT_TRIES + 1):
            endpoint = kept if kept is not None and attempt == 1 else self._endpoint(run)
            try:
                self._carry_out(run, endpoint, quiet=kept is not None)
                return
            except StepFailed as failed:
                if attempt == PORT_TRIES or not _port_taken(failed, run):
                    raise

    def _start_again(self, run: Run, ended: StepFailed) -> None:
        """Starts a server that ended by itself again, as the spec asks. Raises what ended it where that is not wanted,
        and with its cause where it would only end again; Stopped."""
        step = run.plan.service
        wanted = run.spec.restart == "on-failure" and ended.exit_status != 0  # 0: somebody asked it to end
        while step is not None and wanted:
            served_s = 0.0 if self._since is None else time.monotonic() - self._since
            self._since = None
            self._ends.append(restarts.End(cause=restarts.cause_of(ended), served_s=served_s))
            seconds = restarts.wait_s(self._ends)
            if seconds is None:
                ended = restarts.loop(ended)
                self._tell([Event(step=step.id, kind=Kind.FAILED, text=ended.message, hint=ended.hint)])
                break
            self._say(step, Kind.NOTE, restarts.note(ended, seconds))
            self._clear_away()
            self._move(State.RUNNING)
            self._pause(seconds)
            self._noted["restarts"] = float(len(self._ends))
            try:
                self._start(run, self._store.run(self._id).endpoint)
                return
            except StepFailed as failed:
                ended = failed
        raise ended

    def _pause(self, seconds: float) -> None:
        """Waits; raises Stopped as soon as a person asks."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if self._asked_to_stop():
                raise Stopped
            self._stop.wait(min(WATCH_S, seconds))

    def _carry_out(self, run: Run, endpoint: Endpoint, quiet: bool = False) -> None:
        places = self._target.places(self._id, endpoint, run.spec.bind)
        places["lock"] = os.urandom(16).hex()
        steps = [fill_step(step, places) for step in run.plan.steps]
        prints = self._stamps.prints(steps)
        for step in steps:
            self._current = step.id
            work = Work(
                run=self._id,
                folder=self._folder.path,
                log=self._folder.log(step.id),
                endpoint=endpoint,
                places=places,
                asked_to_stop=self._asked_to_stop,
                spec=digest(run.spec),
                refused=self._stamps.refused(prints[step.id]),
            )
            with self._alone(step, prints[step.id]):
                if self._stamps.has(step, prints[step.id], self._target):
                    if not quiet:
                        self._say(step, Kind.SKIPPED, _SKIPPED)
                    continue
                self._stamps.begin(prints[step.id])
                try:
                    self._one(step, work)
                except StepFailed:
                    for judged in getattr(step, "checks", ()):
                        self._stamps.drop(prints[judged])
                    raise
                self._stamps.add(step, prints[step.id], self._id)

    def _one(self, step: Step, work: Work) -> None:
        started = time.monotonic()
        # The log of all starts stays one file that only grows: every viewer stands at a byte of it, and a file that is
        # moved away under a viewer would make it miss or repeat lines. Each start says where in the file it begins.
        work.log.touch()
        self._tell([Event(step=step.id, kind=Kind.STARTED, data={"log_from": work.log.stat().st_size})])
        if isinstance(step, Service):
            self._gpu_before = self._gpu_memory() if self._may_use_gpus() else None
            if self._prepare is not None:
                threading.Thread(target=self._prepare, daemon=True, name="prepare").start()
        try:
            for event in self._target.carry_out(step, work):
                self._tell([event])
                if isinstance(step, Service) and event.kind is Kind.READY:
                    self._noted["memory_mib"] = float(event.data.get("memory_mib", 0))
                if "answer" in event.data:
                    self._answered(event)
        except Stopped:
            self._say(step, Kind.STOPPED)
            raise
        except SlipwayError as failed:
            self._tell([Event(step=step.id, kind=Kind.FAILED, text=failed.message, hint=failed.hint)])
            raise
        self._noted[f"{step.id}_s"] = round(time.monotonic() - started, 3)
        self._say(step, Kind.DONE)

    def _answered(self, event: Event) -> None:
        self._noted["first_token_s"] = round(float(event.data["first_token_s"]), 4)
        self._answer = str(event.data["answer"])

    @contextlib.contextmanager
    def _alone(self, step: Step, print_: str) -> Iterator[None]:
        """A result that serves several runs is made by one of them; the others wait, and find it done."""
        if not step.shared:
            yield
            return
        held = hold(self._home / "locks" / f"{print_}.lock")
        if held is None:
            self._say(step, Kind.STARTED)
            self._say(step, Kind.NOTE, _WAITING)
        while held is None:
            if self._asked_to_stop():
                self._say(step, Kind.STOPPED)
                raise Stopped
            time.sleep(WATCH_S)
            held = hold(self._home / "locks" / f"{print_}.lock")
        with held:
            yield

    def _endpoint(self, run: Run) -> Endpoint:
        """Where the server listens: the ports that the spec names, free ones for the others."""
        known: Endpoint | None = None
        if self._target.watch(self._id) is None:
            known = run.endpoint or self._target.find(self._id).endpoint
            if known is not None and run.endpoint is None:
                self._move(State.RUNNING, endpoint=known)
        if known is not None:
            return known
        wanted = run.spec.ports
        free = iter(_free_ports(3))
        service = run.plan.service
        endpoint = Endpoint(
            http_port=wanted.http or next(free),
            grpc_port=wanted.grpc or next(free),
            metrics_port=wanted.metrics or next(free),
            model=service.model if service else "",
        )
        self._move(State.RUNNING, endpoint=endpoint)
        return endpoint

    # --- the server -----------------------------------------------------------------------------------------------

    def _watch(self) -> State:
        """Stays with the server until it ends or a person asks."""
        run = self._store.run(self._id)
        service = run.plan.service
        if run.state is not State.SERVING:
            if service is not None:
                self._noted |= metrics.measured(last_lines(self._folder.log(service.id), 1000))
                self._note_memory()
            self._move(State.SERVING, answer=self._answer, measured=self._noted)
        self._since = time.monotonic()
        self._current = service.id if service else None
        while True:
            status = self._target.watch(self._id)
            if self._asked_to_stop():
                raise Stopped
            if status is not None:
                log = self._folder.log(service.id if service else "serve")
                raise StepFailed(
                    _ENDED if status == -1 else _ended(status),
                    _LOOK,
                    exit_status=status,
                    last_lines=last_lines(log),
                )
            self._flush()
            self._stop.wait(WATCH_S)

    def _may_use_gpus(self) -> bool:
        """False where the spec wants none, or the machine had none when it was planned for."""
        run = self._store.run(self._id)
        return run.spec.gpus != () and (run.plan.hardware is None or bool(run.plan.hardware.gpus))

    def _note_memory(self) -> None:
        """What the server took where the forecast is about: on a machine with GPUs that is their memory, and what its
        processes take of the host's is noted apart."""
        now = None if self._gpu_before is None else self._gpu_memory()
        if now is None or self._gpu_before is None:
            return
        if "memory_mib" in self._noted:
            self._noted["host_memory_mib"] = self._noted.pop("memory_mib")
        self._noted["memory_mib"] = float(max(0, now - self._gpu_before))

    # --- words ----------------------------------------------------------------------------------------------------

    def _asked_to_stop(self) -> bool:
        if self._stop.is_set():
            return True
        if time.monotonic() - self._looked > WATCH_S:
            self._looked = time.monotonic()
            with contextlib.suppress(OperationalError, sqlite3.OperationalError):
                if self._store.stop_asked(self._id):
                    self._stop.set()
        return self._stop.is_set()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _say(self, step: Step, kind: Kind, text: Text | None = None) -> None:
        self._tell([Event(step=step.id, kind=kind, text=text)])

    def _tell(self, events: Iterable[Event]) -> None:
        self._unsaid += [event.model_copy(update={"at": datetime.now(UTC)}) for event in events]
        self._flush()

    def _flush(self) -> None:
        """Gives the store what it has not heard; what it cannot take now is kept and told later."""
        with contextlib.suppress(OperationalError):
            self._append()

    def _append(self) -> None:
        if self._unsaid:
            self._store.append(self._id, self._unsaid)
            self._unsaid = []

    def _move(
        self,
        to: State,
        *,
        endpoint: Endpoint | None = None,
        trouble: Trouble | None = None,
        answer: str | None = None,
        measured: dict[str, float] | None = None,
    ) -> None:
        """Puts the run into a state, behind all that happened before, however long the store needs: the last words
        must not be lost."""
        while True:
            try:
                self._append()
                # A run that a person has just asked to stop stays so until its worker has seen it.
                come_from = (State.QUEUED, State.RUNNING, State.SERVING) if to.is_open() else None
                self._store.move(
                    self._id,
                    to,
                    come_from=come_from,
                    endpoint=endpoint,
                    trouble=trouble,
                    answer=answer,
                    measured=measured,
                )
                return
            except OperationalError:
                time.sleep(1.0)

    def _end(self, state: State, trouble: Trouble | None = None) -> State:
        self._move(state, trouble=trouble, measured=self._noted or None)
        return state

    def _fail(self, failed: SlipwayError, status: int | None = None, tail: tuple[str, ...] = ()) -> State:
        trouble = Trouble(
            step=self._current,
            message=failed.message,
            hint=failed.hint,
            exit_status=status,
            last_lines=tail,
        )
        return self._end(State.FAILED, trouble)


_SKIPPED = Text(en="Already done, found again.", zh="此前已完成，直接复用。")
_WAITING = Text(en="Another deployment is doing this step; waiting for it.", zh="另一个部署正在执行此步骤，等待中。")
_LOOK = Text(en="Its last lines tell more. Deploy it again to restart it.", zh="最后几行有更多信息，可重新部署。")
_ENDED = Text(en="The server ended by itself.", zh="服务自行结束。")


def _fault(error: BaseException, path: Path) -> SlipwayError:
    name = type(error).__name__
    return SlipwayError(
        Text(en=f"Slipway itself failed here ({name}).", zh=f"Slipway 自身在此出错（{name}）。"),
        Text(en=f"Retry. If it comes again, report it with {path}.", zh=f"请重试；若再次出现，请附上 {path} 反馈。"),
    )


def _ended(status: int) -> Text:
    if status < 0:
        name = signal.Signals(-status).name
        return Text(en=f"The server was ended by signal {name}.", zh=f"服务被信号 {name} 终止。")
    return Text(en=f"The server ended by itself, exit code {status}.", zh=f"服务自行结束，退出码 {status}。")


def _port_taken(failed: StepFailed, run: Run) -> bool:
    """True where a chosen port was taken between the choice and the start, and another may be chosen; not where it is
    one that the spec names, which would be as taken the next time."""
    ports = (run.spec.ports.http, run.spec.ports.grpc, run.spec.ports.metrics)
    taken = ("already in use", "port is already allocated")  # the server's own words, Docker's words
    lines = [line for line in failed.last_lines if any(words in line.lower() for words in taken)]
    named = [port for port in ports if port is not None]
    return bool(lines) and None in ports and not any(re.search(rf":{port}\b", line) for port in named for line in lines)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody has now, and that the system gives to nobody who asks for any while a model loads."""
    with contextlib.ExitStack() as held:
        found: list[int] = []
        for port in (*random.sample(PORTS, 100), *[0] * count):
            one = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(one.getsockname()[1])
            if len(found) == count:
                return found
        raise OSError(errno.EADDRINUSE, "no port is free")
