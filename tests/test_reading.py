"""What comes from outside is read into the vocabulary, or refused with the field, what is wrong, and what to do."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from pydantic_core._pydantic_core import list_all_errors

from backends.errors import BadInput
from backends.reading import bad_input, read, read_json
from backends.spec import Chat, Hardware, Sampling, Spec

DEMO = {"model": {"kind": "demo"}}
HAN = re.compile(r"[\u4e00-\u9fff]")


def refused(value: dict) -> BadInput:
    with pytest.raises(BadInput) as error:
        read(Spec, value, "spec")
    return error.value


def test_a_spec_needs_only_a_model() -> None:
    assert read(Spec, DEMO).engine == "transformers"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"name": "A b"}, "spec.name"),
        ({"name": "-x"}, "spec.name"),
        ({"name": "x" * 49}, "spec.name"),
        ({"engine": "onnx"}, "spec.engine"),
        ({"limits": {"concurrent": 0}}, "spec.limits.concurrent"),
        ({"limits": {"concurrent": "many"}}, "spec.limits.concurrent"),
        ({"ports": {"http": 70000}}, "spec.ports.http"),
        ({"gpus": [0, 0]}, "spec.gpus"),
        ({"bind": "example.org"}, "spec.bind"),
        ({"unknown": 1}, "spec.unknown"),
        ({"model": {"kind": "huggingface", "id": "../etc"}}, "spec.model"),
        ({"model": {"kind": "huggingface", "id": "a/b", "revision": "../x"}}, "spec.model"),
        ({"model": {"kind": "folder", "id": "a\nb"}}, "spec.model.id"),
        ({"model": {}}, "spec.model.kind"),
    ],
)
def test_a_wrong_field_is_named_in_both_languages(change: dict, field: str) -> None:
    error = refused(DEMO | change)
    assert error.field == field
    assert field in error.message.en
    assert field in error.message.zh
    assert error.message.en != error.message.zh


@pytest.mark.parametrize("known", list_all_errors(), ids=lambda known: known["type"])
def test_whatever_pydantic_finds_is_said_in_chinese_and_in_english(known: dict) -> None:
    context = {**(known["example_context"] or {})}
    if "error" in context and context["error"] is None:
        context["error"] = ValueError("so")
    detail = {"type": known["type"], "loc": ("field",), "input": None, "ctx": context}
    found = ValidationError.from_exception_data("kind", [detail])
    message = bad_input(found.errors()).message
    said = message.zh.removeprefix("field：")
    assert HAN.search(said)
    assert not re.search(r"[A-Za-z]{2,}", re.sub("true|false|null|kind|Unicode|ASCII", "", said))
    assert not HAN.search(message.en)


@pytest.mark.parametrize(
    ("value", "zh"),
    [
        ({"limits": {"concurrent": "9" * 5000}}, "数值过大"),
        ({"model": {"kind": "folder", "id": "\ud800"}}, "Unicode"),
        ({"gpus": 3}, "方括号"),
    ],
)
def test_what_a_file_may_well_hold_is_said_to_the_point(value: dict, zh: str) -> None:
    assert zh in refused(DEMO | value).message.zh


def test_choices_are_joined_in_the_person_s_language() -> None:
    error = refused(DEMO | {"restart": "sometimes"})
    assert "' or '" in error.message.en
    assert " or " not in error.message.zh


def test_how_many_fields_are_wrong_too_is_said() -> None:
    hints = [refused(DEMO | dict.fromkeys(names, 1)).hint for names in ("a", "ab", "abc")]
    assert [hint and hint.en[:6] for hint in hints] == [None, "1 more", "2 more"]


def test_json_that_is_none_is_said_with_its_place() -> None:
    with pytest.raises(BadInput, match="line 2") as error:
        read_json(Spec, '{"model":\n}', "spec")
    assert "第 2 行第 1 列无法解析" in error.value.message.zh


def test_hardware_needs_only_a_driver_and_a_name() -> None:
    told = '{"driver_version": "535.54.03", "gpus": [{"name": "NVIDIA GeForce RTX 3090"}]}'
    assert read_json(Hardware, told).gpus[0].sm is None


def test_a_number_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput):
        read_json(Sampling, '{"temperature": NaN}', "chat")


def test_a_chat_is_messages_or_a_prompt() -> None:
    with pytest.raises(BadInput):
        read(Chat, {})
    with pytest.raises(BadInput):
        read(Chat, {"messages": [{"role": "user", "content": "a"}], "prompt": "b"})


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_anything_at_all_is_read_or_refused_in_words(value: object) -> None:
    try:
        read_json(Spec, json.dumps(value), "spec")
    except BadInput as error:
        assert error.message.zh
