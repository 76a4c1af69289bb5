"""What a spec comes to on this machine: release, flow, precision, GPUs, lengths. Pure; every doubt is a reason.

`choose` gathers all reasons against, not the first one only, and gives a choice whenever one can be made at all.
"""

from __future__ import annotations

import re

from backends import gpus as gpu_names
from backends import limits
from backends.errors import BadInput
from backends.images import recommend
from backends.recipe_words import no_gpu, untold_image
from backends.releases import load as load_releases
from backends.spec import Frozen, Hardware, Model, Spec, TensorRtLlmOptions
from backends.tensorrt_llm import ropes, splits, versions
from backends.tensorrt_llm.versions import Family, Flow, Quantisation, Release
from backends.text import Text, same
from backends.verdicts import Verdict

_TAG = re.compile(r"(?:^|[:/])(\d\d\.\d\d)-trtllm-python-py3$")
_INPUT = 2048  # longest prompt where nobody says: the builders' own default
DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


class Choice(Frozen):
    """One deployment, fully decided. Lengths are tokens; `gpus` are indices of the machine, one a rank."""

    flow: Flow
    release: Release
    family: Family | None
    image: str  # pulled, built or already here; layers come on top of it
    image_from: str  # pull, build, prebuilt
    quantisation: Quantisation
    dtype: str  # float16, bfloat16, float32
    tensor_parallel: int
    pipeline_parallel: int
    gpus: tuple[int, ...]
    gpu_name: str
    sm: int
    architecture: str  # of the machine: x86_64, aarch64
    max_batch: int
    max_input: int
    max_output: int
    options: TensorRtLlmOptions

    @property
    def world(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def max_sequence(self) -> int:
        return self.max_input + self.max_output

    @property
    def precision(self) -> str:
        """The short name that memory forecasts know: fp16, bf16, fp32, int8, int4, fp8."""
        packed = versions.quantised()[self.quantisation].precision
        return packed or {long: short for short, long in DTYPES.items()}[self.dtype]


def options(spec: Spec) -> TensorRtLlmOptions:
    """The spec's options, or those where nothing is said.

    V1 runs a batch to its end: asked to stream, it gives the last token alone, so it is never asked to.
    """
    wanted = spec.tensorrt_llm or TensorRtLlmOptions()
    return wanted.model_copy(update={"decoupled": False}) if wanted.batching == "v1" else wanted


def choose(spec: Spec, hardware: Hardware, model: Model) -> tuple[Choice | None, tuple[Text, ...]]:
    """The choice, and every reason against it. No choice where a release or a GPU is wanting."""
    wanted, reasons = options(spec), list[Text]()
    cards = _cards(spec, hardware, reasons)
    release = _release(spec, hardware, model, wanted, reasons)
    if release is None or not cards:
        return None, tuple(reasons)
    flow = _flow(spec, wanted, release, model, reasons)
    family = None if flow == "llmapi" else _family(model, release, reasons)
    _architecture(model, release, flow, wanted.batching == "inflight", reasons)
    tensor, pipeline = _parallel(wanted, len(cards), family, model, reasons)
    quantisation = _quantisation(spec, wanted, model, family, flow, cards, reasons)
    reasons += splits.against(quantisation, model, release, tensor, pipeline)
    lengths = _lengths(spec, wanted, model, reasons)
    _batching(wanted, release, flow, reasons)
    image, source = _image(spec, wanted, release, family)
    first = cards[0]
    return Choice(
        flow=flow,
        release=release,
        family=family,
        image=image,
        image_from=source,
        quantisation=quantisation,
        dtype=_dtype(spec, model, cards, flow == "build_py" and quantisation != "none", reasons),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        gpus=tuple(card.index for card in cards),
        gpu_name=first.name,
        sm=first.sm,
        architecture="aarch64" if (hardware.architecture or "") in ("aarch64", "arm64") else "x86_64",
        max_batch=wanted.max_batch or spec.limits.concurrent,
        max_input=lengths[0],
        max_output=lengths[1],
        options=wanted,
    ), tuple(reasons)


# --- GPUs and their split -----------------------------------------------------------------------------------------


def _cards(spec: Spec, hardware: Hardware, reasons: list[Text]) -> tuple[gpu_names.Card, ...]:
    wanted = options(spec)
    if not hardware.gpus or spec.gpus == ():
        reasons += no_gpu(hardware)
        return ()
    chosen = spec.gpus
    if chosen is None:
        count = (wanted.tensor_parallel or 1) * wanted.pipeline_parallel
        there = tuple(gpu.index if gpu.index is not None else place for place, gpu in enumerate(hardware.gpus))
        if count > len(there):
            reasons.append(
                Text(
                    en=f"{count} GPUs are asked for (tensor x pipeline parallel); this machine has {len(there)}.",
                    zh=f"要求 {count} 块 GPU（张量并行 × 流水线并行），本机只有 {len(there)} 块。",
                )
            )
            count = len(there)
        chosen = there[:count]
    try:
        cards = gpu_names.cards(hardware, chosen)
    except BadInput as error:
        reasons.append(error.message if error.hint is None else error.message + error.hint)
        return ()
    if len({card.sm for card in cards}) > 1:
        listed = ", ".join(f"{card.name} (SM {card.capability})" for card in cards)
        reasons.append(
            Text(
                en=f"An engine is built for one kind of GPU, and these differ: {listed}.",
                zh=f"一个引擎只能用于同一种 GPU，所选各不相同：{listed}。",
            )
        )
    return cards


def _parallel(
    wanted: TensorRtLlmOptions, count: int, family: Family | None, model: Model, reasons: list[Text]
) -> tuple[int, int]:
    """(tensor, pipeline) parallel sizes; world size = their product = the number of GPUs."""
    pipeline = wanted.pipeline_parallel
    tensor = wanted.tensor_parallel or max(1, count // pipeline)
    if tensor * pipeline != count:
        reasons.append(
            Text(
                en=f"World size {count} (the GPUs chosen) is not tensor {tensor} x pipeline {pipeline}.",
                zh=f"进程总数 {count}（所选 GPU 数）不等于张量并行 {tensor} × 流水线并行 {pipeline}。",
            )
        )
    heads, kv = model.heads or tensor, model.kv_heads or tensor
    if heads % tensor or (kv % tensor and tensor % kv):
        reasons.append(
            Text(
                en=f"{model.heads} heads with {model.kv_heads} KV heads cannot be split over {tensor} GPUs.",
                zh=f"{model.heads} 个头、{model.kv_heads} 个 KV 头无法平分到 {tensor} 块 GPU。",
            )
        )
    if model.layers and model.layers % pipeline:
        reasons.append(
            Text(
                en=f"{model.layers} layers cannot be split into {pipeline} equal stages.",
                zh=f"{model.layers} 层无法平分为 {pipeline} 段流水线。",
            )
        )
    if family is not None and not family.pipeline and pipeline > 1:
        reasons.append(
            Text(
                en=f"The {family.types[0]} build script of this version splits over GPUs by tensors only.",
                zh=f"该版本的 {family.types[0]} 构建脚本只支持张量并行。",
            )
        )
    return tensor, pipeline


# --- release and flow ---------------------------------------------------------------------------------------------


def _release(
    spec: Spec, hardware: Hardware, model: Model, wanted: TensorRtLlmOptions, reasons: list[Text]
) -> Release | None:
    """The release that is asked for by tag, release or version; else the newest that this machine runs."""
    rows, named = list(versions.releases()), spec.image and _TAG.search(spec.image)
    asked = wanted.release or (named.group(1) if named else None)
    if wanted.prebuilt_image is not None or wanted.image_from == "build":
        rows = [row for row in rows if row.version == "0.5.0"]
    if wanted.flow == "llmapi":
        rows = [row for row in rows if row.llmapi]
    elif wanted.flow != "auto":
        rows = [row for row in rows if row.flow == wanted.flow]
    if wanted.version is not None:
        rows = [row for row in rows if row.version == wanted.version]
    if asked is not None:
        rows = [row for row in rows if row.release == asked]
    if spec.image is not None and not named and wanted.release is None and wanted.version is None:
        reasons.append(
            untold_image(
                spec.image,
                Text(
                    en="Name its TensorRT-LLM version in the settings of TensorRT-LLM.",
                    zh="请在 TensorRT-LLM 的设置中写明其版本。",
                ),
            )
        )
        return None
    if not rows:
        asked_for = ", ".join(
            str(part) for part in (asked, wanted.version, wanted.flow if wanted.flow != "auto" else None) if part
        )
        known = ", ".join(dict.fromkeys(row.version for row in versions.releases()))
        reasons.append(
            Text(
                en=f"Slipway drives no TensorRT-LLM release that is {asked_for}. It knows {known}.",
                zh=f"没有符合 {asked_for} 的 TensorRT-LLM 版本，支持的版本：{known}。",
            )
        )
        return None
    return _that_runs(rows, spec, hardware, model, reasons)


def _that_runs(
    rows: list[Release], spec: Spec, hardware: Hardware, model: Model, reasons: list[Text]
) -> Release | None:
    """Of these releases the recommended one, else the newest that runs; where none does, the newest, and why not."""
    try:
        advice = recommend(hardware, load_releases(), model, gpus=spec.gpus)
    except BadInput as error:
        reasons.append(error.message)
        return rows[-1]
    found = {row.release: advice.judgement(row.image_tag) for row in rows}
    suggested = advice.engines["tensorrt_llm"].recommended
    fits = [row for row in rows if _fits_family(row, model, options(spec))] or rows
    runs = [
        row
        for row in fits
        if (one := found[row.release]) is not None and one.verdict not in (Verdict.IMPOSSIBLE, Verdict.DOUBTFUL)
    ]
    for row in reversed(runs):
        if row.image_tag == suggested:
            return row
    if runs:
        native = [row for row in runs if (one := found[row.release]) and one.verdict is Verdict.NATIVE]
        return (native or runs)[-1]
    newest = fits[-1]
    one = found[newest.release]
    if one is not None and hardware.gpus:  # without a GPU that has been said, and no image would change it
        head = Text(en=f"{newest.image_tag} does not run here:", zh=f"{newest.image_tag} 无法在此运行：")
        reasons.extend(head + reason for reason in one.reasons)
    return newest


def _fits_family(row: Release, model: Model, wanted: TensorRtLlmOptions) -> bool:
    """Whether this release can build or load the model at all, so that the choice does not fall on one that cannot."""
    by_build = wanted.flow != "llmapi" and versions.family(model.model_type, row.version) is not None
    return by_build or (row.llmapi and wanted.flow in ("auto", "llmapi") and _known_to_llmapi(model, row))


def _known_to_llmapi(model: Model, row: Release) -> bool:
    since = versions.architectures("trtllm_llmapi").get(model.architecture)
    return since is not None and row.numbers >= versions.numbers(since or "0")


def _flow(spec: Spec, wanted: TensorRtLlmOptions, release: Release, model: Model, reasons: list[Text]) -> Flow:
    if wanted.engine_folder is not None and wanted.flow in ("auto", release.flow):
        return release.flow
    if wanted.flow == "auto":
        # The LLM API needs no engine build; quantising and V1 batching are the engine flow's.
        packs = wanted.quantisation not in (None, "none") or spec.precision in ("int8", "int4")
        plain = not packs and wanted.batching == "inflight" and wanted.front == "auto"
        return "llmapi" if release.llmapi and plain and _known_to_llmapi(model, release) else release.flow
    if wanted.flow == "llmapi" and not release.llmapi:
        reasons.append(
            Text(
                en=f"The LLM API of TensorRT-LLM {release.version} is not driven here; it is from 1.0 on.",
                zh=f"此处不驱动 TensorRT-LLM {release.version} 的 LLM API，1.0 及以上才支持。",
            )
        )
    elif wanted.flow != "llmapi" and wanted.flow != release.flow:
        reasons.append(
            Text(
                en=f"TensorRT-LLM {release.version} is built with {release.flow}, not {wanted.flow}.",
                zh=f"TensorRT-LLM {release.version} 使用 {release.flow}，不是 {wanted.flow}。",
            )
        )
    return wanted.flow


def _family(model: Model, release: Release, reasons: list[Text]) -> Family | None:
    family = versions.family(model.model_type, release.version)
    if family is None:
        known = dict.fromkeys(
            kind
            for row in versions.families()
            for kind in row.types
            if versions.family(kind, release.version) is not None
        )
        reasons.append(
            Text(
                en=f"Slipway builds no {model.model_type} engine with TensorRT-LLM {release.version}; "
                f"it builds {', '.join(known)}.",
                zh=f"无法用 TensorRT-LLM {release.version} 构建 {model.model_type} 引擎，可构建：{'、'.join(known)}。",
            )
        )
    return family


def _architecture(model: Model, release: Release, flow: Flow, inflight: bool, reasons: list[Text]) -> None:
    way = {"build_py": "trtllm_engine_0_5", "trtllm_build": "trtllm_engine", "llmapi": "trtllm_llmapi"}[flow]
    since = versions.architectures(way).get(model.architecture)
    if since is None:
        reasons.append(
            Text(
                en=f"This way of TensorRT-LLM does not know the architecture {model.architecture}.",
                zh=f"TensorRT-LLM 的这一方式不支持架构 {model.architecture}。",
            )
        )
    elif since and release.numbers < versions.numbers(since):
        reasons.append(
            Text(
                en=f"{model.architecture} came with TensorRT-LLM {since}; {release.image_tag} has {release.version}.",
                zh=f"{model.architecture} 自 TensorRT-LLM {since} 起支持，{release.image_tag} 为 {release.version}。",
            )
        )
    reasons += ropes.against(model, release, way, inflight)


# --- precision, lengths, batching ---------------------------------------------------------------------------------


def _dtype(spec: Spec, model: Model, cards: tuple[gpu_names.Card, ...], half: bool, reasons: list[Text]) -> str:
    """What activations and unpacked weights are in. bf16 needs SM 8.0: asked for by name it is refused below.

    `half`: the quantised builds of 0.5.0, whose converters write fp16 and whose plugins are set to fp16 whatever
    --dtype says (examples/llama/build.py; Qwen's build.py and weight.py).
    """
    if half:
        if spec.precision in ("bf16", "fp32"):
            en, zh = (
                "TensorRT-LLM 0.5.0 quantises with fp16 activations only.",
                "TensorRT-LLM 0.5.0 的量化只支持 fp16。",
            )
            reasons.append(Text(en=en, zh=zh))
        return "float16"
    if spec.precision in DTYPES:
        if spec.precision == "bf16" and (said := limits.precision("tensorrt_llm", "bf16", cards)):
            reasons.append(said)
        return DTYPES[spec.precision]
    fine = limits.precision("tensorrt_llm", "bf16", cards) is None
    return "bfloat16" if model.dtype == "bf16" and fine else "float16"


def _quantisation(
    spec: Spec,
    wanted: TensorRtLlmOptions,
    model: Model,
    family: Family | None,
    flow: Flow,
    cards: tuple[gpu_names.Card, ...],
    reasons: list[Text],
) -> Quantisation:
    by_precision: dict[str, Quantisation] = {"int8": "int8_weight_only", "int4": "int4_weight_only"}
    found = wanted.quantisation or by_precision.get(spec.precision, "none")
    if wanted.quantisation is None and model.quantisation == "gptq" and flow != "llmapi":
        found = "int4_gptq"
    rule = versions.quantised()[found]
    if flow == "llmapi":
        if found != "none":
            reasons.append(
                Text(
                    en=f"The LLM API does not quantise. Take a checkpoint that is quantised already, or the engine "
                    f"flow for {rule.label}.",
                    zh=f"LLM API 不做量化，请使用已量化的权重，或改用引擎方式进行 {rule.label}。",
                )
            )
        if model.quantisation not in (None, "fp8"):
            reasons.append(
                Text(
                    en=f"The LLM API does not read {model.quantisation} checkpoints here.",
                    zh=f"LLM API 不能读取 {model.quantisation} 量化权重。",
                )
            )
        return found
    if family is not None and found not in family.quantisations:
        offered = ", ".join(family.quantisations)
        reasons.append(
            Text(
                en=f"{rule.label} is not made for {model.model_type} by this version. Choose {offered}.",
                zh=f"该版本不支持 {model.model_type} 的 {rule.label}，可选 {offered}。",
            )
        )
    if rule.precision is not None and (said := limits.precision("tensorrt_llm", rule.precision, cards)):
        reasons.append(said)
    if rule.checkpoint != model.quantisation and (rule.checkpoint or model.quantisation):
        has, needs = model.quantisation or "plain", rule.checkpoint or "plain"
        reasons.append(
            Text(
                en=f"{rule.label} takes {needs} weights; this checkpoint's are {has}.",
                zh=f"{rule.label} 需要 {needs} 权重，该模型的权重为 {has}。",
            )
        )
    return found


def _lengths(spec: Spec, wanted: TensorRtLlmOptions, model: Model, reasons: list[Text]) -> tuple[int, int]:
    """(longest prompt, longest answer) in tokens. Together they must fit into the model's context."""
    output = wanted.max_output or spec.limits.new_tokens
    most = model.context
    if wanted.max_input is not None:
        longest = wanted.max_input
    elif spec.limits.context is not None:
        longest = spec.limits.context - output
    else:
        longest = _INPUT if most is None else min(_INPUT, most - output)
    if longest < 1:
        room = spec.limits.context or most or 0
        reasons.append(
            Text(
                en=f"Answers of {output:,} tokens leave no room for a prompt in a context of {room:,}. Allow fewer "
                "output tokens.",
                zh=f"上下文为 {room:,} 个 token，最大输出 {output:,} 没有给提示留下空间，请减小最大输出。",
            )
        )
        return 1, output
    if most is not None and longest + output > most:
        reasons.append(
            Text(
                en=f"{longest:,} + {output:,} tokens are more than the model's context of {most:,}.",
                zh=f"{longest:,} + {output:,} 个 token 超过模型上下文 {most:,}。",
            )
        )
    return longest, output


def _batching(wanted: TensorRtLlmOptions, release: Release, flow: Flow, reasons: list[Text]) -> None:
    for rule in versions.rules():
        if rule.batching == wanted.batching and release.numbers >= versions.numbers(rule.since):
            reasons.append(rule.words + same("."))
    if wanted.batching == "v1" and flow == "llmapi":
        reasons.append(Text(en="The LLM API batches in flight only.", zh="LLM API 只支持动态批处理。"))
    lacking = {"bls": flow == "llmapi" or release.version == "0.5.0", "ensemble": flow == "llmapi",
               "ids": release.version != "0.5.0"}  # fmt: skip
    if lacking.get(wanted.front):
        reasons.append(
            Text(
                en=f"This way ({flow}, {release.version}) is not asked through “{wanted.front}”.",
                zh=f"此方式（{flow}，{release.version}）不能通过“{wanted.front}”提问。",
            )
        )


def _image(spec: Spec, wanted: TensorRtLlmOptions, release: Release, family: Family | None) -> tuple[str, str]:
    """(image, how it gets here). Guide 002 builds its own; a prebuilt one or the month's image is pulled."""
    built = versions.built()
    if wanted.prebuilt_image is not None:
        return wanted.prebuilt_image, "prebuilt"
    by_guide = family is not None and family.repository == "qwen_examples" and spec.image is None
    if release.version == "0.5.0" and (
        wanted.image_from == "build" or (wanted.image_from == "auto" and by_guide and wanted.release is None)
    ):
        return built.tag, "build"
    if spec.own_image is not None:
        return spec.own_image, "pull"
    return f"{versions.repository('image')}:{release.image_tag}", "pull"
