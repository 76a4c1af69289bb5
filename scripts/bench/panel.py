"""The panel itself: start to first page, memory and work while nothing happens."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from scripts.bench import Figure
from scripts.bench.engine_server import free_ports

IDLE_S = 20.0


def figures() -> Iterator[Figure]:
    """Starts a panel over an empty data folder, measures, and stops it."""
    with tempfile.TemporaryDirectory() as home:
        begun = time.perf_counter()
        with panel_over(home) as (panel, _):
            yield Figure("panel.start_to_first_page", time.perf_counter() - begun, " s", most=3.0)
            process = psutil.Process(panel.pid)
            time.sleep(5)
            before = process.cpu_times()
            time.sleep(IDLE_S)
            after = process.cpu_times()
            worked = after.user + after.system - before.user - before.system
            yield Figure("panel.idle_cpu", 100 * worked / IDLE_S, " %", most=2.0)
            yield Figure("panel.idle_rss", process.memory_info().rss / 2**20, " MiB")


@contextmanager
def panel_over(home: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A panel over that data folder, once it answers, and its address; stopped with the block."""
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"
    panel = subprocess.Popen(
        (sys.executable, "-m", "app", "--home", home, "panel", "--port", str(port)),
        env=os.environ | {"SLIPWAY_NO_BROWSER": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while not _answers(f"{address}/"):
            if panel.poll() is not None:
                raise RuntimeError(f"the panel ended: {panel.returncode}")
            time.sleep(0.02)
        yield panel, address
    finally:
        panel.terminate()
        panel.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  our own panel: it listens, then answers
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
