"""The use cases, as methods that return values. Both front ends, the page and the command line, use only this.

Nothing is remembered here: what was done is in the store, what runs is asked of the target. So any number of panels and
terminals may work on one data folder at the same time.
"""

from __future__ import annotations

import contextlib
import logging
import math
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO

from app.alerts import Alert, Thresholds, alerts
from app.jobs import NOWHERE, RunFolder, hold, to_do
from app.monitor import Monitor, Sampler
from app.settings import ASSETS, Settings
from app.shelf import Shelf
from app.talking import Talking
from app.workers import Workers
from backends import engines, fitting, images, inside, logs, looked_into, memory, recipes
from backends import script as scripts
from backends.engines import Recommended, Way
from backends.errors import BadInput, Conflict, NotFound, SlipwayError, Unreachable
from backends.events import Event, Kind
from backends.fitting import Suggestion
from backends.images import Recommendation
from backends.memory import Estimate
from backends.probes import hardware as hardware_probe
from backends.probes import model as model_probe
from backends.probes.server import resolved
from backends.reading import read_json
from backends.runs import OPEN, LogPage, Run, State, StepView, Summary, Trouble, log_span, standings
from backends.sources import applied
from backends.spec import Frozen, Hardware, Model, ModelSource, Sources, Spec
from backends.steps import Plan, PullImage, Step, digest, fill
from backends.targets.base import Leftover, Target
from backends.text import Language, Text
from backends.watched import Watched, WatchedServer, chosen, may_resolve
from storage.store import Store

HARDWARE_FRESH_S = 20.0
RECOVER_S = 3.0  # between two looks after runs whose worker may have died
LOOK_S = 0.1  # between two looks of one who follows a run
ENDING_S = 15.0  # how long a worker may take from its last word to its end
log = logging.getLogger(__name__)
DEMO = Spec(model=ModelSource(kind="demo"), name="demo")


_OVER = Text(
    en="By the forecast this does not fit into the memory that is free now. It may fail while it loads.",
    zh="按预测，当前空闲内存或显存放不下该部署，加载时可能失败。",
)


class Started(Frozen):
    """What a start came to. `created` is False where the same deployment was open already: it is shown instead."""

    run: Run
    created: bool


class Control(Talking):
    """The use cases over one data folder; talking is in `app.talking`, what is kept beside the runs in `app.kept`."""

    def __init__(self, settings: Settings, store: Store, targets: Mapping[str, Target]) -> None:
        super().__init__(store, targets)
        self.settings = settings
        self._hardware: tuple[float, Hardware] | None = None
        self._looking = threading.Lock()
        self.shelf = Shelf(settings, self._folders_in_use)
        self._workers = Workers(settings.home)
        self._sampler = Sampler(self.serving, self._memory_mib, self.watched)

    # --- looking --------------------------------------------------------------------------------------------------

    def detect(self, refresh: bool = False) -> Hardware:
        """This machine. Kept for some seconds, since every page asks; `refresh` looks again."""
        with self._looking:
            kept = self._hardware
            if kept is None or refresh or time.monotonic() - kept[0] > HARDWARE_FRESH_S:
                kept = (time.monotonic(), hardware_probe.detect(self.settings.home))
                self._hardware = kept
            return kept[1]

    def _machine(self, hardware: Hardware | None) -> Hardware:
        """That machine, or this one, with what was found inside images that were pulled here."""
        hardware = hardware or self.detect()
        found = inside.by_tag(looked_into.everything(self.settings.home))
        return hardware.model_copy(update={"images": found | hardware.images}) if found else hardware

    def looked_into(self) -> frozenset[str]:
        """Tags of Triton images that were looked into here."""
        return frozenset(inside.by_tag(looked_into.everything(self.settings.home)))

    def inspect(self, source: ModelSource) -> Model:
        """The model's facts. Raises BadInput, NotFound, Unreachable."""
        return model_probe.inspect(source, allowed_roots=self.settings.model_roots, demo_folder=ASSETS / "demo_model")

    def recommend(self, hardware: Hardware | None = None, model: Model | None = None) -> Recommendation:
        """Which Triton image suits a machine, for each engine. Raises BadInput where a needed fact is not known."""
        return images.recommend(self._machine(hardware), model=model)

    def ways(self, spec: Spec, hardware: Hardware | None = None) -> tuple[Way, ...]:
        """Every way to serve the model there, best first, with every reason against; of those that can be taken the
        effort that is left. Raises BadInput, NotFound."""
        hardware = self._machine(hardware)
        model = self.inspect(spec.model)
        found: dict[str, Recommended] = {}
        with contextlib.suppress(BadInput):  # a GPU whose SM is not known: the ways are judged without images
            found = engines.images_of(self.recommend(hardware, model), model)
        return tuple(self._left(way, hardware, model) for way in engines.ways(spec, hardware, model, found))

    def _left(self, way: Way, hardware: Hardware, model: Model) -> Way:
        if way.reasons:
            return way
        plan = recipes.plan(way.spec, hardware, model, self.sources).model_copy(update={"hardware": hardware})
        to_do = self.to_do(plan)
        if len(to_do) == len(plan.steps):
            return way
        return way.model_copy(update={"effort": engines.effort_left(way.effort, to_do)})

    def forecast(self, spec: Spec, hardware: Hardware | None = None) -> Estimate:
        """What the deployment would take of memory and disk. Raises BadInput, NotFound."""
        return memory.estimate(spec, self._machine(hardware), self.inspect(spec.model))

    def changes_that_fit(self, spec: Spec, hardware: Hardware | None = None) -> tuple[Suggestion, ...]:
        """The smallest changes after which the deployment fits; empty where it does, or nothing helps."""
        return fitting.changes_that_fit(spec, self._machine(hardware), self.inspect(spec.model))

    # --- planning -------------------------------------------------------------------------------------------------

    def plan(self, spec: Spec, hardware: Hardware | None = None) -> Plan:
        """What would be done. Raises CannotDo with every reason, BadInput."""
        hardware = self._machine(hardware)
        model = self.inspect(spec.model)
        spec = spec.model_copy(update={"model": model.source})
        plan = recipes.plan(spec, hardware, model, self.sources)
        estimate = memory.estimate(spec, hardware, model)
        over = [_OVER] if estimate.verdict == "over" else []
        pulled = (step.image for step in plan.steps if isinstance(step, PullImage))
        found = images.found_inside(pulled, hardware)
        notes = tuple(dict.fromkeys((*plan.notes, *self.shelf.agrees(plan), *over, *found)))
        told = {"memory_mib": estimate.needed_mib or None, "notes": notes, "hardware": hardware}
        return plan.model_copy(update=told)

    def setup_plan(self) -> Plan:
        """Only the steps that make the embedded runtime."""
        hardware = self.detect()
        return recipes.setup(hardware, self.sources).model_copy(update={"hardware": hardware})

    def to_do(self, plan: Plan) -> tuple[Step, ...]:
        """The steps that a run would carry out now; the others are found done.

        All of them where nobody can tell: in a plan for another machine, and while the target does not answer.
        """
        made_for = None if plan.hardware is None else plan.hardware.hostname
        if made_for in (None, self.detect().hostname):
            with contextlib.suppress(Unreachable):
                return to_do(plan, self._targets[plan.spec.target], self.settings.home, ASSETS)
        return plan.steps

    def script(self, plan: Plan, language: Language = "en") -> str:
        """A shell script that does the same by hand, with its words in `language`."""
        places = {"home": str(self.settings.home), "assets": str(ASSETS), "python": sys.executable}
        return scripts.script(plan, places, lambda name: (ASSETS / name).read_text(encoding="utf-8"), language)

    @property
    def sources(self) -> Sources:
        """Where things are fetched from."""
        return self.settings.sources

    # --- doing ----------------------------------------------------------------------------------------------------

    def start(self, spec: Spec) -> Started:
        """Plans and starts a deployment. Of two that start the same one, one wins and the other is shown it.

        Raises Conflict where another deployment has the name, CannotDo, BadInput.
        """
        return self.start_plan(self.plan(spec))

    def get_ready(self) -> None:
        """Has a worker loaded for a start that is likely: a person reads the plan."""
        self._workers.get_ready()

    def start_plan(self, plan: Plan) -> Started:
        """Starts a plan as it is."""
        self.recover()
        spec = plan.spec
        run_id = f"{spec.name}-{secrets.token_hex(3)}"
        folder = RunFolder(self.settings.home, run_id)
        folder.make()
        held = hold(folder.lock)
        if held is None:
            raise RuntimeError(f"a new run's lock is held: {folder.lock}")
        with held:
            run = self._store.begin(run_id, plan)
            if run is not None:
                (folder.path / "plan.json").write_text(plan.model_dump_json(), encoding="utf-8")
                self._spawn(run_id, held)
                return Started(run=run, created=True)
        shutil.rmtree(folder.path)
        other = self._store.open_run(spec.name)
        if other is None:  # it ended just now
            return self.start_plan(plan)
        if digest(other.spec) != digest(spec):
            raise Conflict(
                Text(
                    en=f"Another deployment named “{spec.name}” is {other.state}: {other.id}.",
                    zh=f"名为“{spec.name}”的另一个部署正在进行：{other.id}。",
                ),
                Text(en="Choose another name, or stop that one first.", zh="换一个名称，或先停止它。"),
                "name",
            )
        return Started(run=other, created=False)

    def resume(self, run_id: str) -> Run:
        """Another attempt at a run that failed, was stopped or lost; steps already done are skipped.

        Raises NotFound, Conflict where it is open or its name is taken, CannotDo where this machine has changed so that
        it can no longer be.
        """
        run = self._store.run(run_id)
        plan = self._again(run.plan)
        folder = RunFolder(self.settings.home, run_id)
        folder.make()
        held = hold(folder.lock)
        until = time.monotonic() + ENDING_S
        while held is None and run.state.can_resume() and time.monotonic() < until:
            time.sleep(0.05)  # its worker has said its last word and is about to be gone
            held = hold(folder.lock)
        if held is not None:
            with held:
                if self._store.reopen(run_id, plan):
                    self._spawn(run_id, held)
                    return self._store.run(run_id)
        raise Conflict(
            Text(en=f"{run.name} is in use: {run.state}.", zh=f"{run.name} 正在使用中。"),
            Text(en="`slipway list` shows what is open.", zh="`slipway list` 可查看进行中的部署。"),
            "run",
        )

    def _again(self, plan: Plan) -> Plan:
        """A run's plan for another attempt: made anew for the machine that it was made for, so that a later version of
        Slipway, other weights and other mirrors count. A plan that was handed in stays as it is, but for the mirrors;
        so does one whose model's hub does not answer now.
        """
        stored, here = applied(plan, self.sources), self.detect()
        if plan.hardware is None:
            return stored
        if plan.service is None:
            return self.setup_plan()
        try:
            return self.plan(plan.spec, here if plan.hardware.hostname == here.hostname else plan.hardware)
        except Unreachable:
            return stored

    def stop(self, run_id: str) -> Run:
        """Asks a run to end; silent where it has ended. It is over within seconds: `looks` tells when."""
        self._store.run(run_id)
        self._store.ask_to_stop(run_id)
        self._store.move(run_id, State.STOPPING, come_from=(State.QUEUED, State.RUNNING, State.SERVING))
        held = hold(RunFolder(self.settings.home, run_id).lock)
        if held is not None:  # no worker: nobody else would do it
            with held:
                self._targets[self._store.run(run_id).spec.target].stop(run_id)
                self._store.move(run_id, State.STOPPED, come_from=OPEN)
        return self._store.run(run_id)

    def delete(self, run_id: str) -> None:
        """Forgets a finished run, with its logs. Raises Conflict where it is open."""
        run = self._store.run(run_id)
        if run.state.is_open():
            raise Conflict(
                Text(en=f"{run.name} is still {run.state}.", zh=f"{run.name} 仍在进行中。"),
                Text(en="Stop it first.", zh="请先停止它。"),
                "run",
            )
        self._store.delete(run_id)
        shutil.rmtree(RunFolder(self.settings.home, run_id).path, ignore_errors=True)

    def recover(self) -> None:
        """Looks after runs without a worker: what lives is adopted, anything else is ended and marked lost.

        A run whose target does not answer is left as it is, for the next time. A server that the store does not know
        (its database was lost) is taken back in, by the plan in its folder.
        """
        for run in self._store.in_state(*OPEN):
            folder = RunFolder(self.settings.home, run.id)
            folder.make()
            held = hold(folder.lock)
            if held is None:
                continue  # its worker lives
            with held, contextlib.suppress(Unreachable):
                self._look_after(run.id, held)
        known = self._store.ids()
        for kept in (self.settings.home / "runs").glob("*/plan.json"):
            if kept.parent.name not in known:
                # BadInput: a plan of another version; FileNotFoundError: somebody deletes it just now.
                with contextlib.suppress(Unreachable, BadInput, FileNotFoundError):
                    self._take_back(kept.parent.name, kept)

    def _look_after(self, run_id: str, held: IO[bytes]) -> None:
        now = self._store.run(run_id)
        if not now.state.is_open():
            return
        target = self._targets[now.spec.target]
        asked = self._store.stop_asked(run_id)
        if target.find(run_id).adoptable and not asked:
            self._spawn(run_id, held)
            return
        target.stop(run_id)
        if asked:
            self._store.move(run_id, State.STOPPED, come_from=OPEN)
        else:
            self._lose(now)

    def _take_back(self, run_id: str, kept: Path) -> None:
        plan = read_json(Plan, kept.read_bytes(), "plan")
        if not self._targets[plan.spec.target].find(run_id).service:
            return
        held = hold(RunFolder(self.settings.home, run_id).lock)
        if held is not None:
            with held:
                if self._store.begin(run_id, plan) is not None:
                    self._spawn(run_id, held)

    # --- following ------------------------------------------------------------------------------------------------

    def run(self, run_id: str) -> Run:
        """The run as it stands. Raises NotFound."""
        return self._store.run(run_id)

    def find(self, name_or_id: str) -> Run:
        """The run of that id, or the newest of that name. Raises NotFound."""
        try:
            return self._store.run(name_or_id)
        except NotFound:
            for summary in self._store.runs(query=name_or_id, limit=200):
                if summary.name == name_or_id:
                    return self._store.run(summary.id)
            raise

    def steps(self, run_id: str) -> tuple[StepView, ...]:
        """How each step of the run stands."""
        return standings(self._store.run(run_id).plan, self._store.after(run_id))

    def events(self, run_id: str, after: int = 0) -> tuple[Event, ...]:
        """What happened behind the cursor."""
        return self._store.after(run_id, after)

    def log(self, run_id: str, step_id: str, cursor: int = 0, limit_bytes: int = 262_144, start: int = 0) -> LogPage:
        """A page of a step's log from a byte cursor on; with `start` only what that start wrote (1: the first), which
        ends where the next begins. Raises NotFound."""
        path = self.log_path(run_id, step_id)
        run = self._store.run(run_id)
        events = self._store.after(run_id)
        span = log_span(events, step_id, start)
        standing = {view.id: view for view in standings(run.plan, events)}[step_id]
        ended = not run.state.is_open() or (standing.finished_at is not None and step_id != _service_id(run))
        return logs.read(path, cursor, limit_bytes, ended or span[1] is not None, span)

    def log_path(self, run_id: str, step_id: str) -> Path:
        """The log file of a step. Raises NotFound for a step that the run's plan does not have."""
        run = self._store.run(run_id)
        if step_id not in {step.id for step in run.plan.steps}:
            raise NotFound(
                Text(en=f"{run_id} has no step “{step_id}”.", zh=f"{run_id} 没有步骤“{step_id}”。"), field="step"
            )
        return RunFolder(self.settings.home, run_id).log(step_id)

    def runs(
        self,
        query: str = "",
        states: Iterable[State] = (),
        limit: int = 50,
        before: tuple[datetime, str] | None = None,
        pinned: bool | None = None,
    ) -> tuple[Summary, ...]:
        """A page of the history, newest first. `before` is the (created_at, id) of the row above it."""
        return self._store.runs(query, states, limit, before, pinned)

    def count(self, query: str = "", states: Iterable[State] = (), pinned: bool | None = None) -> int:
        """How many runs the filter finds."""
        return self._store.count(query, states, pinned)

    def open_runs(self) -> tuple[Run, ...]:
        """Every run that is not over, oldest first."""
        return self._store.in_state(*OPEN)

    def serving(self) -> tuple[Run, ...]:
        """Every run whose server answers."""
        return self._store.in_state(State.SERVING)

    def looks(self, run_id: str) -> Iterator[Run]:
        """The run as it stands, again and again until it is over. Looks after runs without a worker meanwhile, as a
        panel does: else the run of a worker that dies would stay open for as long as no panel is. Raises NotFound."""
        recovered = time.monotonic()
        while True:
            run = self._store.run(run_id)
            yield run
            if not run.state.is_open():
                return
            time.sleep(LOOK_S)
            if time.monotonic() - recovered > RECOVER_S:
                self.recover()
                recovered = time.monotonic()

    def wait(self, run_id: str, timeout_s: float = math.inf) -> Run:
        """Waits until the run serves or is over; after `timeout_s` it is returned as it stands. Raises NotFound."""
        deadline = time.monotonic() + timeout_s
        return next(
            run
            for run in self.looks(run_id)
            if run.state is State.SERVING or not run.state.is_open() or time.monotonic() > deadline
        )

    # --- watching -------------------------------------------------------------------------------------------------

    def watch(self) -> None:
        """Begins to watch the machine, the running servers and the workers; the panel calls it once."""
        self._sampler.start()
        threading.Thread(target=self._recover_forever, daemon=True, name="recover").start()

    def monitor(self) -> Monitor:
        """The newest sample of everything that is watched."""
        return self._sampler.now

    def thresholds(self) -> Thresholds:
        """From which values on alerts are raised: what a person chose, else what is usual."""
        kept = self._store.choice("thresholds")
        return Thresholds() if kept is None else Thresholds.model_validate_json(kept)

    def set_thresholds(self, thresholds: Thresholds) -> None:
        """Chooses them, for every panel of this data folder."""
        self._store.keep_choice("thresholds", thresholds.model_dump_json())

    def alerts(self) -> tuple[Alert, ...]:
        """What of the newest sample should worry a person."""
        return alerts(self.monitor(), self.thresholds())

    def add_watched(self, server: WatchedServer) -> Watched:
        """Watches a Triton server that Slipway did not start. Raises BadInput for a host that may not be looked at."""
        named = self.settings.watch_hosts
        may_resolve(server.host, named)
        address = chosen(server.host, resolved(server.host), named)
        return self._store.add_watched(f"watch-{secrets.token_hex(4)}", server, address)

    # --- what is left behind --------------------------------------------------------------------------------------

    def reclaimable(self) -> tuple[Leftover, ...]:
        """What Slipway made in Docker and nothing uses now, with its bytes. Raises Unreachable."""
        return tuple(one for target in self._targets.values() for one in target.reclaimable())

    def reclaim(self, chosen: Iterable[Leftover]) -> int:
        """Removes of these what is still unused; returns the bytes that this freed. Raises Unreachable."""
        wanted = tuple(chosen)
        return sum(target.reclaim(wanted) for target in self._targets.values())

    # --- within ---------------------------------------------------------------------------------------------------

    def _memory_mib(self, run_id: str) -> int | None:
        """What a run's server holds in memory; None where its target does not answer."""
        with contextlib.suppress(Unreachable):
            return self._targets[self._store.run(run_id).spec.target].find(run_id).memory_mib
        return None

    def _folders_in_use(self) -> tuple[str, ...]:
        """Folders that a container of an open run reads."""
        found: list[str] = []
        for run in self.open_runs():
            service, target = run.plan.service, self._targets[run.spec.target]
            if service is not None and service.container is not None:
                places = target.places(run.id, run.endpoint or NOWHERE, run.spec.bind)
                found += [fill(mount.source, places) for mount in service.container.mounts]
        return tuple(found)

    def _recover_forever(self) -> None:
        """A worker may die while the panel is open too."""
        while True:
            time.sleep(RECOVER_S)
            try:
                self.recover()
            except Exception:  # whatever it was, the next look may succeed; the panel goes on
                log.exception("looking after the runs failed")

    def _spawn(self, run_id: str, held: IO[bytes]) -> None:
        self._workers.start(run_id, held)

    def _lose(self, run: Run) -> None:
        text = Text(
            en="Its worker ended without a word: killed, or the machine restarted. Nothing of it runs any more.",
            zh="工作进程无声退出（被强制结束或机器重启），相关进程均已结束。",
        )
        hint = Text(en="Retry goes on behind the steps that are done.", zh="重试会从未完成的步骤继续。")
        views = standings(run.plan, self._store.after(run.id))
        now = next((view.id for view in views if view.standing == "now"), None)
        self._store.append(run.id, [Event(step=now, kind=Kind.LOST, text=text, hint=hint)])
        tail = logs.last_lines(RunFolder(self.settings.home, run.id).log(now)) if now else ()
        trouble = Trouble(step=now, message=text, hint=hint, last_lines=tail)
        self._store.move(run.id, State.LOST, come_from=OPEN, trouble=trouble)


def _service_id(run: Run) -> str | None:
    return run.plan.service.id if run.plan.service else None


__all__ = ["DEMO", "Control", "SlipwayError", "Started"]
