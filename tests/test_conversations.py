"""Conversations: kept in branches, searched, paged, exported, forgotten."""

from __future__ import annotations

import json

import pytest

from app.kept import Kept
from backends.conversations import as_markdown, name_from
from backends.errors import BadInput, NotFound
from backends.spec import Message, Sampling
from storage.store import Store
from tests.plans import plan


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
    made = kept.make_conversation("demo-1", system="Be brief.", sampling=Sampling(temperature=0.5))
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
    assert kept.make_conversation("demo-1").chat() is None


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
    other = kept.make_conversation("demo-1").id
    foreign = kept.conversation(talk).head
    for act in (
        lambda: kept.edit_message(other, foreign, "x"),
        lambda: kept.append_message(other, "user", "x", parent=foreign),
        lambda: kept.show_branch(other, foreign),
        lambda: kept.append_message("nothing", "user", "x"),
        lambda: kept.rename_conversation("nothing", "x"),
        lambda: kept.delete_conversation("nothing"),
        lambda: kept.conversation("nothing"),
        lambda: kept.make_conversation("nothing"),
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
    other = kept.make_conversation("demo-1", name="50% of 天气").id
    assert [row.id for row in kept.conversations("BECAUSE")] == [talk]
    assert [row.id for row in kept.conversations("天气")] == [other]
    assert [row.id for row in kept.conversations("50%")] == [other]
    assert kept.conversations("5%0") == ()
    assert kept.count_conversations("demo") == 2
    assert kept.count_conversations("ever") == 0


def test_pages_join_without_gap_or_overlap_newest_first(kept: Kept) -> None:
    made = [kept.make_conversation("demo-1", name=f"talk {number}").id for number in range(25)]
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


def test_another_server_can_go_on(kept: Kept, talk: str, store: Store) -> None:
    store.begin("other-1", plan(name="other"))
    kept.move_conversation(talk, "other-1")
    kept.steer_conversation(talk, system="Be long.", sampling=Sampling(seed=4))
    found = kept.conversation(talk)
    assert (found.run, found.system, found.sampling) == ("other-1", "Be long.", Sampling(seed=4))


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
