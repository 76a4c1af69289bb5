"""The page in a real browser over a control whose runs stand still: what needs no Triton to be seen."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import expect

from app.settings import settings
from backends.events import Event, Kind
from backends.runs import Run, State
from backends.spec import Chat, Gpu, Piece
from storage.store import Store
from tests.live.browser import Visitor, close_all, panel_of, serious
from tests.ui.conftest import StillControl, StillTarget, machine

pytestmark = pytest.mark.live
TABS = {
    "": "#sw-launch h1",
    "?tab=chat": "[data-chat-form]",
    "?tab=monitor": "[data-server]",
    "?tab=history": "[data-history-run]",
}
EVIL = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


@pytest.fixture
def control(home: Path, store: Store) -> StillControl:
    made = StillControl(settings({"home": str(home)}, {}), store, {"local": StillTarget(), "docker": StillTarget()})
    made.answers = []
    made.heard = []
    return made


@pytest.fixture
def panel(browser, control: StillControl) -> Iterator[str]:
    with panel_of(control) as address:
        yield address
        close_all(browser)


@pytest.fixture
def visitor(browser, panel: str) -> Iterator[Visitor]:
    one = Visitor(browser, panel)
    yield one
    one.context.close()


def running(control: StillControl, name: str = "demo") -> tuple[Run, str]:
    run = control.moved(control.begun(name), State.RUNNING)
    step = run.plan.steps[0].id
    control.told(run, Event(step=step, kind=Kind.STARTED))
    return run, step


def test_what_does_not_fit_is_mended_with_one_click_and_back_and_reload_lose_nothing(visitor, control) -> None:
    card = Gpu(name="NVIDIA GeForce RTX 4090", index=0, memory_total_mib=24564, memory_free_mib=2600)
    control.machine = control.machine.model_copy(update={"gpus": (card,), "driver_version": "580.95.05"})
    page = visitor.opens()
    page.click("text=Continue to model")
    chats = page.locator('[name="limits.concurrent"]')
    chats.fill("128")
    expect(page.locator("#sw-rail")).to_contain_text("Does not fit")
    page.click("text=Continue to engine")
    page.locator(".fixes-of", has_text="Serve").get_by_role("button").first.click()
    expect(page.locator('[name="choice"][value="transformers"]')).to_be_checked()
    page.click("text=Continue to review")
    expect(page.locator("#sw-review h1")).to_be_focused()
    visitor.reloads()
    expect(page.locator("#sw-review h1")).to_be_visible()
    page.click('[data-stage="1"]')
    control.to_do = lambda plan: plan.steps[-2:]  # meanwhile a launch has made the rest
    page.click('[data-stage="4"]')
    expect(page.locator("#sw-review .sum")).to_have_text(re.compile(r"^2 of \d+ steps to do · nothing to download · ~"))
    page.locator("#sw-review").get_by_role("button", name="Back", exact=True).click()
    page.locator("#sw-engine").get_by_role("button", name="Back", exact=True).click()
    mended = chats.input_value()
    assert 1 < int(mended) < 128
    chats.fill("128")
    page.locator("#sw-rail").get_by_role("button", name="Serve").click()
    expect(chats).to_have_value(mended)
    expect(page.locator("#sw-rail")).to_contain_text(re.compile("Fits|Tight"))
    assert not visitor.faults


def tab_to(page, selector: str, most: int = 90) -> None:
    """Presses Tab until that element has the focus, and proves that the focus can be seen."""
    for _ in range(most):
        page.keyboard.press("Tab")
        if page.evaluate("(wanted) => document.activeElement?.matches(wanted) ?? false", selector):
            assert page.evaluate("document.activeElement.matches(':focus-visible')")
            return
    raise AssertionError(f"Tab does not lead to {selector}")


def test_the_whole_wizard_goes_by_keyboard_alone(visitor: Visitor, control: StillControl) -> None:
    card = Gpu(name="NVIDIA GeForce RTX 4090", index=0, memory_total_mib=24564, memory_free_mib=24000)
    control.machine = control.machine.model_copy(update={"gpus": (card,), "driver_version": "580.95.05"})
    page = visitor.opens()
    keys = page.keyboard
    tab_to(page, '[data-commands="1"] summary')
    keys.press("Enter")
    expect(page.locator("#commands-1")).to_contain_text("slipway detect --json")
    tab_to(page, '#sw-detect [data-go="stage:2"]')
    keys.press("Enter")
    expect(page.locator("#sw-model h1")).to_be_focused()
    tab_to(page, '[name="precision"]')
    keys.press("ArrowDown")
    expect(page.locator('[name="precision"][value="fp32"]')).to_be_checked()
    tab_to(page, '[name="limits.concurrent"]')
    keys.type("4")
    expect(page.locator('[data-field="limits.concurrent"] .own')).to_be_visible()
    expect(page.locator('[data-field="limits.context"] .rec')).to_be_visible()
    tab_to(page, "#sw-model details:not([data-commands]) summary")
    keys.press("Enter")
    tab_to(page, '[name="name"]')
    keys.type("by-keys")
    keys.press("Enter")  # as in any form
    expect(page.locator("#sw-engine h1")).to_be_focused()
    expect(page.locator("#sw-rail")).to_contain_text("4 at once, 2,048 tokens each")
    tab_to(page, '[name="choice"]')
    keys.press("ArrowDown")
    tab_to(page, '[data-own="fastertransformer"] summary')
    keys.press("Enter")
    tab_to(page, '[name="fastertransformer.jobs"]')
    keys.type("0")
    expect(page.locator('[data-field="fastertransformer.jobs"] .err')).to_contain_text("at least 1")
    keys.press("Backspace")
    expect(page.locator('[data-field="fastertransformer.jobs"] .err')).to_have_count(0)
    tab_to(page, '[data-commands="3"] summary')
    keys.press("Space")
    expect(page.locator("#commands-3")).to_contain_text("tritonserver")
    tab_to(page, "#sw-engine [type=submit]")
    keys.press("Enter")
    expect(page.locator("#sw-review h1")).to_be_focused()
    tab_to(page, "#tab-commands")
    keys.press("ArrowRight")
    expect(page.locator("#pane-files")).to_be_visible()
    tab_to(page, "#sw-review [type=submit]")
    keys.press("Enter")
    page.wait_for_url(re.compile("run=by-keys-"))
    run = control.open_runs()[0]
    assert (run.spec.precision, run.spec.limits.concurrent) == ("fp32", 4)
    tab_to(page, "[data-log-search]")
    tab_to(page, "[data-log-follow]")
    tab_to(page, '[data-commands="5"] summary')
    keys.press("Enter")
    expect(page.locator("#commands-5")).to_contain_text("tritonserver")
    assert not visitor.faults


def test_a_wrong_value_is_said_at_its_field_and_the_fold_opens(visitor: Visitor) -> None:
    page = visitor.opens()
    page.click("text=Continue to model")
    page.click("text=Advanced")
    page.fill('[name="name"]', "Not This")
    page.click("text=Continue to engine")
    expect(page.locator('[data-field="name"] .err')).to_contain_text("small letters")
    expect(page.locator('[name="name"]')).to_be_focused()
    page.fill('[name="name"]', "this-one")
    page.click("text=Continue to engine")
    expect(page.locator("#sw-engine h1")).to_be_visible()


def test_a_double_click_starts_one_run(visitor: Visitor, control: StillControl) -> None:
    page = visitor.opens()
    for words in ("Continue to model", "Continue to engine", "Continue to review"):
        page.click(f"text={words}")
    page.dblclick("#sw-review [type=submit]")
    page.wait_for_url(re.compile("run=demo-"))
    assert control.count() == 1


def test_two_windows_see_one_run(browser, visitor: Visitor, control: StillControl) -> None:
    first = visitor.opens()
    second = Visitor(browser, visitor.address).opens()
    for page in (first, second):
        for words in ("Continue to model", "Continue to engine", "Continue to review"):
            page.click(f"text={words}")
    for page in (first, second):
        page.click("#sw-review [type=submit]")
        page.wait_for_url(re.compile("run=demo-"))
    assert first.url == second.url
    assert control.count() == 1


def test_the_language_follows_the_browser_can_be_switched_and_is_remembered(browser, panel: str) -> None:
    visitor = Visitor(browser, panel, locale="zh-CN")
    page = visitor.opens()
    expect(page.get_by_role("tab", name="部署")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    page.click('[data-language="en"]')
    expect(page.locator("h1:visible")).to_have_text("Check this machine")
    expect(page.get_by_role("tab", name="Wizard")).to_be_visible()
    visitor.reloads()
    expect(page.locator("h1:visible")).to_have_text("Check this machine")
    assert not visitor.abroad


def test_no_chinese_page_leaves_an_english_sentence(browser, panel: str, control: StillControl) -> None:
    control.served("my-llama")
    visitor = Visitor(browser, panel, locale="zh-CN")
    for tab, there in TABS.items():
        page = visitor.opens(f"/{tab}")
        expect(page.locator(there).first).to_be_visible()
        if not tab:
            page.click('[data-do="new"]')
            expect(page.locator("#sw-detect h1")).to_be_visible()
        left = re.findall(r"\b[a-z]{3,} [a-z]{2,}\b", page.inner_text("body"))
        assert not left, tab


def test_light_and_dark_follow_the_browser_and_the_switch(browser, panel: str) -> None:
    visitor = Visitor(browser, panel, color_scheme="dark")
    page = visitor.opens()
    background = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).map(Number)"
    assert max(page.evaluate(background)) < 60, "dark, as the browser asks"
    page.click("[data-theme-switch]")
    assert min(page.evaluate(background)) > 200
    visitor.reloads()
    assert min(page.evaluate(background)) > 200, "light, as was chosen"
    assert min(Visitor(browser, panel, color_scheme="light").opens().evaluate(background)) > 200


def test_a_tab_that_nobody_sees_holds_no_connection_and_misses_nothing(visitor: Visitor, control: StillControl) -> None:
    seen = """(state) => {
      Object.defineProperty(document, "hidden", { value: !state, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    run, step = running(control)
    control.starts(run, step, "one\n")
    page = visitor.opens(f"/?run={run.id}")
    words = page.locator("[data-log-rows] > div > span:last-child")
    expect(words).to_have_text(["one"])
    with page.expect_event("requestfailed", lambda asked: "/slipway/stream" in asked.url):
        page.evaluate(seen, False)
    control.wrote(run, step, "two\n")
    with page.expect_request(lambda asked: "/slipway/stream" in asked.url and "from=4" in asked.url):
        page.evaluate(seen, True)
    expect(words).to_have_text(["one", "two"])


def test_a_link_to_a_run_shows_it_and_its_log(visitor: Visitor, control: StillControl) -> None:
    run, step = running(control)
    head = b"one\nValueError: two\n\x1b[31mred\x1b[0m\nraw \xff\x00 bytes\n"
    control.starts(run, step, head + b"5%\r99%\n")
    page = visitor.opens(f"/?run={run.id}")
    rows, words = page.locator("[data-log-rows] > div"), page.locator("[data-log-rows] > div > span:last-child")
    expect(words).to_have_text(["one", "ValueError: two", "red", "raw \ufffd\ufffd bytes", "99%"])
    expect(rows.nth(1)).to_have_class(re.compile(r"\bE\b"))
    control.wrote(run, step, "10%\r55%")  # a bar whose line has no end yet
    expect(words.last).to_have_text("55%")
    long = "x" * 5_000_000
    control.wrote(run, step, f"\r100%\n{long}\nafter\n")
    expect(words.last).to_have_text("after")
    expect(page.locator("[data-log-lines]")).to_have_text("8 lines")
    expect(words.filter(has_text="xxx")).to_have_text(re.compile(r"^x{4096} … \(\+4,995,904\)$"))
    tail = "".join(f"line {number}\n" for number in range(300))
    control.wrote(run, step, tail)
    expect(words.last).to_have_text("line 299")

    page.fill("[data-log-search]", "LINE 29")
    expect(page.locator("[data-log-found]")).to_have_text("1 of 11")
    expect(page.locator("[data-log-rows] mark").first).to_have_text("line 29")
    page.press("[data-log-search]", "Enter")
    expect(page.locator("[data-log-found]")).to_have_text("2 of 11")
    expect(page.locator("[data-log-rows] .hit")).to_have_text(re.compile("line 290$"))
    page.fill("[data-log-search]", "")
    page.click('[data-log-level="W"]')
    page.click("[data-log-first]")
    expect(page.locator("[data-log-rows] .E")).to_be_visible()
    expect(page.locator('[data-log-level="all"]')).to_have_attribute("aria-pressed", "true")
    expect(page.locator("[data-log-follow]")).not_to_be_checked()
    control.wrote(run, step, "four\n")
    page.get_by_role("button", name="1 new lines").click()
    expect(words.last).to_have_text("four")
    page.evaluate("slipway.copy = (text) => { window.copied = text; }")
    page.click("[data-log-copy]")
    copied = page.evaluate("window.copied").split("\n")
    assert (len(copied), copied[0], copied[-1]) == (309, "one", "four")

    chosen = page.locator("[data-log-start]")
    expect(chosen).to_be_hidden()
    control.starts(run, step, "second\n")  # who follows is shown the new start
    expect(words).to_have_text(["second"])
    expect(chosen).to_have_value("2")
    chosen.press("ArrowDown")  # the start before, which has ended though the step goes on
    expect(words.last).to_have_text("four")
    expect(page.locator("[data-log-state]")).to_have_text("Ended")
    expect(page.locator("[data-log-lines]")).to_have_text("309 lines")
    control.starts(run, step, "third\n")  # who chose a start stays there
    expect(chosen.locator("option")).to_have_text(
        ["This start (3)", "Previous start (2)", "Start 1 of 3", "All 3 starts"]
    )
    expect(words.last).to_have_text("four")
    chosen.press("ArrowDown")
    expect(page.locator("[data-log-lines]")).to_have_text("311 lines")
    expect(words.last).to_have_text("third")
    page.click('[data-log-level="E"]')
    chosen.press("ArrowUp")
    expect(page.locator("[data-log-lines]")).to_have_text("309 lines")
    expect(words).to_have_text(["ValueError: two"])
    page.click('[data-log-level="all"]')

    control.told(run, Event(step=step, kind=Kind.FAILED))
    control.moved(run, State.FAILED)
    expect(page.locator("[data-log-state]")).to_have_text("Ended")
    with page.expect_download() as download:
        page.click("[data-log-download]")
    kept = f"5%\r99%\n10%\r55%\r100%\n{long}\nafter\n{tail}four\n".encode()
    assert Path(download.value.path()).read_bytes() == head + kept
    assert not visitor.faults


def test_who_reads_further_up_stays_in_a_step_when_the_next_begins(visitor: Visitor, control: StillControl) -> None:
    run, step = running(control)
    after = run.plan.steps[1].id
    control.starts(run, step, "".join(f"{'error' if number == 200 else 'line'} {number}\n" for number in range(300)))
    page = visitor.opens(f"/?run={run.id}")
    words = page.locator("[data-log-rows] > div > span:last-child")
    expect(words.last).to_have_text("line 299")
    view = page.locator("[data-log-view]")
    view.evaluate(
        "(view) => { view.closest('[data-log]').style.height = '300px'; view.dispatchEvent(new Event('scroll')); }"
    )
    assert page.is_checked("[data-log-follow]"), "a log that becomes smaller was scrolled by nobody"
    expect(words.last).to_have_text("line 299")
    page.click('[data-log-level="W"]')
    expect(words).to_have_count(0)
    page.click("[data-log-first]")
    expect(words.filter(has_text="error 200")).to_be_visible()
    view.evaluate("(view) => { view.scrollTop = 0; }")
    expect(page.locator("[data-log-follow]")).not_to_be_checked()
    control.told(run, Event(step=step, kind=Kind.DONE))
    control.starts(run, after, "after\n")
    expect(page.locator(f'#sw-launch li.now [data-log-step="{after}"]')).to_be_visible()
    expect(words.first).to_have_text("line 0")
    page.click("label:has([data-log-follow])")
    expect(words).to_have_text(["after"])
    page.locator(f'#sw-launch [data-log-step="{step}"]').focus()
    page.keyboard.down("Space")
    control.told(run, Event(step=after, kind=Kind.DONE))
    control.starts(run, run.plan.steps[2].id, "last\n")
    expect(words).to_have_text(["last"])
    page.keyboard.up("Space")  # the list was to be made anew under the key: the button is pressed none the less
    expect(words.last).to_have_text("line 299")


def test_nothing_that_a_log_a_name_or_a_model_says_is_carried_out(visitor: Visitor, control: StillControl) -> None:
    run, step = running(control, "logs")
    control.wrote(run, step, f"{EVIL}\n\x1b[31m{EVIL}\x1b[0m\n")
    page = visitor.opens(f"/?run={run.id}")
    expect(page.locator("[data-log-rows]")).to_contain_text("<img src=x")
    control.served("talks", answer=EVIL)
    marked = f"\n\n`{EVIL}`\n\n| a |\n|---|\n| {EVIL} |\n\n[x](javascript:alert(1))"
    control.answers = [Piece(text=EVIL), Piece(text=marked), Piece(finish="stop", completion_tokens=2)]
    page.get_by_role("tab", name="Chat").click()
    assert "<img src=x" in visitor.asks(EVIL)
    assert page.locator('.bot-row a[href^="javascript"]').count() == 0
    page.get_by_role("tab", name="History").click()
    page.fill("[data-history-search]", EVIL)
    expect(page.locator("#sw-history")).to_contain_text("Nothing matches")
    assert page.evaluate("window.pwned") is None


def test_markdown_is_shown_well_however_it_is_cut(visitor: Visitor, control: StillControl) -> None:
    control.served()
    text = (
        "# Title\n\nSome **bold** and `code`.\n\n```python\nprint('<b>')\n\nx = 1\n```\n\n"
        "1. one\n2. two\n\n- a\n- b\n\nend 你好 🚀"
    )
    control.answers = [*(Piece(text=letter) for letter in text), Piece(finish="stop", completion_tokens=9)]
    page = visitor.opens("/?tab=chat")
    visitor.asks("Go")
    words = page.locator(".bot-row .words")
    expect(words.locator("pre.code")).to_have_text("print('<b>')\n\nx = 1")
    expect(words.locator("ol > li")).to_have_text(["one", "two"])
    expect(words.locator("ul > li")).to_have_text(["a", "b"])
    expect(words.locator("strong")).to_have_text("bold")
    expect(words.locator("p").last).to_have_text("end 你好 🚀")


def test_stop_closes_the_answer_at_its_source(visitor: Visitor, control: StillControl) -> None:
    closed = threading.Event()

    async def endless(run_id: str, chat: Chat) -> AsyncIterator[Piece]:
        try:
            while True:
                yield Piece(text="word ")
                await asyncio.sleep(0.01)
        finally:
            closed.set()

    control.chat = endless
    control.served()
    page = visitor.opens("/?tab=chat")
    page.fill("[data-chat-form] textarea", "Go on")
    page.keyboard.press("Enter")
    expect(page.locator(".bot-row .words")).to_contain_text("word")
    page.click("[data-chat-stop]")
    expect(page.locator(".bot-row .ans")).to_contain_text("Stopped by you")
    assert closed.wait(30)


def test_a_long_answer_costs_the_page_no_more_at_its_end_than_at_its_beginning(visitor, control: StillControl) -> None:
    paragraph = "The quick brown fox jumps over the lazy dog. " * 3 + "\n\n"
    pieces = [word + " " for _ in range(300) for word in paragraph.split(" ")]
    control.answers = [*(Piece(text=piece) for piece in pieces), Piece(finish="stop", completion_tokens=len(pieces))]
    control.served()
    visitor.opens("/?tab=chat")
    begun = time.monotonic()
    words = visitor.asks("Tell me")
    assert time.monotonic() - begun < 10
    assert words.count("lazy dog") == 900


@pytest.mark.alone
def test_fifty_thousand_lines_reach_a_page_that_stays_usable(visitor: Visitor, control: StillControl) -> None:
    run, step = running(control)
    page = visitor.opens(f"/?run={run.id}")
    page.evaluate("""() => { window.gaps = []; let last = performance.now();
      const beat = () => { const now = performance.now(); window.gaps.push(now - last); last = now;
        requestAnimationFrame(beat); };
      requestAnimationFrame(beat); window.tasks = [];
      new PerformanceObserver((seen) => window.tasks.push(...seen.getEntries().map((one) => one.duration)))
        .observe({ entryTypes: ["longtask"] }); }""")
    total, batch = 50_000, 500

    def write() -> None:
        begun = time.monotonic()
        for start in range(0, total, batch):
            control.wrote(
                run,
                step,
                "".join(
                    f"I1121 11:48:00.000117 1 x.cc:{n}] line {n} {'.' * 60}\n" for n in range(start, start + batch)
                ),
            )
            time.sleep(max(0.0, begun + (start + batch) / 5000 - time.monotonic()))  # the pace is the test: 5,000/s
        control.told(run, Event(step=step, kind=Kind.DONE))

    writer = threading.Thread(target=write)
    writer.start()
    expect(page.locator("[data-log-lines]")).to_have_text("50,000 lines")
    writer.join()
    expect(page.locator("[data-log-rows] > div").last).to_contain_text("line 49999")
    numbers = page.evaluate("""() => { window.slipway.copy = (text) => { window.copied = text; };
      document.querySelector("[data-log-copy]").click();
      return window.copied.split("\\n").map((line) => Number(/line (\\d+)/.exec(line)[1])); }""")
    assert numbers == list(range(total))
    worst, tasks = sorted(page.evaluate("window.gaps"))[-3:], sorted(page.evaluate("window.tasks"))[-3:]
    assert worst[0] < 100, f"frames apart: {worst} ms, tasks: {tasks} ms"
    assert not tasks or tasks[-1] < 100, f"{tasks} ms: a frame that is late with no task before it is not the page's"
    more = "".join(f"line {n} {'.' * 60}\n" for n in range(total, 5 * total))
    control.wrote(run, step, more)  # more than the page keeps: the oldest lines go, the newest are there
    expect(page.locator("[data-log-lines]")).to_have_text(re.compile(r"250,000 lines · [5-9]\d,\d{3} earlier"))
    expect(page.locator("[data-log-rows] > div").last).to_contain_text("line 249999")


def test_history_by_keyboard_alone_pins_compares_exports_and_imports(visitor: Visitor, control: StillControl) -> None:
    first, second = control.served("first"), control.served("second")
    page = visitor.opens("/?tab=history")
    rows = page.locator("[data-history-run]")
    expect(rows).to_have_count(2)
    page.locator(f'[data-history-pin="{first.id}"]').press("Enter")
    expect(rows.first).to_have_attribute("data-history-run", first.id)
    expect(page.locator(f'[data-history-pin="{first.id}"]')).to_be_focused()
    search = page.locator("[data-history-search]")
    search.press_sequentially("seco")
    expect(rows).to_have_count(1)
    page.locator(f'[data-history-pick="{second.id}"]').press("Space")
    search.fill("")
    expect(rows).to_have_count(2)
    page.locator(f'[data-history-pick="{first.id}"]').press("Space")
    expect(page.locator(f'[data-history-pick="{second.id}"]')).to_be_checked()
    page.get_by_role("button", name="Compare 2").press("Enter")
    expect(page.get_by_role("heading", name="Compare 2 deployments")).to_be_focused()
    alike = page.locator(".compared tr.alike").first
    expect(alike).to_be_visible()
    page.locator("[data-only-differences]").press("Space")
    expect(alike).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.locator("[data-history-compare]")).to_be_focused()
    page.locator(f'[data-history-open="{second.id}"]').press("Enter")
    with page.expect_download() as download:
        page.locator(".drawer a[download]").press("Enter")
    page.keyboard.press("Escape")
    expect(page.locator(f'[data-history-open="{second.id}"]')).to_be_focused()
    text = Path(download.value.path()).read_text()
    for name, content, said in (("bad", text.replace('"version": 1', '"version": 2'), "version"),
                                ("good", text, "“second” was read")):  # fmt: skip
        file = {"name": f"{name}.json", "mimeType": "application/json", "buffer": content.encode()}
        page.locator("[data-history-file]").set_input_files(file)
        expect(page.locator("dialog")).to_contain_text(said)
        page.keyboard.press("Escape")
    expect(page.locator("#sw-model h1")).to_be_visible()
    expect(page.locator('[name="name"]')).to_have_value("second")
    assert not visitor.faults


def test_the_monitor_s_drawers_by_keyboard_alone(visitor: Visitor, control: StillControl) -> None:
    run = control.served("talks")
    page = visitor.opens("/?tab=monitor")
    tool = page.locator('[data-do="keys"]')
    tool.press("Enter")
    expect(page.get_by_role("heading", name="API keys")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.type("my editor")
    page.keyboard.press("Enter")
    expect(page.locator("#new-key")).to_be_focused()
    token = page.locator("#key-token").inner_text()
    assert control.knows_key(token)
    page.locator('[data-do="key-revoke"]').press("Enter")
    expect(page.get_by_role("button", name="Keep", exact=True)).to_be_focused()
    page.get_by_role("button", name="Revoke").last.press("Enter")
    expect(page.locator(".drawer")).to_contain_text("revoked")
    assert not control.knows_key(token)
    page.keyboard.press("Escape")
    expect(tool).to_be_focused()
    page.locator('[data-do="watching"]').press("Enter")
    page.locator('[name="watch.name"]').fill("next door")
    page.locator('[name="watch.host"]').fill("169.254.169.254")
    page.keyboard.press("Enter")
    expect(page.locator('[data-field="watch.host"] .err')).to_contain_text("may not be looked at")
    expect(page.locator('[name="watch.host"]')).to_be_focused()
    page.locator('[name="watch.host"]').fill("127.0.0.1")
    page.keyboard.press("Enter")
    expect(page.locator('[data-do="watching"]')).to_be_focused()
    assert [one.server.name for one in control.watched()] == ["next door"]
    page.locator('[data-do="alerting"]').press("Enter")
    page.locator('[name="alerts.queued"]').fill("7")
    page.keyboard.press("Enter")
    expect(page.locator(".drawer")).to_have_count(0)
    assert control.thresholds().queued == 7
    page.locator(f'[data-do="api"][data-run="{run.id}"]').press("Enter")
    page.locator("#tab-call-curl").press("ArrowRight")
    expect(page.locator("#pane-call-openai")).to_contain_text(f'base_url="{visitor.address}/v1"')
    page.keyboard.press("Escape")
    control.starts(run, run.plan.service.id, "before\n")
    control.starts(run, run.plan.service.id, "".join(f"line {number}\n" for number in range(90)))
    page.locator(f'[data-go="run"][data-run="{run.id}"]').first.press("Enter")  # the log's part is only made now
    expect(page.locator("[data-log-lines]")).to_have_text("90 lines")
    expect(page.locator("[data-log-rows] > div").last).to_contain_text("line 89")
    expect(page.locator("[data-log-download]")).to_have_attribute("href", re.compile(r"/log/serve\?start=2$"))
    assert not visitor.faults


def test_axe_finds_nothing_serious_in_the_light_nor_in_the_dark(browser, panel: str, control: StillControl) -> None:
    control.machine = machine("h200-x2-busy")
    control.served()
    run, step = running(control, "second")
    control.wrote(run, step, "W1121 11:48:00.000117 1 x.cc:1] careful\nE1121 11:48:00.000117 1 x.cc:1] bad\n")
    page = Visitor(browser, panel, color_scheme="light", bypass_csp=True).opens(f"/?run={run.id}")
    seen = set()

    def check(where: str) -> None:
        page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true; })")
        for _ in range(2):  # each place in both themes
            dark = page.evaluate("document.documentElement.classList.contains('dark')")
            found = serious(page)
            assert not found, f"{where}, {'dark' if dark else 'light'}: {found}"
            seen.add((where, dark))
            page.evaluate("slipway.setTheme()")

    check("launch")
    page.click('[data-do="new"]')
    check("detect")
    for stage in ("model", "engine", "review"):
        page.click(f"text=Continue to {stage}")
        expect(page.locator(f"#sw-{stage} h1")).to_be_focused()
        check(stage)
    for tab, there in (("Chat", "[data-chat-form]"), ("Monitor", "[data-server]"), ("History", "[data-history-run]")):
        page.get_by_role("tab", name=tab).click()
        expect(page.locator(there).first).to_be_visible()
        check(tab)
        if tab == "Monitor":
            page.click('[data-do="keys"]')
            page.fill('[name="key.name"]', "a key")
            page.keyboard.press("Enter")
            page.locator("#new-key").wait_for()
            check("keys")
            page.keyboard.press("Escape")
            page.click('[data-do="watching"]')
            page.fill('[name="watch.host"]', "169.254.169.254")
            page.keyboard.press("Enter")
            page.locator(".drawer .err").wait_for()
            check("watching")
            page.keyboard.press("Escape")
    page.click("[data-history-open] >> nth=0")
    page.locator(".drawer").wait_for()
    check("drawer")
    page.keyboard.press("Escape")
    for box in page.locator(".pick-cell .tick").all():
        box.click()
    check("ticked")
    page.click("[data-history-compare]")
    page.locator(".compare").wait_for()
    check("compare")
    assert len(seen) == 2 * len({where for where, _ in seen})


@pytest.mark.parametrize("language", ["en-US", "zh-CN"])
def test_a_phone_never_scrolls_sideways(browser, panel: str, control: StillControl, language: str) -> None:
    control.machine = machine("h200-x2-busy")
    control.served("a-name-that-is-as-long-as-a-name-may-be-0123456")
    visitor = Visitor(browser, panel, viewport={"width": 390, "height": 844}, locale=language)
    for tab, there in TABS.items():
        page = visitor.opens(f"/{tab}")
        expect(page.locator(there).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        stages = ("launch", "detect", "model", "engine", "review") if not tab else ()
        for here, there in pairwise(stages):
            page.click('[data-do="new"]' if here == "launch" else f"#sw-{here} .sw-actions .primary")
            expect(page.locator(f"#sw-{there} h1")).to_be_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390, there
