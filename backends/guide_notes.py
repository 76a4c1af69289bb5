"""Mistakes of guides in circulation, where they apply. The data is assets/guide_notes.toml."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from functools import cache

from backends import tables
from backends.spec import EngineName, Frozen
from backends.text import Text


class Note(Frozen):
    """One note and its conditions; empty conditions always hold."""

    id: str
    engines: tuple[EngineName, ...]
    releases: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    other_sm: tuple[int, ...] = ()
    text: Text
    source: str


def notes(engine: EngineName, release: str | None, family: str | None, sms: Sequence[int]) -> tuple[Text, ...]:
    """What to say beside a suggested release of an engine. `family` None counts as llama. `sms`: the chosen GPUs'."""
    return tuple(
        note.text
        for note in _notes()
        if engine in note.engines
        and (not note.releases or release in note.releases)
        and (not note.families or (family or "llama") in note.families)
        and (not note.other_sm or any(sm not in note.other_sm for sm in sms))
    )


@cache
def _notes() -> tuple[Note, ...]:
    rows = tomllib.loads((tables.ASSETS / "guide_notes.toml").read_text(encoding="utf-8"))["note"]
    return tuple(
        Note.model_validate(
            {**{k: v for k, v in row.items() if k not in ("en", "zh")}, "text": Text(en=row["en"], zh=row["zh"])}
        )
        for row in rows
    )
