"""TensorRT-LLM's recipes from start to chat on a real Docker engine.

NVIDIA's images and GPUs are stood for: the base image is Debian with the real tritonserver, upstream's repositories are
our own (tests/fixtures/tensorrt_llm), the plans' GPUs are taken out of them, and so is Git LFS, which the stand-ins do
not need. The core gives the prompt's own ids back. Everything else is the deployment as a person starts it.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from app.__main__ import control as make_control
from app.asking import in_step
from app.control import Control
from backends import recipes
from backends.runs import Run, State
from backends.spec import Chat, Hardware, Limits, Message, ModelSource, Piece, Sampling, Spec, TensorRtLlmOptions
from backends.steps import Forecast, Plan, Service, Step, Task
from backends.tensorrt_llm import engine_store
from tests.checkpoints import config_of
from tests.conftest import until
from tests.guided_trtllm import A100_X2, RTX_3090, machine
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.trtllm_upstream import FIXTURES, backend, examples, library
from tests.upstream import tiny_llama

pytestmark = pytest.mark.live
BARE, OLD, NEW = (
    f"slipway.test/trtllm:{tag}" for tag in ("bare", "23.10-trtllm-python-py3", "25.05-trtllm-python-py3")
)
LFS = ("backend-lfs-install", "backend-lfs")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the repositories that stand for upstream's."""
    folder = tmp_path_factory.mktemp("upstream")
    old, new = library(folder / "library-0.5", "0.5.0"), library(folder / "library-0.19", "0.19.0")
    made = {
        "library-0.5": old,
        "library-0.19": new,
        "backend-0.5": backend(folder / "backend-0.5", "0.5.0", old),
        "backend-0.19": backend(folder / "backend-0.19", "0.19.0"),
        "examples": examples(folder / "examples"),
    }
    return {name: f"file://{path}" for name, path in made.items()}


@pytest.fixture(scope="module")
def images(
    engine: docker.DockerClient,  # noqa: F811
    image: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Stand-ins: bare (what the Dockerfile of 0.5.0 builds on), 23.10 without the package, 25.05 with it."""
    folder = tmp_path_factory.mktemp("image")
    shutil.copytree(FIXTURES / "image", folder / "image")
    shutil.copytree(FIXTURES / "library", folder / "library")
    (folder / "library" / "version.txt").write_text("0.19.0\n", encoding="utf-8")
    (folder / "Dockerfile").write_text(
        f"FROM {image}\n"
        "COPY image/core.py /opt/tritonserver/backends/tensorrtllm/model.py\n"
        "COPY image/transformers.py /usr/lib/python3/dist-packages/transformers.py\n"
        "COPY image/pip3 image/mpirun image/trtllm-build /usr/local/bin/\n",
        encoding="utf-8",
    )
    (folder / "Dockerfile.new").write_text(
        f"FROM {BARE}\nCOPY library /tmp/library\n"
        "RUN python3 /tmp/library/scripts/build_wheel.py --trt_root=/x && pip3 install /tmp/library/build/*.whl\n",
        encoding="utf-8",
    )
    engine.images.build(path=str(folder), tag=BARE, rm=True)
    engine.images.get(BARE).tag("slipway.test/trtllm", "23.10-trtllm-python-py3")
    engine.images.build(path=str(folder), dockerfile="Dockerfile.new", tag=NEW, rm=True)


def tiny_qwen(folder: Path) -> Path:
    """Qwen's first generation without its weights: code of its own, no end token, a rank file as large as the real."""
    folder.mkdir(parents=True)
    config = config_of("qwen-7b-chat") | {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
                                          "num_attention_heads": 4, "kv_channels": 16}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("generation_config.json", "tokenizer_config.json"):
        source = Path(__file__).parents[1] / "models" / "qwen-7b-chat" / name
        shutil.copyfile(source, folder / name)
    tokens = itertools.chain(
        (bytes((one,)) for one in range(256)),
        (bytes(pair) for pair in itertools.product(range(128, 256), repeat=3)),
    )
    lines = (
        f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(itertools.islice(tokens, 151643))
    )
    (folder / "qwen.tiktoken").write_text("".join(lines), encoding="utf-8")
    made = tiny_llama(folder.with_name("for-its-weights"))
    shutil.copyfile(made / "model.safetensors", folder / "model.safetensors")
    shutil.rmtree(made)
    return folder


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Control]:  # noqa: F811
    home = tmp_path_factory.mktemp("trtllm") / "home"
    tiny_llama(home / "models" / "tiny-llama")
    tiny_qwen(home / "models" / "tiny-qwen")
    control = make_control({"home": str(home)})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
        until(lambda run=run: not control.run(run.id).state.is_open(), 60)
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())


def the_spec(control: Control, model: str, name: str, trust: bool = False, **options: object) -> Spec:
    return Spec(
        model=ModelSource(kind="folder", id=str(control.settings.home / "models" / model)),
        name=name,
        engine="tensorrt_llm",
        target="docker",
        trust_remote_code=trust,
        image=options.pop("image", None),
        limits=Limits(concurrent=4, context=192, new_tokens=64),
        tensorrt_llm=TensorRtLlmOptions.model_validate({"max_batch": 4} | options),
    )


def bare(plan: Plan) -> Plan:
    """The plan for a machine that has no GPU and no Git LFS, and whose disk is small."""

    def plain(step: Step) -> Step:
        told: dict[str, object] = {"forecast": Forecast()}
        if isinstance(step, Task) and step.id in LFS:
            told["argv"] = ("true",)
        if isinstance(step, Task | Service) and step.container is not None:
            told["container"] = step.container.model_copy(update={"gpus": None, "shm_mib": 256})
        return step.model_copy(update=told)

    return plan.model_copy(update={"steps": tuple(plain(step) for step in plan.steps)})


def the_plan(control: Control, spec: Spec, hardware: Hardware) -> Plan:
    return bare(recipes.plan(spec, hardware, control.inspect(spec.model), control.sources))


def deployed(control: Control, plan: Plan, state: State = State.SERVING) -> Run:
    run = control.wait(control.start_plan(plan).run.id, timeout_s=300)
    assert run.state is state, f"{run.state}: {run.trouble}"
    return run


def gone(control: Control, run: Run) -> None:
    control.stop(run.id)
    until(lambda: not control.run(run.id).state.is_open(), 60)
    assert control._targets["docker"].find(run.id).processes == 0


def ask(control: Control, run: Run, chat: Chat) -> list[Piece]:
    return list(in_step(control.chat(run.id, chat)))


def prompt(text: str, **sampling: object) -> Chat:
    return Chat(prompt=text, sampling=Sampling.model_validate({"temperature": 0.0} | sampling))


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def log(control: Control, run: Run, step: str) -> str:
    return control.log_path(run.id, step).read_text(encoding="utf-8", errors="replace")


# --- guide 004: llama on 23.10 ---


def llama_05(control: Control, upstream: dict[str, str], name: str, **options: object) -> Plan:
    spec = the_spec(
        control, "tiny-llama", name, image=OLD, backend_repository=upstream["backend-0.5"],
        library_repository=upstream["library-0.5"], **options
    )  # fmt: skip
    return the_plan(control, spec, A100_X2)


@pytest.fixture(scope="module")
def llama(control: Control, upstream: dict[str, str], images: None) -> Iterator[Run]:
    run = deployed(control, llama_05(control, upstream, "llama"))
    yield run
    gone(control, run)


def test_llama_on_0_5_streams_new_tokens_until_its_end_id(control: Control, llama: Run) -> None:
    pieces = ask(control, llama, prompt("I am a ship on the slipway"))
    assert said(pieces).strip() == "I am a ship on the slipway"
    assert len([piece for piece in pieces if piece.text]) > 1
    assert pieces[-1].finish == "stop"


def test_an_answer_ends_at_its_limit(control: Control, llama: Run) -> None:
    last = ask(control, llama, prompt("I am a ship on the slipway", max_tokens=2))[-1]
    assert (last.finish, last.completion_tokens) == ("length", 2)


def test_the_wheel_was_compiled_in_a_layer_and_the_build_printed_true_lines(control: Control, llama: Run) -> None:
    assert "tensorrt_llm 0.5.0" in log(control, llama, "image-check")
    assert "Total time of building all 1 engines" in log(control, llama, "engine")
    texts = [event.text.en for event in control.events(llama.id) if event.step == "engine" and event.text]
    assert "Engine written" in texts or "Done" in texts


def test_an_engine_is_found_again_and_nothing_is_built_twice(
    control: Control, llama: Run, upstream: dict[str, str]
) -> None:
    to_do = {step.id for step in control.to_do(llama_05(control, upstream, "again"))}
    assert not to_do & {"backend-source", "wheel", "engine", "engine-facts"}
    (kept,) = engine_store.engines(control.settings.home)
    assert kept.problem is None and kept.stamp is not None and kept.stamp.version == "0.5.0"


def test_an_engine_of_other_weights_is_refused_with_the_difference_named(
    control: Control, llama: Run, upstream: dict[str, str]
) -> None:
    config = control.settings.home / "models" / "tiny-llama" / "config.json"
    before = config.read_text(encoding="utf-8")
    config.write_text(json.dumps(json.loads(before) | {"rms_norm_eps": 1e-6}), encoding="utf-8")
    try:
        run = deployed(control, llama_05(control, upstream, "other"), State.FAILED)
        assert "Weights: the engine has" in log(control, run, "engine-look")
    finally:
        config.write_text(before, encoding="utf-8")


def test_the_ensemble_of_0_5_answers_in_text(control: Control, upstream: dict[str, str], images: None) -> None:
    run = deployed(control, llama_05(control, upstream, "ensemble", front="ensemble"))
    pieces = ask(control, run, prompt("ship"))
    assert said(pieces).removesuffix("</s>") == "ship"
    gone(control, run)


# --- guide 002: Qwen with chatml ---


def test_qwen_is_built_from_source_and_answers_a_conversation(
    control: Control, upstream: dict[str, str], images: None
) -> None:
    spec = the_spec(
        control, "tiny-qwen", "qwen", trust=True, version="0.5.0", image_from="build",
        backend_repository=upstream["backend-0.5"], library_repository=upstream["library-0.5"],
        examples_repository=upstream["examples"], quantisation="smoothquant",
    )  # fmt: skip
    run = deployed(control, the_plan(control, spec, RTX_3090))
    turns = (Message(role="system", content="你好，船"), Message(role="user", content="?"))
    pieces = ask(control, run, Chat(messages=turns))
    assert said(pieces) == "system\n你好，船" and pieces[-1].finish == "stop"  # up to the first im_end
    core = (control.settings.home / "runs" / run.id / "repository/preprocessing/1/model.py").read_text("utf-8")
    assert "trust_remote_code=True" in core and "decode([151645])" in core
    gone(control, run)


# --- 0.19: BLS over two ranks ---


def test_two_ranks_serve_through_the_bls_model_of_0_19(
    control: Control, upstream: dict[str, str], images: None
) -> None:
    spec = the_spec(
        control, "tiny-llama", "bls", image=NEW, tensor_parallel=2, backend_repository=upstream["backend-0.19"],
        library_repository=upstream["library-0.19"],
    )  # fmt: skip
    plan = the_plan(control, spec, machine("NVIDIA H100 80GB HBM3", 90, 2, 81_559, "570.124.06"))
    # The stand-in has its scripts where 0.18 had them.
    moved = {"examples/models/core/llama": "examples/llama"}
    steps = tuple(
        step.model_copy(update={"argv": tuple(word.replace(*next(iter(moved.items()))) for word in step.argv)})
        if isinstance(step, Task)
        else step
        for step in plan.steps
    )
    run = deployed(control, plan.model_copy(update={"steps": steps}))
    pieces = ask(control, run, prompt("ships"))
    assert said(pieces) == "ships"
    assert len([piece for piece in pieces if piece.text]) > 1
    gone(control, run)
