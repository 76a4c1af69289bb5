"""How a model is served by TensorRT-LLM: why not, or the plan. Pure."""

from __future__ import annotations

from backends import consent, memory, recipe_words
from backends.fetching import fetch_model
from backends.fitting import changes_that_fit
from backends.guides import differences, guides
from backends.spec import Hardware, Limits, Model, Sources, Spec
from backends.steps import Plan, Step
from backends.tensorrt_llm import flow_05, flow_engine, flow_llmapi, formats, images, serve
from backends.tensorrt_llm.choices import Choice, choose
from backends.tensorrt_llm.deployment import Deployment
from backends.text import Text

_NAME = Text(en="TensorRT-LLM", zh="TensorRT-LLM ")


def why_not(spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]:
    """Every reason why TensorRT-LLM cannot serve the model there; empty: it can."""
    choice, reasons = choose(spec, hardware, model)
    found = [*_machine(spec, hardware, choice), *_weights(spec, model), *reasons]
    if choice is not None:
        found += _ending(spec, model, choice)
        found += _memory(spec, hardware, model, choice)
    return tuple(dict.fromkeys(found))


def recipe(spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan:  # noqa: ARG001  same for every engine
    """The plan: checkouts, image and layers, model, engine, model repository, server, a first answer."""
    choice, _ = choose(spec, hardware, model)
    if choice is None:
        raise ValueError("a plan is only made where why_not found no reason")
    deployment = Deployment(
        spec=spec, model=model, choice=choice, ram_mib=hardware.ram_total_mib, cpu_cores=hardware.cpu_cores
    )
    steps: list[Step] = [*images.sources(deployment), *images.images(deployment)]
    if model.source.kind == "huggingface":
        steps.append(fetch_model(model, deployment.model_folder))
    steps.append(images.tokenizer_check(deployment))
    if choice.flow == "llmapi":
        steps += flow_llmapi.repository(deployment)
    else:
        steps += flow_05.engine(deployment) if choice.flow == "build_py" else flow_engine.engine(deployment)
        steps += serve.repository(deployment)
    steps += [serve.service(deployment), serve.first_answer(deployment)]
    ids = tuple(step.id for step in steps)
    told: tuple[Text, ...] = ()
    if choice.flow == "build_py":  # both guides are of 0.5.0
        guide = guides("tensorrt_llm")["002" if model.model_type == "qwen" else "004"]
        told = differences(guide, ids)
    return Plan(spec=spec, steps=tuple(steps), notes=(*_notes(deployment, hardware), *told))


def _machine(spec: Spec, hardware: Hardware, choice: Choice | None) -> list[Text]:
    reasons = [*recipe_words.against_containers(spec, hardware, _NAME)]
    arm = hardware.architecture in ("aarch64", "arm64")
    if choice is not None and arm and choice.release.version == "0.5.0" and choice.image_from == "pull":
        reasons.append(
            Text(
                en="The 23.10 image is for x86-64; on aarch64 build the image from source (image_from: build).",
                zh="23.10 镜像只有 x86-64 版本，aarch64 请从源码构建（image_from: build）。",
            )
        )
    return reasons


def _weights(spec: Spec, model: Model) -> list[Text]:
    reasons: list[Text] = []
    reasons += consent.missing(spec, model)
    reasons += recipe_words.against_hub(model, _NAME)
    if model.encoder_decoder:
        reasons.append(
            Text(en="Slipway serves decoder-only models with TensorRT-LLM.", zh="TensorRT-LLM 方式只支持仅解码器模型。")
        )
    return reasons


def _ending(spec: Spec, model: Model, choice: Choice) -> list[Text]:
    """0.5.0 ends an answer by the id that the client sends and by nothing else: there must be one."""
    if choice.release.version != "0.5.0" or formats.ending(spec, model).end_id is not None:
        return []
    return [
        Text(
            en="No end token is known for this model, and TensorRT-LLM 0.5.0 ends answers by its id alone.",
            zh="未知该模型的结束 token，而 TensorRT-LLM 0.5.0 只靠它结束回答。",
        )
    ]


# --- memory -------------------------------------------------------------------------------------------------------


def effective(spec: Spec, choice: Choice) -> Spec:
    """The spec with what the choice came to, so that forecasts count the very engine that is built."""
    precision = choice.precision if choice.precision != "fp8" else "int8"
    limits = spec.limits.model_dump() | {
        "concurrent": min(choice.max_batch, 256),
        "context": max(16, choice.max_sequence),
        "new_tokens": choice.max_output,
    }
    return spec.model_copy(
        update={
            "engine": "tensorrt_llm",
            "gpus": choice.gpus,
            "precision": precision,
            "limits": Limits.model_validate(limits),
            "image": f"{spec.image or ''}:{choice.release.image_tag}" if spec.image is None else spec.image,
        }
    )


def _memory(spec: Spec, hardware: Hardware, model: Model, choice: Choice) -> list[Text]:
    """What surely does not fit: weights with one whole request, or with V1 batching every request at full length."""
    full = effective(spec, choice)
    least = full if choice.options.batching == "v1" else _one_request(full)
    forecast = memory.estimate(least, hardware, model)
    if forecast.verdict != "over":
        return []
    return [
        Text(
            en=f"GPU {place.index}: even {'at its smallest' if least is not full else 'as asked'} this needs "
            f"~{place.needed_mib / 1024:.1f} GiB; {(place.free_mib or 0) / 1024:.1f} GiB are free.",
            zh=f"GPU {place.index}：{'最少也' if least is not full else ''}需要约 {place.needed_mib / 1024:.1f} GiB，"
            f"可用 {(place.free_mib or 0) / 1024:.1f} GiB。",
        )
        for place in forecast.places
        if place.verdict == "over"
    ]


def _one_request(spec: Spec) -> Spec:
    return spec.model_copy(update={"limits": spec.limits.model_copy(update={"concurrent": 1})})


def trap(deployment: Deployment, hardware: Hardware) -> tuple[Text, ...]:
    """Where all requests at full length do not fit, seen before anything is built: the figures, and what would fit."""
    spec, model, choice = effective(deployment.spec, deployment.choice), deployment.model, deployment.choice
    forecast = memory.estimate(spec, hardware, model)
    if forecast.verdict != "over":
        return ()
    place = next(place for place in forecast.places if place.verdict == "over")
    parts = " + ".join(f"{memory.PARTS[part.kind].en.lower()} {part.mib / 1024:.1f}" for part in place.parts)
    parts_zh = " + ".join(f"{memory.PARTS[part.kind].zh} {part.mib / 1024:.1f}" for part in place.parts)
    said = Text(
        en=f"{choice.max_batch} requests of {choice.max_input:,} + {choice.max_output:,} tokens need "
        f"~{place.needed_mib / 1024:.1f} GiB on GPU {place.index} ({parts}); {(place.free_mib or 0) / 1024:.1f} are "
        "free. Requests beyond what the KV cache holds will wait.",
        zh=f"{choice.max_batch} 个 {choice.max_input:,} + {choice.max_output:,} token 的请求"
        f"在 GPU {place.index} 上需要约 "
        f"{place.needed_mib / 1024:.1f} GiB（{parts_zh}），可用 {(place.free_mib or 0) / 1024:.1f} GiB。"
        "超出 KV 缓存的请求会排队。",
    )
    fits = changes_that_fit(spec, hardware, model)
    if not fits:
        return (said,)
    ways = "; ".join(fit.text.en for fit in fits)
    ways_zh = "；".join(fit.text.zh for fit in fits)
    return (said + Text(en=f"What would fit: {ways}.", zh=f"可行的调整：{ways_zh}。"),)


# --- notes --------------------------------------------------------------------------------------------------------


def _notes(deployment: Deployment, hardware: Hardware) -> tuple[Text, ...]:
    spec, choice, notes = deployment.spec, deployment.choice, list(trap(deployment, hardware))
    notes += recipe_words.unusual(spec)
    if deployment.model.dtype == "bf16" and choice.dtype == "float16" and choice.sm < 80:
        notes.append(
            Text(
                en="The weights are bf16, which needs SM 8.0; fp16 is used instead.",
                zh="权重为 bf16，需要 SM 8.0，此处改用 fp16。",
            )
        )
    if choice.image_from == "prebuilt":
        notes.append(
            Text(
                en=f"The image {choice.image} was not built here: what runs in it is its maker's word.",
                zh=f"镜像 {choice.image} 并非在此构建，其内容取决于制作者。",
            )
        )
    if not choice.options.decoupled:
        notes.append(
            Text(
                en="Without decoupled mode answers come whole, not streamed.", zh="未启用 decoupled，回答不会流式返回。"
            )
        )
    if choice.release.inferred:
        notes.append(
            Text(
                en=f"Which TensorRT {choice.release.image_tag} holds is inferred; the image is looked into.",
                zh=f"{choice.release.image_tag} 的 TensorRT 版本为推断，运行时会检查镜像。",
            )
        )
    return tuple(notes)
