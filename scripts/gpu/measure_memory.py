"""Measures what the transformers engine takes of a GPU, and sets it beside the forecast.

    python scripts/gpu/measure_memory.py measure OUT.json [--sizes 0.5B,1.2B,7B] [--chats 16] [--context 4096]
    python scripts/gpu/measure_memory.py table OUT.json [--triton-mib 591]

`measure` needs PyTorch, transformers and a GPU that nobody else uses. It makes Llamas of random weights, starts the
engine on each in a process of its own, sends as many chats as it takes, all with the longest prompt at once (the worst
case that the forecast is for), and notes the device's memory. `table` needs Slipway alone and prints the comparison;
the engine is started without Triton, so what tritonserver itself takes (`--triton-mib`) is added.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    "0.5B": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 28, "num_attention_heads": 16,
             "num_key_value_heads": 8, "vocab_size": 32000, "tie_word_embeddings": False},
    "1.2B": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
             "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128256, "tie_word_embeddings": True},
    "7B": {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 32, "vocab_size": 32000, "tie_word_embeddings": False},
}  # fmt: skip


def main() -> None:
    """Measures or prints, as asked."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=("measure", "child", "table"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--sizes", default=",".join(SHAPES))
    parser.add_argument("--chats", type=int, default=16)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--new-tokens", type=int, default=1024)
    parser.add_argument("--triton-mib", type=int, default=591)
    arguments = parser.parse_args()
    if arguments.what == "table":
        print(table(json.loads(arguments.file.read_text(encoding="utf-8")), arguments.triton_mib))
    elif arguments.what == "child":
        child(arguments.file, arguments.chats, arguments.context, arguments.new_tokens)
    else:
        rows = [measure(size, arguments) for size in arguments.sizes.split(",")]
        arguments.file.write_text(json.dumps(rows, indent=2), encoding="utf-8")


# --- measuring ----------------------------------------------------------------------------------------------------


def used_mib() -> int:
    """Memory of the first GPU that is in use, as nvidia-smi counts it."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits", "--id=0"]
    return int(subprocess.run(asked, check=True, capture_output=True, text=True).stdout)


def settled_mib(timeout_s: float = 30.0) -> int:
    """Memory in use once it has not changed for two seconds: a process is freed some time after its end."""
    end, seen, since = time.monotonic() + timeout_s, used_mib(), time.monotonic()
    while time.monotonic() < end and time.monotonic() - since < 2.0:
        time.sleep(0.2)
        now = used_mib()
        if now != seen:
            seen, since = now, time.monotonic()
    return seen


def measure(size: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One size: makes the model, runs the engine in a child, watches the device."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        make = "from scripts.gpu.measure_memory import make; import sys; make(sys.argv[1], sys.argv[2])"
        subprocess.run([sys.executable, "-c", make, size, folder], check=True, cwd=ROOT)
        print(f"{size}: made in {time.monotonic() - began:.0f} s", flush=True)
        before = settled_mib()
        began = time.monotonic()
        limits = ["--chats", arguments.chats, "--context", arguments.context, "--new-tokens", arguments.new_tokens]
        command = [sys.executable, __file__, "child", folder, *map(str, limits)]
        seen: dict[str, Any] = {"size": size, "shape": SHAPES[size], "limits": vars(arguments) | {"file": ""}}
        seen |= {"loaded_mib": 0, "peak_mib": 0, "before_mib": before, "course": []}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
            done = threading.Event()

            def watch() -> None:
                while not done.wait(0.1):
                    now = used_mib() - before
                    seen["peak_mib"] = max(seen["peak_mib"], now)
                    if not seen["course"] or abs(seen["course"][-1][1] - now) > 50:
                        seen["course"].append((round(time.monotonic() - began, 1), now))

            watcher = threading.Thread(target=watch)
            watcher.start()
            for line in process.stdout or ():
                print(f"{size}: {line.rstrip()}", flush=True)
                if line.startswith("slipway-engine "):
                    seen["facts"] = json.loads(line.removeprefix("slipway-engine "))
                    seen["loaded_mib"] = used_mib() - before
                if line.startswith("[MEM]"):
                    print(f"{size}: device {used_mib() - before} MiB", flush=True)
                if line.startswith("torch "):
                    seen["torch"] = json.loads(line.removeprefix("torch "))
            done.set()
            watcher.join()
    print(f"{size}: in use over time (s, MiB): {seen['course']}", flush=True)
    print(f"{size}: loaded {seen['loaded_mib']} MiB, peak {seen['peak_mib']} MiB", flush=True)
    return seen


def make(size: str, folder: str) -> None:
    """A Llama of random weights in fp16, with the demo model's tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPES[size], max_position_embeddings=131072, dtype="float16", eos_token_id=None)
    torch.set_default_dtype(torch.float16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    model.cpu().save_pretrained(folder, max_shard_size="4GB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(ROOT / "assets" / "demo_model" / name, folder)


class _Reply:
    """Counts one answer to its end."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.words = ""

    def delta(self, text: str) -> None:
        """Nothing is kept."""

    def final(self, text: str, finish: str, job: Any) -> None:  # noqa: ARG002
        self.words = f"{len(job.prompt)} + {len(job.produced)} tokens, {finish}"
        self.done.set()

    def error(self, error: Any) -> None:
        self.words = f"error: {error}"
        self.done.set()

    def gone(self) -> bool:
        return False


def child(folder: Path, chats: int, context: int, new_tokens: int) -> None:
    """Starts the engine as Triton's model does, fills it, and tells what PyTorch counted."""
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    sys.path.insert(0, str(ROOT / "assets" / "engines" / "transformers"))
    import torch
    from slipway_engine.engine import Engine
    from slipway_engine.request import Ask
    from slipway_engine.settings import Settings

    wanted = {"model_dir": str(folder), "max_rows": chats, "max_context": context, "max_new_tokens_cap": new_tokens}
    engine = Engine(Settings(**wanted, template="raw"), None, {}, lambda line: print(line, flush=True))
    engine.start()
    prompt = " hello" * (context - new_tokens)
    replies = [_Reply() for _ in range(chats)]
    for reply in replies:
        engine.take(Ask(text=prompt, max_tokens=min(new_tokens, 64), temperature=1.0), reply)
    for reply in replies:
        if not reply.done.wait(240):
            raise SystemExit("a chat did not end")
    print(sorted({reply.words for reply in replies}), flush=True)
    counted = {
        "allocated_peak_mib": torch.cuda.max_memory_allocated() // 2**20,
        "reserved_peak_mib": torch.cuda.max_memory_reserved() // 2**20,
        "reserved_mib": torch.cuda.memory_reserved() // 2**20,
    }
    print("torch " + json.dumps(counted), flush=True)
    engine.close(1.0)


# --- comparing ----------------------------------------------------------------------------------------------------


def table(rows: list[dict[str, Any]], triton_mib: int) -> str:
    """A Markdown table of forecast and measured use, in MiB."""
    sys.path.insert(0, str(ROOT))
    from backends.families import Shape, count_parameters, family
    from backends.memory import estimate
    from backends.spec import Gpu, Hardware, Limits, Model, ModelSource, Spec

    kind = family("llama")
    assert kind is not None  # noqa: S101
    head = "model | chats × tokens | weights | KV cache | activations | fixed | forecast | measured | at rest | off by"
    lines = [f"| {head} |", "|" + "---|" * (head.count("|") + 1)]
    for row in rows:
        shape, limits = row["shape"], row["limits"]
        head_size = shape.get("head_dim") or shape["hidden_size"] // shape["num_attention_heads"]
        sizes = {
            "layers": shape["num_hidden_layers"], "heads": shape["num_attention_heads"],
            "kv_heads": shape["num_key_value_heads"], "head_size": head_size,
        }  # fmt: skip
        counted = Shape(
            **sizes, hidden=shape["hidden_size"], inner=shape["intermediate_size"], vocab=shape["vocab_size"],
            tied=shape["tie_word_embeddings"],
        )  # fmt: skip
        model = Model(
            source=ModelSource(kind="folder", id="/m"), architecture="LlamaForCausalLM", model_type="llama",
            parameters=count_parameters(kind, counted, {}), hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"], vocab_size=shape["vocab_size"], context=131072,
            dtype="fp16", tied_embeddings=shape["tie_word_embeddings"], **sizes,
        )  # fmt: skip
        wanted = Limits(concurrent=limits["chats"], context=limits["context"], new_tokens=limits["new_tokens"])
        here = Hardware(gpus=(Gpu(name="NVIDIA H200", index=0, sm=90, memory_free_mib=143000),))
        told = estimate(Spec(model=ModelSource(kind="demo"), limits=wanted), here, model)
        parts = {part.kind: part.mib for part in told.places[0].parts}
        peak, rest = row["peak_mib"] + triton_mib, row["loaded_mib"] + triton_mib
        off = told.needed_mib / peak - 1
        lines.append(
            f"| {row['size']} | {limits['chats']} × {limits['context']:,} | {parts['weights']:,} "
            f"| {parts['kv_cache']:,} | {parts['activations']:,} | {parts['fixed']:,} | **{told.needed_mib:,}** "
            f"| **{peak:,}** | {rest:,} | {off:+.1%} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
