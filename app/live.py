"""What changes, pushed to every open page over one stream: run, log, panel, servers.

Each thing is looked at by one follower however many pages watch it, and by none when nobody does. Log lines go by byte
cursor and every message carries the cursor behind it, so a page that comes back misses nothing and repeats nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from app.control import Control
from app.ui import launch, watch
from app.ui.opening import version
from backends.errors import SlipwayError
from backends.runs import LogPage, Run, State, StepView
from backends.text import Language
from backends.watched import Watched

T = TypeVar("T")
log = logging.getLogger(__name__)

RUN_S = 0.2
LOG_S = 0.1
QUIET_S = 0.4  # between looks at a log in which nothing happens
PANEL_S = 1.0
BEAT_S = 10.0  # assets/ui/js/stream.js gives up a stream that is silent for four of them
PAGE_BYTES = 262_144
TAIL_BYTES = 16 * 1024 * 1024  # of a longer log only the end is sent; the file is there to download
PAGES_AT_ONCE = 8


class Wanted(NamedTuple):
    """What one page watches. `cursor` is the byte of the log to go on from, None: the beginning, or the last part;
    `start` which start of the step alone is wanted, 1: the first, 0: all."""

    language: Language
    run: str | None = None
    step: str | None = None
    cursor: int | None = None
    monitor: bool = False
    start: int = 0


class RunNow(NamedTuple):
    """A run as it stands. `starts`: how often each step was started."""

    run: Run
    steps: tuple[StepView, ...]
    starts: dict[str, int]


class PanelNow(NamedTuple):
    """What the header and the list of servers show. `watched`: servers that others started."""

    serving: tuple[Run, ...]
    launching: int
    watched: tuple[Watched, ...] = ()


class Followed(Generic[T]):
    """One thing that is looked at while somebody watches. `begin` makes a look, which returns None where nothing
    changed; `more` says that another look would find more at once. When somebody watches again it begins anew: what was
    seen last may be long over, and what changed while the last one left is seen again."""

    def __init__(
        self,
        begin: Callable[[], Callable[[], T | None]],
        period_s: float,
        more: Callable[[], bool] = lambda: False,
    ) -> None:
        self._begin = begin
        self._period_s = period_s
        self._more = more
        self._wakes: set[asyncio.Event] = set()
        self._task: asyncio.Task[None] | None = None
        self.value: T | None = None
        self.version = 0

    @contextlib.contextmanager
    def watched(self, wake: asyncio.Event) -> Iterator[None]:
        """Sets `wake` at every change, as long as the context lasts."""
        self._wakes.add(wake)
        if self._task is None or self._task.done():
            self.value = None
            self._task = asyncio.create_task(self._go(self._begin()))
        try:
            yield
        finally:
            self._wakes.discard(wake)
            if not self._wakes and self._task is not None:
                self._task.cancel()
                self._task = None

    async def _go(self, look: Callable[[], T | None]) -> None:
        quiet = 0
        while True:
            try:
                found = await asyncio.to_thread(look)
            except SlipwayError as gone:
                log.info("no longer followed: %s", gone)
                return
            except Exception:
                log.exception("a look failed; the next one may not")
                found = None
            if found is not None:
                quiet = 0
                self.value = found
                self.version += 1
                for wake in self._wakes:
                    wake.set()
            else:
                quiet += 1
            if found is None or not self._more():
                await asyncio.sleep(self._period_s if quiet < 20 else max(self._period_s, QUIET_S))


class RunLook:
    """Looks at one run; new only where its state or its events changed."""

    def __init__(self, control: Control, run_id: str) -> None:
        self._control = control
        self._id = run_id
        self._seen: tuple[State, int] | None = None
        self._seq = 0
        self._starts: Counter[str] = Counter()

    def __call__(self) -> RunNow | None:
        run = self._control.run(self._id)
        events = self._control.events(self._id, self._seq)
        if events:
            self._seq = events[-1].seq
            self._starts.update(event.step for event in events if event.step and "log_from" in event.data)
        now = (run.state, self._seq)
        if now == self._seen:
            return None
        self._seen = now
        return RunNow(run, self._control.steps(self._id), dict(self._starts))


class LogLook:
    """Looks at the end of one log; keeps the newest pages, so that pages at the end share one reading."""

    def __init__(self, control: Control, run_id: str, step_id: str, start: int, cursor: int) -> None:
        self._control = control
        self._run = run_id
        self._step = step_id
        self._start = start
        self.tail = cursor
        self.ended = False
        self.rest = ""
        self.behind = False
        self.recent: deque[tuple[int, LogPage]] = deque(maxlen=16)

    def read(self, cursor: int) -> LogPage:
        """A page from `cursor` on."""
        return self._control.log(self._run, self._step, cursor, PAGE_BYTES, self._start)

    def __call__(self) -> LogPage | None:
        page = self.read(self.tail)
        if page.cursor <= self.tail and (page.ended, page.rest) == (self.ended, self.rest):
            return None
        if page.lines:
            self.recent.append((self.tail, page))
        self.tail = max(self.tail, page.cursor)
        self.behind = self.tail < page.size and not page.rest
        self.ended, self.rest = page.ended, page.rest
        return page


class PanelLook:
    """Looks at which runs serve, which are being launched, and which servers of others are watched."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._seen: tuple[tuple[str, ...], int] | None = None

    def __call__(self) -> PanelNow | None:
        opened = self._control.open_runs()
        serving = tuple(run for run in opened if run.state is State.SERVING)
        launching = sum(run.state in (State.QUEUED, State.RUNNING) for run in opened)
        watched = self._control.watched()
        now = ((*(run.id for run in serving), *(one.id for one in watched)), launching)
        if now == self._seen:
            return None
        self._seen = now
        return PanelNow(serving, launching, watched)


class Live:
    """The followers of one panel and the streams of its pages. One event loop."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._panel = Followed(lambda: PanelLook(control), PANEL_S)
        self._monitor = Followed(lambda: watch.MonitorLook(control), PANEL_S)
        self._runs: dict[str, Followed[RunNow]] = {}
        self._logs: dict[tuple[str, str, int], tuple[LogLook, Followed[LogPage]]] = {}
        self._samples: dict[tuple[int, Language], bytes] = {}
        self._closing = False
        self._open: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    def close(self) -> None:
        """Ends every stream, so that the panel can stop. From any thread."""
        self._closing = True
        for loop, wake in list(self._open):
            loop.call_soon_threadsafe(wake.set)

    async def stream(self, wanted: Wanted) -> AsyncIterator[bytes]:
        """Server-sent events for one page, until it goes. Raises NotFound where there is no such run."""
        wake = asyncio.Event()
        mine = (asyncio.get_running_loop(), wake)
        self._open.add(mine)
        with contextlib.ExitStack() as stack:
            stack.callback(self._open.discard, mine)
            stack.enter_context(self._panel.watched(wake))
            seen = {"panel": 0, "monitor": -1, "run": 0}
            run = self._run(wanted.run, stack, wake) if wanted.run else None
            reader = await self._reader(wanted, stack, wake) if wanted.run and wanted.step else None
            if wanted.monitor:
                stack.enter_context(self._monitor.watched(wake))
            yield b"retry: 1000\n\n"
            if reader is not None and reader.skipped:
                yield frame("skip", {"bytes": reader.skipped})
            beat = time.monotonic()
            while not self._closing:
                wake.clear()
                if self._panel.value is not None and self._panel.version != seen["panel"]:
                    seen["panel"] = self._panel.version
                    yield frame("panel", panel_message(self._panel.value, wanted.language))
                if wanted.monitor and self._monitor.value is not None and self._monitor.version != seen["monitor"]:
                    whole = self._monitor.version != seen["monitor"] + 1
                    seen["monitor"] = self._monitor.version
                    yield self._sample(self._monitor.value, wanted.language, whole)
                if run is not None and run.value is not None and run.version != seen["run"]:
                    seen["run"] = run.version
                    yield frame("run", run_message(run.value, wanted.step, wanted.language))
                more = False
                if reader is not None:
                    for _ in range(PAGES_AT_ONCE):
                        told = await reader.next()
                        if told is None:
                            break
                        yield frame("log", told, str(reader.cursor))
                    else:
                        more = True
                if more or self._closing:
                    continue
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), BEAT_S)
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    yield frame("here", {})

    def _sample(self, watched: watch.Watched, language: Language, whole: bool) -> bytes:
        """The Monitor's message, made once for all pages that are up to date."""
        if whole:
            return frame("monitor", watch.message(watched, language, True))
        key = (watched.monitor.seq, language)
        if key not in self._samples:
            self._samples = {old: made for old, made in self._samples.items() if old[0] == key[0]}
            self._samples[key] = frame("monitor", watch.message(watched, language, False))
        return self._samples[key]

    def _run(self, run_id: str, stack: contextlib.ExitStack, wake: asyncio.Event) -> Followed[RunNow]:
        followed = self._runs.setdefault(run_id, Followed(lambda: RunLook(self._control, run_id), RUN_S))
        stack.callback(_forget, self._runs, run_id, followed)
        stack.enter_context(followed.watched(wake))
        return followed

    async def _reader(self, wanted: Wanted, stack: contextlib.ExitStack, wake: asyncio.Event) -> Reader:
        run, step, start = key = (wanted.run or "", wanted.step or "", wanted.start)
        cursor, skipped = wanted.cursor, 0
        if cursor is None:
            begin, _ = await asyncio.to_thread(self._control.log_span, *key)
            size = (await asyncio.to_thread(self._control.log, run, step, 0, 1, start)).size
            cursor = max(begin, size - TAIL_BYTES)
            skipped = cursor - begin
        if key not in self._logs:
            look = LogLook(self._control, *key, cursor)
            self._logs[key] = (look, Followed(lambda: look, LOG_S, lambda: look.behind))
        look, followed = self._logs[key]
        stack.callback(_forget, self._logs, key, self._logs[key])
        stack.enter_context(followed.watched(wake))
        return Reader(look, cursor, skipped, step)


class Reader:
    """One page's place in a log."""

    def __init__(self, look: LogLook, cursor: int, skipped: int, step: str) -> None:
        self._look = look
        self._step = step
        self._told_end = False
        self._told_rest = ""
        self.cursor = cursor
        self.skipped = skipped

    async def next(self) -> dict[str, Any] | None:
        """The lines behind the cursor and the line that has no end yet, or None where there is nothing new."""
        look = self._look
        page = next((page for start, page in look.recent if start == self.cursor), None)
        if page is None:
            news = (look.ended and not self._told_end) or look.rest != self._told_rest
            if self.cursor >= look.tail and not news:
                return None
            page = await asyncio.to_thread(look.read, self.cursor)
        start, self.cursor = self.cursor, max(self.cursor, page.cursor)
        if self.cursor == start and (page.ended, page.rest) == (self._told_end, self._told_rest):
            return None
        self._told_end, self._told_rest = page.ended, page.rest
        told = {"step": self._step, "from": start, "to": self.cursor, "lines": page.lines, "ended": page.ended}
        return told | ({"rest": page.rest} if page.rest else {})


def frame(name: str, data: object, cursor: str | None = None) -> bytes:
    """One server-sent event. JSON has no raw line break, so one data line is enough."""
    mark = f"id: {cursor}\n" if cursor is not None else ""
    return f"{mark}event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()


def panel_message(now: PanelNow, language: Language) -> dict[str, Any]:
    """The header's status and the servers that can be talked to; a page of another version loads itself again."""
    return {
        "version": version(),
        "slots": watch.panel_slots(now.serving, now.launching, now.watched, language),
        "serving": [*(run.id for run in now.serving), *(one.id for one in now.watched)],
    }


def run_message(now: RunNow, step: str | None, language: Language) -> dict[str, Any]:
    """The Launch stage of a run."""
    best = launch.shown_step(now.run.plan, now.steps)
    return {
        "run": now.run.id,
        "name": now.run.name,
        "state": now.run.state.value,
        "open": now.run.state.is_open(),
        "best": best,
        "starts": {name: count for name, count in now.starts.items() if count > 1},
        "titles": {view.id: view.title.of(language) for view in now.steps},
        "slots": launch.slots(now.run, now.steps, step or best, language),
    }


def _forget(kept: dict[Any, Any], key: Any, value: Any) -> None:
    """Lets go of a follower that nobody watches any more."""
    followed = value[1] if isinstance(value, tuple) else value
    if kept.get(key) is value and not followed._wakes:
        del kept[key]
