"""In-flight batching through a real Triton server on this machine's CPU: prints `name value target met|short`.

    python scripts/bench/engine_cpu.py --runtime FOLDER [--model FOLDER]

The same server holds the model twice: once decoding chats together, once one at a time, so the ratio is of one run. The
same engine without Triton (engine_alone.py) is measured in turns with the idle server's.
Without --model, a random model of the demo model's shape is made.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
import engine_server

HERE = Path(__file__).parent
RATIO, NEWCOMER_MS = 2.5, 50.0
TO_ALONE = {1: 0.9, 16: 0.8}  # streams to the least share of the engine's own rate that Triton may leave


def ask(port: int, model: str, **options: object) -> dict[str, Any]:
    """Runs the client in a process of its own."""
    command = [sys.executable, str(HERE / "engine_client.py"), f"--port={port}", f"--model={model}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def rate(port: int, model: str, **options: object) -> float:
    """The median tokens a second of several runs."""
    return statistics.median(run["rate"] for run in ask(port, model, **options)["runs"])


def share_of_alone(python: Path, model: Path, port: int, streams: int, **options: object) -> float:
    """Tokens a second through Triton to those of the engine without Triton, the median of three turns of both."""
    command = [str(python), str(HERE / "engine_alone.py"), f"--model={model}", f"--streams={streams}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    shares = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])  # the engine told of itself before
        alone = statistics.median(run["rate"] for run in said["runs"])
        shares.append(rate(port, "together", streams=streams, **options) / alone)
    return statistics.median(shares)


def line(name: str, value: float, target: float, *, at_most: bool = False) -> str:
    """One figure as it is printed."""
    met = value <= target if at_most else value >= target
    return f"{name} {value:.2f} {'<=' if at_most else '>='}{target:g} {'met' if met else 'short'}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", type=Path, required=True, help="the embedded runtime's folder")
    parser.add_argument("--model", type=Path, help="a model folder")
    parser.add_argument("--message", help="what to say to --model, which answers until it has ended")
    parser.add_argument("--chats", type=int, default=1, help="chats of each stream, one after the other")
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = arguments.model or folder / "model"
        if arguments.model is None:
            python = arguments.runtime / "bin" / "python3"
            subprocess.run([python, HERE / "random_llama.py", model, "demo"], check=True, capture_output=True)
        parameters = {"model_dir": str(model.resolve()), "device": "cpu"}
        models = {"together": parameters | {"max_rows": "16"}, "singly": parameters | {"max_rows": "1"}}
        with engine_server.serving(folder, models, arguments.runtime / "bin" / "slipway-tritonserver") as server:
            port = server.grpc_port
            common: dict[str, object] = {"tokens": arguments.tokens, "repeat": arguments.repeat}
            common |= {"chats": arguments.chats}
            said: dict[str, object] = {"message": arguments.message} if arguments.message else {"prompt": "x" * 32}
            common |= said
            ask(port, "together", streams=4, tokens=50)
            ask(port, "singly", streams=1, tokens=50)
            one = rate(port, "together", streams=1, **common)
            many = rate(port, "together", streams=16, **common)
            singly = rate(port, "singly", streams=16, **(common | {"repeat": 1}))
            first = ask(port, "together", streams=8, newcomers=10, tokens=400, **said)["first_s"]
            python = arguments.runtime / "bin" / "python3"
            alike = {"tokens": arguments.tokens, "repeat": arguments.repeat, "prompt": "x" * 32}
            shares = {streams: share_of_alone(python, model, port, streams, **alike) for streams in TO_ALONE}
    print(f"engine_cpu_1_stream_tokens_per_s {one:.0f} - -")
    print(f"engine_cpu_16_streams_tokens_per_s {many:.0f} - -")
    print(f"engine_cpu_one_at_a_time_tokens_per_s {singly:.0f} - -")
    print(line("engine_cpu_16_streams_to_one_at_a_time", many / singly, RATIO))
    for streams, share in shares.items():
        print(line(f"engine_cpu_triton_to_no_triton_with_{streams}", share, TO_ALONE[streams]))
    print(line("engine_cpu_newcomer_first_token_ms", statistics.median(first) * 1000, NEWCOMER_MS, at_most=True))


if __name__ == "__main__":
    main()
