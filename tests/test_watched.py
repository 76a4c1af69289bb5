"""Servers watched by address: where a panel may look, and what it sees there."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable, Iterator
from functools import partial

import httpx
import pytest

from app import monitor
from app.monitor import Sampler
from backends.errors import BadInput, NotFound
from backends.probes import server as probe
from backends.probes.server import look
from backends.reading import read
from backends.spec import Endpoint
from backends.watched import Watched, WatchedServer, chosen, may_resolve
from storage.store import Store
from tests.test_monitor import METRICS
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost", "LOCALHOST"])
def test_this_machine_may_be_looked_at(host: str) -> None:
    may_resolve(host, ())


@pytest.mark.parametrize(
    "host",
    [
        "169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "10.0.0.7", "192.168.1.1", "0.0.0.0", "::",
        "8.8.8.8", "metadata.google.internal", "evil.example", "localhost.evil.example", "2130706433", "0177.0.0.1",
        "127.1",
    ],
)  # fmt: skip
def test_no_other_host_is_even_resolved_unless_it_is_named(host: str) -> None:
    with pytest.raises(BadInput) as refused:
        may_resolve(host, ("gpu-7",))
    assert refused.value.field == "host"
    may_resolve(host, (host.upper(),))


@pytest.mark.parametrize(
    ("host", "found", "named", "used"),
    [
        ("localhost", ("::1", "127.0.0.1"), (), "::1"),
        ("gpu-7", ("10.0.0.7",), ("gpu-7",), "10.0.0.7"),
        ("GPU-7", ("93.184.216.34",), ("gpu-7",), "93.184.216.34"),
        ("gpu-7", ("::ffff:10.0.0.7",), ("gpu-7",), "10.0.0.7"),
        ("169.254.1.2", ("169.254.1.2",), ("169.254.1.2",), "169.254.1.2"),
    ],
)
def test_the_first_address_is_used_where_all_may_be(host: str, found: tuple, named: tuple, used: str) -> None:
    assert chosen(host, found, named) == used


@pytest.mark.parametrize(
    ("host", "found", "named"),
    [
        ("localhost", ("10.0.0.7",), ()),
        ("localhost", ("127.0.0.1", "10.0.0.7"), ()),
        ("gpu-7", ("169.254.169.254",), ("gpu-7",)),
        ("gpu-7", ("10.0.0.7", "::ffff:169.254.169.254"), ("gpu-7",)),
        ("gpu-7", ("fe80::1",), ("gpu-7",)),
        ("gpu-7", ("fd00:ec2::254",), ("gpu-7",)),
        ("gpu-7", ("0.0.0.0",), ("gpu-7",)),
        ("gpu-7", ("224.0.0.1",), ("gpu-7",)),
        ("gpu-7", (), ("gpu-7",)),
    ],
)
def test_a_name_that_points_elsewhere_is_refused(host: str, found: tuple, named: tuple) -> None:
    with pytest.raises(BadInput):
        chosen(host, found, named)


@pytest.mark.parametrize(
    ("told", "field"),
    [
        ({"name": "x", "host": "a/b"}, "host"), ({"name": "x", "host": "user@host"}, "host"),
        ({"name": "x", "host": "host:80"}, "host"), ({"name": "x", "host": "a b"}, "host"),
        ({"name": "x", "host": ""}, "host"), ({"name": "", "host": "h"}, "name"), ({"name": "a\nb"}, "name"),
        ({"name": "x", "http_port": 0}, "http_port"), ({"name": "x", "url": "http://h"}, "url"),
    ],
)  # fmt: skip
def test_what_is_no_server_is_refused_by_name(told: dict, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        read(WatchedServer, told)
    assert refused.value.field == field


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the test says: a function of the request."""

    do: Callable[[Handler], None]

    def do_GET(self) -> None:
        type(self).do(self)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def triton() -> Iterator[tuple[type[Handler], Endpoint]]:
    """A server and where it listens; it tells Triton's metrics until the test says otherwise."""

    def metrics(request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(METRICS.format(tokens=7, few=1, all=4).encode())

    kind = type("One", (Handler,), {"do": metrics})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    port = server.server_address[1]
    yield kind, Endpoint(http_port=port, grpc_port=1, metrics_port=port, model="")
    server.shutdown()
    server.server_close()


def server_at(endpoint: Endpoint) -> WatchedServer:
    port = endpoint.http_port
    return WatchedServer(name="next door", http_port=port, metrics_port=port)


def test_a_watched_server_is_sampled_beside_our_own(triton, control: StillControl, monkeypatch) -> None:  # noqa: F811
    monkeypatch.setattr(monitor, "look", partial(look, timeout_s=30))
    added = control.add_watched(server_at(triton[1]))
    sampler = Sampler(list, lambda _run: pytest.fail("not ours"), control.watched)
    (other,) = sampler.sample().others
    assert (other.run, other.name, other.ready, other.requests, other.tokens) == (added.id, "next door", True, 3, 7)
    control.remove_watched(added.id)
    assert sampler.sample().others == ()
    sampler.stop()


def test_a_redirect_is_not_followed(triton) -> None:
    kind, endpoint = triton
    asked: list[str] = []

    def elsewhere(request: Handler) -> None:
        asked.append(request.path)
        request.send_response(302)
        request.send_header("location", "/secret")
        request.end_headers()

    kind.do = elsewhere
    assert not look(httpx.Client(trust_env=False), endpoint).ready
    assert "/secret" not in asked


def test_an_answer_without_end_is_left(triton, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, endpoint = triton
    monkeypatch.setattr(probe, "METRICS_LIMIT", 100_000)

    def endless(request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                request.wfile.write(b"x" * 10_000)
        except OSError:
            return

    kind.do = endless
    assert not look(httpx.Client(trust_env=False), endpoint, timeout_s=20).ready


@pytest.mark.parametrize("body", [b"\xff\xfe\x00", b"<html>", b'a{le="x"} 1\n# TYPE a histogram\na_bucket{} 1\n'])
def test_what_is_no_triton_is_not_ready(triton, body: bytes) -> None:
    def other(request: Handler) -> None:
        request.send_response(404)
        request.end_headers()
        request.wfile.write(body)

    triton[0].do = other
    assert not look(httpx.Client(trust_env=False), triton[1]).ready


def test_a_value_that_is_no_number_is_left_out(triton) -> None:
    def nan(request: Handler) -> None:
        request.send_response(200)
        request.end_headers()
        request.wfile.write(b'# TYPE s summary\ns{quantile="0.5"} NaN\nnv_inference_request_success 3\n')

    triton[0].do = nan
    seen = look(httpx.Client(trust_env=False), triton[1], timeout_s=30)
    assert (seen.ready, seen.values) == (True, {"nv_inference_request_success": 3.0})


def test_the_address_is_kept_and_not_the_name_asked_again(control, store: Store) -> None:  # noqa: F811
    added = control.add_watched(WatchedServer(name="v6", host="::1"))
    assert added.endpoint.http == "http://[::1]:8000"
    assert control.watched() == (added,)
    assert isinstance(added, Watched)
    with pytest.raises(BadInput):
        control.add_watched(WatchedServer(name="x", host="10.1.2.3"))
    with pytest.raises(NotFound):
        control.remove_watched("nothing")
    assert len(store.watched()) == 1
