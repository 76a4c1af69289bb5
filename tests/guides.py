"""The deployments of the FasterTransformer guides, for golden plans, the parity table and live tests.

`python -m tests.guides` writes the golden plans anew; read the difference before keeping it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from backends.fastertransformer import recipe
from backends.model_config import read_config
from backends.spec import (
    FasterTransformerOptions,
    Gpu,
    Hardware,
    Model,
    ModelSource,
    Precision,
    Sources,
    Spec,
    Tokenizer,
)
from backends.steps import Plan
from tests.checkpoints import config_of

PLANS = Path(__file__).parent / "plans"
RTX_3090_X2 = Hardware(
    driver_version="530.41.03",
    gpus=tuple(
        Gpu(name="NVIDIA GeForce RTX 3090", index=index, uuid=f"GPU-{index}", sm=86, memory_total_mib=24_576)
        for index in range(2)
    ),
    os="Ubuntu 20.04.6 LTS",
    architecture="x86_64",
    python="3.11.9",
    cpu_cores=16,
    ram_total_mib=128_000,
)


@dataclass(frozen=True)
class Guided:
    """One deployment of a guide."""

    spec: Spec
    model: Model

    def plan(self, hardware: Hardware = RTX_3090_X2) -> Plan:
        reasons = recipe.why_not(self.spec, hardware, self.model)
        assert not reasons, reasons
        return recipe.recipe(self.spec, hardware, self.model, Sources())


def model(
    name: str, hub: str, *, pickle: bool = False, template: bool = False, bos: int | None = 1, eos: int = 2
) -> Model:
    """The facts of a published model, out of its config.json."""
    shapes = read_config(config_of(name)).model_dump()
    counted = shapes.pop("counted")
    return Model(
        source=ModelSource(kind="huggingface", id=hub),
        parameters=counted,
        parameters_from="config",
        weight_format="pickle" if pickle else "safetensors",
        weight_files=("pytorch_model.bin",) if pickle else ("model.safetensors",),
        weights_mib=counted * 2 // 2**20,
        tokenizer=Tokenizer(eos_token_ids=(eos,), bos_token_id=bos, chat_template=template),
        **{name: value for name, value in shapes.items() if name in Model.model_fields},
    )


def _guided(one: Model, name: str, precision: Precision = "auto", *, pickle: bool = False, **options: object) -> Guided:
    spec = Spec(
        model=one.source,
        name=name,
        engine="fastertransformer",
        target="docker",
        precision=precision,
        allow_pickle=pickle,
        template="atom" if "FlagAlpha" in one.source.id else "auto",
        fastertransformer=FasterTransformerOptions.model_validate(options),
    )
    return Guided(spec, one)


ATOM = model("atom-7b-chat", "FlagAlpha/Atom-7B-Chat")
LLAMA2_CHINESE = model("llama2-chinese-13b-chat", "FlagAlpha/Llama2-Chinese-13b-Chat")
LLAMA_7B = model("llama-7b", "huggyllama/llama-7b")
GPT_J = model("gpt-j-6b", "EleutherAI/gpt-j-6b", pickle=True, bos=50256, eos=50256)
T5_3B = model("t5-3b", "google-t5/t5-3b", bos=None, eos=1)

GUIDED: dict[str, Guided] = {
    "000-atom-7b-fp16": _guided(ATOM, "atom"),
    "000-atom-7b-int8": _guided(ATOM, "atom", "int8"),
    "000-llama2-chinese-13b-fp16": _guided(LLAMA2_CHINESE, "chinese"),
    "000-llama2-chinese-13b-int8": _guided(LLAMA2_CHINESE, "chinese", "int8"),
    "000-atom-7b-prebuilt": _guided(ATOM, "atom", prebuilt_image="xiangtao1994/atom_triton_ft:23.04"),
    "001-llama-7b-tp2": _guided(LLAMA_7B, "llama", profile="void-main", tensor_parallel=2),
    "003-gptj-6b-tp2": _guided(GPT_J, "gptj", pickle=True, tensor_parallel=2, autotune_batch=8),
    "003-t5-3b-tp2": _guided(T5_3B, "t5", tensor_parallel=2),
}


def path(name: str) -> Path:
    """The golden plan of a deployment."""
    return PLANS / f"{name}.json"


def written(plan: Plan) -> str:
    """A plan as its golden file holds it: without defaults, so that a field added later changes no file."""
    told = plan.model_dump(mode="json", exclude_defaults=True)
    for step, shown in zip(plan.steps, told["steps"], strict=True):
        shown["kind"] = step.kind
    return json.dumps(told, ensure_ascii=False, indent=1) + "\n"


if __name__ == "__main__":
    PLANS.mkdir(exist_ok=True)
    for name, guided in GUIDED.items():
        path(name).write_text(written(guided.plan()), encoding="utf-8")
