"""The real tritonserver in containers: ready, adopted after any death, stopped; the same by hand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.errors import StepFailed
from backends.events import Kind
from backends.runs import State
from backends.steps import (
    BuildImage,
    Container,
    Mount,
    PullImage,
    Task,
)
from backends.targets import container_logs
from backends.targets.waiting import healthy
from backends.text import same
from tests.conftest import until
from tests.live.containers.parts import RUN, a_plan, a_target, asked, do, filled, log, mine, repository, triton
from tests.test_jobs import over, worker_of

pytestmark = pytest.mark.live


def test_a_real_tritonserver_serves_and_is_found_by_another_target(
    target, home, image, free, engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(target, home, filled(target, repository(home), free), endpoint=free)
    step = filled(target, triton(image), free)
    ready = do(target, home, step, endpoint=free)[-1]
    assert ready.kind is Kind.READY and ready.data["memory_mib"] > 10
    assert asked(free) == [42]
    monkeypatch.setattr(container_logs, "CURSOR_S", 0.0)

    def is_left() -> bool:
        before = cursor.stat().st_ino
        return target.watch(RUN) is None and cursor.stat().st_ino == before

    cursor = home / "runs" / RUN / "logs" / "s.cursor"
    until(is_left, what="what is kept of its log to be left as it is while it says nothing")
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
    control.stop(run.id)
    until(lambda: not control.run(run.id).state.is_open(), 30)
    text = "\n".join(control.log(run.id, "s").lines)  # the whole: lines come a while after they were said
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
    until(lambda: [event for event in control.events(run.id) if event.kind is Kind.NOTE], 30, "the container is found")
    assert [one.id for one in mine(engine, home)] == [container]
    (home / "gate" / "open").touch()
    assert over(control, run.id) is State.DONE
    assert control.log(run.id, "t").lines == (*map(str, range(1, 5001)), "end")
    assert not mine(engine, home)


def test_a_server_that_ends_by_itself_is_told_with_its_last_lines(control: Control, image: str, engine) -> None:
    run = control.start_plan(a_plan(repository(control.settings.home), triton(image))).run
    assert over(control, run.id, 60) is State.SERVING
    mine(engine, control.settings.home)[0].kill(signal.SIGKILL)
    until(lambda: control.run(run.id).state is State.FAILED, 30)
    trouble = control.run(run.id).trouble
    assert trouble.exit_status == 137
    assert trouble.last_lines


def test_the_exported_script_does_the_same_by_hand(tmp_path: Path, image: str, engine, free) -> None:
    panel = make_control({"home": str(tmp_path / "panel")})
    folder = tmp_path / "context"
    folder.mkdir()
    (folder / "Dockerfile").write_text(f"FROM {image}\nARG WORD\nENV WORD=$WORD INDEX=$PIP_INDEX_URL\n")
    sources = {"PIP_INDEX_URL": "https://pypi.example/simple"}
    tag = "slipway.test/by-hand:1"
    steps = (
        BuildImage(id="b", title=same("b"), tag=tag, folder=str(folder), args={"WORD": "it's; $(x)"}, sources=sources),
        PullImage(id="p", title=same("p"), image=tag),
        repository(tmp_path),
        Task(
            id="t",
            title=same("t"),
            argv=("sh", "-c", "echo $WORD $INDEX > {run}/made/word"),
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
        assert next((tmp_path / "home").rglob("made/word")).read_text() == "it's; $(x) https://pypi.example/simple\n"
    finally:
        ran.terminate()
        ran.wait(30)
    until(
        lambda: not engine.containers.list(all=True, ignore_removed=True, filters={"ancestor": tag}),
        20,
        "the container to go",
    )
    engine.images.remove(tag)
