"""Decodes chats of each family in a batch and alone, and says whether they are the same, token for token.

Run by the embedded runtime's interpreter: `python identity.py ENGINE_FOLDER [FAMILY ...]`. Prints one JSON line a
family: how many chats were whole and equal, how many distinct tokens they had (a proof needs some), how it is served.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import torch
import transformers

sys.path.insert(0, sys.argv[1])
sys.path.insert(0, __file__.rpartition("/")[0])

import families
from slipway_engine import attention
from slipway_engine.job import Choice, Job
from slipway_engine.network import Network, Unsupported
from slipway_engine.scheduler import Scheduler
from slipway_engine.selftest import passes
from slipway_engine.slots import Slots
from slipway_engine.window import Window

PROMPTS = (5, 7, 9, 12, 40, 31, 2, 23)
TOKENS = (40, 25, 60, 30, 50, 20, 64, 35)
DROPPED_AFTER = (6, 3)  # tokens of the two that are dropped on the way
DEADLINE_S = 60.0


class Nobody:
    """A reply that nobody reads."""

    def delta(self, text: str) -> None: ...
    def final(self, text: str, finish: str, job: Job) -> None: ...
    def error(self, error: object) -> None: ...
    def gone(self) -> bool:
        return False


def prompt(index: int, size: int) -> list[int]:
    return [3 + (index * 7919 + place * place * 31 + place * 17) % (families.VOCABULARY - 3) for place in range(size)]


def alone(model: Any, ids: list[int], tokens: int, eos: set[int]) -> list[int]:
    text = torch.tensor([ids])
    made = model.generate(
        input_ids=text,
        attention_mask=torch.ones_like(text),
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        eos_token_id=sorted(eos),
        pad_token_id=0,
    )
    said: list[int] = made[0, 1 if model.config.is_encoder_decoder else len(ids) :].tolist()
    return said


def together(network: Network, batch: Any, eos: set[int]) -> tuple[list[Job], list[Job]]:
    """Eight chats in five rows: four come at once, the others join; two further ones are dropped on the way. All of it
    at its step, by the thread that decodes: this one may get its turn long after their ends."""
    start = 0 if network.encoder_decoder else None
    jobs = [
        Job(prompt(index, size), tokens, Choice(), Nobody(), decoder_start=start)
        for index, (size, tokens) in enumerate(zip(PROMPTS, TOKENS, strict=True))
    ]
    dropped = [Job(prompt(9, 13), 60, Choice(), Nobody(), decoder_start=start) for _ in range(2)]
    joining = [jobs[4], dropped[1], *jobs[5:]]
    news = threading.Event()

    def wake(urgent: bool) -> None:
        for job, said in zip(dropped, DROPPED_AFTER, strict=True):
            job.dropped = job.dropped or len(job.produced) > said
        while joining and (dropped[0].dropped or dropped[0].end):
            scheduler.submit(joining.pop(0))
        news.set()

    scheduler = Scheduler(network, batch, 24, frozenset(eos), wake, print)
    for job in (*jobs[:2], dropped[0], *jobs[2:4]):
        scheduler.submit(job)
    scheduler.start()
    until(lambda: all(job.end for job in jobs) and (dropped[1].dropped or dropped[1].end), news)
    scheduler.close(5.0)
    return jobs, dropped


def until(done: Any, news: threading.Event) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError("the batch does not come to its end")
        news.wait(0.05)
        news.clear()


def examine(family: str) -> dict[str, Any]:
    model = families.make(family)
    try:
        network = Network(model)
        wrong = passes(network, lambda: Window(network, 8, 64, 10**6), 0 if network.encoder_decoder else None)
    except Unsupported as reason:
        wrong = str(reason)
    if wrong:
        return {"family": family, "served": "single", "why": wrong}
    probe = alone(model, prompt(0, 5), 30, {families.VOCABULARY + 7})
    eos = {1, probe[12]}  # an end token that does come up
    window = Window(network, 5, 128, 10**6)
    jobs, dropped = together(network, window, eos)
    wanted = [alone(model, job.prompt, job.limit, eos) for job in jobs]
    try:
        wrong = passes(network, lambda: Slots(network, 8, 64), None)
        if wrong:
            raise Unsupported(wrong)
        slots = [job.produced for job in together(network, Slots(network, 5, 128), eos)[0]]
    except (Unsupported, ValueError) as reason:
        slots = str(reason)
    return {
        "slots": slots if isinstance(slots, str) else sum(a == b for a, b in zip(slots, wanted, strict=True)),
        "family": family,
        "served": "batch",
        "equal": sum(job.produced == want for job, want in zip(jobs, wanted, strict=True)),
        "of": len(jobs),
        "ended_early": sum(job.end == "stop" for job in jobs),
        "distinct": len({token for want in wanted for token in want}),
        "cut": [len(job.produced) for job in dropped],
        "columns": window.keys[0].shape[2],
    }


def main() -> None:
    torch.set_num_threads(1)
    attention.install()  # as the engine does; `generate` alone, unmasked, goes past it
    transformers.logging.set_verbosity_error()
    for family in sys.argv[2:] or families.CONFIGS:
        try:
            result = examine(family)
        except Exception as error:
            result = {"family": family, "error": f"{type(error).__name__}: {error}"}
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
