"""Reads a running command's log as it grows, and says how far it is, or that it still works though it is silent.

Which lines tell what is each tool's own room; a task names its reader (`Task.progress`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from backends.logs import shown
from backends.spec import Frozen
from backends.text import Text

SILENT_S = 30.0  # after so long without a line it is said that the command still works, and again every so often
_MOST_BYTES = 2**20


class Told(Frozen):
    """What lines told: the stage in words, the fraction from 0 to 1, or both."""

    text: Text | None = None
    fraction: float | None = None


class Reader(Protocol):
    """Reads the lines of one command, in order."""

    def read(self, line: str) -> Told | None: ...


READERS = {  # each room has a class Reader
    "fastertransformer": "backends.fastertransformer.progress",
    "tensorrt_llm": "backends.tensorrt_llm.progress",
}


def reader(name: str | None) -> Reader | None:
    """The reader of that name; None where there is none: the command then runs without stages."""
    if name not in READERS:
        return None
    made: Callable[[], Reader] = importlib.import_module(READERS[name]).Reader
    return made()


class Watch:
    """One command's log, read from where it stood at the start. `now` gives seconds, as time.monotonic does."""

    def __init__(self, name: str | None, log: Path, now: Callable[[], float]) -> None:
        self._reader = reader(name)
        self._log = log
        self._at = log.stat().st_size if log.exists() else 0
        self._rest = b""
        self._now = now
        self._heard = self._said = now()
        self._last: Told | None = None

    def news(self) -> Iterator[Told]:
        """What came since the last look. While a known command is silent: that it still works, and since when."""
        if self._reader is None:
            return
        for line in self._lines():
            told = self._reader.read(line)
            if told is not None and told != self._last:
                self._last = told
                self._said = self._now()
                yield told
        silent = self._now() - self._heard
        if silent >= SILENT_S and self._now() - self._said >= SILENT_S:
            self._said = self._now()
            yield self._still(silent)

    def _still(self, silent: float) -> Told:
        stage = self._last.text if self._last is not None and self._last.text is not None else None
        fraction = self._last.fraction if self._last is not None else None
        head = Text(en="Still working", zh="仍在运行") if stage is None else stage
        return Told(
            text=Text(
                en=f"{head.en}; still working, no line for {silent:.0f} s",
                zh=f"{head.zh}；仍在运行，{silent:.0f} 秒没有输出",
            ),
            fraction=fraction,
        )

    def _lines(self) -> Iterator[str]:
        try:
            with self._log.open("rb") as file:
                file.seek(self._at)
                data = file.read(_MOST_BYTES)
        except FileNotFoundError:
            return
        if not data:
            return
        self._heard = self._now()
        self._at += len(data)
        whole = (self._rest + data).replace(b"\r", b"\n")  # a bar redraws its line; each drawing tells
        cut = whole.rfind(b"\n") + 1
        self._rest = whole[cut:][-4096:]
        for line in whole[:cut].split(b"\n"):
            if line:
                yield shown(line.decode("utf-8", "replace"))
