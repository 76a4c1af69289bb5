"""Reads the data files of assets/, whose cells may end in `~`: inferred, not read on a page. No rules here."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path

from backends.errors import BadInput
from backends.text import Text

ASSETS = Path(__file__).resolve().parent.parent / "assets"

Version = tuple[int, ...]


def rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Each row of a CSV file with its line number (the header is line 1). Cells are stripped, missing ones empty."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, {str(key): (value or "").strip() for key, value in row.items() if key}


def plain(cell: str) -> tuple[str, bool]:
    """The cell without its mark, and whether it was marked as inferred."""
    return cell.removesuffix("~").strip(), cell.endswith("~")


def items(cell: str) -> tuple[str, ...]:
    """The items of a `;` list, marks removed."""
    return tuple(plain(item.strip())[0] for item in cell.split(";") if item.strip())


def version(words: str, field: str = "version") -> Version:
    """ "535.104.05" as (535, 104, 5). Raises BadInput naming `field` where the words are no version."""
    parts = words.strip().split(".")
    if not all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts):
        raise BadInput(
            field,
            Text(
                en=f"{field}: “{words}” is not a version. Write numbers and dots, such as 535.54.03.",
                zh=f"{field}：“{words}”不是版本号，写数字与点，例如 535.54.03。",
            ),
        )
    return tuple(int(part) for part in parts)


def at_least(have: Version, need: Version) -> bool:
    """Whether `have` is `need` or newer. What `have` leaves out counts as enough: "525" is at least "525.60.13"."""
    return have >= need[: len(have)]


def cell(row: Mapping[str, str], name: str) -> tuple[str, bool]:
    """A named cell, see `plain`. Empty where the column is missing."""
    return plain(row.get(name, ""))
