"""What comes half, late, twice or never: the page in a real browser while files, requests and answers go astray."""

# ruff: noqa: F811  fixtures are taken by their names
from __future__ import annotations

import pytest
from playwright.sync_api import expect

from backends.runs import State
from tests.conftest import until
from tests.live.browser import Visitor
from tests.live.test_browser import control, panel, running, visitor  # noqa: F401  fixtures, and a run that stands still
from tests.ui.conftest import StillControl

pytestmark = pytest.mark.live
FILES = ("assets/index-*.js", "assets/Index-*.js", "js/main.js*", "js/log.js", "parts.css*")


@pytest.mark.parametrize("file", FILES)
def test_a_page_that_came_half_is_loaded_again(visitor: Visitor, file: str) -> None:
    visitor.page.route(f"**/{file}", lambda route: route.abort("internetdisconnected"), times=1)
    page = visitor.opens()
    page.wait_for_function("performance.getEntriesByType('navigation')[0].type === 'reload'")
    visitor.ready()
    expect(page.locator("h1:visible")).to_have_text("Check this machine")


def test_a_page_whose_files_never_come_says_so(visitor: Visitor) -> None:
    visitor.page.add_init_script("sessionStorage.setItem('slipway_loads', 4)")  # tried so often
    visitor.page.route("**/js/main.js*", lambda route: route.abort("internetdisconnected"))
    visitor.page.goto(visitor.address)
    expect(visitor.page.get_by_role("alert")).to_have_text("Parts of this page did not come. Load it again")
    visitor.page.unroute_all()
    visitor.page.get_by_role("link", name="Load it again").click()
    visitor.ready()


def test_a_request_that_is_lost_on_its_way_is_sent_again_and_said_meanwhile(browser, panel: str) -> None:
    visitor = Visitor(browser, panel, locale="zh-CN")
    page = visitor.opens()
    page.locator('#sw-detect [data-go="stage:2"]').click()
    keys: list[str] = []
    third: list = []

    def lose(route) -> None:
        if route.request.post_data_json["do"] == "model":
            keys.append(route.request.post_data_json["key"])
            if len(keys) == 1:
                route.fetch()  # the panel has it; its answer is lost
            if len(keys) < 3:
                route.abort("failed")
            else:
                third.append(route)
            return
        route.fallback()

    page.route("**/slipway/ask", lose)
    page.fill('[name="limits.concurrent"]', "3")
    page.locator("#sw-model [type=submit]").click()
    expect(page.locator("body > .lost")).to_have_text("面板没有响应，恢复后页面会继续。")
    until(lambda: page.wait_for_timeout(10) or third)
    third[0].fallback()
    expect(page.locator("#sw-engine h1")).to_be_visible()
    expect(page.locator("body > .lost")).to_have_count(0)
    expect(page.locator("#sw-model .is-busy")).to_have_count(0)
    assert len(keys) == 3 and len(set(keys)) == 1, "the same request, which the panel carries out once"


def test_what_is_typed_and_sent_at_once_is_answered_each_time(visitor: Visitor) -> None:
    page = visitor.opens()
    page.click("text=Continue to model")
    for number in range(2, 12):
        page.fill('[name="limits.concurrent"]', str(number))
        page.keyboard.press("Enter")
        expect(page.locator("#sw-engine h1")).to_be_visible()
        page.click("#sw-engine [data-go='stage:2']")
    assert not visitor.faults


def hold(page, what: str) -> list:
    """Holds back the page's requests of that kind, until `late` lets them go."""
    kept: list = []

    def take(route) -> None:
        if route.request.post_data_json["do"] == what:
            kept.append(route)
        else:
            route.fallback()

    page.unroute_all()
    page.route("**/slipway/ask", take)
    return kept


def late(page, route) -> None:
    """Lets a request go that was held back, and waits until the page has done what it does with the answer."""
    with page.expect_response(lambda told: told.request == route.request) as answer:
        route.fallback()
    answer.value.finished()
    page.evaluate("new Promise((done) => setTimeout(() => requestAnimationFrame(() => setTimeout(done, 50)), 50))")


def pressed(page, kept: list, selector: str, count: int = 1) -> None:
    """Clicks, and waits until so many requests are held back."""
    page.click(selector)
    until(lambda: page.wait_for_timeout(10) or len(kept) >= count)


def test_an_answer_that_comes_late_takes_nothing_from_what_was_done_since(visitor, control: StillControl) -> None:
    first, second = control.served("first"), control.served("second")
    page = visitor.opens("/?tab=history")
    rows, drawer = page.locator("[data-history-run]"), page.locator(".drawer h2")
    expect(rows).to_have_count(2)
    kept = hold(page, "history")
    for number, words in enumerate(("first", "seco"), 1):
        page.fill("[data-history-search]", words)
        until(lambda number=number: page.wait_for_timeout(10) or len(kept) == number)
    late(page, kept[1])
    late(page, kept[0])
    expect(rows).to_have_count(1)
    expect(rows).to_have_attribute("data-history-run", second.id)
    page.unroute_all()
    page.fill("[data-history-search]", "")
    expect(rows).to_have_count(2)

    kept = hold(page, "open")
    for number, run in enumerate((first, second), 1):
        pressed(page, kept, f'[data-history-open="{run.id}"]', number)
    late(page, kept[1])
    late(page, kept[0])
    expect(drawer).to_have_text("second")
    kept = hold(page, "pin")
    pressed(page, kept, f'.drawer [data-history-pin="{second.id}"]')
    page.keyboard.press("Escape")
    late(page, kept[0])
    expect(drawer).to_have_count(0)
    expect(rows.first).to_have_attribute("data-history-run", second.id)
    page.click("#tab-monitor-button")
    page.click('[data-do="keys"]')
    expect(drawer).to_have_text("API keys")
    page.click("#tab-history-button")
    expect(drawer).to_have_count(0)

    control.moved(first, State.STOPPED)
    page.click(f'[data-history-open="{first.id}"]')
    page.click('.drawer [data-go="run"]')
    expect(page.locator("#sw-launch h1")).to_contain_text("first")
    page.click("#tab-history-button")
    control.delete(first.id)  # in another window
    page.click("#tab-monitor-button")  # opens the stream anew
    expect(page.locator(".toast")).to_have_text("Deleted")
    page.click("#tab-wizard-button")
    expect(page.locator("#sw-detect h1")).to_be_visible()
    expect(page.locator("body > .lost")).to_have_count(0)

    page.click("text=Continue to model")
    kept = hold(page, "model")
    pressed(page, kept, "#sw-model [type=submit]")
    page.fill('[name="limits.concurrent"]', "3")
    late(page, kept[0])
    expect(page.locator("#sw-model h1")).to_be_visible()
    expect(page.locator("#sw-model .is-busy")).to_have_count(0)
    page.unroute_all()
    page.click("#sw-model [type=submit]")
    kept = hold(page, "engine")
    pressed(page, kept, "#sw-engine [type=submit]")
    page.click("#tab-monitor-button")
    late(page, kept[0])
    expect(page.locator("[data-server]").first).to_be_visible()
    page.click("#tab-wizard-button")
    expect(page.locator("#sw-review h1")).to_be_visible()

    for number in range(20):
        control.begun(f"more-{number}")
    page.click("#tab-history-button")
    shown = page.locator("#sw-history .pager [role=status]")
    expect(shown).to_have_text("1–20 of 21")
    page.locator('[data-history-page]:not([data-history-page="back"])').evaluate("(on) => { on.click(); on.click(); }")
    expect(shown).to_have_text("21–21 of 21")
    page.click('[data-history-page="back"]')
    expect(shown).to_have_text("1–20 of 21")
    assert not [said for said in visitor.faults if "404" not in said]  # of the run that is not there any more


def test_a_page_of_older_files_than_the_panel_s_loads_itself_again(visitor: Visitor) -> None:
    page = visitor.opens()
    page.locator('#sw-detect [data-go="stage:2"]').click()
    page.fill('[name="limits.concurrent"]', "3")
    with page.expect_event("load"):
        page.evaluate("slipway.version = 'older'")
        page.click('[role="tab"]:has-text("Monitor")')  # opens the stream anew
    visitor.ready()
    expect(page.locator('[name="limits.concurrent"]')).to_have_value("3")


def test_a_stream_that_falls_silent_is_opened_again(browser, panel: str) -> None:
    visitor = Visitor(browser, panel)
    visitor.page.clock.install()
    visitor.page.add_init_script("""
        window.deaf = false;
        window.EventSource = class extends EventSource {
            addEventListener(name, hear) { super.addEventListener(name, (event) => { if (!deaf) hear(event); }); }
        };
    """)
    page = visitor.opens()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/slipway/stream" in request.url else None)
    page.evaluate("deaf = true")
    page.clock.fast_forward(15_000)
    assert not asked, "a pause between two beats is no silence"
    page.clock.fast_forward(26_000)
    page.evaluate("deaf = false")
    until(lambda: page.evaluate("1") and asked, what="a new stream")
