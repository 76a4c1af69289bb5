"""A run: one attempt to carry out a plan, what state it is in, and how its steps stand. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from backends.errors import NotFound
from backends.events import Event, Kind
from backends.spec import Endpoint, Frozen, Spec
from backends.steps import Plan
from backends.text import Text


class State(StrEnum):
    """Where a run stands. Open runs have, or should have, a worker; the others never change by themselves."""

    QUEUED = "queued"
    RUNNING = "running"  # a step is being carried out
    SERVING = "serving"  # the server is up and has answered
    STOPPING = "stopping"
    DONE = "done"  # a plan without a service came to its end
    STOPPED = "stopped"  # a person stopped it
    FAILED = "failed"  # a step failed, or the server ended by itself
    LOST = "lost"  # its worker ended without a word (killed, machine restarted); nothing of it runs any more

    def is_open(self) -> bool:
        return self in OPEN

    def can_resume(self) -> bool:
        return self in (State.STOPPED, State.FAILED, State.LOST)


OPEN = (State.QUEUED, State.RUNNING, State.SERVING, State.STOPPING)


class Trouble(Frozen):
    """Why a run failed, as the error card shows it."""

    step: str | None = None
    message: Text
    hint: Text | None = None
    exit_status: int | None = None
    last_lines: tuple[str, ...] = ()


class Run(Frozen):
    """What the store remembers of one run. Times are aware UTC."""

    id: str
    name: str
    state: State
    spec: Spec
    plan: Plan
    created_at: datetime
    ready_at: datetime | None = None
    finished_at: datetime | None = None
    attempt: int = 1
    endpoint: Endpoint | None = None  # of a serving run
    trouble: Trouble | None = None
    answer: str | None = None  # the first answer that the new server gave
    measured: dict[str, float] = {}  # seconds, MiB: what the forecast is compared with
    pinned: bool = False  # a person wants to find it again


class Summary(Frozen):
    """One row of the history list: what can be shown without reading the plan."""

    id: str
    name: str
    state: State
    engine: str
    model: str
    target: str
    created_at: datetime
    ready_at: datetime | None = None
    finished_at: datetime | None = None
    pinned: bool = False


class Place(NamedTuple):
    """Where a row stands in the history that has the pinned ones first and is newest first otherwise."""

    pinned: bool
    created_at: datetime
    id: str


class Standing(StrEnum):
    """How one step stands."""

    WAITING = "waiting"
    NOW = "now"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"


class StepView(Frozen):
    """One step of a run as the stage list shows it."""

    id: str
    title: Text
    standing: Standing = Standing.WAITING
    started_at: datetime | None = None
    finished_at: datetime | None = None
    fraction: float | None = None
    text: Text | None = None  # the newest word on it


_STANDING = {
    Kind.STARTED: Standing.NOW,
    Kind.PROGRESS: Standing.NOW,
    Kind.NOTE: Standing.NOW,
    Kind.READY: Standing.NOW,
    Kind.DONE: Standing.DONE,
    Kind.SKIPPED: Standing.SKIPPED,
    Kind.FAILED: Standing.FAILED,
    Kind.STOPPED: Standing.STOPPED,
    Kind.LOST: Standing.LOST,
}


def standings(plan: Plan, events: Iterable[Event]) -> tuple[StepView, ...]:
    """Each step of the plan as the events leave it; the newest attempt wins."""
    views = {step.id: StepView(id=step.id, title=step.title) for step in plan.steps}
    for event in events:
        view = views.get(event.step or "")
        if view is None:
            continue
        change: dict[str, object] = {"standing": _STANDING[event.kind]}
        if event.kind is Kind.STARTED:
            change |= {"started_at": event.at, "finished_at": None, "fraction": None, "text": None}
        if event.fraction is not None:
            change["fraction"] = event.fraction
        if event.text is not None:
            change["text"] = event.text
        if event.kind.ends_step():
            change["finished_at"] = event.at
        views[view.id] = view.model_copy(update=change)
    return tuple(views.values())


def log_starts(events: Iterable[Event], step_id: str) -> tuple[tuple[int, int | None], ...]:
    """Where in its log each start of a step begins and ends, in bytes, the newest first; its end is None."""
    told = [event.data.get("log_from") for event in events if event.step == step_id]
    begins = [begin for begin in told if isinstance(begin, int)]
    return tuple(zip(reversed(begins), (None, *reversed(begins[1:])), strict=True))


def log_span(events: Iterable[Event], step_id: str, start: int) -> tuple[int, int | None]:
    """The bytes of a step's log that one start wrote, 1: the first; 0: the whole log. Raises NotFound."""
    starts = log_starts(events, step_id) if start else ((0, None),)
    if not 0 <= start <= len(starts):
        raise NotFound(Text(en=f"There was no start {start}.", zh=f"没有第 {start} 次启动。"), field="start")
    return starts[-start]


class LogPage(Frozen):
    """A part of a step's log: whole lines, made fit to show, and the byte cursor to go on from.

    `rest` is the last line as it stands while it has no end yet: a progress bar, a prompt. The cursor is before it.
    """

    lines: tuple[str, ...]
    cursor: int
    size: int  # bytes in the file now, or the end of the start that was asked for
    ended: bool = False  # nothing more will come
    rest: str = ""
