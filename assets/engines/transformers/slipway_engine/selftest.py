"""Proves at load that a batch says what the model alone would say; a model for which it does not is served singly.

Six chats of different lengths are answered greedily, two join while others run, one leaves early. The logits behind
every token must be those of one plain forward over the chat alone, to fp32 rounding. Half precision is widened for the
test where memory allows: that loses nothing, and back again neither; else its own rounding is allowed for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from .job import Choice, Job
from .network import Network, free_memory
from .scheduler import Batch
from .window import Group

TOKENS = 16
TOLERANCE, TOLERANCE_IN_HALF = 2e-3, 0.3  # largest difference of a logit, in standard deviations of the logits
LENGTHS = (3, 5, 8, 12, 4, 21)  # of the prompts: each of the first group is longer than those before it
LEAVES_AFTER, JOINS_AFTER = 5, 4


class _Nobody:
    """A reply that nobody waits for."""

    def delta(self, text: str) -> None:
        """Nothing."""

    def final(self, text: str, finish: str, job: Job) -> None:
        """Nothing."""

    def error(self, error: object) -> None:
        """Nothing."""

    def gone(self) -> bool:
        """Nobody leaves."""
        return False


def passes(network: Network, make_batch: Callable[[], Batch], decoder_start: int | None) -> str:
    """Empty when the batch is right for this model; else what it got wrong. Raises what the model's forward raises."""
    with torch.inference_mode(), _wide(network):
        tolerance = TOLERANCE if network.dtype == torch.float32 else TOLERANCE_IN_HALF
        prompts = [_prompt(network, index, length) for index, length in enumerate(LENGTHS)]
        for index, (job, said) in enumerate(_batched(network, make_batch(), prompts, decoder_start)):
            alone = _alone(network, job)
            apart = (said - alone).abs().amax(dim=-1) / alone.std(dim=-1)
            wrong = (~(apart < tolerance)).nonzero()  # NaN is wrong too
            if len(wrong):
                place = int(wrong[0, 0])
                return (
                    f"chat {index + 1} parts from the model alone at token {place + 1} (by {float(apart[place]):.1e})"
                )
    return ""


def _alone(network: Network, job: Job) -> torch.Tensor:
    """The logits behind every token of the chat, [tokens, vocabulary], from one forward over all of it, uncached."""
    ids = torch.tensor([job.prompt], device=network.device)
    said = job.produced[:-1]
    if job.decoder_start is None:
        ids = torch.tensor([job.prompt + said], device=network.device)
        logits = network.model(input_ids=ids, use_cache=False).logits[0, len(job.prompt) - 1 :]
    else:
        answer = torch.tensor([[job.decoder_start, *said]], device=network.device)
        logits = network.model(input_ids=ids, decoder_input_ids=answer, use_cache=False).logits[0]
    return logits.float()


def _prompt(network: Network, index: int, length: int) -> list[int]:
    vocabulary = network.model.get_input_embeddings().num_embeddings
    return [5 + (index * 7919 + place * 104729) % max(1, vocabulary - 6) for place in range(length)]


def _batched(
    network: Network, batch: Batch, prompts: list[list[int]], decoder_start: int | None
) -> list[tuple[Job, torch.Tensor]]:
    """Answers the chats in a batch: each with the logits behind its tokens, [tokens, vocabulary]."""
    jobs = [Job(prompt, TOKENS, Choice(), _Nobody(), seed=0, decoder_start=decoder_start) for prompt in prompts]
    said: dict[Job, list[torch.Tensor]] = {job: [] for job in jobs}
    with _heard(network) as heard:

        def join(joining: list[Job]) -> None:
            group = Group(network, joining)
            while not group.advance(7 * len(joining)):  # pieces, so that chunked prefill is proven too
                pass
            ids = group.logits.argmax(dim=-1)
            for row, (job, token) in enumerate(zip(joining, ids.tolist(), strict=True)):
                said[job].append(group.logits[row].float())
                job.produced.append(token)
                job.launched = 1
            batch.join(joining, group, ids)

        join(jobs[:4])
        for step in range(1, TOKENS):
            if step == LEAVES_AFTER:
                batch.leave(jobs[0])
            if step == JOINS_AFTER:
                join(jobs[4:])
            launched = batch.launch()
            for row, (job, token) in enumerate(zip(launched.jobs, launched.tokens(), strict=True)):
                said[job].append(heard[-1][row].float())
                job.produced.append(token)
    return [(job, torch.stack(said[job])) for job in jobs]


@contextlib.contextmanager
def _heard(network: Network) -> Iterator[list[torch.Tensor]]:
    """The logits of the last forward, as the only entry of a list."""
    heard: list[torch.Tensor] = []
    plain = network.forward

    def forward(**given: Any) -> torch.Tensor:
        heard[:] = [plain(**given)]
        return heard[0]

    network.forward = forward  # type: ignore[method-assign]
    try:
        yield heard
    finally:
        del network.forward  # type: ignore[method-assign]


@contextlib.contextmanager
def _wide(network: Network) -> Iterator[None]:
    """The model in fp32 for a while, if it is in half precision and memory allows; else as it is."""
    weights = [weight for weight in network.model.parameters() if weight.dtype in (torch.float16, torch.bfloat16)]
    need = 2 * sum(weight.nbytes for weight in weights)
    if not weights or need > free_memory(network.device):
        yield
        return
    before = [weight.dtype for weight in weights]
    dtypes = network.dtype, network.cache_dtype
    try:
        for weight in weights:
            weight.data = weight.data.float()
        network.dtype = network.cache_dtype = torch.float32
        yield
    finally:
        for weight, dtype in zip(weights, before, strict=True):
            weight.data = weight.data.to(dtype)
        network.dtype, network.cache_dtype = dtypes
        if network.device.type == "cuda":
            torch.cuda.empty_cache()
