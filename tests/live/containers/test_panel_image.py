"""The panel's own image, built and run."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.steps import (
    Mount,
)
from backends.targets.waiting import healthy
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.docker import stand_in
from tests.live.containers.parts import a_plan, task

pytestmark = pytest.mark.live


@pytest.mark.timeout(1200)  # its first build installs all that the panel needs; Docker keeps that layer
def test_the_panels_own_image_serves_and_reaches_docker_by_the_socket_it_is_given(image, engine, tmp_path) -> None:
    root = Path(__file__).resolve().parents[3]
    arguments = {"BASE": stand_in.python(), "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
    options = {"rm": True, "network_mode": "host", "buildargs": arguments}
    built, _ = engine.images.build(path=str(root), tag="slipway.test/panel:1", **options)
    assert built.attrs["Config"]["User"] == "1000:1000"
    data = tmp_path / "slipway"
    data.mkdir()
    os.chown(data, 12345, 12345)
    tmp_path.chmod(0o755)
    group = Path("/var/run/docker.sock").stat().st_gid
    (port,) = free_ports(1)
    panel = engine.containers.run(
        built.id,
        detach=True,
        network_mode="host",
        user="12345:12345",
        group_add=[group],
        environment={"SLIPWAY_HOME": str(data), "SLIPWAY_PORT": str(port), "SLIPWAY_NAMES": "slipway.test"},
        volumes=["/var/run/docker.sock:/var/run/docker.sock", f"{data}:{data}"],
    )
    try:
        until(lambda: healthy(f"http://127.0.0.1:{port}/slipway/health"), 90, "the panel")
        check = built.attrs["Config"]["Healthcheck"]["Test"]
        assert (check[0], panel.exec_run(check[1:]).exit_code) == ("CMD", 0), (
            "a login is asked for, and the panel lives"
        )
        assert panel.logs().startswith(b"Password: ")
        told = json.loads(panel.exec_run(["slipway", "detect", "--json"]).output)
        assert told["docker"]["reachable"] is True
        plan = a_plan(task(stand_in.DEBIAN, f"id -u > {data}/who", container={"mounts": shown(data)}))
        (data / "plan.json").write_text(plan.model_dump_json())
        code = (
            "import sys; from app.__main__ import control; from backends.steps import Plan; c = control({}); "
            "run = c.start_plan(Plan.model_validate_json(open(sys.argv[1]).read())).run; "
            "print(c.wait(run.id, 60).state)"
        )
        ran = panel.exec_run(["python", "-c", code, f"{data}/plan.json"], workdir="/opt/slipway")
        assert ran.output.decode().split()[-1] == "done"
        assert (data / "who").read_text() == "12345\n"
        assert (data / "who").stat().st_uid == 12345
    finally:
        panel.remove(force=True)


def shown(folder: Path) -> tuple[Mount, ...]:
    return (Mount(source=str(folder), path=str(folder)),)
