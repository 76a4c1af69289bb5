"""One SQLite database in WAL mode: opened, migrated, read by many at once and written by one at a time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlmodel import Session, create_engine

from storage.migrations import migrate

BUSY_TIMEOUT_S = 15


class Database:
    """slipway.db below `folder`. Safe from several threads and programs at once."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / "slipway.db"
        if not self.path.exists():
            self.path.touch(mode=0o600)
        migrate(self.path)
        self._engine = _engine(self.path)
        self._writing = threading.Lock()

    def close(self) -> None:
        """Lets go of the database."""
        self._engine.dispose()

    def _read(self) -> Session:
        return Session(self._engine)

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with self._writing, Session(self._engine, expire_on_commit=False) as session:
            yield session
            session.commit()


def now() -> str:
    """This moment as the tables keep it: ISO 8601 in UTC, so that it sorts as text."""
    return datetime.now(UTC).isoformat()


def changed(result: Any) -> bool:
    """Whether a statement changed any row."""
    return bool(result.rowcount)


def part_of(query: str) -> str:
    """A LIKE pattern (escape: backslash) for texts that hold `query`, whatever signs are in it."""
    return "%" + query.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def _engine(path: Path) -> Engine:
    # hide_parameters: a failed statement would otherwise print its values, a spec or a log line among them.
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine
