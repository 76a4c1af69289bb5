"""The engine's figures on a GPU host, through a real Triton server: prints `name value target met|short`.

    python scripts/gpu/engine.py --runtime FOLDER [--client PYTHON] [--model FOLDER] [--out FILE]

`--runtime` is the embedded runtime (its PyTorch sees the GPU); `--client` an interpreter with tritonclient, for the
client process. Without --model a random Llama of 1.24 B parameters in fp16 is made.
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

HERE = Path(__file__).resolve().parent
BENCH = HERE.parent / "bench"
sys.path.insert(0, str(BENCH))
import engine_server  # noqa: E402

PROMPT = "x" * 128  # one token a letter with the random model's tokenizer


class Client:
    """Chats with the server from a process of its own."""

    def __init__(self, python: Path, port: int) -> None:
        self._command = [str(python), str(BENCH / "engine_client.py"), f"--port={port}", "--model=big"]

    def __call__(self, **options: object) -> dict[str, Any]:
        """The client's JSON."""
        command = [*self._command, f"--prompt={PROMPT}", *(f"--{name}={value}" for name, value in options.items())]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise RuntimeError(done.stderr[-3000:])
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def rate(self, streams: int, **options: object) -> float:
        """Median tokens a second of the runs after the first."""
        runs = self(streams=streams, tokens=200, repeat=4, **options)["runs"]
        return statistics.median(run["rate"] for run in runs[1:])


def through_triton(
    folder: Path, model: Path, launcher: Path, python: Path, options: dict[str, str]
) -> dict[str, float]:
    """Rates and first-token times through a server."""
    figures: dict[str, float] = {}
    with engine_server.serving(folder, {"big": {"model_dir": str(model)} | options}, launcher) as server:
        print(json.dumps(server.facts()), flush=True)
        client = Client(python, server.grpc_port)
        client(streams=8, tokens=50)
        for streams in (1, 4, 16, 32):
            figures[f"triton_{streams}"] = client.rate(streams)
        figures["triton_32_sampled"] = client.rate(32, temperature=0.8)
        run = client(streams=32, tokens=200)["runs"][0]
        figures["triton_32_messages"] = run["messages"]
        figures["triton_32_first_token_last_ms"] = max(run["first_s"]) * 1000
        first = client(streams=8, tokens=400, newcomers=12)["first_s"]
        figures["newcomer_first_token_ms"] = statistics.median(first) * 1000
        figures["newcomer_first_token_worst_ms"] = max(first) * 1000
    return figures


def judged(figures: dict[str, float]) -> list[str]:
    """The figures that have targets, one line each."""
    wanted = (
        ("engine_gpu_1_stream_to_loop", figures["triton_1"] / figures["loop_1"], 0.9),
        ("engine_gpu_16_streams_to_1", figures["triton_16"] / figures["triton_1"], 8.0),
        ("engine_gpu_32_streams_to_naive", figures["triton_32"] / figures["naive"], 50.0),
        ("engine_gpu_32_streams_to_loop", figures["triton_32"] / figures["loop_32"], 0.8),
    )
    return [
        f"{name} {value:.2f} >={target:g} {'met' if value >= target else 'short'}" for name, value, target in wanted
    ]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runtime", type=Path, required=True)
    parser.add_argument("--client", type=Path, default=Path(sys.executable))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    python = arguments.runtime / "bin" / "python3"
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        model = arguments.model or Path(temporary, "model")
        if arguments.model is None:
            subprocess.run([python, BENCH / "random_llama.py", model, "1b"], check=True)
        launcher = arguments.runtime / "bin" / "slipway-tritonserver"
        loop = subprocess.run([python, HERE / "engine_loop.py", model], capture_output=True, text=True, timeout=400)
        print(loop.stderr[-2000:] if loop.returncode else "", end="")
        told = [json.loads(line) for line in loop.stdout.splitlines() if line.startswith('{"name"')]
        figures |= {one["name"]: one["value"] for one in told}
        figures |= through_triton(Path(temporary), model, launcher, arguments.client, {})
    lines = [f"{name} {value:.2f} - -" for name, value in figures.items()] + judged(figures)
    print("\n".join(lines))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
