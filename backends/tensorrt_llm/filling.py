"""A template folder's files filled: every placeholder by its list, the rest through Triton's own message. Pure.

The templates' text is upstream's and stays so; only what the list names is put in, and what cannot be read as a
ModelConfig afterwards, or still holds a placeholder, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Template
from typing import Any, Literal

from backends import pbtxt
from backends.errors import BadInput
from backends.spec import Frozen
from backends.tensorrt_llm import placeholders
from backends.tensorrt_llm.engine_config import EngineConfig
from backends.tensorrt_llm.placeholders import Value
from backends.text import Text

CORE = "tensorrt_llm"
_UNSET = "slipway-unset"
_TYPES = {"TYPE_FP32": "float32", "TYPE_FP16": "float16"}


class Wanted(Frozen):
    """What the filled repository must say. `values` by placeholder; the rest is written into the message itself.

    `max_batch` goes into every model. `tokenizer_edit`: ids for tokenizers that name no end token of their own.
    """

    version: str
    values: dict[str, Value] = {}
    max_batch: int
    decoupled: bool
    batching: Literal["inflight", "v1"] = "inflight"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    trust_remote_code: bool = False
    eos_id: int | None = None
    pad_id: int | None = None


class LlmApiSettings(Frozen):
    """What the LLM-API model is told: arguments of `LLM(...)`, and Triton's side of it."""

    arguments: dict[str, str | int | float | bool | dict[str, str | int | float | bool]]
    decoupled: bool = True


def fill(model: str, template: str, wanted: Wanted) -> Any:
    """The ModelConfig of one model of the repository, filled. `model` is its folder's name.

    Raises BadInput naming a placeholder that is not on the list, a value that cannot stand there, and what
    ModelConfig refuses.
    """
    known = placeholders.placeholders()
    spelled: dict[str, str] = {}
    for name in placeholders.in_text(template):
        row = known.get(name)
        if row is None:
            raise BadInput(
                name,
                Text(
                    en=f"{model}/config.pbtxt holds ${{{name}}}, which is not on the list for {wanted.version}.",
                    zh=f"{model}/config.pbtxt 含 ${{{name}}}，不在 {wanted.version} 的列表中。",
                ),
                Text(
                    en="The template is of another version than the image. Name the one that belongs to it.",
                    zh="模板与镜像版本不一致，请指定对应的版本。",
                ),
            )
        text = row.spelled(wanted.values.get(name))
        spelled[name] = _UNSET if text is None else text
    config = pbtxt.read(Template(template).safe_substitute(spelled))
    _settle(model, config, wanted)
    left = placeholders.in_text(str(config))
    if left:
        raise BadInput(
            left[0],
            Text(
                en=f"{model}/config.pbtxt still holds ${{{left[0]}}}.",
                zh=f"{model}/config.pbtxt 仍含 ${{{left[0]}}}。",
            ),
        )
    return config


def _settle(model: str, config: Any, wanted: Wanted) -> None:
    """What is no placeholder in every version: batch size, batching, streaming; and what is unset."""
    for key in [key for key, value in config.parameters.items() if value.string_value == _UNSET]:
        if model == CORE and config.backend != "python":
            del config.parameters[key]  # the C++ backend takes a missing parameter as not specified
        else:
            config.parameters[key].string_value = ""
    config.max_batch_size = wanted.max_batch
    names = [one.name for one in config.output]
    for place in reversed(range(len(names))):  # the ensemble of 0.19.0 says one of its outputs twice
        if names[place] in names[:place]:
            del config.output[place]
    for batching in [config.dynamic_batching] if config.HasField("dynamic_batching") else []:
        sizes = [min(size, wanted.max_batch) for size in batching.preferred_batch_size]
        del batching.preferred_batch_size[:]
        batching.preferred_batch_size.extend(dict.fromkeys(sizes))
    if model in (CORE, "tensorrt_llm_bls"):
        config.model_transaction_policy.decoupled = wanted.decoupled
    if model == CORE:
        batching_type = "inflight_fused_batching" if wanted.batching == "inflight" else "V1"
        config.parameters["gpt_model_type"].string_value = batching_type


def written(config: Any) -> str:
    """The text of a filled config, which reads back to the very same message."""
    text = pbtxt.text(config)
    if pbtxt.read(text) != config:
        raise ValueError("config.pbtxt does not survive its own text")
    return text


def check(configs: Mapping[str, Any], engine: EngineConfig, wanted: Wanted) -> tuple[Text, ...]:
    """Every disagreement of the filled repository with the engine and with itself. Empty: it fits."""
    problems = [*with_itself(configs, wanted), *with_engine(configs, engine, wanted)]
    return tuple(dict.fromkeys(problems))


def with_itself(configs: Mapping[str, Any], wanted: Wanted) -> list[Text]:
    """Where the models of the repository disagree with each other."""
    problems: list[Text] = []
    sizes = {name: config.max_batch_size for name, config in configs.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name} {size}" for name, size in sizes.items())
        problems.append(
            Text(
                en=f"max_batch_size must be the same in every model: {told}.",
                zh=f"各模型的 max_batch_size 必须相同：{told}。",
            )
        )
    for name in (CORE, "tensorrt_llm_bls"):
        if name in configs and configs[name].model_transaction_policy.decoupled != wanted.decoupled:
            problems.append(
                Text(
                    en=f"decoupled differs in {name}: streaming needs it in every model that generates.",
                    zh=f"{name} 的 decoupled 不一致，流式输出要求所有生成模型一致。",
                )
            )
    folders = {
        name: config.parameters["tokenizer_dir"].string_value
        for name, config in configs.items()
        if name in ("preprocessing", "postprocessing") and "tokenizer_dir" in config.parameters
    }
    if len(set(folders.values())) > 1 or any(not folder.startswith("/") for folder in folders.values()):
        told = ", ".join(f"{name} {folder or '–'}" for name, folder in folders.items())
        problems.append(
            Text(
                en=f"tokenizer_dir must be one absolute path inside the container: {told}.",
                zh=f"tokenizer_dir 必须是容器内的同一绝对路径：{told}。",
            )
        )
    return problems + _ensemble(configs)


def _ensemble(configs: Mapping[str, Any]) -> list[Text]:
    """Each step of the ensemble names a model that is there and tensors that it has."""
    problems: list[Text] = []
    if "ensemble" not in configs:
        return problems
    for step in configs["ensemble"].ensemble_scheduling.step:
        target = configs.get(step.model_name)
        if target is None:
            problems.append(
                Text(
                    en=f"The ensemble uses {step.model_name}, which is not in the repository.",
                    zh=f"ensemble 引用了仓库中不存在的 {step.model_name}。",
                )
            )
            continue
        there = {"input": {one.name for one in target.input}, "output": {one.name for one in target.output}}
        for kind, mapped in (("input", step.input_map), ("output", step.output_map)):
            problems += [
                Text(
                    en=f"The ensemble maps {kind} {name} of {step.model_name}, which has none of that name.",
                    zh=f"ensemble 引用了 {step.model_name} 不存在的张量 {name}。",
                )
                for name in sorted(set(mapped) - there[kind])
            ]
    return problems


def with_engine(configs: Mapping[str, Any], engine: EngineConfig, wanted: Wanted) -> list[Text]:
    """Where the repository disagrees with the engine that it names."""
    problems: list[Text] = []
    core = configs.get(CORE)
    if engine.max_batch and wanted.max_batch > engine.max_batch:
        problems.append(
            Text(
                en=f"The models take batches of {wanted.max_batch}; the engine was built for {engine.max_batch}.",
                zh=f"模型批大小为 {wanted.max_batch}，引擎构建时为 {engine.max_batch}。",
            )
        )
    if (engine.tensor_parallel, engine.pipeline_parallel) != (wanted.tensor_parallel, wanted.pipeline_parallel):
        have, want = (
            f"{engine.tensor_parallel} x {engine.pipeline_parallel}",
            f"{wanted.tensor_parallel} x {wanted.pipeline_parallel}",
        )
        problems.append(
            Text(
                en=f"The engine is split {have} (tensor x pipeline); {want} ranks would be started.",
                zh=f"引擎的切分为 {have}（张量 × 流水线），将启动的进程为 {want}。",
            )
        )
    if wanted.batching == "inflight" and not engine.inflight:
        problems.append(
            Text(
                en="In-flight batching needs an engine with the attention plugin, paged KV cache and no input padding.",
                zh="动态批处理要求引擎启用注意力插件、分页 KV 缓存并去除输入填充。",
            )
        )
    if core is None:
        return problems
    beams = core.parameters["max_beam_width"].string_value if "max_beam_width" in core.parameters else ""
    if beams.isdigit() and int(beams) > engine.max_beam:
        problems.append(
            Text(
                en=f"max_beam_width is {beams}; the engine was built for {engine.max_beam}.",
                zh=f"max_beam_width 为 {beams}，引擎构建时为 {engine.max_beam}。",
            )
        )
    tokens = wanted.values.get("max_tokens_in_paged_kv_cache")
    if isinstance(tokens, int) and engine.max_sequence:
        block = engine.tokens_per_block or 64
        least = -(-engine.max_sequence // block) * block * engine.max_beam
        if tokens < least:
            problems.append(
                Text(
                    en=f"The KV cache of {tokens:,} tokens holds no whole request; one may need {least:,}.",
                    zh=f"KV 缓存 {tokens:,} 个 token 放不下一个完整请求，最多需要 {least:,}。",
                )
            )
    for key, flag in (("enable_chunked_context", "chunked context"), ("enable_kv_cache_reuse", "KV cache reuse")):
        on = key in core.parameters and core.parameters[key].string_value.lower() in ("true", "1")
        if on and engine.paged_context is False:
            problems.append(
                Text(
                    en=f"{flag} needs an engine built with use_paged_context_fmha.",
                    zh=f"{flag} 要求引擎以 use_paged_context_fmha 构建。",
                )
            )
    logits = _TYPES.get(str(wanted.values.get("logits_datatype") or "TYPE_FP32"))
    if (
        engine.logits
        and engine.logits != logits
        and "logits_datatype" in {row.name for row in placeholders.of_version(wanted.version)}
    ):
        problems.append(
            Text(
                en=f"The engine gives logits in {engine.logits}, the models say {logits}.",
                zh=f"引擎的 logits 为 {engine.logits}，模型配置为 {logits}。",
            )
        )
    return problems
