"""What a request may hold, and what the engine says when it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest
from slipway_engine import settings
from slipway_engine.errors import PREFIX, RequestError
from slipway_engine.request import Ask, Message, read

HELLO: dict[str, list[Any]] = {"text_input": [b"Hello"]}


def refused(inputs: Mapping[str, list[Any]], parameters: Mapping[str, object] = {}) -> RequestError:
    with pytest.raises(RequestError) as caught:
        read(inputs, parameters)
    return caught.value


def test_a_raw_prompt_with_every_choice_is_read_whole() -> None:
    ask = read(
        HELLO
        | {"max_tokens": [9], "temperature": [0.5], "top_p": [0.9], "top_k": [40], "repetition_penalty": [1.1]}
        | {"seed": [2**64 - 1], "stop": ["。".encode(), b"\n\n"], "stream": [False], "bad_words": [b"ship"]},
        {"triton_enable_empty_final_response": True},
    )
    assert ask == Ask("Hello", None, 9, 0.5, 0.9, 40, 1.1, 2**64 - 1, ("。", "\n\n"), False, ("ship",))


def test_a_conversation_is_read() -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "你好"}]
    assert read({"messages": [json.dumps(turns).encode()]}, {}).messages == (
        Message("system", "Be brief."),
        Message("user", "你好"),
    )


@pytest.mark.parametrize(
    ("field", "inputs"),
    [
        ("text_input", {}),
        ("text_input", HELLO | {"messages": [b"[]"]}),
        ("text_input", {"text_input": [b""]}),
        ("text_input", {"text_input": [b"\xff\xfe"]}),
        ("text_input", {"text_input": [b"a", b"b"]}),
        ("messages", {"messages": [b"no json"]}),
        ("messages", {"messages": [b"[" * 100_000]}),
        ("messages", {"messages": [b"[]"]}),
        ("messages.0", {"messages": [b'[{"role": "user"}]']}),
        ("messages.0", {"messages": [b'[{"role": "user", "content": "x", "name": "y"}]']}),
        ("messages.0.role", {"messages": [b'[{"role": "robot", "content": "x"}]']}),
        ("messages.0.content", {"messages": [b'[{"role": "user", "content": 3}]']}),
        ("messages.0.content", {"messages": [b'[{"role": "user", "content": " "}]']}),
        ("messages.0.content", {"messages": [b'[{"role": "user", "content": "\\ud800"}]']}),
        ("max_tokens", HELLO | {"max_tokens": [0]}),
        ("temperature", HELLO | {"temperature": [-0.1]}),
        ("temperature", HELLO | {"temperature": [float("nan")]}),
        ("temperature", HELLO | {"temperature": [float("inf")]}),
        ("top_p", HELLO | {"top_p": [0.0]}),
        ("top_p", HELLO | {"top_p": [1.5]}),
        ("top_k", HELLO | {"top_k": [-1]}),
        ("repetition_penalty", HELLO | {"repetition_penalty": [0.0]}),
        ("stop", HELLO | {"stop": [b""]}),
        ("stop", HELLO | {"stop": [b"x"] * 17}),
        ("bad_words", HELLO | {"bad_words": [b" "]}),
        ("bad_words", HELLO | {"bad_words": [b"x" * 65]}),
        ("bad_words", HELLO | {"bad_words": [b"x"] * 65}),
        ("seed", HELLO | {"seed": [-1]}),
    ],
)
def test_what_is_wrong_is_named(field: str, inputs: dict[str, list[Any]]) -> None:
    error = refused(inputs)
    assert (error.field, error.code) == (field, "invalid")


def test_an_unknown_request_parameter_is_named() -> None:
    assert refused(HELLO, {"beam_width": 4}).field == "beam_width"


def test_an_error_line_is_parsed_back() -> None:
    line = refused(HELLO | {"temperature": [-1.0]}).line()
    told = json.loads(line.removeprefix(PREFIX))
    assert told["field"] == "temperature" and "-1.0" in told["en"] and "应" in told["zh"]


def test_settings_are_read_from_strings() -> None:
    read_back = settings.read({"model_dir": "/m", "max_rows": "8", "cuda_graphs": "off", "queue_limit": "0"})
    assert (read_back.max_rows, read_back.cuda_graphs, read_back.queue_limit) == (8, False, 0)
    assert not read_back.trust_remote_code and not read_back.allow_pickle


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"model_dir": "/m", "dtype": "fp8"},
        {"model_dir": "/m", "max_rows": "0"},
        {"model_dir": "/m", "nonsense": "1"},
        {"model_dir": "/m", "device": "cuda:x"},
    ],
)
def test_settings_that_are_wrong_are_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="parameter"):
        settings.read(parameters)
