"""A container's output into the step's append-only log: read by a thread, written in batches, taken up again after a
worker's death without a line lost or told twice.

Docker keeps the lines (rotated, see `containers.LOG_LIMITS`) and stamps each with its time. Beside the log lies a
cursor: the container, the newest time stamps taken, and how long the log was then. What the log has beyond that length
had been written before the cursor could follow, and is left out when it comes again.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import requests
import urllib3

from backends.errors import SlipwayError
from backends.spec import Frozen
from backends.targets.base import redact
from backends.targets.engine import ANSWER_S, Engine

WRITE_BYTES = 65_536  # a batch is written when it is as large as this, or when somebody looks
CURSOR_S = 1.0
RECENT = 256  # one line of up to 4 MiB comes as so many messages of one stamp
_LONGEST = 2**20  # a line longer than this is written in pieces, so memory stays bounded


class Cursor(Frozen):
    """How far a log has been taken over. `recent` are Docker's time stamps (RFC 3339, ns) of the newest messages: more
    than one, since two streams of one container may come in another order than their stamps."""

    container: str
    recent: tuple[str, ...] = ()
    size: int = 0


class Frames:
    """Takes Docker's stream apart: 8 bytes of header (stream, 3 zeros, length big-endian), then a message. Pure.

    Source: Docker Engine API, "Attach to a container", stream format.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are whole now."""
        data = self._rest + data
        messages, at, size = [], 0, len(data)
        while at + 8 <= size:
            end = at + 8 + int.from_bytes(data[at + 4 : at + 8])
            if end > size:
                break
            messages.append(data[at + 8 : end])
            at = end
        self._rest = data[at:]
        return messages


class Taken:
    """Turns stamped messages into log bytes. Pure: resumes behind a cursor, cuts at line ends, hides secrets."""

    def __init__(self, cursor: Cursor, log_size: int, secrets: Iterable[str] = ()) -> None:
        self._recent = deque((stamp.encode() for stamp in cursor.recent), maxlen=RECENT)
        self._known = Counter(self._recent)
        # Of the oldest stamp some messages may have dropped out of the memory: they are all older than the others.
        self._older = min(self._recent) if len(self._recent) == RECENT and len(self._known) > 1 else b""
        self._again = max(0, log_size - cursor.size)  # bytes that the log has already
        self._secrets = tuple(secrets)
        self._held: list[bytes] = []
        self.held = 0  # bytes that wait to be written

    def feed(self, messages: Iterable[bytes]) -> None:
        """Messages as Docker's log sends them: time stamp, space, text."""
        for message in messages:
            at, _, text = message.partition(b" ")
            if self._known:
                if at <= self._older:
                    continue
                if self._known[at] > 0:
                    self._known[at] -= 1
                    continue
            self._recent.append(at)
            self._held.append(text)
            self.held += len(text)

    @property
    def recent(self) -> tuple[str, ...]:
        """The newest time stamps. With nothing held, a cursor may stand here."""
        return tuple(stamp.decode("ascii", "replace") for stamp in self._recent)

    def take(self, ended: bool = False) -> bytes:
        """What may be written now: whole lines, or all of it where nothing more comes."""
        data = b"".join(self._held)
        cut = len(data) if ended or len(data) > _LONGEST else data.rfind(b"\n") + 1
        if cut == 0:
            return b""
        rest = data[cut:]
        self._held, self.held = ([rest] if rest else []), len(rest)
        text = redact(data[:cut].decode("utf-8", "surrogateescape"), self._secrets).encode(errors="surrogateescape")
        known = min(self._again, len(text))
        self._again -= known
        return text[known:]


class Follower:
    """Follows one container's output into `log` until it ends. `flush` is called by whoever waits for the container."""

    def __init__(self, engine: Engine, container: str, log: Path, secrets: Iterable[str] = ()) -> None:
        self._engine = engine
        self._container = container
        self._log = log
        self._cursor_file = log.with_suffix(".cursor")
        self._lock = threading.Lock()
        log.touch()
        size = log.stat().st_size
        cursor = self._read_cursor() or Cursor(container=container, size=size)
        self._taken = Taken(cursor, size, secrets)
        self._file = log.open("ab", buffering=0)
        self._told = 0.0
        self._kept: Cursor | None = None
        self._read = 0
        self._keep_cursor()
        self._thread = threading.Thread(target=self._follow, args=(min(cursor.recent, default=""),), daemon=True)
        self._thread.start()

    @property
    def over(self) -> bool:
        """True where nothing more comes: the container ended, or the connection."""
        return not self._thread.is_alive()

    def flush(self) -> None:
        """Writes what has come."""
        with self._lock:
            self._write(ended=False)

    def finish(self, patience_s: float = 15.0) -> None:
        """Waits for the last lines of a container that has ended, as long as lines come, and writes them."""
        size = -1
        while self._thread.is_alive() and size != self._read:
            size = self._read
            self._thread.join(timeout=patience_s)
        with self._lock:
            if not self._file.closed:
                self._write(ended=True)
                self._keep_cursor()
                self._file.close()

    def _follow(self, at: str) -> None:
        gone = (OSError, urllib3.exceptions.HTTPError, requests.exceptions.RequestException)
        with contextlib.suppress(SlipwayError, *gone), contextlib.closing(self._engine.connect()) as client:
            frames = Frames()  # whoever waits for the container sees a lost connection in its state
            for data in _stream(client, self._container, _seconds(at)):
                with self._lock:
                    if self._file.closed:
                        break
                    self._read += len(data)
                    self._taken.feed(frames.feed(data))
                    if self._taken.held >= WRITE_BYTES:
                        self._write(ended=False)

    def _write(self, ended: bool) -> None:
        if self._file.closed:
            return
        data = self._taken.take(ended)
        if data:
            self._file.write(data)
        if time.monotonic() - self._told > CURSOR_S:
            self._keep_cursor()

    def _keep_cursor(self) -> None:
        if self._taken.held:
            return  # the cursor stands behind whole messages only
        self._told = time.monotonic()
        cursor = Cursor(container=self._container, recent=self._taken.recent, size=self._log.stat().st_size)
        if cursor == self._kept:
            return  # a server that says nothing would have it written every second for as long as it serves
        new = self._cursor_file.with_suffix(".cursor.new")
        new.write_text(cursor.model_dump_json(), encoding="utf-8")
        new.replace(self._cursor_file)
        self._kept = cursor

    def _read_cursor(self) -> Cursor | None:
        try:
            cursor = Cursor.model_validate(json.loads(self._cursor_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        return cursor if cursor.container == self._container else None


def _stream(client: Any, container: str, since: int) -> Iterator[bytes]:
    """The container's output as the engine sends it, in large pieces: the library's own reader takes every line apart
    in two reads, which costs a core at 100,000 lines a second."""
    answer = client.get(
        f"{client.base_url}/v{client.api_version}/containers/{container}/logs",
        params={"stdout": 1, "stderr": 1, "follow": 1, "timestamps": 1, "since": since},
        stream=True,
        timeout=(ANSWER_S, None),
    )
    answer.raise_for_status()
    yield from answer.iter_content(chunk_size=None)


def _seconds(at: str) -> int:
    """A little before Docker's time stamp, as seconds since 1970; the exact place is found by comparing stamps."""
    return int(datetime.fromisoformat(f"{at[:19]}+00:00").timestamp()) - 1 if at else 0
