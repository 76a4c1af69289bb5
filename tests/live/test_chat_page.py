"""The Chat page in a real browser: kept conversations, branches, two servers, everything by keyboard, nothing lost."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy.exc import OperationalError

from backends.reading import read_json
from backends.runs import State
from backends.spec import Chat, Piece
from backends.steps import Plan
from backends.watched import WatchedServer
from tests.conftest import until
from tests.guides import path
from tests.live.browser import Visitor, close_all, panel_of, serious
from tests.live.test_browser import EVIL
from tests.ui.conftest import ENDPOINT, StillControl, control  # noqa: F401  the fixture

pytestmark = pytest.mark.live
ANSWER = [Piece(text="Hull, "), Piece(text="keel and bow."), Piece(finish="stop", prompt_tokens=4, completion_tokens=5)]


@pytest.fixture
def panel(browser, control: StillControl) -> Iterator[str]:  # noqa: F811
    control.answers = ANSWER
    control.served()
    with panel_of(control) as address:
        yield address
        close_all(browser)


def test_conversations_are_kept_found_named_exported_and_deleted(browser, panel, control) -> None:  # noqa: F811
    visitor = Visitor(browser, panel)
    page = visitor.opens("/?tab=chat")
    visitor.asks("Name three parts of a ship.")
    page.click("[data-chat-new]")
    visitor.asks(EVIL)
    title = page.locator("[data-chat-title]")
    expect(title).to_contain_text("<img src=x")
    visitor.reloads()
    expect(title).to_contain_text("<img src=x")
    expect(page.locator(".bot-row .words")).to_have_text("Hull, keel and bow.")
    rows = page.locator(".talk-row")
    expect(rows).to_have_count(2)
    expect(rows.first).to_contain_text("<img src=x")
    page.fill("[data-chat-search]", "three parts")
    expect(rows).to_have_count(1)
    rows.first.click()
    expect(title).to_have_text("Name three parts of a ship.")
    page.click("[data-chat-rename-open]")
    page.keyboard.type("Parts")
    page.keyboard.press("Enter")
    expect(title).to_have_text("Parts")
    page.fill("[data-chat-search]", "")
    expect(rows.first).to_contain_text("Parts")
    visitor.asks("And a fourth?")
    (row,) = control.conversations("fourth")
    assert [said.content for said in control.conversation(row.id).thread()][::2] == [
        "Name three parts of a ship.", "And a fourth?",
    ]  # fmt: skip
    page.click("[data-chat-export] summary")
    with page.expect_download() as download:
        page.click("[data-chat-export-list] >> text=Markdown")
    assert Path(download.value.path()).read_text(encoding="utf-8").startswith("# Parts\n")
    assert download.value.suggested_filename == "Parts.md"
    page.click("[data-chat-delete]")
    page.get_by_role("button", name="Keep", exact=True).click()
    assert control.count_conversations() == 2
    page.click("[data-chat-delete]")
    page.click("dialog >> .stop")
    expect(rows).to_have_count(1)
    expect(page.locator(".bot-row")).to_have_count(0)
    assert control.count_conversations() == 1
    assert page.evaluate("window.pwned") is None
    assert not visitor.faults


def test_two_servers_answer_one_question_side_by_side(browser, panel: str, control) -> None:  # noqa: F811
    """The second one cannot use bad words: that is said, and only the first is sent them."""
    old = read_json(Plan, path("trtllm-004-llama-2-7b-bf16").read_bytes())
    old = old.model_copy(update={"spec": old.spec.model_copy(update={"name": "second"})})
    second = control.moved(control.start_plan(old).run, State.SERVING, endpoint=ENDPOINT, answer="Hello.")
    visitor = Visitor(browser, panel, color_scheme="dark", bypass_csp=True)
    page = visitor.opens("/?tab=chat")
    words, why = page.locator("#p-bad_words"), page.locator("[data-chat-words]")
    page.select_option("[data-chat-server]", second.id)
    expect(words).to_be_disabled()
    expect(why).to_contain_text("TensorRT-LLM 0.5.0 cannot forbid words")
    page.select_option("[data-chat-server]", label="demo")
    expect(why).to_contain_text("kept out of answers")
    page.select_option("[data-chat-other]", second.id)
    expect(why).to_contain_text("second: TensorRT-LLM 0.5.0")
    page.click("[data-chat-parameters] summary")
    words.fill("sail\nmast")
    page.fill("[data-chat-form] textarea", "Name three parts of a ship.")
    page.keyboard.press("Enter")
    columns = page.locator(".talk")
    for column in (columns.nth(0), columns.nth(1)):
        expect(column.locator(".words")).to_have_text("Hull, keel and bow.")
        expect(column.locator(".ans")).to_contain_text("5 tokens")
    assert [chat.sampling.bad_words for chat in control.heard] == [("sail", "mast"), ()]
    visitor.reloads()
    expect(columns).to_have_count(2)
    expect(columns.nth(1)).to_have_attribute("aria-label", "second")
    expect(page.locator(".words")).to_have_count(2)
    expect(words).to_have_value("sail\nmast")
    assert not serious(page)
    box = [columns.nth(number).bounding_box() for number in range(2)]
    assert box[0]["x"] < box[1]["x"]
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("innerWidth === 390")
    box = [columns.nth(number).bounding_box() for number in range(2)]
    assert box[0]["y"] < box[1]["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.click("[data-chat-list-open]")
    expect(page.locator("[data-chat-search]")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.locator("[data-chat-list-open]")).to_be_focused()
    assert not visitor.faults


def test_a_store_that_is_locked_and_servers_that_are_gone_take_nothing_from_the_page(
    browser,
    panel,
    store,
    monkeypatch,
    control,  # noqa: F811
) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("database is locked"))

    visitor = Visitor(browser, panel)
    page = visitor.opens("/?tab=chat")
    with monkeypatch.context() as patch:
        patch.setattr(store, "make_conversation", locked)
        page.fill("[data-chat-form] textarea", "My long question")
        page.keyboard.press("Enter")
        expect(page.locator(".bubble-wrap .note")).to_contain_text("Another program holds the database")
    expect(page.locator("[data-chat-form] textarea")).to_have_value("My long question")
    page.keyboard.press("Enter")
    expect(page.locator(".words")).to_have_text("Hull, keel and bow.")
    control.add_watched(WatchedServer(name="silent", http_port=1, model="x"))
    page.select_option("[data-chat-server]", label="silent")
    expect(page.locator("[data-chat-about]")).to_contain_text("The server does not answer.")
    control.remove_watched(control.watched()[0].id)
    control.moved(control.serving()[0], State.STOPPED)
    expect(page.locator("[data-chat-send]")).to_be_disabled()
    visitor.reloads()
    expect(page.locator(".words")).to_have_text("Hull, keel and bow.")
    expect(page.locator("[data-chat-form] textarea")).to_have_attribute("placeholder", "Launch a model to go on")


def test_a_whole_chat_by_keyboard_alone_with_answers_read_out(browser, panel: str, control) -> None:  # noqa: F811
    visitor = Visitor(browser, panel, bypass_csp=True)
    page = visitor.opens()
    keys = page.keyboard

    def tab_to(selector: str, key: str = "Tab") -> None:
        for _ in range(60):
            if page.evaluate("(wanted) => document.activeElement?.matches(wanted)", selector):
                return
            keys.press(key)
        raise AssertionError(f"{selector} is not reached")

    tab_to("#tab-chat-button")
    keys.press("Enter")
    page.locator("[data-chat-form] textarea").wait_for()
    tab_to("[data-chat-form] textarea")
    keys.type("Name three parts of a ship.")
    keys.press("Enter")
    said = page.locator("[data-chat-said]")
    expect(said).to_have_text("Hull, keel and bow.")
    assert said.get_attribute("aria-live") == "polite"
    tab_to('.user-row [aria-label="Edit"]', "Shift+Tab")
    keys.press("Enter")
    keys.type("Name one part.")
    control.served("another")
    expect(page.locator("[data-chat-server] option")).to_have_count(2)  # which takes the focus from nothing
    keys.press("Enter")
    expect(page.locator(".user.message")).to_have_text("Name one part.")
    expect(page.locator('.user-row [aria-label="Version 2 of 2"]')).to_be_visible()
    tab_to('.user-row [aria-label="Earlier version"]')
    keys.press("Enter")
    expect(page.locator(".user.message")).to_have_text("Name three parts of a ship.")
    expect(page.locator('.user-row [aria-label="Version 1 of 2"]')).to_be_visible()
    tab_to('.bot-row [aria-label="Again"]')
    keys.press("Enter")
    expect(page.locator('.bot-row [aria-label="Version 2 of 2"]')).to_be_visible()
    (row,) = control.conversations()
    assert len(control.conversation(row.id).messages) == 5
    at_once = """() => {
        document.querySelector('.bot-row [aria-label="Earlier version"]').click();
        document.querySelector('.user-row [aria-label="Later version"]').click();  // before the first is answered
    }"""
    changes: list[str] = []
    page.on("request", lambda asked: changes.append(asked.post_data) if asked.method == "PATCH" else None)
    with page.expect_response(lambda told: told.request.method == "PATCH"):
        page.evaluate(at_once)
    expect(page.locator('.bot-row [aria-label="Version 1 of 2"]')).to_be_visible()
    assert len(changes) == 1
    assert control.conversation(row.id).thread()[0].content == "Name three parts of a ship."
    tab_to('.bot-row [aria-label="View code"]')
    keys.press("Enter")
    expect(page.locator("#code-curl pre")).to_contain_text("generate_stream")
    assert not serious(page)
    tab_to('[data-tab="curl"]')
    keys.press("ArrowRight")
    expect(page.locator("#code-python pre")).to_contain_text("Name three parts of a ship.")
    keys.press("Escape")
    expect(page.locator('.bot-row [aria-label="View code"]')).to_be_focused()
    tab_to("[data-chat-rename-open]", "Shift+Tab")
    keys.press("Enter")
    keys.type("Ships")
    keys.press("Enter")
    expect(page.locator("[data-chat-title]")).to_have_text("Ships")
    tab_to("[data-chat-delete]")
    keys.press("Enter")
    expect(page.locator("dialog")).to_be_visible()
    keys.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    assert control.count_conversations() == 1
    tab_to(".talk-row")
    keys.press("Enter")
    expect(page.locator(".bot-row")).to_have_count(1)
    assert re.search(r"talk=\w+", page.url)
    assert not visitor.faults


def test_whoever_opens_the_chat_from_a_server_chats_with_that_one(browser, panel, control) -> None:  # noqa: F811
    second = control.served("second")
    visitor = Visitor(browser, panel)
    page = visitor.opens("/?tab=chat")
    expect(page.locator("[data-chat-server] option")).to_have_count(2)
    page.select_option("[data-chat-server]", label="demo")
    visitor.asks("Name three parts of a ship.")
    page = visitor.opens(f"/?run={second.id}")
    page.click("text=Open chat")
    expect(page.locator("[data-chat-server]")).to_have_value(second.id)
    expect(page.locator(".bot-row")).to_have_count(0)


async def endless(run_id: str, chat: Chat) -> AsyncIterator[Piece]:
    """An answer that ends only where it is stopped."""
    while True:
        yield Piece(text="word ")
        await asyncio.sleep(0.01)


def test_a_kept_conversation_that_comes_late_takes_nothing_from_the_new_one(browser, panel, control) -> None:  # noqa: F811
    visitor = Visitor(browser, panel)
    page = visitor.opens("/?tab=chat")
    visitor.asks("The first.")
    held: list = []
    page.route(re.compile(r"/slipway/conversations/\w"), lambda route: held.append(route), times=1)
    visitor.reloads()
    page.click("[data-chat-new]")
    with page.expect_response(re.compile(r"/slipway/conversations/\w")) as late:
        visitor.asks("The second.")
        held[0].fallback()
    late.value.finished()
    expect(page.locator("[data-chat-title]")).to_have_text("The second.")
    expect(page.locator(".user-row .message")).to_have_text(["The second."])
    expect(page.locator(".bot-row .words")).to_have_text(["Hull, keel and bow."])

    def hold(address: str, method: str) -> None:
        held.clear()
        page.route(re.compile(address), lambda on: held.append(on) if on.request.method == method else on.fallback())

    def late() -> None:
        until(lambda: page.wait_for_timeout(10) or held)
        with page.expect_response(lambda told: told.request == held[0].request):
            held[0].fallback()
        page.unroute_all()

    title, rows, field = (
        page.locator("[data-chat-title]"),
        page.locator(".talk-row"),
        page.locator("[data-chat-form] textarea"),
    )
    hold(r"/slipway/conversations/\w", "PATCH")
    page.click("[data-chat-rename-open]")
    page.keyboard.type("Renamed")
    page.keyboard.press("Enter")
    rows.filter(has_text="The first.").click()
    expect(title).to_have_text("The first.")
    rows.filter(has_text="The second.").hover()
    page.mouse.down()
    with page.expect_response(re.compile(r"/slipway/conversations\?")) as listed:
        late()
    listed.value.finished()
    expect(title).to_have_text("The first.")
    page.mouse.up()  # the list was to be made anew under the finger: the click is one none the less
    expect(title).to_have_text("Renamed")
    expect(rows.filter(has_text="Renamed")).to_have_count(1)
    rows.filter(has_text="The first.").click()
    expect(title).to_have_text("The first.")
    hold(r"/slipway/conversations/\w", "DELETE")
    page.click("[data-chat-delete]")
    page.click("dialog >> .stop")
    rows.filter(has_text="Renamed").click()
    expect(title).to_have_text("Renamed")
    late()
    expect(rows).to_have_count(1)
    expect(title).to_have_text("Renamed")
    control.chat = endless
    hold("/slipway/chat$", "POST")
    field.fill("The third.")
    field.press("Enter")
    page.click("[data-chat-stop]")
    late()
    expect(page.locator(".bot-row .ans").last).to_contain_text("Stopped by you")
    del control.chat
    page.locator('.bot-row [aria-label="Again"]').last.click()
    expect(page.locator('.bot-row [aria-label="Version 2 of 2"]')).to_be_visible()

    page.locator('.user-row [aria-label="Edit"]').first.click()
    page.keyboard.type("Half a ")
    other = control.served("other")
    servers = page.locator("[data-chat-server] option")
    expect(servers).to_have_count(2)
    page.keyboard.type("question")
    expect(page.locator(".edit-form textarea")).to_have_value("Half a question")
    page.keyboard.press("Escape")
    page.select_option("[data-chat-server]", other.id)
    control.moved(other, State.RUNNING)  # its server ended and is started again
    expect(servers).to_have_count(1)
    control.moved(other, State.SERVING)
    expect(page.locator("[data-chat-server]")).to_have_value(other.id)
    field.fill("Not sent yet")
    visitor.reloads()
    expect(field).to_have_value("Not sent yet")
    assert not visitor.faults
