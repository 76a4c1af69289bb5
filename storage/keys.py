"""The keys of the API: digests of tokens, never a token."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import update as sql_update
from sqlmodel import col, or_, select

from backends.errors import NotFound
from backends.keys import Key
from backends.text import Text
from storage.database import Database, now
from storage.tables import KeyRow

USE_NOTED_S = 60  # a key in steady use is written down once a minute, not at every request


class Keys(Database):
    """The part of the store that keeps keys."""

    def add_key(self, key_id: str, name: str, digest: str) -> Key:
        """Keeps a new key."""
        row = KeyRow(id=key_id, name=name, digest=digest, created_at=now())
        with self._write() as session:
            session.add(row)
        return _key(row)

    def keys(self) -> tuple[Key, ...]:
        """Every key, revoked ones too, newest first."""
        with self._read() as session:
            rows = session.exec(select(KeyRow).order_by(col(KeyRow.created_at).desc(), col(KeyRow.id)))
            return tuple(_key(row) for row in rows)

    def key_digest(self, key_id: str) -> str | None:
        """The digest of a key that may be used; None for one that is not known or was revoked."""
        with self._read() as session:
            row = session.get(KeyRow, key_id)
            return None if row is None or row.revoked_at is not None else row.digest

    def note_key_use(self, key_id: str) -> None:
        """Writes down that a key was used, at most once a minute."""
        before = (datetime.now(UTC) - timedelta(seconds=USE_NOTED_S)).isoformat()
        old = or_(col(KeyRow.last_used_at).is_(None), col(KeyRow.last_used_at) < before)
        with self._read() as session:
            if session.exec(select(KeyRow.id).where(KeyRow.id == key_id, old)).first() is None:
                return
        with self._write() as session:
            session.execute(sql_update(KeyRow).where(col(KeyRow.id) == key_id, old).values(last_used_at=now()))

    def revoke_key(self, key_id: str) -> Key:
        """Ends a key; one that was revoked before stays as it is. Raises NotFound."""
        with self._write() as session:
            change = sql_update(KeyRow).where(col(KeyRow.id) == key_id, col(KeyRow.revoked_at).is_(None))
            session.execute(change.values(revoked_at=now()))
        with self._read() as session:
            row = session.get(KeyRow, key_id)
            if row is None:
                raise NotFound(
                    Text(en=f"There is no key “{key_id}”.", zh=f"没有密钥“{key_id}”。"),
                    Text(en="`slipway keys` lists them.", zh="用 `slipway keys` 查看。"),
                    "key",
                )
            return _key(row)


def _key(row: KeyRow) -> Key:
    return Key.model_validate(row.model_dump(exclude={"digest"}))
