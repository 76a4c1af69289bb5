"""What every target does while a step runs: sees movement or a stall, a server becoming ready, how it ended."""

from __future__ import annotations

import queue
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from backends import doctor
from backends.errors import OutOfSpace, SlipwayError, Stalled, StepFailed, Unreachable
from backends.events import Event, Kind
from backends.logs import last_lines
from backends.progress import Watch
from backends.steps import Ask, Service, Step
from backends.targets.base import Work, redact, there
from backends.text import Text, same

T = TypeVar("T")
LOOK_S = 0.1  # how often a waiting step looks whether something happened
KNOCK_S = 0.05  # how often a starting server is asked whether it is ready
STILL_S = 5.0
ENDING_S = 5.0  # how long a server that no longer answers may take to be gone: its memory is given back first
LAST_LINES = 30
FREE_HOME = Text(
    en="Free some space there, or set SLIPWAY_HOME to a larger disk, then retry. What was done is kept.",
    zh="请在该处腾出空间，或把 SLIPWAY_HOME 设到更大的磁盘后重试。已完成的部分会保留。",
)
_NO_WORK = Text(en="no line, no work", zh="没有任何输出或进展")
_NO_ANSWER = Text(en="no part of an answer came", zh="没有收到回答的任何部分")
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy does not know our loopback


class Movement:
    """Whether something still moves: what is looked at (a log's size, CPU seconds) grows, or something came."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._moved = self._looked = time.monotonic()
        self._seen: dict[str, float] = {}

    def saw(self, **amounts: float) -> None:
        """Notes amounts by name; the growth of any of them is movement."""
        if any(now > self._seen.get(name, -1.0) for name, now in amounts.items()):
            self.moved()
        self._seen |= amounts

    def moved(self) -> None:
        """Something came."""
        self._moved = time.monotonic()

    def is_due(self) -> bool:
        """Whether it is time for a look that costs something: for a while nothing has moved, and nobody looked so."""
        if time.monotonic() - max(self._moved, self._looked) < min(STILL_S, self._stall_s / 4):
            return False
        self._looked = time.monotonic()
        return True

    def check(self, log: Path) -> None:
        """Raises Stalled where nothing has moved for too long."""
        if time.monotonic() - self._moved > self._stall_s:
            raise stalled(self._stall_s, log)


class Lines:
    """Text of a builder or a puller into the step's log: whole lines, without secrets, a batch at a time.

    `written` are bytes at the text's beginning that the log holds already.
    """

    def __init__(self, path: Path, written: int = 0) -> None:
        self.path = path
        self._written = written
        self._rest = ""
        self._lines: list[str] = []

    def feed(self, text: str) -> list[str]:
        """Takes text as it comes and returns the lines that are whole now."""
        *lines, self._rest = (self._rest + text).split("\n")
        self._lines += lines
        return lines

    def line(self, line: str) -> None:
        """Takes a whole line."""
        self.feed("\n" if self._rest else "")
        self._lines.append(line)

    def write(self) -> None:
        """Puts what was taken at the end of the log."""
        if self._lines:
            new = redact("\n".join(self._lines) + "\n").encode("utf-8", "surrogateescape")
            with self.path.open("ab") as file:
                file.write(new[self._written :])
            self._written = max(0, self._written - len(new))
            self._lines = []


def progress(step: Step, work: Work) -> Watch:
    """What will read the step's log for stages, if the step names who can."""
    return Watch(getattr(step, "progress", None), work.log, time.monotonic)


def news(step: Step, watch: Watch) -> Iterator[Event]:
    """What the log told since the last look, as events."""
    for told in watch.news():
        yield Event(step=step.id, kind=Kind.PROGRESS, text=told.text, fraction=told.fraction)


def await_health(
    step: Service,
    work: Work,
    status: Callable[[], int | None],
    effort: Callable[[], float],
    fail: Callable[[int], StepFailed],
) -> Iterator[Event]:
    """Waits until the server is ready, as long as something moves: the log grows or the processes work (CPU seconds).

    `status` is None while the server lives. A word in the log that the step forbids is a failure, however ready the
    server says it is. Raises StepFailed, Stalled, Stopped.
    """
    url = f"{work.endpoint.http}{step.health}"
    movement, watched = Movement(step.stall_s), Forbidden(step.forbidden, work.log)
    last_look = 0.0
    while not healthy(url):
        work.check_stop()
        ended = status()
        if ended is not None:
            raise fail(ended)
        if time.monotonic() - last_look > 1.0:
            movement.saw(log=work.log.stat().st_size)
            if movement.is_due():
                movement.saw(effort=round(effort(), 1))
            watched.check()
            last_look = time.monotonic()
        movement.check(work.log)
        time.sleep(KNOCK_S)
    status()  # whatever brings the log up to date has done so before it is read
    watched.check()
    yield Event(step=step.id, kind=Kind.PROGRESS, fraction=1.0)


def in_time(items: Iterable[T], work: Work, stall_s: float, look: Callable[[], object]) -> Iterator[T]:
    """The items of a source that may block, as they come; calls `look` meanwhile. Raises Stopped soon after being
    asked, Stalled where none has come for `stall_s`, and what the source raises.

    The source runs in a thread of its own: a server that took a request and never answers cannot be interrupted.
    """
    came: queue.Queue[tuple[T | None, BaseException | None, bool]] = queue.Queue()

    def take() -> None:
        try:
            for item in items:
                came.put((item, None, False))
            came.put((None, None, True))
        except BaseException as error:
            came.put((None, error, True))

    threading.Thread(target=take, daemon=True, name="in-time").start()
    moved = time.monotonic()
    while True:
        work.check_stop()
        look()
        try:
            item, error, over = came.get(timeout=LOOK_S)
        except queue.Empty:
            if time.monotonic() - moved > stall_s:
                raise stalled(stall_s, work.log, _NO_ANSWER) from None
            continue
        if error is not None:
            raise error
        if over:
            return
        moved = time.monotonic()
        yield item  # type: ignore[misc]  # an item, since it is neither an error nor the end


class Forbidden:
    """Reads a growing log once and looks for words that mean failure."""

    def __init__(self, words: tuple[str, ...], log: Path) -> None:
        self._words = tuple(word.encode() for word in words)
        self._log = log
        self._at = log.stat().st_size if log.exists() else 0  # an earlier attempt's words are not this one's

    def check(self) -> None:
        """Raises StepFailed where a forbidden word has come."""
        if not self._words:
            return
        with self._log.open("rb") as file:
            file.seek(self._at)
            new = file.read()
        for line in new.split(b"\n"):
            if any(word in line for word in self._words):
                shown = line.decode("utf-8", "replace").strip()
                raise StepFailed(
                    Text(
                        en=f"The server says that it is ready, but its log says: {shown}",
                        zh=f"服务报告已就绪，但日志中有：{shown}",
                    ),
                    last_lines=tail(self._log),
                )
        self._at += new.rfind(b"\n") + 1


def healthy(url: str) -> bool:
    """Whether the address answers 200."""
    try:
        with _DIRECT.open(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def tail(log: Path) -> tuple[str, ...]:
    """The last lines that say something, led by the first error if that lies further back."""
    lines = doctor.telling(last_lines(log, 10 * LAST_LINES))
    first = doctor.first_error(lines)
    last = lines[-LAST_LINES:]
    return last if first is None or first in last else (first, *last[1:])


def failed(program: str, status: int, log: Path) -> StepFailed:
    """A command or server that ended with `status` (negative: the signal that ended it, -1: nobody knows)."""
    lines = tail(log)
    found = doctor.diagnose(lines)
    if found is None and status in (-9, 137):  # nothing is printed by what the kernel ends
        found = doctor.diagnose(("slipway: exit status 137",))
    if status == -1:
        how = Text(en="its exit code is not known", zh="退出码未知")
    elif status < 0:
        name = signal.Signals(-status).name
        how = Text(en=f"ended by signal {name}", zh=f"被信号 {name} 终止")
    else:
        how = Text(en=f"exit code {status}", zh=f"退出码 {status}")
    message = Text(en=f"{Path(program).name} ended: {how.en}.", zh=f"{Path(program).name} 已结束：{how.zh}。")
    if found is not None:
        message = found.cause + message
    return StepFailed(message, found.hint if found else None, exit_status=status, last_lines=lines)


def server_log(step: Ask, work: Work) -> Path:
    """The log of the server that a question goes to."""
    return work.log.with_name(f"{step.needs[0]}.log") if step.needs else work.log


def unanswered(error: SlipwayError, watch: Callable[[], int | None], log: Path) -> StepFailed:
    """A server that broke its first answer off, with its own last words; and how it ended, where it did.

    `watch` is None while it lives; `log` is the server's.
    """
    deadline = time.monotonic() + ENDING_S
    while (status := watch()) is None and isinstance(error, Unreachable) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    if status is not None:
        return failed("tritonserver", status, log)
    lines = tail(log)
    found = doctor.diagnose(lines)
    message = error.message if found is None else found.cause + error.message
    return StepFailed(message, found.hint if found else error.hint, last_lines=lines)


def stalled(seconds: float, log: Path, what: Text = _NO_WORK) -> Stalled:
    """Nothing moved for `seconds`; `what` was waited for in vain."""
    return Stalled(
        Text(
            en=f"Nothing moved for {seconds:.0f} s: {what.en}. It was ended.",
            zh=f"{seconds:.0f} 秒内{what.zh}，已终止。",
        ),
        Text(en="Look at the last lines, then retry.", zh="查看最后几行后重试。"),
        last_lines=tail(log),
    )


def missing_output(step: Step, log: Path) -> StepFailed | None:
    """The failure of a command that ended well but left an output out; None where all are there."""
    missing = [path for path in step.outputs if not there(path)]
    if not missing:
        return None
    return StepFailed(
        Text(
            en=f"The command ended well, but {missing[0]} is not there.",
            zh=f"命令正常结束，但 {missing[0]} 不存在。",
        ),
        exit_status=0,
        last_lines=tail(log),
    )


def no_space(step: Step, folder: str, hint: Text) -> OutOfSpace:
    """The disk that holds `folder` is too full for the step. `hint` says what to free."""
    free_mib = shutil.disk_usage(folder).free // 2**20
    need = step.forecast.disk_mib
    needs = Text(en=f" The step needs about {need:,} MiB.", zh=f"此步骤约需 {need:,} MiB。") if need else same(" ")
    return OutOfSpace(
        Text(
            en=f"{folder} has {free_mib:,} MiB left.{needs.en}".strip(),
            zh=f"{folder} 剩余 {free_mib:,} MiB。{needs.zh}".strip(),
        ),
        hint,
    )
