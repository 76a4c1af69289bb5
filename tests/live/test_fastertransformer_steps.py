"""Each step of the FasterTransformer recipes stopped, failed and resumed; a worker killed while it builds, converts and
serves.

One deployment of each family climbs through its own steps: every case goes on where the one before left it, so what was
done is never done again, and T5 begins with the image and checkouts that GPT-J made. A step is held where it stands by
what it reads: a `git` that does not go on, a line in a Dockerfile or script of the checkout, a pipe in a file's place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import docker
import httpx
import psutil
import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.runs import State
from backends.steps import Plan
from backends.text import Text
from tests.conftest import until
from tests.live.browser import free_port
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import MAKERS, ask, bases, gone, log, said, the_plan, the_spec  # noqa: F401
from tests.test_jobs import worker_of
from tests.upstream import FIXTURES, GERMAN, ROOT, SENTENCE, backend_repository, commit_all, git_repository

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
MEASURES = "    for number in range("
SLEEPS = "RUN sleep 599\n"
WAITS = "import os, time; print('held'); [time.sleep(0.05) for _ in iter(lambda: os.path.exists('{go}'), True)]"
FOUND = Text(en="Found the running container.", zh="找到了正在运行的容器。")


@dataclass(frozen=True)
class Route:
    """A family's way up. `saves` is the line of its converter that writes the file which is missed, `weights` a file
    that the server reads; `fails` names each step with what its failure is told with, `logs` with words of its log."""

    backend: str
    library: str
    converter: str
    saves: str
    weights: str
    template: str
    question: str
    answer: str
    fails: dict[str, str]
    logs: dict[str, str]
    tool: str = ""


FETCHED, BUILT = "unable to access the repository", "no compiler"
ROUTES = {
    "llama": Route(
        backend="backend",
        library="llama_library",
        converter="examples/cpp/llama/huggingface_llama_convert.py",
        saves='        split(base + "mlp.down_proj.weight", weights[base + "mlp.down_proj.weight"].T, 0)',
        weights="model.wte.weight.bin",
        template="all_models/llama/ensemble/config.pbtxt",
        question="Hello, my name is",
        answer=SENTENCE,
        fails={
            "backend-source": FETCHED,
            "image": BUILT,
            "converter-source": FETCHED,
            "convert": "MemoryError",
            "weights-check": "model.layers.0.mlp.down_proj.weight.0.bin is missing",
            "repository": "ensemble/config.pbtxt",
            "tokenizer-check": "LlamaTokenizer does not load",
            "serve": "loading model fails!",
        },
        logs={"convert": "done layer 1", "weights-check": "27 files", "serve": "Use DECOUPLED (streaming)"},
    ),
    "gptj": Route(
        backend="blog",
        library="blog_library",
        converter="examples/pytorch/gptj/utils/huggingface_gptj_ckpt_convert.py",
        saves='    save("model.wte", weights["transformer.wte.weight"])',
        weights="model.wte.bin",
        template="all_models/gptj/ensemble/config.pbtxt",
        question="Hello, my name is",
        answer=SENTENCE,
        tool="gpt_gemm",
        fails={
            "backend-source": FETCHED,
            "image": BUILT,
            "library-source": FETCHED,
            "convert": "MemoryError",
            "weights-check": "model.wte.bin is missing",
            "library-build": "No such file or directory",
            "autotune": "wrote no entries",
            "repository": "ensemble/config.pbtxt",
            "serve": "loading model fails!",
        },
        logs={
            "library-configure": "sm=86",
            "autotune": "gpt_gemm 1 1 32 2 32 256 48 1 2",
            "serve": "gemm_config.in: 11 entries",
        },
    ),
    "t5": Route(
        backend="blog",
        library="blog_library",
        converter="examples/pytorch/t5/utils/huggingface_t5_ckpt_convert.py",
        saves='            save(key + "_T", value.T)',
        weights="shared.weight.bin",
        template="all_models/t5/fastertransformer/config.pbtxt",
        question="translate English to German: The house is wonderful.",
        answer=GERMAN,
        tool="t5_gemm",
        fails={
            "convert": "MemoryError",
            "weights-check": "shared.weight_T.bin is missing",
            "library-build": "No such file or directory",
            "autotune": "wrote no entries",
            "repository": "fastertransformer/config.pbtxt",
            "serve": "loading model fails!",
        },
        logs={"autotune": "t5_gemm 1 1 32", "serve": "gemm_config.in: 12 entries"},
    ),
}
CASES = [(family, step) for family, route in ROUTES.items() for step in route.fails]


@dataclass
class Climb:
    """The deployment, and the ways to hold it or make it fail at a step."""

    family: str
    control: Control
    engine: docker.DockerClient
    plan: Plan
    gate: Path
    run: str = ""
    frozen: psutil.Process | None = None
    panel: subprocess.Popen[bytes] | None = None
    put_back: dict[Path, tuple[bytes, int]] = field(default_factory=dict)
    pipes: list[int] = field(default_factory=list)

    @property
    def route(self) -> Route:
        return ROUTES[self.family]

    # --- where things lie

    def there(self, pattern: str) -> Path:
        """The one file below the data folder that fits."""
        return next(iter(self.control.settings.home.glob(pattern)))

    def of_backend(self, path: str) -> Path:
        return self.there(f"sources/*--{self.route.backend}--*/{path}")

    def of_library(self, path: str) -> Path:
        return self.there(f"sources/*--{self.route.library}--*/{path}")

    def converted(self, name: str) -> Path:
        return self.there(f"converted/tiny-{self.family}-*/2-gpu/{name}")

    def goes_on(self, folder: str) -> None:
        """Lets the scripts that wait go on."""
        self.there(folder).joinpath(f"go-{self.family}").touch()

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
        if self.frozen is not None:
            until(lambda: _told_to_end(self.frozen), 10, "the frozen writer to be told to end")
            self.frozen.resume()
            self.frozen = None
        until(lambda: not self.control.run(self.run).state.is_open(), 30)
        assert self.control.run(self.run).state is State.STOPPED
        self.nothing_is_left(step)

    def nothing_is_left(self, step: str) -> None:
        until(lambda: not self.building(), 10, "the build's container to go")
        assert not self.containers()
        assert self.control._targets["docker"].find(self.run).processes == 0
        assert step in {one.id for one in self.control.to_do(self.control.run(self.run).plan)}

    def killed(self, step: str) -> None:
        """Ends the worker with kill -9, and the panel where there is one, and lets another look after the run: a
        container goes on under a new worker; a build by the engine's old builder ends with the connection that asked
        for it, so the run is lost, and held there again.
        """
        if self.panel is not None:
            self.panel.kill()
            self.panel.wait(10)
        there, worker, before = self.containers(), worker_of(self.control, self.run), self.control.run(self.run).state
        worker.kill()
        worker.wait(10)
        make_control({"home": str(self.control.settings.home)}).recover()
        if there:
            assert worker_of(self.control, self.run).pid != worker.pid
            if before is State.RUNNING:
                until(lambda: FOUND in {event.text for event in self.control.events(self.run)}, 30, "it is found again")
            assert (self.containers(), self.control.run(self.run).state) == (there, before)
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
        assert self.route.fails[step] in told
        assert self.before(step) <= ({"skipped", "done"} if step == "weights-check" else {"skipped"})
        self.nothing_is_left(step)

    # --- holding and failing, a step each

    def hold(self, step: str) -> None:
        """Lets the run go on until the step is under way, and held there."""
        pipe: Path | None = None
        if step == "library-build":
            pipe = self.piped(self.of_library(f"tools/{self.route.tool}"))
        elif step == "tokenizer-check":
            pipe = self.piped(self.there(f"models/tiny-{self.family}/tokenizer.json"))
        elif step == "serve":
            pipe = self.piped(self.converted("config.ini"))
        elif step.endswith("-source"):
            self.gate.write_text("hold")
        self.go()
        if step == "repository":
            module = "backends.fastertransformer.repository"
            self.frozen = until(lambda: _frozen(self.run, module), 60, "the writer to be held")
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
            path = self.of_backend("docker/Dockerfile")
            held = path.read_text(encoding="utf-8")
            path.write_text(held.replace(SLEEPS, ""), encoding="utf-8")
            self.changed(path, held.replace(SLEEPS, "RUN echo no compiler && exit 7\n"))
        elif step == "convert":
            self.instead(self.route.saves, "raise MemoryError")
            self.goes_on("converted")
        elif step == "weights-check":  # a converter that ends well with a file missing
            self.instead(self.route.saves, "pass")
        elif step == "library-build":
            self.gone(self.of_library(f"tools/{self.route.tool}"))
        elif step == "autotune":
            self.changed(self.there(f"build/*/bin/{self.route.tool}"), "#!/bin/sh\necho usage\n")
            self.goes_on("gemm")
        elif step == "repository":
            self.changed(self.of_backend(self.route.template), "name: 7")
        elif step == "tokenizer-check":
            self.gone(self.there(f"models/tiny-{self.family}/tokenizer.json"))
        else:
            self.changed(self.converted(self.route.weights), "short")

    def instead(self, line: str, other: str) -> None:
        """Another line in place of the converter's."""
        path = self.of_library(self.route.converter)
        indent = line[: len(line) - len(line.lstrip())]
        self.changed(path, path.read_text(encoding="utf-8").replace(line, indent + other))

    def gone(self, path: Path) -> None:
        """The file is not there."""
        self.changed(path, "")
        path.unlink()


def _told_to_end(process: psutil.Process) -> bool:
    """Whether a process that is frozen was sent SIGTERM."""
    pending = re.search(r"^ShdPnd:\s*(\w+)$", Path(f"/proc/{process.pid}/status").read_text(), re.MULTILINE)
    return pending is not None and bool(int(pending[1], 16) & 1 << signal.SIGTERM - 1)


def _frozen(run: str, module: str) -> psutil.Process | None:
    """Freezes the run's process of that module, which ends too soon to be held in another way."""
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if module in (process.info["cmdline"] or []) and process.environ().get("SLIPWAY_RUN") == run:
                process.suspend()
                return process
    return None


def _put_in(path: Path, before: str, line: str) -> None:
    """Puts a line into a script, so that it comes there with half of its work done."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    indent = before[: len(before) - len(before.lstrip())]
    path.write_text(text.replace(before, f"{indent}{line}\n{before}", 1), encoding="utf-8")


@pytest.fixture(scope="module")
def climbs(tmp_path_factory, engine, bases) -> Iterator[dict[str, Climb]]:  # noqa: F811
    """A deployment of each family, not begun, in one data folder."""
    folder = tmp_path_factory.mktemp("steps")
    control = make_control({"home": str(folder / "home")})
    for family, make in MAKERS.items():
        make(folder / "home" / "models" / f"tiny-{family}")
    for name in ("backend", "blog"):
        backend_repository(name, folder / name)
        with (folder / name / "docker" / "Dockerfile").open("a") as file:
            file.write(SLEEPS)
        commit_all(folder / name)
    for name in ("llama_library", "blog_library"):
        git_repository(FIXTURES / name, folder / name)
    for family, route in ROUTES.items():
        go = f"{folder}/home/{{}}/go-{family}"
        _put_in(folder / route.library / route.converter, route.saves, WAITS.format(go=go.format("converted")))
        if route.tool:
            _put_in(folder / route.library / "tools" / route.tool, MEASURES, WAITS.format(go=go.format("gemm")))
    for name in ("llama_library", "blog_library"):
        commit_all(folder / name)
    upstream = {name: f"file://{folder / name}" for name in ("backend", "blog", "llama_library", "blog_library")}
    (folder / "bin").mkdir()
    program = folder / "bin" / "git"
    program.write_text(GIT.format(gate=folder / "gate", git=shutil.which("git")))
    program.chmod(0o755)

    def plan(family: str) -> Plan:
        return the_plan(control, the_spec(control, family, upstream, bases, f"climb-{family}"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        yield {family: Climb(family, control, engine, plan(family), folder / "gate") for family in ROUTES}
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())


@pytest.fixture
def climb(climbs: dict[str, Climb], family: str) -> Climb:
    return climbs[family]


@pytest.fixture(autouse=True)
def left_well(climb: Climb) -> Iterator[None]:
    yield
    climb.well()
    if climb.panel is not None:
        climb.panel.kill()
        climb.panel.wait(10)


@pytest.mark.parametrize(("family", "step"), CASES)
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


def _healthy(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/slipway/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("family", ROUTES)
def test_after_all_that_it_answers_and_so_it_does_when_panel_and_worker_were_killed(climb: Climb) -> None:
    port = free_port()
    words = (sys.executable, "-m", "app", "--home", str(climb.control.settings.home), "panel", "--port", str(port))
    climb.panel = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    climb.go()
    run = climb.control.wait(climb.run, 60)
    assert run.state is State.SERVING, run.trouble
    assert climb.before("serve") == {"skipped"}
    with httpx.Client(trust_env=False) as client:
        until(lambda: _healthy(client, port), 30, "the panel")
    for step, words in climb.route.logs.items():
        assert words in log(climb.control, run, step)
    climb.killed("serve")
    pieces = ask(climb.control, run, climb.route.question)
    assert (said(pieces).strip(), pieces[-1].finish) == (climb.route.answer, "stop")
    *_, word = climb.route.answer.split()[:3]
    assert word not in said(ask(climb.control, run, climb.route.question, max_tokens=8, bad_words=(word,))).split()
    inspected = [one.attrs for one in climb.engine.containers.list(filters={"label": f"slipway.run={run.id}"})]
    built = climb.engine.images.get(climb.plan.step("image").tag)
    told = json.dumps([inspected, built.attrs, built.history()]).encode()
    assert inspected and TOKEN.encode() not in told
    # By another process: to open and close SQLite's file here would let go of the locks that this one has on it.
    looked = subprocess.run(("grep", "-rlF", TOKEN, climb.control.settings.home), capture_output=True, text=True)
    assert (looked.stdout, looked.returncode) == ("", 1)
    gone(climb.control, run)
