"""The database from its oldest shape to the newest, with rows and without."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from backends.events import Event, Kind
from backends.runs import State
from storage import migrations
from storage.store import Store
from tests.plans import plan

# What the first version wrote, taken from it: columns by name, so that later columns do not matter.
OLD_RUN = """INSERT INTO run (id, name, state, engine, model, target, spec, plan, spec_digest, created_at, ready_at,
    finished_at, attempt, stop_asked, endpoint, trouble, answer, measured)
    VALUES (?, ?, ?, 'transformers', 'demo', 'local', ?, ?, 'd', ?, NULL, NULL, 1, 0, NULL, NULL, 'Hello.', '{}')"""
OLD_EVENT = "INSERT INTO event (run, step, kind, at, body) VALUES (?, 'files', 'done', ?, '{}')"


def oldest(home: Path, names: tuple[str, ...]) -> Path:
    """A database as the first version left it, with a finished run of each name."""
    home.mkdir(parents=True)
    path = home / "slipway.db"
    with sqlite3.connect(path) as db:
        migrations.MIGRATIONS[0](db)
        db.execute("PRAGMA user_version = 1")
        for number, name in enumerate(names):
            made, at = plan(name=name), f"2025-01-0{number + 1}T00:00:00+00:00"
            spec, whole = made.spec.model_dump_json(), made.model_dump_json()
            db.execute(OLD_RUN, (f"{name}-1", name, State.STOPPED.value, spec, whole, at))
            db.execute(OLD_EVENT, (f"{name}-1", at))
    db.close()
    return path


@pytest.mark.parametrize("names", [(), ("one", "two")], ids=["empty", "with rows"])
def test_the_oldest_database_comes_to_the_newest_shape(home: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    path = oldest(home, names)
    store, new = Store(home), Store(tmp_path / "new")

    def shape(one: Path) -> list[tuple[str, ...]]:
        with sqlite3.connect(one) as db:
            tables = [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1")]
            indexes = list(db.execute("SELECT name FROM sqlite_master WHERE type = 'index' ORDER BY 1"))
            return [tuple(db.execute(f"PRAGMA table_info({table})")) for table in tables] + indexes

    assert shape(path) == shape(new.path)
    assert [row.name for row in store.runs()] == list(reversed(names))
    for name in names:
        assert store.run(f"{name}-1").answer == "Hello."
        assert [event.kind for event in store.after(f"{name}-1")] == [Kind.DONE]
    store.close()
    new.close()


def test_an_old_database_is_copied_before_it_is_changed(home: Path) -> None:
    path = oldest(home, ("one",))
    Store(home).close()
    copy = path.with_name(f"slipway.db.before-{len(migrations.MIGRATIONS)}")
    with sqlite3.connect(copy) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT count(*) FROM run").fetchone() == (1,)


def test_a_migrated_database_goes_on(home: Path) -> None:
    oldest(home, ("one",))
    store = Store(home)
    assert store.begin("one-2", plan(name="one")) is not None
    store.append("one-2", [Event(step="files", kind=Kind.STARTED)])
    assert store.after("one-2")[0].seq > store.after("one-1")[0].seq
    store.close()


def test_a_migration_that_fails_changes_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = oldest(home, ("one",))

    def broken(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (id TEXT)")
        raise RuntimeError("the power went")

    monkeypatch.setattr(migrations, "MIGRATIONS", [*migrations.MIGRATIONS, broken])
    with pytest.raises(RuntimeError):
        Store(home)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert [row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE name = 'half'")] == []


def test_who_opens_a_new_database_while_another_program_makes_it_waits(home: Path, monkeypatch) -> None:
    home.mkdir()
    other = sqlite3.connect(home / "slipway.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")

    def pause(_seconds: float) -> None:
        other.rollback()

    monkeypatch.setattr(migrations, "time", SimpleNamespace(monotonic=time.monotonic, sleep=pause))
    Store(home).close()
    assert not other.in_transaction, "it was waited for"
    other.close()
