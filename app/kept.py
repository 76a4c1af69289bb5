"""The use cases about what is kept: pins, comparisons and files of deployments, places in their logs, servers watched
by address, keys of the API. A part of Control."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterable

from sqlalchemy.exc import OperationalError

from app.talks import Talks
from backends import deployment_files, keys
from backends.deployment_files import Compared, DeploymentFile, Imported
from backends.keys import Key, KeyName, NewKey
from backends.reading import read
from backends.runs import Place, State, Summary, log_span, log_starts
from backends.watched import Watched


class Kept(Talks):
    """What is kept, over one store; nothing here starts or stops anything."""

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
        """Where in its log each start of a step begins and ends, in bytes, the newest first; its end is None."""
        return log_starts(self._store.after(run_id), step_id)

    def log_span(self, run_id: str, step_id: str, start: int) -> tuple[int, int | None]:
        """The bytes of a step's log that one start wrote, 1: the first; 0: the whole log. Raises NotFound."""
        return log_span(self._store.after(run_id) if start else (), step_id, start)

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
