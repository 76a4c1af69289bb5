"""Watches the machine and every running server: one sampler for all visitors, fifteen minutes kept."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil

from backends.probes import graphics
from backends.probes.server import Histogram, Look, look
from backends.runs import Run
from backends.spec import Endpoint, Frozen, Gpu
from backends.transformers import metrics
from backends.watched import Watched

log = logging.getLogger(__name__)

PERIOD_S = 1.0
KEPT_S = 900
GPU_PERIOD_S = 2.0
WINDOW_S = 10.0  # over which rates and quantiles are taken
FORGET_S = 60.0
TRITON_DONE = "nv_inference_request_success"  # of an engine without a count of its own
TRITON_COUNTS = (TRITON_DONE, "nv_inference_count", "nv_inference_exec_count", "nv_inference_queue_duration_us",
                 "nv_inference_compute_infer_duration_us")  # fmt: skip

Series = tuple[tuple[float, float | None], ...]  # (seconds since the epoch, value); None is a gap


class ServerSample(Frozen):
    """One server now. None: not known, or this engine cannot tell."""

    run: str
    name: str
    engine: str
    model: str
    ready: bool
    uptime_s: float | None = None
    requests: float | None = None
    requests_per_s: float | None = None
    failures: float | None = None
    cancelled: float | None = None
    active: float | None = None
    queued: float | None = None
    tokens: float | None = None
    tokens_per_s: float | None = None
    first_token_ms_p50: float | None = None
    first_token_ms_p95: float | None = None
    queue_ms_p50: float | None = None
    queue_ms: float | None = None  # the same, or the mean where only Triton's own counters tell
    compute_ms: float | None = None  # mean time in the model; None where an engine answers behind Triton's back
    batch_size: float | None = None  # requests computed together
    token_gap_ms_p50: float | None = None
    memory_mib: float | None = None
    history: dict[str, Series] = {}


class HostSample(Frozen):
    """The machine now."""

    cpu_percent: float | None = None
    ram_used_mib: float | None = None
    ram_total_mib: float | None = None
    history: dict[str, Series] = {}


class GpuSample(Frozen):
    """One GPU now."""

    gpu: Gpu
    history: dict[str, Series] = {}


class Monitor(Frozen):
    """What the Monitor page shows. `seq` grows with each sample."""

    seq: int = 0
    at: float = 0.0
    host: HostSample = HostSample()
    gpus: tuple[GpuSample, ...] = ()
    servers: tuple[ServerSample, ...] = ()
    others: tuple[ServerSample, ...] = ()  # watched by address; `run` is the id under which they are watched


class _Past:
    """The recent past of one server, machine or GPU: named series, and looks for rates."""

    def __init__(self) -> None:
        self.series: dict[str, deque[tuple[float, float | None]]] = {}
        self.looks: deque[tuple[float, Look]] = deque()
        self.seen = time.monotonic()

    def add(self, now: float, **values: float | None) -> None:
        for name, value in values.items():
            kept = self.series.setdefault(name, deque())
            kept.append((now, value))
            while kept and kept[0][0] < now - KEPT_S:
                kept.popleft()

    def history(self) -> dict[str, Series]:
        return {name: tuple(points) for name, points in self.series.items()}


class _Subject(Frozen):
    """A server to look at, whoever started it."""

    id: str
    name: str
    engine: str
    model: str
    endpoint: Endpoint
    since: float | None = None  # seconds since the epoch
    ours: bool = True


class Sampler:
    """Samples once a second in a thread of its own. `serving` and `watched` tell whom to look at; `memory_mib` what a
    run uses."""

    def __init__(
        self,
        serving: Callable[[], Sequence[Run]],
        memory_mib: Callable[[str], float | None],
        watched: Callable[[], Sequence[Watched]] = tuple,
    ) -> None:
        self._serving = serving
        self._watched = watched
        self._memory = memory_mib
        self._now = Monitor()
        self._host = _Past()
        self._servers: dict[str, _Past] = {}
        self._gpu_past: dict[int, _Past] = {}
        self._gpus: tuple[Gpu, ...] = ()
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        # A connection that is kept open would make Triton wait for its end, up to its exit timeout, at every stop.
        self._client = httpx.Client(trust_env=False, limits=httpx.Limits(max_keepalive_connections=0))
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="look")
        self._memories: dict[str, tuple[float, float | None]] = {}

    def start(self) -> None:
        """Begins to sample; a second call does nothing."""
        if not self._threads:
            for work in (self._sample_forever, self._look_at_gpus):
                thread = threading.Thread(target=work, daemon=True, name="sampler")
                thread.start()
                self._threads.append(thread)

    def stop(self) -> None:
        """Ends sampling."""
        self._end.set()
        self._pool.shutdown(wait=False)

    @property
    def now(self) -> Monitor:
        """The newest sample: one value for all visitors."""
        return self._now

    def _sample_forever(self) -> None:
        psutil.cpu_percent()
        following = time.monotonic()
        while not self._end.wait(max(0.0, following - time.monotonic())):
            following = max(following + PERIOD_S, time.monotonic())
            try:
                self._now = self.sample()
            except Exception:  # a run that was deleted meanwhile, a locked store: the next sample may not meet it
                if not self._end.is_set():
                    log.exception("a sample failed")

    def sample(self) -> Monitor:
        """One sample of everything."""
        now = time.time()
        subjects = [*_running(self._serving()), *_watched(self._watched())]
        looks = list(self._pool.map(self._look, subjects))
        samples = [self._server(one, seen, now) for one, seen in zip(subjects, looks, strict=True)]
        servers = tuple(sample for one, sample in zip(subjects, samples, strict=True) if one.ours)
        others = tuple(sample for one, sample in zip(subjects, samples, strict=True) if not one.ours)
        self._forget({one.id for one in subjects})
        memory = psutil.virtual_memory()
        cpu, used = psutil.cpu_percent(), (memory.total - memory.available) / 2**20
        self._host.add(now, cpu_percent=cpu, ram_used_mib=used)
        host = HostSample(
            cpu_percent=cpu, ram_used_mib=used, ram_total_mib=memory.total / 2**20, history=self._host.history()
        )
        gpus = self._gpu_samples(now)
        return Monitor(seq=self._now.seq + 1, at=now, host=host, gpus=gpus, servers=servers, others=others)

    def _look(self, subject: _Subject) -> Look:
        return look(self._client, subject.endpoint)

    def _server(self, run: _Subject, seen: Look, now: float) -> ServerSample:
        past = self._servers.setdefault(run.id, _Past())
        past.seen = time.monotonic()
        earlier = past.looks[0] if past.looks else None
        past.looks.append((now, seen))
        while len(past.looks) > 1 and past.looks[0][0] < now - WINDOW_S:
            past.looks.popleft()
        values = seen.values
        rate = asked = first = queue = gap = None
        if earlier is not None and now > earlier[0]:
            rate = _rate(metrics.TOKENS, earlier[1], seen, now - earlier[0])
            asked = _rate(
                metrics.FINISHED if metrics.FINISHED in values else TRITON_DONE, earlier[1], seen, now - earlier[0]
            )
            first = _recent(metrics.FIRST_TOKEN_S, earlier[1], seen)
            queue = _recent(metrics.QUEUE_S, earlier[1], seen)
            gap = _recent(metrics.GAP_S, earlier[1], seen)
        own = metrics.TOKENS in values
        mean = _means(earlier[1], seen) if earlier is not None and not own else {}
        failures = values.get(metrics.FAILED, values.get("nv_inference_request_failure"))
        sample = ServerSample(
            run=run.id,
            name=run.name,
            engine=run.engine,
            model=run.model,
            ready=seen.ready,
            uptime_s=None if run.since is None else now - run.since,
            requests=values.get(metrics.FINISHED, values.get(TRITON_DONE)),
            requests_per_s=asked,
            failures=failures,
            cancelled=values.get(metrics.CANCELLED),
            active=values.get(metrics.ACTIVE),
            queued=values.get(metrics.QUEUED),
            tokens=values.get(metrics.TOKENS),
            tokens_per_s=rate,
            first_token_ms_p50=_ms(first, 0.5),
            first_token_ms_p95=_ms(first, 0.95),
            queue_ms_p50=_ms(queue, 0.5),
            queue_ms=_ms(queue, 0.5) if own else mean.get("queue_ms"),
            compute_ms=mean.get("compute_ms"),
            batch_size=values.get(metrics.ACTIVE) if own else mean.get("batch_size"),
            token_gap_ms_p50=_ms(gap, 0.5),
            memory_mib=self._memory_of(run.id) if run.ours else None,
        )
        past.add(
            now,
            tokens_per_s=sample.tokens_per_s,
            requests_per_s=sample.requests_per_s,
            active=sample.active,
            queued=sample.queued,
            first_token_ms_p50=sample.first_token_ms_p50,
            queue_ms=sample.queue_ms,
            compute_ms=sample.compute_ms,
            batch_size=sample.batch_size,
        )
        return sample.model_copy(update={"history": past.history()})

    def _memory_of(self, run_id: str) -> float | None:
        """What a server's processes use; looked at every five seconds, since it reads each process."""
        kept = self._memories.get(run_id)
        if kept is None or time.monotonic() - kept[0] > 5.0:
            kept = (time.monotonic(), self._memory(run_id))
            self._memories[run_id] = kept
        return kept[1]

    def _forget(self, living: set[str]) -> None:
        for run_id in [one for one in self._servers if one not in living]:
            if time.monotonic() - self._servers[run_id].seen > FORGET_S:
                del self._servers[run_id]
                self._memories.pop(run_id, None)

    def _look_at_gpus(self) -> None:
        """GPUs are read in a thread of their own: a driver that hangs then stops nothing else."""
        while not self._end.is_set():
            with contextlib.suppress(OSError):
                self._gpus = graphics.read(timeout_s=5.0).gpus
            if not self._gpus:
                return  # no GPU here; one does not appear while the machine runs
            self._end.wait(GPU_PERIOD_S)

    def _gpu_samples(self, now: float) -> tuple[GpuSample, ...]:
        samples = []
        for number, gpu in enumerate(self._gpus):
            past = self._gpu_past.setdefault(number, _Past())
            used = None
            if gpu.memory_total_mib is not None and gpu.memory_free_mib is not None:
                used = float(gpu.memory_total_mib - gpu.memory_free_mib)
            load = None if gpu.utilisation_percent is None else float(gpu.utilisation_percent)
            past.add(now, memory_used_mib=used, utilisation_percent=load)
            samples.append(GpuSample(gpu=gpu, history=past.history()))
        return tuple(samples)


def _running(runs: Sequence[Run]) -> list[_Subject]:
    return [
        _Subject(
            id=run.id,
            name=run.name,
            engine=run.spec.engine,
            model=run.spec.model.id,
            endpoint=run.endpoint,
            since=None if run.ready_at is None else run.ready_at.timestamp(),
        )
        for run in runs
        if run.endpoint is not None
    ]


def _watched(watched: Sequence[Watched]) -> list[_Subject]:
    return [
        _Subject(id=one.id, name=one.server.name, engine="triton", model=one.server.model, endpoint=one.endpoint,
                 ours=False)
        for one in watched
    ]  # fmt: skip


def _rate(name: str, earlier: Look, later: Look, seconds: float) -> float | None:
    if name not in earlier.values or name not in later.values:
        return None
    return max(0.0, later.values[name] - earlier.values[name]) / seconds


def _means(earlier: Look, later: Look) -> dict[str, float]:
    """Means of what happened between two looks, from the counters that each Triton keeps of each model. A mean of
    nothing is left out; so is a zero, since an engine that answers behind Triton's back leaves its counter at zero."""
    grown = {name: later.values[name] - earlier.values.get(name, 0.0) for name in TRITON_COUNTS if name in later.values}
    done, runs = grown.get(TRITON_DONE, 0.0), grown.get("nv_inference_exec_count", 0.0)
    found = {
        "queue_ms": grown.get("nv_inference_queue_duration_us", 0.0) / done / 1000 if done > 0 else 0.0,
        "compute_ms": grown.get("nv_inference_compute_infer_duration_us", 0.0) / done / 1000 if done > 0 else 0.0,
        "batch_size": grown.get("nv_inference_count", 0.0) / runs if runs > 0 else 0.0,
    }
    return {name: value for name, value in found.items() if value > 0}


def _recent(name: str, earlier: Look, later: Look) -> Histogram | None:
    if name not in later.histograms:
        return None
    return later.histograms[name].since(earlier.histograms.get(name, Histogram()))


def _ms(histogram: Histogram | None, share: float) -> float | None:
    value = None if histogram is None else histogram.quantile(share)
    return None if value is None else value * 1000
