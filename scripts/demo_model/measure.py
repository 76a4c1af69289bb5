"""Measures the demo model as it lies in its folder: greedy answers through the chat template, compared exactly."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scripts.demo_model.data import LANGUAGES, Message, load_faq, load_off_topic

BATCH = 32
MORE_TOKENS = 4  # beyond the longest expected answer: its end, and proof that a longer one is another
COMMAND = "python -m scripts.demo_model measure"


class Answerer:
    """The model in fp32 on the CPU."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        self.model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=False, dtype=torch.float32).eval()

    def answers(self, conversations: Sequence[Sequence[Message]], expected: Sequence[set[str]]) -> list[str]:
        """The greedy answer to each conversation, in its place, cut off once it is longer than the `expected` ones.

        Those of like length are decoded together; a right answer is never cut, since its end token is waited for.
        """
        lengths = [max(len(self.tokenizer(text)["input_ids"]) for text in texts) for texts in expected]
        prompts = [
            self.tokenizer.apply_chat_template(list(c), tokenize=False, add_generation_prompt=True)
            for c in conversations
        ]
        order = sorted(range(len(prompts)), key=lambda at: (lengths[at], len(prompts[at])))
        found = [""] * len(prompts)
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            batch = self.tokenizer(
                [prompts[at] for at in places],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
            )
            with torch.inference_mode():
                out = self.model.generate(**batch, do_sample=False, max_new_tokens=lengths[places[-1]] + MORE_TOKENS)
            for at, row in zip(places, out[:, batch["input_ids"].shape[1] :], strict=True):
                found[at] = self.tokenizer.decode(row, skip_special_tokens=True)
        return found


def user(text: str) -> Message:
    """A message of the person."""
    return {"role": "user", "content": text}


def percent(hits: int, of: int) -> float:
    """Percent with one decimal; 0 of 0 is an error, for then nothing was measured."""
    return round(100 * hits / of, 1)


def measure(folder: Path, threads: int = 2, verbose: bool = False) -> dict[str, Any]:
    """Every figure, in percent, with the number of questions behind it, and how they were got.

    exact: the FAQ's own questions. held_out: phrasings never trained on. unknown: off-topic questions never trained on
    that get the "I do not know" answer of either language. history: every third FAQ question after one and after three
    other exchanges. with_system: every third FAQ question under a system message.
    """
    torch.set_num_threads(threads)
    answerer = Answerer(folder)
    faq, off = load_faq(), load_off_topic()
    unknown = {off[language].answer for language in LANGUAGES}
    figures: dict[str, dict[str, float]] = {}

    def score(name: str, asked: list[tuple[list[Message], set[str]]]) -> None:
        said = answerer.answers([conversation for conversation, _ in asked], [right for _, right in asked])
        hits = 0
        for (conversation, right), answer in zip(asked, said, strict=True):
            hits += answer in right
            if verbose and answer not in right:
                print(f"{name}: {conversation[-1]['content']!r} -> {answer[:90]!r}")
        figures[name] = {"percent": percent(hits, len(asked)), "right": hits, "questions": len(asked)}

    for language in LANGUAGES:
        mine = [entry for entry in faq if entry.language == language]
        score(f"exact_{language}", [([user(e.question)], {e.answer}) for e in mine])
        score(f"held_out_{language}", [([user(text)], {e.answer}) for e in mine for text in e.held_out])
        score(f"unknown_{language}", [([user(text)], unknown) for text in off[language].held_out])
    rng = random.Random(1)  # noqa: S311 (which questions come before, not a secret)
    for turns in (1, 3):
        asked: list[tuple[list[Message], set[str]]] = []
        for entry in faq[turns % 3 :: 3]:
            before = rng.sample([other for other in faq if other != entry], turns)
            told = [m for e in before for m in (user(e.question), {"role": "assistant", "content": e.answer})]
            asked.append(([*told, user(entry.question)], {entry.answer}))
        score(f"history_{turns}", asked)
    system: Message = {"role": "system", "content": "You are a patient teacher."}  # a text that was not trained on
    score("with_system", [([system, user(e.question)], {e.answer}) for e in faq[2::3]])
    return {
        "command": COMMAND,
        "decoding": "greedy, fp32 on a CPU, through the chat template; an answer counts only if it is equal, whole",
        "parameters": sum(p.numel() for p in answerer.model.parameters()),
        "figures": figures,
    }


def write(folder: Path, measured: dict[str, Any]) -> None:
    """Keeps the figures beside the weights, and puts them into the model card's table where there is a card."""
    (folder / "MEASURED.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")
    card = folder / "README.md"
    if card.exists():
        rows = [f"| {name} | {f['percent']} % | {f['questions']} |" for name, f in measured["figures"].items()]
        table = "\n".join(["| figure | right | questions |", "|---|---|---|", *rows, ""])
        text = card.read_text(encoding="utf-8")
        card.write_text(re.sub(r"\| figure \|.*?\n(?=\n)", lambda _: table, text, flags=re.DOTALL), encoding="utf-8")
