"""TensorRT-LLM's guides once they serve (see story.py), and 0.19 over two ranks from start to chat (see parts.py)."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import docker
import httpx
import pytest

from app.control import Control
from backends import pbtxt
from backends.runs import Run, State
from backends.spec import Chat, Message
from backends.steps import Plan
from backends.tensorrt_llm import engine_store
from tests.conftest import until
from tests.guided_trtllm import machine
from tests.live.trtllm.parts import NEW, ask, deployed, gone, log, prompt, said, the_plan, the_spec
from tests.live.trtllm.story import Told

pytestmark = pytest.mark.live


# --- guide 004: llama on 23.10 ---


@pytest.fixture(scope="module")
def llama(control: Control, clicked: dict[str, Told]) -> Run:
    return control.run(clicked["llama"].run_id)


def llama_05(control: Control, llama: Run, name: str, **options: object) -> Plan:
    """The same deployment under another name, with other options."""
    assert llama.spec.tensorrt_llm is not None and llama.plan.hardware is not None
    told = llama.spec.tensorrt_llm.model_copy(update=options)
    return the_plan(control, llama.spec.model_copy(update={"name": name, "tensorrt_llm": told}), llama.plan.hardware)


def test_llama_on_0_5_streams_new_tokens_until_its_end_id(control: Control, llama: Run) -> None:
    pieces = ask(control, llama, prompt("I am a ship on the slipway"))
    assert said(pieces).strip() == "I am a ship on the slipway"
    assert len([piece for piece in pieces if piece.text]) > 1
    assert pieces[-1].finish == "stop"


def test_a_stop_text_ends_an_answer_and_is_not_in_it(control: Control, llama: Run) -> None:
    pieces = ask(control, llama, prompt("I am a ship on the slipway", stop=("on the",)))
    assert (said(pieces).strip(), pieces[-1].finish) == ("I am a ship", "stop")


def test_an_answer_ends_at_its_limit(control: Control, llama: Run) -> None:
    last = ask(control, llama, prompt("I am a ship on the slipway", max_tokens=2))[-1]
    assert (last.finish, last.completion_tokens) == ("length", 2)


def test_a_llama_answers_at_the_generate_endpoint_too(llama: Run) -> None:
    assert llama.endpoint is not None
    address = f"http://127.0.0.1:{llama.endpoint.http_port}/v2/models/ensemble/generate_stream"
    question = {"text_input": "I am a ship on the slipway", "max_tokens": 60, "bad_words": "", "stop_words": ""}
    answer = httpx.post(
        address, json=question | {"end_id": 2, "pad_id": 2, "stream": True}, trust_env=False, timeout=60
    )
    assert answer.status_code == 200, answer.text
    told = [json.loads(line.removeprefix("data:")) for line in answer.text.splitlines() if line.startswith("data:")]
    assert "ship on the slipway" in "".join(str(one.get("text_output", "")) for one in told)


def test_the_wheel_was_compiled_in_a_layer_and_the_build_printed_true_lines(control: Control, llama: Run) -> None:
    assert "tensorrt_llm 0.5.0" in log(control, llama, "image-check")
    assert "Total time of building all 1 engines" in log(control, llama, "engine")
    texts = [event.text.en for event in control.events(llama.id) if event.step == "engine" and event.text]
    assert "Engine written" in texts or "Done" in texts


def test_an_engine_is_found_again_and_nothing_is_built_twice(control: Control, llama: Run) -> None:
    plan = llama_05(control, llama, "again")
    to_do = {step.id for step in control.to_do(plan)}
    assert not to_do & {plan.step(long).id for long in ("backend-source", "wheel", "engine")}
    kept = {view.name: view for view in engine_store.engines(control.settings.home)}
    view = kept[plan.step("engine").outputs[0].split("/")[-2]]
    assert view.problem is None and view.stamp is not None and view.stamp.version == "0.5.0"


def test_an_engine_of_other_weights_is_refused_with_the_difference_named(control: Control, llama: Run) -> None:
    config = control.settings.home / "models" / "tiny-llama" / "config.json"
    before = config.read_text(encoding="utf-8")
    config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 1e-6}), encoding="utf-8")
    try:
        run = deployed(control, llama_05(control, llama, "other"), State.FAILED)
        assert "Weights: the engine has" in log(control, run, "engine-look")
    finally:
        config.write_text(before, encoding="utf-8")


def test_an_engine_that_a_person_names_serves_here_through_the_ensemble_of_0_5(control: Control, llama: Run) -> None:
    kept, mine = Path(llama.plan.step("engine").outputs[0]).parent.name, control.settings.home / "models" / "mine-0.5"
    shutil.copytree(control.settings.home / "engines" / kept, mine, ignore=shutil.ignore_patterns("*.json"))
    shutil.copyfile(control.settings.home / "engines" / kept / "config.json", mine / "config.json")
    plan = llama_05(control, llama, "ensemble", front="ensemble", engine_folder=str(mine))
    assert any("does not tell its tensorrt version" in text.en for text in control.shelf.agrees(plan))
    run = deployed(control, plan)
    assert "note: The engine does not tell" in log(control, run, "engine-check")
    pieces = ask(control, run, prompt("ship"))
    assert said(pieces).removesuffix("</s>") == "ship"
    gone(control, run)


def test_v1_batching_serves_an_engine_built_without_the_trio_and_its_answers_come_whole(
    control: Control, llama: Run
) -> None:
    run = deployed(control, llama_05(control, llama, "v1", batching="v1"))
    assert "inflight" not in log(control, run, "engine")  # the stand-in core refuses such an engine for other types
    config = pbtxt.read((control.settings.home / "runs" / run.id / "repository/tensorrt_llm/config.pbtxt").read_text())
    assert config.parameters["gpt_model_type"].string_value == "V1"
    assert not config.model_transaction_policy.decoupled
    (piece,) = ask(control, run, prompt("I am a ship on the slipway"))
    assert (piece.text.strip(), piece.finish) == ("I am a ship on the slipway", "stop")
    (piece,) = ask(control, run, prompt("I am a ship on the slipway", max_tokens=2))
    assert (piece.finish, piece.completion_tokens) == ("length", 2)
    gone(control, run)


# --- guide 002: Qwen with chatml ---


def test_qwen_built_from_source_answers_a_conversation_up_to_the_first_end_of_a_turn(
    control: Control, clicked: dict[str, Told]
) -> None:
    run = control.run(clicked["qwen"].run_id)
    turns = (Message(role="system", content="你好，船"), Message(role="user", content="?"))
    pieces = ask(control, run, Chat(messages=turns))
    assert said(pieces) == "system\n你好，船" and pieces[-1].finish == "stop"
    core = (control.settings.home / "runs" / run.id / "repository/preprocessing/1/model.py").read_text("utf-8")
    assert "trust_remote_code=True" in core and "decode([151645])" in core
    assert run.plan.step("image").kind == "build"


# --- 0.19: BLS over two ranks ---


def test_two_ranks_serve_through_the_bls_model_of_0_19_and_the_end_of_one_is_seen(
    control: Control, upstream: dict[str, str], images: None, engine: docker.DockerClient
) -> None:
    spec = the_spec(
        control, "tiny-llama", "bls", image=NEW, tensor_parallel=2, backend_repository=upstream["backend-0.19.0"],
        library_repository=upstream["library-0.19.0"],
    )  # fmt: skip
    plan = the_plan(control, spec, machine("NVIDIA H100 80GB HBM3", 90, 2, 81_559, "570.124.06"))
    run = deployed(control, plan)
    pieces = ask(control, run, prompt("ships"))
    assert said(pieces) == "ships"
    assert len([piece for piece in pieces if piece.text]) > 1
    (box,) = engine.containers.list(filters={"label": f"slipway.run={run.id}"})
    rows = box.top(ps_args="-eo pid,args")["Processes"]
    ranks = [int(pid) for pid, words in rows if words.startswith("/opt/tritonserver/bin/tritonserver")]
    assert len(ranks) == 2
    os.kill(max(ranks), signal.SIGKILL)
    until(lambda: control.run(run.id).state is State.FAILED, 60)
    trouble = control.run(run.id).trouble
    assert trouble is not None and "process rank" in " ".join(trouble.last_lines)
    gone(control, run)
