"""The servers that are watched by address."""

from __future__ import annotations

from sqlmodel import col, select

from backends.errors import NotFound
from backends.text import Text
from backends.watched import Watched, WatchedServer
from storage.database import Database, now
from storage.tables import WatchedRow


class WatchedServers(Database):
    """The part of the store that keeps them."""

    def add_watched(self, watched_id: str, server: WatchedServer, address: str) -> Watched:
        """Keeps a server."""
        row = WatchedRow(id=watched_id, server=server.model_dump_json(), address=address, added_at=now())
        with self._write() as session:
            session.add(row)
        return _watched(row)

    def watched(self) -> tuple[Watched, ...]:
        """Every one, oldest first."""
        with self._read() as session:
            rows = session.exec(select(WatchedRow).order_by(col(WatchedRow.added_at), col(WatchedRow.id)))
            return tuple(_watched(row) for row in rows)

    def remove_watched(self, watched_id: str) -> None:
        """Forgets one. Raises NotFound."""
        with self._write() as session:
            row = session.get(WatchedRow, watched_id)
            if row is None:
                raise NotFound(
                    Text(en=f"No server “{watched_id}” is watched.", zh=f"没有监控中的服务“{watched_id}”。"),
                    field="server",
                )
            session.delete(row)


def _watched(row: WatchedRow) -> Watched:
    told = {"id": row.id, "address": row.address, "added_at": row.added_at}
    return Watched.model_validate(told | {"server": WatchedServer.model_validate_json(row.server)})
