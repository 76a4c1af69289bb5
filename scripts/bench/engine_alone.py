"""The transformers engine without Triton: the same loop, text and threads, its answers only counted.

    PYTHON scripts/bench/engine_alone.py --model FOLDER --streams N [--repeat N] [--tokens N] [--prompt TEXT]

PYTHON is the embedded runtime's. Prints the JSON that engine_client.py prints for chats through a server.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "assets" / "engines" / "transformers"
sys.path.insert(0, str(ENGINE))

from slipway_engine.engine import Engine  # noqa: E402
from slipway_engine.errors import RequestError  # noqa: E402
from slipway_engine.job import Job  # noqa: E402
from slipway_engine.request import Ask  # noqa: E402
from slipway_engine.settings import Settings  # noqa: E402


class Counted:
    """A reply that is counted instead of sent."""

    def __init__(self) -> None:
        self.tokens = 0
        self.ended = threading.Event()

    def delta(self, text: str) -> None:
        """Text that nobody reads."""

    def final(self, _text: str, _finish: str, job: Job) -> None:
        """The end of an answer."""
        self.tokens = len(job.produced)
        self.ended.set()

    def error(self, error: RequestError) -> None:
        """Never in a benchmark: ends it."""
        raise RuntimeError(error.line())

    def gone(self) -> bool:
        """Nobody leaves."""
        return False


def chats(engine: Engine, streams: int, ask: Ask) -> float:
    """Tokens a second of so many chats at once."""
    replies = [Counted() for _ in range(streams)]
    began = time.monotonic()
    for reply in replies:
        engine.take(ask, reply)
    for reply in replies:
        if not reply.ended.wait(300):
            raise RuntimeError("a chat did not end within 300 s")
    return sum(reply.tokens for reply in replies) / (time.monotonic() - began)


def main() -> None:
    """Reads the command line, measures and prints one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--prompt", default="x" * 32)
    arguments = parser.parse_args()
    settings = Settings(arguments.model, device="cpu", max_rows=16)
    engine = Engine(settings, None, {}, lambda line: print(line, file=sys.stderr))
    engine.start()
    ask = Ask(text=arguments.prompt, max_tokens=arguments.tokens)
    chats(engine, 4, Ask(text=arguments.prompt, max_tokens=50))
    rates = [chats(engine, arguments.streams, ask) for _ in range(arguments.repeat)]
    engine.close(1)
    print(json.dumps({"runs": [{"rate": rate} for rate in rates]}))


if __name__ == "__main__":
    main()
