"""History: filter, search, page, pin, compare, import, one run in full, delete. Fields in, one use case, parts out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from app.control import Control
from app.ui import compare, launch
from app.ui.render import page
from app.ui.words import ENGINES
from backends.runs import OPEN, Place, State, Summary
from backends.spec import Spec
from backends.text import Language, Text

PAGE = 20
GROUPS: dict[str, tuple[Text, tuple[State, ...]]] = {
    "": (Text(en="All", zh="全部"), ()),
    "open": (Text(en="Running", zh="运行中"), OPEN),
    "stopped": (Text(en="Stopped", zh="已停止"), (State.STOPPED, State.DONE)),
    "failed": (Text(en="Failed", zh="失败"), (State.FAILED, State.LOST)),
}
Act = Callable[[Mapping[str, Any], Language], dict[str, Any]]
_NOTHING_STARTED = Text(
    en="Nothing was started. The form holds the file's settings; its plan is made anew for this machine, and no "
    "command of the file is used.",
    zh="没有启动任何内容。表单已填入文件中的设置，方案会按本机重新生成，不使用文件中的任何命令。",
)


class History:
    """The list of all runs over one control. `filled` puts a spec into the wizard's form."""

    def __init__(self, control: Control, filled: Callable[[Spec, Language], dict[str, Any]]) -> None:
        self._control = control
        self._filled = filled

    def acts(self) -> dict[str, Act]:
        """What the page can ask for, by name."""
        return {
            "history": self.look,
            "open": self.open,
            "pin": self.pin,
            "compare": self.compare,
            "import": self.take_in,
            "delete": self.delete,
        }

    def whole(self, language: Language) -> str:
        """The page as a visitor first meets it."""
        engines = [(name, words.of(language)) for name, words in ENGINES.items()]
        return page("history", language, engines=engines, **self._facts({}, language))

    def look(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """The list as the filter says."""
        return {"reply": {"slots": self.slots(told, language)}}

    def open(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """One run in full."""
        return {"reply": {"slots": {"drawer": self._drawer(str(told.get("run")), language)}}}

    def pin(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Pins a run to the head of the list, or lets go of it."""
        run = self._control.run(str(told.get("run")))
        if run.pinned:
            self._control.unpin(run.id)
        else:
            self._control.pin(run.id)
        slots = self.slots(told, language)
        if told.get("drawer"):
            slots["drawer"] = self._drawer(run.id, language)
        return {"reply": {"slots": slots}}

    def compare(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Two runs side by side, in the place of the list."""
        one, other = (self._control.run(str(told.get(side))) for side in ("run", "other"))
        sections = compare.sections(one, other, self._control.side_by_side(one.id, other.id), language)
        html = page("compare", language, runs=(one, other), sections=sections)
        return {"reply": {"slots": {"history-compared": html}}}

    def take_in(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """A deployment's file into the wizard's form. Nothing is kept or started."""
        got = self._control.import_deployment(str(told.get("file") or "").encode("utf-8", "replace"))
        parts = self._filled(got.spec, language)
        notes = [note.of(language) for note in got.notes]
        title = Text(en=f"“{got.spec.name}” was read", zh=f"已读入“{got.spec.name}”").of(language)
        parts["reply"]["notice"] = {"title": title, "hint": _NOTHING_STARTED.of(language), "reasons": notes}
        return parts

    def delete(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        """Forgets a run."""
        run_id = str(told.get("run"))
        self._control.delete(run_id)
        words = Text(en="Deleted", zh="已删除").of(language)
        return {"reply": {"toast": words, "gone": run_id, "slots": self.slots(told, language) | {"drawer": ""}}}

    def slots(self, told: Mapping[str, Any], language: Language) -> dict[str, str]:
        """The parts of the page that follow the filter. `before` is the mark of the last row of the page before."""
        facts = self._facts(told, language)
        return {name: page(name.replace("-", "_"), language, **facts) for name in ("history-groups", "history-list")}

    def _facts(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        query = str(told.get("query") or "").strip()[:200]
        engine = str(told.get("engine") or "")[:40]
        group = str(told.get("group") or "")
        _, states = GROUPS.get(group, GROUPS[""])
        before = _place(told.get("before"))
        first = int(told["first"]) if before is not None and str(told.get("first", "")).isdecimal() else 1
        rows = self._control.pinned_first(query, states, PAGE + 1, before, engine)
        more = len(rows) > PAGE
        rows = rows[:PAGE]
        counts = self._control.counts(query, engine)
        groups = [
            (name, words.of(language), sum(counts.get(state, 0) for state in of or State))
            for name, (words, of) in GROUPS.items()
        ]
        return {
            "rows": rows,
            "total": sum(counts.get(state, 0) for state in states or State),
            "first": first,
            "next": _mark(rows[-1]) if more else None,
            "filtered": bool(query or engine or group),
            "query": query,
            "group": group,
            "groups": groups,
        }

    def _drawer(self, run_id: str, language: Language) -> str:
        run = self._control.run(run_id)
        steps = self._control.steps(run.id)
        return page(
            "drawer",
            language,
            run=run,
            steps=steps,
            shown=None,
            spec_json=run.spec.model_dump_json(indent=2, exclude_defaults=True),
            plan_json=run.plan.model_dump_json(indent=2, exclude_defaults=True),
            percent=launch.percent(steps),
            memory=compare.memory_words(run, language),
        )


def _mark(row: Summary) -> str:
    return f"{int(row.pinned)}|{row.created_at.isoformat()}|{row.id}"


def _place(told: object) -> Place | None:
    pinned, _, rest = str(told or "").partition("|")
    at, _, run_id = rest.partition("|")
    try:
        return Place(pinned == "1", datetime.fromisoformat(at), run_id) if run_id else None
    except ValueError:
        return None
