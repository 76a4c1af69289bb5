"""The local target: steps as processes of this machine, servers on loopback.

A server writes straight into its log file and lives in a session of its own, so it outlives its worker and can be
adopted by the next; a task is read through a pipe, so that secrets are taken out before its lines reach the disk.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO

import psutil

from backends.errors import BadInput, OutOfSpace, Refused, StepFailed, Unreachable
from backends.events import Event, Kind
from backends.spec import Endpoint
from backends.steps import Ask as AskStep
from backends.steps import FetchSource, Service, Step, Task, WriteFiles
from backends.targets import processes, waiting
from backends.targets.base import Ask, Found, Leftover, Work, child_environment, redact, there
from backends.targets.waiting import LOOK_S
from backends.text import Text

SERVER_PATIENCE_S = 8.0  # tritonserver is told to end within 5
TASK_PATIENCE_S = 3.0


class LocalTarget:
    """Runs steps under `home`. `asset_root` holds the files that come with Slipway; `python` is the panel's own."""

    def __init__(self, home: Path, asset_root: Path, python: str, environ: Mapping[str, str], ask: Ask) -> None:
        self._home = home
        self._assets = asset_root
        self._python = python
        self._environ = dict(environ)
        self._ask = ask
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def can(self, step: Step) -> Text | None:
        in_container = getattr(step, "container", None) is not None
        if isinstance(step, WriteFiles | Task | FetchSource | Service | AskStep) and not in_container:
            return None
        return Text(
            en="This step needs Docker. Choose the Docker target.", zh="此步骤需要 Docker，请选择 Docker 目标。"
        )

    def places(self, run: str, endpoint: Endpoint, bind: str) -> dict[str, str]:
        return {
            "home": str(self._home),
            "runtime": str(self._home / "runtime"),
            "models": str(self._home / "models"),
            "run": str(self._home / "runs" / run),
            "assets": str(self._assets),
            "python": self._python,
            "bind": bind,
            "port.http": str(endpoint.http_port),
            "port.grpc": str(endpoint.grpc_port),
            "port.metrics": str(endpoint.metrics_port),
        }

    def carry_out(self, step: Step, work: Work) -> Iterator[Event]:
        work.check_stop()
        reason = self.can(step)
        if reason is not None:
            raise StepFailed(reason)
        try:
            self._check_space(step)
            if isinstance(step, WriteFiles):
                yield from self._write(step, work)
            elif isinstance(step, Task | FetchSource):
                yield from self._run(step, work)
            elif isinstance(step, Service):
                yield from self._serve(step, work)
            elif isinstance(step, AskStep):
                yield from self.first_answer(step, work, self.watch)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._no_space(step) from error
            what = f"{error.strerror or error} ({error.filename or step.id})"
            raise StepFailed(Text(en=f"The system refused: {what}.", zh=f"系统拒绝：{what}。")) from error

    def watch(self, run: str) -> int | None:
        child = self._children.get(run)
        if child is not None:
            return child.poll()
        return None if self._service(run) is not None else -1

    def stop(self, run: str) -> None:
        service = self._service(run)
        if service is not None:
            processes.end(processes.family(service.pid), SERVER_PATIENCE_S)
        processes.end(self._of_run(run), TASK_PATIENCE_S)
        child = self._children.pop(run, None)
        if child is not None:
            child.wait()
        (self._home / "runs" / run / "service.json").unlink(missing_ok=True)

    def find(self, run: str) -> Found:
        there = self._of_run(run)
        service = self._service(run)
        return Found(
            service=service is not None,
            processes=len(there),
            memory_mib=processes.memory_mib(there),
            endpoint=self._endpoint(run) if service else None,
        )

    def has(self, step: Step) -> bool:
        return all(there(output) for output in step.outputs)

    def reclaimable(self) -> tuple[Leftover, ...]:
        return ()

    def reclaim(self, chosen: tuple[Leftover, ...]) -> int:  # noqa: ARG002  nothing of it is here
        return 0

    # --- files ----------------------------------------------------------------------------------------------------

    def _write(self, step: WriteFiles, work: Work) -> Iterator[Event]:
        folder = self._inside(Path(step.folder))
        new = folder.with_name(f".{folder.name}.{os.getpid()}.new")
        shutil.rmtree(new, ignore_errors=True)
        try:
            for file in step.files:
                path = (new / file.path).resolve()
                if not path.is_relative_to(new.resolve()):
                    raise BadInput("plan", Text(en=f"“{file.path}” leaves its folder.", zh=f"“{file.path}”越出目录。"))
                path.parent.mkdir(parents=True, exist_ok=True)
                if file.asset is not None:
                    shutil.copyfile(self.asset(file.asset), path)
                else:
                    path.write_text(file.text or "", encoding="utf-8")
                path.chmod(0o755 if file.executable else 0o644)
                with work.log.open("a", encoding="utf-8") as log:
                    log.write(f"{folder / file.path} ({path.stat().st_size} bytes)\n")
            old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
            if folder.exists():
                folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        yield Event(
            step=step.id,
            kind=Kind.PROGRESS,
            text=Text(en=f"{len(step.files)} files written.", zh=f"已写入 {len(step.files)} 个文件。"),
            fraction=1.0,
        )

    def asset(self, name: str) -> Path:
        """The path of a file that comes with Slipway. Raises BadInput where the name leaves the asset folder."""
        path = (self._assets / name).resolve()
        if not path.is_relative_to(self._assets.resolve()) or not path.is_file():
            raise BadInput("plan", Text(en=f"There is no asset “{name}”.", zh=f"没有资源文件“{name}”。"))
        return path

    def _inside(self, folder: Path) -> Path:
        path = folder.parent.resolve() / folder.name
        if not path.is_relative_to(self._home.resolve()) or path == self._home.resolve():
            raise BadInput(
                "plan",
                Text(en=f"{folder} lies outside the data folder.", zh=f"{folder} 不在数据目录内。"),
                Text(en=f"Files are only written below {self._home}.", zh=f"只会在 {self._home} 之下写文件。"),
            )
        return path

    # --- space ----------------------------------------------------------------------------------------------------

    def _check_space(self, step: Step) -> None:
        need = step.forecast.disk_mib
        if need and shutil.disk_usage(self._home).free // 2**20 < need:
            raise self._no_space(step)

    def _no_space(self, step: Step) -> OutOfSpace:
        return waiting.no_space(step, str(self._home), waiting.FREE_HOME)

    # --- commands -------------------------------------------------------------------------------------------------

    def _run(self, step: Task | FetchSource, work: Work) -> Iterator[Event]:
        env, secrets = child_environment(self._environ, step.sources | getattr(step, "env", {}), step.pass_env)
        child = self._start(step.argv, getattr(step, "cwd", None), env, work, subprocess.PIPE)
        lines: queue.Queue[None] = queue.Queue()
        pump = threading.Thread(target=_pump, args=(child, work.log, secrets, lines), daemon=True)
        pump.start()
        moved, effort = time.monotonic(), 0.0
        watch = waiting.progress(step, work)
        try:
            while child.poll() is None:
                work.check_stop()
                try:
                    lines.get(timeout=LOOK_S)
                    moved = time.monotonic()
                    while not lines.empty():
                        lines.get_nowait()
                except queue.Empty:
                    spent = processes.effort(processes.family(child.pid))
                    if spent > effort:
                        moved, effort = time.monotonic(), spent
                if time.monotonic() - moved > step.stall_s:
                    raise waiting.stalled(step.stall_s, work.log)
                yield from waiting.news(step, watch)
        finally:
            if child.poll() is None:
                processes.end(processes.family(child.pid), TASK_PATIENCE_S)
            child.wait()
            pump.join(timeout=5)
        yield from waiting.news(step, watch)  # what its last lines told
        if child.returncode != 0:
            raise waiting.failed(step.argv[0], child.returncode, work.log)
        missing = waiting.missing_output(step, work.log)
        if missing is not None:
            raise missing
        yield Event(step=step.id, kind=Kind.PROGRESS, fraction=1.0)

    def _start(
        self, argv: tuple[str, ...], cwd: str | None, env: dict[str, str], work: Work, out: int | IO[bytes]
    ) -> subprocess.Popen[bytes]:
        marks = {processes.MARK: work.run, processes.HOME_MARK: str(self._home)}
        try:
            return subprocess.Popen(
                argv,
                cwd=cwd or work.folder,
                env=env | marks,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise StepFailed(
                Text(en=f"There is no program {argv[0]}.", zh=f"找不到程序 {argv[0]}。"),
                Text(
                    en="Install it, or run the deployment again so that the steps before are repeated.",
                    zh="请安装它，或重新部署以重做前面的步骤。",
                ),
            ) from error

    # --- servers --------------------------------------------------------------------------------------------------

    def _serve(self, step: Service, work: Work) -> Iterator[Event]:
        running = self._service(work.run)
        if running is None:
            env, _ = child_environment(self._environ, step.sources | step.env)
            with work.log.open("ab") as log:
                child = self._start(step.argv, step.cwd, env, work, log)
            self._children[work.run] = child
            running = psutil.Process(child.pid)
            told = {
                "pid": child.pid,
                "born": processes.born(child.pid),
                "endpoint": work.endpoint.model_dump(),
            }
            _write_whole(work.folder / "service.json", json.dumps(told))
        else:
            yield Event(
                step=step.id,
                kind=Kind.NOTE,
                text=Text(en="Found the running server.", zh="找到了正在运行的服务。"),
            )
        yield from waiting.await_health(
            step,
            work,
            status=lambda: self.watch(work.run),
            effort=lambda: self._effort(work.run),
            fail=lambda status: waiting.failed(step.argv[0], status, work.log),
        )
        memory = processes.memory_mib(processes.family(running.pid))
        yield Event(step=step.id, kind=Kind.READY, data={"memory_mib": memory, "pid": running.pid})

    def first_answer(self, step: AskStep, work: Work, watch: Callable[[str], int | None]) -> Iterator[Event]:
        """A real request and a real streamed answer, or the server is not ready.

        `watch` looks after the server meanwhile: None while it lives, else its exit status.
        """
        look = partial(watch, work.run)
        try:
            yield from self._answer(step, work, look)
        except (Refused, Unreachable) as error:
            raise waiting.unanswered(error, look, waiting.server_log(step, work)) from error

    def _answer(self, step: AskStep, work: Work, look: Callable[[], object]) -> Iterator[Event]:
        started = time.monotonic()
        first: float | None = None
        text, tokens = "", 0
        pieces = self._ask(step.engine, work.endpoint, step.chat, step.talk)
        server_log = waiting.server_log(step, work)
        for piece in waiting.in_time(pieces, replace(work, log=server_log), step.stall_s, look):
            if first is None and piece.text:
                first = time.monotonic() - started
            text += piece.text
            tokens = piece.completion_tokens or tokens
        if first is None or not text.strip():
            raise StepFailed(
                Text(en="The server took the request but answered nothing.", zh="服务接受了请求，但没有任何回答。"),
                Text(
                    en="Look at the server's log. The model folder may lack its tokenizer or hold other weights.",
                    zh="请查看服务日志，模型目录可能缺少分词器或权重不符。",
                ),
                last_lines=waiting.tail(server_log),
            )
        with work.log.open("a", encoding="utf-8") as log:
            log.write(f"{text}\n")
        data = {"answer": text, "first_token_s": first, "seconds": time.monotonic() - started, "tokens": tokens}
        yield Event(step=step.id, kind=Kind.PROGRESS, fraction=1.0, data=data)

    # --- asking ---------------------------------------------------------------------------------------------------

    def _service(self, run: str) -> psutil.Process | None:
        try:
            told = json.loads((self._home / "runs" / run / "service.json").read_text(encoding="utf-8"))
            if "born" in told:
                return processes.alive(int(told["pid"]), str(told["born"]))
            # Written by a version that knew a server by the wall clock, which may have been set since.
            return processes.alive_of_run(int(told["pid"]), run, str(self._home))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _endpoint(self, run: str) -> Endpoint | None:
        try:
            told = json.loads((self._home / "runs" / run / "service.json").read_text(encoding="utf-8"))
            return Endpoint.model_validate(told.get("endpoint"))
        except (OSError, ValueError):
            return None

    def _effort(self, run: str) -> float:
        """CPU seconds that the run's server has spent."""
        service = self._service(run)
        return processes.effort(processes.family(service.pid)) if service else 0.0

    def _of_run(self, run: str) -> list[psutil.Process]:
        return processes.of_run(run, str(self._home))


def _pump(child: subprocess.Popen[bytes], log: Path, secrets: tuple[str, ...], lines: queue.Queue[None]) -> None:
    """Copies a command's output to its log as it comes, whole lines at a time, without secrets, and tells of its end.

    A piece longer than 1 MiB without a line end is written as it is, so memory stays bounded.
    """
    out, rest = child.stdout, b""
    if out is None:
        raise RuntimeError("a task is always read through a pipe")
    with log.open("ab", buffering=0) as file:
        while chunk := out.read1(65_536):  # type: ignore[attr-defined]
            rest += chunk
            cut = max(rest.rfind(b"\n"), rest.rfind(b"\r")) + 1
            if not cut and len(rest) > 2**20:
                cut = len(rest)
            if cut:
                file.write(
                    redact(rest[:cut].decode("utf-8", "surrogateescape"), secrets).encode(errors="surrogateescape")
                )
                rest = rest[cut:]
            lines.put(None)
        if rest:
            file.write(redact(rest.decode("utf-8", "surrogateescape"), secrets).encode(errors="surrogateescape"))
    child.wait()
    lines.put(None)


def _write_whole(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
