"""The main job in a real browser on a real tritonserver: wizard, launch, chat, reload, Monitor, History."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from app.control import Control
from backends.runs import State
from backends.transformers import metrics
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.live.browser import Visitor
from tests.live.conftest import counted, gone

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def panel(live_home: Path, runtime_dir: Path) -> Iterator[str]:
    """The panel as a program of its own."""
    (port,) = free_ports(1)
    program = subprocess.Popen(
        (sys.executable, "-m", "app", "--home", str(live_home), "panel", "--port", str(port)), cwd=ROOT
    )
    address = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{address}/slipway/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            assert program.poll() is None, "the panel ended"
            return False

    until(answers, 90, "the panel")
    yield address
    program.terminate()
    program.wait(60)


def test_from_the_first_page_to_an_answer(browser, panel: str, live_control: Control) -> None:
    visitor = Visitor(browser, panel)
    page = visitor.opens()
    if "run=" in page.evaluate("location.search"):  # another test's server is running and is shown first
        page.click("[data-do=new]")
    page.click("text=Continue to model")
    page.click("text=Advanced")
    page.fill('[name="name"]', "from-page")
    page.click("text=Continue to engine")
    page.click("text=Continue to review")
    page.click('[data-tab="script"]')
    expect(page.locator("#pane-script")).to_contain_text("#!/bin/sh")
    page.dblclick("#sw-review [type=submit]")

    page.wait_for_url(re.compile("run=from-page-"))
    run_id = re.search(r"run=([\w-]+)", page.url).group(1)
    visitor.reloads()
    expect(page.locator("#sw-launch h1")).to_contain_text("from-page")
    assert run_id in page.url
    expect(page.locator("#sw-launch h1")).to_contain_text("is running", timeout=180_000)
    assert [run.id for run in live_control.open_runs() if run.name == "from-page"] == [run_id]
    expect(page.locator(".answer")).to_contain_text("Slipway")
    figures = page.locator("[data-memory] dd").all_inner_texts()  # forecast, measured, how far they are apart
    assert all(re.match(r"\d[\d.]* [MG]iB", figure) for figure in figures[:2]) and figures[2].endswith("%"), figures
    page.click('[data-log-step="serve"]')
    expect(page.locator("[data-log-rows]")).to_contain_text("Started")

    page.click("text=Open chat")
    page.select_option("[data-chat-server]", run_id)
    assert "Triton" in visitor.asks("What is Slipway?")
    figures = page.locator(".bot-row .ans").last.inner_text()
    assert re.search(r"TTFT [\d.]+ m?s", figures)
    assert re.search(r"[\d.]+ tok/s", figures)
    page.click("text=New chat")
    assert re.search("[\u4e00-\u9fff]", visitor.asks("什么是 Slipway？"))
    visitor.reloads()
    expect(page.locator(".bot-row")).to_have_count(1)

    page.get_by_role("tab", name="Monitor").click()
    card = page.locator(f'[data-server="{run_id}"]')
    expect(card).to_contain_text("Running")
    expect(card.locator("dd").nth(2)).to_have_text(re.compile(r"^[3-9]"))
    expect(page.locator('[data-plot="host"] polyline').first).to_be_visible()

    page.get_by_role("tab", name="History").click()
    page.click(f'[data-history-open="{run_id}"]')
    expect(page.locator(".drawer .stages li.done")).to_have_count(len(live_control.run(run_id).plan.steps))
    page.keyboard.press("Escape")
    expect(page.locator(".drawer")).to_have_count(0)

    visitor.opens(f"/?run={run_id}")
    page.click('#sw-launch [data-do="stop"]')
    page.click("dialog >> text=Stop server")
    expect(page.locator("#sw-launch h1")).to_contain_text("is stopped", timeout=60_000)
    assert live_control.run(run_id).state is State.STOPPED

    page.get_by_role("tab", name="History").click()
    page.click(f'[data-history-open="{run_id}"]')
    page.click(".drawer >> text=Change and launch")
    expect(page.locator("#sw-model h1")).to_be_visible()
    expect(page.locator('#sw-model [name="name"]')).to_have_value("from-page")
    page.get_by_role("tab", name="History").click()
    page.click(f'[data-history-open="{run_id}"]')
    page.click(".drawer >> text=Launch again")
    page.wait_for_url(lambda url: "run=from-page-" in url and run_id not in url)
    again = re.search(r"run=([\w-]+)", page.url).group(1)
    expect(page.locator("#sw-launch h1")).to_contain_text("is running", timeout=180_000)
    gone(live_control, live_control.run(again))
    assert not visitor.faults
    assert not visitor.abroad
    gone(live_control, live_control.run(run_id))


def test_stop_ends_an_answer_on_the_server(browser, panel: str, live_control: Control, served) -> None:
    before = counted(served)
    visitor = Visitor(browser, panel)
    page = visitor.opens("/?tab=chat")
    page.select_option("[data-chat-server]", served.id)
    page.locator("[data-chat-parameters] summary").click()
    asked = 1000  # so long the answer that this seed draws would be: for seconds
    for name, value in {"max_tokens": asked, "temperature": 5, "seed": 1}.items():
        page.fill(f'[data-sampling="{name}"]', str(value))
    page.fill("[data-chat-form] textarea", "Tell me everything.")
    page.keyboard.press("Enter")
    expect(page.locator(".bot-row .words")).not_to_be_empty()
    page.click("[data-chat-stop]")
    expect(page.locator("[data-chat-stop]")).to_be_hidden()
    expect(page.locator(".bot-row .ans")).to_contain_text("Stopped by you")
    until(lambda: counted(served)[metrics.CANCELLED] > before[metrics.CANCELLED], 30, "the server to cancel")
    made = until(lambda: (now := counted(served))[metrics.ACTIVE] == 0 and now, 30, "the server to be idle")
    assert made[metrics.TOKENS] - before[metrics.TOKENS] < asked
    kept = live_control.conversations("Tell me everything.")[0]
    until(lambda: _stopped(live_control, kept.id), 30, "what had come is kept, marked as stopped")
    live_control.delete_conversation(kept.id)


def _stopped(control: Control, conversation: str) -> str | None:
    """The words of a stopped answer."""
    last = control.conversation(conversation).thread()[-1]
    return last.content if last.figures.get("state") == "stopped" else None


def test_a_panel_that_is_killed_is_found_again_by_its_page(browser, live_home, runtime_dir, served) -> None:
    (port,) = free_ports(1)
    address = f"http://127.0.0.1:{port}"

    def start() -> subprocess.Popen:
        program = subprocess.Popen(
            (sys.executable, "-m", "app", "--home", str(live_home), "panel", "--port", str(port)), cwd=ROOT
        )
        until(lambda: _up(address), 90, "the panel")
        return program

    program = start()
    visitor = Visitor(browser, address)
    page = visitor.opens(f"/?run={served.id}")
    expect(page.locator("#sw-launch h1")).to_contain_text("is running")
    program.kill()
    program.wait(10)
    expect(page.locator(".lost")).to_be_visible()
    program = start()
    expect(page.locator(".lost")).to_have_count(0)
    expect(page.locator("#sw-launch h1")).to_contain_text("is running")
    page.click("text=Open chat")
    page.select_option("[data-chat-server]", served.id)
    assert "Slipway" in visitor.asks("What is Slipway?")
    program.terminate()
    program.wait(60)


def _up(address: str) -> bool:
    try:
        return httpx.get(f"{address}/slipway/health", trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
