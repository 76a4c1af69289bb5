"""What happened in a run: small facts in the order of `seq`. Log text is not here; it lies in the step's log file."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from backends.spec import Frozen
from backends.text import Text


class Kind(StrEnum):
    """The kinds of event. A step starts, makes progress, and ends in one of done, skipped, failed, stopped, lost."""

    STARTED = "started"
    PROGRESS = "progress"
    NOTE = "note"
    READY = "ready"  # a service answers its health endpoint
    DONE = "done"
    SKIPPED = "skipped"  # an earlier run did the same, fingerprint for fingerprint
    FAILED = "failed"
    STOPPED = "stopped"
    LOST = "lost"

    def ends_step(self) -> bool:
        """True where nothing more comes from this attempt at the step."""
        return self in (Kind.DONE, Kind.SKIPPED, Kind.FAILED, Kind.STOPPED, Kind.LOST)


class Event(Frozen):
    """`step` is the step's id, None for the run itself. `fraction` is 0 to 1 where it is known."""

    step: str | None
    kind: Kind
    text: Text | None = None
    hint: Text | None = None
    fraction: float | None = None
    data: dict[str, int | float | str | bool] = {}
    seq: int = 0
    at: datetime | None = None  # aware, UTC; set by the store
