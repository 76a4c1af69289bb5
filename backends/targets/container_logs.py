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
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import docker
import requests
import urllib3

from backends.errors import SlipwayError
from backends.spec import Frozen
from backends.targets.base import redact
from backends.targets.engine import Engine

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


class Taken:
    """Turns stamped messages into log bytes. Pure: resumes behind a cursor, cuts at line ends, hides secrets."""

    def __init__(self, cursor: Cursor, log_size: int, secrets: Iterable[str] = ()) -> None:
        self.cursor = cursor
        self._known = Counter(cursor.recent)
        self._floor = min(cursor.recent, default="")
        self._again = max(0, log_size - cursor.size)  # bytes that the log has already
        self._secrets = tuple(secrets)
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._recent = deque(cursor.recent, maxlen=RECENT)

    def feed(self, message: bytes) -> None:
        """One message as Docker's log sends it: time stamp, space, text."""
        stamp, _, text = message.partition(b" ")
        at = stamp.decode("ascii", "replace")
        if at < self._floor:
            return
        if self._known[at] > 0:
            self._known[at] -= 1
            return
        self._recent.append(at)
        self._held.append(text)
        self._held_bytes += len(text)

    @property
    def held(self) -> int:
        """Bytes that wait to be written."""
        return self._held_bytes

    def take(self, ended: bool = False) -> bytes:
        """What may be written now: whole lines, or all of it where nothing more comes."""
        data = b"".join(self._held)
        cut = len(data) if ended or len(data) > _LONGEST else data.rfind(b"\n") + 1
        if cut == 0:
            return b""
        rest = data[cut:]
        self._held, self._held_bytes = ([rest] if rest else []), len(rest)
        text = redact(data[:cut].decode("utf-8", "surrogateescape"), self._secrets).encode(errors="surrogateescape")
        known = min(self._again, len(text))
        self._again -= known
        if not rest:  # a message in the middle of a line comes whole again
            self.cursor = Cursor(container=self.cursor.container, recent=tuple(self._recent))
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

    def finish(self, patience_s: float = 5.0) -> None:
        """Waits for the last lines of a container that has ended, and writes them."""
        self._thread.join(timeout=patience_s)
        with self._lock:
            if not self._file.closed:
                self._write(ended=True)
                self._keep_cursor()
                self._file.close()

    def _follow(self, at: str) -> None:
        gone = (
            OSError,
            urllib3.exceptions.HTTPError,
            requests.exceptions.RequestException,
            docker.errors.DockerException,
        )
        with contextlib.suppress(SlipwayError, *gone):  # whoever waits sees the same in the container's state
            client = self._engine.connect()
            with contextlib.closing(client):
                since = _seconds(at)
                messages = client.logs(self._container, stream=True, follow=True, timestamps=True, since=since)
                for message in messages:
                    with self._lock:
                        if self._file.closed:
                            break
                        self._taken.feed(message)
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
        cursor = self._taken.cursor.model_copy(update={"size": self._log.stat().st_size})
        new = self._cursor_file.with_suffix(".cursor.new")
        new.write_text(cursor.model_dump_json(), encoding="utf-8")
        new.replace(self._cursor_file)

    def _read_cursor(self) -> Cursor | None:
        try:
            cursor = Cursor.model_validate(json.loads(self._cursor_file.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return None
        return cursor if cursor.container == self._container else None


def _seconds(at: str) -> float | None:
    """A little before Docker's time stamp, as seconds since 1970; the exact place is found by comparing stamps."""
    if not at:
        return None
    return datetime.fromisoformat(f"{at[:19]}+00:00").timestamp() - 1.0
