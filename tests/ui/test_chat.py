"""The Chat page's routes: a question and its answer, what is kept of it however it ends, the list, the code."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from app import answering
from app.answering import UPDATE_S, gathered, lines
from app.talks import Question
from app.web import web
from backends.errors import Unreachable
from backends.spec import Chat, Piece
from backends.text import Text
from tests.ui.conftest import StillControl

ORIGIN = "http://127.0.0.1:7860"
EVIL = "<img src=x onerror=alert(1)>"


@pytest.fixture
def panel(control: StillControl) -> Iterator[TestClient]:
    with TestClient(web(control, control.settings, None), base_url=ORIGIN) as client:
        yield client


def told(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def ask(panel: TestClient, server: str, text: str = "Hi", **more: object):
    return panel.post("/slipway/chat", json={"server": server, "text": text, **more})


def talk_of(control: StillControl, text: str = "Hi", answer: str = "Hello") -> str:
    """A conversation of one question and its answer."""
    server = control.server(control.served().id)
    begun = control.begin_answer(server, Question(server=server.id, text=text))
    control.keep_answer(begun, answer, {"tokens": 1, "finish": "stop"})
    return begun.conversation


def test_an_answer_is_streamed_with_its_figures_and_kept(panel: TestClient, control: StillControl) -> None:
    control.answers = [Piece(text="Hel"), Piece(text="lo"), Piece(finish="stop", prompt_tokens=3, completion_tokens=2)]
    found = told(ask(panel, control.served().id, sampling={"temperature": 0}).text)
    assert "".join(line.get("text", "") for line in found) == "Hello"
    done = found[-1]["done"]
    assert (done["finish"], done["tokens"], done["prompt_tokens"]) == ("stop", 2, 3)
    assert 0 <= done["ttft"] <= done["seconds"]
    assert control.heard[0].sampling.temperature == 0
    assert control.closed
    kept = panel.get(f"/slipway/conversations/{found[0]['kept']['conversation']}").json()
    assert [turn["content"] for turn in kept["thread"]] == ["Hi", "Hello"]
    assert kept["thread"][1]["figures"] == {"server": "demo", **done}
    assert (kept["name"], kept["sampling"]) == ("Hi", {"temperature": 0.0, "stop": [], "bad_words": []})


def test_what_goes_wrong_behind_an_answer_is_said_and_kept_in_both_languages(panel: TestClient, control) -> None:
    control.answers = [Piece(text="Hel"), Unreachable(Text(en="It is gone.", zh="无法连接。"))]
    run = control.served()
    panel.cookies.set("slipway_language", "zh")
    found = told(ask(panel, run.id).text)
    assert found[1]["text"] == "Hel"
    assert found[-1]["trouble"]["title"] == "无法连接。"
    last = control.conversation(found[0]["kept"]["conversation"]).thread()[-1]
    assert last.content == "Hel"
    assert (last.figures["state"], last.figures["trouble_en"]) == ("failed", "It is gone.")


async def test_what_had_come_when_the_page_went_away_is_kept_and_marked(control, monkeypatch) -> None:
    monkeypatch.setattr(answering, "KEEP_S", 0.0)
    closed = asyncio.Event()

    async def endless(_run: str, _chat: Chat) -> AsyncIterator[Piece]:
        try:
            while True:
                yield Piece(text="word ")
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    control.chat = endless
    server = control.server(control.served().id)
    begun = control.begin_answer(server, Question(server=server.id, text="Go on"))
    async with aclosing(lines(control, begun, server.id, "en")) as parts:
        async for _ in parts:  # while it grows it is kept too, as a panel that is killed would leave it
            last = control.conversation(begun.conversation).thread()[-1]
            if last.content:
                break
        assert last.figures["state"] == "cut"
    await asyncio.wait_for(closed.wait(), 30)
    async with asyncio.timeout(30):
        while last.figures["state"] == "cut":
            await asyncio.sleep(0.02)
            last = control.conversation(begun.conversation).thread()[-1]
    assert last.content.startswith("word ")
    assert last.figures["state"] == "stopped"


def test_an_answer_that_cannot_be_kept_still_reaches_the_page(panel, control: StillControl, store, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("database or disk is full"))

    control.answers = [Piece(text="Hello"), Piece(finish="stop", completion_tokens=1)]
    monkeypatch.setattr(store, "finish_message", full)
    found = told(ask(panel, control.served().id).text)
    assert found[1]["text"] == "Hello"
    assert "disk is full" in found[-1]["unkept"]["title"]


def test_a_locked_store_refuses_the_question_before_the_server_is_asked(panel, control, store, monkeypatch) -> None:
    def locked(*_: object) -> None:
        raise OperationalError("", {}, sqlite3.OperationalError("database is locked"))

    monkeypatch.setattr(store, "make_conversation", locked)
    answer = ask(panel, control.served().id)
    assert answer.status_code == 503
    assert "Another program" in answer.json()["title"]
    assert not control.heard


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'{"server": "x"}', b'{"server": "x", "text": ""}', b'{"text": "x", "sampling": 3}']
)
def test_what_is_no_question_is_refused(panel: TestClient, body: bytes) -> None:
    answer = panel.post("/slipway/chat", content=body)
    assert answer.status_code == 400
    assert answer.json()["title"]


def test_a_question_to_nobody_is_refused(panel: TestClient, control: StillControl) -> None:
    assert ask(panel, "nobody").status_code == 404
    assert ask(panel, control.begun().id).status_code == 409
    assert control.count_conversations() == 0


def test_the_list_is_searched_and_paged_newest_first(panel: TestClient, control: StillControl) -> None:
    server = control.server(control.served().id)
    for number in range(35):
        control.begin_answer(server, Question(server=server.id, text=f"question {number}"))
    first = panel.get("/slipway/conversations").json()
    assert (first["total"], first["more"], first["rows"][0]["name"]) == (35, True, "question 34")
    last = first["rows"][-1]
    second = panel.get("/slipway/conversations", params={"at": last["updated_at"], "id": last["id"]}).json()
    assert [row["name"] for row in second["rows"]] == [f"question {n}" for n in range(4, -1, -1)]
    assert not second["more"]
    found = panel.get("/slipway/conversations", params={"query": "question 17"}).json()
    assert [row["name"] for row in found["rows"]] == ["question 17"]


def test_a_conversation_is_renamed_leafed_through_and_deleted(panel: TestClient, control: StillControl) -> None:
    talk = talk_of(control)
    url = f"/slipway/conversations/{talk}"
    question = control.conversation(talk).thread()[0]
    server = control.server(control.conversation(talk).run)
    control.begin_answer(server, Question(server=server.id, conversation=talk, instead_of=question.id, text="Ho"))
    assert panel.get(url).json()["thread"][0]["beside"] == [1, 3]
    shown = panel.patch(url, json={"name": "Greetings", "branch": question.id}).json()
    assert (shown["name"], [turn["content"] for turn in shown["thread"]]) == ("Greetings", ["Hi", "Hello"])
    assert panel.patch(url, json={"name": " "}).status_code == 400
    assert panel.delete(url).status_code == 200
    for answer in (panel.get(url), panel.delete(url), panel.patch(url, json={"name": "x"})):
        assert answer.status_code == 404


def test_an_export_is_a_file_that_nothing_carries_out(panel: TestClient, control: StillControl) -> None:
    talk = talk_of(control, EVIL, EVIL)
    markdown = panel.get(f"/slipway/conversations/{talk}/export?as=markdown&lang=zh")
    assert markdown.headers["content-type"].startswith("text/markdown")
    assert "## 你" in markdown.text
    told_json = panel.get(f"/slipway/conversations/{talk}/export?as=json")
    assert told_json.json()["conversation"]["messages"][1]["content"] == EVIL
    for answer in (markdown, told_json):
        assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''img-src")
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert panel.get(f"/slipway/conversations/{talk}/export?as=exe").status_code == 400


def test_another_site_can_neither_change_nor_delete(panel: TestClient, control: StillControl) -> None:
    url = f"/slipway/conversations/{talk_of(control)}"
    headers = {"origin": "https://evil.example"}
    assert panel.delete(url, headers=headers).status_code == 403
    assert panel.patch(url, json={"name": "x"}, headers=headers).status_code == 403


def test_a_request_is_shown_as_code_with_its_server_and_parameters(panel: TestClient, control: StillControl) -> None:
    chat = {"messages": [{"role": "user", "content": "What's up?"}], "sampling": {"temperature": 0, "max_tokens": 7}}
    found = panel.post("/slipway/code", json={"server": control.served().id, "chat": chat}).json()
    texts = {one["kind"]: one["text"] for one in found["programs"]}
    assert set(texts) == {"curl", "python", "openai"}
    assert "http://127.0.0.1:8000/v2/models/chat/generate_stream" in texts["curl"]
    assert "127.0.0.1:8001" in texts["python"]
    assert f"{ORIGIN}/v1" in texts["openai"]
    for text in texts.values():
        assert "max_tokens" in text
    assert found["prompt"] is None
    assert found["no_prompt"]


async def test_parts_of_an_answer_come_at_once_first_and_then_gathered() -> None:
    async def quick() -> AsyncIterator[int]:
        for number in range(1000):
            yield number
            await asyncio.sleep(0.0005)

    loop = asyncio.get_running_loop()
    parts: list[tuple[float, list[int]]] = []
    begun = loop.time()
    async for part in gathered(quick(), UPDATE_S):
        parts.append((loop.time() - begun, part))
    assert [number for _, part in parts for number in part] == list(range(1000))
    assert len(parts[0][1]) < 10
    assert len(parts) <= parts[-1][0] / UPDATE_S + 3


async def test_a_slow_answer_is_not_held_back() -> None:
    gate = asyncio.Event()

    async def slow() -> AsyncIterator[str]:
        yield "one"
        yield "two"
        await gate.wait()
        yield "three"

    parts = gathered(slow(), UPDATE_S)
    got: list[str] = []
    async with asyncio.timeout(30):
        while got != ["one", "two"]:
            got += await anext(parts)
        gate.set()
        assert await anext(parts) == ["three"]
        with pytest.raises(StopAsyncIteration):
            await anext(parts)


async def test_an_answer_that_nobody_reads_any_more_is_closed_at_its_source() -> None:
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
                await asyncio.sleep(0.001)
        finally:
            closed.set()

    parts = gathered(endless(), UPDATE_S)
    await anext(parts)
    await parts.aclose()
    await asyncio.wait_for(closed.wait(), 30)


async def test_a_fault_of_the_source_reaches_the_reader() -> None:
    async def faulty() -> AsyncIterator[int]:
        yield 1
        raise ValueError("broken")

    got: list[int] = []
    with pytest.raises(ValueError, match="broken"):
        async for part in gathered(faulty(), UPDATE_S):
            got += part
    assert got == [1]
