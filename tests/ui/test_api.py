"""The OpenAI-compatible API through the official client, over a control whose model says what the test tells it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPConnection

import openai
import pytest
from openai import OpenAI
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.testclient import TestClient

from app.api import api
from app.web import web
from backends.errors import BadInput, Refused, SlipwayError, Unreachable
from backends.openai import Unsupported, read_chat, read_completion
from backends.spec import Chat, Piece
from backends.text import Text, same
from tests.conftest import until
from tests.live.browser import panel_of
from tests.ui.conftest import StillControl

ORIGIN = "http://127.0.0.1:7860"
HELLO = [Piece(text="Hel"), Piece(text="lo"), Piece(finish="stop", prompt_tokens=3, completion_tokens=2)]
USER = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def panel(control: StillControl) -> Iterator[TestClient]:
    """The API alone, where the panel has it."""
    app = Starlette(routes=[Mount("/v1", api(control))])
    with TestClient(app, base_url=ORIGIN, raise_server_exceptions=False) as client:
        yield client


@pytest.fixture
def whole(control: StillControl) -> Iterator[TestClient]:
    """The whole panel."""
    with TestClient(web(control, control.settings, None), base_url=ORIGIN) as client:
        yield client


@pytest.fixture
def client(panel: TestClient) -> OpenAI:
    """The official client, without a network between."""
    return OpenAI(base_url=f"{ORIGIN}/v1", api_key="none", http_client=panel, max_retries=0)


@pytest.fixture
def served(control: StillControl) -> StillControl:
    """A control with a deployment named demo that answers Hello."""
    control.served()
    control.answers = list(HELLO)
    return control


def test_the_models_are_the_deployments_that_serve(client: OpenAI, control: StillControl) -> None:
    control.begun("waiting")
    run = control.served("ready")
    (model,) = client.models.list().data
    assert (model.id, model.owned_by) == ("ready", "slipway")
    assert model.created == int(run.ready_at.timestamp())
    assert client.models.retrieve("ready") == model


def test_an_answer_comes_whole_with_its_counts(client: OpenAI, served: StillControl) -> None:
    answer = client.chat.completions.create(model="demo", messages=USER)
    assert answer.choices[0].message.content == "Hello"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 2, 5)
    assert answer.object == "chat.completion"
    assert served.closed


def test_an_answer_comes_in_parts(client: OpenAI, served: StillControl) -> None:
    parts = list(client.chat.completions.create(model="demo", messages=USER, stream=True))
    assert parts[0].choices[0].delta.role == "assistant"
    assert [part.choices[0].delta.content for part in parts[1:-1]] == ["Hel", "lo"]
    assert [part.choices[0].finish_reason for part in parts] == [None, None, None, "stop"]
    assert len({part.id for part in parts}) == 1
    assert all(part.usage is None for part in parts)


def test_the_counts_come_last_where_they_are_asked_for(client: OpenAI, served: StillControl) -> None:
    asked = {"stream": True, "stream_options": {"include_usage": True}}
    parts = list(client.chat.completions.create(model="demo", messages=USER, **asked))
    assert parts[-1].choices == []
    assert parts[-1].usage.total_tokens == 5
    assert all(part.usage is None for part in parts[:-1])


def test_a_stream_ends_with_its_mark(panel: TestClient, served: StillControl) -> None:
    answer = panel.post("/v1/chat/completions", json={"model": "demo", "messages": USER, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("data: [DONE]\n\n")


def test_a_prompt_is_continued_whole_and_in_parts(client: OpenAI, served: StillControl) -> None:
    whole = client.completions.create(model="demo", prompt="Say")
    assert (whole.object, whole.choices[0].text, whole.usage.total_tokens) == ("text_completion", "Hello", 5)
    parts = list(client.completions.create(model="demo", prompt="Say", stream=True))
    assert "".join(part.choices[0].text for part in parts) == "Hello"
    assert [chat.prompt for chat in served.heard] == ["Say", "Say"]


def test_what_steers_the_answer_reaches_the_server(client: OpenAI, served: StillControl) -> None:
    client.chat.completions.create(
        model="demo",
        messages=[{"role": "developer", "content": "Be brief."}, *USER],
        max_completion_tokens=7, temperature=0, top_p=0.5, seed=-1, stop=["\n"], user="somebody", frequency_penalty=0,
        extra_body={"top_k": 4, "repetition_penalty": 1.1, "bad_words": ["ship"]},
    )  # fmt: skip
    (chat,) = served.heard
    assert [(turn.role, turn.content) for turn in chat.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert chat.sampling.model_dump() == {
        "max_tokens": 7, "temperature": 0.0, "top_p": 0.5, "top_k": 4, "repetition_penalty": 1.1, "seed": 2**64 - 1,
        "stop": ("\n",), "bad_words": ("ship",),
    }  # fmt: skip


def test_one_stop_text_and_text_parts_are_read(client: OpenAI, served: StillControl) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    client.chat.completions.create(model="demo", messages=[{"role": "user", "content": parts}], stop="END")
    assert served.heard[0].messages[0].content == "ab"
    assert served.heard[0].sampling.stop == ("END",)


def test_an_answer_can_be_sent_back_as_the_client_keeps_it(client: OpenAI, served: StillControl) -> None:
    said = client.chat.completions.create(model="demo", messages=USER).choices[0].message
    client.chat.completions.create(model="demo", messages=[*USER, said, *USER])
    assert [turn.content for turn in served.heard[1].messages] == ["Hi", "Hello", "Hi"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2), ("frequency_penalty", 0.5), ("presence_penalty", -1), ("logit_bias", {"5": 1}), ("logprobs", True),
        ("tools", [{"type": "function", "function": {"name": "f"}}]), ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}), ("reasoning_effort", "high"), ("modalities", ["audio"]),
    ],
)  # fmt: skip
def test_what_the_engine_cannot_do_is_refused_by_name(client: OpenAI, served, field: str, value: object) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="demo", messages=USER, extra_body={field: value})
    assert (refused.value.param, refused.value.code) == (field, "unsupported_parameter")
    assert field in refused.value.message
    assert served.heard == []


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": 101}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens"),
        ({"seed": "x"}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"temperatur": 1}, "temperatur"),
        ({"\ud800": 1}, "?"),
        ({"messages": []}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, "messages.0.name"),
        ({"stop": ["\udfff"]}, "stop"),
        ({"bad_words": ["\udfff"]}, "bad_words"),
        ({"bad_words": ["x"] * 65}, "bad_words"),
        ({"bad_words": {}}, "bad_words"),
        ({"model": None}, "model"),
        ({"model": "\ud800"}, "model"),
    ],
    ids=str,
)
def test_a_wrong_value_is_named_as_the_client_wrote_it(change: dict, param: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_chat({"model": "demo", "messages": USER, **change})
    assert refused.value.field == param
    assert refused.value.message.zh.startswith(param)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": ["a", "b"]}, "prompt"), ({"prompt": [1, 2]}, "prompt"), ({"prompt": None}, "prompt"),
        ({"logprobs": 0}, "logprobs"), ({"echo": True}, "echo"), ({"suffix": "x"}, "suffix"),
        ({"messages": USER}, "messages"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_completion_is_named(change: dict, param: str) -> None:
    with pytest.raises(BadInput) as refused:
        read_completion({"model": "demo", "prompt": "Say", **change})
    assert refused.value.field == param


def test_null_asks_for_nothing() -> None:
    body = {"model": "demo", "messages": USER, "tools": None, "temperature": None, "stop": None, "logprobs": None}
    assert read_chat(body).chat == Chat(messages=({"role": "user", "content": "Hi"},))
    assert not issubclass(Unsupported, Refused)


def test_an_unknown_model_is_not_found(client: OpenAI, control: StillControl) -> None:
    control.begun("demo")  # launched, but not serving yet
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="demo", messages=USER)
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


@pytest.mark.parametrize(
    ("error", "status", "param"),
    [
        (Refused("too long", same("too long"), "text_input"), 400, "messages"),
        (Refused("too many", same("too many"), "max_tokens"), 400, "max_completion_tokens"),
        (Refused("queue full", same("queue full"), "server"), 503, None),
        (Refused("no such output"), 502, None),
        (Unreachable(Text(en="It is gone.", zh="无法连接。")), 503, None),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_goes_wrong_first_has_the_right_status(
    client: OpenAI, served: StillControl, error: SlipwayError, status: int, param: str | None, stream: bool
) -> None:
    served.answers = [error]
    with pytest.raises(openai.APIStatusError) as refused:
        client.chat.completions.create(model="demo", messages=USER, max_completion_tokens=5, stream=stream)
    assert (refused.value.status_code, refused.value.param) == (status, param)
    assert error.message.en in refused.value.message


def test_what_goes_wrong_on_the_way_is_told_in_the_stream(client: OpenAI, served: StillControl) -> None:
    served.answers = [Piece(text="Hel"), Unreachable(Text(en="It is gone.", zh="无法连接。"))]
    stream = client.chat.completions.create(model="demo", messages=USER, stream=True)
    heard = []
    with pytest.raises(openai.APIError, match="It is gone"):
        for part in stream:
            heard.append(part.choices[0].delta.content)
    assert heard == ["", "Hel"]


def test_nothing_else_lies_under_the_api(whole: TestClient) -> None:
    for path in ("/v1/nothing", "/v1/", "/v1/%2e%2e/config", "/v1/%2E%2E%2Fconfig", "/v1/models/a/b"):
        for method in ("GET", "POST", "PUT"):
            answer = whole.request(method, path)
            assert answer.status_code in (404, 405)
            assert answer.json()["error"]["type"] == "invalid_request_error"


def test_an_error_is_told_in_the_client_s_language(panel: TestClient) -> None:
    body = {"model": "nobody", "messages": USER}
    answer = panel.post("/v1/chat/completions", json=body, headers={"accept-language": "zh-CN"})
    assert "没有名为“nobody”的运行中的部署" in answer.json()["error"]["message"]
    for method, path, words in (("GET", "/v1/nothing", "没有内容"), ("PUT", "/v1/models", "请求方法")):
        unheard = panel.request(method, path, headers={"accept-language": "zh-CN"})
        assert words in unheard.json()["error"]["message"]


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"x" * (5 * 1024 * 1024)])
def test_a_body_that_is_no_object_is_refused(panel: TestClient, body: bytes) -> None:
    answer = panel.post("/v1/chat/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "body"


def test_another_site_cannot_use_the_api(whole: TestClient, served: StillControl) -> None:
    body = {"model": "demo", "messages": USER}
    assert whole.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"] == "Hello"
    served.heard.clear()
    answer = whole.post("/v1/chat/completions", json=body, headers={"origin": "https://evil.example"})
    assert answer.status_code == 403
    assert served.heard == []


class Endless(StillControl):
    """A model that says one word and then thinks on; tells when its answer was ended."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)
        self.begun_to_answer, self.ended = threading.Event(), threading.Event()

    async def chat(self, run_id: str, chat: Chat) -> AsyncIterator[Piece]:
        try:
            self.begun_to_answer.set()
            yield Piece(text="Well")
            await asyncio.Event().wait()
        finally:
            self.ended.set()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_ends_the_generation(control: StillControl, stream: bool) -> None:
    endless = Endless(control.settings, control._store, control._targets)
    endless.served()
    asked = {"model": "demo", "messages": USER}
    with panel_of(endless) as address:
        if stream:
            client = OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
            answer = client.chat.completions.create(**asked, stream=True)
            assert next(answer).choices[0].delta.role == "assistant"
            answer.close()
        else:
            leaver = HTTPConnection(address.removeprefix("http://"))
            leaver.request("POST", "/v1/chat/completions", json.dumps(asked), {"content-type": "application/json"})
            until(endless.begun_to_answer.is_set, 30, "the answer to begin")
            leaver.close()
        until(endless.ended.is_set, 30, "the generation to end")
