"""Conversations: kept in branches, searched, paged, exported, forgotten."""

from __future__ import annotations

import json
import sqlite3

import pytest
from sqlalchemy.exc import OperationalError

from app.kept import Kept
from app.talks import Question
from backends.conversations import as_markdown, name_from
from backends.errors import BadInput, NotFound, NotKept
from backends.reading import read
from backends.servers import Server
from backends.spec import Endpoint, Message, Sampling
from storage.store import Store
from tests.plans import plan

ENDPOINT = Endpoint(http_port=1, grpc_port=2, metrics_port=3, model="chat")
DEMO = Server(id="demo-1", name="demo", engine="transformers", model="demo", endpoint=ENDPOINT)


@pytest.fixture
def kept(store: Store) -> Kept:
    """The use cases over a store with one run, demo-1."""
    store.begin("demo-1", plan())
    return Kept(store)


def words(kept: Kept, conversation_id: str) -> list[str]:
    """What the branch that is shown says."""
    return [said.content for said in kept.conversation(conversation_id).thread()]


@pytest.fixture
def talk(kept: Kept) -> str:
    """A conversation of two questions and two answers."""
    made = kept.make_conversation(DEMO, system="Be brief.", sampling=Sampling(temperature=0.5))
    for role, content in (("user", "Why?"), ("assistant", "Because."), ("user", "And?"), ("assistant", "Also.")):
        kept.append_message(made.id, role, content, {"tokens": 2} if role == "assistant" else None)
    return made.id


def test_a_conversation_comes_back_as_it_was_kept(kept: Kept, talk: str) -> None:
    found = kept.conversation(talk)
    assert (found.run, found.engine, found.model, found.system) == ("demo-1", "transformers", "demo", "Be brief.")
    assert words(kept, talk) == ["Why?", "Because.", "And?", "Also."]
    assert [said.position for said in found.thread()] == [0, 1, 2, 3]
    assert found.thread()[1].figures == {"tokens": 2}


def test_what_is_sent_is_the_system_prompt_and_the_branch(kept: Kept, talk: str) -> None:
    chat = kept.conversation(talk).chat()
    assert chat.messages[0] == Message(role="system", content="Be brief.")
    assert [turn.content for turn in chat.messages[1:]] == ["Why?", "Because.", "And?", "Also."]
    assert chat.sampling.temperature == 0.5
    assert kept.make_conversation(DEMO).chat() is None


def test_an_edit_begins_a_branch_and_loses_nothing(kept: Kept, talk: str) -> None:
    first, _, second, _ = kept.conversation(talk).thread()
    edited = kept.edit_message(talk, second.id, "But?")
    kept.append_message(talk, "assistant", "No but.")
    assert words(kept, talk) == ["Why?", "Because.", "But?", "No but."]
    assert kept.conversation(talk).beside(edited.id) == (second.id, edited.id)
    kept.show_branch(talk, second.id)
    assert words(kept, talk) == ["Why?", "Because.", "And?", "Also."]
    again = kept.edit_message(talk, first.id, "How?")
    assert words(kept, talk) == ["How?"]
    assert (again.position, again.parent) == (0, None)
    assert len(kept.conversation(talk).messages) == 7


def test_an_answer_asked_for_again_stands_beside_the_first(kept: Kept, talk: str) -> None:
    question = kept.conversation(talk).thread()[2]
    again = kept.append_message(talk, "assistant", "Moreover.", parent=question.id)
    assert words(kept, talk)[-1] == "Moreover."
    assert len(kept.conversation(talk).beside(again.id)) == 2
    kept.show_branch(talk, question.id)
    assert words(kept, talk)[-1] == "Moreover."


def test_a_message_of_another_conversation_is_not_found(kept: Kept, talk: str) -> None:
    other = kept.make_conversation(DEMO).id
    foreign = kept.conversation(talk).head
    for act in (
        lambda: kept.edit_message(other, foreign, "x"),
        lambda: kept.append_message(other, "user", "x", parent=foreign),
        lambda: kept.show_branch(other, foreign),
        lambda: kept.append_message("nothing", "user", "x"),
        lambda: kept.rename_conversation("nothing", "x"),
        lambda: kept.delete_conversation("nothing"),
        lambda: kept.conversation("nothing"),
    ):
        with pytest.raises(NotFound):
            act()
    assert kept.conversation(other).messages == ()


def test_the_first_words_name_a_conversation_that_has_no_name(kept: Kept, talk: str) -> None:
    assert kept.conversation(talk).name == "Why?"
    kept.rename_conversation(talk, "  On reasons ")
    kept.append_message(talk, "user", "More?")
    assert kept.conversation(talk).name == "On reasons"
    assert name_from("line one\n\tline two " + "x" * 100) == "line one line two " + "x" * 41 + "…"


@pytest.mark.parametrize("name", ["", " ", "two\nlines", "\x1b[31m", "x" * 121])
def test_a_name_can_be_shown(kept: Kept, talk: str, name: str) -> None:
    with pytest.raises(BadInput) as refused:
        kept.rename_conversation(talk, name)
    assert refused.value.field == "name"


def test_names_and_words_are_searched(kept: Kept, talk: str) -> None:
    other = kept.make_conversation(DEMO, name="50% of 天气").id
    assert [row.id for row in kept.conversations("BECAUSE")] == [talk]
    assert [row.id for row in kept.conversations("天气")] == [other]
    assert [row.id for row in kept.conversations("50%")] == [other]
    assert kept.conversations("5%0") == ()
    assert kept.count_conversations("demo") == 2
    assert kept.count_conversations("ever") == 0


def test_pages_join_without_gap_or_overlap_newest_first(kept: Kept) -> None:
    made = [kept.make_conversation(DEMO, name=f"talk {number}").id for number in range(25)]
    kept.append_message(made[3], "user", "last")
    seen, before = [], None
    while page := kept.conversations(limit=10, before=before):
        seen += [row.id for row in page]
        before = (page[-1].updated_at, page[-1].id)
    assert seen == [made[3], *(one for one in reversed(made) if one != made[3])]
    assert kept.count_conversations() == 25


def test_a_deleted_conversation_leaves_no_word(kept: Kept, talk: str, store: Store) -> None:
    kept.delete_conversation(talk)
    assert kept.conversations() == ()
    assert kept.count_conversations("Because") == 0
    with store._read() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM message").scalar() == 0


def test_another_server_goes_on_where_the_first_one_ended(kept: Kept, talk: str) -> None:
    other = DEMO.model_copy(update={"id": "other-1", "name": "other"})
    asked = Question(server="other-1", conversation=talk, text="Well?", system="Be long.", sampling=Sampling(seed=4))
    begun = kept.begin_answer(other, asked)
    found = kept.conversation(talk)
    assert (found.run, found.system, found.sampling) == ("other-1", "Be long.", Sampling(seed=4))
    assert [turn.content for turn in begun.chat.messages] == ["Be long.", "Why?", "Because.", "And?", "Also.", "Well?"]
    assert begun.chat.sampling.seed == 4


def test_an_answer_is_marked_as_cut_short_until_it_is_whole(kept: Kept) -> None:
    begun = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?"))
    assert kept.conversation(begun.conversation).thread()[-1].figures == {"server": "demo", "state": "cut"}
    kept.keep_answer(begun, "Because.", {"tokens": 2, "finish": "stop"})
    last = kept.conversation(begun.conversation).thread()[-1]
    assert (last.content, last.figures) == ("Because.", {"server": "demo", "tokens": 2, "finish": "stop"})


def test_a_question_is_edited_and_answered_again_in_branches(kept: Kept) -> None:
    first = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?"))
    talk = first.conversation
    kept.keep_answer(first, "Because.", {})
    again = kept.begin_answer(DEMO, Question(server="demo-1", conversation=talk, again=first.question.id))
    assert again.question == first.question
    assert again.beside_answer == (first.answer.id, again.answer.id)
    edited = kept.begin_answer(
        DEMO, Question(server="demo-1", conversation=talk, instead_of=first.question.id, text="How?")
    )
    assert [turn.content for turn in edited.chat.messages] == ["How?"]
    assert edited.beside_question == (first.question.id, edited.question.id)


def test_a_question_whose_answer_never_began_is_not_sent_again(kept: Kept) -> None:
    lost = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?"))
    begun = kept.begin_answer(DEMO, Question(server="demo-1", conversation=lost.conversation, text="And?"))
    assert [turn.content for turn in begun.chat.messages] == ["And?"]


def test_two_that_are_asked_the_same_know_each_other_until_one_is_deleted(kept: Kept) -> None:
    one = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?")).conversation
    two = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?", twin=one)).conversation
    assert [kept.conversation(talk).twin for talk in (one, two)] == [two, one]
    kept.delete_conversation(one)
    assert kept.conversation(two).twin is None


@pytest.mark.parametrize(
    ("words", "said"), [("database is locked", "Another program"), ("disk is full", "disk is full")]
)
def test_a_store_that_cannot_be_written_is_said_in_words(kept: Kept, store: Store, monkeypatch, words, said) -> None:
    def refuse(*_: object) -> None:
        raise OperationalError("", {}, sqlite3.OperationalError(words))

    monkeypatch.setattr(store, "make_conversation", refuse)
    with pytest.raises(NotKept) as refused:
        kept.begin_answer(DEMO, Question(server="demo-1", text="Why?"))
    assert said in refused.value.message.en


@pytest.mark.parametrize("told", [{}, {"text": " "}, {"text": "x", "instead_of": 1}, {"again": 1}])
def test_what_is_no_question_is_refused(told: dict) -> None:
    with pytest.raises(BadInput):
        read(Question, {"server": "demo-1", **told})


def test_an_answer_that_is_not_whole_is_marked_in_the_export(kept: Kept) -> None:
    begun = kept.begin_answer(DEMO, Question(server="demo-1", text="Why?"))
    kept.keep_answer(begun, "Bec", {"state": "stopped"})
    assert kept.export_conversation(begun.conversation, "markdown").endswith("## Model (stopped)\n\nBec\n")


def test_json_has_every_branch_and_markdown_the_one_that_is_shown(kept: Kept, talk: str) -> None:
    kept.edit_message(talk, kept.conversation(talk).thread()[2].id, "But?")
    told = json.loads(kept.export_conversation(talk, "json"))
    assert told["version"] == 1
    assert len(told["conversation"]["messages"]) == 5
    text = kept.export_conversation(talk, "markdown")
    assert text.startswith("# Why?\n")
    assert text.endswith("## You\n\nBut?\n")
    assert "Also." not in text
    assert "## 模型\n\nBecause." in as_markdown(kept.conversation(talk), "zh")
