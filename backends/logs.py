"""Log text: one append-only file a step, written as it comes, made fit to show when it is read.

Reading goes by byte cursor, so a viewer that comes back misses nothing and repeats nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from backends.runs import LogPage

LONGEST_LINE = 4096  # characters shown of one line; the file keeps all
_BACK = 65_536  # a line of which that much lies before the cursor was shown by its head already
_LOOK = 1_048_576
_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\x80-\x9f]")


def read(
    path: Path,
    cursor: int = 0,
    limit_bytes: int = 262_144,
    ended: bool = False,
    span: tuple[int, int | None] = (0, None),
) -> LogPage:
    """Whole lines from byte `cursor` on, at most about `limit_bytes` of them; of the bytes of `span` only.

    A last line without its end is held back until it ends or `ended` says that nothing more comes; until then it is
    the page's `rest`. Of a line that is longer than the page the head is shown, once.
    """
    try:
        with path.open("rb") as file:
            begin, until = span
            size = file.seek(0, 2)
            size = size if until is None else min(size, until)
            cursor = min(max(cursor, begin), size)
            inside = _inside_a_long_line(file, cursor, min(_BACK, limit_bytes), begin)
            file.seek(cursor)
            data = file.read(min(limit_bytes, size - cursor))
            cut, beyond, end = data.rfind(b"\n") + 1, 0, 0
            if cut == 0 and len(data) >= limit_bytes:
                cut, (beyond, end) = len(data), _to_line_end(file, size)
    except FileNotFoundError:
        return LogPage(lines=(), cursor=0, size=0, ended=ended)
    at_end = cursor + len(data) + beyond + end >= size
    if at_end and ended:
        cut = len(data)
    whole, rest = data[:cut], data[cut:]
    if inside:
        whole = whole[whole.find(b"\n") + 1 :] if b"\n" in whole else b""
    text = whole.decode("utf-8", errors="replace")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if beyond or _CONTROL.search(text) or len(max(lines, key=len, default="")) > LONGEST_LINE:
        lines = [shown(line, beyond) for line in lines]
    cursor += cut + beyond + end
    return LogPage(
        lines=tuple(lines),
        cursor=cursor,
        size=size,
        ended=ended and cursor >= size,
        rest=shown(rest.decode("utf-8", errors="ignore")) if at_end else "",
    )


def _inside_a_long_line(file: IO[bytes], cursor: int, back: int, begin: int) -> bool:
    """Whether the cursor stands behind the head of a line that was shown already."""
    if cursor - begin < back:
        return False
    file.seek(cursor - back)
    return b"\n" not in file.read(back)


def _to_line_end(file: IO[bytes], size: int) -> tuple[int, int]:
    """How many bytes there are up to the next line end, or to the end, and how many the line end takes."""
    passed = 0
    while part := file.read(min(_LOOK, size - file.tell())):
        end = part.find(b"\n")
        if end >= 0:
            return passed + end, 1
        passed += len(part)
    return passed, 0


def raw(path: Path, begin: int, end: int) -> Iterator[bytes]:
    """The bytes of the file from `begin` up to `end`, as they are."""
    with path.open("rb") as file:
        file.seek(begin)
        while data := file.read(max(0, min(_LOOK, end - file.tell()))):
            yield data


def last_lines(path: Path, count: int = 50, most_bytes: int = 65_536) -> tuple[str, ...]:
    """The last lines of a log, for an error that tells how it ended."""
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return ()
    page = read(path, max(0, size - most_bytes), most_bytes, ended=True)
    return tuple(line for line in page.lines if line.strip())[-count:]


def shown(line: str, beyond: int = 0) -> str:
    """One line as a terminal would leave it: the last state of a progress bar, no colours, no control characters.

    `beyond` is how much of the line was not even read.
    """
    line = line.rstrip("\r")
    if "\r" in line:
        line = line.rsplit("\r", 1)[1]
    line = _CONTROL.sub("\ufffd", _ANSI.sub("", line))
    if len(line) + beyond > LONGEST_LINE:
        line = f"{line[:LONGEST_LINE]} … (+{len(line) + beyond - LONGEST_LINE:,})"
    return line
