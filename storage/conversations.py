"""Conversations: each a tree of messages of which nothing is overwritten."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import delete as sql_delete
from sqlalchemy import update as sql_update
from sqlmodel import Session, col, func, or_, select

from backends.conversations import Conversation, ConversationSummary, Role, Said
from backends.errors import NotFound
from backends.spec import Sampling
from backends.text import Text
from storage.database import Database, changed, now, part_of
from storage.tables import ConversationRow, MessageRow


class Conversations(Database):
    """The part of the store that keeps conversations."""

    def make_conversation(
        self,
        conversation_id: str,
        name: str,
        run: str | None,
        engine: str,
        model: str,
        system: str,
        sampling: Sampling,
        twin: str | None = None,
    ) -> Conversation:
        """A new, empty conversation. `twin` and it are asked the same from now on. Raises NotFound for that one."""
        at = now()
        row = ConversationRow(
            id=conversation_id, name=name, run=run, engine=engine, model=model, created_at=at, updated_at=at,
            system=system, sampling=sampling.model_dump_json(), twin=twin,
        )  # fmt: skip
        with self._write() as session:
            session.add(row)
            if twin is not None:
                other = _row(session, twin)
                other.twin = conversation_id
                session.add(other)
        return self.conversation(conversation_id)

    def conversation(self, conversation_id: str) -> Conversation:
        """The conversation with every message. Raises NotFound."""
        with self._read() as session:
            row = _row(session, conversation_id)
            said = session.exec(
                select(MessageRow).where(MessageRow.conversation == conversation_id).order_by(col(MessageRow.id))
            )
            messages = tuple(_said(one) for one in said)
            told: dict[str, Any] = row.model_dump(exclude={"sampling"})
            return Conversation(**told, sampling=Sampling.model_validate_json(row.sampling), messages=messages)

    def change_conversation(
        self,
        conversation_id: str,
        *,
        name: str | None = None,
        system: str | None = None,
        sampling: Sampling | None = None,
        run: tuple[str, str, str] | None = None,
    ) -> None:
        """Changes what is given; `run` is (run, engine, model) of another server to talk to. Raises NotFound."""
        values: dict[str, Any] = {"name": name, "system": system}
        values = {field: value for field, value in values.items() if value is not None}
        if sampling is not None:
            values["sampling"] = sampling.model_dump_json()
        if run is not None:
            values |= dict(zip(("run", "engine", "model"), run, strict=True))
        with self._write() as session:
            change = sql_update(ConversationRow).where(col(ConversationRow.id) == conversation_id)
            if not changed(session.execute(change.values(**values, updated_at=now()))):
                raise _no_conversation(conversation_id)

    def append_message(
        self,
        conversation_id: str,
        role: Role,
        content: str,
        figures: Mapping[str, Any] | None = None,
        parent: int | None = None,
    ) -> Said:
        """Adds a message behind `parent`, or behind the branch that is shown, and shows it. Raises NotFound."""
        with self._write() as session:
            behind = parent if parent is not None else _row(session, conversation_id).head
            return self._add(session, conversation_id, role, content, figures or {}, behind)

    def edit_message(
        self, conversation_id: str, message_id: int, content: str, figures: Mapping[str, Any] | None = None
    ) -> Said:
        """Another message in the place of one that stays; the branch that it begins is shown. Raises NotFound."""
        with self._write() as session:
            old = _message(session, conversation_id, message_id)
            role: Any = old.role
            return self._add(session, conversation_id, role, content, figures or {}, old.parent)

    def finish_message(self, conversation_id: str, message_id: int, content: str, figures: Mapping[str, Any]) -> None:
        """What an answer has come to; it was kept before it began. Raises NotFound."""
        with self._write() as session:
            row = _message(session, conversation_id, message_id)
            row.content, row.figures = content, json.dumps(dict(figures))
            session.add(row)

    def show_branch(self, conversation_id: str, message_id: int) -> Conversation:
        """Shows the newest branch through a message. Raises NotFound."""
        with self._read() as session:
            _message(session, conversation_id, message_id)
        leaf = self.conversation(conversation_id).newest_leaf(message_id)
        with self._write() as session:
            session.execute(
                sql_update(ConversationRow).where(col(ConversationRow.id) == conversation_id).values(head=leaf)
            )
        return self.conversation(conversation_id)

    def conversations(
        self, query: str = "", limit: int = 50, before: tuple[datetime, str] | None = None
    ) -> tuple[ConversationSummary, ...]:
        """A page of the list, what was spoken last first; `query` is part of a name, a model or anything said.

        `before` is the (updated_at, id) of the last row of the page before.
        """
        columns = (
            ConversationRow.id, ConversationRow.name, ConversationRow.run, ConversationRow.engine,
            ConversationRow.model, ConversationRow.created_at, ConversationRow.updated_at, ConversationRow.twin,
        )  # fmt: skip
        chosen: Any = _filtered(select(*columns), query)  # type: ignore[call-overload]
        if before is not None:
            at, last = before[0].isoformat(), before[1]
            chosen = chosen.where(
                or_(
                    col(ConversationRow.updated_at) < at,
                    (col(ConversationRow.updated_at) == at) & (col(ConversationRow.id) < last),
                )
            )
        chosen = chosen.order_by(col(ConversationRow.updated_at).desc(), col(ConversationRow.id).desc()).limit(limit)
        with self._read() as session:
            return tuple(ConversationSummary.model_validate(row._asdict()) for row in session.exec(chosen))

    def count_conversations(self, query: str = "") -> int:
        """How many conversations the same filter finds."""
        with self._read() as session:
            return int(session.exec(_filtered(select(func.count(col(ConversationRow.id))), query)).one())

    def delete_conversation(self, conversation_id: str) -> None:
        """Forgets a conversation with all that was said. Raises NotFound."""
        with self._write() as session:
            session.delete(_row(session, conversation_id))
            session.execute(
                sql_update(ConversationRow).where(col(ConversationRow.twin) == conversation_id).values(twin=None)
            )
            session.execute(sql_delete(MessageRow).where(col(MessageRow.conversation) == conversation_id))

    def _add(
        self,
        session: Session,
        conversation_id: str,
        role: Role,
        content: str,
        figures: Mapping[str, Any],
        parent: int | None,
    ) -> Said:
        owner = _row(session, conversation_id)
        position = 0 if parent is None else _message(session, conversation_id, parent).position + 1
        row = MessageRow(
            conversation=conversation_id, parent=parent, position=position, role=role, content=content, at=now(),
            figures=json.dumps(dict(figures)),
        )  # fmt: skip
        session.add(row)
        session.flush()
        owner.head, owner.updated_at = row.id, row.at
        session.add(owner)
        return _said(row)


def _filtered(chosen: Any, query: str) -> Any:
    if not query:
        return chosen
    part = part_of(query)
    said = select(MessageRow.id).where(
        col(MessageRow.conversation) == col(ConversationRow.id), col(MessageRow.content).like(part, escape="\\")
    )
    named = (col(field).like(part, escape="\\") for field in (ConversationRow.name, ConversationRow.model))
    return chosen.where(or_(*named, said.exists()))


def _row(session: Session, conversation_id: str) -> ConversationRow:
    row = session.get(ConversationRow, conversation_id)
    if row is None:
        raise _no_conversation(conversation_id)
    return row


def _message(session: Session, conversation_id: str, message_id: int) -> MessageRow:
    row = session.get(MessageRow, message_id)
    if row is None or row.conversation != conversation_id:
        raise NotFound(
            Text(en="There is no such message in this conversation.", zh="此对话中没有这条消息。"), field="message"
        )
    return row


def _said(row: MessageRow) -> Said:
    told = row.model_dump(exclude={"conversation", "figures"})
    return Said.model_validate(told | {"figures": json.loads(row.figures)})


def _no_conversation(conversation_id: str) -> NotFound:
    return NotFound(
        Text(en=f"There is no conversation “{conversation_id}”.", zh=f"没有对话“{conversation_id}”。"),
        Text(en="It may have been deleted in another window.", zh="可能已在其他窗口中删除。"),
        "conversation",
    )
