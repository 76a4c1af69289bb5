"""Every reason why FasterTransformer cannot serve a model somewhere: the family, its shape, the split, GPUs, images.

Pure. What the converters lose in silence is refused here, before anything is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends import gpus, limits, releases, tables
from backends.errors import BadInput
from backends.fastertransformer.deployment import (
    Split,
    family_of,
    options_of,
    precision_of,
    profile_of,
    release_of,
    split_of,
)
from backends.fastertransformer.sources import Family, Profile, profiles
from backends.inside import corrected
from backends.recipe_words import no_gpu, untold_image
from backends.spec import Hardware, Model, Spec
from backends.text import Text
from backends.verdicts import Host, Verdict, judge


def why_not(spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]:
    """Every reason; empty: it can."""
    family = family_of(model)
    reasons = [*_target(spec, hardware)]
    if family is None:
        reasons.append(
            Text(
                en=f"FasterTransformer's converters take LLaMA, GPT-J and T5; this is {model.architecture}.",
                zh=f"FasterTransformer 的转换脚本支持 LLaMA、GPT-J 与 T5，此模型为 {model.architecture}。",
            )
        )
        return tuple(reasons)
    profile, split = profile_of(spec, family), split_of(spec, hardware)
    reasons += _profile(spec, family, profile)
    reasons += _template(spec, family)
    reasons += _weights(spec, model, family)
    reasons += _SHAPES[family](model, profile)
    reasons += _split(spec, hardware, model, family, split)
    reasons += _machine(spec, hardware, family, profile, split)
    return tuple(reasons)


def _target(spec: Spec, hardware: Hardware) -> Iterator[Text]:
    if spec.target != "docker":
        yield Text(
            en="FasterTransformer is built and served in containers. Choose the Docker target.",
            zh="FasterTransformer 在容器中构建与运行，请选择 Docker 目标。",
        )
    if hardware.architecture is not None and hardware.architecture not in ("x86_64", "amd64", "AMD64"):
        yield Text(
            en=f"The images that FasterTransformer builds in are for x86-64; this machine is {hardware.architecture}.",
            zh=f"FasterTransformer 所用镜像只有 x86-64 版本，当前机器是 {hardware.architecture}。",
        )


def _profile(spec: Spec, family: Family, profile: Profile) -> Iterator[Text]:
    if family not in profile.families:
        fitting = ", ".join(name for name, one in profiles().items() if family in one.families)
        yield Text(
            en=f"The branch {profile.name} does not take {family} models. Choose one of: {fitting}.",
            zh=f"{profile.name} 分支不支持 {family} 模型，可选：{fitting}。",
        )
        return
    if options_of(spec).prebuilt_image is None:
        release = release_of(spec, profile)
        if release is None:
            yield untold_image(
                spec.image,
                Text(
                    en="Give it a tag with its Triton release, such as 23.04-py3.",
                    zh="请使用写明 Triton 版本的标签，例如 23.04-py3。",
                ),
            )
        elif release not in profile.releases:
            span = profile.releases[0] + (f" to {profile.releases[-1]}" if len(profile.releases) > 1 else "")
            span_zh = profile.releases[0] + (f" 至 {profile.releases[-1]}" if len(profile.releases) > 1 else "")
            yield Text(
                en=f"This branch of FasterTransformer builds in Triton {span} only; {release} was named. "
                "Later ones have headers and compilers that it does not know.",
                zh=f"该 FasterTransformer 分支只能在 Triton {span_zh} 中构建，"
                f"指定的是 {release}；更新版本的头文件与编译器不兼容。",
            )
    if spec.precision != "auto" and spec.precision not in profile.precisions:
        known = ", ".join(profile.precisions)
        yield Text(
            en=f"{family} on this branch runs in {known}; {spec.precision} was asked for.",
            zh=f"该分支的 {family} 支持 {known}，要求的是 {spec.precision}。",
        )


def _template(spec: Spec, family: Family) -> Iterator[Text]:
    written = ("auto", "raw") if family == "gptj" else ("auto", "raw", "llama2", "atom")
    if spec.template not in written:
        yield Text(
            en=f"Prompts of {family} models are not written as {spec.template} here. Choose {', '.join(written)}.",
            zh=f"此处的 {family} 模型不使用 {spec.template} 提示格式，可选 {'、'.join(written)}。",
        )


def _weights(spec: Spec, model: Model, family: Family) -> Iterator[Text]:
    options = options_of(spec)
    if model.source.kind == "modelscope" and options.converted is None:
        yield Text(
            en="Downloads from ModelScope are not part of this recipe yet. Name a local folder instead.",
            zh="此方案暂不支持从魔搭下载，请改用本地目录。",
        )
    if model.quantisation is not None:
        yield Text(
            en=f"The weights are quantised ({model.quantisation}); the converters take plain weights only.",
            zh=f"权重已量化（{model.quantisation}），转换脚本只接受未量化的权重。",
        )
    if model.remote_code:
        yield Text(
            en="The model brings code of its own, which the converters do not run.",
            zh="该模型自带代码，转换脚本不会运行它。",
        )
    converts = options.converted is None and options.slim_checkpoint is None
    if converts and model.weight_format == "pickle" and not spec.allow_pickle:
        yield Text(
            en="The weights are pickled files, which can hold code. Take safetensors, or allow them: allow_pickle. "
            "They are read in a container without network.",
            zh="权重是 pickle 文件，可能含有代码。请改用 safetensors，或明确允许（allow_pickle），读取时容器不联网。",
        )
    if converts and model.weight_format == "none":
        yield Text(en="There are no weight files to convert.", zh="没有可转换的权重文件。")
    if options.slim_checkpoint is not None and family != "gptj":
        yield Text(
            en="A slim checkpoint is GPT-J's only. Remove slim_checkpoint.",
            zh="slim_checkpoint 仅适用于 GPT-J，请去掉该项。",
        )
    if options.slim_checkpoint is not None and (model.layers, model.heads, model.hidden_size) != (28, 16, 4096):
        yield Text(
            en="The converter of slim checkpoints knows GPT-J-6B alone: 28 layers, 16 heads, width 4,096.",
            zh="slim 检查点的转换脚本只支持 GPT-J-6B：28 层、16 头、宽度 4,096。",
        )
    if model.facts.get("multimodal"):
        yield Text(
            en="The converters take language models only; this one also takes images or sound.",
            zh="转换脚本只支持语言模型，此模型还接受图像或声音。",
        )


def _llama(model: Model, profile: Profile) -> Iterator[Text]:
    if model.kv_heads is not None and model.heads is not None and model.kv_heads != model.heads:
        yield Text(
            en=f"{model.heads} attention heads share {model.kv_heads} KV heads (GQA), which the converter cannot read. "
            "TensorRT-LLM serves such models.",
            zh=f"{model.heads} 个注意力头共用 {model.kv_heads} 个 KV 头（GQA），转换脚本不支持，请改用 TensorRT-LLM。",
        )
    if model.tied_embeddings:
        yield Text(
            en="The output head is tied to the embeddings: the converter would leave model.lm_head.weight.bin out in "
            "silence, and the server would answer nonsense.",
            zh="输出层与词嵌入共享权重：转换脚本会静默漏掉 model.lm_head.weight.bin，服务将输出乱码。",
        )
    scaling, theta = model.facts.get("rope_scaling"), model.facts.get("rope_theta")
    if scaling is not None or (isinstance(theta, float | int) and theta != 10_000):
        what = f"rope scaling “{scaling}”" if scaling is not None else f"rope base {theta:,.0f}"
        what_zh = f"rope 缩放“{scaling}”" if scaling is not None else f"rope 基数 {theta:,.0f}"
        yield Text(
            en=f"The model has {what}; FasterTransformer only knows a base of 10,000 without scaling.",
            zh=f"模型使用{what_zh}，FasterTransformer 只支持基数 10,000 且无缩放。",
        )
    if model.facts.get("attention_bias"):
        yield Text(
            en="The attention has biases, which the converter leaves out in silence.",
            zh="注意力层带偏置，转换脚本会静默忽略。",
        )
    if model.facts.get("activation", "silu") != "silu":
        yield Text(
            en=f"The feed-forward uses {model.facts['activation']}; FasterTransformer's LLaMA only has silu.",
            zh=f"前馈层使用 {model.facts['activation']}，FasterTransformer 的 LLaMA 只有 silu。",
        )
    yield from _whole_heads(model)
    yield from _head_size(model, profile)


def _gptj(model: Model, profile: Profile) -> Iterator[Text]:
    if model.hidden_size and model.intermediate_size and model.intermediate_size != 4 * model.hidden_size:
        yield Text(
            en=f"The feed-forward is {model.intermediate_size:,} wide; the converter only knows four times the width.",
            zh=f"前馈层宽度为 {model.intermediate_size:,}，转换脚本只支持隐藏维度的四倍。",
        )
    yield from _whole_heads(model)
    yield from _head_size(model, profile)


def _t5(model: Model, profile: Profile) -> Iterator[Text]:
    kind = str(model.facts.get("feed_forward_proj", "relu"))
    if kind.startswith("gated") and not profile.gated:
        yield Text(
            en="The feed-forward is gated (T5 v1.1, Flan-T5, mT5); this FasterTransformer (5.0) knows the plain one of "
            "the first T5 only.",
            zh="前馈层带门控（T5 v1.1、Flan-T5、mT5），此 FasterTransformer（5.0）只支持初版 T5 的普通前馈层。",
        )
    elif kind != "relu" and not profile.gated:  # T5TritonModel.cc takes no other for a model without biases
        yield Text(
            en=f"The feed-forward uses {kind}; this FasterTransformer (5.0) takes it for relu in silence.",
            zh=f"前馈层使用 {kind}，此 FasterTransformer（5.0）会静默按 relu 处理。",
        )
    if model.tied_embeddings is False:
        yield Text(
            en="The output head is not tied to the embeddings; this converter has no file for it.",
            zh="输出层与词嵌入不共享权重，该转换脚本不会写出输出层。",
        )
    yield from _head_size(model, profile)


def _whole_heads(model: Model) -> Iterator[Text]:
    if model.hidden_size and model.heads and model.head_size and model.heads * model.head_size != model.hidden_size:
        yield Text(
            en=f"{model.heads} heads of {model.head_size} are not the width of {model.hidden_size:,}, as the converter "
            "takes for granted.",
            zh=f"{model.heads} 个头 × {model.head_size} 不等于隐藏维度 {model.hidden_size:,}，不符合转换脚本的前提。",
        )


def _head_size(model: Model, profile: Profile) -> Iterator[Text]:
    if model.head_size is not None and model.head_size not in profile.head_sizes:
        yield Text(
            en=f"A head has {model.head_size} values; the kernels are made for {_list(profile.head_sizes)}.",
            zh=f"每个头的大小为 {model.head_size}，内核只支持 {_list(profile.head_sizes)}。",
        )


_SHAPES = {"llama": _llama, "gptj": _gptj, "t5": _t5}


def _split(spec: Spec, hardware: Hardware, model: Model, family: Family, split: Split) -> Iterator[Text]:
    parts: list[tuple[Text, int | None]] = [
        (Text(en="attention heads", zh="注意力头数"), model.heads),
        (Text(en="width of the feed-forward", zh="前馈层宽度"), model.intermediate_size),
        (Text(en="hidden size", zh="隐藏维度"), model.hidden_size),
    ]
    for words, size in parts:
        if size is not None and size % split.tensor:
            lost = Text(en=" The T5 converter would lose files in silence.", zh="T5 转换脚本会静默丢失文件。")
            tail = lost if family == "t5" and words.en.startswith("width") else Text(en=" ", zh=" ")
            yield Text(
                en=f"{size:,} ({words.en}) cannot be split over {split.tensor} ranks.{tail.en}".rstrip(),
                zh=f"{words.zh} {size:,} 无法平分为 {split.tensor} 份。{tail.zh}".rstrip(),
            )
    if split.tensor & (split.tensor - 1):
        yield Text(
            en=f"Tensor parallelism goes in powers of two; {split.tensor} was asked for.",
            zh=f"张量并行数须为 2 的幂，要求的是 {split.tensor}。",
        )
    if model.layers is not None and model.layers % split.pipeline:
        yield Text(
            en=f"{model.layers} layers cannot be split over {split.pipeline} pipeline ranks.",
            zh=f"{model.layers} 层无法平分为 {split.pipeline} 段流水线。",
        )
    one, have = split.tensor * split.pipeline, len(split.gpus)
    if not hardware.gpus or spec.gpus == ():
        yield from no_gpu(hardware)
    elif spec.gpus is None and have < one:
        yield Text(
            en=f"{one} GPUs are needed ({split.tensor} × {split.pipeline}); this machine has {len(hardware.gpus)}.",
            zh=f"需要 {one} 块 GPU（{split.tensor} × {split.pipeline}），本机有 {len(hardware.gpus)} 块。",
        )
    elif have == 0 or have % one or have > one * split.instances:
        # libfastertransformer.cc: the visible GPUs are a multiple of TP x PP, and not more than all instances take
        most = f" to {one * split.instances}" if split.instances > 1 else ""
        most_zh = f" 至 {one * split.instances}" if split.instances > 1 else ""
        yield Text(
            en=f"{have} GPUs were chosen; tensor {split.tensor} × pipeline {split.pipeline} with {split.instances} "
            f"instance(s) takes {one}{most}.",
            zh=f"选择了 {have} 块 GPU；张量 {split.tensor} × 流水线 {split.pipeline}、"
            f"{split.instances} 个实例需要 {one}{most_zh} 块。",
        )


def _machine(spec: Spec, hardware: Hardware, family: Family, profile: Profile, split: Split) -> Iterator[Text]:
    known = {gpu.index if gpu.index is not None else place for place, gpu in enumerate(hardware.gpus)}
    missing = [str(index) for index in split.gpus if index not in known]
    if missing:
        yield Text(en=f"There is no GPU {', '.join(missing)} here.", zh=f"本机没有 GPU {', '.join(missing)}。")
        return
    if not split.gpus:
        return
    try:
        cards = gpus.cards(hardware, split.gpus)
    except BadInput as unknown:
        yield unknown.message
        return
    flow = next((one for one in limits.flows(family) if one.release == release_of(spec, profile)), None)
    fitting = flow or next(iter(limits.flows(family)))
    for card in cards:
        if card.sm not in fitting.sm:
            yield Text(
                en=f"{card.name} is SM {card.capability}, which this FasterTransformer has no kernels for: its build "
                f"takes such a value in silence and leaves them out. It knows {_list(fitting.sm)}.",
                zh=f"{card.name} 为 SM {card.capability}，此 FasterTransformer 没有对应内核，编译时会静默忽略该值。"
                f"支持：{_list(fitting.sm)}。",
            )
        if card.mig:
            yield Text(
                en=f"{card.name} is cut into MIG slices; FasterTransformer takes whole GPUs.",
                zh=f"{card.name} 处于 MIG 模式，FasterTransformer 只使用整块 GPU。",
            )
    refusal = limits.precision("fastertransformer", precision_of(spec, family), cards)
    if refusal is not None:
        yield refusal
    yield from _driver(spec, hardware, profile, cards)


def _driver(spec: Spec, hardware: Hardware, profile: Profile, cards: tuple[gpus.Card, ...]) -> Iterator[Text]:
    """The release's image on this driver, as the table of images has it."""
    release, table = release_of(spec, profile), releases.load()
    image = next((one for one in table.of("py3") if one.release == release), None)
    if hardware.driver_version is None or image is None or options_of(spec).prebuilt_image is not None:
        return
    if image.tag in hardware.images:
        image = corrected(image, hardware.images[image.tag], table)
    host = Host(words=hardware.driver_version, driver=tables.version(hardware.driver_version), cards=cards)
    judgement = judge(image, host, table)
    if judgement.verdict is Verdict.IMPOSSIBLE:
        yield from judgement.reasons


def _list(numbers: tuple[int, ...]) -> str:
    return ", ".join(map(str, numbers))
