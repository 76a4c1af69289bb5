"""The live log: 50,000 lines at 5,000 a second into a real browser, a million through the panel's stream."""

from __future__ import annotations

import http.client
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from playwright.sync_api import sync_playwright

from app.__main__ import control as make_control
from app.control import DEMO
from app.jobs import RunFolder, hold
from backends.events import Event, Kind
from backends.runs import State
from scripts.bench import Figure
from scripts.bench.panel import panel_over

LINES, RATE = 50_000, 5_000
MILLION = 1_000_000
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
_GAPS = """() => { window.gaps = []; let last = performance.now();
  const beat = () => { const now = performance.now(); window.gaps.push(now - last); last = now;
    requestAnimationFrame(beat); };
  requestAnimationFrame(beat); }"""
_SHOWN = """(wanted) => document.querySelector("[data-log-lines]")?.textContent.startsWith(wanted)"""


def figures() -> Iterator[Figure]:
    """Starts a panel over a data folder with one run that stands still, and writes its log."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise RuntimeError("missing: chromium (apt install chromium)")
    with tempfile.TemporaryDirectory() as home:
        control = make_control({"home": home})
        plan = control.plan(DEMO)
        step = plan.steps[0].id
        folder = RunFolder(Path(home), "bench")
        folder.make()
        held = hold(folder.lock)  # so that the panel takes it for a run with a worker
        control._store.begin("bench", plan)
        control._store.move("bench", State.RUNNING)
        control._store.append("bench", [Event(step=step, kind=Kind.STARTED)])
        try:
            with panel_over(home) as (panel, address):
                yield from _in_the_browser(chromium, f"{address}/?run=bench", folder.log(step))
                yield from _through_the_stream(psutil.Process(panel.pid), address, step, folder.log(step))
        finally:
            if held is not None:
                held.close()


def _in_the_browser(chromium: str, url: str, log: Path) -> Iterator[Figure]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page(locale="en-US")
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        page.wait_for_timeout(1000)
        page.evaluate(_GAPS)
        begun = time.perf_counter()
        writer = threading.Thread(target=_paced, args=(log,))
        writer.start()
        page.wait_for_function(_SHOWN, arg=f"{LINES:,} lines", timeout=60_000)
        seconds = time.perf_counter() - begun
        writer.join()
        yield Figure("log.lines_to_the_page", LINES / seconds, " lines/s", least=0.95 * RATE)
        yield Figure("log.greatest_gap", max(page.evaluate("window.gaps")), " ms", most=100.0)
        browser.close()


def _paced(log: Path) -> None:
    """LINES lines at RATE a second."""
    begun, batch = time.monotonic(), 250
    for start in range(0, LINES, batch):
        with log.open("a") as file:
            file.writelines(
                f"I1121 11:48:00.000117 1 x.cc:{n}] line {n} {'.' * 60}\n" for n in range(start, start + batch)
            )
        time.sleep(max(0.0, begun + (start + batch) / RATE - time.monotonic()))


def _through_the_stream(panel: psutil.Process, address: str, step: str, log: Path) -> Iterator[Figure]:
    """A million lines more, followed by one viewer as they come."""
    before = most = panel.memory_info().rss
    cursor = log.stat().st_size
    writer = threading.Thread(target=_million, args=(log,))
    connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=60)
    connection.request("GET", f"/slipway/stream?run=bench&step={step}&from={cursor}")
    answer, count, begun = connection.getresponse(), 0, time.perf_counter()
    writer.start()
    while count < MILLION:
        told = answer.readline()
        if not told:
            raise RuntimeError("the stream ended")
        if told.startswith(b"data:"):
            count += told.count(b"a line of the million ")
            most = max(most, panel.memory_info().rss)
    seconds = time.perf_counter() - begun
    writer.join()
    connection.close()
    yield Figure("log.million_lines", MILLION / seconds, " lines/s", least=50_000)
    yield Figure("log.panel_memory_growth", (most - before) / 2**20, " MiB", most=64.0)


def _million(log: Path) -> None:
    for start in range(0, MILLION, 10_000):
        with log.open("a") as file:
            file.writelines(f"a line of the million {n} {'.' * 60}\n" for n in range(start, start + 10_000))
