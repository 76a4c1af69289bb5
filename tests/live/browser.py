"""A real Chromium for the page's tests, and a panel in this process for those that need no Triton."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Error
from playwright.sync_api import TimeoutError as TooLate

from app.control import Control
from app.web import web
from tests.conftest import until

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
PATIENCE_MS = 60_000  # how long a slow machine may take, not what is claimed


@contextmanager
def opened(chromium: str) -> Iterator[Any]:
    """One Chromium. While it is open an event loop runs, and no other may in this thread."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))
        yield browser
        browser.close()


def close_all(browser: Any) -> None:
    """Closes every window: a page whose panel has gone looks for it for ever, beside the next tests."""
    for context in browser.contexts:
        context.close()


@contextmanager
def panel_of(control: Control) -> Iterator[str]:
    """The panel over `control`, served from a thread of this process."""
    app = web(control, control.settings, None)
    config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
        thread.start()
        until(lambda: server.started, 60, "the panel")
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        finally:
            server.should_exit = True
            app.state.live.close()
            thread.join(10)


STATE = """async () => ({
  frame: await Promise.race([new Promise((on) => requestAnimationFrame(() => on(true))),
                             new Promise((on) => setTimeout(() => on(false), 2000))]),
  document: document.readyState, visible: document.visibilityState, slipway: typeof window.slipway,
  parts: document.querySelectorAll("[data-slot]").length, text: document.body.innerText.slice(0, 200),
  asked: performance.getEntriesByType("resource").slice(-12)
    .map((one) => [one.name.slice(-60), Math.round(one.duration)]),
})"""


# Gradio tells of its own connection that a reload cut; and a container that starts on this machine changes its network,
# whereupon Chromium drops what it was about to fetch, a module or a style sheet, and the page loads itself again.
DROPPED = ("net::ERR_NETWORK_CHANGED", "dynamically imported module", "Unable to preload CSS")
NOT_OURS = ("AbortError", "Connection errored out", *DROPPED)


class Visitor:
    """One person at one browser window; keeps what went wrong there."""

    def __init__(self, browser: Any, address: str, **settings: Any) -> None:
        settings = {"viewport": {"width": 1440, "height": 900}, "locale": "en-US", **settings}
        self.context = browser.new_context(**settings)
        self.context.set_default_timeout(PATIENCE_MS)
        self.page = self.context.new_page()
        self.address = address
        self.faults: list[str] = []
        self.abroad: list[str] = []
        self.page.on("pageerror", lambda error: self._hear(str(error)))
        self.page.on("console", lambda said: self._hear(said.text) if said.type == "error" else None)
        self.page.on("request", lambda asked: self._note(asked.url))

    def _hear(self, said: str) -> None:
        if not any(words in said for words in NOT_OURS):
            self.faults.append(said)

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, "data:", "blob:")):
            self.abroad.append(url)

    def opens(self, path: str = "/") -> Any:
        """Opens the page and waits until it is ready."""
        return self._gets(lambda: self.page.goto(self.address + path))

    def reloads(self) -> Any:
        """Reloads the page and waits until it is ready."""
        return self._gets(self.page.reload)

    def _gets(self, load: Callable[[], object]) -> Any:
        try:
            load()
        except Error as failed:
            if "ERR_NETWORK_CHANGED" not in failed.message:
                raise
            load()
        return self.ready()

    def ready(self) -> Any:
        """Waits until the page is whole."""
        try:
            self.page.wait_for_selector("html[data-ready]:not([data-half])")
        except TooLate:
            raise AssertionError(f"the page did not begin: {self.page.evaluate(STATE)} {self.faults}") from None
        return self.page

    def asks(self, question: str) -> str:
        """Asks in the chat and returns the whole answer."""
        rows = self.page.locator(".bot-row").count()
        self.page.fill("[data-chat-form] textarea", question)
        self.page.keyboard.press("Enter")
        answer = self.page.locator(".bot-row").nth(rows)
        try:
            answer.locator('[aria-label="Again"], [aria-label="重新生成"]').wait_for()
        except TooLate:
            shown = self.page.locator("[data-chat-panes]").inner_text()
            raise AssertionError(f"no whole answer: {shown!r} {self.page.evaluate(STATE)} {self.faults}") from None
        return str(answer.locator(".words").inner_text())


RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21aa"], "resultTypes": ["violations"]}
AT_REST = """async () => {
  const moving = () => document.querySelector(".is-busy") ||
    document.getAnimations().some((one) => one.playState === "running" && one.effect.getComputedTiming().endTime < 1e6);
  for (const end = performance.now() + 10_000; moving() && performance.now() < end;)
    await new Promise((on) => setTimeout(on, 20));
}"""


def serious(page: Any) -> list[tuple[str, list[str]]]:
    """What axe finds that keeps somebody out, once no button waits for its answer and every colour has faded in."""
    page.evaluate(AT_REST)
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE_SCRIPT)
    found = page.evaluate("async (rules) => (await axe.run(rules)).violations", RULES)
    return [
        (one["id"], [node["html"] for node in one["nodes"]])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
