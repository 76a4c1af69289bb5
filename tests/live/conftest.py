"""Real parts: a real tritonserver with the demo model, deployed as a person would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from app.__main__ import control as make_control
from app.control import DEMO, Control
from backends.probes.server import look
from backends.runs import Run, State
from scripts.test_lanes import DIED
from tests.conftest import until


@pytest.fixture(scope="session")
def live_control(live_home: Path, runtime_dir: Path) -> Iterator[Control]:
    """A control over the data folder that holds the embedded runtime, without what earlier tests may have left."""
    control = make_control({"home": str(live_home)})
    for run in control.open_runs():
        gone(control, run)
    yield control
    for run in control.open_runs():
        gone(control, run)


def deployed(control: Control, name: str, **changes: object) -> Run:
    """The demo, deployed under that name and serving."""
    run = control.start(DEMO.model_copy(update={"name": name, **changes})).run
    run = control.wait(run.id, timeout_s=180)
    assert run.state is State.SERVING, f"{run.state}: {run.trouble}"
    return run


def gone(control: Control, run: Run) -> None:
    """Stops a run and proves that nothing of it is left."""
    control.stop(run.id)
    until(lambda: not control.run(run.id).state.is_open(), 30)
    assert control._targets["local"].find(run.id).processes == 0


@pytest.fixture(scope="session")
def demo_servers(live_control: Control) -> Iterator[Callable[[], Run]]:
    """Gives the one demo server for all tests that only talk to it, and another where that one has died."""
    runs: list[Run] = []

    def living() -> Run:
        if not runs or not _lives(live_control, runs[-1]):
            until(lambda: not runs or not live_control.run(runs[-1].id).state.is_open(), 30, "its run to be over")
            runs.append(deployed(live_control, "served"))
        return runs[-1]

    yield living
    for run in runs:
        gone(live_control, run)


def counted(run: Run) -> dict[str, float]:
    """What the run's server counts and shows now, by name; requests that have ended by their outcome too."""
    with httpx.Client(trust_env=False) as client:
        seen = look(client, run.endpoint, timeout_s=20)
    assert seen.ready
    return seen.values


@pytest.fixture
def served(demo_servers: Callable[[], Run], live_control: Control) -> Iterator[Run]:
    """A demo server, shared. One that dies is the failure of the test in which it died, and of no other."""
    run = demo_servers()
    yield run
    assert _lives(live_control, run), f"{DIED}: {live_control.log(run.id, 'serve').lines[-5:]}"


def _lives(control: Control, run: Run) -> bool:
    return control._targets["local"]._service(run.id) is not None


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[object]:
    """One Chromium for the tests of a module."""
    from tests.live.browser import opened

    with opened(chromium) as found:
        yield found
