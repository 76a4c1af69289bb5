"""How much memory a deployment takes, part by part, on each GPU or on the host, and whether it fits. Pure.

All are estimates from the model's shape. Formulas and what they were checked against: docs/memory.md. Costs that no
formula gives lie in assets/memory.toml, each with its source.
"""

from __future__ import annotations

import math
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from backends.spec import EngineName, Frozen, Gpu, Hardware, Model, Spec
from backends.text import Text

_COSTS = Path(__file__).resolve().parent.parent / "assets" / "memory.toml"
_MIB = 2**20
BYTES = {"fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "fp8": 1.0, "int8": 1.0, "int4": 0.5}  # of one weight in a matrix
TIGHT_MIB, TIGHT_SHARE = 1024, 0.04
OWN_CONTEXT = 4096  # tokens a chat where nobody chose and the model allows more, as the embedded engine has it

Verdict = Literal["fits", "tight", "over", "unknown"]
Kind = Literal["weights", "kv_cache", "activations", "fixed"]
PARTS: dict[Kind, Text] = {
    "weights": Text(en="Weights", zh="权重"),
    "kv_cache": Text(en="KV cache", zh="KV 缓存"),
    "activations": Text(en="Activations", zh="激活"),
    "fixed": Text(en="Fixed costs", zh="固定开销"),
}


class Part(Frozen):
    """One share of what a place needs, rounded up to MiB."""

    kind: Kind
    mib: int
    how: Text  # the figures it comes from


class Place(Frozen):
    """One GPU, or the host's memory (index None): the need against what is free. The parts add up to the need."""

    index: int | None
    name: str
    parts: tuple[Part, ...]
    needed_mib: int
    free_mib: int | None
    total_mib: int | None
    verdict: Verdict

    @property
    def left_mib(self) -> int | None:
        """What stays free; negative where it does not fit."""
        return None if self.free_mib is None else self.free_mib - self.needed_mib


class HostNeed(Frozen):
    """What one stage takes on the host besides: memory while it runs, disk for what it leaves."""

    stage: Text
    ram_mib: int | None
    disk_mib: int | None
    verdict: Verdict


class Estimate(Frozen):
    """The memory of one deployment. `unknown` says what is missing where there is no figure."""

    engine: EngineName
    precision: str
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    batch: int = 0
    context: int = 0
    places: tuple[Place, ...] = ()
    host: tuple[HostNeed, ...] = ()
    verdict: Verdict = "unknown"
    unknown: Text | None = None

    @property
    def needed_mib(self) -> int:
        """All places together."""
        return sum(place.needed_mib for place in self.places)


@cache
def costs() -> dict[str, dict[str, float]]:
    """assets/memory.toml."""
    return tomllib.loads(_COSTS.read_text(encoding="utf-8"))


# --- formulas: bytes from a model's shape -------------------------------------------------------------------------


def weights_bytes(
    model: Model, precision: str, *, tensor_parallel: int = 1, pipeline_parallel: int = 1, group_size: int | None = None
) -> float:
    """Weights of the fullest rank, in bytes. `model.parameters` must be known.

    int8 and int4 pack the layers' matrices only; embeddings, output head and norms stay in 16 bits. `group_size` adds
    the scales and zero points of AWQ and GPTQ. The embeddings are on every rank of a tensor-parallel group, the head is
    split; of a pipeline the first rank has the embeddings and the last one the head.
    """
    total = model.parameters or 0
    hidden, vocabulary = model.hidden_size or 0, model.vocab_size or 0
    embeddings = vocabulary * hidden
    head = 0 if model.tied_embeddings else embeddings
    norms = (2 * (model.layers or 0) + 1) * hidden
    matrices = max(total - embeddings - head - norms, 0)
    plain = BYTES[precision] if precision in ("fp32", "fp16", "bf16") else 2.0
    packed = BYTES[precision]
    if group_size is not None and precision == "int4":
        packed += 4.0 / group_size  # a 16-bit scale and a zero point a group
    layers = matrices * packed + norms * plain
    ends = embeddings * plain, head * plain / tensor_parallel
    return layers / (tensor_parallel * pipeline_parallel) + (sum(ends) if pipeline_parallel == 1 else max(ends))


def kv_bytes_per_token(
    model: Model, *, tensor_parallel: int = 1, pipeline_parallel: int = 1, width: float = 2.0
) -> float:
    """KV cache of one token on one rank, in bytes; `width` is that of one value. Layers without attention have none."""
    layers = (model.layers or 0) - int(model.facts.get("layers_linear", 0))
    heads = max(1, (model.kv_heads or 0) // tensor_parallel)
    return 2.0 * math.ceil(layers / pipeline_parallel) * heads * (model.head_size or 0) * width


def activations_bytes(model: Model, tokens: int, *, tensor_parallel: int = 1) -> float:
    """Work space of one forward over `tokens` tokens with fused attention: 16-bit values of the widest layer."""
    return tokens * (4.0 * (model.hidden_size or 0) + 2.0 * _inner(model)) * 2.0 / tensor_parallel


def attention_bytes(model: Model, batch: int, tokens: int, *, tensor_parallel: int = 1) -> float:
    """Work space of attention that is not fused: one 16-bit score for each pair of tokens, head and row."""
    return batch * (model.heads or 0) / tensor_parallel * float(tokens) ** 2 * 2.0


def _inner(model: Model) -> int:
    """Width that one token's MLP takes up: with experts, of all that it goes through."""
    wide = int(model.facts.get("expert_intermediate_size", 0)) or model.intermediate_size or 0
    return wide * max(1, int(model.facts.get("experts_per_token", 1)))


# --- one deployment -----------------------------------------------------------------------------------------------


def estimate(spec: Spec, hardware: Hardware, model: Model) -> Estimate:
    """What `spec` would take on this machine. Where a fact is missing it says so instead of guessing."""
    gpus = chosen_gpus(spec, hardware)
    precision = resolved_precision(spec, hardware, model)
    lacking = _lacking(model)
    context = context_of(spec, model)
    ranks = max(1, len(gpus))
    known = {"engine": spec.engine, "precision": precision, "batch": spec.limits.concurrent, "context": context}
    if lacking is None and not gpus and spec.engine != "transformers":
        lacking = Text(
            en="This engine needs an NVIDIA GPU, and none is chosen.", zh="该引擎需要 NVIDIA GPU，尚未选择。"
        )
    if lacking is not None:
        return Estimate(**known, tensor_parallel=ranks, unknown=lacking)
    if ranks > 1 and (model.heads or 1) % ranks:
        said = Text(
            en=f"{model.heads} attention heads cannot be split over {ranks} GPUs.",
            zh=f"{model.heads} 个注意力头无法平分到 {ranks} 块 GPU。",
        )
        return Estimate(**known, tensor_parallel=ranks, unknown=said)
    parts = _parts(spec, model, precision, context, ranks, on_gpu=bool(gpus))
    if gpus:
        places = tuple(_place(gpu.index, gpu.name, parts, *_gpu_memory(gpu)) for gpu in gpus)
    else:
        name = hardware.cpu_name or hardware.hostname or "CPU"
        places = (_place(None, name, parts, hardware.ram_free_mib, hardware.ram_total_mib),)
    host = _host_needs(spec, hardware, model, precision, on_gpu=bool(gpus))
    verdicts = [place.verdict for place in places]
    return Estimate(**known, tensor_parallel=ranks, places=places, host=host, verdict=worst(verdicts))


def chosen_gpus(spec: Spec, hardware: Hardware) -> tuple[Gpu, ...]:
    """The GPUs that the deployment would use; empty: the CPU. Where nobody chose, engines take the first ones."""
    if spec.gpus is None:
        split = {"fastertransformer": spec.fastertransformer, "tensorrt_llm": spec.tensorrt_llm, "vllm": spec.vllm}
        options = split.get(spec.engine)
        ranks = 1 if options is None else (options.tensor_parallel or 1) * options.pipeline_parallel
        return hardware.gpus[:ranks]
    by_index = {gpu.index if gpu.index is not None else place: gpu for place, gpu in enumerate(hardware.gpus)}
    return tuple(by_index[index] for index in spec.gpus if index in by_index)


def resolved_precision(spec: Spec, hardware: Hardware, model: Model) -> str:
    """The precision that `auto` comes to. Packed checkpoints stay as they are."""
    gpus = chosen_gpus(spec, hardware)
    if model.quantisation is not None:
        bits = int(model.facts.get("quantisation_bits", 4))
        return "fp8" if model.quantisation == "fp8" else "int8" if bits == 8 else "int4"
    if spec.precision != "auto":
        return spec.precision
    if spec.engine == "fastertransformer":  # as its recipe: T5's activations leave fp16's range
        return "fp32" if model.encoder_decoder else "fp16"
    if spec.engine != "transformers":
        return model.dtype if model.dtype in ("fp16", "bf16") else "fp16"
    if not gpus:  # fp32 where one and a half times the weights of that width fit, as the engine decides at load
        wide = (model.parameters or 0) * 4 / _MIB * 1.5
        return "bf16" if model.dtype != "fp32" and hardware.ram_free_mib and wide > hardware.ram_free_mib else "fp32"
    if model.dtype == "bf16" and any(gpu.sm is not None and gpu.sm < 80 for gpu in gpus):
        return "fp16"
    return model.dtype if model.dtype in ("fp16", "bf16") else "fp32"


def context_of(spec: Spec, model: Model) -> int:
    """Tokens that one chat may have, prompt and answer."""
    own = min(model.context or OWN_CONTEXT, OWN_CONTEXT)
    return min(spec.limits.context or own, model.context or 2**40)


def worst(verdicts: list[Verdict]) -> Verdict:
    """The verdict of several places together."""
    order: tuple[Verdict, ...] = ("over", "unknown", "tight", "fits")
    return next((verdict for verdict in order if verdict in verdicts), "unknown")


def verdict_of(needed_mib: int, free_mib: int | None, total_mib: int | None) -> Verdict:
    """fits, tight (less than 1 GiB or 4 % of the whole would stay free), over, or unknown."""
    if free_mib is None:
        return "unknown"
    left = free_mib - needed_mib
    if left < 0:
        return "over"
    return "tight" if left < TIGHT_MIB or left < TIGHT_SHARE * (total_mib or free_mib) else "fits"


def _lacking(model: Model) -> Text | None:
    """The first fact without which nothing can be computed."""
    needed = {
        "parameters": Text(en="the number of parameters", zh="参数量"),
        "layers": Text(en="the number of layers", zh="层数"),
        "hidden_size": Text(en="the hidden size", zh="隐藏维度"),
        "kv_heads": Text(en="the number of KV heads", zh="KV 头数"),
        "head_size": Text(en="the head size", zh="头维度"),
        "vocab_size": Text(en="the vocabulary's size", zh="词表大小"),
    }
    for name, words in needed.items():
        if not getattr(model, name):
            return Text(en=f"The model's files do not tell {words.en}.", zh=f"模型文件未给出{words.zh}。")
    return None


def _gpu_memory(gpu: Gpu) -> tuple[int | None, int | None]:
    """(free, total) in MiB of what a process gets: of a GPU in MIG mode the first instance."""
    if gpu.mig and gpu.mig_instances:
        first = gpu.mig_instances[0]
        free = first.memory_free_mib if first.memory_free_mib is not None else first.memory_total_mib
        return free, first.memory_total_mib
    return gpu.memory_free_mib, gpu.memory_total_mib


def _place(index: int | None, name: str, parts: tuple[Part, ...], free: int | None, total: int | None) -> Place:
    needed = sum(part.mib for part in parts)
    return Place(
        index=index,
        name=name,
        parts=parts,
        needed_mib=needed,
        free_mib=free,
        total_mib=total,
        verdict=verdict_of(needed, free, total),
    )


def _parts(spec: Spec, model: Model, precision: str, context: int, ranks: int, *, on_gpu: bool) -> tuple[Part, ...]:
    """The parts on one rank."""
    cost, batch = costs()[spec.engine], spec.limits.concurrent
    group = model.facts.get("quantisation_group_size")
    weights = weights_bytes(model, precision, tensor_parallel=ranks, group_size=int(group) if group else None)
    width = 4.0 if precision == "fp32" else 2.0
    token = kv_bytes_per_token(model, tensor_parallel=ranks, width=width)
    cache = batch * context * token
    prompt = max(1, context - spec.limits.new_tokens)
    tokens = _tokens_in_flight(spec, batch, prompt, cost)
    work = activations_bytes(model, tokens, tensor_parallel=ranks) * (width / 2.0)
    if spec.engine == "transformers":
        work += _embedded_bytes(model, batch, prompt, context, width, token, on_gpu=on_gpu)
    else:
        work += batch * (model.vocab_size or 0) * 4.0
    if spec.engine == "fastertransformer":
        work += attention_bytes(model, batch, prompt, tensor_parallel=ranks)
    flight = Text(en=f"{tokens:,} tokens in one forward", zh=f"单次前向 {tokens:,} 个 token")
    if spec.engine == "transformers":
        flight = Text(
            en=f"at most: {batch} prompts of {prompt:,} tokens at once",
            zh=f"最多 {batch} 个 {prompt:,} token 的提示词同时处理",
        )
    fixed = cost["fixed_gpu_mib"] if on_gpu else cost["fixed_host_mib"]
    count = _count(model.parameters or 0)
    per = f" / {ranks} GPUs" if ranks > 1 else ""
    per_zh = f" / {ranks} 块 GPU" if ranks > 1 else ""
    return (
        _part("weights", weights, Text(en=f"{count} parameters, {precision}{per}",
                                       zh=f"{count} 参数，{precision}{per_zh}")),
        _part("kv_cache", cache, Text(en=f"{batch} × {context:,} tokens × {_kib(token)}",
                                      zh=f"{batch} × {context:,} token × {_kib(token)}")),
        _part("activations", work, flight),
        _part("fixed", fixed * _MIB, Text(en="CUDA context and libraries", zh="CUDA 上下文与库") if on_gpu
              else Text(en="server, PyTorch, libraries", zh="服务器、PyTorch 与库")),
    )  # fmt: skip


def _embedded_bytes(
    model: Model, batch: int, prompt: int, context: int, width: float, token: float, *, on_gpu: bool
) -> float:
    """What the embedded engine takes beside weights and slots at worst: all rows being filled with the longest prompt.

    A group of chats is prefilled in a cache of its own and then copied into the slots. With a mask, grouped-query
    attention repeats keys and values for every head: once for the prefill, and on a GPU once more in the memory that
    the CUDA graphs keep. Each graph keeps its logits; there is one for every power of two of rows and of columns.
    """
    filling = batch * prompt * token
    wide = 2.0 * batch * (model.heads or 0) * (model.head_size or 0) * width * (model.heads != model.kv_heads)
    logits = batch * (model.vocab_size or 0) * 16.0  # fp32 copies while tokens are drawn
    if not on_gpu:
        return filling + wide * context + logits
    columns = max(1, math.ceil(math.log2(max(context, 256) / 256)) + 1)
    logits += 2.0 * batch * columns * (model.vocab_size or 0) * width
    return filling + wide * (prompt + context) + logits


def _tokens_in_flight(spec: Spec, batch: int, prompt: int, cost: dict[str, float]) -> int:
    """The most tokens that one forward takes."""
    if spec.engine == "transformers":
        return min(batch * prompt, int(cost["prefill_tokens"]))
    old = spec.engine == "fastertransformer" or (spec.image is not None and ":23." in spec.image)
    return batch * prompt if old else min(batch * prompt, int(cost["tokens_in_flight"]))


def _part(kind: Kind, size: float, how: Text) -> Part:
    return Part(kind=kind, mib=math.ceil(size / _MIB), how=how)


def _count(number: int) -> str:
    return f"{number / 1e9:.2f} B" if number >= 10**9 else f"{number / 1e6:.1f} M"


def _kib(size: float) -> str:
    return f"{size / 1024:g} KiB"


# --- conversion and engine build on the host ----------------------------------------------------------------------


def _host_needs(spec: Spec, hardware: Hardware, model: Model, precision: str, *, on_gpu: bool) -> tuple[HostNeed, ...]:
    """Memory and disk of the host for what happens before the server runs. Estimates."""
    host, fixed = costs()["host"], costs()[spec.engine]["fixed_host_mib"]
    parameters = model.parameters or 0
    result = weights_bytes(model, precision) / _MIB
    needs: list[HostNeed] = []

    def need(en: str, zh: str, ram: float | None, disk: float | None, where: str = "data") -> None:
        verdicts: list[Verdict] = []
        if ram is not None:
            verdicts.append(verdict_of(math.ceil(ram), hardware.ram_free_mib, hardware.ram_total_mib))
        if disk is not None:
            free = next((found.free_mib for found in hardware.disks if found.purpose == where), None)
            verdicts.append(verdict_of(math.ceil(disk), free, free))
        mib = [None if size is None else math.ceil(size) for size in (ram, disk)]
        needs.append(HostNeed(stage=Text(en=en, zh=zh), ram_mib=mib[0], disk_mib=mib[1], verdict=worst(verdicts)))

    if model.source.kind in ("huggingface", "modelscope") and model.weights_mib is not None:
        need("Download", "下载", None, model.weights_mib)
    if spec.engine == "transformers":
        need("Runtime", "运行环境", None, host["runtime_mib" if on_gpu else "runtime_cpu_mib"])
        if on_gpu:  # the weights are put together in the host's memory first
            need("Load", "加载", fixed + 1024 + result, None)
    elif spec.engine == "fastertransformer":
        need("Image with FasterTransformer", "FasterTransformer 镜像", None, host["ft_image_mib"], "images")
        written = parameters * (4 if model.model_type == "gptj" else 2) / _MIB
        need("Convert (in fp32)", "转换（以 fp32 进行）", parameters * 4 / _MIB + host["convert_extra_mib"], written)
    elif spec.engine == "tensorrt_llm":
        need("Image", "镜像", None, host["trtllm_image_mib"], "images")
        if spec.tensorrt_llm is not None and spec.tensorrt_llm.flow == "llmapi":  # loads the checkpoint as it is
            need("Load", "加载", fixed, None)
            return tuple(needs)
        need("Convert", "转换", parameters * 2 / _MIB + result + host["convert_extra_mib"], result)
        need("Build engine", "构建引擎", host["build_factor"] * result + host["build_extra_mib"], result)
    else:
        need("Image", "镜像", None, host["vllm_image_mib"], "images")
        need("Load", "加载", fixed, None)
    return tuple(needs)
