"""The Docker target against a real engine: built, pulled, run, served, adopted, stopped, cleaned up.

The base is a stand-in made of Debian and the real tritonserver (tests/docker/stand_in.py); pulls come from a registry
on loopback. `make test` prepares engine, registry and image.
"""

from __future__ import annotations

import getpass
import http.server
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.errors import BadInput, Conflict, OutOfSpace, Stalled, StepFailed, Stopped, Unreachable
from backends.events import Event, Kind
from backends.runs import State
from backends.spec import Endpoint, Spec
from backends.ssh import Tunnel
from backends.steps import (
    BuildImage,
    Container,
    File,
    Forecast,
    Mount,
    Plan,
    PullImage,
    Service,
    Step,
    Task,
    WriteFiles,
)
from backends.targets import docker as docker_target
from backends.targets.base import Work
from backends.targets.containers import Person
from backends.targets.docker import DockerTarget
from backends.targets.local import LocalTarget
from backends.targets.waiting import healthy
from backends.text import same
from tests.conftest import missing, until
from tests.docker import stand_in
from tests.plans import SPEC
from tests.test_jobs import over, worker_of

pytestmark = pytest.mark.live
RUN = "demo-1"


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


def a_target(home: Path, environ: dict[str, str] | None = None, **more) -> DockerTarget:
    environ = dict(os.environ) | (environ or {})
    local = LocalTarget(home, home, sys.executable, environ, lambda *_: iter(()))
    return DockerTarget(home, (), environ, local, **more)


@pytest.fixture
def target(home: Path, engine: docker.DockerClient) -> Iterator[DockerTarget]:
    target = a_target(home)
    yield target
    target.stop(RUN)
    target.reclaim(target.reclaimable())
    assert not engine.containers.list(all=True, filters={"label": f"slipway.home={home}"})


@pytest.fixture
def free() -> Endpoint:
    held = [socket.socket() for _ in range(3)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    http, grpc, metrics = (one.getsockname()[1] for one in held)
    for one in held:
        one.close()
    return Endpoint(http_port=http, grpc_port=grpc, metrics_port=metrics, model="echo")


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
    return engine.containers.list(all=True, filters={"label": f"slipway.home={home}"})


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_task_runs_in_its_container_and_leaves_none(target, home: Path, image: str, engine) -> None:
    do(target, home, task(image, "echo out; echo err >&2; cat /etc/debian_version"))
    assert sorted(log(home).splitlines()[:2]) == ["err", "out"]
    assert log(home).splitlines()[2].startswith("12.")
    assert not mine(engine, home)


def test_a_failed_task_tells_exit_status_and_last_lines(target, home: Path, image: str, engine) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, task(image, "echo before; exit 3"))
    assert (failed.value.exit_status, failed.value.last_lines) == (3, ("before",))
    assert not mine(engine, home)


def test_files_made_in_a_container_belong_to_the_person(home: Path, image: str, engine) -> None:
    target = a_target(home, person=Person(12345, 12346))
    shared = home / "shared"
    shared.mkdir()
    os.chown(shared, 12345, 12346)
    made = shared / "made"
    mounts = (Mount(source=str(shared), path=str(shared)),)
    do(target, home, task(image, f"touch $HOME/x && touch {made}", container={"mounts": mounts}, outputs=(str(made),)))
    assert (made.stat().st_uid, made.stat().st_gid) == (12345, 12346)


def test_a_read_only_mount_cannot_be_written(target, home: Path, image: str) -> None:
    (home / "model").mkdir()
    mounts = (Mount(source=str(home / "model"), path="/model", read_only=True),)
    with pytest.raises(StepFailed) as failed:
        do(target, home, task(image, "touch /model/x", container={"mounts": mounts}))
    assert "Read-only file system" in failed.value.last_lines[-1]


@pytest.mark.parametrize("source", ["/etc", "/var/run/docker.sock", "{home}/../outside", "/"])
def test_a_folder_that_is_not_allowed_is_not_mounted(target, home: Path, image: str, source: str, engine) -> None:
    mounts = (Mount(source=source.replace("{home}", str(home)), path="/x"),)
    with pytest.raises(BadInput):
        do(target, home, task(image, "true", container={"mounts": mounts}))
    assert not mine(engine, home)


def test_nothing_is_privileged_and_everything_is_labelled(target, home: Path, image: str, engine) -> None:
    seen = {}

    def stop() -> bool:
        for one in mine(engine, home):
            seen.update(one.attrs)
        return "up" in log(home)

    container = {"shm_mib": 64, "ulimits": {"nofile": 4096}, "network": "none"}
    with pytest.raises(Stopped):
        do(target, home, task(image, "echo up; sleep 600", container=container), stop)
    host = seen["HostConfig"]
    assert (host["Privileged"], host["CapAdd"], host["Binds"], host["NetworkMode"]) == (False, None, None, "none")
    assert host["ShmSize"] == 64 * 2**20
    assert host["Ulimits"] == [{"Name": "nofile", "Soft": 4096, "Hard": 4096}]
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "64m"}}
    labels = seen["Config"]["Labels"]
    assert labels["slipway.run"] == RUN
    assert labels["slipway.spec"] == "spec-digest"
    assert labels["slipway.home"] == str(home)


def test_a_limit_that_the_machine_refuses_is_left_out_and_said(target, home: Path, image: str) -> None:
    told = do(target, home, task(image, "ulimit -l; ulimit -n", container={"ulimits": {"memlock": -1, "nofile": 2048}}))
    limits = log(home).split()
    assert limits[1] == "2048"
    notes = [event.text for event in told if event.kind is Kind.NOTE]
    if limits[0] == "unlimited":  # a machine that grants it: nothing is left out, nothing said
        assert not notes
    else:
        assert "memlock" in notes[0].en and "memlock" in notes[0].zh


def test_a_machine_without_nvidia_runtime_is_told_so(target, home: Path, image: str, engine) -> None:
    if "nvidia" in engine.info()["Runtimes"]:
        pytest.skip("this machine can give GPUs to containers")
    with pytest.raises(StepFailed) as failed:
        do(target, home, task(image, "true", container={"gpus": "all"}))
    assert "NVIDIA" in failed.value.message.en
    assert "nvidia-container-toolkit" in failed.value.hint.en
    assert "nvidia-container-toolkit" in failed.value.hint.zh
    assert not mine(engine, home)


def test_an_image_that_is_not_there_is_named(target, home: Path) -> None:
    with pytest.raises(StepFailed, match=r"slipway\.test/nothing:1 is not on this machine"):
        do(target, home, task("slipway.test/nothing:1", "true"))


def test_a_program_that_the_image_lacks_is_named(target, home: Path, image: str) -> None:
    step = task(image, "true").model_copy(update={"argv": ("no-such-program",)})
    with pytest.raises(StepFailed, match="no-such-program") as failed:
        do(target, home, step)
    assert "lacks" in failed.value.message.en


def test_a_name_that_somebody_else_has_is_a_conflict(target, home: Path, image: str, engine) -> None:
    other = engine.containers.create(image, ["true"], name=f"slipway-{RUN}-t")
    try:
        with pytest.raises(Conflict, match="Another container"):
            do(target, home, task(image, "true"))
        other.reload()
    finally:
        other.remove()


def test_a_silent_idle_task_has_stalled(target, home: Path, image: str, engine) -> None:
    with pytest.raises(Stalled):
        do(target, home, task(image, "sleep 600", stall_s=1.0))
    assert not mine(engine, home)


def test_a_task_that_runs_out_of_memory_is_told_so(home: Path, image: str, engine, target) -> None:
    # The engine's own limit stands for a full machine.
    real = target.engine.api().create_host_config
    target.engine.api().create_host_config = lambda **named: real(**named, mem_limit="64m", memswap_limit="64m")
    with pytest.raises(StepFailed) as failed:
        do(target, home, task(image, "exec python3 -c 'x = bytearray(10**9)'"))
    assert "memory" in failed.value.message.en


def test_a_secret_is_a_file_inside_and_nowhere_else(home: Path, image: str, engine) -> None:
    target = a_target(home, {"HF_TOKEN": "hf_verysecretvalue123"}, person=Person(12345, 12345))
    seen = []
    script = 'ls -ln $HF_TOKEN_PATH; test "$HF_TOKEN" = "" && cat "$HF_TOKEN_FILE"; echo; echo up; sleep 600'

    def stop() -> bool:
        seen.extend(json.dumps(one.attrs) for one in mine(engine, home))
        return "up" in log(home)

    with pytest.raises(Stopped):
        do(target, home, task(image, script, pass_env=("HF_TOKEN",)), stop)
    assert log(home).splitlines()[0].startswith("-r--------")
    assert log(home).splitlines()[1] == "[secret]"
    assert seen and not any("hf_verysecret" in one for one in seen)


def test_stop_ends_a_task_within_seconds(target, home: Path, image: str, engine) -> None:
    with pytest.raises(Stopped):
        do(target, home, task(image, "echo up; sleep 600"), lambda: "up" in log(home))
    assert not mine(engine, home)


def test_a_loud_task_loses_no_line(target, home: Path, image: str) -> None:
    do(target, home, task(image, "seq 200000"))
    assert log(home) == "".join(f"{number}\n" for number in range(1, 200_001))


# --- images -----------------------------------------------------------------------------------------------------------


def dockerfile(home: Path, text: str, tag: str = "slipway.test/built:1", **more) -> BuildImage:
    folder = home / "context"
    folder.mkdir(exist_ok=True)
    (folder / "Dockerfile").write_text(text)
    return BuildImage(id="t", title=same("t"), tag=tag, folder=str(folder), **more)


def test_a_build_tells_its_stages_and_its_log_as_it_goes(target, home: Path, image: str, engine) -> None:
    step = dockerfile(
        home, f"FROM {stand_in.DEBIAN}\nARG WORD\nRUN echo said $WORD\nRUN echo two\n", args={"WORD": "it"}
    )
    told = do(target, home, step)
    assert "said it\n" in log(home)
    stages = [(event.data["stage"], event.data["stages"]) for event in told if "stage" in event.data]
    assert [number for number, _ in stages] == sorted(number for number, _ in stages)
    assert told[-1].fraction == 1.0
    assert target.has(step)
    assert engine.images.get(step.tag).labels["slipway.home"] == str(home)
    assert not target.has(step.model_copy(update={"args": {"WORD": "other"}}))


def test_a_build_that_fails_tells_the_commands_own_words(target, home: Path, image: str) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN echo why >&2; exit 7\n"))
    assert failed.value.exit_status == 7
    assert "why" in failed.value.last_lines


def test_a_build_stops_at_once_and_leaves_no_container(target, home: Path, image: str, engine) -> None:
    before = {one.id for one in engine.containers.list(all=True)}
    step = dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN echo $((20+22)); sleep 600\n")
    with pytest.raises(Stopped):
        do(target, home, step, lambda: "\n42" in log(home))
    until(lambda: {one.id for one in engine.containers.list(all=True)} <= before, 10, "the build's container to go")
    assert not target.has(step)


def test_a_build_outside_the_allowed_folders_is_refused(target, home: Path, tmp_path: Path) -> None:
    step = dockerfile(home, "FROM scratch\n").model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(BadInput):
        do(target, home, step)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, engine) -> Iterator[str]:
    """A registry on loopback."""
    program = shutil.which("docker-registry")
    if program is None:
        missing("docker-registry (apt install docker-registry)")
    folder = tmp_path_factory.mktemp("registry")
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {folder}/data}}}}\n"
        f"http: {{addr: '127.0.0.1:{port}'}}\n"
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


@pytest.fixture
def pushed(registry: str, engine, home: Path) -> str:
    """An image of three layers of 8 MiB that cannot be packed smaller, in the registry and not on this machine."""
    folder = home / "layers"
    folder.mkdir()
    for number in range(3):
        (folder / f"data{number}").write_bytes(os.urandom(8 * 2**20))
    (folder / "Dockerfile").write_text("FROM scratch\n" + "".join(f"COPY data{n} /\n" for n in range(3)))
    name = f"{registry}/slipway.test/layers:1"
    engine.images.build(path=str(folder), tag=name, rm=True)
    list(engine.api.push(name, stream=True, decode=True))
    engine.images.remove(name)
    return name


def test_a_pull_tells_bytes_and_layers(target, home: Path, pushed: str, engine) -> None:
    step = PullImage(id="t", title=same("t"), image=pushed)
    told = do(target, home, step)
    last = told[-1]
    assert (last.fraction, last.data["layers"], last.data["layers_done"]) == (1.0, 3, 3)
    assert last.data["bytes"] >= 24 * 2**20
    fractions = [event.fraction for event in told if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert "Pull complete" in log(home)
    assert target.has(step)
    assert do(target, home, step)[0].text.en == "The image is here already."
    engine.images.remove(pushed)
    assert not target.has(step)


def test_a_pull_through_a_mirror_has_the_wanted_name(target, home: Path, pushed: str, engine) -> None:
    mirror = pushed
    do(target, home, PullImage(id="t", title=same("t"), image="slipway.test/wanted:1", mirror=mirror))
    assert engine.images.get("slipway.test/wanted:1").id == engine.images.get(mirror).id
    engine.images.remove("slipway.test/wanted:1")
    engine.images.remove(mirror)


def test_a_pull_can_be_stopped_at_any_time(target, home: Path, pushed: str) -> None:
    looks = iter((False, False, True, True, True))
    with pytest.raises(Stopped):
        do(target, home, PullImage(id="t", title=same("t"), image=pushed), lambda: next(looks))
    assert not target.has(PullImage(id="t", title=same("t"), image=pushed))


def test_an_image_that_no_registry_has_is_told_so(target, home: Path, registry: str) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, PullImage(id="t", title=same("t"), image=f"{registry}/slipway.test/nothing:1"))
    assert "registry" in failed.value.message.en
    assert failed.value.hint is not None


def test_a_registry_that_is_not_there_is_told_so(target, home: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, PullImage(id="t", title=same("t"), image="127.0.0.1:9/slipway.test/nothing:1"))
    assert "SLIPWAY_REGISTRY_MIRROR" in failed.value.hint.en


# --- servers ----------------------------------------------------------------------------------------------------------

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


def test_a_real_tritonserver_serves_and_is_found_by_another_target(target, home, image, free, engine) -> None:
    do(target, home, filled(target, repository(home), free), endpoint=free)
    step = filled(target, triton(image), free)
    ready = do(target, home, step, endpoint=free)[-1]
    assert ready.kind is Kind.READY and ready.data["memory_mib"] > 10
    assert asked(free) == [42]
    assert target.watch(RUN) is None
    ports = mine(engine, home)[0].attrs["NetworkSettings"]["Ports"]
    assert {binding["HostIp"] for bound in ports.values() for binding in bound} == {"127.0.0.1"}
    other = a_target(home)
    found = other.find(RUN)
    assert found.service and found.endpoint == free and found.memory_mib > 10
    told = do(other, home, step, endpoint=free)
    assert told[0].text.en == "Found the running container."
    assert len(mine(engine, home)) == 1
    other.stop(RUN)
    assert not other.find(RUN).service
    assert target.watch(RUN) == -1
    assert "READY" in log(home, "s")


def test_a_server_that_dies_at_its_start_fails_at_once(target, home: Path, image: str, free) -> None:
    do(target, home, filled(target, repository(home), free), endpoint=free)
    step = triton(image).model_copy(update={"argv": ("sh", "-c", "echo no model; exit 5")})
    with pytest.raises(StepFailed) as failed:
        do(target, home, filled(target, step, free), endpoint=free)
    assert (failed.value.exit_status, failed.value.last_lines) == (5, ("no model",))


def test_a_server_whose_port_is_taken_says_so(target, home: Path, image: str, free) -> None:
    do(target, home, filled(target, repository(home), free), endpoint=free)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free.http_port))
        taken.listen()
        with pytest.raises(StepFailed) as failed:
            do(target, home, filled(target, triton(image), free), endpoint=free)
    assert "port" in failed.value.message.en and "端口" in failed.value.message.zh


def test_a_word_that_the_log_may_not_hold_fails_a_server_that_is_ready(target, home: Path, image: str, free) -> None:
    do(target, home, filled(target, repository(home), free), endpoint=free)
    step = filled(target, triton(image, forbidden=("Started HTTPService",)), free)
    with pytest.raises(StepFailed, match="Started HTTPService"):
        do(target, home, step, endpoint=free)


# --- runs, with real workers ------------------------------------------------------------------------------------------


@pytest.fixture
def control(tmp_path: Path, engine) -> Iterator[Control]:
    control = make_control({"home": str(tmp_path / "panel")})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
        until(lambda run=run: not control.run(run.id).state.is_open(), 30)
    assert not mine(engine, control.settings.home)


def a_plan(*steps: Step) -> Plan:
    return Plan(spec=Spec.model_validate(SPEC.model_dump() | {"target": "docker"}), steps=steps)


def test_a_server_outlives_its_worker(control: Control, image: str, engine) -> None:
    run = control.start_plan(a_plan(repository(control.settings.home), triton(image))).run
    assert over(control, run.id, 60) is State.SERVING
    served = mine(engine, control.settings.home)[0].id
    worker = worker_of(control, run.id)
    worker.kill()
    worker.wait(10)
    control.recover()
    assert worker_of(control, run.id).pid != worker.pid
    assert [one.id for one in mine(engine, control.settings.home)] == [served]
    text = "\n".join(control.log(run.id, "s").lines)
    assert text.count("Started GRPCInferenceService") == 1


def test_a_lost_database_loses_history_only(tmp_path: Path, image: str, engine) -> None:
    first = make_control({"home": str(tmp_path)})
    run = first.start_plan(a_plan(repository(tmp_path), triton(image))).run
    assert over(first, run.id, 60) is State.SERVING
    served = mine(engine, tmp_path)[0].id
    worker = worker_of(first, run.id)
    worker.kill()
    worker.wait(10)
    for lost in tmp_path.glob("slipway.db*"):
        lost.unlink()
    again = make_control({"home": str(tmp_path)})
    again.recover()
    assert over(again, run.id, 60) is State.SERVING
    assert [one.id for one in mine(engine, tmp_path)] == [served]
    assert asked(again.run(run.id).endpoint) == [42]
    again.stop(run.id)
    until(lambda: again.run(run.id).state is State.STOPPED, 30)
    assert not mine(engine, tmp_path)


def test_a_task_goes_on_where_a_killed_worker_left_it(control: Control, image: str, engine) -> None:
    home = control.settings.home
    (home / "gate").mkdir(parents=True)
    script = f"seq 5000; while [ ! -e {home}/gate/open ]; do sleep 0.1; done; echo end"
    step = Task(
        id="t",
        title=same("t"),
        argv=("sh", "-c", script),
        container=Container(image=image, mounts=(Mount(source=f"{home}/gate", path=f"{home}/gate"),)),
    )
    run = control.start_plan(a_plan(step)).run
    until(lambda: "5000" in control.log(run.id, "t").lines[-1:], 30)
    container = mine(engine, home)[0].id
    worker = worker_of(control, run.id)
    worker.kill()
    worker.wait(10)
    control.recover()
    until(lambda: [event for event in control.events(run.id) if event.kind is Kind.NOTE], 20, "the container is found")
    assert [one.id for one in mine(engine, home)] == [container]
    (home / "gate" / "open").touch()
    assert over(control, run.id) is State.DONE
    assert control.log(run.id, "t").lines == (*map(str, range(1, 5001)), "end")
    assert not mine(engine, home)


def test_a_server_that_ends_by_itself_is_told_with_its_last_lines(control: Control, image: str, engine) -> None:
    run = control.start_plan(a_plan(repository(control.settings.home), triton(image))).run
    assert over(control, run.id, 60) is State.SERVING
    mine(engine, control.settings.home)[0].kill(signal.SIGKILL)
    until(lambda: control.run(run.id).state is State.FAILED, 15)
    trouble = control.run(run.id).trouble
    assert trouble.exit_status == 137
    assert trouble.last_lines


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_the_exported_script_does_the_same_by_hand(tmp_path: Path, image: str, engine, free) -> None:
    panel = make_control({"home": str(tmp_path / "panel")})
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {image}\nARG WORD\nENV WORD=$WORD\n")
    tag = "slipway.test/by-hand:1"
    steps = (
        BuildImage(id="b", title=same("b"), tag=tag, folder=str(folder), args={"WORD": "it's; $(x)"}),
        PullImage(id="p", title=same("p"), image=tag),
        repository(tmp_path),
        Task(
            id="t",
            title=same("t"),
            argv=("sh", "-c", "echo $WORD > {run}/made/word"),
            container=Container(image=tag, mounts=(Mount(source="{run}/made", path="{run}/made"),)),
        ),
        triton(tag),
    )
    script = tmp_path / "by-hand.sh"
    script.write_text(panel.script(a_plan(*steps)))
    ports = {"HTTP_PORT": free.http_port, "GRPC_PORT": free.grpc_port, "METRICS_PORT": free.metrics_port}
    env = dict(os.environ) | {name: str(port) for name, port in ports.items()} | {"HOME_DIR": str(tmp_path / "home")}
    ran = subprocess.Popen(("sh", str(script)), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: healthy(f"{free.http}/v2/health/ready") or ran.poll() is not None, 90, "the server by hand")
        assert ran.poll() is None, ran.stdout.read()
        assert asked(free) == [42]
        assert next((tmp_path / "home").rglob("made/word")).read_text() == "it's; $(x)\n"
    finally:
        ran.terminate()
        ran.wait(30)
    until(lambda: not engine.containers.list(all=True, filters={"ancestor": tag}), 20, "the container to go")
    engine.images.remove(tag)


# --- an engine that is away, or whose disk is full: one of our own ----------------------------------------------------


class OwnEngine:
    """A Docker engine beside the machine's own, on a small disk in memory, to be stopped and filled."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self._root = folder / "root"
        self._root.mkdir()
        subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(self._root)), check=True)
        self._child: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        # In namespaces of its own: an engine without a bridge removes the bridge of the machine's own engine.
        argv = (
            "unshare", "--net", "--mount",
            "dockerd", f"--host={self.host}", f"--data-root={self._root}", f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/pid", "--bridge=none", "--iptables=false", "--storage-driver=overlay2",
        )  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as out:
            self._child = subprocess.Popen(argv, stdout=out, stderr=out)
        until(self._up, 40, "an engine of our own")

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate()
            self._child.wait(30)
            self._child = None

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, version="auto", timeout=60)

    def load(self) -> str:
        """A tiny image: one static program of Debian's that sleeps, waits and writes."""
        context = self.folder / "busybox"
        context.mkdir()
        shutil.copy2(shutil.which("busybox") or "", context / "busybox")
        (context / "Dockerfile").write_text("FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\n")
        self.client().images.build(path=str(context), tag="slipway.test/busybox:1", rm=True)
        return "slipway.test/busybox:1"

    def end(self) -> None:
        self.stop()
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounted if path.startswith(str(self.folder))), reverse=True):
            subprocess.run(("umount", "-l", path), check=True)

    def _up(self) -> bool:
        try:
            return bool(self.client().ping())
        except (docker.errors.DockerException, OSError):
            return False


@pytest.fixture(scope="session")
def own(engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("root and dockerd, for an engine of our own")
    if shutil.which("busybox") is None:
        missing("busybox (apt install busybox-static)")
    own = OwnEngine(tmp_path_factory.mktemp("own"), 96)
    own.image = own.load()
    yield own
    own.end()


def test_an_engine_that_was_restarted_is_told_as_the_cause(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    up = threading.Event()

    def restart() -> None:
        up.wait(30)
        own.stop()
        own.start()

    beside = threading.Thread(target=restart)
    beside.start()

    def look() -> bool:
        if "up" in log(home):
            up.set()
        return False

    step = task(own.image, "trap 'exit 143' TERM; echo up; sleep 600 & wait", container={"network": "host"})
    with pytest.raises(StepFailed, match="Docker was stopped or restarted") as failed:
        do(target, home, step, look)
    beside.join(60)
    assert "重启" in failed.value.message.zh
    assert failed.value.last_lines == ("up",)
    assert not own.client().containers.list(all=True)


def test_an_engine_that_stays_away_is_named_and_the_run_ends(own: OwnEngine, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(docker_target, "AWAY_S", 1.0)
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    away = threading.Event()

    def look() -> bool:
        if "up" in log(home) and not away.is_set():
            away.set()
            own.stop()
        return False

    step = task(own.image, "trap 'exit 143' TERM; echo up; sleep 600 & wait", container={"network": "host"})
    try:
        with pytest.raises(Unreachable, match="Docker"):
            do(target, home, step, look)
        with pytest.raises(Unreachable):
            target.find(RUN)
    finally:
        own.start()
    target.stop(RUN)
    assert not own.client().containers.list(all=True)


def test_a_full_disk_ends_the_build_and_says_what_to_free(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    context = home / "context"
    context.mkdir()
    (context / "data").write_bytes(os.urandom(120 * 2**20))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
    step = BuildImage(id="t", title=same("t"), tag="slipway.test/full:1", folder=str(context))
    with pytest.raises(OutOfSpace) as failed:
        do(target, home, step)
    assert str(own.folder) in failed.value.message.en
    assert "docker system df" in failed.value.hint.en and "docker system df" in failed.value.hint.zh
    assert "no space left" in " ".join(failed.value.last_lines)


def test_a_step_that_needs_more_disk_than_docker_has_does_not_begin(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    step = task(own.image, "echo ran", forecast=Forecast(disk_mib=10_000), container={"network": "host"})
    with pytest.raises(OutOfSpace, match=r"needs about 10,000 MiB"):
        do(target, home, step)
    assert log(home) == ""


def test_a_disk_that_runs_full_ends_the_task_before_docker_fails(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=40)
    step = task(own.image, "i=0; while :; do printf '%1000000d' $i > /f$i; i=$((i+1)); sleep 0.05; done",
                container={"network": "host", "as_person": False})  # fmt: skip
    with pytest.raises(OutOfSpace, match=r"has \d+ MiB left"):
        do(target, home, step)
    assert not own.client().containers.list(all=True)


# --- the panel's own image --------------------------------------------------------------------------------------------


@pytest.mark.timeout(1200)  # its first build installs all that the panel needs; Docker keeps that layer
def test_the_panels_own_image_serves_and_reaches_docker_by_the_socket_it_is_given(image, engine, tmp_path) -> None:
    root = Path(__file__).resolve().parent.parent.parent
    arguments = {"BASE": stand_in.python(), "PIP_CERT": "/etc/ssl/certs/ca-certificates.crt"}
    options = {"rm": True, "network_mode": "host", "buildargs": arguments}
    built, _ = engine.images.build(path=str(root), tag="slipway.test/panel:1", **options)
    assert built.attrs["Config"]["User"] == "1000:1000"
    data = tmp_path / "slipway"
    data.mkdir()
    os.chown(data, 12345, 12345)
    tmp_path.chmod(0o755)
    group = Path("/var/run/docker.sock").stat().st_gid
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    panel = engine.containers.run(
        built.id,
        detach=True,
        network_mode="host",
        user="12345:12345",
        group_add=[group],
        environment={"SLIPWAY_HOME": str(data), "SLIPWAY_PORT": str(port)},
        volumes=["/var/run/docker.sock:/var/run/docker.sock", f"{data}:{data}"],
    )
    try:
        until(lambda: healthy(f"http://127.0.0.1:{port}/slipway/health"), 90, "the panel")
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


# --- what is left behind ----------------------------------------------------------------------------------------------


def test_only_what_slipway_labelled_is_cleaned_up(target, home: Path, image: str, engine) -> None:
    data = "RUN head -c 20000000 /dev/urandom > /data\n"
    do(target, home, dockerfile(home, f"FROM {stand_in.DEBIAN}\n{data}", "slipway.test/ours:1"))
    theirs = home / "theirs"
    theirs.mkdir()
    (theirs / "Dockerfile").write_text(f"FROM {stand_in.DEBIAN}\nRUN echo x > /x\n")
    engine.images.build(path=str(theirs), tag="slipway.test/theirs:1", rm=True)
    left = target.reclaimable()
    assert [(one.kind, one.name) for one in left] == [("image", "slipway.test/ours:1")]
    assert 20_000_000 <= left[0].bytes < 40_000_000
    assert "slipway.test/ours:1" in cleaned(home)
    assert len(target.reclaimable()) == 1
    freed = json.loads(cleaned(home, "--yes", "--json"))["freed_bytes"]
    assert 20_000_000 <= freed < 40_000_000
    assert target.reclaimable() == ()
    assert engine.images.get("slipway.test/theirs:1")
    engine.images.remove("slipway.test/theirs:1")


def cleaned(home: Path, *options: str) -> str:
    """What `slipway clean` says."""
    command = (sys.executable, "-m", "app", "--home", str(home), "clean", *options)
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


# --- an engine behind SSH ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def behind_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """This machine behind an SSH server of our own: DOCKER_HOST, and the PATH with an `ssh` that has our key."""
    if os.geteuid() != 0 or shutil.which("sshd") is None:
        missing("root and sshd (apt install openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    for key in ("host", "mine"):
        subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)), check=True)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/mine.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    real = shutil.which("ssh")
    options = f"-i {folder}/mine -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=no"
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {real} {options} "$@"\n')
    (folder / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd parts its rights; its package makes it at boot
    command = (shutil.which("sshd"), "-D", "-e", "-f", str(folder / "sshd_config"))
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(up, 20, "sshd")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", f"{folder}:{os.environ['PATH']}"
    finally:
        server.terminate()
        server.wait(10)


def test_an_engine_behind_ssh_is_driven_like_one_here(behind_ssh, home, image, free, engine, monkeypatch) -> None:
    host, path = behind_ssh
    monkeypatch.setenv("PATH", path)
    target = a_target(home, {"DOCKER_HOST": host})
    do(target, home, task(image, "echo far"))
    assert log(home) == "far\n"
    do(target, home, filled(target, repository(home), free), endpoint=free)
    do(target, home, filled(target, triton(image), free), endpoint=free)
    assert asked(free) == [42]
    target.stop(RUN)
    assert not mine(engine, home)


def test_a_port_of_the_far_machine_is_brought_here_and_goes_with_the_tunnel(behind_ssh, free, monkeypatch) -> None:
    host, path = behind_ssh
    monkeypatch.setenv("PATH", path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as far:
        threading.Thread(target=far.serve_forever, daemon=True).start()
        tunnel = Tunnel(host, [(str(free.http_port), str(far.server_port))])
        assert healthy(f"{free.http}/")
        tunnel.close()
        assert not healthy(f"{free.http}/")
        far.shutdown()
