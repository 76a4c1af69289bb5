"""Each recipe of TensorRT-LLM, and vLLM, as a person goes through it in the page, all five at once.

Launched by clicks; each fails at its work, is retried, cancelled there and started again; then the panel and every
worker are killed in the middle of it, a new panel finds all of them, and each one answers in the Chat page.
What was seen on the way is kept, so that each test says one thing of it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import httpx
from playwright.sync_api import expect

from app.control import Control
from backends.runs import Run, Standing
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.live.browser import Visitor, opened
from tests.live.clicks import chat_opened, launching, model_named, option
from tests.live.trtllm.parts import MIDDLE, NEWEST, OLD, VLLM
from tests.test_jobs import worker_now, worker_of

ROOT = Path(__file__).resolve().parents[3]
ASKED = "I am a ship on the slipway and wait for the tide, and the tide waits for me"
KNOWN = " ".join(["I am a ship on the slipway"] * 8)  # words of the tiny tokenizer; so many are seen to come
SYSTEM = "system You are a helpful assistant."
_PIECES = """() => {
  window.seen = new Set();
  const look = () => [...document.querySelectorAll(".bot-row .words")].slice(-1).forEach((one) => {
    if (one.innerText) window.seen.add(one.innerText);
  });
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


@dataclass(frozen=True)
class Recipe:
    """What a person chooses. `step` is where it is held and fails, `sign` what its log says there."""

    name: str
    card: str
    step: str
    sign: str
    fails: str  # what the page says of its failure
    own: Mapping[str, str]  # the engine's own settings
    image: str | None = None
    model: str = "tiny-llama"
    architecture: str = "LlamaForCausalLM"
    template: str = "raw"
    trust: bool = False
    asked: str = ASKED
    answer: str = ASKED


@dataclass
class Told:
    """What was seen of one recipe. `boxes`, `workers`: before and after the panel and all workers were killed."""

    recipe: Recipe
    run_id: str
    failed: Run | None = None
    alert: str = ""
    percent: int = 0
    left: list[str] | None = None  # containers after the cancel
    boxes: list[list[str]] = field(default_factory=list)
    workers: list[int] = field(default_factory=list)
    answer: str = ""
    pieces: list[str] = field(default_factory=list)


def recipes(upstream: Mapping[str, str]) -> tuple[Recipe, ...]:
    """The recipes, with the repositories that stand for upstream's."""
    old = {"backend_repository": upstream["backend-0.5.0"], "library_repository": upstream["library-0.5.0"]}
    built = "[TRT] [E] 4: [network.cpp"
    return (
        Recipe(
            "qwen", "trtllm_engine_0_5", "engine", "Build TensorRT engine", built,
            old | {"examples_repository": upstream["examples"], "image_from": "build", "quantisation": "smoothquant"},
            model="tiny-qwen", architecture="QWenLMHeadModel", template="auto", trust=True, asked="ship",
            answer=SYSTEM,
        ),
        Recipe(
            "llama", "trtllm_engine_0_5", "engine", "Build TensorRT engine", built, old, OLD, asked=KNOWN, answer=KNOWN,
        ),
        Recipe(
            "middle", "trtllm_engine", "convert", "0.12.0", built,
            {"backend_repository": upstream["backend-0.12.0"], "library_repository": upstream["library-0.12.0"]},
            MIDDLE,
        ),
        Recipe(
            "llmapi", "trtllm_llmapi", "serve", "Starting trtllm engine with args", "CUDA out of memory",
            {"library_repository": upstream["library-1.2.1"]}, NEWEST,
        ),
        Recipe("vllm", "vllm", "serve", "Initializing a V1 LLM engine", "holds no request of full length", {}, VLLM),
    )  # fmt: skip


class Panel:
    """A panel that is a program of its own, on cards that are not here."""

    def __init__(self, home: Path) -> None:
        self.home = home
        (self.port,) = free_ports(1)
        self.address = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        words = ("-m", "tests.live.clicks", "--home", str(self.home), "panel", "--port", str(self.port))
        self.program = subprocess.Popen((sys.executable, *words), cwd=ROOT)
        until(self._up, 90, "the panel")

    def _up(self) -> bool:
        assert self.program.poll() is None, "the panel ended"
        try:
            return httpx.get(f"{self.address}/slipway/health", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.program.send_signal(how)
        self.program.wait(60)


@dataclass
class Clicks:
    """The hands: a browser at a panel, and a control over the same data folder that looks on."""

    control: Control
    client: docker.DockerClient
    browser: Any
    panel: Panel

    @contextmanager
    def visitor(self) -> Iterator[Visitor]:
        one = Visitor(self.browser, self.panel.address)
        yield one
        assert not one.faults, one.faults
        one.context.close()

    def launched(self, recipe: Recipe) -> Told:
        """From the first page to a launch."""
        with self.visitor() as visitor:
            page = model_named(
                visitor, self.control, recipe.name, recipe.template, recipe.model, recipe.architecture, recipe.trust,
                concurrent=4, context=192,
            )  # fmt: skip
            if recipe.card == "vllm":
                _changes_their_mind(page)
            card = option(page, "choice", recipe.card)
            if recipe.image is not None:
                page.fill('[name="image"]', recipe.image)
                expect(card.locator(".tag")).to_contain_text(recipe.image)
            if recipe.card == "vllm":
                card.click()
            else:  # answers of 1,024 tokens leave no room for a prompt in 192; one click makes them shorter
                expect(card).to_contain_text("leave no room for a prompt")
                _shorter(page, recipe.card)
                page.click('[data-own="tensorrt_llm"] summary')
            expect(card.locator("input:checked")).to_have_count(1)
            for name, value in recipe.own.items():
                one = page.locator(f'[name="tensorrt_llm.{name}"]')
                if one.evaluate("one => one.tagName") == "SELECT":
                    one.select_option(value)
                else:
                    one.fill(value)
            page.click("text=Continue to review")
            return Told(recipe, launching(page, recipe.name))

    def failed(self, page: Any, told: Told) -> None:
        """The page says what went wrong."""
        expect(page.locator("#sw-launch h1")).to_have_text(f"Launch of {told.recipe.name} stopped", timeout=600_000)
        told.failed = self.control.run(told.run_id)
        told.alert = page.locator("#sw-launch [role=alert]").inner_text()

    def retried(self, page: Any, told: Told, attempt: int) -> None:
        """Another attempt, from the page, up to where it is held: its log and its progress are seen on the way."""
        page.click("#sw-launch [data-do=retry]")
        expect(page.locator("#sw-launch .sw-head p")).to_contain_text(f"attempt {attempt}")
        until(lambda: self.held(told), 240, f"{told.recipe.name} to be at work")
        expect(page.locator("[data-log-rows]")).to_contain_text(told.recipe.sign)
        progress = page.locator("#sw-launch .progress")
        expect(progress).to_have_attribute("aria-valuenow", re.compile(r"^[1-9]"))  # it is behind what the panel knows
        told.percent = int(progress.get_attribute("aria-valuenow") or 0)

    def held(self, told: Told) -> bool:
        """It is at the step where it is held, in a container that runs: one that is only made is not gone on with."""
        standing = {view.id: view.standing for view in self.control.steps(told.run_id)}[told.recipe.step]
        return standing is Standing.NOW and bool(self.boxes(told, only_running=True))

    def boxes(self, told: Told, only_running: bool = False) -> list[str]:
        """Ids of its containers."""
        of_run = {"label": f"slipway.run={told.run_id}"}
        there = self.client.containers.list(all=not only_running, ignore_removed=True, filters=of_run)
        return sorted(one.id for one in there)

    def cancelled(self, page: Any, told: Told) -> None:
        """Ended from the page while it works."""
        page.click("#sw-launch [data-do=stop]")
        page.click("text=Cancel launch")
        expect(page.locator("#sw-launch h1")).to_have_text(f"{told.recipe.name} is stopped", timeout=90_000)
        told.left = self.boxes(told)

    def killed(self, all_told: list[Told]) -> None:
        """The panel and every worker die at once; a new panel finds what goes on."""
        for told in all_told:
            told.boxes.append(self.boxes(told))
        dead = [worker_of(self.control, told.run_id) for told in all_told]
        self.panel.end(signal.SIGKILL)
        for told, worker in zip(all_told, dead, strict=True):
            worker.kill()
            told.workers.append(worker.pid)
        self.panel.start()
        for told in all_told:
            told.workers.append(until(lambda told=told: self._other_worker(told), 60, "another worker"))
        for told in all_told:
            until(lambda told=told: "Found the running" in str(self.control.events(told.run_id)), 60, told.recipe.name)
            told.boxes.append(self.boxes(told))

    def _other_worker(self, told: Told) -> int | None:
        now = worker_now(self.control, told.run_id)
        return None if now is None or now.pid == told.workers[0] else now.pid

    def asked(self, visitor: Visitor, told: Told) -> None:
        """From the running server to an answer in the Chat page; what stood there on the way is kept."""
        page = visitor.opens(f"/?run={told.run_id}")
        expect(page.locator("#sw-launch h1")).to_have_text(f"{told.recipe.name} is running", timeout=600_000)
        chat_opened(page, told.run_id)
        page.evaluate(_PIECES)
        told.answer = " ".join(visitor.asks(told.recipe.asked).split())
        told.pieces = [" ".join(piece.split()) for piece in page.evaluate("[...window.seen]")]


def _shorter(page: Any, card: str) -> None:
    """Takes the offer of shorter answers on a card, which is chosen with that."""
    page.click(f'button[data-change*=\'"choice": "{card}"\']')
    chosen = option(page, "choice", card)
    expect(chosen).not_to_contain_text("leave no room for a prompt")
    expect(chosen.locator("input:checked:enabled")).to_have_count(1)


def _changes_their_mind(page: Any) -> None:
    """Another engine by shorter answers, and back to longer ones, which it cannot give: the first way is chosen."""
    _shorter(page, "trtllm_engine")
    page.click("#sw-engine [data-go='stage:2']")
    page.fill('[name="limits.new_tokens"]', "")
    page.click("text=Continue to engine")
    expect(option(page, "choice", "trtllm_engine")).to_contain_text("leave no room for a prompt")
    expect(page.locator('[name="choice"]').first).to_be_checked()
    if not page.locator('[name="image"]').is_visible():
        page.click("text=Image, ports and network")


def told_of(
    control: Control, client: docker.DockerClient, chromium: str, upstream: Mapping[str, str]
) -> dict[str, Told]:
    """The whole story, by the deployments' names. Their servers run on."""
    models = control.settings.home / "models"
    panel = Panel(control.settings.home)
    try:
        with opened(chromium) as browser:
            return _story(
                Clicks(control, client, browser, panel), upstream, [models / "tiny-llama", models / "tiny-qwen"]
            )
    finally:
        panel.end()
        for place in models.glob("*/*"):
            if place.name in ("fail", "hold"):
                place.unlink()


def _story(clicks: Clicks, upstream: Mapping[str, str], places: list[Path]) -> dict[str, Told]:
    for place in places:
        (place / "fail").touch()
    found = [clicks.launched(recipe) for recipe in recipes(upstream)]
    with clicks.visitor() as visitor:
        for told in found:
            clicks.failed(visitor.opens(f"/?run={told.run_id}"), told)
        for place in places:
            (place / "fail").rename(place / "hold")
        for told in found:
            page = visitor.opens(f"/?run={told.run_id}")
            clicks.retried(page, told, 2)
            clicks.cancelled(page, told)
            clicks.retried(page, told, 3)
        visitor.page.goto("about:blank")  # what a page makes of a panel that dies is told in test_page.py
        clicks.killed(found)
        for place in places:
            (place / "hold").unlink()
        for told in found:
            clicks.asked(visitor, told)
    return {told.recipe.name: told for told in found}
