"""TensorRT-LLM 1.2 with an engine: its build cancelled, failed, gone on with, adopted; its server; its engine kept.

One deployment goes through all of it, the others use what it left. See parts.py.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import docker
import pytest
from openai import OpenAI

from app.__main__ import control as make_control
from app.cli import main
from app.control import Control
from backends.errors import BadInput, Conflict
from backends.lint import lint
from backends.runs import Run, State
from backends.steps import Plan
from tests.conftest import until
from tests.guided_trtllm import H100
from tests.live.trtllm.parts import (
    NEWEST,
    ask,
    deployed,
    ended,
    gone,
    log,
    prompt,
    said,
    skipped,
    the_plan,
    the_spec,
)
from tests.test_jobs import worker_now, worker_of

pytestmark = pytest.mark.live
WORDS = "I am a ship on the slipway, 船在船台上。"
ROOT = Path(__file__).resolve().parents[3]
STARTER = (  # a panel, as far as this matters: a process that resumes a run and then lives on
    "import signal, sys; from app.__main__ import control; "
    "control({'home': sys.argv[1]}).resume(sys.argv[2]); signal.pause()"
)
BEFORE = {"image", "library-source", "image-check", "tokenizer-check", "convert"}


def the_engine_plan(control: Control, upstream: dict[str, str], name: str, front: str = "bls") -> Plan:
    spec = the_spec(
        control, "tiny-llama", name, image=NEWEST, flow="trtllm_build", front=front,
        library_repository=upstream["library-1.2.1"],
    )  # fmt: skip
    return the_plan(control, spec, H100)


@pytest.fixture(scope="module")
def plan(control: Control, upstream: dict[str, str], images: None) -> Plan:
    return the_engine_plan(control, upstream, "kept")


@pytest.fixture(scope="module")
def place(control: Control, plan: Plan) -> Path:
    """The engine's folder. A file "hold" there keeps the stand-in's build from ending, "fail" ends it badly."""
    told = plan.step("engine").outputs[0].replace("{home}", str(control.settings.home))
    folder = Path(told).parent
    folder.mkdir(parents=True)
    return folder


def building(control: Control, run: Run) -> bool:
    path = control.log_path(run.id, "engine")
    return path.exists() and "Build TensorRT engine" in path.read_text(encoding="utf-8")


def adopted(control: Control, run: Run) -> None:
    """Kills the run's worker; a panel's looks, one after the other as every panel takes them, find it another."""
    dead = worker_of(control, run.id)
    dead.kill()

    def look() -> bool:
        control.recover()
        now = worker_now(control, run.id)
        return now is not None and now.pid != dead.pid

    until(look, 60, "another worker")


def containers(client: docker.DockerClient, run: Run) -> list[str]:
    """Ids of a run's containers."""
    return [
        one.id
        for one in client.containers.list(all=True, ignore_removed=True, filters={"label": f"slipway.run={run.id}"})
    ]


@dataclass(frozen=True)
class Story:
    """What happened to one deployment. `box`: the container that built, before and after its worker was killed."""

    failed: Run
    served: Run
    box: tuple[list[str], list[str]]


@pytest.fixture(scope="module")
def story(control: Control, plan: Plan, place: Path, engine: docker.DockerClient) -> Iterator[Story]:
    (place / "fail").touch()
    failed = deployed(control, plan, State.FAILED)
    (place / "fail").unlink()
    (place / "hold").touch()
    words = (sys.executable, "-c", STARTER, str(control.settings.home), failed.id)
    panel = subprocess.Popen(words, cwd=ROOT)
    until(lambda: control.run(failed.id).state.is_open(), 60)
    run = control.run(failed.id)
    until(lambda: log(control, run, "engine").count("Build TensorRT engine") == 2, 60)
    before = containers(engine, run)
    panel.send_signal(signal.SIGKILL)
    panel.wait(10)
    adopted(control, run)
    until(lambda: "Found the running container" in str(control.events(run.id)), 60)
    after = containers(engine, run)
    (place / "hold").unlink()
    served = ended(control, run, State.SERVING)
    yield Story(failed=failed, served=served, box=(before, after))
    gone(control, served)


def test_a_build_is_cancelled_within_seconds_and_leaves_no_container(
    control: Control, plan: Plan, place: Path, engine: docker.DockerClient
) -> None:
    (place / "hold").touch()
    run = control.start_plan(plan).run
    until(lambda: building(control, run), 240)
    control.stop(run.id)
    until(lambda: control.run(run.id).state is State.STOPPED, 30)  # about two, where Docker has nothing else to do
    (place / "hold").unlink()
    assert containers(engine, run) == []


def test_a_failed_build_is_told_by_its_first_real_error_and_only_it_is_done_again(
    control: Control, story: Story
) -> None:
    trouble = story.failed.trouble
    assert trouble is not None and (trouble.step, trouble.exit_status) == ("engine", 1)
    assert "[TRT] [E] 4: " in trouble.last_lines[0] and "Engine building failed" in trouble.last_lines[-1]
    done = skipped(control, story.served)
    assert done >= BEFORE and "engine" not in done


def test_a_build_whose_panel_and_worker_were_killed_goes_on_where_it_was(control: Control, story: Story) -> None:
    before, after = story.box
    assert before == after and len(before) == 1
    assert log(control, story.served, "engine").count("Build TensorRT engine") == 2  # that which failed, and this


def test_what_the_deployment_wrote_is_well(control: Control, story: Story) -> None:
    assert lint(control.settings.home / "runs" / story.served.id / "repository") == ()


def test_an_answer_streams_by_all_tokens_decoded_together(control: Control, story: Story) -> None:
    pieces = ask(control, story.served, prompt(WORDS))
    assert said(pieces) == WORDS and pieces[-1].finish == "stop"
    assert len([piece for piece in pieces if piece.text]) > 10


def test_a_stop_text_ends_an_answer_and_is_not_in_it(control: Control, story: Story) -> None:
    pieces = ask(control, story.served, prompt(WORDS, stop=("on the",)))
    assert (said(pieces), pieces[-1].finish) == ("I am a ship ", "stop")


def test_a_bad_word_of_the_command_line_is_left_out_of_the_answer(
    control: Control, story: Story, capsys: pytest.CaptureFixture[str]
) -> None:
    """The stand-in core drops what would complete one: preprocessing made ids of them, and BLS handed those on."""
    words = ("--home", str(control.settings.home), "chat", story.served.name, "--raw", "--message", WORDS)
    assert main([*words, "--temperature", "0", "--bad-word", "ship", "--bad-word", "on"], make_control) == 0
    assert capsys.readouterr().out.strip() == WORDS.replace("ship", "shi").replace(" on", " o")
    assert main([*words, "--bad-word", " "], make_control) == BadInput.exit_code
    assert "chat.bad_words: At most 64 words" in capsys.readouterr().err


def test_an_answer_ends_at_its_limit(control: Control, story: Story) -> None:
    pieces = ask(control, story.served, prompt(WORDS, max_tokens=6))
    assert (said(pieces), pieces[-1].finish, pieces[-1].completion_tokens) == ("I am a", "length", 6)


def test_the_openai_api_streams_it(openai: OpenAI, story: Story) -> None:
    asked = {"model": story.served.name, "prompt": "ship ahoy", "temperature": 0, "max_tokens": 4, "stream": True}
    parts = [part for part in openai.completions.create(**asked) if part.choices]
    assert "".join(part.choices[0].text for part in parts) == "ship"
    assert parts[-1].choices[0].finish_reason == "length"


def test_a_server_whose_worker_was_killed_is_adopted_and_answers(
    control: Control, story: Story, engine: docker.DockerClient
) -> None:
    before = containers(engine, story.served)
    adopted(control, story.served)
    assert containers(engine, story.served) == before
    assert said(ask(control, story.served, prompt("ship"))) == "ship"


def test_the_stamps_name_image_versions_and_gpu(control: Control, story: Story, place: Path, engine) -> None:
    digest = engine.images.get(NEWEST).id
    for folder in (place, control.settings.home / "converted" / place.name):
        stamp = json.loads((folder / "stamp.json").read_text(encoding="utf-8"))
        told = [stamp[field] for field in ("image_digest", "version", "tensorrt", "sm", "gpu")]
        assert told == [digest, "1.2.1", "10.14.1.48", 90, "NVIDIA H100 80GB HBM3"]
        assert len(stamp["source_digest"]) == 32


def test_a_second_deployment_uses_the_kept_engine_at_once_here_through_the_ensemble(
    control: Control, story: Story, upstream: dict[str, str]
) -> None:
    run = deployed(control, the_engine_plan(control, upstream, "again", "ensemble"))
    assert skipped(control, run) >= BEFORE | {"engine"}
    assert "an engine that fits is here already" in log(control, run, "engine-look")
    pieces = ask(control, run, prompt("I am a ship", stop=("sh",)))
    assert (said(pieces), pieces[-1].finish) == ("I am a ", "stop")
    assert len([piece for piece in pieces if piece.text]) > 3
    gone(control, run)


def test_engines_are_listed_checked_and_removed_on_the_command_line(
    control: Control, story: Story, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def slipway(*words: str) -> tuple[int, str]:
        status = main(["--home", str(control.settings.home), "engines", *words], make_control)
        told = capsys.readouterr()
        return status, told.out + told.err

    assert place.name in slipway("list")[1]
    assert slipway("check", place.name)[0] == 0
    assert slipway("remove", place.name)[0] == Conflict.exit_code  # its server runs
    mine = control.settings.home / "models" / "mine"
    shutil.copytree(place, mine)
    status, told = slipway("register", str(mine), "--model", "my/llama", "--json")
    name = json.loads(told)["name"]
    assert status == 0 and name in slipway("list")[1]
    (mine / "rank0.engine").unlink()
    status, told = slipway("check", name)
    assert status == 1 and "rank0.engine" in told
    assert slipway("remove", name)[0] == 0 and mine.is_dir()
