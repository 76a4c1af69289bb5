"""How a model is served by FasterTransformer: why not, or the plan. Pure."""

from __future__ import annotations

import re

from backends import recipe_words
from backends.fastertransformer import autotune, build, convert, serve
from backends.fastertransformer.deployment import Deployment, decide
from backends.fastertransformer.refusals import why_not
from backends.fetching import fetch_model
from backends.guides import differences, guides
from backends.spec import Hardware, Model, Sources, Spec
from backends.steps import Plan, Step
from backends.text import Text

__all__ = ["recipe", "why_not"]
_COMMIT = re.compile(r"[0-9a-f]{7,40}")


def recipe(spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan:  # noqa: ARG001  same for every engine
    """The plan: checkouts, image, weights, kernels, model repository, server, a first answer."""
    deployment = decide(spec, hardware, model)
    steps: list[Step] = [build.backend_source(deployment), *build.image(deployment)]
    if deployment.builds_tools:
        steps.append(build.library_source(deployment))
    if model.source.kind == "huggingface":
        converted = deployment.options.converted or deployment.options.slim_checkpoint
        steps.append(fetch_model(model, deployment.model_folder, weights=converted is None))
    if deployment.options.converted is None:
        if deployment.converter_step == "converter-source":
            steps.append(build.converter_source(deployment))
        steps += build.packages(deployment)
    steps += [*convert.conversion(deployment), convert.check(deployment), *_kernels(deployment)]
    steps += [*build.server_packages(deployment), serve.repository(deployment)]
    if deployment.kind.ensemble:
        steps.append(serve.tokenizer_check(deployment))
    steps += [serve.service(deployment), serve.first_answer(deployment)]
    ids = tuple(step.id for step in steps)
    named = deployment.profile.guide
    guide = guides("fastertransformer")[f"{named}-{deployment.family}" if named == "003" else named]
    notes = (*_notes(deployment), *differences(guide, ids))
    return Plan(spec=spec, steps=tuple(steps), notes=notes)


def _kernels(deployment: Deployment) -> tuple[Step, ...]:
    """Autotuning, with the tool built first where the image holds none."""
    if not deployment.autotune:
        return autotune.measuring(deployment)
    built = build.gemm_tools(deployment, autotune.tool_of(deployment)) if deployment.builds_tools else ()
    return (*built, *autotune.measuring(deployment))


def _notes(deployment: Deployment) -> tuple[Text, ...]:
    """What is unusual about this very deployment."""
    notes = [*recipe_words.unusual(deployment.spec)]
    notes.append(
        Text(
            en="FasterTransformer is no longer developed; TensorRT-LLM took its place for new models and GPUs.",
            zh="FasterTransformer 已停止开发，新模型与新 GPU 请用 TensorRT-LLM。",
        )
    )
    if deployment.family == "t5" and deployment.precision == "fp16":
        notes.append(
            Text(
                en="T5 in fp16 was asked for: its activations can leave that range, and answers then turn to nonsense.",
                zh="已按要求使用 fp16：T5 的激活值可能超出范围，输出会变成乱码。",
            )
        )
    if deployment.options.prebuilt_image is not None:
        notes.append(
            Text(
                en=f"The image {deployment.image} was not built here: what runs in it is its maker's word.",
                zh=f"镜像 {deployment.image} 并非在此构建，其内容取决于制作者。",
            )
        )
    else:
        notes.append(
            Text(
                en="Upstream's Dockerfile fetches the FasterTransformer that the server runs, from a branch that no "
                "longer moves; the library's revision here is that of converter and gemm tools.",
                zh="服务所用的 FasterTransformer 由上游 Dockerfile 自行获取，其分支已不再变动；"
                "此处的库版本只用于转换脚本与 gemm 工具。",
            )
        )
    moving = [one.revision for one in (deployment.backend, deployment.library) if not _COMMIT.fullmatch(one.revision)]
    if moving:
        notes.append(
            Text(
                en=f"{', '.join(dict.fromkeys(moving))} may move: what was fetched first is kept. A commit is certain.",
                zh=f"{'、'.join(dict.fromkeys(moving))} 可能变动，首次获取的内容会一直沿用；填写提交号更稳妥。",
            )
        )
    if deployment.decoupled and deployment.family == "llama":
        notes.append(
            Text(
                en="Answers come five tokens at a time, as this branch sends them (LLAMA_STREAM_CB_STEP).",
                zh="该分支每生成五个 token 发送一次响应（LLAMA_STREAM_CB_STEP）。",
            )
        )
    return tuple(notes)
