"""Bad words: a token that would complete one is made impossible, as transformers' NoBadWordsLogitsProcessor does.

Each row has its own words and its own last tokens. Those lie on the device: a batch may launch its next step before the
host has read this one's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .job import Job

_ANY, _NOTHING = -1, -2  # a place that every token fits; a place before the text, which none fits


class Bans:
    """The bad words of the rows of a batch. Takes over what earlier batches know of each row's last tokens."""

    def __init__(self, jobs: Sequence[Job], vocabulary: int, device: torch.device) -> None:
        words = [(row, word) for row, job in enumerate(jobs) for word in job.choice.bad_words]
        longer = [(row, word) for row, word in words if len(word) > 1]
        alone = [row * vocabulary + word[0] for row, word in words if len(word) == 1]
        self._never = torch.zeros(len(jobs) * vocabulary, dtype=torch.bool, device=device)
        self._never[torch.tensor(alone, dtype=torch.int64, device=device)] = True
        self._never = self._never.view(len(jobs), vocabulary)
        width = max((len(word) - 1 for _, word in longer), default=0)
        self._rows = torch.tensor([row for row, _ in longer], dtype=torch.int64, device=device)
        self._last = torch.tensor([word[-1] for _, word in longer], dtype=torch.int64, device=device)
        begins = [[_ANY] * (width + 1 - len(word)) + list(word[:-1]) for _, word in longer]
        self._begins = torch.tensor(begins, dtype=torch.int64, device=device).view(len(longer), width)
        self._tails = torch.full((len(jobs), width), _NOTHING, dtype=torch.int64, device=device)
        for row, job in enumerate(jobs):
            own = max((len(word) - 1 for word in job.choice.bad_words), default=0)
            if own and job.tail is None:
                known = job.context_ids()[-own:]
                self._tails[row, width - len(known) :] = torch.tensor(known, dtype=torch.int64, device=device)
            elif own:
                self._tails[row, width - own :] = job.tail
            job.tail = self._tails[row, width - own :] if own else None

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """The logits fp32 [rows, vocabulary] without what would complete a bad word now."""
        logits = logits.masked_fill(self._never, -torch.inf)
        if len(self._rows):
            met = ((self._begins == _ANY) | (self._begins == self._tails[self._rows])).all(dim=-1)
            taken = torch.where(met, -torch.inf, 0.0)
            logits.index_put_((self._rows, self._last), taken, accumulate=True)  # several words may end alike
        return logits

    def took(self, ids: torch.Tensor) -> None:
        """Remembers the token that each row took, ids int64 [rows]."""
        if self._tails.shape[1]:
            self._tails.copy_(torch.cat([self._tails[:, 1:], ids[:, None]], dim=1))
