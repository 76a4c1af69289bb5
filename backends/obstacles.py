"""What stands against one way to a served model: every reason, with what it needs and what there is. Pure.

`Rules` is a row of assets/engine_paths.toml; nothing here knows an engine by name but FasterTransformer, whose
converters go wrong without a word.
"""

from __future__ import annotations

import re
from typing import Literal

from backends import consent
from backends.memory import Estimate, chosen_gpus
from backends.recipe_words import no_gpu, without_gpus
from backends.spec import EngineName, Frozen, Hardware, Model, Spec
from backends.text import Text


class Rules(Frozen):
    """One way's row of the table; its comments there say what each field means."""

    rank: int
    engine: EngineName
    title: Text
    gain: Text
    source: str
    flow: Literal["build_py", "trtllm_build", "llmapi"] | None = None  # of TensorRT-LLM's ways
    architectures: dict[str, str] = {}
    sms: tuple[int, ...] = ()
    sms_of: dict[str, tuple[int, ...]] = {}
    min_sm: int = 0
    precisions: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    int8_min_sm: int = 0
    int8_not_on: tuple[int, ...] = ()
    docker: bool = False
    tags: tuple[str, ...] = ()
    versions: tuple[str, str] | None = None
    ropes: tuple[str, ...] = ()
    ropes_since: dict[str, str] = {}
    x86_only: bool = False
    pull_mib: int = 0
    image_mib: int = 0
    build_s: int = 0
    per_billion_s: int = 0
    load_s: int = 10
    elastic: bool = False  # its KV cache takes what is free: requests that find no room wait


class Recommended(Frozen):
    """The image that suits this machine, as far as it was looked for. tag None: none does, and `why_not` says why."""

    tag: str | None
    version: str | None = None  # of the engine inside
    reason: Text | None = None
    why_not: tuple[Text, ...] = ()


def against(rule: Rules, spec: Spec, hardware: Hardware, model: Model, image: Recommended | None) -> list[Text]:
    """Every reason why upstream's engine cannot serve this model on this machine."""
    return [
        *_machine(rule, hardware),
        *_gpu(rule, spec, hardware, model),
        *_architecture(rule, model, image),
        *_weights(rule, spec, hardware, model),
        *_split(spec, hardware, model),
        *(_no_image(image) if image is not None and image.tag is None and hardware.gpus else ()),
    ]


def _no_image(image: Recommended) -> tuple[Text, ...]:
    return image.why_not or (image.reason or Text(en="No image of it runs here.", zh="没有可在此运行的镜像。"),)


def _machine(rule: Rules, hardware: Hardware) -> list[Text]:
    reasons: list[Text] = []
    if not hardware.gpus:
        reasons += no_gpu(hardware)
    docker = hardware.docker
    if rule.docker and docker is not None and not docker.reachable:
        reasons.append(
            Text(en="It runs in a container; Docker is not reachable.", zh="需在容器中运行，无法连接 Docker。")
        )
    reasons += without_gpus(docker) if rule.docker else ()
    if (
        rule.x86_only
        and hardware.architecture is not None
        and hardware.architecture not in ("x86_64", "amd64", "AMD64")
    ):
        reasons.append(
            Text(
                en=f"It is built for x86-64; this machine is {hardware.architecture}.",
                zh=f"只支持 x86-64，本机为 {hardware.architecture}。",
            )
        )
    return reasons


def _gpu(rule: Rules, spec: Spec, hardware: Hardware, model: Model) -> list[Text]:
    reasons: list[Text] = []
    allowed = rule.sms_of.get(model.model_type, rule.sms)
    takes = ", ".join(f"{one / 10:.1f}" for one in allowed) or f"{rule.min_sm / 10:.1f}"
    more, more_zh = ("", "") if allowed else (" or higher", " 及以上")
    for name, sm in _different(spec, hardware):
        if sm < rule.min_sm or (allowed and sm not in allowed):
            reasons.append(
                Text(
                    en=f"{name} has compute capability {sm / 10:.1f}; it takes {takes}{more}.",
                    zh=f"{name} 的计算能力为 {sm / 10:.1f}，需要 {takes}{more_zh}。",
                )
            )
    return reasons


def _different(spec: Spec, hardware: Hardware) -> list[tuple[str, int]]:
    """(name, sm) of the chosen GPUs whose compute capability is known, each kind once."""
    return list(dict.fromkeys((gpu.name, gpu.sm) for gpu in chosen_gpus(spec, hardware) if gpu.sm is not None))


def _architecture(rule: Rules, model: Model, image: Recommended | None) -> list[Text]:
    if model.architecture not in rule.architectures:
        return [
            Text(
                en=f"{rule.title.en} does not know the architecture {model.architecture}.",
                zh=f"{rule.title.zh} 不支持架构 {model.architecture}。",
            )
        ]
    reasons: list[Text] = []
    rope = model.facts.get("rope_scaling")
    if rope is not None and rule.ropes and rope not in rule.ropes:
        reasons.append(
            Text(
                en=f"{rule.title.en} does not know rope scaling “{rope}”.",
                zh=f"{rule.title.zh} 不支持 rope 缩放“{rope}”。",
            )
        )
    first, version = since(rule, model), None if image is None else image.version
    if first and version is not None and number(version) < number(first):
        reasons.append(
            Text(
                en=f"{model.architecture} came with version {first}; the image for this machine has {version}.",
                zh=f"{model.architecture} 自 {first} 起支持，适合本机的镜像为 {version}。",
            )
        )
    return reasons


def since(rule: Rules, model: Model) -> str:
    """The engine's first version that knows the model's architecture and its rope scaling; "" where always."""
    rope = rule.ropes_since.get(str(model.facts.get("rope_scaling", "")), "")
    return max(rule.architectures.get(model.architecture, ""), rope, key=number)


def number(version: str) -> tuple[int, ...]:
    """A version as numbers that compare: 0.17.0.post1 gives (0, 17, 0)."""
    return tuple(int(part) for part in re.findall(r"\d+", version)[:3])


def _weights(rule: Rules, spec: Spec, hardware: Hardware, model: Model) -> list[Text]:
    reasons: list[Text] = []
    if model.quantisation is not None and model.quantisation not in rule.checkpoints:
        reasons.append(
            Text(
                en=f"It does not read {model.quantisation} checkpoints. Take the model's unquantised form.",
                zh=f"不能读取 {model.quantisation} 量化权重，请使用未量化的模型。",
            )
        )
    if spec.precision not in rule.precisions:
        offered = ", ".join(rule.precisions)
        reasons.append(
            Text(
                en=f"It does not make {spec.precision}. Choose {offered}.",
                zh=f"不支持 {spec.precision}，可选 {offered}。",
            )
        )
    for name, sm in _different(spec, hardware):
        if spec.precision == "bf16" and sm < 80:
            reasons.append(
                Text(
                    en=f"bf16 needs compute capability 8.0; {name} has {sm / 10:.1f}. Choose fp16.",
                    zh=f"bf16 需要计算能力 8.0，{name} 为 {sm / 10:.1f}，请选 fp16。",
                )
            )
        if spec.precision == "int8" and (sm < rule.int8_min_sm or sm in rule.int8_not_on):
            reasons.append(
                Text(
                    en=f"Its int8 does not run on {name}. Choose fp16.", zh=f"其 int8 不能在 {name} 上运行，请选 fp16。"
                )
            )
        if model.quantisation == "fp8" and sm < 89:
            reasons.append(
                Text(
                    en=f"fp8 weights need compute capability 8.9; {name} has {sm / 10:.1f}.",
                    zh=f"fp8 权重需要计算能力 8.9，{name} 为 {sm / 10:.1f}。",
                )
            )
    reasons += consent.missing(spec, model)
    return reasons


def _split(spec: Spec, hardware: Hardware, model: Model) -> list[Text]:
    """Heads that the chosen GPUs cannot share."""
    ranks = max(1, len(chosen_gpus(spec, hardware)))
    heads, kv_heads = model.heads or ranks, model.kv_heads or ranks
    if heads % ranks == 0 and (kv_heads % ranks == 0 or ranks % kv_heads == 0):
        return []
    return [
        Text(
            en=f"{model.heads} heads with {model.kv_heads} KV heads cannot be split over {ranks} GPUs.",
            zh=f"{model.heads} 个头、{model.kv_heads} 个 KV 头无法平分到 {ranks} 块 GPU。",
        )
    ]


def crowded(memory: Estimate) -> tuple[Text, ...]:
    """What an engine whose cache takes what is free does where not all requests find room at their longest."""
    head = Text(en="With every request at its longest:", zh="所有请求都达到最长时：")
    tail = Text(en="Those that find no room wait.", zh="放不下的请求会等待。")
    return tuple(head + reason + tail for reason in too_large(memory)[:1])


def too_large(memory: Estimate) -> tuple[Text, ...]:
    """The places where it does not fit."""
    reasons: list[Text] = []
    for place in memory.places:
        if place.verdict == "over":
            need, free = f"{place.needed_mib / 1024:.1f} GiB", f"{(place.free_mib or 0) / 1024:.1f} GiB"
            where, where_zh = ("the host", "主机") if place.index is None else (f"GPU {place.index}",) * 2
            reasons.append(
                Text(
                    en=f"It needs ~{need} on {where}; {free} are free.",
                    zh=f"在 {where_zh} 上需要约 {need}，可用 {free}。",
                )
            )
    return tuple(reasons)
