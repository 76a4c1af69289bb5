"""From a click in the wizard to an answer in the chat: FasterTransformer, then vLLM, on a real Docker engine.

The panel, its control, Docker, Triton and the browser are real. The machine is a stand-in: `detect` tells of two cards
that are not here, so the plans' containers are made without them. NVIDIA's images and the upstream repositories are
stood for as in test_fastertransformer.py and trtllm/parts.py; a person names them in the wizard's own fields.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import docker
import pytest
from playwright.sync_api import expect

from app.__main__ import Targets
from app.control import Control
from app.settings import settings
from backends.spec import Chat, Hardware, Piece, Spec
from backends.steps import Plan
from storage.store import Store
from tests.conftest import until
from tests.guided_trtllm import machine
from tests.live.browser import Visitor, panel_of
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import upstream  # noqa: F401  fixture
from tests.live.trtllm.conftest import images  # noqa: F401  fixture
from tests.live.trtllm.parts import VLLM, bare
from tests.upstream import SENTENCE, tiny_llama

pytestmark = pytest.mark.live


class OnStandInCards(Control):
    """The control, on a machine that is said to have two RTX 3090; what it plans is carried out without them.

    `heard`: the pieces of text that servers answered with.
    """

    machine: Hardware = machine("NVIDIA GeForce RTX 3090", 86, 2, driver="590.44.01")
    heard: list[str]

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


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[OnStandInCards]:  # noqa: F811
    home = tmp_path_factory.mktemp("clicks") / "home"
    tiny_llama(home / "models" / "tiny-llama")
    chosen = settings({"home": str(home)})
    control = OnStandInCards(chosen, Store(home), Targets(chosen))
    control.heard = []
    yield control
    for run in control.open_runs():
        control.stop(run.id)
    until(lambda: not control.open_runs(), 60)
    control.reclaim(control.reclaimable())


@pytest.fixture(scope="module")
def panel(control: Control) -> Iterator[str]:
    with panel_of(control) as address:
        yield address


@pytest.fixture
def visitor(browser: Any, panel: str) -> Iterator[Visitor]:
    one = Visitor(browser, panel)
    yield one
    one.context.close()


def option(page: Any, name: str, value: str) -> Any:
    """The label of one of several choices: its radio button itself is hidden."""
    return page.locator("label", has=page.locator(f'[name="{name}"][value="{value}"]'))


def model_named(visitor: Visitor, control: Control, name: str, template: str) -> Any:
    """From the first page to the engines, with the small LLaMA of the data folder; returns the page."""
    page = visitor.opens()
    if page.locator("[data-do=new]").is_visible():  # another run is shown first
        page.click("[data-do=new]")
    expect(page.locator("#sw-detect")).to_contain_text("RTX 3090")
    page.click("text=Continue to model")
    option(page, "model.kind", "folder").click()
    page.fill('[name="model.id"]', str(control.settings.home / "models" / "tiny-llama"))
    expect(page.locator('[data-slot="facts"]')).to_contain_text("LlamaForCausalLM")
    page.click("text=Advanced")
    page.fill('[name="name"]', name)
    option(page, "template", template).click()
    page.click("text=Continue to engine")
    page.click("text=Image, ports and network")
    return page


def launched(page: Any, name: str) -> str:
    """From the review to a running server, with its steps and its log on the way; returns the run's id."""
    page.click("#sw-review [type=submit]")
    page.wait_for_url(re.compile(f"run={name}-"))
    expect(page.locator("#sw-launch h1")).to_have_text(f"Launching {name}")
    expect(page.locator(".stages li.now, .stages li.done").first).to_be_visible()
    expect(page.locator("#sw-launch h1")).to_have_text(f"{name} is running", timeout=240_000)
    expect(page.locator("#sw-launch [role=alert]")).to_have_count(0)
    return str(re.search(r"run=([\w-]+)", page.url)[1])


def streamed(visitor: Visitor, control: OnStandInCards, question: str) -> str:
    """What the chat shows as the answer, which came in more than one piece."""
    control.heard.clear()
    shown = visitor.asks(question)
    assert len(control.heard) > 1 and "".join(control.heard) == shown
    return shown


def test_fastertransformer_goes_from_click_to_chat(
    visitor: Visitor,
    control: OnStandInCards,
    upstream: dict[str, str],  # noqa: F811
    image: str,  # noqa: F811
) -> None:
    page = model_named(visitor, control, "by-ft", "atom")
    option(page, "choice", "fastertransformer").click()
    page.click('[data-own="fastertransformer"] summary')
    page.select_option('[name="fastertransformer.profile"]', "void-main")
    page.fill('[name="fastertransformer.tensor_parallel"]', "2")
    page.fill('[name="fastertransformer.backend_repository"]', upstream["backend"])
    page.fill('[name="fastertransformer.library_repository"]', upstream["llama_library"])
    page.fill('[name="image"]', "slipway.test/no such image")
    expect(page.locator('[data-field="image"] .err')).to_contain_text("not an image's name")
    page.fill('[name="image"]', image)
    expect(page.locator('[data-field="image"] .err')).to_have_count(0)
    expect(option(page, "choice", "fastertransformer").locator(".tag")).to_contain_text(image)
    page.click("text=Continue to review")
    expect(page.locator("#pane-commands")).to_contain_text(upstream["backend"])
    run = control.run(launched(page, "by-ft"))
    assert (run.spec.image, run.spec.template, run.spec.fastertransformer.tensor_parallel) == (image, "atom", 2)
    page.click('[data-log-step="convert"]')
    expect(page.locator("[data-log-rows]")).to_contain_text("done layer 1")
    page.click("text=Open chat")
    assert streamed(visitor, control, "Who are you?") == SENTENCE
    assert not visitor.faults


def test_vllm_goes_from_click_to_chat(
    visitor: Visitor,
    control: OnStandInCards,
    images: None,  # noqa: F811
) -> None:
    page = model_named(visitor, control, "by-vllm", "raw")
    page.fill('[name="image"]', VLLM)
    card = option(page, "choice", "vllm")
    expect(card.locator("input")).to_be_enabled()
    card.click()
    page.click("text=Continue to review")
    launched(page, "by-vllm")
    page.click('[data-log-step="serve"]')
    expect(page.locator("[data-log-rows]")).to_contain_text("Started HTTPService")
    page.click("text=Open chat")
    assert streamed(visitor, control, SENTENCE) == SENTENCE
    assert not visitor.faults
