"""From a click in the wizard to an answer in the chat: FasterTransformer's guides, on a real Docker engine.

The panel, its control, Docker, Triton and the browser are real. The machine is a stand-in: `detect` tells of two cards
that are not here, so the plans' containers are made without them. NVIDIA's images and the upstream repositories are
stood for as in test_fastertransformer.py; a person names them in the wizard's own fields.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import docker
import pytest
from playwright.sync_api import expect

from app.__main__ import Targets
from app.control import Control
from app.settings import settings
from backends.runs import Run
from storage.store import Store
from tests.conftest import until
from tests.live.browser import Visitor, panel_of
from tests.live.clicks import OnStandInCards, answered, chat_opened, model_named, option, streamed
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import MAKERS, bases, upstream  # noqa: F401  fixtures
from tests.upstream import GERMAN, SENTENCE

pytestmark = pytest.mark.live
WATCHED = """() => {
  const seen = window.seen = { now: [], logs: {}, shares: [] };
  const look = () => {
    const now = document.querySelector("#sw-launch li.now [data-log-step]")?.dataset.logStep;
    const share = document.querySelector("#sw-launch .progress")?.getAttribute("aria-valuenow");
    const rows = document.querySelector("[data-log-rows]");
    if (now && !seen.now.includes(now)) seen.now.push(now);
    if (share && seen.shares.at(-1) !== Number(share)) seen.shares.push(Number(share));
    if (now && document.querySelector("#sw-launch li.now.shown")) seen.logs[now] = rows.textContent;
  };
  new MutationObserver(look).observe(document.querySelector("#sw-launch"), { childList: true, subtree: true });
  look();
}"""


@dataclass(frozen=True)
class Guide:
    """A guide's recipe as a person clicks it together. `own` are fields of FasterTransformer's alone, `logs` words that
    the log of a step tells afterwards."""

    family: str
    profile: str
    question: str
    answer: str
    release: str = "23.04"
    template: str = "auto"
    gpus: tuple[int, ...] = ()
    own: dict[str, str] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)


GUIDES = {
    "001": Guide(
        "llama", "void-main", "Hello!", SENTENCE, template="raw", gpus=(0, 1),
        logs={"image": "[100%] Built target", "convert": "done layer 1", "serve": "Use DECOUPLED (streaming)"},
    ),
    "003-gptj": Guide(
        "gptj", "blog", "Hello, my name is", SENTENCE, "22.03", gpus=(0, 1), own={"autotune_batch": "8"},
        logs={"convert": "Saving layer 2 / 2", "library-build": "Built target gpt_gemm",
              "autotune": "gpt_gemm 8 1 32 2 32 256 48 1 2", "serve": "gemm_config.in: 11 entries"},
    ),
    "003-t5": Guide(
        "t5", "blog", "translate English to German: The house is wonderful.", GERMAN, "22.03",
        own={"tensor_parallel": "2"},
        logs={"convert": "to convert the model", "autotune": "t5_gemm 1 1 32", "serve": "gemm_config.in: 12 entries"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[OnStandInCards]:  # noqa: F811
    home = tmp_path_factory.mktemp("clicks") / "home"
    for family, make in MAKERS.items():
        make(home / "models" / f"tiny-{family}")
    chosen = settings({"home": str(home)})
    control = OnStandInCards(chosen, Store(home), Targets(chosen))
    control.heard = []
    yield control
    for run in control.open_runs():
        control.stop(run.id)
    until(lambda: not control.open_runs(), 120)
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


def first_pages(visitor: Visitor, control: Control, name: str, guide: Guide, precision: str = "auto") -> Any:
    """From the first page to the engines, with the small model of the guide's family; returns the page."""
    return model_named(
        visitor,
        control,
        name,
        guide.template,
        f"tiny-{guide.family}",
        "For",  # LlamaForCausalLM and its neighbours
        precision=precision,
        gpus=guide.gpus,
        pickle=guide.family != "llama",
    )


def on_fastertransformer(page: Any, guide: Guide, base: str | None, own: dict[str, str]) -> None:
    """FasterTransformer chosen, with its own fields filled in; on to the review, which tells of them."""
    option(page, "choice", "fastertransformer").click()
    page.click('[data-own="fastertransformer"] summary')
    for name, value in {"profile": guide.profile, **guide.own, **own}.items():
        one = page.locator(f'[name="fastertransformer.{name}"]')
        if one.evaluate("one => one.tagName") == "SELECT":
            one.select_option(value)
        else:
            one.fill(value)
    if base is not None:
        page.fill('[name="image"]', base)
        expect(option(page, "choice", "fastertransformer").locator(".tag")).to_contain_text(base)
    page.click("text=Continue to review")
    for value in own.values():
        expect(page.locator("#pane-commands")).to_contain_text(value)


def followed(page: Any, control: Control, name: str, logs: dict[str, str]) -> Run:
    """From the review to a running server: its steps and their logs are seen on the way, and read again afterwards."""
    page.click("#sw-review [type=submit]")
    page.wait_for_url(re.compile(f"run={name}-"))
    page.evaluate(WATCHED)
    expect(page.locator("#sw-launch h1")).to_have_text(f"{name} is running", timeout=600_000)
    expect(page.locator("#sw-launch [role=alert]")).to_have_count(0)
    expect(page.locator(".stages li:not(.done)")).to_have_count(0)
    seen = page.evaluate("window.seen")
    assert len(seen["now"]) >= 3 and "serve" in seen["now"], seen
    assert len(seen["shares"]) >= 3 and seen["shares"] == sorted(seen["shares"]), seen
    assert seen["logs"]["serve"], "the server's log is there while it starts"
    for step, words in logs.items():
        page.click(f'[data-log-step="{step}"]')
        page.fill("[data-log-search]", words)
        expect(page.locator("[data-log-found]")).to_have_text(re.compile(r"\d"))
        page.press("[data-log-search]", "Enter")  # of a long log only the part around it is in the page
        expect(page.locator("[data-log-rows]")).to_contain_text(words)
    return control.run(str(re.search(r"run=([\w-]+)", page.url)[1]))


@pytest.mark.parametrize("name", GUIDES)
def test_a_guide_goes_from_click_to_chat(
    visitor: Visitor,
    control: OnStandInCards,
    upstream: dict[str, str],  # noqa: F811
    bases: dict[str, str],  # noqa: F811
    name: str,
) -> None:
    guide = GUIDES[name]
    library = "llama_library" if guide.family == "llama" else "blog_library"
    own = {"backend_repository": upstream["blog" if guide.profile == "blog" else "backend"],
           "library_repository": upstream[library]}  # fmt: skip
    page = first_pages(visitor, control, f"by-{name}", guide)
    on_fastertransformer(page, guide, bases[guide.release], own)
    run = followed(page, control, f"by-{name}", guide.logs)
    assert "/2-gpu" in " ".join(run.plan.step("weights-check").argv), "the weights are split over two GPUs"
    chat_opened(page, run.id)
    assert answered(visitor, control, guide.question) == guide.answer
    assert (len(control.heard) > 1) is (guide.family == "llama"), "the others answer in one piece"
    assert not visitor.faults
    control.stop(run.id)


def test_atom_goes_from_click_to_chat_and_then_on_the_parts_that_are_there(
    browser: Any,
    panel: str,
    visitor: Visitor,
    control: OnStandInCards,
    upstream: dict[str, str],  # noqa: F811
    image: str,  # noqa: F811
) -> None:
    atom = Guide("llama", "rayrtfr", "Who are you?", SENTENCE, template="atom")
    own = {"backend_repository": upstream["backend"], "library_repository": upstream["llama_library"]}
    page = first_pages(visitor, control, "atom", atom)
    page.fill('[name="image"]', "slipway.test/no such image")
    expect(page.locator('[data-field="image"] .err')).to_contain_text("not an image's name")
    page.fill('[name="image"]', "slipway.test/atom:mine")
    for engine_way in ("fastertransformer", "vllm"):
        expect(option(page, "choice", engine_way)).to_contain_text("Cannot be told yet")
    page.fill('[name="image"]', image)
    expect(option(page, "choice", "fastertransformer").locator("input")).to_be_enabled()
    on_fastertransformer(page, atom, image, own)
    run = followed(page, control, "atom", {"convert": "done layer 1"})
    chat_opened(page, run.id)
    assert streamed(visitor, control, atom.question) == SENTENCE
    control.stop(run.id)

    home = control.settings.home
    tuned = home / "models" / "gemm_config.in"
    tuned.write_text("batch_size, seq_len ### n, m, k, algoId\n1 32 ### 1 2 3 100\n", encoding="utf-8")
    parts = {
        "prebuilt_image": run.plan.step("image").tag,
        "backend_checkout": str(next(home.glob("sources/*backend*"))),
        "converted": str(next(home.glob("converted/*rayrtfr*/1-gpu"))),
        "gemm_config": str(tuned),
    }
    visitor.context.close()
    visitor = Visitor(browser, panel)
    page = first_pages(visitor, control, "parts", atom, "int8")
    on_fastertransformer(page, atom, None, parts)
    run = followed(page, control, "parts", {"serve": "gemm_config.in: 1 entries"})
    assert not {"base-image", "converter-source", "convert", "autotune"} & {step.id for step in run.plan.steps}
    config = (home / "runs" / run.id / "repository" / "fastertransformer" / "config.pbtxt").read_text()
    assert re.search(r'"int8_mode"\s*value\s*\{\s*string_value: "1"', config)
    chat_opened(page, run.id)
    assert streamed(visitor, control, atom.question) == SENTENCE
    assert not visitor.faults
    control.stop(run.id)
    visitor.context.close()
