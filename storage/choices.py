"""What a person chose once for the whole panel: JSON by name."""

from __future__ import annotations

from storage.database import Database
from storage.tables import ChoiceRow


class Choices(Database):
    """The part of the store that keeps it."""

    def choice(self, name: str) -> str | None:
        """The JSON that was kept under the name."""
        with self._read() as session:
            row = session.get(ChoiceRow, name)
            return None if row is None else row.value

    def keep_choice(self, name: str, value: str) -> None:
        """Keeps JSON under the name, in place of what was there."""
        with self._write() as session:
            session.merge(ChoiceRow(name=name, value=value))
