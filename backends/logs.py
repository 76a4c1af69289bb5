"""Log text: one append-only file a step, written as it comes, made fit to show when it is read.

Reading goes by byte cursor, so a viewer that comes back misses nothing and repeats nothing.
"""

from __future__ import annotations

import re
from pathlib import Path

from backends.runs import LogPage

LONGEST_LINE = 4096  # characters shown of one line; the file keeps all
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


def read(path: Path, cursor: int = 0, limit_bytes: int = 262_144, ended: bool = False) -> LogPage:
    """Whole lines from byte `cursor` on, at most about `limit_bytes` of them.

    A last line without its end is held back until it ends, `ended` says that nothing more comes, or it fills the page.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(min(cursor, size))
            data = file.read(limit_bytes)
    except FileNotFoundError:
        return LogPage(lines=(), cursor=0, size=0, ended=ended)
    cursor = min(cursor, size)
    at_end = cursor + len(data) >= size
    cut = data.rfind(b"\n") + 1
    if cut == 0 and (len(data) >= limit_bytes or (at_end and ended)):
        # One line longer than the page: show its head, go on behind it.
        cut = len(data)
    elif at_end and ended:
        cut = len(data)
    text = data[:cut].decode("utf-8", errors="replace")
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    cursor += cut
    return LogPage(lines=tuple(shown(line) for line in lines), cursor=cursor, size=size, ended=ended and cursor >= size)


def last_lines(path: Path, count: int = 50, most_bytes: int = 65_536) -> tuple[str, ...]:
    """The last lines of a log, for an error that tells how it ended."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return ()
    page = read(path, max(0, size - most_bytes), most_bytes, ended=True)
    return tuple(line for line in page.lines if line.strip())[-count:]


def shown(line: str) -> str:
    """One line as a terminal would leave it: the last state of a progress bar, no colours, no control characters."""
    line = line.rstrip("\r")
    if "\r" in line:
        line = line.rsplit("\r", 1)[1]
    line = _CONTROL.sub("\ufffd", _ANSI.sub("", line))
    if len(line) > LONGEST_LINE:
        line = f"{line[:LONGEST_LINE]} … (+{len(line) - LONGEST_LINE:,})"
    return line
