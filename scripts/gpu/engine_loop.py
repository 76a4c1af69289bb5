"""The engine's decode loop without Triton, the naive loop, and a check of the CUDA graphs, on this machine's GPU.

    python scripts/gpu/engine_loop.py MODEL_FOLDER     prints one JSON line a figure: {"name": ..., "value": ...}

Run by an interpreter that has PyTorch and transformers. Rates are tokens a second, prefill included.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import threading
import time
from pathlib import Path
from typing import Any

ENGINE = Path(__file__).resolve().parents[2] / "assets" / "engines" / "transformers"
sys.path.insert(0, str(ENGINE))

import torch  # noqa: E402
from slipway_engine import attention, loading  # noqa: E402
from slipway_engine.job import Choice, Job  # noqa: E402
from slipway_engine.network import Network  # noqa: E402
from slipway_engine.scheduler import Scheduler  # noqa: E402
from slipway_engine.settings import Settings  # noqa: E402
from slipway_engine.slots import Slots  # noqa: E402

PROMPT, TOKENS, NAIVE_TOKENS = 128, 200, 60


class Nobody:
    """A reply that nobody reads."""

    def delta(self, text: str) -> None:
        """Nothing."""

    def final(self, text: str, finish: str, job: Job) -> None:
        """Nothing."""

    def error(self, error: object) -> None:
        """Nothing."""

    def gone(self) -> bool:
        """Nobody leaves."""
        return False


def tell(name: str, value: float) -> None:
    """One figure."""
    print(json.dumps({"name": name, "value": value}), flush=True)


def prompt(seed: int, size: int, vocabulary: int) -> list[int]:
    """Random ids."""
    draw = random.Random(seed)  # noqa: S311
    return [draw.randrange(3, vocabulary) for _ in range(size)]


def serve(scheduler: Scheduler, jobs: list[Job], news: threading.Event) -> float:
    """Seconds until all chats have ended."""
    began = time.perf_counter()
    for job in jobs:
        scheduler.submit(job)
    while any(job.end is None for job in jobs):
        news.wait(0.05)
        news.clear()
    return time.perf_counter() - began


def loop(network: Network, batch: Slots, vocabulary: int) -> None:
    """Rates of the engine's own loop, without Triton, text or sender."""
    news = threading.Event()
    scheduler = Scheduler(network, batch, 2048, frozenset(), lambda urgent: news.set() if urgent else None, print)
    scheduler.start()
    words = tuple(tuple(prompt(size, 1 + size % 4, vocabulary)) for size in range(20))
    choices = (("", Choice()), ("_sampled", Choice(0.8, top_k=50, top_p=0.9)), ("_bad_words", Choice(bad_words=words)))
    for name, choice in choices:
        for streams in (1, 4, 16, 32) if not name else (1, 32):
            rates = []
            for turn in range(4):
                jobs = [Job(prompt(turn * 99 + row, PROMPT, vocabulary), TOKENS, choice, Nobody(), seed=row)
                        for row in range(streams)]  # fmt: skip
                seconds = serve(scheduler, jobs, news)
                rates.append(sum(len(job.produced) for job in jobs) / seconds)
            tell(f"loop_{streams}{name}", statistics.median(rates[1:]))
    scheduler.close(1)


@torch.inference_mode()
def naive(model: Any, vocabulary: int) -> None:
    """The plain loop: one chat, the model's forward with its own cache, the likeliest token, again."""
    for turn in range(2):
        ids = torch.tensor([prompt(turn, PROMPT, vocabulary)], device=model.device)
        cache = None
        torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(NAIVE_TOKENS):
            out = model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            ids.item()
        seconds = time.perf_counter() - began
    tell("naive", NAIVE_TOKENS / seconds)


def graphs_are_right() -> None:
    """Chats through captured graphs and alone through `generate`, in fp32: how many of eight are the same."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=False, eos_token_id=None,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to("cuda").eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2:
                weight.normal_(0, 0.7 if weight.shape[0] == 2000 else 1.6 / weight.shape[-1] ** 0.5)
    network = Network(model)
    slots = Slots(network, 5, 512)
    with torch.inference_mode():
        tell("graphs", slots.capture())
    news = threading.Event()
    scheduler = Scheduler(network, slots, 64, frozenset(), lambda _: news.set(), print)
    scheduler.start()
    plain = asked(scheduler, news, [Choice()] * 8)
    tell("graphs_equal_to_generate_of_8", sum(job.produced == by_generate(model, job) for job in plain))
    tell("graphs_distinct_tokens", len({token for job in plain for token in job.produced}))
    # Every second chat may not say what it said: a token, and a longer word. The others stay as they were.
    free = asked(scheduler, news, [
        Choice(bad_words=((job.produced[3],), tuple(job.produced[8:11]))) if row % 2 else Choice()
        for row, job in enumerate(plain)
    ])  # fmt: skip
    scheduler.close(1)
    tell("graphs_with_bad_words_equal_to_generate_of_8", sum(job.produced == by_generate(model, job) for job in free))
    changed = [job.produced != before.produced for job, before in zip(free, plain, strict=True)]
    tell("bad_words_changed_their_own_4", sum(changed[1::2]) - sum(changed[::2]))


def asked(scheduler: Scheduler, news: threading.Event, choices: list[Choice]) -> list[Job]:
    """Chats of different lengths, answered together."""
    jobs = [Job(prompt(row, 5 + row * 9, 2000), 60 + row, choice, Nobody()) for row, choice in enumerate(choices)]
    serve(scheduler, jobs, news)
    return jobs


def by_generate(model: Any, job: Job) -> list[int]:
    """The same answer by the model's own `generate`."""
    ids = torch.tensor([job.prompt], device="cuda")
    words = [list(word) for word in job.choice.bad_words] or None
    said: list[int] = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=job.limit, do_sample=False, bad_words_ids=words
    )[0, len(job.prompt) :].tolist()
    return said


def main() -> None:
    """Measures."""
    loaded = loading.load(Settings(sys.argv[1]), lambda line: print(line, file=sys.stderr))
    vocabulary = loaded.model.get_input_embeddings().num_embeddings
    sys.setswitchinterval(0.001)
    naive(loaded.model, vocabulary)
    attention.install()
    network = Network(loaded.model)
    slots = Slots(network, 32, 4096)
    began = time.perf_counter()
    with torch.inference_mode():
        tell("graphs_captured", slots.capture())
    tell("capture_s", time.perf_counter() - began)
    loop(network, slots, vocabulary)
    graphs_are_right()
    tell("naive_capacity_mib", torch.cuda.max_memory_allocated() / 2**20)


if __name__ == "__main__":
    main()
