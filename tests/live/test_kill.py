"""kill -9 at every stage: the state afterwards is true, the log whole, nothing left running that nobody knows."""

from __future__ import annotations

import contextlib
import signal
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
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.live.conftest import gone
from tests.test_jobs import worker_of

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parent.parent.parent
STAGES = ("runtime-packages", "repository", "serve", "first-answer", "serving")


STARTED: list[Panel] = []
"""The panels of a test, which are ended with it however it ends: one that is left launches runs beside the next."""


class Panel:
    """A panel process, started as a person would start it."""

    def __init__(self, home: Path) -> None:
        (self.port,) = free_ports(1)
        words = (sys.executable, "-m", "app", "--home", str(home), "panel", "--port", str(self.port), "--demo")
        self.process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        STARTED.append(self)

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
    while STARTED:
        STARTED.pop().end(signal.SIGKILL)
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
    run = control.run(run_id)
    assert run.state is not State.FAILED, run.trouble
    if run.state is State.SERVING:
        return True
    return any(event.step == stage and event.kind is Kind.STARTED for event in control.events(run_id))


def the_run(control: Control) -> Run:
    return until(lambda: next((run for run in control.open_runs() if run.name == "demo"), None), 60)


class Told:
    """What a run has told by now: the log of each of its steps, and its events."""

    def __init__(self, control: Control, run: Run) -> None:
        paths = {step.id: control.log_path(run.id, step.id) for step in run.plan.steps}
        self.logs = {step: path.read_bytes() for step, path in paths.items() if path.exists()}
        self.events = control.events(run.id)

    def goes_on(self, before: Told) -> None:
        """Asserts that nothing of what was told before is lost or told otherwise, and that no server began twice."""
        assert before.logs and self.logs.keys() >= before.logs.keys()
        assert [step for step, log in before.logs.items() if not self.logs[step].startswith(log)] == []
        assert self.events[: len(before.events)] == before.events
        assert self.starts <= 1

    @property
    def starts(self) -> int:
        """How often the log tells that the server has begun."""
        return self.logs.get("serve", b"").count(b"Started HTTPService")


def at_work(live_home: Path) -> set[str]:
    """Runs of the demo that processes belong to, living or left over, by the mark in their environment."""
    found = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it ends just now
            environment = process.environ()
            if environment.get("SLIPWAY_RUN_HOME") == str(live_home):
                found.add(environment.get("SLIPWAY_RUN", ""))
    return {run for run in found if run.startswith("demo-")}


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_panel_finds_its_run_again(clean: Control, live_home: Path, stage: str) -> None:
    if stage.startswith("runtime"):
        forget(clean, stage, live_home)
    first = Panel(live_home)
    run = the_run(clean)
    until(lambda: at(clean, run.id, stage), 180)
    first.end(signal.SIGKILL)
    before = Told(clean, run)
    second = Panel(live_home)
    try:
        until(second.up, 60)
        ended = clean.wait(run.id, 180)
        assert ended.state is State.SERVING, ended.trouble
        assert [one.id for one in clean.open_runs() if one.name == "demo"] == [run.id]
        kinds = [event.kind for event in clean.events(run.id) if event.step == "serve"]
        assert kinds.count(Kind.STARTED) == 1
        told = Told(clean, run)
        told.goes_on(before)
        assert told.starts == 1
        assert at_work(live_home) == {run.id}
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
    target = clean._targets["local"]
    server, before = target._service(run.id), Told(clean, run)
    assert server is not None or stage not in ("first-answer", "serving")
    again = Panel(live_home)
    try:
        until(again.up, 60)
        if server is not None:
            assert worker_of(clean, run.id).pid != worker.pid
            now = clean.wait(run.id, 180)
            assert target._service(run.id) == server
        else:
            lost = until(lambda: (one := clean.run(run.id)).state is State.LOST and one, 60)
            assert target.find(run.id).processes == 0
            assert lost.trouble is not None
            # The panel was asked to launch the demo, so a new run of it goes on behind the steps that are done.
            now = clean.wait(the_run(clean).id, 180)
        assert now.state is State.SERVING, now.trouble
        Told(clean, run).goes_on(before)
        assert Told(clean, now).starts == 1
        assert at_work(live_home) == {now.id}
    finally:
        again.end()


def test_what_a_run_has_done_is_found_by_any_program(clean: Control, live_home: Path) -> None:
    other = make_control({"home": str(live_home)})
    left = {step.id for step in other.to_do(other.plan(DEMO))}
    assert not {step_id for step_id in left if step_id.startswith("runtime-")}
    assert {"serve", "first-answer"} <= left
