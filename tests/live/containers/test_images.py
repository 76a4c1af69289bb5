"""Images on a real engine: built, pulled from a registry on loopback, cleaned up."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from app.__main__ import control as make_control
from app.control import DEMO
from backends.errors import BadInput, StepFailed, Stopped
from backends.releases import REPOSITORY
from backends.spec import Hardware, Spec
from backends.steps import PullImage
from backends.text import same
from tests.conftest import until
from tests.docker import stand_in
from tests.live.containers.parts import NOWHERE, a_registry, a_target, do, dockerfile, log, work
from tests.registry import serving as slow_registry

pytestmark = pytest.mark.live


def test_a_build_tells_its_stages_and_its_log_as_it_goes(target, home: Path, image: str, engine) -> None:
    step = dockerfile(
        home, f"FROM {stand_in.DEBIAN}\nARG WORD\nRUN echo said $WORD\nRUN echo two\n", args={"WORD": "it"}
    )
    told = do(target, home, step)
    assert "said it\n" in log(home)
    stages = [(event.data["stage"], event.data["stages"]) for event in told if "stage" in event.data]
    assert [number for number, _ in stages] == sorted(number for number, _ in stages)
    assert stages[-1][0] == stages[-1][1] > 1
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
    step = dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN echo $((20+22)); sleep 600\n")
    with pytest.raises(Stopped):
        do(target, home, step, lambda: "\n42" in log(home))

    def left() -> list:
        return [one for one in engine.api.containers(all=True) if "$((20+22))" in one["Command"]]

    until(lambda: not left(), 10, "the build's container to go")
    assert not target.has(step)


def test_a_build_outside_the_allowed_folders_is_refused(target, home: Path, tmp_path: Path) -> None:
    step = dockerfile(home, "FROM scratch\n").model_copy(update={"folder": str(tmp_path)})
    with pytest.raises(BadInput):
        do(target, home, step)


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
    last = [event for event in told if event.fraction is not None][-1]
    assert (last.fraction, last.data["layers"], last.data["layers_done"]) == (1.0, 3, 3)
    assert last.data["bytes"] >= 24 * 2**20
    fractions = [event.fraction for event in told if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert "Pull complete" in log(home)
    assert target.has(step)
    assert (
        "could not be looked into (The image lacks the program" in told[-1].text.en
        and "仍以版本表为准" in told[-1].text.zh
    )
    again = do(target, home, step)
    assert [event.text.en for event in again] == ["The image is here already."]  # that digest was looked into
    engine.images.remove(pushed)
    assert not target.has(step)


TAG = "24.06-vllm-python-py3"


@pytest.fixture
def other_inside(image: str, engine, home: Path) -> Iterator[str]:
    """Stands for a released image whose inside is not as the table of releases says."""
    name = f"{REPOSITORY}:{TAG}"
    assert not engine.images.list(name), f"{name} is here, and this test would replace it"
    (home / "Dockerfile").write_text(
        f"FROM {image}\nENV CUDA_VERSION=12.4.1.003\nRUN echo 2.46.9 > TRITON_VERSION && mkdir -p /usr/local/cuda "
        """&& echo '{"cuda": {"version": "12.4.1"}}' > /usr/local/cuda/version.json\n"""
        'ENTRYPOINT ["false"]\n'
    )
    engine.images.build(path=str(home), tag=name, rm=True)
    yield name
    engine.images.remove(name)


def test_what_is_inside_a_pulled_image_counts_from_then_on(target, home: Path, other_inside: str) -> None:
    machine = Hardware.model_validate_json('{"driver_version": "550.54.14", "gpus": [{"name": "RTX 4090"}]}')
    control = make_control({"home": str(home)})
    assert control.recommend(machine).judgement(TAG).verdict == "minor"
    step = PullImage(id="t", title=same("t"), image=other_inside)
    assert not target.has(step)
    said = [event.text.en for event in do(target, home, step)]
    assert f"{TAG} has CUDA 12.4.1.003 inside; the table says 12.5.0.23. What is inside counts." in said
    assert "Triton 2.46.9, CUDA 12.4.1.003" in said[-1] and "Inside nvcr.io" in log(home)
    assert target.has(step)
    told = json.loads(recommended(home, machine))
    assert next(one["verdict"] for one in told["variants"]["vllm-python-py3"] if one["tag"] == TAG) == "native"
    assert told["engines"]["vllm"]["recommended"] == TAG
    assert "were read inside the pulled image" in told["engines"]["vllm"]["reason"]
    notes = control.plan(Spec(model=DEMO.model, engine="vllm", target="docker", image=TAG), machine).notes
    assert any("Versions of 24.06" in note.en for note in notes) and any("has CUDA 12.4.1.003" in n.en for n in notes)


def recommended(home: Path, machine: Hardware) -> str:
    """What `slipway recommend --json` says of a machine."""
    (home / "machine.json").write_text(machine.model_dump_json(exclude_defaults=True))
    command = (sys.executable, "-m", "app", "--home", str(home), "recommend", "--hardware", str(home / "machine.json"))
    return subprocess.run((*command, "--json"), check=True, capture_output=True, text=True).stdout


def test_a_pull_through_a_mirror_has_the_wanted_name(target, home: Path, pushed: str, engine) -> None:
    mirror = pushed
    do(target, home, PullImage(id="t", title=same("t"), image="slipway.test/wanted:1", mirror=mirror))
    assert engine.images.get("slipway.test/wanted:1").id == engine.images.get(mirror).id
    engine.images.remove("slipway.test/wanted:1")
    engine.images.remove(mirror)


def test_a_pull_can_be_stopped_at_any_time(target, home: Path) -> None:
    with slow_registry() as slow:
        _, second = slow.offer_other("slipway.test/slow:1")
        slow.slow.add(second)
        step = PullImage(id="t", title=same("t"), image=f"{slow.address}/slipway.test/slow:1")
        with pytest.raises(Stopped):
            do(target, home, step, lambda: bool(slow.waiting))
        until(lambda: not slow.waiting, 20, "the engine to hang up on the registry")
    assert not target.has(step)


def test_an_image_that_no_registry_has_is_told_so(target, home: Path, registry: str) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, PullImage(id="t", title=same("t"), image=f"{registry}/slipway.test/nothing:1"))
    assert "registry" in failed.value.message.en
    assert failed.value.hint is not None


def test_an_image_that_was_refused_is_asked_for_again_and_kept_where_no_other_comes(
    target, home: Path, registry: str, image: str, engine
) -> None:
    name = f"{registry}/slipway.test/local:1"
    engine.images.get(stand_in.DEBIAN).tag(name)
    step = PullImage(id="t", title=same("t"), image=name)
    do(target, home, step)
    asked = list(target.carry_out(step, replace(work(home, step, NOWHERE), refused=True)))
    assert [event.text.en for event in asked if "taken again. The registry has no such image" in event.text.en]
    assert target.has(step)
    engine.images.remove(name)


def test_a_registry_that_is_not_there_is_told_so(target, home: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, PullImage(id="t", title=same("t"), image="127.0.0.1:9/slipway.test/nothing:1"))
    assert "SLIPWAY_REGISTRY_MIRROR" in failed.value.hint.en


PASSWORD = "pa55word-for-test"


HASHED = "$2b$04$KsNjGpjE5bm2xcw3U53Ua.g1MSeeXHnFDgrHEFvpBDSsrKd6L8jwC"  # bcrypt of it, as a registry keeps it


def test_a_private_registry_is_entered_with_dockers_own_login(home, tmp_path, image, engine, monkeypatch) -> None:
    (tmp_path / "users").write_text(f"me:{HASHED}\n")
    with a_registry(tmp_path, f"auth: {{htpasswd: {{realm: test, path: {tmp_path}/users}}}}\n") as address:
        name = f"{address}/private:1"
        step = PullImage(id="t", title=same("t"), image=name)
        (home / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
        built, _ = engine.images.build(path=str(home), tag=name, rm=True)
        login = {"username": "me", "password": PASSWORD}
        said = engine.api.push(name, stream=True, decode=True, auth_config=login)
        assert not [line for line in said if "error" in line]
        engine.images.remove(name)
        with pytest.raises(StepFailed) as failed:
            do(a_target(home), home, step)
        assert "docker login" in failed.value.hint.en
        auth = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {address: {"auth": auth}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        told = do(a_target(home), home, step)
        assert engine.images.get(name).id == built.id
        engine.images.remove(name)
    kept = log(home) + "".join(event.model_dump_json() for event in told) + failed.value.of("en")
    assert PASSWORD not in kept and auth not in kept


@pytest.mark.alone
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
