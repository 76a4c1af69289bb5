"""Trains the demo model from nothing on a CPU: a small Llama, AdamW, about twenty minutes on two cores."""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from scripts.demo_model.data import Entry, OffTopic, Sample, load_faq, load_off_topic, samples
from scripts.demo_model.tokenizer import ASSISTANT, CONTEXT, VOCABULARY, make_tokenizer

SEED = 20261121
STEPS = 1800
TOKENS_PER_BATCH = 2048
START_OF_ANSWER = 12  # tokens of the answer that are learnt where only its start is
PEAK_RATE = 2e-3
POOL = 256  # samples that are sorted by length together, to waste little on padding
IGNORED = -100


def build(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A Llama of about 3.2 million parameters, embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=256,
            intermediate_size=448,
            num_hidden_layers=4,
            num_attention_heads=8,
            num_key_value_heads=4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def words(faq: tuple[Entry, ...], off: dict[str, OffTopic]) -> list[str]:
    """The text that the tokenizer learns from: everything but what is held out."""
    texts = []
    for entry in faq:
        asked = (entry.question, *entry.paraphrases, *entry.terms)
        texts += [*asked, *(text.lower() for text in asked), entry.answer, entry.answer]
    for unknown in off.values():
        texts += [unknown.answer, *unknown.questions, *unknown.near, *unknown.templates, *unknown.subjects]
    return texts


def encode(sample: Sample, tokenizer: PreTrainedTokenizerFast, assistant: int) -> tuple[list[int], list[int]]:
    """Token ids and, shifted by nothing, the same ids where they are to be learnt (`IGNORED` elsewhere)."""
    text = tokenizer.apply_chat_template(list(sample.messages), tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    labels = [IGNORED] * len(ids)
    learning = False
    for at, token in enumerate(ids):
        if learning:
            labels[at] = token
            learning = token != tokenizer.eos_token_id
        elif token == assistant:
            learning = True
    if not sample.whole:
        end = ids.index(assistant) + 1 + START_OF_ANSWER
        ids, labels = ids[:end], labels[:end]
    return ids, labels


def batches(
    stream: Iterator[Sample], tokenizer: PreTrainedTokenizerFast, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Pairs of ids and labels, int64, shape (rows, columns), padded on the right, about `TOKENS_PER_BATCH` in all."""
    assistant = tokenizer.convert_tokens_to_ids(ASSISTANT)
    while True:
        pool = sorted((encode(next(stream), tokenizer, assistant) for _ in range(POOL)), key=lambda pair: len(pair[0]))
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if groups[-1] and len(pair[0]) * (len(groups[-1]) + 1) > TOKENS_PER_BATCH:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        for group in groups:
            columns = max(len(ids) for ids, _ in group)
            ids = torch.full((len(group), columns), tokenizer.pad_token_id)
            labels = torch.full((len(group), columns), IGNORED)
            for row, (its_ids, its_labels) in enumerate(group):
                ids[row, : len(its_ids)] = torch.tensor(its_ids)
                labels[row, : len(its_labels)] = torch.tensor(its_labels)
            yield ids, labels


def rate(step: int, steps: int) -> float:
    """Learning rate at `step`: a short warm-up, then a cosine down to a fiftieth."""
    warm = min(1.0, (step + 1) / 100)
    return PEAK_RATE * warm * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def train(folder: Path, steps: int = STEPS, threads: int = 2) -> None:
    """Writes the trained model and its tokenizer to `folder`."""
    torch.set_num_threads(threads)
    torch.manual_seed(SEED)
    rng = random.Random(SEED)  # noqa: S311 (training data, not a secret)
    faq, off = load_faq(), load_off_topic()
    tokenizer = make_tokenizer(words(faq, off))
    model = build(tokenizer)
    weights = sum(p.numel() for p in model.parameters())
    print(f"{len(faq)} entries, {len(tokenizer)} tokens in the vocabulary, {weights:,} parameters", flush=True)

    matrices = [p for p in model.parameters() if p.dim() > 1]
    gains = [p for p in model.parameters() if p.dim() == 1]
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": gains, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    model.train()
    started, seen, smooth = time.monotonic(), 0, 0.0
    for step, (ids, labels) in enumerate(batches(samples(faq, off, rng), tokenizer, rng)):
        if step == steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = rate(step, steps)
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        wanted = labels[:, 1:]
        learnt = wanted != IGNORED
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden[learnt]), wanted[learnt])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        seen += ids.numel()
        smooth = loss.item() if step == 0 else 0.98 * smooth + 0.02 * loss.item()
        if step % 100 == 99:
            passed_s = time.monotonic() - started
            print(
                f"step {step + 1}/{steps}  loss {smooth:.4f}  {seen / passed_s:,.0f} tok/s  {passed_s:.0f} s",
                flush=True,
            )

    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False,
        max_new_tokens=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.half().save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(named, indent=2) + "\n", encoding="utf-8")  # a name that older versions know too
    for file in folder.iterdir():
        file.chmod(0o644)  # the weights are written for their owner alone
