"""A deployment as one file, to keep or to give away, and two of them side by side. Pure.

Of a file that somebody else wrote only the spec is used: the plan is made anew here, so no command and no path of the
file's plan is ever carried out. Consents are not taken over: a file cannot agree to run a model's own code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.errors import BadInput
from backends.events import Event
from backends.reading import read_json
from backends.runs import Run, State, Trouble
from backends.spec import Frozen, Spec
from backends.steps import Plan
from backends.text import Text

SIZE_LIMIT = 16 * 1024 * 1024  # bytes of a file
EVENT_LIMIT = 20_000

Value = str | int | float | bool | None
Group = Literal["spec", "plan", "took", "forecast", "measured"]

CONSENTS: Mapping[str, object] = {"trust_remote_code": False, "allow_pickle": False, "bind": "127.0.0.1"}
# Ends of field names that say where something comes from: a person should look at them before launching.
_ORIGINS = ("image", "_repository", "_checkout", "_folder", "converted", "gemm_config", "slim_checkpoint")


class DeploymentFile(Frozen):
    """All that is known of one deployment but its logs. Times are aware UTC; figures in seconds (`_s`) and MiB."""

    slipway: Literal["deployment"] = "deployment"
    version: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
    state: State
    created_at: datetime
    ready_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 1
    spec: Spec
    plan: Plan
    events: Annotated[tuple[Event, ...], Field(max_length=EVENT_LIMIT)] = ()
    forecast: dict[str, float] = {}
    measured: dict[str, float] = {}
    answer: str | None = None
    trouble: Trouble | None = None


class Imported(Frozen):
    """A file that was read: what it tells, the spec to plan anew, and what a person should know first."""

    file: DeploymentFile
    spec: Spec
    notes: tuple[Text, ...] = ()


class Compared(Frozen):
    """One field of two deployments; None where one does not have it. `field` is a dotted path."""

    group: Group
    field: str
    one: Value
    other: Value

    @property
    def differs(self) -> bool:
        """True where it is not the same in both."""
        return self.one != self.other


def file_of(run: Run, events: Iterable[Event] = ()) -> DeploymentFile:
    """A run as a file. Of more events than a file may have, the newest."""
    return DeploymentFile(
        id=run.id,
        state=run.state,
        created_at=run.created_at,
        ready_at=run.ready_at,
        finished_at=run.finished_at,
        attempt=run.attempt,
        spec=run.spec,
        plan=run.plan,
        events=tuple(events)[-EVENT_LIMIT:],
        forecast=forecast_of(run.plan),
        measured=run.measured,
        answer=run.answer,
        trouble=run.trouble,
    )


def forecast_of(plan: Plan) -> dict[str, float]:
    """What the plan expects in all: seconds, MiB to download, MiB of disk, MiB of memory."""
    told: dict[str, float] = {}
    for name, key in (("seconds", "seconds_s"), ("download_mib", "download_mib"), ("disk_mib", "disk_mib")):
        parts = [part for step in plan.steps if (part := getattr(step.forecast, name)) is not None]
        if parts:
            told[key] = float(sum(parts))
    if plan.memory_mib is not None:
        told["memory_mib"] = float(plan.memory_mib)
    return told


def imported(data: bytes) -> Imported:
    """A file from outside. Raises BadInput for what is none, and for one that is too large."""
    if len(data) > SIZE_LIMIT:
        raise BadInput(
            "file",
            Text(en="file: It is larger than 16 MiB, which no deployment is.", zh="file：超过 16 MiB，不是部署文件。"),
        )
    file = read_json(DeploymentFile, data, "file")
    given = file.spec.model_dump()
    reset = {name: value for name, value in CONSENTS.items() if given[name] != value}
    notes = [_asked_anew(name) for name in reset]
    notes += [_look_at(path, value) for path, value in _flat(given) if value is not None and _is_origin(path)]
    return Imported(file=file, spec=file.spec.model_copy(update=reset), notes=tuple(notes))


def compare(one: DeploymentFile, other: DeploymentFile) -> tuple[Compared, ...]:
    """Every field in which two deployments differ: spec, plan step by step, seconds, forecast and measured figures."""
    return tuple(pair for pair in side_by_side(one, other) if pair.differs)


def side_by_side(one: DeploymentFile, other: DeploymentFile) -> tuple[Compared, ...]:
    """Every field of two deployments, those in which they are alike too."""
    sides: tuple[tuple[Group, dict[str, Value], dict[str, Value]], ...] = (
        ("spec", _of_spec(one), _of_spec(other)),
        ("plan", _of_plan(one.plan), _of_plan(other.plan)),
        ("took", _took(one), _took(other)),
        ("forecast", dict(one.forecast), dict(other.forecast)),
        ("measured", _measured(one), _measured(other)),
    )
    return tuple(
        Compared(group=group, field=field, one=left.get(field), other=right.get(field))
        for group, left, right in sides
        for field in (*left, *(field for field in right if field not in left))
    )


def _of_spec(file: DeploymentFile) -> dict[str, Value]:
    return dict(_flat(file.spec.model_dump(mode="json")))


def _of_plan(plan: Plan) -> dict[str, Value]:
    """The doing of each step by its id; words and forecasts are not what differs."""
    steps = {step.id: step.model_dump(mode="json", exclude={"id", "title", "why", "forecast"}) for step in plan.steps}
    return dict(_flat(steps))


def _took(file: DeploymentFile) -> dict[str, Value]:
    ready: dict[str, Value] = {}
    if file.ready_at is not None:
        ready["ready_s"] = (file.ready_at - file.created_at).total_seconds()
    return ready | {name: value for name, value in file.measured.items() if name.endswith("_s")}


def _measured(file: DeploymentFile) -> dict[str, Value]:
    return {name: value for name, value in file.measured.items() if not name.endswith("_s")}


def _flat(value: Any, path: str = "") -> list[tuple[str, Value]]:
    if isinstance(value, Mapping):
        parts = [(str(key), part) for key, part in value.items()]
    elif isinstance(value, list | tuple):
        parts = [(str(number), part) for number, part in enumerate(value)]
    else:
        return [(path, value)]
    return [found for key, part in parts for found in _flat(part, f"{path}.{key}" if path else key)]


def _is_origin(path: str) -> bool:
    return path.rsplit(".", 1)[-1].endswith(_ORIGINS)


def _asked_anew(name: str) -> Text:
    return Text(
        en=f"{name} was set in the file and is not taken over. Set it yourself if you agree to it.",
        zh=f"文件设置了 {name}，未予沿用。如同意，请自行设置。",
    )


def _look_at(path: str, value: Value) -> Text:
    return Text(
        en=f"The file names {path} = {value}. See that you trust it before you launch.",
        zh=f"文件指定了 {path} = {value}。启动前请确认其可信。",
    )
