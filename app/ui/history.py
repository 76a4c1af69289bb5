"""History: filter, search, page, one run in full, delete. Fields in, one use case, parts of the page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.control import Control
from app.ui import launch
from app.ui.render import page
from backends.runs import OPEN, State, Summary
from backends.text import Language, Text

PAGE = 20
GROUPS: dict[str, tuple[Text, tuple[State, ...]]] = {
    "": (Text(en="All", zh="全部"), ()),
    "open": (Text(en="Running", zh="运行中"), OPEN),
    "stopped": (Text(en="Stopped", zh="已停止"), (State.STOPPED, State.DONE)),
    "failed": (Text(en="Failed", zh="失败"), (State.FAILED, State.LOST)),
}


class History:
    """The list of all runs over one control."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def acts(self) -> dict[str, Callable[[Mapping[str, Any], Language], dict[str, Any]]]:
        """What the page can ask for, by name."""
        return {"history": self.look, "open": self.open, "delete": self.delete}

    def look(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """The list as the filter says."""
        return {"history": self.table(told, language), "reply": {}}

    def open(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """One run in full."""
        run = self._control.run(str(told.get("run")))
        steps = self._control.steps(run.id)
        drawer = page(
            "drawer",
            language,
            run=run,
            steps=steps,
            shown=None,
            spec_json=run.spec.model_dump_json(indent=2, exclude_defaults=True),
            plan_json=run.plan.model_dump_json(indent=2, exclude_defaults=True),
            percent=launch.percent(steps),
        )
        return {"drawer": drawer, "reply": {}}

    def delete(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Forgets a run."""
        self._control.delete(str(told.get("run")))
        words = Text(en="Deleted", zh="已删除").of(language)
        return {"history": self.table(told, language), "drawer": "", "reply": {"toast": words}}

    def table(self, told: Mapping[str, Any], language: Language) -> str:
        """A page of the list, newest first. `before` is the mark of the last row of the page before."""
        query = str(told.get("query") or "").strip()[:200]
        group = str(told.get("group") or "")
        _, states = GROUPS.get(group, GROUPS[""])
        before = _mark(told.get("before"))
        first = int(told["first"]) if before is not None and str(told.get("first", "")).isdecimal() else 1
        rows = self._control.runs(query=query, states=states, limit=PAGE + 1, before=before)
        more = rows[PAGE:]
        rows = rows[:PAGE]
        groups = [(name, words.of(language), self._control.count(query, of)) for name, (words, of) in GROUPS.items()]
        return page(
            "history",
            language,
            rows=rows,
            total=self._control.count(query, states),
            first=first,
            next=_told(rows[-1]) if more else None,
            query=query,
            group=group,
            groups=groups,
        )


def _told(row: Summary) -> str:
    return f"{row.created_at.isoformat()}|{row.id}"


def _mark(told: object) -> tuple[datetime, str] | None:
    at, _, run_id = str(told or "").partition("|")
    try:
        return (datetime.fromisoformat(at), run_id) if run_id else None
    except ValueError:
        return None
