"""What a target is, and what all of them need: the seam between a plan and the machine that carries it out."""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from backends.errors import Stopped
from backends.events import Event
from backends.spec import Chat, Endpoint, Frozen, Piece
from backends.steps import Step
from backends.text import Text

Ask = Callable[[str, Endpoint, Chat, Mapping[str, str]], Iterator[Piece]]
"""Sends a chat to a running server through an engine's tensors: (engine, endpoint, chat, talk) -> pieces."""

AskedToStop = Callable[[], bool]


@dataclass(frozen=True)
class Work:
    """One step's circumstances: whose run it is, where its log goes, where its server will listen.

    `refused`: what the step made the last time turned out to be wrong, so what is there need not be its result.
    """

    run: str
    folder: Path
    log: Path
    endpoint: Endpoint
    places: Mapping[str, str]
    asked_to_stop: AskedToStop
    spec: str = ""  # digest of the spec, for labels
    refused: bool = False

    def check_stop(self) -> None:
        """Raises Stopped where a person asked to stop."""
        if self.asked_to_stop():
            raise Stopped


@dataclass(frozen=True)
class Found:
    """What a target finds of a run when asked: the server that it left, and how many processes in all.

    `task` is whether work goes on that a new worker can take over; `endpoint` where the server listens, if the target
    itself knows.
    """

    service: bool
    processes: int
    memory_mib: int | None = None
    task: bool = False
    endpoint: Endpoint | None = None

    @property
    def adoptable(self) -> bool:
        """Whether a new worker can go on with what there is."""
        return self.service or self.task


class Leftover(Frozen):
    """One thing that can be removed. `bytes` is what its removal frees: layers that others share are not in it."""

    kind: Literal["container", "image"]
    id: str
    name: str
    bytes: int
    run: str = ""


class Target(Protocol):
    """Carries out steps on one kind of machine. All methods may be called from any thread."""

    def can(self, step: Step) -> Text | None:
        """None where this target knows how to do the step, else why not."""

    def places(self, run: str, endpoint: Endpoint, bind: str) -> dict[str, str]:
        """The paths and ports that stand for the plan's `{places}`."""

    def carry_out(self, step: Step, work: Work) -> Iterator[Event]:
        """Does one step whose places are filled, yielding progress; its end is the end of the iterator.

        Raises StepFailed (with the last lines), Stopped within seconds of being asked, BadInput. A Service that already
        runs for `work.run` is adopted, not started again.
        """

    def watch(self, run: str) -> int | None:
        """None while the run's server lives; else its exit status, -1 where nobody knows it any more."""

    def stop(self, run: str) -> None:
        """Ends every process of the run within seconds: politely, then not. Silent where there is none."""

    def find(self, run: str) -> Found:
        """What there is of the run right now: asked, not remembered. Raises Unreachable where nobody can be asked."""

    def has(self, step: Step) -> bool:
        """Whether the results of a step that was carried out before are still there."""

    def reclaimable(self) -> tuple[Leftover, ...]:
        """What Slipway left here and nothing uses now. Raises Unreachable."""

    def reclaim(self, chosen: tuple[Leftover, ...]) -> int:
        """Removes of these what is still unused, and returns the bytes that this freed."""


def there(output: str) -> bool:
    """Whether an output of a step, its places filled, exists. A `*` stands for any name; nothing else is special."""
    pattern = glob.escape(output).replace("[*]", "*")
    return any(Path(found).exists() for found in glob.iglob(pattern))  # noqa: PTH207  Path's takes no absolute pattern


SECRET_NAME = re.compile(r"(?i)(token|secret|passw(or)?d|api_?key|access_?key|credential|cookie|private_?key)")
_SECRET_SHAPES = (
    re.compile(r"\b(hf_|nvapi-|ghp_|gho_|github_pat_|glpat-|sk-)[A-Za-z0-9_-]{12,}"),
    re.compile(r"(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"),
    re.compile(r"(?:(?<=http://)|(?<=https://))[^/\s?#@]+(?=@)"),  # a token stands there without a name
    re.compile(r"(?i)(?<=bearer )[A-Za-z0-9._~+/=-]{8,}"),
)


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without the given secrets and without what has the shape of one."""
    for secret in secrets:
        if len(secret) >= 4:
            text = text.replace(secret, "[secret]")
    for shape in _SECRET_SHAPES:
        text = shape.sub("[secret]", text)
    return text


def child_environment(
    environ: Mapping[str, str], set_: Mapping[str, str], passed: Iterable[str] = ()
) -> tuple[dict[str, str], tuple[str, ...]]:
    """The environment of a command, and the secrets in it.

    The person's own without what looks like a secret and without what would bend the interpreter, then the step's
    variables, then those that the step may take over by name.
    """
    kept = {
        name: value
        for name, value in environ.items()
        if not SECRET_NAME.search(name) and name != "VIRTUAL_ENV" and not name.startswith("PYTHON")
    }
    kept |= set_
    taken = {name: environ[name] for name in passed if environ.get(name)}
    kept |= taken
    return kept, tuple(value for name, value in taken.items() if SECRET_NAME.search(name))
