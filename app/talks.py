"""The use cases about conversations: kept, branched, searched, exported; a question and what its answer comes to.

An answer is kept before its first word, marked as cut short, and its mark is taken away when it is whole: whatever ends
the panel or the page, the store never holds a question whose answer looks finished and is not.
"""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, ParamSpec, Self, TypeVar

from pydantic import Field, model_validator
from sqlalchemy.exc import OperationalError

from backends import conversations
from backends.conversations import Conversation, ConversationName, ConversationSummary, Role, Said
from backends.errors import BadInput
from backends.reading import read
from backends.servers import Server
from backends.spec import Chat, Frozen, Sampling, refusal
from backends.text import Language, Text
from storage.database import not_kept
from storage.store import Store

P = ParamSpec("P")
R = TypeVar("R")

QUESTION_LENGTH = 1_000_000  # characters; far more than any context, far less than hurts the panel
_PAGE = Text(en="The page still holds your words.", zh="页面仍保留内容。")


def told(do: Callable[P, R]) -> Callable[P, R]:
    """Says in words what the database refuses. Raises NotKept."""
    return _told(do, None)


def told_to_asker(do: Callable[P, R]) -> Callable[P, R]:
    """The same to one who has just written something. Raises NotKept."""
    return _told(do, _PAGE)


def _told(do: Callable[P, R], more: Text | None) -> Callable[P, R]:
    @functools.wraps(do)
    def carried_out(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return do(*args, **kwargs)
        except OperationalError as error:
            raise not_kept(error, more) from error

    return carried_out


class Question(Frozen):
    """What is asked, and where it stands: at the end of a conversation (a new one if none is named), in the place of an
    earlier message (`instead_of`), or a question that was asked already and is to be answered again (`again`)."""

    server: str
    text: Annotated[str, Field(max_length=QUESTION_LENGTH)] = ""
    conversation: str | None = None
    twin: str | None = None  # of a new conversation: the one that is asked the same beside it
    instead_of: int | None = None
    again: int | None = None
    system: Annotated[str, Field(max_length=QUESTION_LENGTH)] = ""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.again is None and not self.text.strip():
            raise refusal("There is nothing to answer. Write a question.", "没有内容可回答，请输入问题。", "text")
        if self.conversation is None and (self.again is not None or self.instead_of is not None):
            raise refusal("Name the conversation.", "请指定对话。", "conversation")
        return self


class Begun(Frozen):
    """An answer that is to come: what to send, and the message that is kept for it."""

    server: str
    conversation: str
    name: str
    question: Said
    answer: Said
    chat: Chat
    beside_question: tuple[int, ...] = ()
    beside_answer: tuple[int, ...] = ()


class Talks:
    """What is said, over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- conversations --------------------------------------------------------------------------------------------

    @told
    def make_conversation(
        self,
        server: Server,
        name: str = "",
        system: str = "",
        sampling: Sampling | None = None,
        twin: str | None = None,
    ) -> Conversation:
        """A new conversation with a server; without a name, what is said first will name it."""
        name = read(ConversationName, {"name": name}).name if name else ""
        return self._store.make_conversation(
            secrets.token_hex(8), name, server.id, server.engine, server.model, system, sampling or Sampling(), twin
        )

    @told
    def conversation(self, conversation_id: str) -> Conversation:
        """A conversation whole, with every branch. Raises NotFound."""
        return self._store.conversation(conversation_id)

    @told
    def conversations(
        self, query: str = "", limit: int = 50, before: tuple[datetime, str] | None = None
    ) -> tuple[ConversationSummary, ...]:
        """A page of the list, what was spoken last first; `before` is the (updated_at, id) of the row above."""
        return self._store.conversations(query, limit, before)

    @told
    def count_conversations(self, query: str = "") -> int:
        """How many conversations the filter finds."""
        return self._store.count_conversations(query)

    @told
    def rename_conversation(self, conversation_id: str, name: str) -> None:
        """Gives it another name. Raises NotFound, BadInput."""
        self._store.change_conversation(conversation_id, name=read(ConversationName, {"name": name}).name)

    @told
    def show_branch(self, conversation_id: str, message_id: int) -> Conversation:
        """Shows the newest branch through a message. Raises NotFound."""
        return self._store.show_branch(conversation_id, message_id)

    @told
    def export_conversation(
        self, conversation_id: str, kind: Literal["json", "markdown"], language: Language = "en"
    ) -> str:
        """As JSON with every branch, or as Markdown with the branch that is shown. Raises NotFound."""
        found = self._store.conversation(conversation_id)
        return conversations.as_json(found) if kind == "json" else conversations.as_markdown(found, language)

    @told
    def delete_conversation(self, conversation_id: str) -> None:
        """Forgets a conversation. Raises NotFound."""
        self._store.delete_conversation(conversation_id)

    # --- questions and answers ------------------------------------------------------------------------------------

    @told_to_asker
    def append_message(
        self,
        conversation_id: str,
        role: Role,
        content: str,
        figures: Mapping[str, int | float | str | bool | None] | None = None,
        parent: int | None = None,
    ) -> Said:
        """Keeps what was said, behind the branch that is shown or behind `parent` (an answer asked for again: its
        question). The first words name a conversation without a name. Raises NotFound."""
        said = self._store.append_message(conversation_id, role, content, figures, parent)
        if said.position == 0 and not self._store.conversation(conversation_id).name:
            name = conversations.name_from(content)
            if name:
                self._store.change_conversation(conversation_id, name=name)
        return said

    @told_to_asker
    def edit_message(self, conversation_id: str, message_id: int, content: str) -> Said:
        """Says something else in its place; the old message and what followed stay as a branch. Raises NotFound."""
        return self._store.edit_message(conversation_id, message_id, content)

    @told_to_asker
    def begin_answer(self, server: Server, asked: Question) -> Begun:
        """Keeps the question, and a place for its answer. Raises NotFound, BadInput, NotKept."""
        found = None if asked.conversation is None else self._store.conversation(asked.conversation)
        if found is None:
            found = self.make_conversation(server, "", asked.system, asked.sampling, asked.twin)
        elif (found.run, found.system, found.sampling) != (server.id, asked.system, asked.sampling):
            self._store.change_conversation(
                found.id, system=asked.system, sampling=asked.sampling, run=(server.id, server.engine, server.model)
            )
        question = self._question(found, asked)
        placed = {"server": server.name, "state": "cut"}
        answer = self._store.append_message(found.id, "assistant", "", placed, question.id)
        found = self._store.conversation(found.id)
        chat = found.chat(question.id)
        if chat is None:
            raise BadInput("text", Text(en="There is nothing to answer.", zh="没有内容可回答。"))
        return Begun(
            server=server.name, conversation=found.id, name=found.name, question=question, answer=answer, chat=chat,
            beside_question=found.beside(question.id), beside_answer=found.beside(answer.id),
        )  # fmt: skip

    def _question(self, found: Conversation, asked: Question) -> Said:
        if asked.again is not None:
            question = next((one for one in found.messages if one.id == asked.again and one.role == "user"), None)
            if question is None:
                raise BadInput(
                    "again", Text(en="There is no such question in this conversation.", zh="此对话中没有这个问题。")
                )
            return question
        if asked.instead_of is not None:
            return self.edit_message(found.id, asked.instead_of, asked.text)
        return self.append_message(found.id, "user", asked.text)

    @told_to_asker
    def keep_answer(self, begun: Begun, content: str, figures: Mapping[str, Any]) -> None:
        """What the answer has come to so far, or in the end. Raises NotFound where it was deleted, NotKept."""
        self._store.finish_message(begun.conversation, begun.answer.id, content, {"server": begun.server, **figures})
