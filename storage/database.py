"""One SQLite database in WAL mode: opened, migrated, read by many at once and written by one at a time."""

from __future__ import annotations

import errno
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlmodel import Session, create_engine

from backends.errors import BadInput, NotKept
from backends.text import Text
from storage.migrations import migrate

BUSY_TIMEOUT_S = 15
FULL = (errno.ENOSPC, errno.EDQUOT)  # of an OSError: no room is left for this person
# Of a held, full or damaged file; their other kinds tell of a wrong statement, which is our own fault.
_REFUSED = (OperationalError, DatabaseError, sqlite3.OperationalError, sqlite3.DatabaseError)


class Database:
    """slipway.db below `folder`. Safe from several threads and programs at once.

    Raises BadInput where the folder cannot be, NotKept where the file cannot be read or written, CannotDo where a newer
    Slipway wrote it.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "slipway.db"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if not self.path.exists():
                self.path.touch(mode=0o600)
            migrate(self.path)
        except OSError as error:
            raise not_kept(error) if error.errno in FULL else _no_folder(folder, error) from error
        except sqlite3.DatabaseError as error:
            raise not_kept(error) from error
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


def not_kept(error: sqlite3.Error | DatabaseError | OSError, more: Text | None = None) -> NotKept:
    """What SQLite or the disk refused, in words; `more` is said behind what to do."""
    why = str(getattr(error, "orig", None) or error)
    if "full" in why.lower() or getattr(error, "errno", None) in FULL:
        message = Text(en="The disk is full, so nothing more can be kept.", zh="磁盘已满，无法继续保存。")
        hint = Text(en="Make room, then try again.", zh="请清理磁盘后重试。")
    elif "locked" in why.lower() or "busy" in why.lower():
        message = Text(en="Another program holds the database.", zh="数据库被其他程序占用。")
        hint = Text(en="Try again in a moment.", zh="请稍后重试。")
    else:
        message = Text(en=f"The database cannot be used: {why}.", zh=f"数据库无法使用：{why}。")
        hint = Text(
            en="Look at slipway.db in the data folder: who may write it, and whether it is whole. Moved away, with "
            "Slipway's own programs ended first, it is made anew without the history; servers that live are found "
            "again. Another folder: --home or SLIPWAY_HOME.",
            zh="请检查数据目录中 slipway.db 的权限与完整性。也可先结束 Slipway 自身的进程再将其移走：会新建一个，"
            "历史不再保留，仍在运行的服务会重新找到。或用 --home、SLIPWAY_HOME 更换数据目录。",
        )
    return NotKept(message, hint if more is None else hint + more, "home")


def refused(error: Exception) -> NotKept | None:
    """The same for any error; None where neither SQLite nor a full disk is behind it."""
    if isinstance(error, DatabaseError | sqlite3.DatabaseError) and type(error) in _REFUSED:
        return not_kept(error)
    return not_kept(error) if isinstance(error, OSError) and error.errno in FULL else None


def _no_folder(folder: Path, error: OSError) -> BadInput:
    why = error.strerror
    return BadInput(
        "home",
        Text(en=f"home: {folder} cannot be the data folder: {why}.", zh=f"home：{folder} 无法用作数据目录：{why}。"),
        Text(
            en="Choose a folder that you may write to, with --home or SLIPWAY_HOME.",
            zh="用 --home 或 SLIPWAY_HOME 换一个可写的目录。",
        ),
    )


def _engine(path: Path) -> Engine:
    # hide_parameters: a failed statement would otherwise print its values, a spec or a log line among them.
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True, connect_args={"timeout": BUSY_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def _set_up(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine
