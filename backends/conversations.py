"""Conversations that are kept: a tree of messages, of which one branch is shown. Pure.

Editing a message or asking again never overwrites: the new message becomes another child of the same parent, and the
conversation's `head`, the last message of the branch that is shown, moves to it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from backends.spec import Chat, Frozen, Message, Sampling, refusal
from backends.text import Language, Text

EXPORT_VERSION = 1
NAME_LENGTH = 120

Role = Literal["user", "assistant"]  # the system prompt is the conversation's own
State = Literal["stopped", "cut", "failed"]  # of an answer: its reader left or stopped it; the panel ended; an error


def _one_line(name: str) -> str:
    if not name.strip() or not name.isprintable():
        raise refusal("Write a name of letters that can be shown, on one line.", "请用可见字符填写一行名称。")
    return name.strip()


class ConversationName(Frozen):
    """What a person calls a conversation."""

    name: Annotated[str, Field(min_length=1, max_length=NAME_LENGTH), AfterValidator(_one_line)]


class Said(Frozen):
    """One message. `position` counts from 0 along its branch, `parent` is the message before it, None for a first one.

    `figures` is what was measured of an answer, as the page shows it: seconds, tokens, tokens/s, why it ended, who
    spoke (`server`). `state` is a `State` where the answer is not whole.
    """

    id: int
    parent: int | None
    position: int
    role: Role
    content: str
    figures: dict[str, int | float | str | bool | None] = {}
    at: datetime


class ConversationSummary(Frozen):
    """One row of the list: what can be shown without reading the messages. Times are aware UTC."""

    id: str
    name: str
    run: str | None
    engine: str
    model: str
    created_at: datetime
    updated_at: datetime
    twin: str | None = None  # another conversation that is asked the same, shown next to this one


class Conversation(ConversationSummary):
    """A conversation whole, with every branch, oldest message first."""

    system: str = ""
    sampling: Sampling = Sampling()
    head: int | None = None
    messages: tuple[Said, ...] = ()

    def thread(self, head: int | None = None) -> tuple[Said, ...]:
        """The branch that ends at `head`, or the one that is shown."""
        by_id: dict[int | None, Said] = {message.id: message for message in self.messages}
        one = by_id.get(self.head if head is None else head)
        branch = []
        while one is not None:
            branch.append(one)
            one = by_id.get(one.parent)
        return tuple(reversed(branch))

    def beside(self, message_id: int) -> tuple[int, ...]:
        """The messages in the same place, itself among them, oldest first: what a person can leaf through."""
        parents = {message.id: message.parent for message in self.messages}
        if message_id not in parents:
            return ()
        return tuple(one.id for one in self.messages if one.parent == parents[message_id])

    def newest_leaf(self, message_id: int) -> int:
        """The end of the newest branch through a message."""
        children: dict[int | None, int] = {one.parent: one.id for one in self.messages}  # the newest child wins
        while message_id in children:
            message_id = children[message_id]
        return message_id

    def chat(self, head: int | None = None) -> Chat | None:
        """What is sent to a server for the next answer, after `head` or the branch that is shown.

        A question whose answer never began is left out with it: many templates want the two to take turns. None where
        nothing has been said.
        """
        turns: list[Message] = []
        for one in self.thread(head):
            if one.role == "assistant" and not one.content:
                turns = turns[:-1]
                continue
            if turns and turns[-1].role == one.role:
                turns = turns[:-1]
            turns.append(Message(role=one.role, content=one.content))
        if not turns:
            return None
        system = [Message(role="system", content=self.system)] if self.system else []
        return Chat(messages=(*system, *turns), sampling=self.sampling)


def name_from(first_words: str) -> str:
    """A name for a conversation that was given none: the beginning of what was said first."""
    shown = "".join(letter if letter.isprintable() else " " for letter in first_words)
    words = " ".join(shown.split())
    return words if len(words) <= 60 else f"{words[:59].rstrip()}…"


UNNAMED = Text(en="New conversation", zh="新对话")
_SYSTEM = Text(en="System prompt", zh="系统提示词")
_STATES: Mapping[str, Text] = {
    "stopped": Text(en="stopped", zh="已停止"),
    "cut": Text(en="cut short", zh="中断"),
    "failed": Text(en="failed", zh="失败"),
}
_ROLES: Mapping[Role, Text] = {"user": Text(en="You", zh="你"), "assistant": Text(en="Model", zh="模型")}


def as_json(conversation: Conversation) -> str:
    """The whole conversation with every branch, for programs."""
    told: dict[str, Any] = {"version": EXPORT_VERSION, "conversation": conversation.model_dump(mode="json")}
    return json.dumps(told, ensure_ascii=False, indent=2) + "\n"


def as_markdown(conversation: Conversation, language: Language = "en") -> str:
    """The branch that is shown, for people. What was said is Markdown already and stands as it is."""
    lines = [f"# {conversation.name or UNNAMED.of(language)}", "", f"{conversation.model} · {conversation.engine} · "
             f"{conversation.created_at:%Y-%m-%d %H:%M} UTC"]  # fmt: skip
    turns: Sequence[tuple[str, str]] = [
        *([(_SYSTEM.of(language), conversation.system)] if conversation.system else []),
        *((_who(one, language), one.content) for one in conversation.thread()),
    ]
    for who, words in turns:
        lines += ["", f"## {who}", "", words]
    return "\n".join(lines) + "\n"


def _who(one: Said, language: Language) -> str:
    """“You”, “Model”, “Model (stopped)”."""
    who, state = _ROLES[one.role].of(language), _STATES.get(str(one.figures.get("state")))
    return who if state is None else f"{who} ({state.of(language)})"
