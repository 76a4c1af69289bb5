"""What is counted, beside Triton's own figures (which see only how long a request took to be accepted).

Counted here in plain numbers and handed to Triton twice a second: a metric's update costs as much as sending a token.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

from .job import Job

FLUSH_S = 0.5
GAP_SAMPLES = 8  # gaps between tokens observed a flush: a fair sample, not each of thousands
SECONDS = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0]


class Metrics:
    """Numbers of one model. `families` is Triton's MetricFamily, or None where there is no Triton."""

    def __init__(self, families: Any, labels: dict[str, str], load: Callable[[], tuple[int, int]]) -> None:
        """`load` gives (chats being answered, chats waiting)."""
        self._load = load
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(("tokens", "prompt_tokens", "finished", "failed", "cancelled"), 0)
        self._waits: dict[str, list[float]] = {"ttft": [], "queue": []}
        self._gaps: list[float] = []
        self._gaps_seen = 0
        self._before: dict[Job, float] = {}
        self._next = 0.0
        self._shown: tuple[int, int] = (-1, -1)
        self._metric: dict[str, Any] = {}
        if families is not None:
            self._declare(families, labels)

    def _declare(self, families: Any, labels: dict[str, str]) -> None:
        def family(name: str, kind: Any, words: str) -> Any:
            made = families(name=f"slipway_{name}", description=words, kind=kind)
            self._metric[f"family {name}"] = made  # a metric lives as long as its family is held
            return made

        def one(key: str, made: Any, **more: Any) -> None:
            self._metric[key] = made.Metric(labels=labels | more.pop("labels", {}), **more)

        one("tokens", family("tokens_total", families.COUNTER, "Tokens generated"))
        one("prompt_tokens", family("prompt_tokens_total", families.COUNTER, "Prompt tokens of accepted requests"))
        ended = family("requests_total", families.COUNTER, "Requests that have ended, by outcome")
        for outcome in ("finished", "failed", "cancelled"):
            one(outcome, ended, labels={"outcome": outcome})
        one("active", family("active_requests", families.GAUGE, "Requests being answered together now"))
        one("queued", family("queued_requests", families.GAUGE, "Requests waiting for a place"))
        ttft = family("first_token_seconds", families.HISTOGRAM, "From arrival to the first token")
        one("ttft", ttft, buckets=SECONDS)
        one("queue", family("queue_seconds", families.HISTOGRAM, "From arrival to admission"), buckets=SECONDS)
        gap = family("token_gap_seconds", families.HISTOGRAM, "Between two tokens of one answer (sampled)")
        one("gap", gap, buckets=SECONDS)
        self._info = family("engine_info", families.GAUGE, "How this model is served; always 1")
        self._labels = labels

    def describe(self, facts: dict[str, str]) -> None:
        """Shows how the model is served as labels of slipway_engine_info."""
        if self._metric:
            self._metric["info"] = self._info.Metric(labels=self._labels | facts)
            self._metric["info"].set(1)

    def accepted(self, prompt_tokens: int) -> None:
        """A request was accepted."""
        with self._lock:
            self._counts["prompt_tokens"] += prompt_tokens

    def refused(self) -> None:
        """A request was refused before it became a chat."""
        with self._lock:
            self._counts["failed"] += 1

    def tokens(self, job: Job, count: int) -> None:
        """So many further tokens of a chat are going out."""
        last = job.last or 0.0
        with self._lock:
            self._counts["tokens"] += count
            before = self._before.get(job, job.first or last)
            self._before[job] = last
            if last > before:
                self._gaps_seen += 1
                gap = (last - before) / count
                if len(self._gaps) < GAP_SAMPLES:
                    self._gaps.append(gap)
                elif (place := random.randrange(self._gaps_seen)) < GAP_SAMPLES:  # noqa: S311
                    self._gaps[place] = gap

    def ended(self, job: Job, outcome: str) -> None:
        """A chat has ended: finished, failed or cancelled."""
        with self._lock:
            self._counts[outcome] += 1
            self._before.pop(job, None)
            if job.admitted is not None:
                self._waits["queue"].append(job.admitted - job.arrived)
            if job.first is not None:
                self._waits["ttft"].append(job.first - job.arrived)

    def flush(self, now: float) -> None:
        """Hands the numbers to Triton, twice a second at most."""
        if now < self._next or not self._metric:
            return
        self._next = now + FLUSH_S
        with self._lock:
            counts, self._counts = self._counts, dict.fromkeys(self._counts, 0)
            waits, self._waits = self._waits, {"ttft": [], "queue": []}
            gaps, self._gaps, self._gaps_seen = self._gaps, [], 0
        for name, value in counts.items():
            if value:
                self._metric[name].increment(value)
        for name, values in (*waits.items(), ("gap", gaps)):
            for value in values:
                self._metric[name].observe(value)
        load = self._load()
        if load != self._shown:
            self._shown = load
            self._metric["active"].set(load[0])
            self._metric["queued"].set(load[1])
