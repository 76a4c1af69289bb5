"""kill -9 at every stage: the state afterwards is true, the log whole, nothing left running that nobody knows."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.__main__ import control as make_control
from app.control import DEMO, Control
from backends.events import Kind
from backends.runs import Run, State
from tests.conftest import until
from tests.live.conftest import gone
from tests.test_jobs import worker_of

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = ("runtime-packages", "repository", "serve", "first-answer", "serving")


class Panel:
    """A panel process, started as a person would start it."""

    def __init__(self, home: Path) -> None:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        words = (sys.executable, "-m", "app", "--home", str(home), "panel", "--port", str(self.port), "--demo")
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def up(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/slipway/health", timeout=2) as answer:
                return answer.status == 200
        except (urllib.error.URLError, OSError):
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)


@pytest.fixture
def clean(live_control: Control) -> Iterator[Control]:
    for run in live_control.open_runs():
        if run.name == "demo":
            gone(live_control, run)
    yield live_control
    for run in live_control.open_runs():
        if run.name == "demo":
            gone(live_control, run)


def forget(control: Control, step_id: str, live_home: Path) -> None:
    """Removes the stamp of one step, so that the next run carries it out."""
    plan = control.plan(DEMO)
    before = {step.id for step in control.to_do(plan)}
    if step_id in before:
        return
    for stamp in (live_home / "stamps").iterdir():
        if stamp.read_text().startswith(f"{step_id} "):
            stamp.unlink()
    assert step_id in {step.id for step in control.to_do(plan)}


def at(control: Control, run_id: str, stage: str) -> bool:
    """True once the run has reached the stage, or is past it."""
    if control.run(run_id).state is State.SERVING:
        return True
    return any(event.step == stage and event.kind is Kind.STARTED for event in control.events(run_id))


def the_run(control: Control) -> Run:
    return until(lambda: next((run for run in control.open_runs() if run.name == "demo"), None), 60)


def strangers(live_home: Path, run: Run) -> list[psutil.Process]:
    """Processes of this data folder's runs that belong to no open run."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        marked = environment.get("SLIPWAY_RUN_HOME") == str(live_home)
        if marked and environment.get("SLIPWAY_RUN", "").startswith("demo-") and environment["SLIPWAY_RUN"] != run.id:
            found.append(process)
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_panel_finds_its_run_again(clean: Control, live_home: Path, stage: str) -> None:
    if stage.startswith("runtime"):
        forget(clean, stage, live_home)
    first = Panel(live_home)
    run = the_run(clean)
    until(lambda: at(clean, run.id, stage), 180)
    first.end(signal.SIGKILL)
    second = Panel(live_home)
    try:
        until(second.up, 60)
        ended = clean.wait(run.id, 180)
        assert ended.state is State.SERVING, ended.trouble
        assert [one.id for one in clean.open_runs() if one.name == "demo"] == [run.id]
        kinds = [event.kind for event in clean.events(run.id) if event.step == "serve"]
        assert kinds.count(Kind.STARTED) == 1
        assert any("Started HTTPService" in line for line in clean.log(run.id, "serve").lines)
        assert strangers(live_home, run) == []
    finally:
        second.end()


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_whose_panel_and_worker_were_killed_is_adopted_or_lost(clean: Control, live_home, stage: str) -> None:
    if stage.startswith("runtime"):
        forget(clean, stage, live_home)
    panel = Panel(live_home)
    run = the_run(clean)
    until(lambda: at(clean, run.id, stage), 180)
    panel.end(signal.SIGKILL)
    worker = worker_of(clean, run.id)
    worker.kill()
    worker.wait(10)
    again = Panel(live_home)
    try:
        until(again.up, 60)
        until(lambda: clean.run(run.id).state in (State.SERVING, State.LOST), 180)
        now = clean.run(run.id)
        if now.state is State.LOST:
            assert clean._targets["local"].find(run.id).processes == 0
            assert now.trouble is not None
            # The panel was asked to launch the demo, so a new run of it goes on behind the steps that are done.
            now = clean.wait(the_run(clean).id, 180)
            assert now.state is State.SERVING, now.trouble
        assert strangers(live_home, now) == []
    finally:
        again.end()


def test_what_a_run_has_done_is_found_by_any_program(clean: Control, live_home: Path) -> None:
    other = make_control({"home": str(live_home)})
    left = {step.id for step in other.to_do(other.plan(DEMO))}
    assert not {step_id for step_id in left if step_id.startswith("runtime-")}
    assert {"serve", "first-answer"} <= left
