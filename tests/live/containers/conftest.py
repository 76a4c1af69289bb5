"""A real engine, the stand-in image, a registry, data folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.spec import Endpoint
from backends.targets.docker import DockerTarget
from scripts.bench.engine_server import free_ports
from tests.conftest import missing, until
from tests.docker import stand_in
from tests.live.containers.parts import RUN, a_registry, a_target, mine


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """The machine's own Docker engine."""
    try:
        client = docker.from_env(version="auto")
        client.ping()
    except docker.errors.DockerException as error:
        missing(f"a Docker engine ({error})")
        raise
    yield client
    client.close()


@pytest.fixture(scope="session")
def image(engine: docker.DockerClient) -> str:
    """The stand-in for NVIDIA's Triton image."""
    reason = stand_in.why_not()
    if reason is not None:
        missing(reason)
    return stand_in.build()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    return home


@pytest.fixture
def target(home: Path, engine: docker.DockerClient) -> Iterator[DockerTarget]:
    target = a_target(home)
    yield target
    target.stop(RUN)
    target.reclaim(target.reclaimable())
    assert not engine.containers.list(all=True, ignore_removed=True, filters={"label": f"slipway.home={home}"})


@pytest.fixture
def free() -> Endpoint:
    http, grpc, metrics = free_ports(3)
    return Endpoint(http_port=http, grpc_port=grpc, metrics_port=metrics, model="echo")


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, engine) -> Iterator[str]:
    with a_registry(tmp_path_factory.mktemp("registry")) as address:
        yield address


@pytest.fixture
def control(tmp_path: Path, engine) -> Iterator[Control]:
    control = make_control({"home": str(tmp_path / "panel")})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
        until(lambda run=run: not control.run(run.id).state.is_open(), 30)
    assert not mine(engine, control.settings.home)
