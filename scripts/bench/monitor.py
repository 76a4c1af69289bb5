"""The Monitor with twenty pages open beside one: what the panel's process works, in alternation."""

from __future__ import annotations

import http.server
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from app.__main__ import control as make_control
from backends.transformers import metrics
from backends.watched import WatchedServer
from scripts.bench import Figure
from scripts.bench.panel import panel_over

SERVERS = 5
PAGES = 20
ROUNDS = 3
SETTLE_S, LOOK_S = 2.0, 10.0


def figures() -> Iterator[Figure]:
    """Watches five stand-ins for Triton, opens the stream that a Monitor page opens, once and twenty times, in turn."""
    with tempfile.TemporaryDirectory() as home, _triton() as port:
        control = make_control({"home": home})
        for number in range(SERVERS):
            control.add_watched(WatchedServer(name=f"server-{number}", http_port=port, metrics_port=port))
        with panel_over(home) as (panel, address):
            process = psutil.Process(panel.pid)
            _look(process, address, 1)  # warm
            one, many = [], []
            for _ in range(ROUNDS):
                one.append(_look(process, address, 1))
                many.append(_look(process, address, PAGES))
    yield Figure("monitor.cpu_of_one_page", statistics.median(one), " %")
    yield Figure(f"monitor.cpu_of_{PAGES}_pages", statistics.median(many), " %")
    ratios = [more / less for less, more in zip(one, many, strict=True)]
    yield Figure(f"monitor.{PAGES}_pages_to_one", statistics.median(ratios), most=1.5)


def _look(process: psutil.Process, address: str, pages: int) -> float:
    """Percent of a core that the panel works with so many pages open. Each must be told each second."""
    told = [0] * pages
    end = threading.Event()
    threads = [threading.Thread(target=_page, args=(address, told, number, end)) for number in range(pages)]
    for thread in threads:
        thread.start()
    time.sleep(SETTLE_S)
    before, begun, seen = process.cpu_times(), time.monotonic(), list(told)
    time.sleep(LOOK_S)
    after, seconds = process.cpu_times(), time.monotonic() - begun
    fewest = min(now - then for now, then in zip(told, seen, strict=True))
    end.set()
    for thread in threads:
        thread.join(30)
    if fewest < 0.8 * seconds:
        raise RuntimeError(f"a page was told {fewest} times in {seconds:.0f} s")
    return 100 * (after.user + after.system - before.user - before.system) / seconds


def _page(address: str, told: list[int], number: int, end: threading.Event) -> None:
    with suppress(OSError), urllib.request.urlopen(f"{address}/slipway/stream?monitor=1&lang=en", timeout=20) as stream:  # noqa: S310  our own panel on loopback
        for line in stream:
            told[number] += line.startswith(b"event: monitor")
            if end.is_set():
                return


class _Triton(http.server.BaseHTTPRequestHandler):
    """Answers as a server under load does: ready, and metrics that grow."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        count = int(time.monotonic() * 100)
        names = (metrics.TOKENS, metrics.FINISHED, metrics.ACTIVE, metrics.QUEUED)
        lines = [f'{name.partition(":")[0]}{{outcome="{name.partition(":")[2]}"}} {count}' for name in names]
        for name in (metrics.FIRST_TOKEN_S, metrics.QUEUE_S, metrics.GAP_S):
            lines.append(f"# TYPE {name} histogram")
            lines += [f'{name}_bucket{{le="{bound}"}} {count}' for bound in ("0.01", "0.1", "1", "10", "+Inf")]
            lines += [f"{name}_sum {count / 10}", f"{name}_count {count}"]
        body = ("\n".join(lines) + "\n").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@contextmanager
def _triton() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Triton)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
