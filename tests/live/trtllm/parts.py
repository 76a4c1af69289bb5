"""What the live tests of TensorRT-LLM and vLLM share: deployments on a machine without GPUs, questions, logs.

NVIDIA's images and GPUs are stood for: the base image is Debian with the real tritonserver, upstream's repositories are
our own (tests/fixtures/tensorrt_llm), the plans' GPUs are taken out of them, and so is Git LFS, which the stand-ins do
not need. The core gives the prompt's own ids back. Everything else is the deployment as a person starts it.
"""

from __future__ import annotations

import base64
import itertools
import json
import shutil
from pathlib import Path

from app.asking import in_step
from app.control import Control
from backends import recipes
from backends.events import Kind
from backends.runs import Run, State
from backends.spec import Chat, Hardware, Limits, ModelSource, Piece, Sampling, Spec, TensorRtLlmOptions
from backends.steps import Forecast, Plan, Service, Step, Task
from tests.checkpoints import config_of
from tests.conftest import until
from tests.upstream import tiny_llama

BARE, OLD, MIDDLE, NEW, NEWEST = (
    f"slipway.test/trtllm:{tag}"
    for tag in ("bare", *(f"{month}-trtllm-python-py3" for month in ("23.10", "24.08", "25.05", "26.05")))
)
VLLM = "slipway.test/vllm:26.05-vllm-python-py3"
HELD = {
    MIDDLE: ("0.12.0", "10.3.0.26"),
    NEW: ("0.19.0", "10.9.0.34"),
    NEWEST: ("1.2.1", "10.14.1.48"),
}  # TensorRT-LLM and TensorRT in it
LFS = ("backend-lfs-install", "backend-lfs")


def tiny_qwen(folder: Path) -> Path:
    """Qwen's first generation without its weights: code of its own, no end token, a rank file as large as the real."""
    folder.mkdir(parents=True)
    config = config_of("qwen-7b-chat") | {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
                                          "num_attention_heads": 4, "kv_channels": 16}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("generation_config.json", "tokenizer_config.json"):
        source = Path(__file__).parents[2] / "models" / "qwen-7b-chat" / name
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


# --- deployments ---


def the_spec(control: Control, model: str, name: str, trust: bool = False, **options: object) -> Spec:
    """A deployment of TensorRT-LLM; `options` are its own, and the image."""
    return Spec(
        model=ModelSource(kind="folder", id=str(control.settings.home / "models" / model)),
        name=name,
        engine="tensorrt_llm",
        target="docker",
        trust_remote_code=trust,
        image=options.pop("image", None),
        limits=Limits(concurrent=4, context=192, new_tokens=64),
        tensorrt_llm=TensorRtLlmOptions.model_validate({"max_batch": 2} | options),
    )


def bare(plan: Plan, hardware: Hardware) -> Plan:
    """The plan for a machine that has no GPU and no Git LFS, and whose disk is small."""
    card = hardware.gpus[0]
    capability = f"{(card.sm or 0) // 10}.{(card.sm or 0) % 10}"

    def plain(step: Step) -> Step:
        told: dict[str, object] = {"forecast": Forecast()}
        if isinstance(step, Task) and step.id in LFS:
            told["argv"] = ("true",)
        if isinstance(step, Task) and step.id == "image-facts":
            told["env"] = step.env | {"STAND_IN_GPU": f"{card.name}, {capability}"}
        if isinstance(step, Task | Service) and step.container is not None:
            told["container"] = step.container.model_copy(update={"gpus": None, "shm_mib": 256})
        return step.model_copy(update=told)

    return plan.model_copy(update={"steps": tuple(plain(step) for step in plan.steps)})


def the_plan(control: Control, spec: Spec, hardware: Hardware) -> Plan:
    return bare(recipes.plan(spec, hardware, control.inspect(spec.model), control.sources), hardware)


def deployed(control: Control, plan: Plan, state: State = State.SERVING) -> Run:
    """The plan carried out, to that state."""
    return ended(control, control.start_plan(plan).run, state)


def ended(control: Control, run: Run, state: State) -> Run:
    """The run when it serves or is over, in that state."""
    run = control.wait(run.id, timeout_s=600)
    assert run.state is state, f"{run.state}: {run.trouble}"
    return run


def gone(control: Control, run: Run) -> None:
    """Stops a run and proves that nothing of it is left."""
    control.stop(run.id)
    until(lambda: not control.run(run.id).state.is_open(), 60)
    assert control._targets["docker"].find(run.id).processes == 0


def skipped(control: Control, run: Run) -> set[str]:
    """The steps that were found done."""
    return {event.step for event in control.events(run.id) if event.kind is Kind.SKIPPED and event.step}


def log(control: Control, run: Run, step: str) -> str:
    return control.log_path(run.id, step).read_text(encoding="utf-8", errors="replace")


# --- questions ---


def prompt(text: str, **sampling: object) -> Chat:
    return Chat(prompt=text, sampling=Sampling.model_validate({"temperature": 0.0} | sampling))


def ask(control: Control, run: Run, chat: Chat) -> list[Piece]:
    return list(in_step(control.chat(run.id, chat)))


def said(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)
