"""Photographs every page of a running panel into assets/screenshots: both widths, both themes, both languages.

    python -m scripts.screenshots http://127.0.0.1:7860 [FOLDER]

The panel must be serving the demo (`make run`). Each picture is named page-width-theme-language.png.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

FOLDER = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
SIZES = {"1440": {"width": 1440, "height": 900}, "390": {"width": 390, "height": 844}}
LANGUAGES = {"en": "en-US", "zh": "zh-CN"}
QUESTION = {"en": "What is Slipway?", "zh": "什么是 Slipway？"}


def main(argv: Sequence[str]) -> int:
    """Takes the pictures and prints their names."""
    address, folder = argv[0], Path(argv[1]) if len(argv) > 1 else FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        for (width, size), theme, (language, locale) in product(SIZES.items(), ("light", "dark"), LANGUAGES.items()):
            context = browser.new_context(viewport=size, color_scheme=theme, locale=locale, reduced_motion="reduce")
            page = context.new_page()
            for name, shown in _pages(page, address, QUESTION[language]):
                shown()
                page.wait_for_timeout(700)  # charts and fonts settle; nothing is asserted here
                picture = folder / f"{name}-{width}-{theme}-{language}.png"
                page.screenshot(path=picture)
                print(picture.name, flush=True)
            context.close()
        browser.close()
    return 0


def _pages(page: Any, address: str, question: str) -> list[tuple[str, Callable[[], None]]]:
    def opens(path: str) -> None:
        page.goto(address + path)
        page.wait_for_selector("html[data-ready]")

    def launch() -> None:
        opens("/")
        page.locator("#sw-launch [data-do=new]").wait_for()  # the running demo is shown first

    def wizard() -> None:
        page.click("#sw-launch [data-do=new]")
        page.locator("#sw-detect").wait_for()

    def onward(place: str) -> Callable[[], None]:
        def go() -> None:
            page.locator(".btn.primary.lg:visible").click()
            page.locator(place).wait_for()

        return go

    def chat() -> None:
        opens("/?tab=chat")
        page.fill("[data-chat-form] textarea", question)
        page.keyboard.press("Enter")
        page.locator('.bot-row [aria-label="Again"], .bot-row [aria-label="重新生成"]').last.wait_for()

    def code() -> None:
        page.click("[data-chat-code]")
        page.locator(".code-drawer pre").first.wait_for()

    def keys() -> None:
        opens("/?tab=monitor")
        page.click('[data-do="keys"]')
        page.locator(".drawer").first.wait_for()

    return [
        ("launch", launch),
        ("detect", wizard),
        ("model", onward("#sw-model")),
        ("engine", onward("#sw-engine")),
        ("review", onward("#sw-review")),
        ("chat", chat),
        ("code", code),
        ("monitor", lambda: opens("/?tab=monitor")),
        ("keys", keys),
        ("history", lambda: opens("/?tab=history")),
    ]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
