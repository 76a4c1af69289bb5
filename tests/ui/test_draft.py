"""The wizard's form means a Spec, and a Spec comes back as the same form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ui import options
from app.ui.draft import DEFAULTS, draft_of, mended, source_of, spec_of, suggested_name, tidy
from backends.errors import BadInput
from backends.spec import FasterTransformerOptions, Limits, ModelSource, Ports, Spec, TensorRtLlmOptions

SPECS = st.builds(
    Spec,
    model=st.sampled_from(
        [
            ModelSource(kind="demo"),
            ModelSource(kind="huggingface", id="Qwen/Qwen3-0.6B", revision="main"),
            ModelSource(kind="folder", id="/models/x y"),
        ]
    ),
    name=st.from_regex(r"[a-z][a-z0-9]{0,10}", fullmatch=True),
    precision=st.sampled_from(["auto", "fp16", "int8"]),
    gpus=st.sampled_from([None, (), (0,), (1, 3)]),
    limits=st.builds(Limits, concurrent=st.integers(1, 256), context=st.none() | st.integers(16, 4096)),
    ports=st.builds(Ports, http=st.none() | st.integers(1, 65535)),
    trust_remote_code=st.booleans(),
    template=st.sampled_from(["auto", "raw", "atom"]),
    image=st.sampled_from([None, "registry.example/tritonserver:23.04-py3", "mine:24.07-vllm-python-py3"]),
    restart=st.sampled_from(["no", "on-failure"]),
    fastertransformer=st.none()
    | st.builds(
        FasterTransformerOptions,
        profile=st.sampled_from(["auto", "blog"]),
        autotune=st.none() | st.booleans(),
        converted=st.none() | st.just("/models/c-model/2-gpu"),
        shm_mib=st.integers(64, 9999),
    ).filter(lambda one: one != FasterTransformerOptions()),
    tensorrt_llm=st.none()
    | st.builds(
        TensorRtLlmOptions,
        quantisation=st.sampled_from([None, "none", "int4_awq"]),
        kv_fraction=st.none() | st.floats(0.1, 0.9),
        decoupled=st.booleans(),
    ).filter(lambda one: one != TensorRtLlmOptions()),
)


@given(SPECS)
def test_a_spec_comes_back_from_its_form(spec: Spec) -> None:
    assert spec_of(tidy(draft_of(spec))) == spec


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda one: st.lists(one) | st.dictionaries(st.text(), one)
)


@given(ANYTHING)
def test_whatever_a_browser_sends_is_a_form(told: object) -> None:
    assert tidy(told).keys() == DEFAULTS.keys()
    assert tidy(dict.fromkeys(DEFAULTS, told)).keys() == DEFAULTS.keys()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("limits.concurrent", "0"), ("limits.concurrent", "many"), ("ports.http", "70000"), ("name", "Not This"),
        ("precision", "fp3"), ("bind", "1.2.3.4"), ("fastertransformer.autotune_batch", "0"),
        ("vllm.memory_fraction", "2"), ("tensorrt_llm.version", "newest"), ("fastertransformer.jobs", "all"),
        ("image", "two words"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: str) -> None:
    with pytest.raises(BadInput) as bad:
        spec_of(tidy({field: value}))
    assert bad.value.field == field


def test_each_field_of_each_engine_has_words_and_its_spec_s_choices() -> None:
    for engine, kind in options.OPTIONS.items():
        named = {field.name.split(".")[1] for field in options.fields(engine)}
        assert kind.model_fields.keys() - named <= {"flow"}  # the card says which flow
    by_name = {field.name: field for engine in options.OPTIONS for field in options.fields(engine)}
    assert [key for key, _ in by_name["fastertransformer.autotune"].choices] == ["true", "false"]
    assert "none" in [key for key, _ in by_name["tensorrt_llm.quantisation"].choices]
    assert by_name["fastertransformer.shm_mib"].usual.en == "4096" and by_name["fastertransformer.shm_mib"].number
    assert by_name["vllm.tensor_parallel"].help.en.endswith("; 1 – 64")


def test_a_recommended_tag_is_not_taken_for_a_persons_image() -> None:
    chosen = Spec(model=ModelSource(kind="demo"), engine="vllm", target="docker", image="24.07-vllm-python-py3")
    assert draft_of(chosen)["image"] == ""


def test_a_wrong_value_of_the_engine_stage_is_left_out_where_the_stage_is_shown() -> None:
    draft = tidy({"ports.http": "70000", "image": "two words", "vllm.memory_fraction": "2", "limits.concurrent": "4"})
    sound, first = mended(draft)
    wrong = ("ports.http", "image", "vllm.memory_fraction")
    assert first is not None and first.field in wrong
    assert spec_of(sound).limits.concurrent == 4 and not any(sound[field] for field in wrong)
    with pytest.raises(BadInput):
        mended(tidy({"limits.concurrent": "0"}))


@pytest.mark.parametrize("words", ["../x", "a b", "owner/name/more", "--privileged", "$(touch x)", "a;b"])
def test_what_is_no_hub_id_is_said_at_its_field(words: str) -> None:
    with pytest.raises(BadInput) as bad:
        source_of(tidy({"model.kind": "huggingface", "model.id": words}))
    assert bad.value.field == "model.id"


def test_no_model_is_no_source_yet_and_no_spec() -> None:
    draft = tidy({"model.kind": "huggingface"})
    assert source_of(draft) is None
    with pytest.raises(BadInput) as bad:
        spec_of(draft)
    assert bad.value.field == "model.id"


@pytest.mark.parametrize(
    ("model", "name"), [("Qwen/Qwen3-0.6B", "qwen3-0-6b"), ("/models/My Model/", "my-model"), ("///", "model")]
)
def test_a_name_is_suggested_from_the_model(model: str, name: str) -> None:
    draft = tidy({"model.kind": "folder", "model.id": model})
    assert suggested_name(draft) == name
    assert spec_of(draft).name == name
