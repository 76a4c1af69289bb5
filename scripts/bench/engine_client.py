"""Chats with a running engine over gRPC, many at once, and counts; in a process beside the server's."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field

import numpy as np
import tritonclient.grpc.aio as aio


@dataclass
class Tally:
    """What a run of chats came to. Times in seconds."""

    tokens: int = 0
    chats: int = 0
    messages: int = 0
    wall_s: float = 0.0
    first_s: list[float] = field(default_factory=list)
    server_first_ms: list[float] = field(default_factory=list)  # as the engine counts it

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.wall_s


def tensors(**values: str | int | float) -> list[aio.InferInput]:
    """Input tensors of a request."""
    kinds = {"messages": ("BYTES", np.object_), "text_input": ("BYTES", np.object_)}
    kinds |= {"max_tokens": ("INT32", np.int32), "seed": ("UINT64", np.uint64)}
    kinds |= {"temperature": ("FP32", np.float32), "top_p": ("FP32", np.float32), "top_k": ("INT32", np.int32)}
    made = []
    for name, value in values.items():
        kind, dtype = kinds[name]
        one = aio.InferInput(name, [1], kind)
        one.set_data_from_numpy(np.array([value.encode() if isinstance(value, str) else value], dtype))
        made.append(one)
    return made


async def chat(client: aio.InferenceServerClient, model: str, tally: Tally, **values: str | int | float) -> None:
    """One chat from its start to its end. Raises RuntimeError with the server's words."""

    async def asked() -> AsyncIterator[dict[str, object]]:
        yield {"model_name": model, "inputs": tensors(**values)}

    began, first = time.monotonic(), None
    async for result, error in client.stream_infer(asked()):
        if error is not None:
            raise RuntimeError(str(error))
        now = time.monotonic()
        if first is None:
            first = now - began
            tally.first_s.append(first)
        tally.messages += 1
        count = result.as_numpy("completion_tokens")
        if count is not None:
            tally.tokens += int(count[0])
            tally.chats += 1
            tally.server_first_ms.append(float(result.as_numpy("ttft_ms")[0]))


async def together(
    client: aio.InferenceServerClient, model: str, streams: int, chats: int, **values: str | int | float
) -> Tally:
    """So many streams at once, each of so many chats one after the other."""
    tally = Tally()

    async def stream() -> None:
        for _ in range(chats):
            await chat(client, model, tally, **values)

    began = time.monotonic()
    await asyncio.gather(*(stream() for _ in range(streams)))
    tally.wall_s = time.monotonic() - began
    return tally


async def newcomers(
    client: aio.InferenceServerClient, model: str, running: int, times: int, **values: str | int | float
) -> Tally:
    """First-token times of chats that come one after the other while others run."""
    done = False

    async def busy() -> None:
        while not done:
            await chat(client, model, Tally(), **values)

    others = asyncio.gather(*(busy() for _ in range(running)))
    await asyncio.sleep(0.5)
    seen = Tally()
    for _ in range(times):
        await chat(client, model, seen, **(values | {"max_tokens": 8}))
    done = True
    await others
    return seen


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Does what the command line asks."""
    values: dict[str, str | int | float] = {"max_tokens": arguments.tokens}
    if arguments.message:
        values["messages"] = json.dumps([{"role": "user", "content": arguments.message}])
    else:
        values["text_input"] = arguments.prompt
    if arguments.temperature:
        values |= {"temperature": arguments.temperature, "top_k": 50, "top_p": 0.9, "seed": 1}
    async with aio.InferenceServerClient(f"127.0.0.1:{arguments.port}") as client:
        if arguments.newcomers:
            seen = await newcomers(client, arguments.model, arguments.streams, arguments.newcomers, **values)
            return asdict(seen)
        many = arguments.streams, arguments.chats
        runs = [await together(client, arguments.model, *many, **values) for _ in range(arguments.repeat)]
        return {"runs": [asdict(tally) | {"rate": tally.rate} for tally in runs]}


def main() -> None:
    """Reads the command line and prints one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompt", default="x" * 32)
    parser.add_argument("--message", help="a person's message, instead of a raw prompt")
    parser.add_argument("--chats", type=int, default=1, help="chats of each stream, one after the other")
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--newcomers", type=int, default=0)
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
