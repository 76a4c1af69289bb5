"""The use cases about what is kept: pins, files of deployments, keys of the API, conversations. A part of Control."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Literal

from sqlalchemy.exc import OperationalError

from backends import conversations, deployment_files, keys
from backends.conversations import Conversation, ConversationName, ConversationSummary, Role, Said
from backends.deployment_files import Compared, DeploymentFile, Imported
from backends.keys import Key, KeyName, NewKey
from backends.reading import read
from backends.runs import Place, State, Summary
from backends.spec import Sampling
from backends.text import Language
from backends.watched import Watched
from storage.store import Store


class Kept:
    """What is kept, over one store; nothing here starts or stops anything."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- deployments ----------------------------------------------------------------------------------------------

    def pinned_first(
        self,
        query: str = "",
        states: Iterable[State] = (),
        limit: int = 50,
        before: Place | None = None,
        engine: str = "",
    ) -> tuple[Summary, ...]:
        """A page of the history with what is pinned at its head; `before` is the place of the row above it."""
        return self._store.pinned_first(query, states, limit, before, engine)

    def counts(self, query: str = "", engine: str = "") -> dict[State, int]:
        """How many runs the filter finds in each state."""
        return self._store.counts(query, engine)

    def pin(self, run_id: str) -> None:
        """Marks a deployment to be found again. Raises NotFound."""
        self._store.pin(run_id, True)

    def unpin(self, run_id: str) -> None:
        """Lets go of a pinned one. Raises NotFound."""
        self._store.pin(run_id, False)

    def compare(self, run_id: str, other_id: str) -> tuple[Compared, ...]:
        """Every field in which two deployments differ. Raises NotFound."""
        return deployment_files.compare(self._file_of(run_id), self._file_of(other_id))

    def side_by_side(self, run_id: str, other_id: str) -> tuple[Compared, ...]:
        """Every field of two deployments, those in which they are alike too. Raises NotFound."""
        return deployment_files.side_by_side(self._file_of(run_id), self._file_of(other_id))

    def log_starts(self, run_id: str, step_id: str) -> tuple[tuple[int, int | None], ...]:
        """Where in its log each start of a step begins and ends, in bytes, the newest first; its end is None.

        `log(run, step, begin, end - begin)` is what a start before wrote.
        """
        told = [event.data.get("log_from") for event in self._store.after(run_id) if event.step == step_id]
        begins = [begin for begin in told if isinstance(begin, int)]
        return tuple(zip(reversed(begins), (None, *reversed(begins[1:])), strict=True))

    def export_deployment(self, run_id: str) -> str:
        """A deployment as one JSON file: spec, plan, events, forecast, measured. Raises NotFound."""
        return self._file_of(run_id).model_dump_json(indent=2) + "\n"

    def import_deployment(self, data: bytes) -> Imported:
        """A file that was exported, perhaps by somebody else. Nothing is kept or started: its spec is there to be
        planned anew and reviewed. Raises BadInput naming what is wrong."""
        return deployment_files.imported(data)

    def _file_of(self, run_id: str) -> DeploymentFile:
        limit = deployment_files.EVENT_LIMIT
        return deployment_files.file_of(self._store.run(run_id), self._store.after(run_id, limit=limit))

    # --- servers watched by address -----------------------------------------------------------------------------------

    def watched(self) -> tuple[Watched, ...]:
        """Every server that is watched by address, oldest first."""
        return self._store.watched()

    def remove_watched(self, watched_id: str) -> None:
        """Watches it no longer. Raises NotFound."""
        self._store.remove_watched(watched_id)

    # --- keys of the API ------------------------------------------------------------------------------------------

    def make_key(self, name: str) -> NewKey:
        """A new key; its token is in the answer and kept nowhere. Raises BadInput for a name that cannot be shown."""
        name = read(KeyName, {"name": name}).name
        key_id = secrets.token_hex(4)
        token = keys.token_of(key_id, secrets.token_urlsafe(32))
        return NewKey(key=self._store.add_key(key_id, name, keys.digest_of(token)), token=token)

    def keys(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, newest first."""
        return self._store.keys()

    def revoke_key(self, key_id: str) -> Key:
        """Ends a key at once, for every panel of this data folder. Raises NotFound."""
        return self._store.revoke_key(key_id)

    def knows_key(self, token: str) -> bool:
        """True for the token of a key that was not revoked; notes that it was used."""
        key_id = keys.key_id_of(token)
        digest = None if key_id is None else self._store.key_digest(key_id)
        if key_id is None or digest is None or not keys.matches(token, digest):
            return False
        with contextlib.suppress(OperationalError):  # a locked database or a full disk shuts nobody out
            self._store.note_key_use(key_id)
        return True

    # --- conversations --------------------------------------------------------------------------------------------

    def make_conversation(
        self, run_id: str, name: str = "", system: str = "", sampling: Sampling | None = None
    ) -> Conversation:
        """A new conversation with a deployment; without a name, what is said first will name it. Raises NotFound."""
        run = self._store.run(run_id)
        name = read(ConversationName, {"name": name}).name if name else ""
        return self._store.make_conversation(
            secrets.token_hex(8), name, run.id, run.spec.engine, run.spec.model.id, system, sampling or Sampling()
        )

    def conversation(self, conversation_id: str) -> Conversation:
        """A conversation whole, with every branch. Raises NotFound."""
        return self._store.conversation(conversation_id)

    def conversations(
        self, query: str = "", limit: int = 50, before: tuple[datetime, str] | None = None
    ) -> tuple[ConversationSummary, ...]:
        """A page of the list, what was spoken last first; `before` is the (updated_at, id) of the row above."""
        return self._store.conversations(query, limit, before)

    def count_conversations(self, query: str = "") -> int:
        """How many conversations the filter finds."""
        return self._store.count_conversations(query)

    def rename_conversation(self, conversation_id: str, name: str) -> None:
        """Gives it another name. Raises NotFound, BadInput."""
        self._store.change_conversation(conversation_id, name=read(ConversationName, {"name": name}).name)

    def steer_conversation(
        self, conversation_id: str, system: str | None = None, sampling: Sampling | None = None
    ) -> None:
        """Changes the system prompt or the parameters of the answers to come. Raises NotFound."""
        self._store.change_conversation(conversation_id, system=system, sampling=sampling)

    def move_conversation(self, conversation_id: str, run_id: str) -> None:
        """Goes on with another deployment. Raises NotFound."""
        run = self._store.run(run_id)
        self._store.change_conversation(conversation_id, run=(run.id, run.spec.engine, run.spec.model.id))

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

    def edit_message(self, conversation_id: str, message_id: int, content: str) -> Said:
        """Says something else in its place; the old message and what followed stay as a branch. Raises NotFound."""
        return self._store.edit_message(conversation_id, message_id, content)

    def show_branch(self, conversation_id: str, message_id: int) -> Conversation:
        """Shows the newest branch through a message. Raises NotFound."""
        return self._store.show_branch(conversation_id, message_id)

    def export_conversation(
        self, conversation_id: str, kind: Literal["json", "markdown"], language: Language = "en"
    ) -> str:
        """As JSON with every branch, or as Markdown with the branch that is shown. Raises NotFound."""
        found = self._store.conversation(conversation_id)
        return conversations.as_json(found) if kind == "json" else conversations.as_markdown(found, language)

    def delete_conversation(self, conversation_id: str) -> None:
        """Forgets a conversation. Raises NotFound."""
        self._store.delete_conversation(conversation_id)
