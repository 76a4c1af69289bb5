"""What was found inside images, kept in the data folder: one JSON file for each digest, written whole or not at all."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from backends.errors import BadInput
from backends.reading import read_json
from backends.spec import Inside


def keep(home: Path, inside: Inside) -> None:
    """Keeps a look at an image, in place of an earlier one at the same digest. `inside.digest` must be known."""
    path = _path(home, inside.digest or "")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, encoding="utf-8", delete=False) as file:
        file.write(inside.model_dump_json(exclude_none=True))
    Path(file.name).replace(path)


def known(home: Path, digest: str) -> bool:
    """Whether the image of that digest was looked into."""
    return _path(home, digest).is_file()


def everything(home: Path) -> tuple[Inside, ...]:
    """Every look that is kept. A file that is not one of ours, or of another version, is passed over."""
    found = []
    for path in sorted((home / "images").glob("*.json")):
        try:
            found.append(read_json(Inside, path.read_bytes(), path.name))
        except (BadInput, OSError):
            continue
    return tuple(found)


def _path(home: Path, digest: str) -> Path:
    return home / "images" / f"{re.sub('[^A-Za-z0-9]', '-', digest)}.json"
