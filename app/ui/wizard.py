"""The wizard's decisions: fields in, one use case, parts of the page out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.control import DEMO, Control
from app.ui import fit, launch, units, views
from app.ui.draft import Draft, draft_of, missing_model, source_of, spec_of, tidy
from app.ui.views import Option
from backends.engines import Way
from backends.errors import BadInput, NotFound, SlipwayError
from backends.runs import Run, State
from backends.spec import Model, Spec
from backends.text import Language, Text

Parts = dict[str, Any]


class Wizard:
    """The stages Detect, Model, Engine, Review and Launch over one control. Holds nothing of any visitor."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def acts(self) -> dict[str, Callable[[Mapping[str, Any], Language], Parts]]:
        """What the page can ask for, by name."""
        return {
            "detect": self.detect,
            "model-input": self.model_input,
            "model": self.model,
            "engine-input": self.engine_input,
            "engine": self.engine,
            "review": self.review,
            "stop": self.stop,
            "retry": self.retry,
            "again": self.again,
            "edit": self.edit,
        }

    # --- the page opens -------------------------------------------------------------------------------------------

    def boot(self, told: Mapping[str, Any], language: Language) -> Parts:
        """Every stage as the visitor left it. Shows the run that the address names, else one that is being launched."""
        draft = tidy(told.get("draft"))
        stage = told.get("stage") if told.get("stage") in (1, 2, 3, 4) else 1
        parts: Parts = {
            "detect": self._detect_part(language),
            "launch": launch.skeleton(language),
            "reply": {},
        }
        run = self._named(told.get("run"))
        if run is None and not told.get("run") and not told.get("draft"):
            run = self._newest_open()
        try:
            parts |= self._until(draft, int(stage or 1), language)
        except SlipwayError:
            stage = 2  # what was chosen cannot be done any more: the form says so
            parts |= self._model_part(draft, language)
        go = f"run:{run.id}" if run is not None else f"stage:{stage}"
        if told.get("run") and run is None:
            parts["reply"]["trouble"] = _no_run(language)
        parts["reply"] |= {"go": go, "tab": told.get("tab") or ("wizard" if run is not None else None)}
        return parts

    def _until(self, draft: Draft, stage: int, language: Language) -> Parts:
        """The stages up to the one that was reached."""
        parts = self._model_part(draft, language)
        if stage >= 3:
            parts |= self._engine_part(draft, language)
        if stage >= 4:
            parts |= self._review_part(draft, language)
        return parts

    def _named(self, run_id: object) -> Run | None:
        if not run_id:
            return None
        try:
            return self._control.run(str(run_id))
        except NotFound:
            return None

    def _newest_open(self) -> Run | None:
        opened = self._control.open_runs()
        launching = [run for run in opened if run.state is not State.SERVING]
        newest = launching or list(opened)
        return newest[-1] if newest else None

    # --- Detect ---------------------------------------------------------------------------------------------------

    def detect(self, _told: Mapping[str, Any], language: Language) -> Parts:
        """Looks at the machine again."""
        self._control.detect(refresh=True)
        words = Text(en="Checked again", zh="已重新检查").of(language)
        return {"detect": self._detect_part(language), "reply": {"toast": words}}

    def _detect_part(self, language: Language) -> str:
        hardware = self._control.detect()
        try:
            strip = fit.strip(self._control.recommend(), language)
        except BadInput:  # a fact that the tables need is not known; the checks name it
            strip = None
        best = self._control.ways(DEMO)[0]
        return views.detect(hardware, strip, best.reasons, language)

    # --- Model ----------------------------------------------------------------------------------------------------

    def model_input(self, told: Mapping[str, Any], language: Language) -> Parts:
        """What the typed model is, live; a model that cannot be read is said beside its field."""
        draft = tidy(told.get("draft"))
        found, rail, trouble = self._looked(draft, language)
        reply: Parts = {"slots": {"facts": found}}
        if trouble is not None and trouble.field and trouble.field != "model.id":
            reply["trouble"] = {"field": trouble.field, "title": trouble.message.of(language), "hint": None}
        return {"rail": rail, "reply": reply}

    def model(self, told: Mapping[str, Any], language: Language) -> Parts:
        """On to the engines."""
        draft = tidy(told.get("draft"))
        parts = self._engine_part(draft, language)
        return {**parts, "reply": {"go": "stage:3"}}

    def _model_part(self, draft: Draft, language: Language) -> Parts:
        found, rail, _ = self._looked(draft, language)
        return {"model": views.model(draft, self._control.detect(), found, language), "rail": rail}

    def _looked(self, draft: Draft, language: Language) -> tuple[str, str, SlipwayError | None]:
        """The model's facts, the rail, and what is wrong with the form if anything is."""
        hardware = self._control.detect()
        model: Model | None = None
        spec: Spec | None = None
        trouble: SlipwayError | None = None
        try:
            source = source_of(draft)
            if source is not None:
                model = self._control.inspect(source)
                spec = spec_of(draft)
        except SlipwayError as error:
            trouble = error
        bar = None if spec is None else fit.fit(self._control.forecast(spec), language)
        over = spec is not None and bar is not None and bar.over
        changes = views.changes(spec, self._control.changes_that_fit(spec)) if spec is not None and over else ()
        words = None
        if trouble is not None and model is None:
            words = trouble.message if trouble.hint is None else trouble.message + trouble.hint
        return views.facts(model, words, language), views.rail(hardware, spec, bar, False, language, changes), trouble

    # --- Engine ---------------------------------------------------------------------------------------------------

    def engine_input(self, told: Mapping[str, Any], language: Language) -> Parts:
        """Another card was chosen."""
        way = self._way(tidy(told.get("draft")))
        return {"rail": self._rail(way, language), "reply": {}}

    def engine(self, told: Mapping[str, Any], language: Language) -> Parts:
        """On to the plan."""
        draft = tidy(told.get("draft"))
        return {**self._review_part(draft, language), "reply": {"go": "stage:4"}}

    def _engine_part(self, draft: Draft, language: Language) -> Parts:
        if source_of(draft) is None:
            raise missing_model()
        ways = self._control.ways(spec_of(draft))
        chosen = chosen_way(ways, draft["choice"])
        cards = [option(way, way is chosen, way is ways[0], language) for way in ways]
        return {"engine": views.engine(draft, cards, language), "rail": self._rail(chosen, language)}

    def _way(self, draft: Draft) -> Way:
        if source_of(draft) is None:
            raise missing_model()
        return chosen_way(self._control.ways(spec_of(draft)), draft["choice"])

    def _rail(self, way: Way, language: Language) -> str:
        bar = fit.fit(way.memory, language)
        changes = views.changes(way.spec, way.changes, way.id)
        return views.rail(self._control.detect(), way.spec, bar, True, language, changes)

    # --- Review ---------------------------------------------------------------------------------------------------

    def _review_part(self, draft: Draft, language: Language) -> Parts:
        way = self._way(draft)
        plan = self._control.plan(way.spec)
        return {"review": views.review(plan, self._control.script(plan), language), "rail": self._rail(way, language)}

    def review(self, told: Mapping[str, Any], language: Language) -> Parts:
        """Launch. Of two clicks or two tabs one starts the run, the other is shown it."""
        started = self._control.start(self._way(tidy(told.get("draft"))).spec)
        return self._shown(started.run, None if started.created else _already(language))

    # --- Launch ---------------------------------------------------------------------------------------------------

    def stop(self, told: Mapping[str, Any], language: Language) -> Parts:
        """Ends a run."""
        self._control.stop(str(told.get("run")))
        return {"reply": {"toast": Text(en="Stopping", zh="正在停止").of(language)}}

    def retry(self, told: Mapping[str, Any], _language: Language) -> Parts:
        """Another attempt, from the step that failed."""
        return self._shown(self._control.resume(str(told.get("run"))))

    def again(self, told: Mapping[str, Any], language: Language) -> Parts:
        """The same deployment as a new run."""
        started = self._control.start(self._control.run(str(told.get("run"))).spec)
        return self._shown(started.run, None if started.created else _already(language))

    def edit(self, told: Mapping[str, Any], language: Language) -> Parts:
        """The settings of a run, back in the form."""
        return self.filled(self._control.run(str(told.get("run"))).spec, language)

    def filled(self, spec: Spec, language: Language) -> Parts:
        """The form filled with a spec, wherever it comes from; nothing of a plan is taken over."""
        draft = draft_of(spec, spec.engine)
        return {**self._model_part(draft, language), "reply": {"go": "stage:2", "draft": draft, "tab": "wizard"}}

    def _shown(self, run: Run, toast: str | None = None) -> Parts:
        return {"reply": {"go": f"run:{run.id}", "tab": "wizard", "toast": toast}}


def chosen_way(ways: Sequence[Way], choice: str) -> Way:
    """The way of the chosen card; else the first that can be taken, which is the first of all."""
    for way in ways:
        if choice in (way.id, way.engine) and not way.reasons:
            return way
    return ways[0]


def option(way: Way, chosen: bool, first: bool, language: Language) -> Option:
    """A way as a card."""
    usable = not way.reasons
    effort = way.effort

    def about(seconds: float | None) -> str | None:
        return f"~{units.duration(seconds, language)}" if seconds else None

    words = [
        (Text(en="First start", zh="首次启动"), about(effort.first_start_s)),
        (Text(en="Next starts", zh="之后启动"), about(effort.later_start_s)),
        (Text(en="Download", zh="下载"), units.gib(effort.download_mib) if effort.download_mib else None),
    ]
    return Option(
        key=way.id,
        name=way.title.of(language),
        usable=usable,
        chosen=chosen and usable,
        suggested=first and usable,
        later=way.possible and not usable,
        verdict="" if way.possible else "impossible",
        image=way.image if way.spec.image else None,
        reasons=(way.gain, *way.notes) if usable else way.reasons,
        facts=[(name.of(language), value) for name, value in words if value] if usable else [],
        changes=views.changes(way.spec, way.changes, way.id),
    )


def _already(language: Language) -> str:
    return Text(en="It is already being launched", zh="该部署已在进行中").of(language)


def _no_run(language: Language) -> dict[str, Any]:
    title = Text(en="The run in the address is not known here.", zh="地址中的部署不存在。").of(language)
    hint = Text(
        en="It may have been deleted. History shows all that are kept.", zh="可能已被删除，历史页列出全部保留的记录。"
    ).of(language)
    return {"title": title, "hint": hint, "reasons": [], "field": None}
