"""The Monitor for Prometheus: the newest sample in its text format, at /metrics of the panel.

One sampler serves the page and every scraper, so a scrape costs the servers nothing. What is not known, or what an
engine cannot tell, has no line: a zero would be a lie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from app.alerts import Alert
from app.monitor import GpuSample, Monitor, ServerSample

MIB = 2**20
_SERVER_LABELS = ("run", "name", "engine", "model", "origin")
# Field of a sample, name, words, factor to the base unit that Prometheus asks for (seconds, bytes).
_GAUGES = (
    ("uptime_s", "uptime_seconds", "Seconds since the server was ready", 1.0),
    ("active", "active_requests", "Requests being answered", 1.0),
    ("queued", "queued_requests", "Requests that wait", 1.0),
    ("tokens_per_s", "tokens_per_second", "Tokens generated in a second, over the last ten", 1.0),
    ("queue_ms_p50", "queue_seconds_p50", "Seconds that half of the recent requests waited less than", 0.001),
    ("compute_ms", "compute_seconds", "Seconds in the model, mean of the recent requests", 0.001),
    ("batch_size", "batch_size", "Requests computed together", 1.0),
    ("token_gap_ms_p50", "token_gap_seconds_p50", "Seconds between two tokens, median of the recent", 0.001),
    ("memory_mib", "memory_bytes", "Memory of the server's processes", float(MIB)),
)
_COUNTERS = (
    ("requests", "requests", "Requests that were answered"),
    ("failures", "failed_requests", "Requests that failed"),
    ("cancelled", "cancelled_requests", "Requests that were cancelled"),
    ("tokens", "tokens", "Tokens that were generated"),
)


def exposition(monitor: Monitor, alerts: Iterable[Alert]) -> bytes:
    """The sample as text of content type `prometheus_client.CONTENT_TYPE_LATEST`."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sample(monitor, tuple(alerts)))
    return generate_latest(registry)


class _Sample(Collector):
    def __init__(self, monitor: Monitor, alerts: tuple[Alert, ...]) -> None:
        self._monitor = monitor
        self._alerts = alerts

    def collect(self) -> Iterator[Metric]:
        now = self._monitor
        yield GaugeMetricFamily("slipway_sample_timestamp_seconds", "When this sample was taken", value=now.at)
        yield from _servers([*((one, "slipway") for one in now.servers), *((one, "watched") for one in now.others)])
        yield from _host(now)
        yield from _gpus(now.gpus)
        raised = GaugeMetricFamily("slipway_alert", "1 for each alert that is raised now", labels=("kind", "subject"))
        for alert in self._alerts:
            raised.add_metric((alert.kind, alert.subject), 1)
        yield raised


def _servers(servers: list[tuple[ServerSample, str]]) -> Iterator[Metric]:
    labels = {one.run: (one.run, one.name, one.engine, one.model, origin) for one, origin in servers}
    ready = GaugeMetricFamily("slipway_server_ready", "1 where the server answers", labels=_SERVER_LABELS)
    for one, _ in servers:
        ready.add_metric(labels[one.run], float(one.ready))
    yield ready
    for field, name, words in _COUNTERS:
        counter = CounterMetricFamily(f"slipway_server_{name}", words, labels=_SERVER_LABELS)
        for one, _ in servers:
            if getattr(one, field) is not None:
                counter.add_metric(labels[one.run], getattr(one, field))
        yield counter
    for field, name, words, factor in _GAUGES:
        gauge = GaugeMetricFamily(f"slipway_server_{name}", words, labels=_SERVER_LABELS)
        for one, _ in servers:
            if getattr(one, field) is not None:
                gauge.add_metric(labels[one.run], getattr(one, field) * factor)
        yield gauge
    first = GaugeMetricFamily(
        "slipway_server_first_token_seconds", "Seconds to the first token, over the last ten seconds",
        labels=(*_SERVER_LABELS, "quantile"),
    )  # fmt: skip
    for one, _ in servers:
        for share, value in (("0.5", one.first_token_ms_p50), ("0.95", one.first_token_ms_p95)):
            if value is not None:
                first.add_metric((*labels[one.run], share), value / 1000)
    yield first


def _host(now: Monitor) -> Iterator[Metric]:
    host = now.host
    for name, words, value in (
        ("slipway_host_cpu_ratio", "Share of the processor in use, 0 to 1", _times(host.cpu_percent, 0.01)),
        ("slipway_host_memory_used_bytes", "Memory in use", _times(host.ram_used_mib, MIB)),
        ("slipway_host_memory_bytes", "Memory of the machine", _times(host.ram_total_mib, MIB)),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, words, value=value)


def _gpus(gpus: tuple[GpuSample, ...]) -> Iterator[Metric]:
    for name, words, field, factor in (
        ("memory_bytes", "Memory of the GPU", "memory_total_mib", MIB),
        ("memory_free_bytes", "Free memory of the GPU", "memory_free_mib", MIB),
        ("utilisation_ratio", "Share of time in which the GPU worked, 0 to 1", "utilisation_percent", 0.01),
        ("temperature_celsius", "Temperature of the GPU", "temperature_c", 1),
    ):
        family = GaugeMetricFamily(f"slipway_gpu_{name}", words, labels=("gpu", "name", "uuid"))
        for number, sample in enumerate(gpus):
            gpu, value = sample.gpu, _times(getattr(sample.gpu, field), factor)
            if value is not None:
                index = number if gpu.index is None else gpu.index
                family.add_metric((str(index), gpu.name, gpu.uuid or ""), value)
        yield family


def _times(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor
