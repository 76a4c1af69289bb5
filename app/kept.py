"""The use cases about what is kept beside the runs: keys of the API. A part of Control."""

from __future__ import annotations

import contextlib
import secrets

from sqlalchemy.exc import OperationalError

from backends import keys
from backends.keys import Key, KeyName, NewKey
from backends.reading import read
from storage.store import Store


class Kept:
    """Keys, over one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # --- keys of the API --------------------------------------------------------------------------------------------

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
