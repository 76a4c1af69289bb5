"""The Docker target: images pulled and built, steps and servers in containers; what needs none runs as the local target
runs it.

Containers belong to the engine, not to the worker, so they outlive it: a new worker takes a running one over by its
labels, goes on with its log, and takes its exit code even if it ended meanwhile.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from backends import doctor, looked_into
from backends.errors import OutOfSpace, SlipwayError, StepFailed, Stopped, Unreachable
from backends.events import Event, Kind
from backends.spec import Endpoint
from backends.ssh import Tunnel
from backends.steps import Ask, BuildImage, Forecast, PullImage, Service, Step, Task, digest
from backends.targets import buildx, containers, images, looking, reclaim, waiting
from backends.targets.base import SECRET_NAME, Found, Leftover, Work
from backends.targets.container_logs import Follower
from backends.targets.containers import Owner, Person, State
from backends.targets.engine import Engine
from backends.targets.local import SERVER_PATIENCE_S, TASK_PATIENCE_S, LocalTarget
from backends.targets.space import LOW_MIB, Space
from backends.text import Text, same

AWAY_S = 60.0  # how long the engine may be away (a restart, an upgrade) before a waiting step gives up
_ENDED_BY_SIGNAL = (137, 143)  # 128 + SIGKILL, 128 + SIGTERM
_GOING_S = 2.0  # how long an engine that stops takes from ending its containers to its own end


class DockerTarget:
    """Runs steps in containers of the engine that `environ` names, everything else through `local`.

    `roots` are the folders that a container may be shown. `person` owns what containers make (default: who runs this).
    """

    def __init__(
        self,
        home: Path,
        roots: tuple[Path, ...],
        environ: Mapping[str, str],
        local: LocalTarget,
        person: Person | None = None,
        low_mib: int = LOW_MIB,
    ) -> None:
        self._home = home
        self._environ = dict(environ)
        self._local = local
        self._owner = Owner(home, (home, *roots), person or Person(os.getuid(), os.getgid()))
        self.engine = Engine(environ)
        self._space = Space(self.engine, home, low_mib)
        self._followers: dict[str, Follower] = {}
        self._services: dict[str, str] = {}  # run -> container, so that watching need not search
        self._following = threading.Lock()
        self._away_since: dict[str, float] = {}
        self._tunnels: dict[str, Tunnel] = {}

    # --- the protocol ---------------------------------------------------------------------------------------------

    def can(self, step: Step) -> Text | None:
        container = getattr(step, "container", None)
        if container is None:
            return None if isinstance(step, PullImage | BuildImage) else self._local.can(step)
        if isinstance(step, Service) and container.network == "none":
            return Text(en="A server without a network cannot be reached.", zh="没有网络的服务无法访问。")
        return None

    def places(self, run: str, endpoint: Endpoint, bind: str) -> dict[str, str]:
        return self._local.places(run, endpoint, bind)

    def carry_out(self, step: Step, work: Work) -> Iterator[Event]:
        work.check_stop()
        reason = self.can(step)
        if reason is not None:
            raise StepFailed(reason)
        try:
            if isinstance(step, PullImage):
                self._space.check(step)
                same_one = work.refused and self.has(step)  # not one that was put there since
                pull = images.pull_again if same_one else images.pull
                yield from pull(self.engine, step, work, self._space.watch(step))
                yield from looking.look_into(self.engine, step, work, self._home, self._owner.labels(work.run))
            elif isinstance(step, BuildImage):
                self._check_folder(step)
                self._space.check(step)
                labels = self._owner.labels(work.run) | {containers.PRINT: _print(step), containers.SPEC: work.spec}
                watch = self._space.watch(step)
                yield from images.build(self.engine, step, work, labels, watch, self._environ, self._home)
            elif isinstance(step, Task) and step.container is not None:
                self._space.check(step)
                yield from self._run(step, work)
            elif isinstance(step, Service) and step.container is not None:
                self._space.check(step)
                yield from self._serve(step, work)
            elif isinstance(step, Ask):
                yield from self._first_answer(step, work)
            else:
                yield from self._local.carry_out(step, work)
        except OutOfSpace as full:
            if not full.last_lines:  # our own look
                raise
            raise self._space.full(step, told=full) from full
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise self._space.full(step, str(self._home)) from error
            what = f"{error.strerror or error} ({error.filename or step.id})"
            raise StepFailed(Text(en=f"The system refused: {what}.", zh=f"系统拒绝：{what}。")) from error

    def watch(self, run: str) -> int | None:
        """As the protocol says. An engine that is away is waited for; then StepFailed or Unreachable tells why."""
        try:
            state = self._service(run)
        except Unreachable:
            if self._away(run) > AWAY_S:
                raise
            return None
        if state is None:
            gone = self._services.pop(run, None) is not None
            return -1 if gone else self._local.watch(run)
        log = self._log(run, state)
        if state.exit_status is None:
            self._away_since.pop(run, None)
            self._follow(state.id, log).flush()
            listening = containers.endpoint(state)
            if listening is not None:
                self._bring_here(run, listening)
            return None
        with_docker = self._ended_with_docker(run, state)
        self._finish(state.id, log)
        if with_docker:
            raise _docker_ended(state, log)
        return state.exit_status

    def stop(self, run: str) -> None:
        self._local.stop(run)
        buildx.forget(self._home / "runs" / run)
        for container in containers.find(self.engine, self._owner.labels(run)):
            state = containers.look(self.engine, container)
            patience = (
                SERVER_PATIENCE_S if state and state.labels.get(containers.KIND) == "service" else TASK_PATIENCE_S
            )
            containers.halt(self.engine, container, patience)
            with self._following:
                follower = self._followers.pop(container, None)
            if follower is not None:
                follower.finish()
            containers.remove(self.engine, container)
        self._services.pop(run, None)
        tunnel = self._tunnels.pop(run, None)
        if tunnel is not None:
            tunnel.close()

    def find(self, run: str) -> Found:
        local = self._local.find(run)
        states = [self._look(one) for one in containers.find(self.engine, self._owner.labels(run))]
        living = [state for state in states if state is not None and state.exit_status is None]
        service = next((one for one in living if one.labels.get(containers.KIND) == "service"), None)
        # A task that ended while nobody looked has an exit code that a new worker can still take.
        task = any(state is not None and state.labels.get(containers.KIND) == "task" for state in states)
        task = task or bool(buildx.running(run, self._home))
        memory = sum(containers.usage(self.engine, state.id)[1] for state in living)
        return Found(
            service=local.service or service is not None,
            processes=local.processes + len(living),
            memory_mib=(local.memory_mib or 0) + memory,
            task=task,
            endpoint=containers.endpoint(service) if service else local.endpoint,
        )

    def has(self, step: Step) -> bool:
        if isinstance(step, PullImage):
            digest = looking.digest_of(self.engine, step.image)  # pulled by hand since: looked into as well
            return digest is not None and looked_into.known(self._home, digest)
        if isinstance(step, BuildImage):
            return images.there(self.engine, step.tag, {containers.PRINT: _print(step)})
        return self._local.has(step)

    # --- what is left behind --------------------------------------------------------------------------------------

    def reclaimable(self) -> tuple[Leftover, ...]:
        """What only this data folder's Slipway made and nothing uses now, with its bytes."""
        return reclaim.leftovers(self.engine, self._home)

    def reclaim(self, chosen: tuple[Leftover, ...]) -> int:
        """Removes them; returns the bytes that this freed."""
        return reclaim.remove(self.engine, self._home, chosen)

    # --- tasks ----------------------------------------------------------------------------------------------------

    def _run(self, step: Task, work: Work) -> Iterator[Event]:
        passed = {name: value for name in step.pass_env if (value := self._environ.get(name))}
        secrets = tuple(value for name, value in passed.items() if SECRET_NAME.search(name))
        container = yield from self._begin(step, work, passed)
        movement, watch_space = waiting.Movement(step.stall_s), self._space.watch(step)
        watch = waiting.progress(step, work)
        try:
            while True:
                work.check_stop()
                state = self._look_patiently(work.run, container)
                if state is None or state.exit_status is not None:
                    break
                self._follow(container, work.log, secrets).flush()
                watch_space()
                movement.saw(log=work.log.stat().st_size)
                if movement.is_due():
                    # The engine takes up to a second to tell, and its first process does a little even when all wait.
                    movement.saw(effort=round(self._effort(container), 1))
                movement.check(work.log)
                yield from waiting.news(step, watch)
                time.sleep(waiting.LOOK_S)
            with_docker = state is not None and self._ended_with_docker(work.run, state)
            self._finish(container, work.log, secrets)
            yield from waiting.news(step, watch)  # what its last lines told
        finally:
            self._end(container, TASK_PATIENCE_S, work)
        if state is None:
            raise waiting.failed(step.argv[0], -1, work.log)
        if state.exit_status:
            raise _docker_ended(state, work.log) if with_docker else self._failed(step, state, work.log)
        missing = waiting.missing_output(step, work.log)
        if missing is not None:
            raise missing
        yield Event(step=step.id, kind=Kind.PROGRESS, fraction=1.0)

    def _begin(self, step: Task | Service, work: Work, passed: Mapping[str, str]) -> Generator[Event, None, str]:
        """The step's container: the one that an earlier worker left, or a new one. Returns its id."""
        labels = self._owner.labels(work.run) | {containers.STEP: step.id}
        for container in containers.find(self.engine, labels):
            state = containers.look(self.engine, container)
            if state is None:
                continue
            service = isinstance(step, Service)
            same_work = service or state.labels.get(containers.PRINT) == containers.print_of(step)
            if same_work and state.status != "created" and not (service and state.exit_status is not None):
                yield Event(step=step.id, kind=Kind.NOTE, text=_FOUND)
                return container
            containers.remove(self.engine, container)
        container, notes = containers.begin(self.engine, self._owner, step, work, passed)
        for note in notes:
            yield Event(step=step.id, kind=Kind.NOTE, text=note)
        return container

    # --- servers --------------------------------------------------------------------------------------------------

    def _serve(self, step: Service, work: Work) -> Iterator[Event]:
        container = yield from self._begin(step, work, {})
        self._services[work.run] = container
        self._bring_here(work.run, work.endpoint)
        self._follow(container, work.log)
        try:
            yield from waiting.await_health(
                step,
                work,
                status=lambda: self._living(work, container),
                effort=lambda: self._effort(container),
                fail=lambda _: self._failed(step, containers.look(self.engine, container), work.log),
            )
        except (Stopped, StepFailed):
            self._end(container, 0.0, work)  # it has served nobody yet: nothing to finish
            raise
        memory = containers.usage(self.engine, container)[1]
        yield Event(step=step.id, kind=Kind.READY, data={"memory_mib": memory, "container": container[:12]})

    def _first_answer(self, step: Ask, work: Work) -> Iterator[Event]:
        try:
            yield from self._local.first_answer(step, work, self.watch)
        except (Stopped, StepFailed):
            if work.run in self._services:
                self._end(self._services[work.run], 0.0, replace(work, log=waiting.server_log(step, work)))
            raise

    def _bring_here(self, run: str, endpoint: Endpoint) -> None:
        """Where the engine is behind SSH, the server's ports are brought to this machine, for as long as we live."""
        tunnel = self._tunnels.get(run)
        if not self.engine.host.startswith("ssh://") or (tunnel is not None and tunnel.alive):
            return
        with socket.socket() as knock:  # an engine behind SSH on this very machine: the server is here already
            there = knock.connect_ex(("127.0.0.1", endpoint.http_port)) == 0
        if not there:
            ports = (endpoint.http_port, endpoint.grpc_port, endpoint.metrics_port)
            self._tunnels[run] = Tunnel(self.engine.host, [(str(port), str(port)) for port in ports])

    def _living(self, work: Work, container: str) -> int | None:
        """None while the container runs, else its exit status; brings its log up to date."""
        state = self._look_patiently(work.run, container)
        if state is not None and state.exit_status is None:
            self._follow(container, work.log).flush()
            return None
        self._finish(container, work.log)
        return -1 if state is None else state.exit_status

    def _service(self, run: str) -> State | None:
        known = self._services.get(run)
        if known is None:
            labels = self._owner.labels(run) | {containers.KIND: "service"}
            known = next(iter(containers.find(self.engine, labels)), None)
        if known is None:
            return None
        state = containers.look(self.engine, known)
        if state is not None:
            self._services[run] = known
        return state

    # --- looking --------------------------------------------------------------------------------------------------

    def _look(self, container: str) -> State | None:
        return containers.look(self.engine, container)

    def _look_patiently(self, run: str, container: str) -> State | None:
        """How the container stands. An engine that is away is waited for: a running container may be back with it."""
        while True:
            try:
                return containers.look(self.engine, container)
            except Unreachable:
                if self._away(run) > AWAY_S:
                    raise
                time.sleep(waiting.LOOK_S * 5)

    def _ended_with_docker(self, run: str, state: State) -> bool:
        """Whether the engine went away around the container's end: when it stops, it ends its containers before itself.

        An engine that is just going is waited for, so that the container can be removed.
        """
        away = self._away_since.pop(run, None) is not None
        if not away and state.exit_status in _ENDED_BY_SIGNAL and not state.out_of_memory:
            deadline = time.monotonic() + _GOING_S
            while not away and time.monotonic() < deadline:
                away = self.engine.away() is not None
                time.sleep(waiting.LOOK_S)
        if away:
            with contextlib.suppress(Unreachable):
                self._look_patiently(run, state.id)
            self._away_since.pop(run, None)
        return away

    def _away(self, run: str) -> float:
        """Seconds since the engine was first missed by this run."""
        return time.monotonic() - self._away_since.setdefault(run, time.monotonic())

    def _effort(self, container: str) -> float:
        try:
            return containers.usage(self.engine, container)[0]
        except SlipwayError:  # an engine too busy to answer this question is no sign of a stall
            return time.monotonic()

    def _failed(self, step: Task | Service, state: State | None, log: Path) -> StepFailed:
        if state is None or state.exit_status is None:
            return waiting.failed(step.argv[0], -1, log)
        failure = waiting.failed(step.argv[0], state.exit_status, log)
        if state.out_of_memory:
            found = doctor.diagnose(("oom-kill",))
            if found is not None:
                failure.message, failure.hint = found.cause + failure.message, found.hint
        return failure

    # --- logs -----------------------------------------------------------------------------------------------------

    def _follow(self, container: str, log: Path, secrets: Iterable[str] = ()) -> Follower:
        """The follower of a container's output; a new one where the connection of the last was lost."""
        with self._following:
            follower = self._followers.get(container)
            if follower is None or follower.over:
                if follower is not None:
                    follower.finish()
                follower = Follower(self.engine, container, log, secrets)
                self._followers[container] = follower
            return follower

    def _finish(self, container: str, log: Path, secrets: Iterable[str] = ()) -> None:
        """Takes the last lines of a container that has ended."""
        with contextlib.suppress(Unreachable):
            self._follow(container, log, secrets).finish()
        with self._following:
            self._followers.pop(container, None)

    def _log(self, run: str, state: State) -> Path:
        return self._home / "runs" / run / "logs" / f"{state.labels.get(containers.STEP, 'serve')}.log"

    def _end(self, container: str, patience_s: float, work: Work) -> None:
        """Removes a task's container, also when the engine has gone: then it is found by its labels later."""
        with contextlib.suppress(Unreachable):
            state = containers.look(self.engine, container)
            if state is not None and state.exit_status is None:
                containers.halt(self.engine, container, patience_s)
                self._finish(container, work.log)
            containers.remove(self.engine, container)

    def _check_folder(self, step: BuildImage) -> None:
        containers.allowed(step.folder, self._owner.roots)


_FOUND = Text(en="Found the running container.", zh="找到了正在运行的容器。")


def _print(step: PullImage | BuildImage) -> str:
    """A digest of what an image is made from, where things are fetched from left out."""
    told = {"title": same("-"), "why": None, "forecast": Forecast()}
    return digest(step.model_copy(update=told | ({"sources": {}} if isinstance(step, BuildImage) else {})))[:16]


def _docker_ended(state: State, log: Path) -> StepFailed:
    return StepFailed(
        Text(
            en=f"Docker was stopped or restarted, and the container ended with it (exit code {state.exit_status}).",
            zh=f"Docker 被停止或重启，容器随之结束（退出码 {state.exit_status}）。",
        ),
        Text(
            en="Deploy it again. Docker's setting “live-restore” keeps containers over a restart.",
            zh="请重新部署。Docker 的 “live-restore” 设置可在重启时保留容器。",
        ),
        exit_status=state.exit_status,
        last_lines=waiting.tail(log),
    )
