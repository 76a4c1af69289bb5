"""The wizard's decisions: fields in, one use case, parts of the page out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from markupsafe import escape

from app.control import DEMO, Control
from app.ui import fit, launch, units, views
from app.ui.draft import Draft, draft_of, mended, missing_model, source_of, spec_of, tidy
from app.ui.views import Option
from app.ui.words import ORIGINS
from backends.engines import Way, way_of
from backends.errors import BadInput, NotFound, SlipwayError
from backends.memory import HostNeed
from backends.runs import Run, State
from backends.script import command
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
            "commands": self.commands,
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
            parts |= self._engine_part(draft, self._ways(draft)[0], language)
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
        ways, _ = self._ways(draft)
        # The cards by themselves too: they may have changed on the page since Gradio last put the stage there.
        slots = {"engine-cards": self._cards(ways, draft, language)}
        return {**self._engine_part(draft, ways, language), "reply": {"go": "stage:3", "slots": slots}}

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
        estimate = None if spec is None else self._control.forecast(spec)
        bar = None if estimate is None else fit.fit(estimate, language)
        over = spec is not None and bar is not None and bar.over
        changes = views.changes(spec, self._control.changes_that_fit(spec)) if spec is not None and over else ()
        words = None
        if trouble is not None and model is None:
            words = trouble.message if trouble.hint is None else trouble.message + trouble.hint
        rail = views.rail(hardware, spec, bar, False, language, changes, estimate)
        return views.facts(model, words, language), rail, trouble

    # --- Engine ---------------------------------------------------------------------------------------------------

    def engine_input(self, told: Mapping[str, Any], language: Language) -> Parts:
        """Another card or another value was chosen: the cards are judged anew."""
        draft = tidy(told.get("draft"))
        ways, trouble = self._ways(draft)
        reply: Parts = {"slots": {"engine-cards": self._cards(ways, draft, language)}}
        if trouble is not None:
            reply["trouble"] = {"field": trouble.field, "title": trouble.message.of(language), "hint": None}
        return {"rail": self._rail(ways, draft, language), "reply": reply}

    def engine(self, told: Mapping[str, Any], language: Language) -> Parts:
        """On to the plan."""
        draft = tidy(told.get("draft"))
        return {**self._review_part(draft, language), "reply": {"go": "stage:4"}}

    def _engine_part(self, draft: Draft, ways: Sequence[Way], language: Language) -> Parts:
        gpus = bool(self._control.detect().gpus)
        cards = self._options(ways, draft, language)
        return {"engine": views.engine(draft, cards, gpus, language), "rail": self._rail(ways, draft, language)}

    def _ways(self, draft: Draft) -> tuple[tuple[Way, ...], BadInput | None]:
        """Every way; a wrong value of the Engine stage itself is left out and returned, for who shows the stage."""
        if source_of(draft) is None:
            raise missing_model()
        sound, trouble = mended(draft)
        return self._control.ways(spec_of(sound)), trouble

    def _options(self, ways: Sequence[Way], draft: Draft, language: Language) -> list[Option]:
        chosen, seen = chosen_way(ways, draft["choice"]), self._control.looked_into()
        return [option(way, way is chosen, way is ways[0], language, seen) for way in ways]

    def _cards(self, ways: Sequence[Way], draft: Draft, language: Language) -> str:
        return views.engine_cards(self._options(ways, draft, language), language)

    def _way(self, draft: Draft) -> Way:
        if source_of(draft) is None:
            raise missing_model()
        return chosen_way(self._control.ways(spec_of(draft)), draft["choice"])

    def _rail(self, ways: Sequence[Way], draft: Draft, language: Language) -> str:
        way = chosen_way(ways, draft["choice"])
        bar = fit.fit(way.memory, language)
        changes = views.changes(way.spec, way.changes, way.id)
        own = way is not ways[0]
        return views.rail(self._control.detect(), way.spec, bar, True, language, changes, way.memory, own)

    # --- Review ---------------------------------------------------------------------------------------------------

    def _review_part(self, draft: Draft, language: Language) -> Parts:
        if source_of(draft) is None:
            raise missing_model()
        ways = self._control.ways(spec_of(draft))
        plan = self._control.plan(chosen_way(ways, draft["choice"]).spec)
        review = views.review(plan, self._control.to_do(plan), self._control.script(plan, language), language)
        self._control.get_ready()
        return {"review": review, "rail": self._rail(ways, draft, language)}

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
        draft = draft_of(spec, way_of(spec))
        return {**self._model_part(draft, language), "reply": {"go": "stage:2", "draft": draft, "tab": "wizard"}}

    # --- on every stage -------------------------------------------------------------------------------------------

    def commands(self, told: Mapping[str, Any], language: Language) -> Parts:
        """The exact commands of a stage: what looks the same from a terminal, and what a launch would run or ran."""
        stage = str(told.get("stage"))
        run = self._named(told.get("run")) if stage == "5" else None
        lines = [(name, command(argv)) for name, argv in LOOKS.get(stage, ())]
        try:
            plan = run.plan if run is not None else None
            if stage in ("2", "3"):
                plan = self._control.plan(self._way(tidy(told.get("draft"))).spec)
                spec = plan.spec.model_dump_json(exclude_defaults=True, indent=2)
                lines.append((_BY_SPEC, f"slipway deploy - --follow <<'END'\n{spec}\nEND"))
            if plan is not None:
                lines += [(step.title, views.by_hand(step, language)) for step in plan.steps]
        except SlipwayError as error:
            lines.append((error.message, "\n".join(f"# {reason.of(language)}" for reason in _reasons(error))))
        return {"reply": {"slots": {f"commands-{stage}": str(escape(views.commands(lines, language)))}}}

    def _shown(self, run: Run, toast: str | None = None) -> Parts:
        return {"reply": {"go": f"run:{run.id}", "tab": "wizard", "toast": toast}}


def chosen_way(ways: Sequence[Way], choice: str) -> Way:
    """The way of the chosen card; else the first that can be taken, which is the first of all."""
    for way in ways:
        if choice in (way.id, way.engine) and not way.reasons:
            return way
    return ways[0]


LOOKS: dict[str, tuple[tuple[Text, tuple[str, ...]], ...]] = {  # what each stage looks at, from a terminal
    "1": (
        (Text(en="This machine", zh="本机"), ("slipway", "detect", "--json")),
        (Text(en="Releases on it", zh="可用版本"), ("slipway", "recommend")),
        (
            Text(en="GPUs and driver", zh="GPU 与驱动"),
            ("nvidia-smi", "--query-gpu=index,name,driver_version,compute_cap,memory.total,memory.free",
             "--format=csv,noheader"),
        ),
        (Text(en="Docker", zh="Docker"), ("docker", "info")),
    ),
}  # fmt: skip
_BY_SPEC = Text(en="All of the following from a terminal", zh="在终端中完成以下全部步骤")


def _reasons(error: SlipwayError) -> tuple[Text, ...]:
    return tuple(getattr(error, "reasons", ())) or ((error.hint,) if error.hint else ())


def image_from(way: Way, seen: Collection[str]) -> Text | None:
    """Where what is known of a way's image comes from."""
    if way.image is None or not way.spec.image:
        return None
    if way.spec.own_image is not None:
        return ORIGINS["yours"]
    if way.image in seen:
        return Text(en="as read inside it", zh="版本读自镜像内")
    return Text(en="as the table of releases says", zh="版本取自发布表")


def option(way: Way, chosen: bool, first: bool, language: Language, seen: Collection[str] = ()) -> Option:
    """A way as a card. `seen` are the tags whose images were looked into."""
    usable = not way.reasons
    effort = way.effort

    def about(seconds: float | None) -> str | None:
        return f"~{units.duration(seconds, language)}" if seconds else None

    words = [
        (Text(en="First start", zh="首次启动"), about(effort.first_start_s)),
        (Text(en="Next starts", zh="之后启动"), about(effort.later_start_s)),
        (Text(en="Download", zh="下载"), units.gib(effort.download_mib) if effort.download_mib else None),
        (Text(en="Disk", zh="磁盘"), f"~{units.gib(effort.disk_mib)}" if effort.disk_mib else None),
        (Text(en="Host memory", zh="主机内存"), f"~{units.gib(effort.ram_mib)}" if effort.ram_mib else None),
    ]
    parts = [(need.stage.of(language), _takes(need, language)) for need in effort.stages]
    return Option(
        key=way.id,
        name=way.title.of(language),
        usable=usable,
        chosen=chosen and usable,
        suggested=first and usable,
        later=way.possible and not usable,
        verdict="" if way.possible or way.changes or way.untold else "impossible",
        untold=way.untold,
        image=way.image if way.spec.image else None,
        reasons=way.notes if usable else way.reasons,
        gain=way.gain,
        image_from=image_from(way, seen),
        facts=[(name.of(language), value) for name, value in words if value] if usable or way.changes else [],
        stages=[part for part in parts if part[1]] if usable else [],
        changes=views.changes(way.spec, way.changes, way.id),
    )


def _takes(need: HostNeed, language: Language) -> str:
    """What a stage before the start takes of the host: “12.6 GiB memory, 6.3 GiB disk”."""
    memory, disk = Text(en="memory", zh="内存").of(language), Text(en="disk", zh="磁盘").of(language)
    told = [(need.ram_mib, memory), (need.disk_mib, disk)]
    return ", ".join(f"{units.gib(mib)} {word}" for mib, word in told if mib)


def _already(language: Language) -> str:
    return Text(en="It is already being launched", zh="该部署已在进行中").of(language)


def _no_run(language: Language) -> dict[str, Any]:
    title = Text(en="The run in the address is not known here.", zh="地址中的部署不存在。").of(language)
    hint = Text(
        en="It may have been deleted. History shows all that are kept.", zh="可能已被删除，历史页列出全部保留的记录。"
    ).of(language)
    return {"title": title, "hint": hint, "reasons": [], "field": None}
