"""Alerts and the Prometheus endpoint: what is beyond its threshold is said, what is not known is not made up."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from app.alerts import Thresholds, alerts
from app.guard import Login
from app.monitor import GpuSample, HostSample, Monitor, ServerSample
from app.prometheus import exposition
from app.web import web
from backends.spec import Gpu
from storage.store import Store
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture

SERVER = ServerSample(run="demo-1", name="demo", engine="transformers", model="demo", ready=True)
GPU = Gpu(name="NVIDIA L4", index=1, uuid="GPU-1", memory_total_mib=1000, memory_free_mib=500, temperature_c=40)


def monitor(**changes: object) -> Monitor:
    """A sample of one server that is `SERVER` but for the changes."""
    return Monitor(seq=1, at=1_700_000_000.0, servers=(SERVER.model_copy(update=changes),))


def raised(sample: Monitor, **thresholds: float | None) -> list[tuple[str, str]]:
    return [(alert.kind, alert.subject) for alert in alerts(sample, Thresholds(**thresholds))]


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"ready": False}, "server_down"),
        ({"requests": 90.0, "failures": 10.0}, "failures"),
        ({"queued": 32.0}, "queue"),
        ({"first_token_ms_p95": 5000.0}, "first_token"),
        ({"queue_ms_p50": 2000.0}, "queue_time"),
    ],
)
def test_what_is_beyond_its_threshold_is_said_in_both_languages(changes: dict, kind: str) -> None:
    (alert,) = alerts(monitor(**changes), Thresholds())
    assert (alert.kind, alert.subject) == (kind, "demo-1")
    assert "demo" in alert.text.en and "demo" in alert.text.zh
    assert alert.text.en != alert.text.zh
    assert alert.hint.en != alert.hint.zh


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"requests": 96.0, "failures": 4.0},
        {"requests": 1.0, "failures": 1.0},
        {"queued": 31.0},
        {"first_token_ms_p95": 4999.0},
    ],
)
def test_what_is_below_or_unknown_raises_nothing(changes: dict) -> None:
    assert raised(monitor(**changes)) == []


def test_a_threshold_can_be_moved_or_left_out() -> None:
    assert raised(monitor(queued=4.0), queued=4) == [("queue", "demo-1")]
    assert raised(monitor(queued=400.0), queued=None) == []


def test_the_machine_and_its_gpus_raise_alerts_too() -> None:
    hot = GPU.model_copy(update={"memory_free_mib": 10, "temperature_c": 90})
    host = HostSample(ram_used_mib=96.0, ram_total_mib=100.0)
    sample = Monitor(host=host, gpus=(GpuSample(gpu=GPU.model_copy(update={"index": 0})), GpuSample(gpu=hot)))
    assert raised(sample) == [("ram", "host"), ("gpu_memory", "gpu1"), ("gpu_temperature", "gpu1")]


def test_a_server_that_is_watched_raises_alerts_too() -> None:
    away = SERVER.model_copy(update={"run": "watch-1", "ready": False})
    assert raised(Monitor(others=(away,))) == [("server_down", "watch-1")]


def families(sample: Monitor) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a scraper reads."""
    text = exposition(sample, alerts(sample, Thresholds())).decode()
    return {
        one.name: [(dict(value.labels), value.value) for value in family.samples]
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def test_a_scraper_reads_the_sample_in_base_units() -> None:
    host = HostSample(cpu_percent=50.0, ram_used_mib=1.0, ram_total_mib=2.0)
    figures = {"requests": 3.0, "tokens": 9.0, "memory_mib": 2.0, "queued": 40.0, "compute_ms": 20.0, "batch_size": 4.0}
    sample = monitor(**figures, first_token_ms_p50=40.0, queue_ms_p50=8.0)
    told = families(sample.model_copy(update={"host": host, "gpus": (GpuSample(gpu=GPU),)}))
    labels = {"run": "demo-1", "name": "demo", "engine": "transformers", "model": "demo", "origin": "slipway"}
    assert told["slipway_server_ready"] == [(labels, 1)]
    assert told["slipway_server_requests_total"] == [(labels, 3)]
    assert told["slipway_server_memory_bytes"] == [(labels, 2 * 2**20)]
    assert told["slipway_server_first_token_seconds"] == [({**labels, "quantile": "0.5"}, pytest.approx(0.04))]
    assert told["slipway_server_queue_seconds_p50"][0][1] == pytest.approx(0.008)
    assert told["slipway_server_compute_seconds"][0][1] == pytest.approx(0.02)
    assert told["slipway_server_batch_size"] == [(labels, 4)]
    assert told["slipway_host_cpu_ratio"] == [({}, 0.5)]
    assert told["slipway_gpu_memory_free_bytes"][0] == ({"gpu": "1", "name": "NVIDIA L4", "uuid": "GPU-1"}, 500 * 2**20)
    assert told["slipway_alert"] == [({"kind": "queue", "subject": "demo-1"}, 1)]
    assert told["slipway_sample_timestamp_seconds"] == [({}, 1_700_000_000)]


def test_what_is_not_known_has_no_line() -> None:
    told = families(monitor())
    assert "slipway_server_ready" in told
    assert not {"slipway_server_tokens_total", "slipway_server_queued_requests", "slipway_host_cpu_ratio"} & told.keys()


def test_a_hostile_model_name_adds_no_line() -> None:
    evil = 'x"} 1\nslipway_server_ready{run="fake"} 1\n'
    told = families(monitor(model=evil))
    assert [labels["model"] for labels, _ in told["slipway_server_ready"]] == [evil]


def test_chosen_thresholds_are_kept_and_hold_for_the_page_and_for_scrapers(control, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(type(control), "monitor", lambda _self: monitor(queued=10.0))
    assert control.alerts() == ()
    control.set_thresholds(Thresholds(queued=5))
    assert [alert.kind for alert in control.alerts()] == ["queue"]
    again = StillControl(control.settings, Store(control.settings.home), {})
    assert again.thresholds() == Thresholds(queued=5)
    with TestClient(web(again, control.settings, None), base_url="http://127.0.0.1:7860") as panel:
        assert 'slipway_alert{kind="queue",subject="demo-1"} 1.0' in panel.get("/metrics").text


def test_metrics_are_behind_the_gate(control: StillControl) -> None:  # noqa: F811
    with TestClient(web(control, control.settings, None), base_url="http://127.0.0.1:7860") as panel:
        answer = panel.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        assert "slipway_sample_timestamp_seconds" in answer.text
        assert panel.get("/metrics", headers={"host": "evil.example"}).status_code == 421
    off = control.settings.model_copy(update={"host": "0.0.0.0"})
    token = control.make_key("prometheus").token
    with TestClient(web(control, off, Login("open sesame")), base_url="http://127.0.0.1:7860") as panel:
        key = {"authorization": f"Bearer {token}"}
        assert panel.get("/metrics").status_code == 401
        assert panel.get("/metrics", headers=key).status_code == 200
        assert panel.get("/metricsx", headers=key).status_code == 401
        assert panel.get("/metrics/", headers=key).status_code == 401
