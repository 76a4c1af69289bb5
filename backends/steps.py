"""A plan and the few kinds of step. A step is data: argv as a tuple, never a callable, never shell text.

Places on the machine that carries a plan out are named, not spelled: `{home}` the data folder, `{runtime}` the embedded
runtime, `{models}` downloaded models, `{run}` this run's own folder, `{assets}` the files that come with Slipway,
`{python}` the interpreter that runs the panel, `{port.http}` `{port.grpc}` `{port.metrics}` the ports of the service,
`{bind}` the address that it listens on, `{lock}` a word that nobody keeps: it closes endpoints that nobody needs.
A target puts its own paths in (`fill`), so the same plan serves a laptop, a container and an exported script.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Literal, TypeVar

from pydantic import AliasChoices, Field

from backends.errors import BadInput
from backends.spec import Chat, Frozen, Hardware, Spec
from backends.text import Text

PLACES = (
    "home", "runtime", "models", "run", "assets", "python", "port.http", "port.grpc", "port.metrics", "bind", "lock",
)  # fmt: skip
_PLACE = re.compile(r"\{([a-z.]+)\}")


class Forecast(Frozen):
    """What a step is expected to cost. Estimates, shown with a tilde; None: nothing worth a word."""

    seconds: float | None = None
    download_mib: int | None = None
    disk_mib: int | None = None
    ram_mib: int | None = None


class _Step(Frozen):
    """`outputs` are the places that must exist for an earlier result to count, a `*` standing for any name (Python's
    version in a folder's); `inputs` are digests of what the result depends on besides the step's own fields (a source
    revision, an image digest, a GPU name)."""

    id: str
    title: Text
    why: Text | None = None
    forecast: Forecast = Forecast()
    inputs: dict[str, str] = {}
    needs: tuple[str, ...] = ()  # ids of the steps whose results this one builds on: its fingerprint holds theirs
    outputs: tuple[str, ...] = ()
    shared: bool = False  # the result serves other runs too: found again by fingerprint, made by one run at a time


S = TypeVar("S", bound=_Step)


class File(Frozen):
    """A file to write: its text, or the asset that it is a copy of. Exactly one of the two."""

    path: str
    text: str | None = None
    asset: str | None = None
    executable: bool = False


class Mount(Frozen):
    """A folder of the host inside a container. The recipe mounts folders at their own path wherever it can, so that one
    path means the same thing inside and outside."""

    source: str
    path: str
    read_only: bool = False


class Container(Frozen):
    """Where a Task or Service runs when not on the host itself. Only these fields exist: nothing free-form reaches the
    engine, nothing is privileged."""

    image: str
    mounts: tuple[Mount, ...] = ()
    gpus: tuple[int, ...] | Literal["all"] | None = None  # None: none
    shm_mib: int | None = None
    ulimits: dict[str, int] = {}  # name -> soft and hard limit; one that the engine refuses is left out, and said so
    network: Literal["none", "bridge", "host"] = "bridge"
    as_person: bool = True  # files that it makes belong to the person, not to root


class WriteFiles(_Step):
    """Writes small files under one folder, whole or not at all."""

    kind: Literal["write"] = "write"
    folder: str
    files: tuple[File, ...]


class Task(_Step):
    """Runs one command to its end. Exit status 0 is success; `outputs` must exist afterwards."""

    kind: Literal["task"] = "task"
    argv: tuple[str, ...] = Field(min_length=1)
    cwd: str | None = None
    env: dict[str, str] = {}
    pass_env: tuple[str, ...] = ()  # variables taken from the person's environment if set; may hold secrets
    container: Container | None = None
    sources: dict[str, str] = {}  # variables that say where things come from; see `backends.sources`
    progress: str | None = None  # the reader that knows this command's lines; see `backends.progress`
    checks: tuple[str, ...] = ()  # ids of the steps whose results it judges: where it fails, they are done again
    stall_s: float = 900.0


class FetchSource(_Step):
    """Fetches a repository or a model from a hub into a folder, at a pinned revision."""

    kind: Literal["fetch"] = "fetch"
    origin: Literal["huggingface", "modelscope", "git"]
    source: str
    revision: str | None = None
    folder: str
    patterns: tuple[str, ...] = ()
    pass_env: tuple[str, ...] = ()
    argv: tuple[str, ...] = Field(min_length=1)  # the same by hand
    sources: dict[str, str] = {}
    stall_s: float = 900.0


class PullImage(_Step):
    """Pulls a container image."""

    kind: Literal["pull"] = "pull"
    image: str
    mirror: str | None = None  # pulled from there instead, and then named `image`
    stall_s: float = 900.0


class BuildImage(_Step):
    """Builds a container image from a folder."""

    kind: Literal["build"] = "build"
    tag: str
    folder: str
    dockerfile: str = "Dockerfile"
    args: dict[str, str] = {}
    sources: dict[str, str] = {}  # build arguments that say where things come from
    stall_s: float = 3600.0


class Service(_Step):
    """Starts a server and leaves it running. Done when its health endpoint answers."""

    kind: Literal["service"] = "service"
    argv: tuple[str, ...] = Field(min_length=1)
    cwd: str | None = None
    env: dict[str, str] = {}
    container: Container | None = None
    sources: dict[str, str] = {}
    health: str = "/v2/health/ready"
    model: str = "ensemble"
    forbidden: tuple[str, ...] = ()  # words in the log that mean failure, even where the server says that it is ready
    stall_s: float = 300.0


class Ask(_Step):
    """Sends a real request to the service and wants a real streamed answer."""

    kind: Literal["ask"] = "ask"
    engine: str
    model: str
    chat: Chat
    talk: dict[str, str] = {}  # what the engine's tensors must know of this deployment, for every later chat too
    stall_s: float = Field(default=300.0, validation_alias=AliasChoices("stall_s", "timeout_s"))  # the latter: before


Step = Annotated[WriteFiles | Task | FetchSource | PullImage | BuildImage | Service | Ask, Field(discriminator="kind")]


class Plan(Frozen):
    """What will be done, in order: what Review shows, the script exports, the run carries out, golden tests hold."""

    version: Literal[1] = 1
    spec: Spec
    steps: tuple[Step, ...]
    memory_mib: int | None = None  # forecast of what the server will use, on its GPUs or, without one, of RAM
    notes: tuple[Text, ...] = ()  # what is unusual, or differs from what a guide says, and why
    hardware: Hardware | None = None  # the machine that it was made for; None: it was made by hand, and stays as it is

    @property
    def service(self) -> Service | None:
        """The server that this plan leaves running, if any."""
        return next((step for step in self.steps if isinstance(step, Service)), None)

    def step(self, step_id: str) -> Step:
        """The step of that id. Raises KeyError."""
        for step in self.steps:
            if step.id == step_id:
                return step
        raise KeyError(step_id)


def expected(steps: Iterable[Step]) -> Forecast:
    """Time, download and disk of these steps together. A `download_mib` of 0: they fetch nothing; None: they fetch
    something, and nobody knows how much."""
    seconds = download = disk = 0.0
    untold = False
    for step in steps:
        seconds += step.forecast.seconds or 0
        download += step.forecast.download_mib or 0
        disk += step.forecast.disk_mib or 0
        untold = untold or (step.kind in ("fetch", "pull") and step.forecast.download_mib is None)
    known = None if untold and not download else round(download)
    return Forecast(seconds=seconds or None, download_mib=known, disk_mib=round(disk))


def digest(value: Frozen) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    # Without defaults: a field that a later version adds does not make every earlier result unknown.
    told = value.model_dump(mode="json", exclude_defaults=True)
    canonical = json.dumps(told, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def fingerprints(steps: Iterable[Step], asset_digest: Callable[[str], str]) -> dict[str, str]:
    """For each step id a digest of what the step's result depends on: its own doing, the assets that it copies, and the
    steps that it needs; not its words, not its forecast, and not the mirrors and proxies that things come through.

    Pass steps whose places are filled: the same command into another folder is another result. `asset_digest` gives the
    digest of an asset's content by its name.
    """
    found: dict[str, str] = {}
    for step in steps:
        told = step.model_copy(
            update={"title": _UNSAID, "why": None, "forecast": Forecast()}
            | ({"sources": {}} if hasattr(step, "sources") else {})
            | ({"mirror": None} if isinstance(step, PullImage) else {})
        )
        parts = [digest(told), *(found[needed] for needed in step.needs)]
        if isinstance(step, WriteFiles):
            parts += [asset_digest(file.asset) for file in step.files if file.asset is not None]
        found[step.id] = hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]
    return found


_UNSAID = Text(en="-", zh="-")


def fill(text: str, places: Mapping[str, str]) -> str:
    """`text` with every `{place}` put in. Other braces stay. Raises BadInput for a place that this target lacks."""

    def put(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in PLACES:
            return match.group(0)
        if name not in places:
            raise BadInput(
                "plan",
                Text(
                    en=f"The plan uses the place {{{name}}}, which is not known here.",
                    zh=f"方案用到位置 {{{name}}}，此处没有定义。",
                ),
            )
        return places[name]

    return _PLACE.sub(put, text)


def fill_step(step: S, places: Mapping[str, str]) -> S:
    """The same step with every place put in, in every path, argument and variable."""

    def walk(value: object) -> object:
        if isinstance(value, str):
            return fill(value, places)
        if isinstance(value, tuple):
            return tuple(walk(item) for item in value)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        if isinstance(value, Mount | Container):
            return value.model_copy(update={name: walk(getattr(value, name)) for name in type(value).model_fields})
        if isinstance(value, File):
            text = None if value.text is None else fill(value.text, places)
            return value.model_copy(update={"path": fill(value.path, places), "text": text})
        return value

    spelled = {"title", "why", "forecast", "id", "kind", "chat"}
    names = type(step).model_fields.keys() - spelled
    return step.model_copy(update={name: walk(getattr(step, name)) for name in names})
