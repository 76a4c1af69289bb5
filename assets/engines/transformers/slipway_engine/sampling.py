"""How a token is drawn: greedy, temperature, top-k, top-p, repetition penalty, bad words, each row with its own choices
and seed.

Each row spends one number of its own random stream a token, so neighbours never disturb it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .bans import Bans
from .job import Job


def penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor) -> torch.Tensor:
    """Makes what was seen less likely. logits [rows, vocabulary], seen the same as bool, penalty [rows, 1]."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def draw(
    logits: torch.Tensor,
    temperature: torch.Tensor,
    top_k: torch.Tensor,
    top_p: torch.Tensor,
    uniform: torch.Tensor,
    widest: int,
) -> torch.Tensor:
    """One token id a row, int64 [rows]. logits fp32 [rows, vocabulary]; the others [rows, 1].

    `widest` is the largest top_k when every sampling row has one, else the vocabulary: how many candidates are sorted.
    Temperature comes first, then top-k, then top-p among what top-k left, as `generate` orders them. Rows with
    temperature 0 are greedy.
    """
    best, candidates = torch.topk(logits, widest, dim=-1)
    greedy = temperature == 0
    weights = torch.softmax(best / torch.where(greedy, torch.ones_like(temperature), temperature), dim=-1)
    rank = torch.arange(widest, device=logits.device)
    weights = torch.where((top_k > 0) & (rank >= top_k), torch.zeros_like(weights), weights)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    before = weights.cumsum(dim=-1) - weights
    weights = torch.where(before < top_p, weights, torch.zeros_like(weights))  # the first is always kept: before = 0
    reach = weights.cumsum(dim=-1)
    place = torch.searchsorted(reach, uniform * reach[:, -1:], right=True)
    place = torch.where(greedy, torch.zeros_like(place), place.clamp(max=widest - 1))
    last = (weights > 0).sum(dim=-1, keepdim=True) - 1  # rounding must not lead past the last candidate that is left
    return candidates.gather(1, torch.minimum(place, last))[:, 0]


class Sampler:
    """Draws for the rows of a batch. Keeps their choices on the device while the rows stay the same."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._rows: tuple[Job, ...] = ()
        self._plain = True
        self._choices: tuple[torch.Tensor, ...] = ()
        self._widest = 0
        self._seen: torch.Tensor | None = None
        self._penalty: torch.Tensor | None = None
        self._bans: Bans | None = None

    def __call__(self, logits: torch.Tensor, jobs: Sequence[Job]) -> torch.Tensor:
        """Token ids, int64 [rows], for logits [rows, vocabulary]; counts one token on each job's random stream."""
        if len(jobs) != len(self._rows) or any(a is not b for a, b in zip(jobs, self._rows, strict=True)):
            self._settle(jobs, logits.shape[-1])
        if self._plain:
            return logits.argmax(dim=-1)
        logits = logits.float()
        if self._seen is not None and self._penalty is not None:
            logits = penalise(logits, self._seen, self._penalty)
        if self._bans is not None:
            logits = self._bans(logits)
        if self._choices:
            numbers = torch.tensor([[job.random.random()] for job in jobs], dtype=torch.float32)
            ids = draw(logits, *self._choices, numbers.to(self._device, non_blocking=True), self._widest)
        else:
            ids = logits.argmax(dim=-1)
        if self._seen is not None:
            self._seen.scatter_(1, ids[:, None], True)
        if self._bans is not None:
            self._bans.took(ids)
        return ids

    def _settle(self, jobs: Sequence[Job], vocabulary: int) -> None:
        self._rows = tuple(jobs)
        choices = [job.choice for job in jobs]
        sampled = [choice for choice in choices if choice.temperature > 0]
        penalised = any(choice.repetition_penalty != 1 for choice in choices)
        self._plain = all(choice.plain for choice in choices)
        self._choices = ()
        self._seen = self._penalty = None
        banning = any(choice.bad_words for choice in choices)
        self._bans = Bans(jobs, vocabulary, self._device) if banning else None
        if sampled:
            self._widest = max(c.top_k for c in sampled) if all(c.top_k for c in sampled) else vocabulary
            self._widest = min(self._widest, vocabulary)
            self._choices = tuple(
                self._column(values)
                for values in (
                    [c.temperature for c in choices],
                    [float(c.top_k) for c in choices],
                    [c.top_p for c in choices],
                )
            )
        if penalised:
            # A row's record outlives the batch it was made in: the next batch takes it over, on the device.
            self._seen = torch.zeros(len(jobs), vocabulary, dtype=torch.bool, device=self._device)
            self._penalty = self._column([c.repetition_penalty for c in choices])
            for row, job in enumerate(jobs):
                if job.choice.repetition_penalty != 1:
                    if job.seen is None:
                        known = torch.tensor(job.context_ids(), dtype=torch.int64, device=self._device)
                        self._seen[row, known] = True
                    else:
                        self._seen[row] = job.seen
                    job.seen = self._seen[row]

    def _column(self, values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32).to(self._device, non_blocking=True)[:, None]
