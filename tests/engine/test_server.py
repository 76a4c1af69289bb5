"""A real tritonserver with the engine: streams, stops, cancels, refuses, and stays whole whatever clients do."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import socket
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import engine_server
import numpy as np
import pytest
import tritonclient.grpc as grpc

from tests.conftest import missing, until
from tests.engine.conftest import ENDLESS

pytestmark = pytest.mark.live
KINDS = {
    "text_input": ("BYTES", np.object_),
    "messages": ("BYTES", np.object_),
    "stop": ("BYTES", np.object_),
    "bad_words": ("BYTES", np.object_),
    "max_tokens": ("INT32", np.int32),
    "top_k": ("INT32", np.int32),
    "temperature": ("FP32", np.float32),
    "top_p": ("FP32", np.float32),
    "repetition_penalty": ("FP32", np.float32),
    "seed": ("UINT64", np.uint64),
    "stream": ("BOOL", np.bool_),
}


class Talk:
    """One chat over a gRPC stream of its own, read by whoever wants."""

    def __init__(self, server: engine_server.Server, model: str = "chat", **values: Any) -> None:
        self.client = grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}")
        self._news: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.client.start_stream(lambda result, error: self._news.put(error or result))
        parameters = values.pop("parameters", None)
        timeout_us = values.pop("timeout_us", None)
        inputs = []
        for name, value in values.items():
            kind, dtype = KINDS[name]
            many = value if isinstance(value, list) else [value]
            array = np.array([v.encode() if isinstance(v, str) else v for v in many], dtype)
            tensor = grpc.InferInput(name, list(array.shape), kind)
            tensor.set_data_from_numpy(array)
            inputs.append(tensor)
        self.client.async_stream_infer(model, inputs, parameters=parameters, timeout=timeout_us)
        self.pieces: list[str] = []
        self.last: dict[str, Any] = {}

    def next(self, timeout_s: float = 30.0) -> str:
        """The next piece. Raises RuntimeError with the server's words."""
        news = self._news.get(timeout=timeout_s)
        if isinstance(news, Exception):
            raise RuntimeError(str(news.message()) if hasattr(news, "message") else str(news))
        text = news.as_numpy("text_output")
        self.pieces.append("" if text is None else text[0].decode())
        if news.as_numpy("finish_reason") is not None:
            for name in ("finish_reason", "prompt_tokens", "completion_tokens", "queue_ms", "ttft_ms"):
                value = news.as_numpy(name)[0]
                self.last[name] = value.decode() if isinstance(value, bytes) else value.item()
        return self.pieces[-1]

    def whole(self) -> str:
        """The answer to its end."""
        try:
            while not self.last:
                self.next()
        finally:
            self.close()  # an open stream would hold the model when the server ends
        return "".join(self.pieces)

    def close(self, *, cancel: bool = False) -> None:
        """Hangs up."""
        self.client.stop_stream(cancel_requests=cancel)
        self.client.close()


def answer(server: engine_server.Server, model: str = "chat", **values: Any) -> str:
    """A whole answer over gRPC."""
    return Talk(server, model, **values).whole()


def refusal(server: engine_server.Server, model: str = "chat", **values: Any) -> dict[str, str]:
    """What the server says against a request."""
    talk = Talk(server, model, **values)
    try:
        with pytest.raises(RuntimeError) as caught:
            talk.next()
    finally:
        talk.close()
    told: dict[str, str] = json.loads(str(caught.value).partition("slipway ")[2])
    return told


def post(server: engine_server.Server, path: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and text of Triton's generate extension."""
    url = f"http://127.0.0.1:{server.http_port}/v2/models/chat/{path}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode()), timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def metric(server: engine_server.Server, name: str, **labels: str) -> float:
    """One value of the metrics page."""
    for line in server.metrics().splitlines():
        if line.startswith(name + "{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
            return float(line.rsplit(" ", 1)[1])
    raise KeyError(name)


def idle(server: engine_server.Server, model: str = "chat") -> None:
    """Waits until the metrics, which lag by half a second, show nobody."""
    until(
        lambda: (
            metric(server, "slipway_active_requests", model=model)
            + metric(server, "slipway_queued_requests", model=model)
            == 0
        )
    )


HELLO = {"text_input": "hello world", "max_tokens": 40, "temperature": 0.0}
ON_AND_ON = {"text_input": "hello world", "max_tokens": ENDLESS - 100}


@contextlib.contextmanager
def holding(server: engine_server.Server) -> Iterator[Talk]:
    """A chat that has the narrow model's only place until it is cancelled, at the latest with the block."""
    talk = Talk(server, "narrow", **ON_AND_ON)
    try:
        talk.next()
        yield talk
    finally:
        talk.close(cancel=True)


def test_an_answer_streams_and_counts_itself(server: engine_server.Server) -> None:
    with holding(server) as endless:
        assert all(endless.next() for _ in range(4)) and not endless.last
    talk = Talk(server, **HELLO)
    assert talk.whole()
    assert talk.last["finish_reason"] in ("stop", "length")
    assert 0 < talk.last["completion_tokens"] <= 40 and talk.last["prompt_tokens"] > 0
    assert 0 <= talk.last["queue_ms"] <= talk.last["ttft_ms"] < 30_000


def test_streamed_and_whole_answers_are_the_same_over_every_way(server: engine_server.Server) -> None:
    streamed = answer(server, **HELLO)
    assert answer(server, **HELLO, stream=False) == streamed
    status, text = post(server, "generate", HELLO | {"stream": False})
    assert (status, json.loads(text)["text_output"]) == (200, streamed)
    status, text = post(server, "generate_stream", HELLO)
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: ")]
    assert (status, "".join(event["text_output"] for event in events)) == (200, streamed)


def test_a_conversation_goes_through_the_chat_template(server: engine_server.Server) -> None:
    turns = json.dumps([{"role": "user", "content": "hello"}])
    rendered = "user: hello\nassistant:"
    assert answer(server, messages=turns, max_tokens=16) == answer(server, text_input=rendered, max_tokens=16)


def test_a_seed_is_reproduced_among_others(server: engine_server.Server) -> None:
    drawn = {"text_input": "hello", "max_tokens": 50, "temperature": 1.0, "top_p": 0.95}
    first = answer(server, **drawn, seed=7)
    with ThreadPoolExecutor(9) as pool:
        others = [pool.submit(answer, server, **drawn, seed=100 + index) for index in range(8)]
        again = pool.submit(answer, server, **drawn, seed=7).result()
        different = {other.result() for other in others}
    assert again == first
    assert len(different) > 4 and first not in different


def test_a_stop_string_ends_the_answer_before_it(server: engine_server.Server) -> None:
    whole = answer(server, **HELLO)
    stop = whole[len(whole) // 2 :][:2]
    talk = Talk(server, **HELLO, stop=["never said by anyone", stop])
    assert talk.whole() == whole[: whole.index(stop)]
    assert talk.last["finish_reason"] == "stop"


def test_a_bad_word_is_left_out_of_its_own_answer_alone(server: engine_server.Server) -> None:
    whole = answer(server, **HELLO)
    place, letter = next((place, one) for place, one in enumerate(whole) if one.isascii() and one.isalpha())
    with ThreadPoolExecutor(2) as pool:
        free, kept = pool.submit(answer, server, **HELLO), pool.submit(answer, server, **HELLO, bad_words=[letter])
    assert free.result() == whole
    assert kept.result()[:place] == whole[:place] and kept.result()[place : place + 1] != letter


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("text_input", {"max_tokens": 4}),
        ("text_input", {"text_input": ""}),
        ("text_input", {"text_input": "z" * 600}),
        ("max_tokens", {"text_input": "a", "max_tokens": 5000}),
        ("temperature", {"text_input": "a", "temperature": float("nan")}),
        ("temperature", {"text_input": "a", "temperature": -1.0}),
        ("top_p", {"text_input": "a", "top_p": 0.0}),
        ("messages.0.role", {"messages": '[{"role": "robot", "content": "x"}]'}),
        ("beam_width", {"text_input": "a", "parameters": {"beam_width": 4}}),
    ],
)
def test_what_is_wrong_with_a_request_is_named(
    server: engine_server.Server, field: str, values: dict[str, Any]
) -> None:
    told = refusal(server, **values)
    assert told["field"] == field and told["en"] and told["zh"]


def test_an_unknown_field_over_http_is_named(server: engine_server.Server) -> None:
    status, text = post(server, "generate", HELLO | {"stream": False, "best_of": 3})
    assert status == 400 and "best_of" in text


def test_bad_requests_do_not_harm_those_that_run(server: engine_server.Server) -> None:
    long = {"text_input": "the quick brown fox", "max_tokens": 300}
    alone = answer(server, **long)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(answer, server, **long) for _ in range(4)]
        for index in range(30):
            refusal(server, text_input="a", temperature=[-1.0, float("nan"), float("inf")][index % 3])
        assert {one.result() for one in running} == {alone}


def test_a_short_queue_refuses_who_comes_when_it_is_full(server: engine_server.Server) -> None:
    with holding(server):
        waiting = [Talk(server, "narrow", text_input="a", max_tokens=1) for _ in range(2)]
        until(lambda: metric(server, "slipway_queued_requests", model="narrow") == 2)
        assert "queue is full" in refusal(server, "narrow", text_input="a", max_tokens=1)["en"]
    for talk in waiting:
        talk.whole()
        assert talk.last["finish_reason"] == "length"


def test_a_request_may_wait_no_longer_than_it_says(server: engine_server.Server) -> None:
    with holding(server):
        told = refusal(server, "narrow", text_input="b", max_tokens=1, timeout_us=1000)
    assert "waited" in told["en"]


@pytest.mark.alone
def test_a_cancel_frees_the_place_at_once(server: engine_server.Server, record_property: Any) -> None:
    latencies = []
    for _ in range(5):
        with holding(server) as holder:
            waiter = Talk(server, "narrow", text_input="hello", max_tokens=2)
            began = time.monotonic()
            holder.close(cancel=True)
            waiter.next()
            latencies.append(time.monotonic() - began)
        waiter.whole()
    print(f"cancel to the next one's first piece: median {statistics.median(latencies) * 1000:.0f} ms")
    record_property("cancel_ms", statistics.median(latencies) * 1000)
    assert statistics.median(latencies) < 0.5


def test_what_an_engine_says_is_found_within_a_line_of_tritons() -> None:
    one, other = ({"batching": way, "why": "{}"} for way in ("window", "single"))
    said = [engine_server.SAID + json.dumps(facts) for facts in (one, other)]
    log = f'I1122 model.cc:1] "a"{said[0]}\n\n{said[1]}\nI1122 model.cc:1] "b"\n'
    assert engine_server.facts_in(log) == [one, other]


def test_odd_families_are_served_one_at_a_time_and_say_so(server: engine_server.Server) -> None:
    ways = {str(fact["batching"]): str(fact["why"]) for fact in server.facts()}
    assert set(ways) == {"window", "single"} and "self-test" in ways["single"]
    assert metric(server, "slipway_engine_info", model="odd", batching="single") == 1
    with ThreadPoolExecutor(3) as pool:
        talks = [Talk(server, "odd", **HELLO) for _ in range(3)]
        assert len({one.result() for one in [pool.submit(talk.whole) for talk in talks]}) == 1
    assert all(talk.last["completion_tokens"] == 40 for talk in talks)


def _abandon(server: engine_server.Server, draw: random.Random) -> None:
    """One client: finishes, cancels, hangs up or drops its connection, at a random moment."""
    values = {"text_input": "hello" * draw.randrange(1, 8), "max_tokens": draw.randrange(1, 60), "temperature": 0.8}
    way = draw.random()
    if way < 0.4:
        _drop_http(server, values, draw)
        return
    talk = Talk(server, **values)
    with contextlib.suppress(queue.Empty):
        for _ in range(draw.randrange(4)):
            if talk.last:
                break
            talk.next(timeout_s=5)
    if way < 0.5 and not talk.last:
        talk.whole()
    else:
        talk.close(cancel=way < 0.85)


def _drop_http(server: engine_server.Server, values: dict[str, Any], draw: random.Random) -> None:
    """An HTTP client that sends its request, whole or not, reads a little or nothing, and is gone."""
    body = json.dumps(values).encode()
    head = f"POST /v2/models/chat/generate_stream HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    whole = head + body
    with socket.create_connection(("127.0.0.1", server.http_port), timeout=10) as connection:
        connection.sendall(whole if draw.random() < 0.8 else whole[: draw.randrange(1, len(whole))])
        if draw.random() < 0.6:
            connection.settimeout(draw.random() * 0.05 + 0.001)
            with contextlib.suppress(TimeoutError):
                connection.recv(draw.randrange(1, 4000))


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(12) as pool:
        yield pool


def test_a_thousand_connects_drops_and_cancels_leave_the_server_whole(
    server: engine_server.Server, crowd: ThreadPoolExecutor
) -> None:
    before = answer(server, **HELLO)
    draws = threading.local()

    def one(seed: int) -> None:
        draws.random = random.Random(seed)
        _abandon(server, draws.random)

    for done in [crowd.submit(one, seed) for seed in range(1000)]:
        done.result(timeout=120)
    idle(server)
    assert server.alive
    assert answer(server, **HELLO) == before
    assert metric(server, "slipway_requests_total", model="chat", outcome="cancelled") > 50


@pytest.fixture
def halting(runtime_dir: Path, tiny_models: Path, tmp_path: Path) -> Iterator[engine_server.Server]:
    """A server each third of whose network sends takes 15 ms longer, as where a machine has too much to do."""
    launcher = tmp_path / "halting" / "bin" / "tritonserver"
    launcher.parent.mkdir(parents=True)
    (tmp_path / "halting" / "backends").symlink_to(runtime_dir / "backends")
    held = "strace -f -qqq --seccomp-bpf -o /dev/null -e trace=sendmsg -e inject=sendmsg:delay_exit=15000:when=1+3"
    launcher.write_text(f'#!/bin/sh\nexec {held} {runtime_dir}/bin/slipway-tritonserver "$@"\n')
    launcher.chmod(0o755)
    if subprocess.run(("strace", "-qqq", "-o", "/dev/null", "true"), check=False).returncode:
        missing("strace that may trace (apt install strace)")
    model = {"model_dir": str(tiny_models / "endless"), "device": "cpu", "max_context": str(ENDLESS)}
    with engine_server.serving(tmp_path, {"chat": model}, launcher) as server:
        yield server
        os.killpg(server.process.pid, signal.SIGKILL)  # strace would not pass a gentler signal on


def test_chats_that_are_cancelled_behind_slow_sends_leave_the_server_whole(
    halting: engine_server.Server, crowd: ThreadPoolExecutor
) -> None:
    """tritonserver 2.51 dies of a final answer that comes between a cancel and the report of the last write."""
    before = answer(halting, **HELLO)

    def one(seed: int) -> None:
        draw = random.Random(seed)
        most = (
            draw.randrange(200, 400) if seed % 2 else ON_AND_ON["max_tokens"]
        )  # some end just when they are cancelled
        talk = Talk(halting, text_input="hello", max_tokens=most, temperature=0.8, seed=seed)
        for _ in range(draw.randrange(4)):
            if not talk.last:
                talk.next()
        talk.close(cancel=True)

    for done in [crowd.submit(one, seed) for seed in range(1500)]:
        done.result(timeout=120)
    assert answer(halting, **HELLO) == before
    until(lambda: metric(halting, "slipway_requests_total", model="chat", outcome="cancelled") >= 750)
