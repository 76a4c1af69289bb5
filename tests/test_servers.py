"""Servers that others started: whether, and how, a chat can talk to their models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from backends import recipes
from backends.errors import CannotDo, Unreachable
from backends.probes.model_configs import chosen
from backends.servers import Spoken, spoken
from backends.spec import Chat, Endpoint, Message
from backends.text import Text
from backends.watched import WatchedServer
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture


def config(name: str, inputs: str, outputs: str = "text_output", **more: Any) -> dict[str, Any]:
    """A model's configuration as Triton tells it."""
    return {
        "name": name,
        "input": [{"name": one, "optional": one.startswith("?")} for one in inputs.split()],
        "output": [{"name": one} for one in outputs.split()],
        "model_transaction_policy": {"decoupled": True},
        **more,
    }


OURS = config("chat", "text_input messages max_tokens", "text_output finish_reason")
VLLM = config("vllm", "text_input stream sampling_parameters return_finish_reason")
ENSEMBLE = config("ensemble", "text_input max_tokens stream", platform="ensemble")
OLD = config("ensemble", "text_input max_tokens bad_words stop_words stream", platform="ensemble")
BLS = config("tensorrt_llm_bls", "text_input max_tokens seed stream", backend="python")
LLMAPI = config("tensorrt_llm", "text_input sampling_param_max_tokens", backend="python")
CORE = config("tensorrt_llm", "input_ids input_lengths", "output_ids")
RESNET = config("resnet", "image", "class")


@pytest.mark.parametrize(
    ("told", "engine", "interface"),
    [
        (OURS, "transformers", None), (VLLM, "vllm", None), (ENSEMBLE, "tensorrt_llm", "ensemble"),
        (OLD, "tensorrt_llm", "0.5-text"), (BLS, "tensorrt_llm", "bls-seed"), (LLMAPI, "tensorrt_llm", "llmapi"),
    ],
)  # fmt: skip
def test_a_model_is_known_by_its_tensors_and_a_chat_can_be_sent(told: dict, engine: str, interface: str | None) -> None:
    found = spoken(told)
    assert isinstance(found, Spoken)
    assert (found.engine, found.told.get("interface")) == (engine, interface)
    session = recipes.TENSORS[found.engine].session(Chat(messages=(Message(role="user", content="Hi"),)), found.told)
    there = {one["name"] for one in told["input"]}
    assert there & {one.name for one in session.inputs} >= {"text_input"} - ({"text_input"} if told is OURS else set())


def test_a_watched_engine_is_given_bad_words_where_it_has_the_input() -> None:
    can = config("chat", "text_input messages max_tokens bad_words", "text_output finish_reason")
    why = [recipes.TENSORS[found.engine].no_bad_words(found.told) is None for found in map(spoken, (OURS, can, VLLM))
           if isinstance(found, Spoken)]  # fmt: skip
    assert why == [False, True, True]


def test_a_watched_ensemble_is_asked_to_leave_the_prompt_out_where_it_can() -> None:
    can = config("ensemble", "text_input max_tokens stream exclude_input_in_output", platform="ensemble")
    told = [found.told.get("excludes") for found in map(spoken, (ENSEMBLE, can)) if isinstance(found, Spoken)]
    assert told == [None, "true"]


@pytest.mark.parametrize("told", [CORE, RESNET, {}])
def test_any_other_model_is_refused_with_the_reason(told: dict) -> None:
    assert isinstance(spoken(told), Text)


@pytest.fixture
def triton() -> Iterator[tuple[dict[str, Any], Endpoint]]:
    """A server that tells what the test puts into the dictionary, by path."""
    answers: dict[str, Any] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = answers.get(self.path)
            self.send_response(404 if told is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(told).encode())

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            self.do_GET()

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield answers, Endpoint(http_port=server.server_address[1], grpc_port=1, metrics_port=1, model="")
    server.shutdown()
    server.server_close()


def test_without_a_name_the_model_that_can_be_talked_to_is_chosen_an_ensemble_first(triton) -> None:
    answers, endpoint = triton
    answers["/v2/repository/index"] = [{"name": "resnet"}, {"name": "vllm"}, {"name": "ensemble"}]
    answers |= {f"/v2/models/{one['name']}/config": one for one in (RESNET, VLLM, ENSEMBLE)}
    with httpx.Client(trust_env=False) as http:
        found, told = chosen(http, endpoint)
    assert (found.model, told) == ("ensemble", ENSEMBLE)


def test_a_server_that_lists_nothing_wants_a_name(triton) -> None:
    with httpx.Client(trust_env=False) as http, pytest.raises(CannotDo):
        chosen(http, triton[1])


def test_why_a_watched_server_cannot_be_talked_to_is_said(triton, control: StillControl) -> None:  # noqa: F811
    answers, endpoint = triton
    told = {"name": "next door", "http_port": endpoint.http_port}
    added = control.add_watched(WatchedServer(**told, model="resnet"))
    answers["/v2/models/resnet/config"] = RESNET
    with pytest.raises(CannotDo) as refused:
        control.server(added.id)
    assert "resnet" in refused.value.reasons[0].en
    other = control.add_watched(WatchedServer(**told, model="vllm"))
    answers["/v2/models/vllm/config"] = VLLM
    found = control.server(other.id)
    assert (found.name, found.engine, found.endpoint.model, found.ours) == ("next door", "vllm", "vllm", False)
    silent = control.add_watched(WatchedServer(name="silent", http_port=1, model="x"))
    with pytest.raises(Unreachable):
        control.server(silent.id)
