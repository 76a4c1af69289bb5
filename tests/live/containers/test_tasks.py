"""Tasks in containers of a real engine: what they may see, how they end, what they leave."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from backends.errors import BadInput, Conflict, Stalled, StepFailed, Stopped
from backends.events import Kind
from backends.steps import (
    Mount,
)
from backends.targets.containers import Person
from tests.live.containers.parts import RUN, a_target, do, log, mine, task

pytestmark = pytest.mark.live


def test_a_task_runs_in_its_container_and_leaves_none(target, home: Path, image: str, engine) -> None:
    do(target, home, task(image, "echo out; echo err >&2; cat /etc/debian_version"))
    lines = log(home).splitlines()
    lines.remove("err")  # Docker keeps the order within a stream, not between the two
    assert lines[0] == "out" and lines[1].startswith("12.") and len(lines) == 2
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


def test_a_proxy_with_a_login_reaches_the_command_and_nothing_that_docker_shows(home, tmp_path, image, engine) -> None:
    proxy = "http://me:pl4ntedpassword@proxy.example:3128"
    (tmp_path / "config.json").write_text(json.dumps({"proxies": {"default": {"httpsProxy": proxy}}}))
    target = a_target(home, {"DOCKER_CONFIG": str(tmp_path)})
    seen = []

    def stop() -> bool:
        seen.extend(json.dumps(one.attrs) for one in mine(engine, home))
        return "up" in log(home)

    script = (
        'test "$https_proxy" = "$(printf "http://%s:%s@proxy.example:3128" me pl4nted"password")" && echo as it is; '
    )
    with pytest.raises(Stopped):
        do(target, home, task(image, f"{script}echo $HTTPS_PROXY; echo up; sleep 600"), stop)
    assert log(home).splitlines()[:2] == ["as it is", "http://[secret]@proxy.example:3128"]
    assert seen and not any("me:pl4nted" in one for one in seen)


def test_stop_ends_a_task_within_seconds(target, home: Path, image: str, engine) -> None:
    with pytest.raises(Stopped):
        do(target, home, task(image, "echo up; sleep 600"), lambda: "up" in log(home))
    assert not mine(engine, home)


def test_a_loud_task_loses_no_line(target, home: Path, image: str) -> None:
    do(target, home, task(image, "seq 200000"))
    assert log(home) == "".join(f"{number}\n" for number in range(1, 200_001))
