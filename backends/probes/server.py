"""A running Triton as its health, repository and metrics endpoints tell it."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Mapping
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from backends.spec import Endpoint, Frozen

METRICS_LIMIT = 8 * 1024 * 1024  # bytes; a Triton with a hundred models tells some hundred kilobytes
Bounds = tuple[tuple[float, float], ...]


class Histogram(Frozen):
    """Cumulative counts by upper bound, as Prometheus keeps them; the last bound is infinite (left out here)."""

    count: float = 0.0
    total: float = 0.0
    buckets: Bounds = ()

    def quantile(self, share: float) -> float | None:
        """The value below which that share lies, linear within a bucket; None where nothing was counted."""
        if not self.count:
            return None
        wanted, lower, below = share * self.count, 0.0, 0.0
        for bound, cumulative in self.buckets:
            if cumulative >= wanted:
                inside = cumulative - below
                return bound if not inside else lower + (bound - lower) * (wanted - below) / inside
            lower, below = bound, cumulative
        return lower

    def since(self, earlier: Histogram) -> Histogram:
        """What was counted after `earlier`."""
        if not earlier.buckets or self.count < earlier.count:
            return self
        before = dict(earlier.buckets)
        buckets = tuple((bound, value - before.get(bound, 0.0)) for bound, value in self.buckets)
        return Histogram(count=self.count - earlier.count, total=self.total - earlier.total, buckets=buckets)


class Look(Frozen):
    """One look at a server. `values` holds each counter and gauge by name, summed over its labels, and one with a
    label `outcome` as `name:outcome` too."""

    ready: bool
    values: dict[str, float] = {}
    histograms: dict[str, Histogram] = {}


def resolved(host: str) -> tuple[str, ...]:
    """The addresses of a host, as the system resolves it; empty where it has none."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(place[0]) for *_, place in found))


def look(client: httpx.Client, endpoint: Endpoint, timeout_s: float = 1.0) -> Look:
    """Health and metrics. A server that does not answer, or not as Triton does, is not ready; nothing is raised."""
    try:
        ready, _ = _get(client, f"{endpoint.http}/v2/health/ready", timeout_s)
        _, text = _get(client, f"http://{endpoint.host}:{endpoint.metrics_port}/metrics", timeout_s)
        return Look(ready=ready, **read_metrics(text))
    except (httpx.HTTPError, ValueError, LookupError):  # the latter two: text that is not Prometheus's
        return Look(ready=False)


def _get(client: httpx.Client, url: str, timeout_s: float) -> tuple[bool, str]:
    """Whether it answered 200, and its text. Follows no redirect; reads no more and no longer than metrics may take."""
    deadline = time.monotonic() + 2 * timeout_s
    body = b""
    with client.stream("GET", url, timeout=timeout_s, follow_redirects=False) as answer:
        for part in answer.iter_bytes():
            body += part
            if len(body) > METRICS_LIMIT or time.monotonic() > deadline:
                raise ValueError(f"{url} does not end")
        return answer.status_code == 200, body.decode("utf-8", "replace")


def read_metrics(text: str) -> dict[str, Any]:
    """Prometheus text as `values` and `histograms` of a Look."""
    values: dict[str, float] = {}
    histograms: dict[str, dict[str, Any]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if not math.isfinite(sample.value):
                continue  # a summary that has counted nothing says NaN
            if family.type == "histogram":
                _add(histograms.setdefault(family.name, {"buckets": {}}), sample.name, sample.labels, sample.value)
            else:
                values[sample.name] = values.get(sample.name, 0.0) + sample.value
                if "outcome" in sample.labels:
                    values[f"{sample.name}:{sample.labels['outcome']}"] = sample.value
    made = {
        name: Histogram(
            count=told.get("count", 0.0),
            total=told.get("sum", 0.0),
            buckets=tuple(sorted(told["buckets"].items())),
        )
        for name, told in histograms.items()
    }
    return {"values": values, "histograms": made}


def _add(told: dict[str, Any], name: str, labels: Mapping[str, str], value: float) -> None:
    if name.endswith("_bucket"):
        bound = float(labels["le"])
        if bound != float("inf"):
            told["buckets"][bound] = told["buckets"].get(bound, 0.0) + value
    else:
        part = name.rsplit("_", 1)[1]
        told[part] = told.get(part, 0.0) + value
