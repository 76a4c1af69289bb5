"""Each step of a FasterTransformer recipe stopped, failed and resumed; a worker killed while it builds and converts.

One deployment of GPT-J, which has every kind of step, climbs through all of this: every case goes on where the one
before left it, so what was done is never done again. A step is held where it stands by what it reads: a `git` that does
not go on, a line in the Dockerfile or script of the checkout, a pipe in place of a file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import docker
import psutil
import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.runs import State
from backends.steps import Plan
from backends.text import Text
from tests.conftest import until
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import ask, bases, gone, log, said, the_plan, the_spec  # noqa: F401
from tests.test_jobs import worker_of
from tests.upstream import FIXTURES, SENTENCE, backend_repository, commit_all, git_repository, tiny_gptj

pytestmark = pytest.mark.live
GIT = """#!/bin/sh
told=$(cat {gate} 2>/dev/null)
case " $* $told" in
  *" fetch "*hold) touch {gate}.held; exec sleep 600;;
  *" fetch "*fail) echo "fatal: unable to access the repository" >&2; exit 128;;
esac
exec {git} "$@"
"""


TOKEN = "hf_plantedsecretvalue789"
CONVERTER = "examples/pytorch/gptj/utils/huggingface_gptj_ckpt_convert.py"
SAVES = '    save("model.wte"'
MEASURES = "    for number in range(4):"
SLEEPS = "RUN sleep 599\n"
WAITS = "import os, time; print('held'); [time.sleep(0.05) for _ in iter(lambda: os.path.exists('{go}'), True)]"
FOUND = Text(en="Found the running container.", zh="找到了正在运行的容器。")
FAILURES = {  # the step: what its failure is told with
    "backend-source": "unable to access the repository",
    "image": "no compiler",
    "library-source": "unable to access the repository",
    "convert": "MemoryError",
    "weights-check": "model.wte.bin is missing",
    "library-build": "No such file or directory",
    "autotune": "wrote no entries",
    "repository": "ensemble/config.pbtxt",
    "serve": "loading model fails!",
}


@dataclass
class Climb:
    """The deployment, and the ways to hold it or make it fail at a step."""

    control: Control
    engine: docker.DockerClient
    plan: Plan
    gate: Path
    run: str = ""
    put_back: dict[Path, tuple[bytes, int]] = field(default_factory=dict)
    pipes: list[int] = field(default_factory=list)

    # --- where things lie

    def there(self, pattern: str) -> Path:
        """The one file below the data folder that fits."""
        return next(iter(self.control.settings.home.glob(pattern)))

    def changed(self, path: Path, text: str) -> None:
        self.put_back.setdefault(path, (path.read_bytes(), path.stat().st_mode))
        path.write_text(text, encoding="utf-8")

    def piped(self, path: Path) -> Path:
        """A pipe in the file's place: who reads it waits."""
        self.changed(path, "")
        path.unlink()
        os.mkfifo(path)
        return path

    def waits_at(self, pipe: Path) -> bool:
        """Whether somebody reads the pipe; kept open, so that the reader goes on waiting."""
        try:
            self.pipes.append(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        except OSError as error:
            if error.errno == errno.ENXIO:
                return False
            raise
        return True

    def well(self) -> None:
        """Everything as it was."""
        self.gate.unlink(missing_ok=True)
        self.gate.with_suffix(".held").unlink(missing_ok=True)
        for path, (data, mode) in self.put_back.items():
            path.unlink(missing_ok=True)
            path.write_bytes(data)
            path.chmod(mode)
        for pipe in self.pipes:
            os.close(pipe)
        self.put_back, self.pipes = {}, []

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

    def containers(self) -> list[str]:
        found = self.engine.containers.list(all=True, ignore_removed=True, filters={"label": f"slipway.run={self.run}"})
        return [one.id for one in found]

    def building(self) -> list[str]:
        """Containers of the engine's own builder that hold the build."""
        return [one["Id"] for one in self.engine.api.containers(all=True) if "sleep 599" in one["Command"]]

    def stopped(self, step: str) -> None:
        """Stops the run: within seconds nothing of it is left, and the step does not count as done."""
        self.control.stop(self.run)
        until(lambda: not self.control.run(self.run).state.is_open(), 30)
        assert self.control.run(self.run).state is State.STOPPED
        self.nothing_is_left(step)

    def nothing_is_left(self, step: str) -> None:
        until(lambda: not self.building(), 10, "the build's container to go")
        assert not self.containers()
        assert self.control._targets["docker"].find(self.run).processes == 0
        assert step in {one.id for one in self.control.to_do(self.control.run(self.run).plan)}

    def killed(self, step: str) -> None:
        """Ends the worker with kill -9 and lets another panel look after the run: a task's container goes on under
        a new worker; a build ends with the connection that asked for it, so the run is lost, and held there again.
        """
        there, worker = self.containers(), worker_of(self.control, self.run)
        worker.kill()
        worker.wait(10)
        make_control({"home": str(self.control.settings.home)}).recover()
        if there:
            assert worker_of(self.control, self.run).pid != worker.pid
            until(lambda: FOUND in {event.text for event in self.control.events(self.run)}, 30, "it is found again")
            assert (self.containers(), self.control.run(self.run).state) == (there, State.RUNNING)
        else:
            assert self.control.run(self.run).state is State.LOST
            self.nothing_is_left(step)
            self.hold(step)

    def failed(self, step: str) -> None:
        """Lets the run go on and fail at the step, with all that was done before found again."""
        self.go()
        run = self.control.wait(self.run, 60)
        assert (run.state, run.trouble and run.trouble.step) == (State.FAILED, step), run.trouble
        told = " ".join((*run.trouble.last_lines, run.trouble.message.en))
        assert FAILURES[step] in told
        assert self.before(step) <= ({"skipped", "done"} if step == "weights-check" else {"skipped"})
        self.nothing_is_left(step)

    # --- holding and failing, a step each

    def hold(self, step: str) -> None:
        """Lets the run go on until the step is under way, and held there."""
        pipe: Path | None = None
        if step == "library-build":
            pipe = self.piped(self.there("sources/*/tools/gpt_gemm"))
        elif step == "serve":
            pipe = self.piped(self.there("converted/*/2-gpu/config.ini"))
        elif step.endswith("-source"):
            self.gate.write_text("hold")
        self.go()
        if step == "repository":
            until(lambda: _frozen(self.run, "backends.fastertransformer.repository"), 60, "the writer to be held")
            return
        held: Callable[[], object] = self.gate.with_suffix(".held").exists
        if pipe is not None:
            held = partial(self.waits_at, pipe)
        elif step == "image":
            held = self.building
        elif step in ("convert", "autotune"):
            held = partial(self.says_held, step)
        until(lambda: self.begun(step) and held(), 60, f"{step} to be held")

    def says_held(self, step: str) -> bool:
        return "held" in self.control.log(self.run, step).lines

    def break_(self, step: str) -> None:
        """Makes the step fail."""
        if step.endswith("-source"):
            self.gate.write_text("fail")
        elif step == "image":
            path = self.there("sources/*/docker/Dockerfile")
            held = path.read_text(encoding="utf-8")
            path.write_text(held.replace(SLEEPS, ""), encoding="utf-8")
            self.changed(path, held.replace(SLEEPS, "RUN echo no compiler && exit 7\n"))
        elif step == "convert":
            path = self.there(f"sources/*/{CONVERTER}")
            self.changed(path, path.read_text(encoding="utf-8").replace(SAVES, f"    raise MemoryError\n{SAVES}"))
            self.there("converted").joinpath("go").touch()
        elif step == "weights-check":  # a converter that ends well with a file missing
            path = self.there(f"sources/*/{CONVERTER}")
            self.changed(path, path.read_text(encoding="utf-8").replace(SAVES, f"    if False:\n    {SAVES}"))
        elif step == "library-build":
            self.changed(self.there("sources/*/tools/gpt_gemm"), "")
            self.there("sources/*/tools/gpt_gemm").unlink()
        elif step == "autotune":
            self.changed(self.there("build/*/bin/gpt_gemm"), "#!/bin/sh\necho usage\n")
            self.there("gemm").joinpath("go").touch()
        elif step == "repository":
            self.changed(self.there("sources/*/all_models/gptj/ensemble/config.pbtxt"), "name: 7")
        else:
            self.changed(self.there("converted/*/2-gpu/model.wte.bin"), "short")


def _frozen(run: str, module: str) -> bool:
    """Freezes the run's process of that module, which ends too soon to be held in another way."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if module in (process.info["cmdline"] or []) and process.environ().get("SLIPWAY_RUN") == run:
                process.suspend()
                return True
    return False


def _put_in(path: Path, before: str, line: str) -> None:
    """Puts a line into a script, so that it comes there with half of its work done."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    indent = before[: len(before) - len(before.lstrip())]
    path.write_text(text.replace(before, f"{indent}{line}\n{before}", 1), encoding="utf-8")


@pytest.fixture(scope="module")
def climb(tmp_path_factory, engine, bases) -> Iterator[Climb]:  # noqa: F811
    folder = tmp_path_factory.mktemp("steps")
    tiny_gptj(folder / "home" / "models" / "tiny-gptj")
    control = make_control({"home": str(folder / "home")})
    upstream = {name: f"file://{folder / name}" for name in ("blog", "blog_library")}
    backend_repository("blog", folder / "blog")
    git_repository(FIXTURES / "blog_library", folder / "blog_library")
    with (folder / "blog" / "docker" / "Dockerfile").open("a") as file:
        file.write(SLEEPS)
    _put_in(folder / "blog_library" / CONVERTER, SAVES, WAITS.format(go=f"{folder}/home/converted/go"))
    _put_in(folder / "blog_library" / "tools" / "gpt_gemm", MEASURES, WAITS.format(go=f"{folder}/home/gemm/go"))
    for name in upstream:
        commit_all(folder / name)
    (folder / "bin").mkdir()
    program = folder / "bin" / "git"
    program.write_text(GIT.format(gate=folder / "gate", git=shutil.which("git")))
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        climb = Climb(
            control, engine, the_plan(control, the_spec(control, "gptj", upstream, bases, "climb")), folder / "gate"
        )
        yield climb
        climb.well()
        if climb.run and control.run(climb.run).state.is_open():
            gone(control, control.run(climb.run))
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())


@pytest.mark.parametrize("step", FAILURES)
def test_a_step_is_stopped_and_fails_and_the_run_goes_on_behind_it(climb: Climb, step: str) -> None:
    if step != "weights-check":  # over at once
        climb.hold(step)
        if step in ("image", "convert"):
            climb.killed(step)
        climb.stopped(step)
        climb.well()
    climb.break_(step)
    climb.failed(step)
    climb.well()
    if step == "weights-check":
        to_do = [one.id for one in climb.control.to_do(climb.plan)]
        assert "convert" in to_do, "what was found wrong is made again"


def test_gptj_answers_in_text_with_its_kernels_measured_after_all_that(climb: Climb) -> None:
    climb.go()
    run = climb.control.wait(climb.run, 60)
    assert run.state is State.SERVING, run.trouble
    assert climb.before("serve") == {"skipped"}
    assert "sm=86" in log(climb.control, run, "library-configure")
    assert "arguments: 1 1 32 2 32 256 48 1 2" in log(climb.control, run, "autotune")
    assert "gemm_config.in: 4 entries" in log(climb.control, run, "serve")
    pieces = ask(climb.control, run, "Hello, my name is")
    assert (said(pieces).strip(), pieces[-1].finish) == (SENTENCE, "stop")
    inspected = [one.attrs for one in climb.engine.containers.list(filters={"label": f"slipway.run={run.id}"})]
    built = climb.engine.images.get(climb.plan.step("image").tag)
    told = json.dumps([inspected, built.attrs, built.history()]).encode()
    kept = [path for path in climb.control.settings.home.rglob("*") if path.is_file()]
    assert inspected and len(kept) > 50
    assert not [str(path) for path in kept if TOKEN.encode() in path.read_bytes()]
    assert TOKEN.encode() not in told
    gone(climb.control, run)
