"""The OpenAI-compatible API on a real tritonserver, with the official client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import httpx
import openai
import pytest
from openai import OpenAI

from app.asking import in_step
from app.control import Control
from backends.runs import Run
from backends.spec import Chat, Sampling
from backends.watched import WatchedServer
from tests.conftest import until
from tests.live.browser import panel_of

pytestmark = pytest.mark.live
QUESTION = [{"role": "user", "content": "What is Slipway?"}]


@pytest.fixture(scope="module")
def panel(live_control: Control) -> Iterator[str]:
    with panel_of(live_control) as address:
        yield address


@pytest.fixture(scope="module")
def client(panel: str) -> Iterator[OpenAI]:
    yield OpenAI(base_url=f"{panel}/v1", api_key="none", max_retries=0, http_client=httpx.Client(trust_env=False))


def metric(run: Run, name: str) -> float:
    """A counter or gauge of the server, summed over its labels."""
    text = httpx.get(f"http://{run.endpoint.host}:{run.endpoint.metrics_port}/metrics", trust_env=False).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def test_the_deployment_is_listed_by_its_name(client: OpenAI, served: Run) -> None:
    assert served.name in [model.id for model in client.models.list()]


def test_the_streamed_answer_is_the_whole_answer(client: OpenAI, served: Run) -> None:
    asked = {"model": served.name, "messages": QUESTION, "temperature": 0}
    whole = client.chat.completions.create(**asked)
    parts = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert len(parts) > 5
    told = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert told == whole.choices[0].message.content
    assert "Slipway" in told
    assert parts[-1].usage == whole.usage
    assert whole.choices[0].finish_reason == "stop"


def test_a_limit_and_a_stop_text_end_the_answer(client: OpenAI, served: Run) -> None:
    asked = {"model": served.name, "messages": QUESTION, "temperature": 0}
    short = client.chat.completions.create(**asked, max_completion_tokens=5)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 5)
    words = client.chat.completions.create(**asked).choices[0].message.content
    stop = words[10:14]
    stopped = client.chat.completions.create(**asked, stop=stop)
    assert stopped.choices[0].message.content == words[: words.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"


def test_a_seed_draws_the_same_answer_again(client: OpenAI, served: Run) -> None:
    asked = {"model": served.name, "prompt": "Slipway is", "max_tokens": 24, "temperature": 1.5, "seed": -7}
    assert client.completions.create(**asked).choices[0].text == client.completions.create(**asked).choices[0].text


def test_what_the_engine_refuses_is_named_as_the_client_wrote_it(client: OpenAI, served: Run) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=served.name, prompt="x" * 100_000)
    assert refused.value.param == "prompt"


def test_a_client_that_goes_away_ends_the_generation_on_the_server(client: OpenAI, served: Run) -> None:
    cancelled = 'slipway_requests_total{model="chat",outcome="cancelled"'
    before = metric(served, cancelled)
    story = client.completions.create(model=served.name, prompt="Slipway", stream=True, temperature=5.0, seed=1)
    next(story)
    story.close()
    until(lambda: metric(served, cancelled) > before, 30, "the server to cancel")
    until(lambda: metric(served, "slipway_active_requests") == 0, 30, "no request on the server")


def test_the_code_that_the_chat_page_shows_gives_the_answer_that_it_shows(
    panel: str, live_control: Control, served: Run
) -> None:
    """Run as it is shown: curl to Triton, Python with tritonclient, Python with the OpenAI client, the raw prompt."""
    question = "What is Slipway?"
    watched = live_control.add_watched(
        WatchedServer(name="by address", http_port=served.endpoint.http_port, grpc_port=served.endpoint.grpc_port,
                      metrics_port=served.endpoint.metrics_port, model="chat")
    )  # fmt: skip
    with httpx.Client(base_url=panel, trust_env=False) as http:
        answers = []
        for server in (served.id, watched.id):
            asked = {"server": server, "text": question, "sampling": {"temperature": 0}}
            told = [json.loads(line) for line in http.post("/slipway/chat", json=asked).text.splitlines()]
            answers.append("".join(line.get("text", "") for line in told))
            live_control.delete_conversation(told[0]["kept"]["conversation"])
        chat = {"messages": [{"role": "user", "content": question}], "sampling": {"temperature": 0}}
        found = http.post("/slipway/code", json={"server": served.id, "chat": chat}).json()
    live_control.remove_watched(watched.id)
    assert "Slipway" in answers[0]
    assert answers[0] == answers[1]
    texts = {one["kind"]: one["text"] for one in found["programs"]}
    streamed = run(("sh", "-c", texts["curl"])).splitlines()
    parts = [json.loads(line[6:])["text_output"] for line in streamed if line.startswith("data: ")]
    assert "".join(parts) == answers[0]
    for kind in ("python", "openai"):
        assert run((sys.executable, "-c", texts[kind])) == f"{answers[0]}\n"
    pieces = in_step(live_control.chat(served.id, Chat(prompt=found["prompt"], sampling=Sampling(temperature=0.0))))
    assert "".join(piece.text for piece in pieces) == answers[0]


def run(command: tuple[str, ...]) -> str:
    """What a program prints."""
    env = {**os.environ, "NO_PROXY": "*", "no_proxy": "*"}
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=env).stdout
