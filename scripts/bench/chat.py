"""A chat through the page's own route beside the same request over gRPC without the panel, by turns on one server."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import time
from collections.abc import Iterator

import httpx
import tritonclient.grpc.aio as aio

from app.__main__ import control as make_control
from app.control import DEMO
from backends.runs import Run, State
from scripts.bench import Figure
from scripts.bench.engine_client import Tally
from scripts.bench.engine_client import chat as raw_chat
from scripts.bench.panel import panel_over

TOKENS = 2000
ROUNDS = 5
QUESTION = [{"role": "user", "content": "Tell me everything."}]
DRAWN = {"temperature": 5.0, "max_tokens": TOKENS}  # so hot that the model seldom ends by itself


def figures() -> Iterator[Figure]:
    """Tokens a second both ways, the same tokens each time (one seed), and the median of their ratios by pairs."""
    home = os.environ["SLIPWAY_TEST_HOME"]
    control = make_control({"home": home})
    limits = DEMO.limits.model_copy(update={"new_tokens": TOKENS})
    run = control.start(DEMO.model_copy(update={"name": "bench-chat", "limits": limits})).run
    run = control.wait(run.id, timeout_s=300)
    if run.state is not State.SERVING:
        raise RuntimeError(f"{run.id}: {run.state} {run.trouble}")
    try:
        with panel_over(home) as (_, address):
            seed = next(seed for seed in range(1, 200) if _raw(run, seed)[0] == TOKENS)
            page, raw = [], []
            for _ in range(ROUNDS):
                page.append(_rate(_page(address, run, seed)))
                raw.append(_rate(_raw(run, seed)))
        yield Figure("chat.page", statistics.median(page), " tok/s")
        yield Figure("chat.grpc", statistics.median(raw), " tok/s")
        ratios = [one / other for one, other in zip(page, raw, strict=True)]
        yield Figure("chat.page_to_grpc", statistics.median(ratios), least=0.95)
    finally:
        control.stop(run.id)
        for row in control.conversations("Tell me everything."):
            control.delete_conversation(row.id)


def _rate(told: tuple[int, float]) -> float:
    tokens, seconds = told
    if tokens != TOKENS:
        raise RuntimeError(f"{tokens} tokens came instead of {TOKENS}")
    return tokens / seconds


def _raw(run: Run, seed: int) -> tuple[int, float]:
    """Tokens and seconds of the request over gRPC."""
    if run.endpoint is None:
        raise RuntimeError("a serving run has an endpoint")
    address = run.endpoint.grpc

    async def once() -> tuple[int, float]:
        tally = Tally()
        async with aio.InferenceServerClient(address) as client:
            begun = time.perf_counter()
            await raw_chat(client, "chat", tally, messages=json.dumps(QUESTION), seed=seed, **DRAWN)
            return tally.tokens, time.perf_counter() - begun

    return asyncio.run(once())


def _page(address: str, run: Run, seed: int) -> tuple[int, float]:
    """Tokens and seconds of the question as the page asks it, a new conversation each time."""
    body = {"server": run.id, "text": QUESTION[0]["content"], "sampling": {**DRAWN, "seed": seed}}
    with httpx.Client(trust_env=False, timeout=120) as client:
        begun = time.perf_counter()
        with client.stream("POST", f"{address}/slipway/chat", json=body) as answer:
            last = [line for line in answer.iter_lines() if line][-1]
        return int(json.loads(last)["done"]["tokens"]), time.perf_counter() - begun
