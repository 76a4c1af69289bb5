"""What goes wrong at a terminal: workers that die while somebody waits, stores that refuse, faults of our own."""

from __future__ import annotations

import errno
import json
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.exc import DatabaseError, IntegrityError, OperationalError

from app import cli
from app.__main__ import control as make_control
from app.control import Control
from app.faults import LOG, in_words
from backends.errors import BadInput, NotKept, SlipwayError, StepFailed, Unexpected
from backends.runs import State
from storage import database
from tests.conftest import until
from tests.plans import plan, python
from tests.test_cli import slipway
from tests.test_jobs import at_gate, control, gate, worker_of  # noqa: F401

# --- a worker that dies -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", ["follow", "stop"])
def test_who_waits_for_a_run_is_told_when_its_worker_is_killed_and_no_panel_is_open(
    control: Control,  # noqa: F811
    home: Path,
    killed: str,
    monkeypatch,
    capsys,
) -> None:
    monkeypatch.setattr("app.control.RECOVER_S", 0.2)
    run = control.start_plan(plan(gate(home))).run
    until(lambda: at_gate(control, run.id))
    worker, asked, stop = worker_of(control, run.id), threading.Event(), control.stop

    def stop_and_tell(run_id: str) -> object:
        try:
            return stop(run_id)
        finally:
            asked.set()

    monkeypatch.setattr(control, "stop", stop_and_tell)
    with ThreadPoolExecutor(1) as pool:
        try:
            if killed == "stop":
                worker.suspend()  # so that it holds the run and never sees that it is to end
            waiting = pool.submit(cli.main, (killed, run.id), lambda _flags: control)
            if killed == "stop":
                assert asked.wait(30)
            else:
                until(lambda: "gate" in capsys.readouterr().out)
            worker.kill()
            ended = waiting.result(30)
        finally:
            stop(run.id)  # lets a waiting that would never end come to its end
    assert (ended, control.run(run.id).state) == {
        "follow": (StepFailed.exit_code, State.LOST),
        "stop": (0, State.STOPPED),
    }[killed]
    if killed == "follow":
        assert "Its worker ended" in capsys.readouterr().err


# --- a store that refuses ---------------------------------------------------------------------------------------------


def said(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """The exit status and what stands in standard error, in which there is never a traceback."""
    status, told = cli.main(words, make_control), capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    return status, told.err


def test_a_home_that_cannot_be_is_refused_by_name(capsys, monkeypatch) -> None:
    monkeypatch.setenv("SLIPWAY_HOME", "/dev/null/x")
    for name in ("list", "detect", "history", "setup"):
        status, told = said(capsys, name)
        assert status == BadInput.exit_code
        assert "/dev/null/x" in told
        assert "SLIPWAY_HOME" in told
    assert said(capsys, "--home", "~nobody-of-that-name/x", "list")[0] == BadInput.exit_code
    assert cli.main(("list", "--json"), make_control) == BadInput.exit_code
    assert json.loads(capsys.readouterr().out)["field"] == "home"


def test_a_file_that_is_no_database_is_said_and_left_as_it_is(home: Path, capsys) -> None:
    home.mkdir()
    (home / "slipway.db").write_text("My own words. " * 400)
    status, told = said(capsys, "--home", str(home), "--language", "zh", "list")
    assert status == NotKept.exit_code
    assert "数据库无法使用" in told
    assert (home / "slipway.db").read_text() == "My own words. " * 400


def test_a_database_that_is_damaged_behind_its_head_is_said(home: Path, capsys) -> None:
    control_ = make_control({"home": str(home)})
    run = control_.start_plan(plan(python("one", "print('1')"))).run
    control_.wait(run.id, 30)
    path = home / "slipway.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\x7f" * (len(whole) - 4096))
    status, told = said(capsys, "--home", str(home), "history")
    assert status == NotKept.exit_code
    assert "slipway.db" in told


def test_a_database_that_another_program_holds_is_said_by_every_command(home: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    control_ = make_control({"home": str(home)})
    run = control_.start_plan(plan(python("one", "print('1')"))).run
    control_.wait(run.id, 30)
    holder = sqlite3.connect(home / "slipway.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    for words in (("pin", run.id), ("delete", run.id), ("resume", run.id), ("keys", "make", "mine")):
        status, told = said(capsys, "--home", str(home), *words)
        assert (status, "Another program holds the database." in told) == (NotKept.exit_code, True), words
    holder.close()


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), NotKept, "disk is full"),
        (OperationalError("", {}, sqlite3.OperationalError("database or disk is full")), NotKept, "disk is full"),
        (sqlite3.OperationalError("database is locked"), NotKept, "Another program"),
        (DatabaseError("", {}, sqlite3.DatabaseError("database disk image is malformed")), NotKept, "malformed"),
        (PermissionError(errno.EACCES, "Permission denied", "{home}/runs/a"), NotKept, "/runs/a cannot be used"),
        (PermissionError(errno.EACCES, "Permission denied", "/elsewhere"), Unexpected, "PermissionError"),
        (IntegrityError("", {}, sqlite3.IntegrityError("UNIQUE")), Unexpected, "IntegrityError"),
        (BadInput("x", plan().steps[0].title), BadInput, "files"),
    ],
    ids=str,
)
def test_each_error_is_put_into_words(home: Path, error: Exception, kind: type[SlipwayError], words: str) -> None:
    if isinstance(error, OSError) and error.filename:
        error.filename = error.filename.format(home=home)
    found = in_words(error, home)
    assert type(found) is kind
    assert words in found.of("en")


# --- a fault of our own -----------------------------------------------------------------------------------------------


def test_a_fault_of_our_own_is_said_and_its_details_are_kept_without_secrets(home: Path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "open-sesame")

    def broken(_flags: object) -> Control:
        raise ZeroDivisionError("of open-sesame")

    assert cli.main(("--home", str(home), "--language", "zh", "list"), broken) == 1
    told = capsys.readouterr().err
    assert "Slipway 自身出错" in told
    assert str(home / LOG) in told
    assert "Traceback" not in told
    kept = (home / LOG).read_text()
    assert "ZeroDivisionError" in kept
    assert "open-sesame" not in kept
    assert (home / LOG).stat().st_mode & 0o777 == 0o600
    assert cli.main(("--home", "/dev/null/x", "list", "--json"), broken) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["error"] == "Unexpected"
    assert "could not be written" in told["hint"]


def test_a_terminal_that_lacks_a_sign_still_shows_the_rest(home: Path) -> None:
    shown = slipway("--language", "zh", "--help", home=home, PYTHONIOENCODING="ascii")
    assert shown.returncode == 0, shown.stderr
    assert "SLIPWAY_HOME" in shown.stdout


def test_json_is_all_that_setup_prints_where_json_was_asked_for(home: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(Control, "setup_plan", lambda _self: plan(python("one", "print('1')"), name="setup"))
    assert cli.main(("--home", str(home), "setup", "--json"), make_control) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1])["state"] == "done"
    assert all(json.loads(line) for line in lines)
