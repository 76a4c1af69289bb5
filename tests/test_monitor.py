"""What a server's metrics come to, from text as Triton prints it."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial

import pytest

from app import monitor
from app.monitor import Sampler
from backends.errors import NotFound
from backends.probes.server import Histogram, Look, look, read_metrics
from backends.runs import Run, State
from backends.spec import Endpoint
from backends.text import same
from tests.conftest import until
from tests.plans import plan

METRICS = """# HELP nv_inference_request_success Number of successful inference requests
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="chat",version="1"}} 4
# TYPE slipway_tokens_total counter
slipway_tokens_total{{model="chat",version="1"}} {tokens}
# TYPE slipway_requests_total counter
slipway_requests_total{{model="chat",outcome="finished"}} 3
slipway_requests_total{{model="chat",outcome="failed"}} 1
# TYPE slipway_active_requests gauge
slipway_active_requests{{model="chat"}} 2
# TYPE slipway_first_token_seconds histogram
slipway_first_token_seconds_bucket{{model="chat",le="0.01"}} {few}
slipway_first_token_seconds_bucket{{model="chat",le="0.02"}} {all}
slipway_first_token_seconds_bucket{{model="chat",le="+Inf"}} {all}
slipway_first_token_seconds_sum{{model="chat"}} 0.1
slipway_first_token_seconds_count{{model="chat"}} {all}
"""


def test_metrics_are_read_by_name_and_outcome() -> None:
    seen = Look(ready=True, **read_metrics(METRICS.format(tokens=10, few=1, all=4)))
    assert seen.values["slipway_tokens_total"] == 10
    assert seen.values["slipway_requests_total:failed"] == 1
    assert seen.histograms["slipway_first_token_seconds"].count == 4


def test_a_quantile_lies_linear_within_its_bucket() -> None:
    histogram = Histogram(count=4, total=0.06, buckets=((0.01, 2), (0.02, 4)))
    assert histogram.quantile(0.5) == pytest.approx(0.01)
    assert histogram.quantile(0.75) == pytest.approx(0.015)
    assert Histogram().quantile(0.5) is None


def test_what_was_counted_before_is_left_out() -> None:
    before = Histogram(count=2, total=0.02, buckets=((0.01, 2), (0.02, 2)))
    after = Histogram(count=4, total=0.06, buckets=((0.01, 2), (0.02, 4)))
    assert after.since(before).quantile(0.5) == pytest.approx(0.015)


def test_a_server_that_was_restarted_counts_from_nothing() -> None:
    before, after = Histogram(count=9, buckets=((0.01, 9),)), Histogram(count=1, buckets=((0.01, 1),))
    assert after.since(before) == after


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[dict, Run]]:
    """A server that speaks Triton's health and metrics endpoints, and the run that it belongs to. A look takes as long
    as a busy machine needs."""
    monkeypatch.setattr(monitor, "look", partial(look, timeout_s=30))
    told = {"metrics": METRICS.format(tokens=100, few=1, all=4), "asked": 0, "open": set()}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"  # which keeps a connection until one side closes it

        def setup(self) -> None:
            super().setup()
            told["open"].add(self.client_address)

        def finish(self) -> None:
            super().finish()
            told["open"].discard(self.client_address)

        def do_GET(self) -> None:
            told["asked"] += 1
            body = told["metrics"].encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    port = server.server_address[1]
    made = plan()
    endpoint = Endpoint(http_port=port, grpc_port=1, metrics_port=port, model="chat")
    run = Run(
        id="demo-1", name="demo", state=State.SERVING, spec=made.spec, plan=made, created_at=datetime.now(UTC),
        ready_at=datetime.now(UTC), endpoint=endpoint,
    )  # fmt: skip
    yield told, run
    server.shutdown()
    server.server_close()


def test_a_sample_tells_rates_since_the_look_before(served: tuple[dict, Run]) -> None:
    told, run = served
    sampler = Sampler(lambda: [run], lambda _run: 12.0)
    assert sampler.sample().servers[0].tokens_per_s is None
    told["metrics"] = METRICS.format(tokens=200, few=1, all=8)
    (sample,) = sampler.sample().servers
    assert sample.ready
    assert sample.tokens_per_s is not None and sample.tokens_per_s > 0
    assert (sample.requests, sample.failures, sample.active, sample.memory_mib) == (3, 1, 2, 12.0)
    assert sample.first_token_ms_p50 == pytest.approx(15, abs=1)
    sampler.stop()


TRITON = """nv_inference_request_success{{model="a",version="1"}} {done}
nv_inference_count{{model="a",version="1"}} {count}
nv_inference_exec_count{{model="a",version="1"}} {runs}
nv_inference_queue_duration_us{{model="a",version="1"}} {waited}
nv_inference_compute_infer_duration_us{{model="a",version="1"}} {computed}
"""


def test_of_another_engine_triton_s_own_counters_tell_queue_compute_and_batch(served: tuple[dict, Run]) -> None:
    told, run = served
    sampler = Sampler(lambda: [run], lambda _run: None)
    told["metrics"] = TRITON.format(done=10, count=10, runs=10, waited=1000, computed=5000)
    sampler.sample()
    told["metrics"] = TRITON.format(done=14, count=18, runs=12, waited=9000, computed=85000)
    (sample,) = sampler.sample().servers
    assert (sample.queue_ms, sample.compute_ms, sample.batch_size) == (2.0, 20.0, 4.0)
    assert sample.requests_per_s is not None and sample.requests_per_s > 0
    assert sample.tokens is None
    sampler.stop()


def test_a_counter_that_an_engine_leaves_at_zero_is_not_told_as_zero(served: tuple[dict, Run]) -> None:
    told, run = served
    sampler = Sampler(lambda: [run], lambda _run: None)
    for done in (10, 14):
        told["metrics"] = TRITON.format(done=done, count=done, runs=done, waited=0, computed=0)
        (sample,) = sampler.sample().servers
    assert (sample.queue_ms, sample.compute_ms, sample.batch_size) == (None, None, 1.0)
    sampler.stop()


def test_a_server_that_does_not_answer_is_not_ready_and_its_line_has_a_gap(served: tuple[dict, Run]) -> None:
    _, run = served
    dead = run.model_copy(update={"endpoint": run.endpoint.model_copy(update={"http_port": 1, "metrics_port": 1})})
    sampler = Sampler(lambda: [dead], lambda _run: None)
    sampler.sample()
    (sample,) = sampler.sample().servers
    assert not sample.ready
    assert sample.requests is None
    assert sample.history["tokens_per_s"][-1][1] is None
    sampler.stop()


def test_visitors_cost_no_further_looks(served: tuple[dict, Run]) -> None:
    told, run = served
    sampler = Sampler(lambda: [run], lambda _run: None)
    sampler.sample()
    asked = told["asked"]
    for _ in range(1000):
        assert sampler.now is not None
    assert told["asked"] == asked
    sampler.stop()


def test_a_sample_that_fails_is_not_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def serving() -> list[Run]:
        asked.append("who serves")
        if len(asked) == 1:
            raise NotFound(same("It was deleted just now."))
        return []

    monkeypatch.setattr(monitor, "PERIOD_S", 0.01)
    sampler = Sampler(serving, lambda _run: None)
    sampler.start()
    until(lambda: sampler.now.seq)
    sampler.stop()


def test_no_connection_is_left_open_for_which_a_server_would_wait_when_it_is_stopped(served: tuple[dict, Run]) -> None:
    told, run = served
    sampler = Sampler(lambda: [run], lambda _run: None)
    (sample,) = sampler.sample().servers
    assert sample.ready and told["asked"] == 2
    until(lambda: not told["open"])
    sampler.stop()
