"""What the tests of the Docker target share: targets, small steps, a server, a registry."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker

from backends.events import Event
from backends.spec import Endpoint, Spec
from backends.steps import (
    BuildImage,
    Container,
    File,
    Mount,
    Plan,
    Service,
    Step,
    Task,
    WriteFiles,
)
from backends.targets.base import Work
from backends.targets.docker import DockerTarget
from backends.targets.local import LocalTarget
from backends.text import same
from scripts.bench.engine_server import free_ports
from tests.conftest import missing, until
from tests.plans import SPEC

RUN = "demo-1"


def a_target(home: Path, environ: dict[str, str] | None = None, **more) -> DockerTarget:
    environ = dict(os.environ) | (environ or {})
    local = LocalTarget(home, home, sys.executable, environ, lambda *_: iter(()))
    return DockerTarget(home, (), environ, local, **more)


def work(home: Path, step: Step, endpoint: Endpoint, stop=lambda: False) -> Work:
    folder = home / "runs" / RUN
    return Work(RUN, folder, folder / "logs" / f"{step.id}.log", endpoint, {"bind": "127.0.0.1"}, stop, "spec-digest")


NOWHERE = Endpoint(http_port=1, grpc_port=2, metrics_port=3, model="m")


def do(target: DockerTarget, home: Path, step: Step, stop=lambda: False, endpoint: Endpoint = NOWHERE) -> list[Event]:
    """Carries one step out and returns what it told."""
    circumstances = work(home, step, endpoint, stop)
    circumstances.log.touch()
    return list(target.carry_out(step, circumstances))


def log(home: Path, step_id: str = "t") -> str:
    return (home / "runs" / RUN / "logs" / f"{step_id}.log").read_text()


def task(image: str, script: str, *, container: dict | None = None, **more) -> Task:
    return Task(
        id="t",
        title=same("t"),
        argv=("sh", "-c", script),
        container=Container(image=image, **(container or {})),
        **more,
    )


def mine(engine: docker.DockerClient, home: Path) -> list:
    return engine.containers.list(all=True, ignore_removed=True, filters={"label": f"slipway.home={home}"})


def dockerfile(home: Path, text: str, tag: str = "slipway.test/built:1", **more) -> BuildImage:
    folder = home / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    return BuildImage(id="t", title=same("t"), tag=tag, folder=str(folder), **more)


@contextlib.contextmanager
def a_registry(folder: Path, more: str = "") -> Iterator[str]:
    """A registry on loopback; `more` are further lines of its settings."""
    program = shutil.which("docker-registry")
    if program is None:
        missing("docker-registry (apt install docker-registry)")
    (port,) = free_ports(1)
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n{more}"
    )
    child = subprocess.Popen((program, "serve", str(config)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(up, 20, "the registry")
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        child.wait(10)


ECHO = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        given = [pb_utils.get_input_tensor_by_name(one, "IN").as_numpy() for one in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", one)]) for one in given]
"""


CONFIG = """name: "echo"
backend: "python"
max_batch_size: 0
input { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] }
"""


def repository(home: Path) -> WriteFiles:
    """A model repository with a Python model that answers what it is given."""
    files = (File(path="echo/config.pbtxt", text=CONFIG), File(path="echo/1/model.py", text=ECHO))
    return WriteFiles(id="files", title=same("files"), folder="{run}/repository", files=files)


def triton(image: str, **more) -> Service:
    """The real tritonserver over that repository, ports published on loopback."""
    return Service(
        id="s",
        title=same("s"),
        argv=(
            "tritonserver", "--model-repository={run}/repository", "--http-port={port.http}", "--grpc-port={port.grpc}",
            "--metrics-port={port.metrics}", "--allow-metrics=true",
        ),
        container=Container(
            image=image,
            mounts=(Mount(source="{run}/repository", path="{run}/repository", read_only=True),),
            shm_mib=128,
        ),
        model="echo",
        **more,
    )  # fmt: skip


def filled(target: DockerTarget, step: Step, endpoint: Endpoint) -> Step:
    from backends.steps import fill_step

    return fill_step(step, target.places(RUN, endpoint, "127.0.0.1"))


def asked(endpoint: Endpoint) -> list:
    """What the server answers to 42."""
    body = json.dumps({"inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [42]}]}).encode()
    with urllib.request.urlopen(f"{endpoint.http}/v2/models/echo/infer", body, timeout=10) as answer:
        return json.load(answer)["outputs"][0]["data"]


def a_plan(*steps: Step) -> Plan:
    return Plan(spec=Spec.model_validate(SPEC.model_dump() | {"target": "docker"}), steps=steps)
