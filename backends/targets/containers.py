"""Containers of a run: made from named fields only, found by their labels, ended and removed whole.

Nothing is privileged, no socket of the engine goes inside, no flag is free text. A secret travels as a file that is put
into the made container, so neither its environment nor `docker inspect` nor an image's history holds it.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import stat
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import docker
from docker.types import DeviceRequest, LogConfig, Mount, Ulimit

from backends.errors import BadInput, Conflict, StepFailed
from backends.spec import Endpoint
from backends.steps import Container, Service, Task, digest
from backends.steps import Mount as MountField
from backends.targets.base import SECRET_NAME, Work
from backends.targets.engine import Engine, said
from backends.text import Text

RUN, HOME, STEP, SPEC, KIND, PRINT, ENDPOINT = (
    f"slipway.{name}" for name in ("run", "home", "step", "spec", "kind", "print", "endpoint")
)
LOG_LIMITS = {"max-size": "64m", "max-file": "3"}  # what Docker keeps of one container's output
SECRETS = "run/slipway"  # folder inside the container, without the leading slash
PROXIES = "proxies"  # the file in it with proxies that hold a login
_WITH_PROXIES = ("sh", "-c", f'. /{SECRETS}/{PROXIES} && exec "$@"', "sh")
INSIDE_HOME = "/tmp"  # noqa: S108  a folder that every image has and everybody may write to
_RLIMIT = re.compile(r"error setting rlimit")
_RLIMIT_TYPE = re.compile(r"rlimit type (\w+)")
_RLIMITS = {
    "0": "cpu",
    "1": "fsize",
    "2": "data",
    "3": "stack",
    "4": "core",
    "5": "rss",
    "6": "nproc",
    "7": "nofile",
    "8": "memlock",
    "9": "as",
    "10": "locks",
    "11": "sigpending",
    "12": "msgqueue",
    "13": "nice",
    "14": "rtprio",
    "15": "rttime",
}  # fmt: skip  resource.h of Linux


@dataclass(frozen=True)
class Person:
    """Whom files made in containers belong to."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Owner:
    """Whose containers these are and what they may see. `roots` are the folders below which a mount may lie."""

    home: Path
    roots: tuple[Path, ...]
    person: Person

    def labels(self, run: str) -> dict[str, str]:
        """The labels that find everything of a run again."""
        return {HOME: str(self.home), RUN: run}


@dataclass(frozen=True)
class State:
    """How a container stands. `status` is Docker's word, `exit_status` None while it runs."""

    id: str
    status: str
    exit_status: int | None
    out_of_memory: bool
    error: str
    labels: Mapping[str, str]


def find(engine: Engine, labels: Mapping[str, str]) -> list[str]:
    """Ids of containers, running or not, that bear these labels; newest first."""
    wanted = [f"{name}={value}" if value else name for name, value in labels.items()]
    with engine.clearly():
        return [str(one["Id"]) for one in engine.api().containers(all=True, filters={"label": wanted})]


def look(engine: Engine, container: str) -> State | None:
    """How a container stands; None where it is gone."""
    with engine.clearly():
        try:
            told = engine.api().inspect_container(container)
        except docker.errors.NotFound:
            return None
    state = told["State"]
    ended = state["Status"] in ("exited", "dead")
    return State(
        id=str(told["Id"]),
        status=str(state["Status"]),
        exit_status=int(state["ExitCode"]) if ended else None,
        out_of_memory=bool(state.get("OOMKilled")),
        error=str(state.get("Error") or ""),
        labels=told["Config"].get("Labels") or {},
    )


def begin(
    engine: Engine, owner: Owner, step: Task | Service, work: Work, passed: Mapping[str, str]
) -> tuple[str, tuple[Text, ...]]:
    """Makes and starts the step's container and returns its id, and what had to be left out of the wish.

    `passed` are the variables that the step may take over from the person, values included. Raises StepFailed in words,
    BadInput for a mount outside the allowed folders, Conflict where the name is somebody else's.
    """
    wish = step.container
    if wish is None:
        raise RuntimeError(f"{step.id} has no container")
    notes: list[Text] = []
    ulimits = dict(wish.ulimits)
    gpus: Literal["runtime", "cdi"] = "cdi" if wish.gpus and engine.cdi else "runtime"
    mounts = tuple(mount(one, owner.roots, owner.home, engine.local) for one in wish.mounts)
    secrets = {name: value for name, value in passed.items() if SECRET_NAME.search(name)}
    plain = {name: value for name, value in passed.items() if name not in secrets}
    proxies = _proxies(engine, step)
    files = secrets | ({PROXIES: proxies} if proxies else {})
    while True:
        container = _create(engine, owner, step, wish, work, mounts, ulimits, gpus, plain, tuple(files))
        try:
            if files:
                with engine.clearly():
                    engine.api().put_archive(container, "/", _archive(files, owner.person))
            with engine.clearly():
                engine.api().start(container)
            return container, tuple(notes)
        except docker.errors.NotFound as error:
            remove(engine, container)
            raise said(str(error.explanation or error)) from error
        except StepFailed as failed:
            remove(engine, container)
            words = " ".join(failed.last_lines)
            refused = refused_ulimits(words, ulimits)
            if not refused:
                raise
            for name in refused:
                del ulimits[name]
            listed = ", ".join(refused)
            notes.append(
                Text(
                    en=f"This machine refuses the limit {listed}; it goes on without it.",
                    zh=f"本机不允许设置 {listed} 限制，将在没有该限制的情况下继续。",
                )
            )


def _proxies(engine: Engine, step: Task | Service) -> str:
    """Proxies with a login, as lines that a shell reads, for a task that may reach the network and has no others."""
    wish = step.container
    if isinstance(step, Service) or wish is None or wish.network == "none":
        return ""
    missing = {name: value for name, value in engine.secret_proxies.items() if name not in step.sources | step.env}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in missing.items())


def refused_ulimits(words: str, ulimits: Mapping[str, int]) -> tuple[str, ...]:
    """Which of the limits the engine's words say cannot be set: the one that is named, else all. None: not about that.

    runc: "error setting rlimit type 8: operation not permitted"; newer: "error setting rlimits for ready process".
    """
    if not _RLIMIT.search(words):
        return ()
    found = _RLIMIT_TYPE.search(words)
    name = _RLIMITS.get(found[1], found[1]) if found else ""
    return (name,) if name in ulimits else tuple(ulimits)


def mount(wish: MountField, roots: tuple[Path, ...], home: Path, local: bool) -> Mount:
    """A folder or file of the host inside the container.

    Raises BadInput where it lies outside the allowed folders or is a socket. A missing folder below the data folder is
    made, as the person's.
    """
    source = allowed(wish.source, roots)
    target = Path(wish.path)
    if not target.is_absolute() or ".." in target.parts or len(target.parts) < 2:
        raise BadInput(
            "plan", Text(en=f"“{wish.path}” is no place inside a container.", zh=f"“{wish.path}”不是容器内的有效路径。")
        )
    if local:
        if not source.exists() and source.is_relative_to(home.resolve()):
            source.mkdir(parents=True)
        if source.exists() and stat.S_ISSOCK(source.stat().st_mode):
            raise BadInput(
                "plan", Text(en=f"{wish.source} is a socket.", zh=f"{wish.source} 是套接字，不能挂载进容器。")
            )
    return Mount(target=str(target), source=str(source), type="bind", read_only=wish.read_only)


def allowed(path: str, roots: tuple[Path, ...]) -> Path:
    """The path with its links followed. Raises BadInput where that lies outside the allowed folders."""
    resolved = Path(path).resolve()
    if not Path(path).is_absolute() or not any(resolved.is_relative_to(root.resolve()) for root in roots):
        raise BadInput(
            "plan",
            Text(en=f"{path} may not be shown to a container.", zh=f"不允许让容器访问 {path}。"),
            Text(
                en=f"Folders below these may be: {', '.join(map(str, roots))}. SLIPWAY_MODEL_ROOTS names more.",
                zh=f"允许的目录：{'、'.join(map(str, roots))}。可用 SLIPWAY_MODEL_ROOTS 增加。",
            ),
        )
    return resolved


def halt(engine: Engine, container: str, patience_s: float) -> None:
    """Ends a container's processes, politely for `patience_s`, then not; silent where it is gone."""
    with engine.clearly(), contextlib.suppress(docker.errors.NotFound):
        engine.api().stop(container, timeout=int(patience_s))


def remove(engine: Engine, container: str) -> None:
    """Removes a container, running or not; silent where it is gone."""
    with engine.clearly(), contextlib.suppress(docker.errors.NotFound):
        try:
            engine.api().remove_container(container, force=True, v=True)
        except docker.errors.APIError as error:
            if error.status_code != 409:  # somebody else is removing it at this moment
                raise


def usage(engine: Engine, container: str) -> tuple[float, int]:
    """CPU seconds that the container has spent, and the memory in MiB that it holds, without file cache."""
    with engine.clearly():
        try:
            told = engine.api().stats(container, stream=False, one_shot=True)
        except docker.errors.NotFound:
            return 0.0, 0
    memory = told.get("memory_stats") or {}
    cache = (memory.get("stats") or {}).get("total_inactive_file") or (memory.get("stats") or {}).get("inactive_file")
    cpu = ((told.get("cpu_stats") or {}).get("cpu_usage") or {}).get("total_usage") or 0
    return cpu / 1e9, max(0, int(memory.get("usage") or 0) - int(cache or 0)) // 2**20


def endpoint(state: State) -> Endpoint | None:
    """Where a service container listens, as its label says."""
    try:
        return Endpoint.model_validate_json(state.labels.get(ENDPOINT, ""))
    except ValueError:
        return None


def name(run: str, step_id: str) -> str:
    """The container's name, for people who type `docker ps`."""
    return f"slipway-{run}-{step_id}"


def print_of(step: Task | Service) -> str:
    """A digest of what the container does: one of another step, or of another version of it, is not taken over."""
    return digest(step)[:16]


def _create(
    engine: Engine,
    owner: Owner,
    step: Task | Service,
    wish: Container,
    work: Work,
    mounts: tuple[Mount, ...],
    ulimits: Mapping[str, int],
    gpus: Literal["runtime", "cdi"],
    plain: Mapping[str, str],
    secrets: tuple[str, ...],
) -> str:
    service = isinstance(step, Service)
    published = _published(work) if service and wish.network == "bridge" else {}
    config: dict[str, Any] = {
        "image": wish.image,
        "command": [*_WITH_PROXIES, *step.argv] if PROXIES in secrets else list(step.argv),
        "use_config_proxy": not engine.secret_proxies,
        "name": name(work.run, step.id),
        "environment": _environment(step, wish, engine, plain, secrets) | _image_of(wish, engine),
        "working_dir": step.cwd,
        "labels": owner.labels(work.run)
        | {STEP: step.id, SPEC: work.spec, KIND: step.kind, PRINT: print_of(step)}
        | ({ENDPOINT: work.endpoint.model_dump_json()} if service else {}),
        "ports": list(published) or None,
    }
    if wish.as_person and not engine.rootless:
        config["user"] = f"{owner.person.uid}:{owner.person.gid}"
    with engine.clearly():
        api = engine.api()
        config["host_config"] = api.create_host_config(
            mounts=list(mounts),
            device_requests=device_requests(wish, gpus),
            shm_size=wish.shm_mib * 2**20 if wish.shm_mib else None,
            ulimits=[Ulimit(name=limit, soft=value, hard=value) for limit, value in ulimits.items()],
            network_mode=wish.network,
            port_bindings=published or None,
            log_config=LogConfig(type="json-file", config=LOG_LIMITS),
            security_opt=["no-new-privileges"],
            # A first process ignores a signal that it does not handle: a stop would wait.
            init=None if service else True,
        )
    for again in (False, True):
        try:
            with engine.clearly():
                return str(api.create_container(**config)["Id"])
        except docker.errors.NotFound as error:  # its only meaning here: there is no such image
            raise StepFailed(
                Text(
                    en=f"The image {wish.image} is not on this machine.",
                    zh=f"本机没有镜像 {wish.image}。",
                ),
                Text(
                    en="The step that pulls or builds it has to run first: deploy again.",
                    zh="需要先执行拉取或构建它的步骤：请重新部署。",
                ),
            ) from error
        except StepFailed:
            if again or not _clear_name(engine, owner, config["name"]):
                raise
    raise RuntimeError("unreachable")


def _clear_name(engine: Engine, owner: Owner, taken: str) -> bool:
    """Removes an earlier, ended container of ours that has the name. Raises Conflict where it is somebody else's."""
    state = look(engine, taken)
    if state is None:
        return False
    if state.labels.get(HOME) != str(owner.home):
        raise Conflict(
            Text(
                en=f"Another container is named {taken}, and it is not of this data folder.",
                zh=f"已有同名容器 {taken}，且不属于此数据目录。",
            ),
            Text(
                en=f"Look at it (docker ps -a), and remove it if it is not needed: docker rm -f {taken}",
                zh=f"请查看（docker ps -a），不需要时删除：docker rm -f {taken}",
            ),
            "name",
        )
    remove(engine, state.id)
    return True


def _environment(
    step: Task | Service,
    wish: Container,
    engine: Engine,
    plain: Mapping[str, str],
    secrets: tuple[str, ...],
) -> dict[str, str]:
    """Variables inside. A secret's own variable does not exist there: NAME_FILE names the file that holds it, and for
    the Hugging Face library, which reads that name, HF_TOKEN_PATH."""
    env: dict[str, str] = {}
    if wish.as_person and not engine.rootless:
        # The person's number is in no image's list of users: programs that ask for a name or a home get these.
        env |= {"HOME": INSIDE_HOME, "USER": "slipway", "LOGNAME": "slipway"}
    env |= {**step.sources, **step.env, **plain}
    for secret in secrets:
        if secret == PROXIES:
            continue
        env[f"{secret}_FILE"] = f"/{SECRETS}/{secret}"
        if secret == "HF_TOKEN":
            env["HF_TOKEN_PATH"] = f"/{SECRETS}/{secret}"
    return env


def _image_of(wish: Container, engine: Engine) -> dict[str, str]:
    """The variable that tells what runs inside of which image it is, by digest; none where that is not here."""
    with engine.clearly(), contextlib.suppress(docker.errors.ImageNotFound):
        return {"SLIPWAY_IMAGE": str(engine.api().inspect_image(wish.image)["Id"])}
    return {}


def _archive(secrets: Mapping[str, str], person: Person) -> bytes:
    """A tar with one file for each secret, readable by the person alone."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        folder = tarfile.TarInfo(SECRETS)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, person.uid, person.gid
        tar.addfile(folder)
        for secret, value in secrets.items():
            data = value.encode()
            file = tarfile.TarInfo(f"{SECRETS}/{secret}")
            file.size, file.mode, file.uid, file.gid = len(data), 0o400, person.uid, person.gid
            tar.addfile(file, io.BytesIO(data))
    return out.getvalue()


def device_requests(wish: Container, by: Literal["runtime", "cdi"]) -> list[DeviceRequest]:
    """GPUs for the container: through NVIDIA's runtime, or by CDI names where the engine knows only these."""
    if not wish.gpus:
        return []
    if by == "cdi":
        names = ["all"] if wish.gpus == "all" else [str(index) for index in wish.gpus]
        return [DeviceRequest(driver="cdi", device_ids=[f"nvidia.com/gpu={one}" for one in names])]
    if wish.gpus == "all":
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])]
    return [DeviceRequest(device_ids=[str(index) for index in wish.gpus], capabilities=[["gpu"]])]


def _published(work: Work) -> dict[int, tuple[str, int]]:
    """The server's ports, the same inside and outside, on the address that the person chose."""
    bind = work.places.get("bind", "127.0.0.1")
    ports = (work.endpoint.http_port, work.endpoint.grpc_port, work.endpoint.metrics_port)
    return {port: (bind, port) for port in ports}
