"""Reads the lines that a failed command left, and names cause and cure. The knowledge is assets/known_errors.toml."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from backends.spec import Frozen
from backends.text import Text

_KNOWN = Path(__file__).resolve().parent.parent / "assets" / "known_errors.toml"


class Diagnosis(Frozen):
    """What is wrong, what to do, and the line that told."""

    id: str
    cause: Text
    hint: Text
    line: str


class _Known(Frozen):
    id: str
    pattern: str
    cause: Text
    hint: Text
    source: str


@cache
def _known() -> tuple[tuple[re.Pattern[str], _Known], ...]:
    entries = tomllib.loads(_KNOWN.read_text(encoding="utf-8"))["error"]
    return tuple((re.compile(entry["pattern"]), _Known.model_validate(entry)) for entry in entries)


_TABLE = re.compile(r"^\s*[+|].*[+|]\s*$")
_ERROR = re.compile(r"^E\d{4} |^error: |^\w*(Error|Exception): |\bERROR\b|\[ERROR\]|\]\s*\[E\]")


def telling(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines that say something: without Triton's tables and empty lines."""
    return tuple(line for line in lines if line.strip() and not _TABLE.match(line))


def first_error(lines: Sequence[str]) -> str | None:
    """The first line that looks like an error, which the lines behind it mostly follow from."""
    return next((line for line in lines if _ERROR.search(line)), None)


def diagnose(lines: Sequence[str]) -> Diagnosis | None:
    """The first known error in order of the table that some line shows; the first such line counts."""
    for pattern, known in _known():
        for line in lines:
            if pattern.search(line):
                return Diagnosis(id=known.id, cause=known.cause, hint=known.hint, line=line)
    return None
