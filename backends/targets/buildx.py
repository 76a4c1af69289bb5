"""Image builds by `docker buildx`: BuildKit's own steps and log, read from `--progress=rawjson`.

BuildKit ends a build with the client that asked for it, so the client does not depend on the worker: it lives in a
session of its own and writes into a file of the run. A new worker goes on with both where the old one was killed.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil

from backends.errors import StepFailed
from backends.events import Event, Kind
from backends.steps import BuildImage
from backends.targets import processes, waiting
from backends.targets.base import Work, child_environment
from backends.targets.engine import said
from backends.text import Text, same

SAY_S = 0.5  # how often progress is told
INTERRUPT_S = 5.0  # how long an interrupted build may take to tidy up
_LONGEST = 8 * 2**20  # characters of one message; what is longer is no message
_STAGE = re.compile(r"\[(?:(\S+) +)?(\d+)/(\d+)\]")  # of a vertex's name: "[3/7] RUN …", "[build 3/7] RUN …"
_EXIT = re.compile(r"exit code: (\d+)")
_ERROR = "ERROR: "  # how buildx itself begins to tell why it failed
_ASKED = ("docker", "buildx", "build")
_FOUND = Text(en="Found the running build.", zh="找到了正在进行的构建。")


def there(environ: Mapping[str, str]) -> bool:
    """Whether `docker buildx` works here."""
    program = shutil.which("docker", path=environ.get("PATH"))
    if program is None:
        return False
    asked = subprocess.run(
        (program, "buildx", "version"), env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return asked.returncode == 0


def command(step: BuildImage, dockerfile: Path, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The buildx command of a build: by the engine's own builder, which sees the images that the engine has."""
    options = [f"--build-arg={name}={value}" for name, value in (step.sources | step.args).items()]
    options += [f"--label={name}={value}" for name, value in labels.items()]
    return (
        *_ASKED, "--builder=default", "--progress=rawjson", "--load",
        f"--tag={step.tag}", f"--file={dockerfile}", *options, step.folder,
    )  # fmt: skip


class Progress:
    """Vertices of one build. Pure: fed with lines of buildx.

    Each message is a BuildKit SolveStatus: {"vertexes": [{digest, name, started, completed, cached, error}], "logs":
    [{vertex, stream, data (base64), timestamp}]}. buildx 0.13 spreads a message over many indented lines, later ones
    write it as one; what stands between messages is buildx itself speaking. Source: github.com/moby/buildkit,
    client/graph.go, and buildx 0.13.1 run here.
    """

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._stages: dict[str, int] = {}  # of the Dockerfile: the number of its instructions
        self._carried_out: set[tuple[str, int]] = set()
        self._current = ""
        self._begun: list[str] = []  # lines of a message that is not whole yet
        self._length = 0

    def feed(self, line: str) -> list[str]:
        """One line of buildx; returns the log text that it completes, as pieces."""
        if not self._begun and not line.startswith("{"):
            return [f"{line}\n"]
        self._begun.append(line)
        self._length += len(line)
        if len(self._begun) > 1 and line != "}" and self._length < _LONGEST:
            return []
        try:
            status = json.loads("\n".join(self._begun))
        except ValueError:
            if line == "{":
                return []
            status = None
        lines, self._begun, self._length = self._begun, [], 0
        return self._pieces(status) if isinstance(status, dict) else [f"{one}\n" for one in lines]

    def _pieces(self, status: Mapping[str, list[Mapping[str, object]] | None]) -> list[str]:
        pieces: list[str] = []
        for vertex in status.get("vertexes") or ():
            digest, name = str(vertex.get("digest")), str(vertex.get("name") or "")
            self._count(name, bool(vertex.get("completed")))
            if vertex.get("started") and not vertex.get("completed") and name != self._current:
                self._current = name
                pieces.append(f"{name}\n")
            if vertex.get("completed") and digest not in self._done:
                self._done.add(digest)
                if vertex.get("cached"):
                    pieces.append(f"{name} (kept from before)\n")
            if vertex.get("error"):
                pieces.append(f"{vertex['error']}\n")
        for log in status.get("logs") or ():
            with contextlib.suppress(ValueError):
                pieces.append(base64.b64decode(str(log.get("data") or "")).decode("utf-8", "replace"))
        return pieces

    def _count(self, name: str, completed: bool) -> None:
        found = _STAGE.match(name)
        if found:
            stage = found[1] or ""
            self._stages[stage] = int(found[3])
            if completed:
                self._carried_out.add((stage, int(found[2])))

    def event(self, step_id: str) -> Event:
        """How far the build is: instructions of the Dockerfile, all of which BuildKit names before it begins."""
        done, known = len(self._carried_out), max(1, sum(self._stages.values()))
        return Event(
            step=step_id,
            kind=Kind.PROGRESS,
            fraction=min(1.0, done / known),
            text=same(self._current[:160] or "buildx"),
            data={"stage": done, "stages": known},
        )


class _Client:
    """The buildx of one build, begun here or by a worker that was killed, and what it puts out.

    The file's name tells how long the step's log was when the build began, so a new worker reads all of it again and
    writes on where the log ends.
    """

    def __init__(self, process: psutil.Process, out: Path, child: subprocess.Popen[bytes] | None = None) -> None:
        self.process, self.out, self._child = process, out, child
        self._born = processes.born(process.pid)
        self._read = 0
        self._rest = b""

    @property
    def begun(self) -> int:
        """Bytes that the step's log had before the build."""
        return int(self.out.suffix.removeprefix("."))

    def lives(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return processes.alive(self.process.pid, self._born) is not None

    @property
    def status(self) -> int | None:
        """How it ended; None where only the one who began it would know."""
        return None if self._child is None else self._child.returncode

    def lines(self, last: bool) -> list[str]:
        """The lines that came since the last look; with `last` also one without its end."""
        with self.out.open("rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read += len(new)
        *lines, self._rest = (self._rest + new).split(b"\n")
        if last and self._rest:
            lines.append(self._rest)
        return [line.decode("utf-8", "replace") for line in lines]

    def end(self) -> None:
        """Ends buildx where it still runs, as Ctrl-C would, and with it the build."""
        for number in (signal.SIGINT, signal.SIGKILL):
            until = time.monotonic() + INTERRUPT_S
            if self.lives():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, number)
            while self.lives() and time.monotonic() < until:
                time.sleep(waiting.LOOK_S)
        self.out.unlink(missing_ok=True)


def running(run: str, home: Path) -> list[psutil.Process]:
    """The clients of a run's builds that live."""
    found = []
    for process in processes.of_run(run, str(home)):
        with contextlib.suppress(psutil.Error):
            if tuple(process.cmdline()[: len(_ASKED)]) == _ASKED:
                found.append(process)
    return found


def build(
    host: str,
    step: BuildImage,
    dockerfile: Path,
    work: Work,
    labels: Mapping[str, str],
    watch: Callable[[], None],
    environ: Mapping[str, str],
    home: Path,
) -> Iterator[Event]:
    """Builds at the engine `host`, or goes on with the same build where it runs already.

    `watch` raises OutOfSpace where the engine's disk runs full. Raises StepFailed in BuildKit's words.
    """
    argv = command(step, dockerfile, labels)
    client = _found(argv, step, work, home)
    if client is None:
        client = _begun(argv, host, step, work, environ, home)
    else:
        yield Event(step=step.id, kind=Kind.NOTE, text=_FOUND)
    movement, progress, told = waiting.Movement(step.stall_s), Progress(), 0.0
    log = waiting.Lines(work.log, work.log.stat().st_size - client.begun)
    try:
        over, wrong = False, False
        while not over:
            work.check_stop()
            watch()
            over = not client.lives()
            batch = client.lines(last=over)
            for line in batch:
                wrong = wrong or line.startswith(_ERROR)
                for piece in progress.feed(line):
                    log.feed(piece)
            log.write()
            if batch:
                movement.moved()
            movement.check(work.log)
            if batch and time.monotonic() - told > SAY_S:
                told = time.monotonic()
                yield progress.event(step.id)
            if not (over or batch):
                time.sleep(waiting.LOOK_S)
        if client.status or (client.status is None and wrong):
            raise _failed(client.status or 1, work.log)
    finally:
        client.end()


def forget(folder: Path) -> None:
    """Removes what the builds of a run put out: secrets are taken out of their logs only."""
    for out in folder.glob("*.buildx.*"):
        out.unlink(missing_ok=True)


def _found(argv: tuple[str, ...], step: BuildImage, work: Work, home: Path) -> _Client | None:
    """The client of this very build that an earlier worker left; any other of the run is ended."""
    outs, found = sorted(work.folder.glob(f"{step.id}.buildx.*")), None
    for process in running(work.run, home):
        with contextlib.suppress(psutil.Error):
            if outs and tuple(process.cmdline()) == argv:
                found = _Client(process, outs[-1])
            else:
                processes.end(processes.family(process.pid), INTERRUPT_S)
    for out in outs if found is None else ():
        out.unlink()
    return found


def _begun(
    argv: tuple[str, ...], host: str, step: BuildImage, work: Work, environ: Mapping[str, str], home: Path
) -> _Client:
    """A new client, in a session of its own, with the marks of its run."""
    marks = {processes.MARK: work.run, processes.HOME_MARK: str(home)}
    env, _ = child_environment(environ, {"DOCKER_HOST": host, **marks})
    env.pop("DOCKER_CONTEXT", None)  # the builder "default" is the context of that name, which takes DOCKER_HOST
    work.log.touch()
    out = work.folder / f"{step.id}.buildx.{work.log.stat().st_size}"
    with os.fdopen(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        child = subprocess.Popen(
            argv, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    return _Client(psutil.Process(child.pid), out, child)


def _failed(status: int, path: Path) -> Exception:
    """buildx's last error line in our words; its exit status is that of the command that failed in the build."""
    tail = waiting.tail(path)
    words = next((line for line in reversed(tail) if line.startswith(_ERROR)), None)
    if words is None:
        return waiting.failed("docker buildx", status, path)
    failure = said(words.removeprefix(_ERROR))
    found = _EXIT.search(words)
    if isinstance(failure, StepFailed):
        failure.exit_status, failure.last_lines = int(found[1]) if found else status, tail
    return failure
