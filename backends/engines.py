"""Which way to a served model: each engine's ways ranked for this model and machine, with every reason against. Pure.

What each way takes, costs and gives is data in assets/engine_paths.toml; here it is compared with model and machine.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from backends.memory import Estimate, HostNeed, chosen_gpus, estimate
from backends.recipes import RECIPES
from backends.spec import EngineName, Frozen, Hardware, Model, Spec
from backends.text import Text

_TABLE = Path(__file__).resolve().parent.parent / "assets" / "engine_paths.toml"
_MIB_A_SECOND = 40.0  # of a download: some 335 Mbit/s
_LOAD_MIB_A_SECOND = 800.0  # weights from a local disk to where they run


class Rules(Frozen):
    """One way's row of the table; its comments there say what each field means."""

    rank: int
    engine: EngineName
    title: Text
    gain: Text
    source: str
    architectures: dict[str, str] = {}
    sms: tuple[int, ...] = ()
    sms_of: dict[str, tuple[int, ...]] = {}
    min_sm: int = 0
    precisions: tuple[str, ...] = ()
    checkpoints: tuple[str, ...] = ()
    int8_min_sm: int = 0
    int8_not_on: tuple[int, ...] = ()
    head_sizes: tuple[int, ...] = ()
    docker: bool = False
    own_image: bool = False  # of the engine's images only one release serves
    x86_only: bool = False
    pull_mib: int = 0
    image_mib: int = 0
    build_s: int = 0
    per_billion_s: int = 0
    load_s: int = 10


class _Note(Frozen):
    path: str
    text: Text
    source: str
    model_types: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    facts: dict[str, str | int | bool] = {}


class Recommended(Frozen):
    """The image that suits this machine, as far as it was looked for. tag None: none does, and `reason` says why."""

    tag: str | None
    version: str | None = None  # of the engine inside
    reason: Text | None = None


class Effort(Frozen):
    """What stands between now and the first answer. Estimates; None: nothing or not known."""

    first_start_s: float | None = None
    later_start_s: float | None = None
    download_mib: int | None = None
    disk_mib: int | None = None
    ram_mib: int | None = None
    stages: tuple[HostNeed, ...] = ()


class Way(Frozen):
    """One way to a served model. `reasons` empty: it can be taken now. `possible`: only Slipway itself lacks it yet."""

    id: str
    engine: EngineName
    title: Text
    gain: Text
    reasons: tuple[Text, ...]
    possible: bool
    notes: tuple[Text, ...]
    image: str | None
    effort: Effort
    memory: Estimate
    spec: Spec  # what to start when this way is chosen


@cache
def _table() -> tuple[dict[str, Rules], tuple[_Note, ...]]:
    data = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    rules = {name: Rules.model_validate(row) for name, row in data["path"].items()}
    return rules, tuple(_Note.model_validate(row) for row in data["note"])


def ways(
    spec: Spec, hardware: Hardware, model: Model, images: Mapping[str, Recommended] | None = None
) -> tuple[Way, ...]:
    """Every way, best first: those that can be taken, those that only Slipway lacks, those that cannot be taken.

    `images` maps a way's id, or an engine's name, to the image found for it; a way without one is judged without.
    """
    rules, _ = _table()
    found = [_way(name, rule, spec, hardware, model, images or {}) for name, rule in rules.items()]

    def order(way: Way) -> tuple[int, int, int]:
        group = 0 if not way.reasons else 1 if way.possible else 2
        return group, rules[way.id].rank, len(way.reasons)

    return tuple(sorted(found, key=order))


def _way(
    name: str, rule: Rules, spec: Spec, hardware: Hardware, model: Model, images: Mapping[str, Recommended]
) -> Way:
    local = rule.engine == "transformers"
    chosen = spec.model_copy(update={"engine": rule.engine, "target": "local" if local else "docker"})
    if local and chosen.gpus is not None and len(chosen.gpus) > 1:
        chosen = chosen.model_copy(update={"gpus": chosen.gpus[:1]})
    if not local and chosen.gpus == ():  # the CPU was chosen, which only the embedded engine can use
        chosen = chosen.model_copy(update={"gpus": None})
    image = images.get(name) or (None if rule.own_image else images.get(rule.engine))
    if not local and image is not None and image.tag is not None:
        chosen = chosen.model_copy(update={"image": image.tag})
    memory = estimate(chosen, hardware, model)
    driven = RECIPES.get(rule.engine)
    if local and driven is not None:
        against = driven.why_not(chosen, hardware, model)
    else:
        against = tuple(_against(name, rule, chosen, hardware, model, image))
    against += _too_large(memory)
    missing = (
        ()
        if driven is not None
        else (Text(en=f"Slipway cannot drive {rule.title.en} yet.", zh=f"Slipway 暂不能驱动 {rule.title.zh}。"),)
    )
    return Way(
        id=name,
        engine=rule.engine,
        title=rule.title,
        gain=rule.gain,
        reasons=(*missing, *against),
        possible=not against,
        notes=_notes(name, model),
        image=None if image is None else image.tag,
        effort=_effort(rule, hardware, model, memory),
        memory=memory,
        spec=chosen,
    )


# --- reasons against ----------------------------------------------------------------------------------------------


def _against(
    name: str, rule: Rules, spec: Spec, hardware: Hardware, model: Model, image: Recommended | None
) -> list[Text]:
    """Every reason why upstream's engine cannot serve this model on this machine."""
    return [
        *_machine(rule, hardware),
        *_gpu(rule, spec, hardware, model),
        *_architecture(rule, model, image),
        *_weights(rule, spec, hardware, model),
        *(_fastertransformer(rule, spec, hardware, model) if name == "fastertransformer" else ()),
        *_split(spec, hardware, model),
        *(
            [image.reason or Text(en="No image of it runs here.", zh="没有可在此运行的镜像。")]
            if image is not None and image.tag is None
            else []
        ),
    ]


def _machine(rule: Rules, hardware: Hardware) -> list[Text]:
    reasons: list[Text] = []
    if not hardware.gpus:
        reasons.append(Text(en="It needs an NVIDIA GPU; there is none here.", zh="需要 NVIDIA GPU，本机没有。"))
    docker = hardware.docker
    if rule.docker and docker is not None and not docker.reachable:
        reasons.append(
            Text(en="It runs in a container; Docker is not reachable.", zh="需在容器中运行，无法连接 Docker。")
        )
    elif rule.docker and docker is not None and docker.nvidia_runtime is False and docker.cdi is not True:
        reasons.append(
            Text(
                en="Docker has no NVIDIA runtime, so containers see no GPU. Install nvidia-container-toolkit.",
                zh="Docker 没有 NVIDIA 运行时，容器无法使用 GPU，请安装 nvidia-container-toolkit。",
            )
        )
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
    since = rule.architectures.get(model.architecture)
    if since is None:
        return [
            Text(
                en=f"{rule.title.en} does not know the architecture {model.architecture}.",
                zh=f"{rule.title.zh} 不支持架构 {model.architecture}。",
            )
        ]
    if since and image is not None and image.version is not None and _number(image.version) < _number(since):
        return [
            Text(
                en=f"{model.architecture} came with version {since}; the image for this machine has {image.version}.",
                zh=f"{model.architecture} 自 {since} 起支持，适合本机的镜像为 {image.version}。",
            )
        ]
    return []


def _number(version: str) -> tuple[int, ...]:
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
    if model.remote_code and not spec.trust_remote_code:
        reasons.append(
            Text(
                en="The model brings code of its own. It runs only with your word: trust_remote_code.",
                zh="该模型自带代码，只有在您明确同意（trust_remote_code）后才会运行。",
            )
        )
    if model.weight_format == "pickle" and not spec.allow_pickle:
        reasons.append(
            Text(
                en="The weights are pickles, which can hold code. Take safetensors, or allow them: allow_pickle.",
                zh="权重是 pickle 文件，可能含有代码。请改用 safetensors，或明确允许（allow_pickle）。",
            )
        )
    return reasons


def _fastertransformer(rule: Rules, spec: Spec, hardware: Hardware, model: Model) -> list[Text]:
    """What its converters and kernels cannot do, all without an error of their own."""
    reasons: list[Text] = []
    ranks = max(1, len(chosen_gpus(spec, hardware)))
    if model.model_type == "llama":
        if model.kv_heads != model.heads:
            reasons.append(
                Text(
                    en=f"It lacks grouped-query attention: {model.heads} heads share {model.kv_heads} KV heads.",
                    zh=f"不支持分组查询注意力：该模型 {model.heads} 个头共用 {model.kv_heads} 个 KV 头。",
                )
            )
        if model.tied_embeddings:
            reasons.append(
                Text(
                    en="Its converter writes no output head for tied embeddings, and answers are garbage.",
                    zh="词嵌入共享时转换器不写输出层，输出会是乱码。",
                )
            )
        scaling = model.facts.get("rope_scaling")
        if scaling is not None:
            reasons.append(
                Text(
                    en=f"It ignores rope scaling ({scaling}), so answers go wrong.",
                    zh=f"会忽略 rope 缩放（{scaling}），输出有误。",
                )
            )
        if model.facts.get("rope_theta", 10000.0) != 10000.0:
            reasons.append(
                Text(
                    en=f"It knows rope_theta 10,000 only; the model has {model.facts['rope_theta']:,.0f}.",
                    zh=f"只支持 rope_theta 10,000，该模型为 {model.facts['rope_theta']:,.0f}。",
                )
            )
        if model.facts.get("attention_bias"):
            reasons.append(
                Text(en="It ignores biases in attention, so answers go wrong.", zh="会忽略注意力偏置，输出有误。")
            )
    if rule.head_sizes and model.head_size not in rule.head_sizes and model.model_type in ("llama", "gptj"):
        reasons.append(
            Text(en=f"It has no kernel for head size {model.head_size}.", zh=f"没有头维度 {model.head_size} 的内核。")
        )
    if model.model_type == "gptj" and (model.layers, model.hidden_size) != (28, 4096):
        reasons.append(
            Text(en="Its GPT-J converter is written for the 6B model alone.", zh="其 GPT-J 转换器只支持 6B 模型。")
        )
    widths = (
        {"d_ff": model.facts.get("d_ff", model.intermediate_size)}
        if model.encoder_decoder
        else {"intermediate_size": model.intermediate_size}
    )
    for field, width in widths.items():
        if isinstance(width, int) and width % ranks:
            reasons.append(
                Text(
                    en=f"{field} {width} cannot be split over {ranks} GPUs; its converter would leave files out.",
                    zh=f"{field} {width} 无法平分到 {ranks} 块 GPU，转换器会漏写文件。",
                )
            )
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


def _too_large(memory: Estimate) -> tuple[Text, ...]:
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


# --- effort and notes ---------------------------------------------------------------------------------------------


def _effort(rule: Rules, hardware: Hardware, model: Model, memory: Estimate) -> Effort:
    """Time, download, disk and host memory until it answers, from the table and the model's size."""
    billions = (model.parameters or 0) / 1e9
    weights = model.weights_mib or 0
    download = (weights if model.source.kind in ("huggingface", "modelscope") else 0) + rule.pull_mib
    runtime = 0
    if rule.engine == "transformers":
        runtime = 3500 if hardware.gpus else 310
        download += runtime
    load = rule.load_s + weights / _LOAD_MIB_A_SECOND
    first = download / _MIB_A_SECOND + rule.build_s + billions * rule.per_billion_s + load + (60 if runtime else 0)
    rams = [need.ram_mib for need in memory.host if need.ram_mib is not None]
    disks = [need.disk_mib for need in memory.host if need.disk_mib is not None]
    return Effort(
        first_start_s=round(first),
        later_start_s=round(load),
        download_mib=download or None,
        disk_mib=sum(disks) if disks else None,
        ram_mib=max(rams, default=None),
        stages=memory.host,
    )


def _notes(name: str, model: Model) -> tuple[Text, ...]:
    _, notes = _table()
    return tuple(
        note.text
        for note in notes
        if note.path == name
        and (not note.model_types or model.model_type in note.model_types)
        and (not note.dtypes or model.dtype in note.dtypes)
        and all(model.facts.get(fact) == value for fact, value in note.facts.items())
    )
