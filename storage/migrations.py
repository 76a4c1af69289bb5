"""Numbered changes of the database, applied in order, never edited once released. A copy is kept before any change."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

from backends.errors import CannotDo
from backends.text import Text

PATIENCE_S = 30.0  # with another program that holds the database
MIGRATIONS: list[Callable[[sqlite3.Connection], None]] = []
migration = MIGRATIONS.append


@migration
def m001_runs_and_events(db: sqlite3.Connection) -> None:
    """Runs, with one open run a name; events by cursor."""
    for statement in (
        """CREATE TABLE run (
             id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, state TEXT NOT NULL, engine TEXT NOT NULL,
             model TEXT NOT NULL, target TEXT NOT NULL, spec TEXT NOT NULL, plan TEXT NOT NULL,
             spec_digest TEXT NOT NULL, created_at TEXT NOT NULL, ready_at TEXT, finished_at TEXT,
             attempt INTEGER NOT NULL, stop_asked BOOLEAN NOT NULL, endpoint TEXT, trouble TEXT, answer TEXT,
             measured TEXT NOT NULL)""",
        """CREATE UNIQUE INDEX run_open_name ON run (name)
             WHERE state IN ('queued', 'running', 'serving', 'stopping')""",
        "CREATE INDEX run_created ON run (created_at, id)",
        "CREATE INDEX run_state ON run (state, created_at, id)",
        """CREATE TABLE event (
             seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, run TEXT NOT NULL, step TEXT, kind TEXT NOT NULL,
             at TEXT NOT NULL, body TEXT NOT NULL)""",
        "CREATE INDEX event_run ON event (run, seq)",
    ):
        db.execute(statement)


@migration
def m002_keys(db: sqlite3.Connection) -> None:
    """Keys of the API."""
    db.execute(
        """CREATE TABLE api_key (
             id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL, created_at TEXT NOT NULL,
             last_used_at TEXT, revoked_at TEXT)"""
    )


@migration
def m003_conversations(db: sqlite3.Connection) -> None:
    """Conversations and their messages."""
    for statement in (
        """CREATE TABLE conversation (
             id TEXT NOT NULL PRIMARY KEY, name TEXT NOT NULL, run TEXT, engine TEXT NOT NULL, model TEXT NOT NULL,
             created_at TEXT NOT NULL, updated_at TEXT NOT NULL, system TEXT NOT NULL, sampling TEXT NOT NULL,
             head INTEGER)""",
        "CREATE INDEX conversation_updated ON conversation (updated_at, id)",
        """CREATE TABLE message (
             id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, conversation TEXT NOT NULL, parent INTEGER,
             position INTEGER NOT NULL, role TEXT NOT NULL, content TEXT NOT NULL, figures TEXT NOT NULL,
             at TEXT NOT NULL)""",
        "CREATE INDEX message_conversation ON message (conversation, id)",
    ):
        db.execute(statement)


@migration
def m004_pins_and_search(db: sqlite3.Connection) -> None:
    """Pinned runs; and what is searched in an index of its own, so that a search reads no plan."""
    for statement in (
        "ALTER TABLE run ADD COLUMN pinned BOOLEAN NOT NULL DEFAULT 0",
        "ALTER TABLE run ADD COLUMN words TEXT NOT NULL DEFAULT ''",
        "UPDATE run SET words = id || char(10) || name || char(10) || model || char(10) || engine",
        "CREATE INDEX run_words ON run (created_at, id, state, pinned, words)",
        "CREATE INDEX run_pinned ON run (created_at, id) WHERE pinned IS 1",
    ):
        db.execute(statement)


@migration
def m005_watched_servers(db: sqlite3.Connection) -> None:
    """Servers watched by address."""
    db.execute(
        """CREATE TABLE watched_server (
             id TEXT NOT NULL PRIMARY KEY, server TEXT NOT NULL, address TEXT NOT NULL, added_at TEXT NOT NULL)"""
    )


@migration
def m006_choices(db: sqlite3.Connection) -> None:
    """What a person chose for the whole panel, such as the thresholds of alerts."""
    db.execute("CREATE TABLE choice (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)")


@migration
def m007_conversations_side_by_side(db: sqlite3.Connection) -> None:
    """Of two conversations that are asked the same questions, each knows the other."""
    db.execute("ALTER TABLE conversation ADD COLUMN twin TEXT")


def migrate(path: Path) -> None:
    """Brings the database at `path` to the newest version, in one transaction, with a copy `.before-N` kept.

    Raises CannotDo where a newer Slipway wrote it: an older one must not touch it.
    """
    db = sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)
    try:
        _write_ahead(db)
        if _version(db) == len(MIGRATIONS):
            return
        db.execute("BEGIN IMMEDIATE")  # of two programs that start at once, one migrates and the other finds it done
        version = _version(db)
        if version > len(MIGRATIONS):
            raise CannotDo(
                Text(
                    en=f"The history at {path} was written by a newer Slipway.",
                    zh=f"{path} 由更新版本的 Slipway 写入。",
                ),
                hint=Text(
                    en="Update Slipway, or choose another SLIPWAY_HOME.", zh="升级 Slipway，或更换 SLIPWAY_HOME。"
                ),
            )
        if 0 < version < len(MIGRATIONS):
            _copy(path, path.with_name(f"{path.name}.before-{len(MIGRATIONS)}"))
        for step in MIGRATIONS[version:]:
            step(db)
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
        db.execute("COMMIT")
    finally:
        db.close()


def _write_ahead(db: sqlite3.Connection) -> None:
    """Puts a new database into WAL mode. SQLite's own timeout does not hold for that: where another program does the
    same at the same moment, it refuses at once."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _copy(source: Path, target: Path) -> None:
    old, new = sqlite3.connect(source), sqlite3.connect(target)
    try:
        old.backup(new)
    finally:
        old.close()
        new.close()
