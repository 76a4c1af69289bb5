"""The wizard's form means a Spec, and a Spec comes back as the same form."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.ui.draft import DEFAULTS, draft_of, source_of, spec_of, suggested_name, tidy
from backends.errors import BadInput
from backends.spec import Limits, ModelSource, Ports, Spec

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
    template=st.sampled_from(["auto", "raw"]),
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
        ("precision", "fp3"), ("bind", "1.2.3.4"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(field: str, value: str) -> None:
    with pytest.raises(BadInput) as bad:
        spec_of(tidy({field: value}))
    assert bad.value.field == field


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
