"""What tests that click through the wizard share: a panel on cards that are not here, and its stages driven.

`python -m tests.live.clicks` is `slipway` on such a machine: a panel that a test can kill.
"""

from __future__ import annotations

import re
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from typing import Any

from playwright.sync_api import expect

from app import cli
from app.control import Control
from app.settings import Settings, settings
from app.targets import Targets
from backends.spec import Chat, Hardware, Piece, Spec
from backends.steps import Plan
from backends.targets.base import Target
from storage.store import Store
from tests.guided_trtllm import machine
from tests.live.browser import Visitor
from tests.live.trtllm.parts import bare


class OnStandInCards(Control):
    """The control, on a machine that is said to have two RTX 3090; what it plans is carried out without them.

    `heard`: the pieces of text that servers answered with.
    """

    machine: Hardware = machine("NVIDIA GeForce RTX 3090", 86, 2, driver="590.44.01")

    def __init__(self, settings: Settings, store: Store, targets: Mapping[str, Target]) -> None:
        super().__init__(settings, store, targets)
        self.heard: list[str] = []

    def detect(self, refresh: bool = False) -> Hardware:
        return self.machine

    def plan(self, spec: Spec, hardware: Hardware | None = None) -> Plan:
        return bare(super().plan(spec, hardware), self.machine)

    async def chat(self, run_id: str, chat: Chat) -> AsyncIterator[Piece]:
        async with aclosing(super().chat(run_id, chat)) as pieces:
            async for piece in pieces:
                if piece.text:
                    self.heard.append(piece.text)
                yield piece


def option(page: Any, name: str, value: str) -> Any:
    """The label of one of several choices: its radio button itself is hidden."""
    return page.locator("label", has=page.locator(f'[name="{name}"][value="{value}"]'))


def model_named(
    visitor: Visitor, control: Control, name: str, template: str, model: str = "tiny-llama",
    architecture: str = "LlamaForCausalLM", trust: bool = False, pickle: bool = False, precision: str = "auto",
    gpus: tuple[int, ...] = (), **limits: int,
) -> Any:  # fmt: skip
    """From the first page to the engines, with a model of the data folder; returns the page."""
    page = visitor.opens()
    if "run=" in page.evaluate("location.search"):  # another run is shown first
        page.click("[data-do=new]")
    expect(page.locator("#sw-detect")).to_contain_text("RTX 3090")
    page.click("text=Continue to model")
    option(page, "model.kind", "folder").click()
    page.fill('[name="model.id"]', str(control.settings.home / "models" / model))
    expect(page.locator('[data-slot="facts"]')).to_contain_text(architecture)
    option(page, "precision", precision).click()
    if gpus:
        option(page, "device", "gpus").click()
    for index in gpus:
        option(page, "gpus", str(index)).click()
    for field, number in limits.items():
        page.fill(f'[name="limits.{field}"]', str(number))
    page.click("text=Advanced")
    page.fill('[name="name"]', name)
    option(page, "template", template).click()
    if trust:
        option(page, "trust_remote_code", "true").click()
    if pickle:
        option(page, "allow_pickle", "true").click()
    page.click("text=Continue to engine")
    page.click("text=Image, ports and network")
    return page


def launching(page: Any, name: str) -> str:
    """From the review to a launch whose steps are shown; returns the run's id."""
    page.click("#sw-review [type=submit]")
    page.wait_for_url(re.compile(f"run={name}-"))
    expect(page.locator("#sw-launch h1")).to_have_text(f"Launching {name}")
    expect(page.locator(".stages li.now, .stages li.done").first).to_be_visible()
    return str(re.search(r"run=([\w-]+)", page.url)[1])


def chat_opened(page: Any, run_id: str) -> None:
    """From a running server to a new conversation with it."""
    page.click("text=Open chat")
    expect(page.locator("[data-chat-server]")).to_have_value(run_id)
    page.click("text=New chat")
    expect(page.locator(".bot-row")).to_have_count(0)


def answered(visitor: Visitor, control: OnStandInCards, question: str) -> str:
    """What the chat shows as the answer, which is what came from the server."""
    control.heard.clear()
    shown = visitor.asks(question).strip()
    assert "".join(control.heard).strip() == shown
    return shown


def streamed(visitor: Visitor, control: OnStandInCards, question: str) -> str:
    """What the chat shows as the answer, which came in more than one piece."""
    shown = answered(visitor, control, question)
    assert len(control.heard) > 1
    return shown


def on_stand_in_cards(flags: Mapping[str, object]) -> OnStandInCards:
    """A control over the data folder that the flags name."""
    chosen = settings(flags)
    return OnStandInCards(chosen, Store(chosen.home), Targets(chosen))


if __name__ == "__main__":
    sys.exit(cli.main(sys.argv[1:], on_stand_in_cards))
