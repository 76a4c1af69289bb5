"""The embedded engine's recipe: golden plans, every reason against, and what its server is started with."""

from __future__ import annotations

import pytest

from backends import pbtxt
from backends.spec import Gpu, Hardware, Model, ModelSource, Sources, Spec, Tokenizer
from backends.steps import Service, WriteFiles
from backends.transformers import metrics
from backends.transformers.recipe import recipe, why_not
from backends.transformers.tensors import refused
from tests.guides import path, written

DEMO = Model(
    source=ModelSource(kind="demo"), architecture="LlamaForCausalLM", model_type="llama", context=2048,
    tokenizer=Tokenizer(chat_template=True), weight_format="safetensors", weights_mib=7,
)  # fmt: skip
QWEN = DEMO.model_copy(
    update={"source": ModelSource(kind="huggingface", id="Qwen/Qwen3-0.6B"), "model_type": "qwen3", "weights_mib": 1434}
)
LAPTOP = Hardware(os="Debian GNU/Linux 12", architecture="x86_64", glibc="2.36", python="3.11.7")
H200 = LAPTOP.model_copy(update={"gpus": (Gpu(name="NVIDIA H200", index=0, uuid="GPU-0", sm=90),)})
SOURCES = Sources(torch_index="https://example.org/cpu")
CASES = {
    "transformers-demo-cpu": (Spec(model=DEMO.source), LAPTOP, DEMO),
    "transformers-qwen3-0.6b-h200": (Spec(model=QWEN.source, name="qwen", gpus=(0,)), H200, QWEN),
}


@pytest.mark.parametrize("name", CASES)
def test_the_plan_is_the_golden_one(name: str) -> None:
    assert written(recipe(*CASES[name], SOURCES)) == path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("change", "machine", "model", "words"),
    [
        ({"target": "docker"}, {}, {}, "local target"),
        ({}, {"os": "macOS 15"}, {}, "Linux"),
        ({}, {"architecture": "aarch64"}, {}, "x86-64"),
        ({}, {"python": "3.13.1"}, {}, "3.11 or 3.12"),
        ({"precision": "int8"}, {}, {}, "quantise"),
        ({}, {}, {"quantisation": "gptq"}, "quantised"),
        ({}, {}, {"remote_code": True}, "trust_remote_code"),
        ({}, {}, {"weight_format": "pickle"}, "allow_pickle"),
        ({}, {}, {"source": ModelSource(kind="modelscope", id="a/b")}, "ModelScope"),
        ({"gpus": (0,)}, {}, {}, "no GPU 0"),
        ({"limits": {"context": 4096}}, {}, {}, "2,048"),
    ],
)
def test_what_it_cannot_do_is_said(change: dict, machine: dict, model: dict, words: str) -> None:
    spec = Spec.model_validate({"model": {"kind": "demo"}} | change)
    reasons = why_not(spec, LAPTOP.model_copy(update=machine), DEMO.model_copy(update=model))
    assert any(words in reason.en for reason in reasons)


def test_every_reason_is_given_not_the_first() -> None:
    spec = Spec(model=DEMO.source, precision="int4", target="docker")
    assert len(why_not(spec, LAPTOP.model_copy(update={"architecture": "aarch64"}), DEMO)) == 3


def test_the_persons_word_lets_code_and_pickles_in() -> None:
    model = DEMO.model_copy(update={"remote_code": True, "weight_format": "pickle"})
    spec = Spec(model=DEMO.source, trust_remote_code=True, allow_pickle=True)
    assert why_not(spec, LAPTOP, model) == ()


def made(spec: Spec, hardware: Hardware = LAPTOP) -> tuple[Service, dict[str, str]]:
    """The service of a plan, and the parameters in its config.pbtxt."""
    plan = recipe(spec, hardware, DEMO, SOURCES)
    repository = next(step for step in plan.steps if isinstance(step, WriteFiles) and step.id == "repository")
    config = pbtxt.read(next(file.text or "" for file in repository.files if file.path.endswith("config.pbtxt")))
    assert plan.service is not None
    return plan.service, {key: value.string_value for key, value in config.parameters.items()}


def test_the_server_listens_where_the_person_wants() -> None:
    service, _ = made(Spec(model=DEMO.source))
    assert {"--http-address={bind}", "--grpc-address={bind}", "--metrics-address={bind}"} <= set(service.argv)
    assert "--model-control-mode=none" in service.argv


def test_a_chosen_gpu_is_named_by_its_uuid() -> None:
    service, parameters = made(Spec(model=DEMO.source, gpus=(0,)), H200)
    assert service.env["CUDA_VISIBLE_DEVICES"] == "GPU-0"
    assert parameters["device"] == "cuda:0"


def test_no_gpu_at_all_is_the_cpu() -> None:
    service, parameters = made(Spec(model=DEMO.source, gpus=()), H200)
    assert service.env["CUDA_VISIBLE_DEVICES"] == ""
    assert parameters["device"] == "cpu"


def test_limits_reach_the_engine() -> None:
    limits = {"concurrent": 3, "context": 512, "new_tokens": 99, "queue": 5, "queue_timeout_s": 7}
    _, parameters = made(Spec.model_validate({"model": {"kind": "demo"}, "limits": limits}))
    names = ("max_rows", "max_context", "max_new_tokens_cap", "queue_limit", "queue_timeout_s")
    assert [parameters[name] for name in names] == ["3", "512", "99", "5", "7"]


def test_what_the_engine_refuses_is_told_in_both_languages() -> None:
    told = refused('[StatusCode] slipway {"field": "top_p", "en": "Too much.", "zh": "过大。"}')
    assert (told.field, told.message.en, told.message.zh) == ("top_p", "Too much.", "过大。")
    assert refused("plain words").message.en == "plain words"


def test_what_the_engine_measures_of_itself_is_read_from_its_log() -> None:
    line = (
        'I1121 model.py:64] "slipway-engine {\\"device\\": \\"cpu\\", \\"weights_mib\\": 12.3, \\"peak_mib\\": 379.3}"'
    )
    assert metrics.measured(["noise", line]) == {"weights_mib": 12.3, "peak_mib": 379.3}
    assert metrics.measured(['slipway-engine {"load_s": 2.0}']) == {"load_s": 2.0}
    assert metrics.measured(["nothing"]) == {}
