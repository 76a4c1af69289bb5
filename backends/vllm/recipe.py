"""How a model is served by vLLM on Triton: why not, or the plan. Pure; its rules are assets/vllm/rules.toml."""

from __future__ import annotations

import json
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

from backends import consent, limits, memory, pbtxt, recipe_words
from backends import gpus as gpu_names
from backends.errors import BadInput
from backends.fetching import fetch_model, model_folder
from backends.images import Recommendation, Suggestion, recommend
from backends.releases import load as load_releases
from backends.spec import Frozen, Hardware, Model, Sources, Spec, VllmOptions
from backends.steps import Ask, Container, File, Forecast, Mount, Plan, PullImage, Service, Step, WriteFiles
from backends.tensorrt_llm import formats
from backends.tensorrt_llm.deployment import OFFLINE, QUIET
from backends.tensorrt_llm.versions import architectures
from backends.text import Text
from backends.verdicts import Verdict

_NAME = Text(en="vLLM", zh="vLLM ")
_RULES = Path(__file__).resolve().parents[2] / "assets" / "vllm" / "rules.toml"
_TAG = re.compile(r"(?:^|[:/])(\d\d\.\d\d)-vllm-python-py3$")
_CHECKPOINTS = ("gptq", "awq", "fp8", "bitsandbytes", "compressed-tensors", "modelopt", "mxfp4")
_REPOSITORY = "{run}/repository"
_DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}


class Choice(Frozen):
    """One deployment, fully decided. Lengths in tokens."""

    release: str
    image: str
    gpus: tuple[int, ...]
    tensor_parallel: int
    pipeline_parallel: int
    dtype: str  # auto, float16, bfloat16, float32
    context: int
    options: VllmOptions


@cache
def rules() -> dict[str, Any]:
    """assets/vllm/rules.toml."""
    return tomllib.loads(_RULES.read_text(encoding="utf-8"))


def why_not(spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]:
    """Every reason why vLLM cannot serve the model there; empty: it can."""
    choice, reasons = choose(spec, hardware, model)
    found = [*recipe_words.against_containers(spec, hardware, _NAME), *_weights(spec, model), *reasons]
    found += recipe_words.against_length(spec, model)
    if choice is not None:
        found += _memory(spec, hardware, model, choice)
    return tuple(dict.fromkeys(found))


def recipe(spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan:  # noqa: ARG001  same for every engine
    """The plan: image, model, model repository, server, a first answer."""
    choice, _ = choose(spec, hardware, model)
    if choice is None:
        raise ValueError("a plan is only made where why_not found no reason")
    steps: list[Step] = [
        PullImage(
            id="image",
            title=Text(en="Pull the image", zh="拉取镜像"),
            why=Text(en="It holds Triton with its vLLM backend.", zh="其中包含 Triton 及其 vLLM 后端。"),
            image=choice.image,
            forecast=Forecast(seconds=700, download_mib=11_000, disk_mib=24_576),
            shared=True,
        )
    ]
    if model.source.kind == "huggingface":
        steps.append(fetch_model(model, model_folder(model)))
    steps += [_repository(spec, model, choice), _service(model, choice), _first_answer(spec, model, choice)]
    return Plan(spec=spec, steps=tuple(steps), notes=_notes(spec, hardware, model, choice))


# --- the choice ---------------------------------------------------------------------------------------------------


def choose(spec: Spec, hardware: Hardware, model: Model) -> tuple[Choice | None, tuple[Text, ...]]:
    """The choice, and every reason against it."""
    wanted, reasons = spec.vllm or VllmOptions(), list[Text]()
    cards = _cards(spec, hardware, wanted, reasons)
    release = _release(spec, hardware, model, wanted, reasons)
    if release is None or not cards:
        return None, tuple(reasons)
    tensor, pipeline = _split(wanted, len(cards), model, reasons)
    for precision in (spec.precision, "fp8" if model.quantisation == "fp8" else "auto"):
        if precision != "auto" and (said := limits.precision("vllm", precision, cards)):
            reasons.append(said)
    for card in {card.sm: card for card in cards}.values():
        standing, words = limits.standing("vllm", card.sm, None)
        if standing == "refused" and words is not None:
            reasons.append(words + Text(en=f"({card.name}).", zh=f"（{card.name}）。"))
    return Choice(
        release=release,
        image=spec.own_image or f"{rules()['image']}:{release}-{rules()['variant']}",
        gpus=tuple(card.index for card in cards),
        tensor_parallel=tensor,
        pipeline_parallel=pipeline,
        dtype=_DTYPES.get(spec.precision, "auto"),
        context=memory.context_of(spec, model),
        options=wanted,
    ), tuple(reasons)


def _cards(spec: Spec, hardware: Hardware, wanted: VllmOptions, reasons: list[Text]) -> tuple[gpu_names.Card, ...]:
    if not hardware.gpus or spec.gpus == ():
        reasons += recipe_words.no_gpu(hardware)
        return ()
    count = (wanted.tensor_parallel or 1) * wanted.pipeline_parallel
    there = tuple(gpu.index if gpu.index is not None else place for place, gpu in enumerate(hardware.gpus))
    try:
        return gpu_names.cards(hardware, spec.gpus or there[:count])
    except BadInput as error:
        reasons.append(error.message if error.hint is None else error.message + error.hint)
        return ()


def _split(wanted: VllmOptions, count: int, model: Model, reasons: list[Text]) -> tuple[int, int]:
    pipeline = wanted.pipeline_parallel
    tensor = wanted.tensor_parallel or max(1, count // pipeline)
    if tensor * pipeline != count:
        reasons.append(
            Text(
                en=f"{count} GPUs are not tensor {tensor} x pipeline {pipeline}.",
                zh=f"GPU 数 {count} 不等于张量并行 {tensor} × 流水线并行 {pipeline}。",
            )
        )
    if model.heads and model.heads % tensor:
        reasons.append(
            Text(
                en=f"{model.heads} heads cannot be split over {tensor} GPUs.",
                zh=f"{model.heads} 个头无法平分到 {tensor} 块 GPU。",
            )
        )
    return tensor, pipeline


def _release(spec: Spec, hardware: Hardware, model: Model, wanted: VllmOptions, reasons: list[Text]) -> str | None:
    """The release that is asked for, else the one recommended for this machine."""
    table, named = load_releases(), spec.image and _TAG.search(spec.image)
    known = {image.release for image in table.of("vllm-python-py3")}
    asked = wanted.release or (named.group(1) if named else None)
    if asked is None and spec.image is not None:
        reasons.append(
            recipe_words.untold_image(
                spec.image,
                Text(
                    en="Name its Triton release in the settings of vLLM.",
                    zh="请在 vLLM 的设置中写明其 Triton 版本。",
                ),
            )
        )
        return None
    if asked is not None and (asked not in known or asked < rules()["since"]):
        reasons.append(
            Text(
                en=f"Slipway drives vLLM images from {rules()['since']} on; {asked} is not one of them.",
                zh=f"支持 {rules()['since']} 及以后的 vLLM 镜像，不含 {asked}。",
            )
        )
        return None
    if not hardware.gpus:  # that has been said, and no image would change it
        return asked
    try:
        advice = recommend(hardware, table, model, gpus=spec.gpus)
    except BadInput as error:
        reasons.append(error.message)
        return asked
    if asked is None:
        suggestion = advice.engines["vllm"]
        if suggestion.recommended is not None and suggestion.recommended[:5] >= rules()["since"]:
            return suggestion.recommended[:5]
        return _oldest_driven(advice, suggestion, reasons)
    one = advice.judgement(f"{asked}-{rules()['variant']}")
    if one is not None and one.verdict is Verdict.IMPOSSIBLE:
        reasons.extend(one.reasons)
    return asked


def _oldest_driven(advice: Recommendation, suggestion: Suggestion, reasons: list[Text]) -> str | None:
    """The release to take where the recommended one is older than what is driven: that with the smallest step up."""
    driven = [one for one in advice.judgements["vllm-python-py3"] if one.image.release >= rules()["since"]]
    runs = [one for one in driven if one.verdict in (Verdict.NATIVE, Verdict.FORWARD, Verdict.MINOR)]
    if not runs:
        reasons.extend(suggestion.why_not or (driven[0].reasons if driven else (suggestion.reason,)))
        return None
    least = min(one.image.branch for one in runs)
    return [one for one in runs if one.image.branch == least][-1].image.release


# --- reasons ------------------------------------------------------------------------------------------------------


def _weights(spec: Spec, model: Model) -> list[Text]:
    reasons: list[Text] = []
    if model.architecture not in architectures("vllm"):
        reasons.append(
            Text(
                en=f"vLLM does not know the architecture {model.architecture}.",
                zh=f"vLLM 不支持架构 {model.architecture}。",
            )
        )
    if model.quantisation is not None and model.quantisation not in _CHECKPOINTS:
        reasons.append(
            Text(
                en=f"vLLM does not read {model.quantisation} checkpoints.",
                zh=f"vLLM 不能读取 {model.quantisation} 权重。",
            )
        )
    if spec.precision in ("int8", "int4"):
        reasons.append(
            Text(
                en=f"vLLM does not quantise to {spec.precision} by itself. Take a GPTQ or AWQ checkpoint.",
                zh=f"vLLM 不会自行量化到 {spec.precision}，请使用 GPTQ 或 AWQ 权重。",
            )
        )
    reasons += consent.missing(spec, model)
    reasons += recipe_words.against_hub(model, _NAME)
    return reasons


def _memory(spec: Spec, hardware: Hardware, model: Model, choice: Choice) -> list[Text]:
    """vLLM fills what is free with KV cache, so only the weights with one whole request must fit."""
    one = spec.limits.model_copy(update={"concurrent": 1})
    forecast = memory.estimate(
        spec.model_copy(update={"engine": "vllm", "gpus": choice.gpus, "limits": one}), hardware, model
    )
    return [
        Text(
            en=f"GPU {place.index}: weights and one whole request need ~{place.needed_mib / 1024:.1f} GiB; "
            f"{(place.free_mib or 0) / 1024:.1f} GiB are free.",
            zh=f"GPU {place.index}：权重与一个完整请求需要约 {place.needed_mib / 1024:.1f} GiB，"
            f"可用 {(place.free_mib or 0) / 1024:.1f} GiB。",
        )
        for place in forecast.places
        if place.verdict == "over"
    ]


# --- steps --------------------------------------------------------------------------------------------------------


def _repository(spec: Spec, model: Model, choice: Choice) -> WriteFiles:
    name = rules()["model"]
    arguments: dict[str, str | int | float | bool] = {
        "model": model_folder(model),
        "dtype": choice.dtype,
        "max_model_len": choice.context,
        "max_num_seqs": spec.limits.concurrent,
        "gpu_memory_utilization": choice.options.memory_fraction or 0.9,
        "tensor_parallel_size": choice.tensor_parallel,
        "pipeline_parallel_size": choice.pipeline_parallel,
        "enforce_eager": choice.options.eager,
        "trust_remote_code": spec.trust_remote_code,
    }
    config = {"name": name, "backend": "vllm", "instance_group": [{"kind": "KIND_MODEL", "count": 1}]}
    return WriteFiles(
        id="repository",
        title=Text(en="Write the model repository", zh="写入模型仓库"),
        why=Text(
            en="Its inputs and outputs are completed by the backend itself, as it knows them best.",
            zh="输入与输出由后端自行补全，以其版本为准。",
        ),
        folder=_REPOSITORY,
        files=(
            File(path=f"{name}/config.pbtxt", text=pbtxt.write(config)),
            File(path=f"{name}/1/model.json", text=json.dumps(arguments, indent=2) + "\n"),
        ),
        outputs=(f"{_REPOSITORY}/{name}/config.pbtxt",),
    )


def _service(model: Model, choice: Choice) -> Service:
    folder = model_folder(model)
    return Service(
        id="serve",
        title=Text(en="Start Triton", zh="启动 Triton"),
        argv=(
            "/opt/tritonserver/bin/tritonserver",
            f"--model-repository={_REPOSITORY}",
            "--model-control-mode=none",
            "--http-port={port.http}",
            "--grpc-port={port.grpc}",
            "--metrics-port={port.metrics}",
            "--exit-timeout-secs=10",
        ),
        env=QUIET | OFFLINE | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"},
        container=Container(
            image=choice.image,
            mounts=tuple(Mount(source=path, path=path, read_only=True) for path in (_REPOSITORY, folder)),
            gpus=choice.gpus,
            shm_mib=4096 if len(choice.gpus) > 1 else 2048,
            ulimits={"memlock": -1, "stack": 67_108_864},
        ),
        model=rules()["model"],
        needs=("image", "repository", *(("model",) if model.source.kind == "huggingface" else ())),
        forecast=Forecast(seconds=120),
        stall_s=900.0,
    )


def _first_answer(spec: Spec, model: Model, choice: Choice) -> Ask:
    return Ask(
        id="first-answer",
        title=Text(en="Ask for a first answer", zh="请求首个回答"),
        why=Text(
            en="A server counts as ready when a real streamed answer has come back, not when its port is open.",
            zh="只有真正收到流式回答才算就绪，端口打开不算。",
        ),
        engine="vllm",
        model=rules()["model"],
        chat=recipe_words.first_question(formats.format_of(spec, model) != "raw", spec.limits.new_tokens),
        talk={
            "template": formats.format_of(spec, model),
            "tokenizer": model_folder(model),
            "family": model.model_type,
            "new_tokens": str(spec.limits.new_tokens),
            "tells": str(choice.release >= rules()["told_since"]).lower(),
            "bans": str(choice.release >= rules()["bans_since"]).lower(),
        },
        needs=("serve",),
        forecast=Forecast(seconds=5),
    )


def _notes(spec: Spec, hardware: Hardware, model: Model, choice: Choice) -> tuple[Text, ...]:
    notes = [*recipe_words.unusual(spec)]
    share = choice.options.memory_fraction or 0.9
    notes.append(
        Text(
            en=f"vLLM takes {share:.0%} of each GPU's memory for itself, whatever the model needs.",
            zh=f"vLLM 会占用每块 GPU {share:.0%} 的显存，与模型实际所需无关。",
        )
    )
    full = memory.estimate(spec.model_copy(update={"engine": "vllm", "gpus": choice.gpus}), hardware, model)
    if full.verdict == "over":
        notes.append(
            Text(
                en=f"{spec.limits.concurrent} chats at full length do not fit together; some will wait.",
                zh=f"{spec.limits.concurrent} 个满长度对话无法同时放下，部分会排队。",
            )
        )
    return tuple(notes)
