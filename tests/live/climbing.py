"""A deployment that climbs through its own steps, and the ways to hold it at one, to make that one fail, and to look
what is left of it.

A step is held where it stands by what it reads or asks: a file that nobody can open (`tests.lease`), a `git` that does
not go on, a registry that stops in the middle of a layer, a line in a script of the checkout.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import docker
import psutil

from app.__main__ import control as make_control
from app.control import Control
from backends.events import Kind
from backends.runs import State
from backends.steps import Plan, PullImage
from backends.text import Text
from tests.conftest import until
from tests.hub import Hub
from tests.lease import Lease
from tests.registry import Registry
from tests.test_jobs import worker_of
from tests.upstream import TOOLS

FOUND = Text(en="Found the running container.", zh="找到了正在运行的容器。")
SKIPPED = Text(en="Already done, found again.", zh="此前已完成，直接复用。")
SLEEPS = "sleep 599"
NO_MIRROR = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(': /simple/transformers/\n"
    "ERROR: No matching distribution found for transformers==4.19.2"
)
NO_PACKAGE = "ERROR: No matching distribution found for regex==2024.11.6"
OTHER_FORMAT = '#!/bin/sh\nprintf "GPT gemm table, version 9\\n1 1 32\\n" > gemm_config.in\n'
Held = Callable[[], object]
"""Whether the step is held by now."""


@dataclass(frozen=True)
class Route:
    """A recipe's way up. `saves` is the line of its converter that writes the file which is missed, `weights` a file
    that the server reads; `fails` names each step with what its failure is told with, `logs` with words of its log."""

    family: str
    backend: str
    library: str
    converter: str
    saves: str
    weights: str
    template: str
    question: str
    answer: str
    fails: dict[str, str]
    logs: dict[str, str] = field(default_factory=dict)
    tool: str = ""
    breaks: dict[str, Callable[[Climb], None]] = field(default_factory=dict)  # in a way of its own


@dataclass
class World:
    """What is outside of the deployments, and can be slow or refuse: git, the registry, the hub of models.

    `base` is the id of the image that stands for Triton's.
    """

    engine: docker.DockerClient
    gate: Path  # what is written there is what git does
    registry: Registry
    hub: Hub
    base: str


@dataclass
class Climb:
    """The deployment, and the ways to hold it or make it fail at a step."""

    route: Route
    control: Control
    world: World
    plan: Plan
    offered: Callable[[], str]  # id of the image that the registry has under the name that is pulled
    run: str = ""
    put_back: dict[Path, tuple[bytes, int] | None] = field(default_factory=dict)  # None: it was not there
    leases: list[Lease] = field(default_factory=list)

    # --- where things lie

    def there(self, pattern: str) -> Path:
        """The one file below the data folder that fits."""
        return next(iter(self.control.settings.home.glob(pattern)))

    def of_backend(self, path: str) -> Path:
        return self.there(f"sources/*--{self.route.backend}--*/{path}")

    def of_library(self, path: str) -> Path:
        return self.there(f"sources/*--{self.route.library}--*/{path}")

    def of_model(self, path: str) -> Path:
        return self.there(f"models/**/*tiny-{self.route.family}*/**/{path}")

    def converted(self, name: str) -> Path:
        return self.there(f"converted/*tiny-{self.route.family}*-fp*/2-gpu/{name}")

    def output(self, step: str) -> Path:
        """The first thing that a step makes."""
        return Path(self.plan.step(step).outputs[0].replace("{home}", str(self.control.settings.home)))

    def beside(self, step: str, name: str) -> Path:
        """A file beside the folder that a step's script writes into, for the script to look at."""
        home = self.control.settings.home
        made = Path(*self.output(step).relative_to(home).parts[:2])
        return home / f"{made}.{name}"

    def pulled(self) -> tuple[str, str]:
        """What is pulled: its whole name, and its name in the registry."""
        image = next(step.image for step in self.plan.steps if isinstance(step, PullImage))
        return image, image.removeprefix(f"{self.world.registry.address}/")

    # --- what is made wrong, and well again

    def changed(self, path: Path, text: str) -> None:
        self.put_back.setdefault(path, (path.read_bytes(), path.stat().st_mode))
        path.write_text(text, encoding="utf-8")

    def made(self, path: Path, text: str = "") -> None:
        """A file that is not there otherwise."""
        self.put_back.setdefault(path, None)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")

    def gone(self, path: Path) -> None:
        """The file is not there."""
        self.changed(path, "")
        path.unlink()

    def instead(self, line: str, other: str) -> None:
        """Another line in place of the converter's."""
        path = self.of_library(self.route.converter)
        indent = line[: len(line) - len(line.lstrip())]
        self.changed(path, path.read_text(encoding="utf-8").replace(line, indent + other))

    def built_with(self, command: str) -> None:
        """The Dockerfile has this command in it."""
        path = self.of_backend("docker/Dockerfile")
        self.changed(path, f"{path.read_text(encoding='utf-8')}RUN {command}\n")

    def closed(self, path: Path) -> Held:
        """Nobody can open the file: who tries waits."""
        lease = Lease(path)
        self.leases.append(lease)
        return lease.wanted

    def well(self) -> None:
        """Everything as it was."""
        world = self.world
        world.gate.unlink(missing_ok=True)
        world.gate.with_suffix(".held").unlink(missing_ok=True)
        world.hub.gated.clear()
        world.registry.slow.clear()
        world.registry.denied.clear()
        world.registry.offer(self.pulled()[1], self.offered())
        for path, kept in self.put_back.items():
            path.unlink(missing_ok=True)
            if kept is not None:
                path.write_bytes(kept[0])
                path.chmod(kept[1])
        for lease in self.leases:
            lease.release()
        self.put_back, self.leases = {}, []

    # --- the run

    def go(self) -> None:
        """Starts the run, or resumes it."""
        if self.run:
            self.control.resume(self.run)
        else:
            self.run = self.control.start_plan(self.plan).run.id

    def begun(self, step: str) -> bool:
        """Whether the newest attempt has come to the step; fails where the run ended before it."""
        run = self.control.run(self.run)
        assert run.state.is_open(), f"{run.state} before {step}: {run.trouble}"
        return self.standing()[step] == "now"

    def standing(self) -> dict[str, str]:
        return {view.id: view.standing for view in self.control.steps(self.run)}

    def before(self, step: str) -> set[str]:
        """How the steps before this one stand."""
        ids = [one.id for one in self.plan.steps]
        standing = self.standing()
        return {standing[one] for one in ids[: ids.index(step)]}

    def says_skipped(self, step: str) -> bool:
        """Whether the step was found done, and a person is told so."""
        last = [event for event in self.control.events(self.run) if event.step == step][-1]
        return (last.kind, last.text) == (Kind.SKIPPED, SKIPPED)

    def to_do(self) -> set[str]:
        return {one.id for one in self.control.to_do(self.control.run(self.run).plan)}

    def containers(self) -> list[str]:
        wanted = {"label": f"slipway.run={self.run}"}
        return [one.id for one in self.world.engine.containers.list(all=True, ignore_removed=True, filters=wanted)]

    def building(self) -> list[str]:
        """Containers of the engine's own builder that hold the build."""
        return [one["Id"] for one in self.world.engine.api.containers(all=True) if SLEEPS in one["Command"]]

    def says_held(self, step: str) -> bool:
        return "held" in self.control.log(self.run, step).lines

    def come_to(self, step: str) -> None:
        """Where nothing was begun (a case that runs by itself): what the steps before this one make is made."""
        ids = [one.id for one in self.plan.steps]
        if not self.run and ids.index(step):
            self.well()
            before = self.plan.model_copy(update={"steps": self.plan.steps[: ids.index(step)]})
            run = self.control.wait(self.control.start_plan(before).run.id, 240)
            assert run.state is State.DONE, run.trouble

    def climbed(self) -> None:
        """Where nothing was begun: the run has served, and was stopped."""
        if not self.run:
            self.well()
            self.go()
            assert self.control.wait(self.run, 240).state is State.SERVING
            self.control.stop(self.run)
            until(lambda: not self.control.run(self.run).state.is_open(), 60)

    def hold(self, step: str) -> None:
        """Lets the run go on until the step is under way, and held there."""
        held = HOLDS[step](self)
        self.go()
        until(lambda: self.begun(step) and held(), 120, f"{step} to be held")

    def stopped(self, step: str) -> None:
        """Stops the run: within seconds nothing of it is left, and the step does not count as done."""
        self.control.stop(self.run)
        until(lambda: not self.control.run(self.run).state.is_open(), 40)
        assert self.control.run(self.run).state is State.STOPPED
        assert self.standing()[step] == "stopped"
        self.nothing_is_left(step)

    def nothing_is_left(self, step: str) -> None:
        until(lambda: not self.building(), 20, "the build's container to go")
        until(lambda: not self.world.registry.waiting, 20, "the engine to hang up on the registry")
        assert not self.containers()
        assert self.control._targets["docker"].find(self.run).processes == 0
        assert not [*self.control.settings.home.rglob("*.new")]
        assert step in self.to_do()

    def killed(self, step: str) -> None:
        """Ends the worker with kill -9 and lets another look after the run: a container goes on under a new worker; a
        build by the engine's old builder ends with the connection that asked for it, so the run is lost, and held there
        again.
        """
        there, worker, before = self.containers(), worker_of(self.control, self.run), self.control.run(self.run).state
        _kill(worker)
        make_control({"home": str(self.control.settings.home)}).recover()
        if there:
            assert worker_of(self.control, self.run).pid != worker.pid
            if before is State.RUNNING:
                until(lambda: FOUND in {event.text for event in self.control.events(self.run)}, 60, "it is found again")
            assert (self.containers(), self.control.run(self.run).state) == (there, before)
        else:
            assert self.control.run(self.run).state is State.LOST
            self.nothing_is_left(step)
            self.hold(step)

    def failed(self, step: str) -> None:
        """Lets the run go on and fail at the step, with all that was done before found again. What the step judges does
        not count as done any more."""
        self.route.breaks.get(step, BREAKS[step])(self)
        self.go()
        run = self.control.wait(self.run, 120)
        assert (run.state, run.trouble and run.trouble.step) == (State.FAILED, step), run.trouble
        told = " ".join((*run.trouble.last_lines, run.trouble.message.en))
        assert self.route.fails[step] in told, told
        assert run.trouble.message.zh and (run.trouble.hint is None or run.trouble.hint.zh)
        judged = set(getattr(self.plan.step(step), "checks", ()))
        assert self.before(step) <= ({"skipped", "done"} if judged or step == "first-answer" else {"skipped"})
        assert judged <= self.to_do(), "what was found wrong is made again"
        self.nothing_is_left(step)


def _kill(worker: psutil.Process) -> None:
    worker.kill()
    worker.wait(10)


# --- how a step is held -----------------------------------------------------------------------------------------------


def _asking_git(climb: Climb) -> Held:
    climb.world.gate.write_text("hold")
    return climb.world.gate.with_suffix(".held").exists


def _pulling(climb: Climb) -> Held:
    """The second of two layers stops in its middle."""
    registry = climb.world.registry
    registry.slow.add(registry.offer_other(climb.pulled()[1])[1])
    return lambda: registry.waiting


def _image(climb: Climb) -> Held:
    if isinstance(climb.plan.step("image"), PullImage):
        return _pulling(climb)
    climb.built_with(SLEEPS)
    return climb.building


def _at_its_line(step: str) -> Callable[[Climb], Held]:
    """The script waits in a line of its own, with half of its work done, as long as there is a file beside its folder:
    FOLDER.hold."""

    def hold(climb: Climb) -> Held:
        climb.made(climb.beside(step, "hold"))
        return partial(climb.says_held, step)

    return hold


def _reading(find: Callable[[Climb], Path]) -> Callable[[Climb], Held]:
    return lambda climb: climb.closed(find(climb))


def _running(script: str) -> Callable[[Climb], Held]:
    """A script of Slipway's own that takes no time at all."""
    return lambda climb: climb.closed(TOOLS / script)


def _answering(climb: Climb) -> Held:
    """The server has the question and never answers."""
    climb.made(climb.converted("config.ini").with_name("slow"))
    return partial(climb.says_held, "serve")


HOLDS: dict[str, Callable[[Climb], Held]] = {
    "backend-source": _asking_git,
    "base-image": _pulling,
    "image": _image,
    "image-check": _running("check_image.py"),
    "library-source": _asking_git,
    "model": _reading(lambda climb: climb.world.hub.models["slipway/tiny-llama"] / "model.safetensors"),
    "converter-source": _asking_git,
    "converter-packages": _at_its_line("converter-packages"),
    "one-file": _running("one_file.py"),
    "convert": _at_its_line("convert"),
    "weights-check": _running("check_weights.py"),
    "library-configure": _reading(lambda climb: climb.of_library("CMakeLists.txt")),
    "library-build": _reading(lambda climb: climb.of_library(f"tools/{climb.route.tool}")),
    "autotune": _at_its_line("autotune"),
    "gemm-config": _running("place_gemm.py"),
    "server-packages": _at_its_line("server-packages"),
    "repository": _reading(lambda climb: climb.of_backend(climb.route.template)),
    "tokenizer-check": _running("check_tokenizer.py"),
    "serve": _reading(lambda climb: climb.converted("config.ini")),
    "first-answer": _answering,
}


# --- how a step fails -------------------------------------------------------------------------------------------------


def _unreachable_git(climb: Climb) -> None:
    climb.world.gate.write_text("fail")


def _spoiled_layer(climb: Climb) -> None:
    registry = climb.world.registry
    registry.spoil(registry.offer_other(climb.pulled()[1])[1])


def no_such_tag(climb: Climb) -> None:
    climb.world.registry.manifests.pop(climb.pulled()[1])


def _no_compiler(climb: Climb) -> None:
    if isinstance(climb.plan.step("image"), PullImage):
        climb.world.registry.denied.add(climb.pulled()[1])
    else:
        climb.built_with("echo no compiler && exit 7")


def _no_backend(climb: Climb) -> None:
    """An image that is none of FasterTransformer's, built or pulled."""
    step = climb.plan.step("image")
    if isinstance(step, PullImage):
        climb.world.registry.offer(climb.pulled()[1], climb.world.base)
        return
    climb.world.engine.api.tag(climb.world.base, *step.tag.split(":"))  # one of that name that was not built here
    climb.built_with("rm -r /opt/tritonserver/backends/fastertransformer")


def _gated_model(climb: Climb) -> None:
    climb.world.hub.gated.add("slipway/tiny-llama")


def _installing(step: str, words: str) -> Callable[[Climb], None]:
    """pip fails with these words."""
    return lambda climb: climb.made(climb.beside(step, "fail"), words)


def _no_memory(climb: Climb) -> None:
    climb.instead(climb.route.saves, "raise MemoryError")


def _other_tool(climb: Climb) -> None:
    """The tool of another revision, which prints its usage and ends well."""
    climb.changed(climb.there(f"build/*/bin/{climb.route.tool}"), "#!/bin/sh\necho usage\n")


def _other_format(climb: Climb) -> None:
    climb.changed(climb.there(f"build/*/bin/{climb.route.tool}"), OTHER_FORMAT)


def _no_tokenizer(climb: Climb) -> None:
    climb.gone(climb.of_model("tokenizer.json"))


def no_regex(climb: Climb) -> None:
    climb.gone(climb.output("server-packages") / "regex" / "__init__.py")


def answers(how: str) -> Callable[[Climb], None]:
    """The server takes the question and answers with an error ("wrong") or with nothing ("mute")."""
    return lambda climb: climb.made(climb.converted("config.ini").with_name(how))


BREAKS: dict[str, Callable[[Climb], None]] = {
    "backend-source": _unreachable_git,
    "base-image": _spoiled_layer,
    "image": _no_compiler,
    "image-check": _no_backend,
    "library-source": _unreachable_git,
    "model": _gated_model,
    "converter-source": _unreachable_git,
    "converter-packages": _installing("converter-packages", NO_MIRROR),
    "one-file": lambda climb: climb.changed(climb.of_model("model.safetensors"), ""),
    "convert": _no_memory,
    "weights-check": lambda climb: climb.instead(climb.route.saves, "pass"),  # it ends well with a file missing
    "library-configure": lambda climb: climb.gone(climb.of_library("CMakeLists.txt")),
    "library-build": lambda climb: climb.gone(climb.of_library(f"tools/{climb.route.tool}")),
    "autotune": _other_tool,
    "gemm-config": _other_format,
    "server-packages": _installing("server-packages", NO_PACKAGE),
    "repository": lambda climb: climb.changed(climb.of_backend(climb.route.template), "name: 7"),
    "tokenizer-check": _no_tokenizer,
    "serve": lambda climb: climb.changed(climb.converted(climb.route.weights), "short"),
    "first-answer": answers("wrong"),
}
