"""The running servers as the header, the chat's list and the Monitor show them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from app.control import Control
from app.ui.render import page
from app.ui.words import STATES
from backends.runs import Run
from backends.text import Language, Text


class Card(NamedTuple):
    """One server's card. `figures` are (name, value, unit)."""

    run: Run
    word: Text
    shape: str
    models: Sequence[str]
    figures: Sequence[tuple[str, str, str]]


def panel_slots(serving: Sequence[Run], launching: int, language: Language) -> dict[str, str]:
    """The slots that follow which servers run."""
    return {
        "panel": page("panel", language, running=len(serving), launching=launching),
        "chat-servers": page("chat_servers", language, servers=serving),
    }


def chat(serving: Sequence[Run], language: Language) -> str:
    """The Chat page."""
    return page("chat", language, servers=serving)


class MonitorLook:
    """Looks at what the one sampler has found."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def __call__(self) -> tuple[Run, ...] | None:
        return self._control.open_runs()


def cards(runs: Sequence[Run]) -> list[Card]:
    """A card for each open run."""
    return [Card(run, STATES[run.state].word, STATES[run.state].shape, (), ()) for run in runs]


def message(runs: Sequence[Run], language: Language) -> dict[str, Any]:
    """What the Monitor is sent each second."""
    return {"slots": {"servers": page("servers", language, cards=cards(runs))}}


def monitor(runs: Sequence[Run], language: Language) -> str:
    """The Monitor page; the live stream draws its plots."""
    from markupsafe import Markup

    servers = Markup(page("servers", language, cards=cards(runs)))  # noqa: S704  made by `page`
    return page("monitor", language, servers=servers)
