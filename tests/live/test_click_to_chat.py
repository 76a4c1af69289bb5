"""From a click in the wizard to an answer in the chat: FasterTransformer, then vLLM, on a real Docker engine.

The panel, its control, Docker, Triton and the browser are real. The machine is a stand-in: `detect` tells of two cards
that are not here, so the plans' containers are made without them. NVIDIA's images and the upstream repositories are
stood for as in test_fastertransformer.py and trtllm/parts.py; a person names them in the wizard's own fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import docker
import pytest
from playwright.sync_api import expect

from app.__main__ import Targets
from app.control import Control
from app.settings import settings
from storage.store import Store
from tests.conftest import until
from tests.live.browser import Visitor, panel_of
from tests.live.clicks import OnStandInCards, launched, model_named, option, streamed
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import upstream  # noqa: F401  fixture
from tests.live.trtllm.conftest import images  # noqa: F401  fixture
from tests.live.trtllm.parts import VLLM
from tests.upstream import SENTENCE, tiny_llama

pytestmark = pytest.mark.live


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
