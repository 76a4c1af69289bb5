"""What the tests share: homes, the embedded runtime, waiting for a condition."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from hypothesis import HealthCheck, settings

from storage.store import Store

T = TypeVar("T")
LANES = ("plain", "host", "upstream", "alone")
IN_CI = os.environ.get("CI", "").lower() in ("1", "true")
A_PERSON_S_OWN = (
    "LANGUAGE", "LC_ALL", "LC_MESSAGES", "SLIPWAY_HOME", "SLIPWAY_HOST", "SLIPWAY_LANGUAGE", "SLIPWAY_MODEL_ROOTS",
    "SLIPWAY_NAMES", "SLIPWAY_PASSWORD", "SLIPWAY_PORT", "SLIPWAY_REQUIRE_KEY", "SLIPWAY_WATCH_HOSTS",
)  # fmt: skip

# How long an example takes says how busy the machine is.
settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=(HealthCheck.too_slow,))
settings.load_profile("any machine")


def pytest_configure() -> None:
    """The tests' words are English and their panels nobody's, whoever runs them and however their own is set up."""
    for name in A_PERSON_S_OWN:
        os.environ.pop(name, None)
    os.environ["LANG"] = "C.UTF-8"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lane", choices=LANES, help="run this part of the tests only: see scripts/test_lanes.py")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps the tests of the lane that is asked for."""
    wanted = config.getoption("--lane")
    if wanted is not None:
        kept = [item for item in items if lane_of(item) == wanted]
        config.hook.pytest_deselected(items=[item for item in items if lane_of(item) != wanted])
        items[:] = kept


def lane_of(item: pytest.Item) -> str:
    """`alone`: measures, so nothing else may run; `plain`: needs no real part; `upstream`: deploys what stands for
    upstream's images and repositories; `host`: needs other real parts. The latter two take about as long."""
    needs = set(getattr(item, "fixturenames", ()))
    if item.get_closest_marker("alone"):
        return "alone"
    if item.get_closest_marker("live"):
        return "upstream" if needs & {"upstream", "images", "bases"} else "host"
    return "host" if needs & {"runtime_dir", "chromium"} else "plain"


def until(look: Callable[[], T], timeout_s: float = 30.0, what: str = "") -> T:
    """Looks until it sees something true, and returns it; fails loudly after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause = 0.01
    while True:
        last = time.monotonic() > deadline  # asked before it is looked: the looker may be the one that was paused
        seen = look()
        if seen:
            return seen
        if last:
            raise AssertionError(f"not within {timeout_s} s: {what or look}; last seen: {seen!r}")
        time.sleep(pause)  # the pause between two looks of a bounded wait, not a guess at a duration
        pause = min(pause * 1.5, 0.2)


def gone(pid: int) -> bool:
    """Whether a process has ended; one whose parent has not asked for its end yet has too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def missing(part: str) -> None:
    """Skips by name with the reason; in CI a missing part is an error."""
    if IN_CI:
        pytest.fail(f"{part} is missing, and nothing may be skipped in CI")
    pytest.skip(f"{part} is missing")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty data folder."""
    return tmp_path / "home"


@pytest.fixture
def store(home: Path) -> Iterator[Store]:
    """A store in an empty data folder."""
    store = Store(home)
    yield store
    store.close()


@pytest.fixture(scope="session")
def live_home() -> Path:
    """The data folder that holds the embedded runtime; `make test` prepares it."""
    return Path(os.environ.get("SLIPWAY_TEST_HOME") or Path.home() / ".cache" / "slipway-test")


@pytest.fixture(scope="session")
def runtime_dir(live_home: Path) -> Path:
    """The embedded runtime: tritonserver, PyTorch, transformers."""
    runtime = Path(os.environ.get("SLIPWAY_RUNTIME") or live_home / "runtime")
    if not (runtime / "tritonserver.json").exists():
        missing(f"the embedded runtime in {runtime} (make test prepares it)")
    return runtime


@pytest.fixture(scope="session")
def runtime_python(runtime_dir: Path) -> Path:
    """The interpreter of the embedded runtime, which has PyTorch."""
    return runtime_dir / "bin" / "python"


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser of the live page tests."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        missing("chromium (apt install chromium)")
        raise AssertionError
    return found
