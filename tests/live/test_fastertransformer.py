"""FasterTransformer's recipes from start to chat on a real Docker engine.

NVIDIA's images and GPUs are stood for: the base image is Debian with the real tritonserver, upstream's repositories are
our own (tests/fixtures/fastertransformer), and the plans' GPUs are taken out of them, since there are none here.
Everything else is the deployment as a person starts it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import pytest

from app.__main__ import control as make_control
from app.asking import in_step
from app.control import Control
from backends import recipes
from backends.lint import lint
from backends.runs import Run, State
from backends.spec import Chat, FasterTransformerOptions, ModelSource, Piece, Sampling, Spec
from backends.steps import Forecast, Plan, Service, Step, Task
from tests.conftest import until
from tests.guides import RTX_3090_X2
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.upstream import (
    FIXTURES,
    SENTENCE,
    backend_repository,
    git_repository,
    tiny_gptj,
    tiny_llama,
    tiny_t5,
)

pytestmark = pytest.mark.live
MAKERS: dict[str, Callable[[Path], Path]] = {"llama": tiny_llama, "gptj": tiny_gptj, "t5": tiny_t5}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the repositories that stand for upstream's."""
    folder = tmp_path_factory.mktemp("upstream")
    for name in ("backend", "blog"):
        backend_repository(name, folder / name)
    for name in ("llama_library", "blog_library"):
        git_repository(FIXTURES / name, folder / name)
    return {path.name: f"file://{path}" for path in folder.iterdir()}


@pytest.fixture(scope="module")
def bases(engine: docker.DockerClient, image: str) -> dict[str, str]:  # noqa: F811
    """The stand-in under the tags of both releases."""
    engine.images.get(image).tag("slipway.test/tritonserver", "22.03-py3")
    return {"23.04": image, "22.03": "slipway.test/tritonserver:22.03-py3"}


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Control]:  # noqa: F811
    home = tmp_path_factory.mktemp("ft") / "home"
    for family, make in MAKERS.items():
        make(home / "models" / f"tiny-{family}")
    control = make_control({"home": str(home)})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
        until(lambda run=run: not control.run(run.id).state.is_open(), 60)
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())


def the_spec(control: Control, family: str, upstream: dict[str, str], bases: dict[str, str], name: str, **more) -> Spec:
    """A deployment of the small model of that family, as the guides deploy theirs."""
    llama = family == "llama"
    options: dict[str, object] = {
        "profile": "void-main" if llama else "blog",
        "tensor_parallel": 2,
        "backend_repository": upstream["backend" if llama else "blog"],
        "library_repository": upstream["llama_library" if llama else "blog_library"],
        "shm_mib": 256,
    }
    fields = {key: more.pop(key) for key in ("precision", "template", "gpus") if key in more}
    return Spec(
        model=ModelSource(kind="folder", id=str(control.settings.home / "models" / f"tiny-{family}")),
        name=name,
        engine="fastertransformer",
        target="docker",
        allow_pickle=not llama,
        image=bases["23.04" if llama else "22.03"],
        fastertransformer=FasterTransformerOptions.model_validate(options | more),
        **fields,
    )


def without_gpus(plan: Plan) -> Plan:
    """The plan for a machine that has none, and whose disk is small."""

    def bare(step: Step) -> Step:
        told: dict[str, object] = {"forecast": Forecast()}
        if isinstance(step, Task | Service) and step.container is not None:
            told["container"] = step.container.model_copy(update={"gpus": None})
        return step.model_copy(update=told)

    return plan.model_copy(update={"steps": tuple(bare(step) for step in plan.steps)})


def the_plan(control: Control, spec: Spec) -> Plan:
    return without_gpus(recipes.plan(spec, RTX_3090_X2, control.inspect(spec.model), control.sources))


def deployed(control: Control, spec: Spec) -> Run:
    run = control.wait(control.start_plan(the_plan(control, spec)).run.id, timeout_s=300)
    assert run.state is State.SERVING, f"{run.state}: {run.trouble}"
    return run


def failed(control: Control, spec: Spec, plan: Plan | None = None) -> Run:
    run = control.wait(control.start_plan(plan or the_plan(control, spec)).run.id, timeout_s=300)
    assert run.state is State.FAILED, f"{run.state}: {run.trouble}"
    return run


def gone(control: Control, run: Run) -> None:
    control.stop(run.id)
    until(lambda: not control.run(run.id).state.is_open(), 60)
    assert control._targets["docker"].find(run.id).processes == 0


def ask(control: Control, run: Run, prompt: str, **sampling: object) -> list[Piece]:
    chat = Chat(prompt=prompt, sampling=Sampling.model_validate({"temperature": 0.0} | sampling))
    return list(in_step(control.chat(run.id, chat)))


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def log(control: Control, run: Run, step: str) -> str:
    return control.log_path(run.id, step).read_text(encoding="utf-8", errors="replace")


# --- LLaMA ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def llama(control: Control, upstream: dict[str, str], bases: dict[str, str]) -> Iterator[Run]:
    run = deployed(control, the_spec(control, "llama", upstream, bases, "llama"))
    yield run
    gone(control, run)


def test_a_llama_streams_its_sentence_in_pieces_of_five_tokens(control: Control, llama: Run) -> None:
    pieces = ask(control, llama, "Hello, my name is")
    assert said(pieces) == SENTENCE
    assert len([piece for piece in pieces if piece.text]) > 1
    assert (pieces[-1].finish, pieces[-1].completion_tokens, pieces[-1].prompt_tokens) == ("stop", 8, 5)


def test_a_llamas_answer_ends_at_its_limit(control: Control, llama: Run) -> None:
    last = ask(control, llama, "Hello, my name is", max_tokens=3)[-1]
    assert (last.finish, last.completion_tokens) == ("length", 3)


def test_a_stop_text_ends_a_llamas_answer(control: Control, llama: Run) -> None:
    pieces = ask(control, llama, "Hello, my name is", stop=("on the",))
    assert (said(pieces).strip(), pieces[-1].finish) == ("I am a ship", "stop")


def test_a_bad_word_is_kept_out_of_a_llamas_answer(control: Control, llama: Run) -> None:
    text = said(ask(control, llama, "Hello, my name is", max_tokens=8, bad_words=("ship",)))
    assert text.startswith("I am a") and "ship" not in text.split()


def test_what_the_deployment_wrote_is_well(control: Control, llama: Run) -> None:
    assert lint(control.settings.home / "runs" / llama.id / "repository") == ()


def test_the_steps_leave_what_upstream_prints_in_their_logs(control: Control, llama: Run) -> None:
    assert "done layer 1" in log(control, llama, "convert")
    assert "27 files" in log(control, llama, "weights-check")
    assert "Use DECOUPLED (streaming)" in log(control, llama, "serve")
    assert "LlamaTokenizer" in log(control, llama, "tokenizer-check")


def test_a_second_deployment_builds_and_converts_nothing_again(
    control: Control, llama: Run, upstream: dict[str, str], bases: dict[str, str]
) -> None:
    plan = the_plan(control, the_spec(control, "llama", upstream, bases, "again"))
    to_do = {step.id for step in control.to_do(plan)}
    assert not to_do & {plan.step(long).id for long in ("backend-source", "image", "converter-source", "convert")}


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_named_folder_that_lacks_a_file_ends_the_run_before_the_server(
    control: Control, llama: Run, upstream: dict[str, str], bases: dict[str, str], tmp_path: Path
) -> None:
    converted = next(path for path in (control.settings.home / "converted").glob("*llama*/2-gpu"))
    broken = control.settings.home / "models" / "broken" / "2-gpu"
    broken.parent.mkdir(exist_ok=True)
    shutil.copytree(converted, broken)
    (broken / "model.layers.1.mlp.up_proj.weight.1.bin").unlink()
    run = failed(control, the_spec(control, "llama", upstream, bases, "broken", converted=str(broken)))
    assert run.trouble.step == "weights-check"
    assert any("model.layers.1.mlp.up_proj.weight.1.bin is missing" in line for line in run.trouble.last_lines)


def test_weights_that_do_not_load_are_a_failure_behind_a_ready_server(
    control: Control, llama: Run, upstream: dict[str, str], bases: dict[str, str]
) -> None:
    plan = the_plan(control, the_spec(control, "llama", upstream, bases, "silent"))
    folder = next(path for path in (control.settings.home / "converted").glob("*llama*/2-gpu"))
    kept = folder / "model.layers.0.mlp.up_proj.weight.0.bin"
    aside = kept.with_suffix(".aside")
    steps = tuple(step for step in plan.steps if step.id != "weights-check")
    steps = tuple(
        step.model_copy(update={"needs": tuple(n for n in step.needs if n != "weights-check")}) for step in steps
    )
    kept.rename(aside)
    try:
        run = failed(control, plan.spec, plan.model_copy(update={"steps": steps}))
    finally:
        aside.rename(kept)
    assert run.trouble.step == "serve"
    assert "loading model fails!" in run.trouble.message.en
