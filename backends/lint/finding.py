"""What is wrong in a model repository: the file, the field, the words, and how to mend it."""

from __future__ import annotations

from typing import Literal

from backends.spec import Frozen
from backends.text import Text


class Finding(Frozen):
    """One thing that is wrong. "error": the server refuses it or answers nonsense; "warning": it works, but not well.

    `file` is relative to the repository; `field` is the dotted name in config.pbtxt, or the name of a parameter.
    """

    severity: Literal["error", "warning"]
    file: str
    field: str | None = None
    line: int | None = None
    message: Text
    hint: Text


def error(
    file: str, field: str | None, said: tuple[str, str], mend: tuple[str, str], line: int | None = None
) -> Finding:
    """An error; `said` and `mend` are (English, Chinese)."""
    return _finding("error", file, field, said, mend, line)


def warning(
    file: str, field: str | None, said: tuple[str, str], mend: tuple[str, str], line: int | None = None
) -> Finding:
    """A warning; `said` and `mend` are (English, Chinese)."""
    return _finding("warning", file, field, said, mend, line)


def _finding(
    severity: Literal["error", "warning"],
    file: str,
    field: str | None,
    said: tuple[str, str],
    mend: tuple[str, str],
    line: int | None,
) -> Finding:
    return Finding(
        severity=severity,
        file=file,
        field=field,
        line=line,
        message=Text(en=said[0], zh=said[1]),
        hint=Text(en=mend[0], zh=mend[1]),
    )
