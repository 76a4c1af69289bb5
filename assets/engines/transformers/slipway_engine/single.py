"""One chat at a time, through the model's own `generate`: for models whose batches would not be right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from .job import Job
from .sampling import Sampler


class _Draw(LogitsProcessor):  # type: ignore[misc]
    """Draws the token as the chat asks and leaves `generate` no other choice."""

    def __init__(self, job: Job, sampler: Sampler, deliver: Callable[[Job, int], None]) -> None:
        self._job, self._sampler, self._deliver = job, sampler, deliver

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # noqa: ARG002
        ids = self._sampler(scores, (self._job,))
        self._job.launched += 1
        self._deliver(self._job, int(ids[0]))
        return torch.full_like(scores, -torch.inf).scatter_(1, ids[:, None], 0.0)


class _End(StoppingCriteria):  # type: ignore[misc]
    """Ends `generate` as soon as the chat has ended or nobody waits for it."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:  # noqa: ARG002
        ended = self._job.end is not None or self._job.dropped
        return torch.full((input_ids.shape[0],), ended, dtype=torch.bool, device=input_ids.device)


def answer(model: Any, job: Job, deliver: Callable[[Job, int], None]) -> None:
    """Answers one chat; `deliver(job, token)` is called for each token and sets the chat's end."""
    prompt = torch.tensor([job.prompt], device=model.device)
    with torch.inference_mode():
        model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=job.limit,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,
            use_cache=True,
            logits_processor=[_Draw(job, Sampler(model.device), deliver)],
            stopping_criteria=[_End(job)],
        )
