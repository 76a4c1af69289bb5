"""Each step of the FasterTransformer recipes stopped, failed and resumed; a worker killed while it builds, converts and
serves.

One deployment of each recipe climbs through its own steps: every case goes on where the one before left it, so what was
done is never done again, and T5 begins with the image and checkouts that GPT-J made. How a step is held and made to
fail: `tests.live.climbing`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.__main__ import control as make_control
from backends.runs import State
from backends.spec import ModelSource
from backends.steps import Plan
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.guides import GUIDED
from tests.hub import Hub, serving
from tests.live.climbing import Climb, Route, World, answers, no_regex, no_such_tag
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.test_fastertransformer import ask, bases, gone, log, said, the_plan, the_spec  # noqa: F401
from tests.registry import serving as registry_serving
from tests.upstream import (
    FIXTURES,
    GERMAN,
    ROOT,
    SENTENCE,
    backend_repository,
    commit_all,
    git_repository,
    tiny_gptj,
    tiny_llama,
    tiny_t5,
)

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
WAITS = (
    "import os, time; hold = {folder} + '.hold'; os.path.exists(hold) and print('held'); "
    "[time.sleep(0.05) for _ in iter(lambda: os.path.exists(hold), False)]"
)
FAILS = "fail = pathlib.Path(f'{target}.fail'); fail.exists() and sys.exit(fail.read_text())"
INSTALLS = "    shutil.copytree(source, place"
EXECUTES = "        if not self.decoupled:\n            return [pb"
SLOW = "import time; (self.folder / 'slow').exists() and say('held'); " + (
    "[time.sleep(0.05) for _ in iter((self.folder / 'slow').exists, False)]"
)
WRONG = "if (self.folder / 'wrong').exists(): raise RuntimeError('[FT][ERROR] CUDA runtime error: invalid argument')"
COUNTS = "        while len(ids) < most:"
MUTE = "most = start if (self.folder / 'mute').exists() else most"
FETCHED, BUILT, LACKS = (
    "unable to access the repository",
    "no compiler",
    "does not hold Triton with FasterTransformer's backend",
)
MODEL = "slipway/tiny-llama"
PREBUILT = "slipway.test/atom_triton_ft:23.04"
LLAMA = {
    "family": "llama",
    "backend": "backend",
    "library": "llama_library",
    "converter": "examples/cpp/llama/huggingface_llama_convert.py",
    "saves": '        split(base + "mlp.down_proj.weight", weights[base + "mlp.down_proj.weight"].T, 0)',
    "weights": "model.wte.weight.bin",
    "template": "all_models/llama/ensemble/config.pbtxt",
    "question": "Hello, my name is",
    "answer": SENTENCE,
}
ROUTES = {
    "llama": Route(
        **LLAMA,
        fails={
            "backend-source": FETCHED,
            "base-image": "came damaged from its registry",
            "image": BUILT,
            "image-check": LACKS,
            "model": "must approve who downloads it",
            "converter-source": FETCHED,
            "convert": "MemoryError",
            "weights-check": "model.layers.0.mlp.down_proj.weight.0.bin is missing",
            "repository": "ensemble/config.pbtxt",
            "tokenizer-check": "LlamaTokenizer does not load",
            "serve": "loading model fails!",
            "first-answer": "CUDA runtime error",
        },
        logs={"convert": "done layer 1", "weights-check": "27 files", "serve": "Use DECOUPLED (streaming)"},
    ),
    "prebuilt": Route(**LLAMA, fails={"image": "serves no more pulls for now", "image-check": LACKS}),
    "gptj": Route(
        family="gptj",
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
            "base-image": "no such image for this machine",
            "image": BUILT,
            "image-check": LACKS,
            "library-source": FETCHED,
            "converter-packages": "network does not reach",
            "convert": "MemoryError",
            "weights-check": "model.wte.bin is missing",
            "library-configure": "does not appear to contain CMakeLists.txt",
            "library-build": "No such file or directory",
            "autotune": "wrote no entries",
            "gemm-config": "is no gemm_config.in",
            "server-packages": "package index has no such version",
            "repository": "ensemble/config.pbtxt",
            "tokenizer-check": "imports regex, which this image has not",
            "serve": "loading model fails!",
            "first-answer": "answered nothing",
        },
        logs={
            "library-configure": "sm=86",
            "autotune": "gpt_gemm 1 1 32 2 32 256 48 1 2",
            "gemm-config": "11 entries",
            "serve": "gemm_config.in: 11 entries",
        },
        breaks={"base-image": no_such_tag, "tokenizer-check": no_regex, "first-answer": answers("mute")},
    ),
    "t5": Route(
        family="t5",
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
            "image-check": LACKS,
            "converter-packages": "network does not reach",
            "one-file": "cannot mmap an empty file",
            "convert": "MemoryError",
            "weights-check": "shared.weight_T.bin is missing",
            "library-build": "No such file or directory",
            "autotune": "wrote no entries",
            "gemm-config": "is no gemm_config.in",
            "repository": "fastertransformer/config.pbtxt",
            "serve": "loading model fails!",
            "first-answer": "CUDA runtime error",
        },
        logs={"autotune": "t5_gemm 1 1 32", "serve": "gemm_config.in: 12 entries"},
    ),
}
CASES = [(recipe, step) for recipe, route in ROUTES.items() for step in route.fails]


def _put_in(path: Path, before: str, line: str) -> None:
    """Puts a line into a script, so that it comes there with half of its work done."""
    text = path.read_text(encoding="utf-8")
    assert before in text
    indent = before[: len(before) - len(before.lstrip())]
    path.write_text(text.replace(before, f"{indent}{line}\n{before}", 1), encoding="utf-8")


def _upstream(folder: Path) -> dict[str, str]:
    """Repositories whose scripts can be made to wait and to fail; their addresses."""
    for name in ("backend", "blog"):
        source = folder / name
        backend_repository(name, source)
        _put_in(source / "docker/python/pip/__main__.py", INSTALLS, WAITS.format(folder="str(target)"))
        _put_in(source / "docker/python/pip/__main__.py", INSTALLS, FAILS)
        for before, line in ((EXECUTES, SLOW), (EXECUTES, WRONG), (COUNTS, MUTE)):
            _put_in(source / "src" / "model.py", before, line)
        commit_all(source)
    for name in ("llama_library", "blog_library"):
        git_repository(FIXTURES / name, folder / name)
    folders = {"llama": "given.saved_dir", "gptj": "given.output_dir", "t5": "given.saved_dir.rstrip('/')"}
    for name, saved in folders.items():
        route = ROUTES[name]
        _put_in(folder / route.library / route.converter, route.saves, WAITS.format(folder=saved))
        if route.tool:
            _put_in(folder / route.library / "tools" / route.tool, MEASURES, WAITS.format(folder="os.getcwd()"))
    for name in ("llama_library", "blog_library"):
        commit_all(folder / name)
    return {name: f"file://{folder / name}" for name in ("backend", "blog", "llama_library", "blog_library")}


@pytest.fixture(scope="module")
def world(tmp_path_factory, engine, bases) -> Iterator[World]:  # noqa: F811
    """What is outside: a git, a registry and a hub that can be slow and refuse."""
    folder = tmp_path_factory.mktemp("steps")
    (folder / "bin").mkdir()
    program = folder / "bin" / "git"
    program.write_text(GIT.format(gate=folder / "gate", git=shutil.which("git")))
    program.chmod(0o755)
    base = engine.images.get(bases["23.04"]).id
    hub = Hub(models={MODEL: tiny_llama(folder / "hub" / "tiny-llama")}, token="another")
    with pytest.MonkeyPatch.context() as patch, serving(hub), registry_serving() as registry:
        patch.setenv("HF_TOKEN", TOKEN)
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
        yield World(engine, folder / "gate", registry, hub, base)


@pytest.fixture(scope="module")
def climbs(world: World) -> Iterator[dict[str, Climb]]:
    """A deployment of each recipe, not begun, in one data folder."""
    folder = world.gate.parent
    control = make_control({"home": str(folder / "home")})
    tiny_gptj(folder / "home" / "models" / "tiny-gptj")
    tiny_t5(folder / "home" / "models" / "tiny-t5", safetensors=True)
    upstream, registry = _upstream(folder), world.registry
    triton = {name: f"slipway.test/tritonserver:{name}-py3" for name in ("22.03", "23.04")}
    bases = {name: registry.offer(tag, world.base) for name, tag in triton.items()}  # noqa: F811

    def plan(recipe: str) -> Plan:
        more = {"prebuilt_image": f"{registry.address}/{PREBUILT}"} if recipe == "prebuilt" else {}
        spec = the_spec(control, ROUTES[recipe].family, upstream, bases, f"climb-{recipe}", **more)
        if ROUTES[recipe].family == "llama":
            spec = spec.model_copy(update={"model": ModelSource(kind="huggingface", id=MODEL)})
        return the_plan(control, spec)

    def offered(recipe: str) -> str:
        """The prebuilt image is the one that was built for LLaMA."""
        tag = climbs["llama"].plan.step("image").tag
        return world.engine.images.get(tag).id if recipe == "prebuilt" else world.base

    climbs = {
        recipe: Climb(route, control, world, plan(recipe), lambda recipe=recipe: offered(recipe))
        for recipe, route in ROUTES.items()
    }
    yield climbs
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())
    for name in (f"{registry.address}/{name}" for name in (*triton.values(), PREBUILT)):
        if world.engine.images.list(name):
            world.engine.images.remove(name)


@pytest.fixture
def climb(climbs: dict[str, Climb], recipe: str) -> Iterator[Climb]:
    if recipe == "prebuilt":
        climbs["llama"].come_to("image-check")
    climb = climbs[recipe]
    yield climb
    climb.well()
    if climb.run and climb.control.run(climb.run).state.is_open():  # a case that failed is no trouble of the next
        climb.control.stop(climb.run)
        until(lambda: not climb.control.run(climb.run).state.is_open(), 60)


@pytest.mark.parametrize(("recipe", "step"), CASES)
def test_a_step_is_stopped_and_fails_and_the_run_goes_on_behind_it(climb: Climb, step: str) -> None:
    judges = getattr(climb.plan.step(step), "checks", ())  # what it judges is to be made, right or wrong
    climb.come_to(judges[0] if judges else step)
    if judges:
        climb.failed(step)
        climb.well()
    climb.hold(step)
    if step in ("image", "convert"):
        climb.killed(step)
    climb.stopped(step)
    climb.well()
    if not judges:
        climb.failed(step)
        climb.well()


def test_no_step_of_a_recipe_is_left_out(climbs: dict[str, Climb]) -> None:
    for recipe in ("llama", "gptj"):
        assert [step.id for step in climbs[recipe].plan.steps] == list(ROUTES[recipe].fails)
    found_done = {"backend-source", "base-image", "image", "library-source", "library-configure"}  # made for GPT-J
    assert {step.id for step in climbs["t5"].plan.steps} == set(ROUTES["t5"].fails) | found_done
    every = {step.id for guided in GUIDED.values() for step in guided.plan().steps}
    assert every == {step for _, step in CASES}


@pytest.mark.parametrize("recipe", ["prebuilt"])
def test_a_prebuilt_image_is_served_once_the_registry_has_the_right_one(climb: Climb) -> None:
    climb.climbed()
    climb.go()
    run = climb.control.wait(climb.run, 120)
    assert run.state is State.SERVING, run.trouble
    assert climb.before("image-check") == {"skipped"}, "the right one was pulled before it was looked into"
    pieces = ask(climb.control, run, climb.route.question)
    assert (said(pieces).strip(), pieces[-1].finish) == (climb.route.answer, "stop")
    gone(climb.control, run)


@pytest.fixture
def panel(climb: Climb) -> Iterator[subprocess.Popen[bytes]]:
    """A panel over the data folder."""
    (port,) = free_ports(1)
    words = (sys.executable, "-m", "app", "--home", str(climb.control.settings.home), "panel", "--port", str(port))
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        process.port = port  # type: ignore[attr-defined]
        yield process
        process.kill()


def _healthy(client: httpx.Client, port: int) -> bool:
    try:
        return client.get(f"http://127.0.0.1:{port}/slipway/health").status_code == 200
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("recipe", [recipe for recipe in ROUTES if recipe != "prebuilt"])
def test_after_all_that_it_answers_and_so_it_does_when_panel_and_worker_were_killed(climb: Climb, panel) -> None:
    climb.climbed()
    climb.go()
    run = climb.control.wait(climb.run, 120)
    assert run.state is State.SERVING, run.trouble
    assert climb.before("serve") == {"skipped"}
    before = [step.id for step in climb.plan.steps if step.kind not in ("service", "ask")]
    assert all(climb.says_skipped(step) for step in before)
    with httpx.Client(trust_env=False) as client:
        until(lambda: _healthy(client, panel.port), 60, "the panel")
    for step, words in climb.route.logs.items():
        assert words in log(climb.control, run, step)
    panel.kill()
    panel.wait(10)
    climb.killed("serve")
    pieces = ask(climb.control, run, climb.route.question)
    assert (said(pieces).strip(), pieces[-1].finish) == (climb.route.answer, "stop")
    *_, word = climb.route.answer.split()[:3]
    assert word not in said(ask(climb.control, run, climb.route.question, max_tokens=8, bad_words=(word,))).split()
    held = climb.world.engine
    inspected = [one.attrs for one in held.containers.list(filters={"label": f"slipway.run={run.id}"})]
    built = held.images.get(climb.plan.step("image").tag)
    told = json.dumps([inspected, built.attrs, built.history()]).encode()
    assert inspected and TOKEN.encode() not in told
    # By another process: to open and close SQLite's file here would let go of the locks that this one has on it. What
    # a worker writes anew may be gone before it is read: then once more.
    look = ("grep", "-rlF", TOKEN, climb.control.settings.home)
    looked = until(lambda: (one := subprocess.run(look, capture_output=True, text=True)).returncode != 2 and one)
    assert (looked.stdout, looked.returncode) == ("", 1)
    gone(climb.control, run)
