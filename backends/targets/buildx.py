"""Image builds by `docker buildx`: BuildKit's own steps and log, read from `--progress=rawjson`."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from backends.errors import StepFailed
from backends.events import Event, Kind
from backends.steps import BuildImage
from backends.targets import waiting
from backends.targets.base import Work, child_environment, redact
from backends.targets.engine import said
from backends.text import same

SAY_S = 0.5  # how often progress is told
INTERRUPT_S = 5.0  # how long an interrupted build may take to tidy up
_LONGEST = 8 * 2**20  # characters of one message; what is longer is no message
_STAGE = re.compile(r"\[(?:(\S+) +)?(\d+)/(\d+)\]")  # of a vertex's name: "[3/7] RUN …", "[build 3/7] RUN …"
_EXIT = re.compile(r"exit code: (\d+)")


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
        "docker", "buildx", "build", "--builder=default", "--progress=rawjson", "--load",
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


def build(
    host: str,
    step: BuildImage,
    dockerfile: Path,
    work: Work,
    labels: Mapping[str, str],
    watch: Callable[[], None],
    environ: Mapping[str, str],
) -> Iterator[Event]:
    """Builds at the engine `host`, by a process group of its own: an interrupt ends the build, as Ctrl-C would.

    `watch` raises OutOfSpace where the engine's disk runs full. Raises StepFailed in BuildKit's words.
    """
    env, secrets = child_environment(environ, {"DOCKER_HOST": host})
    env.pop("DOCKER_CONTEXT", None)  # the builder "default" is the context of that name, which takes DOCKER_HOST
    movement, log, progress = waiting.Movement(step.stall_s), waiting.Lines(work.log), Progress()
    child = subprocess.Popen(
        command(step, dockerfile, labels),
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
        errors="replace",
    )
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    reader = threading.Thread(target=_read, args=(child.stdout or (), lines), daemon=True)
    reader.start()
    told = 0.0
    try:
        while reader.is_alive() or not lines.empty():
            work.check_stop()
            watch()
            batch = _batch(lines)
            for line in batch:
                for piece in progress.feed(redact(line, secrets)):
                    log.feed(piece)
            log.write()
            if batch:
                movement.moved()
            movement.check(work.log)
            if batch and time.monotonic() - told > SAY_S:
                told = time.monotonic()
                yield progress.event(step.id)
        if child.wait() != 0:
            raise _failed(child.returncode, work.log)
    finally:
        _end(child)


def _batch(lines: queue.SimpleQueue[str]) -> list[str]:
    """What has come, waiting a moment for it."""
    try:
        batch = [lines.get(timeout=waiting.LOOK_S)]
    except queue.Empty:
        return []
    while not lines.empty():
        batch.append(lines.get_nowait())
    return batch


def _read(out: Iterable[str], lines: queue.SimpleQueue[str]) -> None:
    for line in out:
        lines.put(line.rstrip("\n"))


def _end(child: subprocess.Popen[str]) -> None:
    """Ends buildx where it still runs, and with it the build."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGINT)
    try:
        child.wait(timeout=INTERRUPT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _failed(status: int, path: Path) -> Exception:
    """buildx's last error line in our words; its exit status is that of the command that failed in the build."""
    tail = waiting.tail(path)
    words = next((line for line in reversed(tail) if line.startswith("ERROR: ")), None)
    if words is None:
        return waiting.failed("docker buildx", status, path)
    failure = said(words.removeprefix("ERROR: "))
    found = _EXIT.search(words)
    if isinstance(failure, StepFailed):
        failure.exit_status, failure.last_lines = int(found[1]) if found else status, tail
    return failure
