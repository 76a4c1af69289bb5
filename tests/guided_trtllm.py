"""Deployments of TensorRT-LLM and vLLM, for golden plans, the parity table and live tests.

`python -m tests.guided_trtllm` writes the golden plans anew; read the difference before keeping it.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.model_config import read_config
from backends.recipes import Recipe
from backends.spec import (
    Docker,
    Gpu,
    Hardware,
    Limits,
    Model,
    ModelSource,
    Precision,
    Sources,
    Spec,
    TensorRtLlmOptions,
    Tokenizer,
    VllmOptions,
)
from backends.steps import Plan
from backends.tensorrt_llm import recipe as trtllm
from backends.vllm import recipe as vllm
from tests.checkpoints import config_of
from tests.guides import PLANS, written

__all__ = ["GUIDED", "PLANS", "written"]


def machine(
    name: str, sm: int, count: int = 1, memory_mib: int = 24_576, driver: str = "545.23.08", free_mib: int | None = None
) -> Hardware:
    """A machine with GPUs of one kind, all but 400 MiB of each free."""
    return Hardware(
        driver_version=driver,
        gpus=tuple(
            Gpu(name=name, index=index, uuid=f"GPU-{index}", sm=sm, memory_total_mib=memory_mib,
                memory_free_mib=memory_mib - 400 if free_mib is None else free_mib)
            for index in range(count)
        ),
        os="Ubuntu 22.04.4 LTS",
        architecture="x86_64",
        python="3.11.9",
        cpu_cores=16,
        ram_total_mib=128_000,
        ram_free_mib=120_000,
        docker=Docker(reachable=True, nvidia_runtime=True),
    )  # fmt: skip


RTX_3090 = machine("NVIDIA GeForce RTX 3090", 86)
A100_X2 = machine("NVIDIA A100-SXM4-80GB", 80, 2, 81_920, "550.54.15")
V100 = machine("Tesla V100-SXM2-32GB", 70, 1, 32_768, "535.104.05")
H100 = machine("NVIDIA H100 80GB HBM3", 90, 1, 81_559, "590.44.01")


def model(name: str, hub: str, **more: object) -> Model:
    """The facts of a published model, out of its config.json."""
    shapes = read_config(config_of(name)).model_dump()
    counted = shapes.pop("counted")
    facts = dict(shapes["facts"]) | dict(more.pop("facts", {}))  # type: ignore[call-overload]
    told = {field: value for field, value in shapes.items() if field in Model.model_fields}
    return Model(
        **told
        | {
            "source": ModelSource(kind="huggingface", id=hub),
            "parameters": counted,
            "parameters_from": "config",
            "weight_format": "safetensors",
            "weight_files": ("model.safetensors",),
            "weights_mib": counted * 2 // 2**20,
            "facts": facts,
        }
        | more
    )


QWEN = model(
    "qwen-7b-chat",
    "Qwen/Qwen-7B-Chat",
    facts={"chat_format": "chatml"},
    remote_code=True,
    tokenizer=Tokenizer(kind="QWenTokenizer", eos_token_ids=(151643,), pad_token_id=151643, remote_code=True),
)
LLAMA2 = model(
    "llama-2-7b",
    "meta-llama/Llama-2-7b-hf",
    tokenizer=Tokenizer(kind="LlamaTokenizer", eos_token="</s>", eos_token_ids=(2,), bos_token_id=1),
)
LLAMA3 = model(
    "llama-3.1-8b-instruct",
    "meta-llama/Llama-3.1-8B-Instruct",
    tokenizer=Tokenizer(
        kind="BPE", chat_template=True, eos_token="<|eot_id|>", eos_token_ids=(128001, 128008, 128009),
        bos_token_id=128000,
    ),
)  # fmt: skip
QWEN3 = model(
    "qwen3-0.6b",
    "Qwen/Qwen3-0.6B",
    tokenizer=Tokenizer(
        kind="BPE", chat_template=True, eos_token="<|im_end|>", eos_token_ids=(151645, 151643), pad_token_id=151643
    ),
)


@dataclass(frozen=True)
class Guided:
    """One deployment on one machine."""

    engine: Recipe
    spec: Spec
    model: Model
    hardware: Hardware

    def plan(self) -> Plan:
        reasons = self.engine.why_not(self.spec, self.hardware, self.model)
        assert not reasons, [reason.en for reason in reasons]
        return self.engine.recipe(self.spec, self.hardware, self.model, Sources())


def guided(
    one: Model,
    hardware: Hardware,
    name: str,
    precision: Precision = "auto",
    *,
    trust: bool = False,
    limits: Limits | None = None,
    **options: object,
) -> Guided:
    """A deployment of TensorRT-LLM."""
    spec = Spec(
        model=one.source,
        name=name,
        engine="tensorrt_llm",
        target="docker",
        precision=precision,
        trust_remote_code=trust,
        limits=limits or Limits(),
        tensorrt_llm=TensorRtLlmOptions.model_validate(options),
    )
    return Guided(trtllm, spec, one, hardware)


def on_vllm(one: Model, hardware: Hardware, name: str, **options: object) -> Guided:
    """A deployment of vLLM."""
    spec = Spec(model=one.source, name=name, engine="vllm", target="docker", vllm=VllmOptions.model_validate(options))
    return Guided(vllm, spec, one, hardware)


FOUR = {"max_batch": 4, "max_input": 1024, "max_output": 1024}  # where guide 002 ends
GUIDED: dict[str, Guided] = {
    "trtllm-002-qwen-7b-fp16": guided(QWEN, RTX_3090, "qwen", "fp16", trust=True, version="0.5.0", **FOUR),
    "trtllm-002-qwen-7b-int4": guided(QWEN, RTX_3090, "qwen", "int4", trust=True, version="0.5.0", **FOUR),
    "trtllm-002-qwen-7b-int8-v1": guided(
        QWEN, RTX_3090, "qwen", "int8", trust=True, version="0.5.0", batching="v1", **FOUR
    ),
    "trtllm-002-qwen-7b-smoothquant": guided(
        QWEN, RTX_3090, "qwen", trust=True, version="0.5.0", quantisation="smoothquant", **FOUR
    ),
    "trtllm-002-qwen-7b-prebuilt": guided(
        QWEN, RTX_3090, "qwen", "fp16", trust=True, version="0.5.0",
        prebuilt_image="registry.cn-guangzhou.aliyuncs.com/tlntin/triton_trt_llm:v0.5.0", **FOUR
    ),
    "trtllm-004-llama-2-7b-bf16": guided(
        LLAMA2, A100_X2, "llama", "bf16", release="23.10", max_batch=8, max_input=2048, max_output=512
    ),
    "trtllm-004-llama-2-7b-fp16-v100": guided(
        LLAMA2, V100, "llama", release="23.10", max_batch=4, max_input=2048, max_output=512
    ),
    "trtllm-004-llama-2-7b-tp2": guided(
        LLAMA2, A100_X2, "llama", "bf16", release="23.10", tensor_parallel=2, max_batch=8, max_input=2048,
        max_output=512
    ),
    "trtllm-0.19-llama-3.1-8b-tp2": guided(
        LLAMA3, machine("NVIDIA H100 80GB HBM3", 90, 2, 81_559, "570.124.06"), "llama3", version="0.19.0",
        tensor_parallel=2, front="bls", max_batch=16, max_input=4096, max_output=1024
    ),
    "trtllm-1.2-llama-3.1-8b-int8": guided(
        LLAMA3, H100, "llama3", "int8", version="1.2.1", release="26.05", max_batch=16, max_input=4096, max_output=1024
    ),
    "trtllm-1.2-qwen3-0.6b-llmapi": guided(QWEN3, H100, "qwen3", limits=Limits(concurrent=8, context=8192)),
    "vllm-qwen3-0.6b": on_vllm(QWEN3, H100, "qwen3"),
    "vllm-llama-3.1-8b-tp2": on_vllm(
        LLAMA3, machine("NVIDIA A100-SXM4-80GB", 80, 2, 81_920, "580.95.05"), "llama3", tensor_parallel=2
    ),
}  # fmt: skip


if __name__ == "__main__":
    for key, one in GUIDED.items():
        (PLANS / f"{key}.json").write_text(written(one.plan()), encoding="utf-8")
