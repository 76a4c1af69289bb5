"""Checks of models that FasterTransformer serves: parameters, split, instances, and the converted weights. Pure.

Rules as libfastertransformer.cc and memory_utils.cu have them; what those take in silence is an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from backends import pbtxt
from backends.lint.finding import Finding, error, warning
from backends.lint.reading import ModelFolder, Repository

_TYPES = ("GPT", "GPT-J", "GPT-NeoX", "T5", "T5-Encoder", "bert", "Llama")
_RANK = re.compile(r"\.(\d+)\.bin$")
_FOLDER = re.compile(r"^(\d+)-gpu$")


def check(repository: Repository) -> Iterator[Finding]:
    """Findings of every model with the backend "fastertransformer"."""
    for model in repository.models.values():
        if model.config is not None and model.config.backend == "fastertransformer":
            yield from _parameters(model)
            yield from _instances(model, model.config)
            yield from _checkpoint(repository, model)


def _parameters(model: ModelFolder) -> Iterator[Finding]:
    told = model.parameters
    for key in ("tensor_para_size", "pipeline_para_size"):
        if not told.get(key, "").isdigit() or int(told[key]) < 1:
            yield error(
                model.file,
                key,
                (f"It is “{told.get(key, '')}”, which counts as 0.", f"值为“{told.get(key, '')}”，会被当作 0。"),
                ("Write a number from 1 on.", "填写 1 及以上的数字。"),
            )
    if "data_type" in told and told["data_type"] not in ("fp16", "bf16", "fp32"):
        yield error(
            model.file,
            "data_type",
            (
                f"“{told['data_type']}” is no type: the server ends while loading.",
                f"“{told['data_type']}”不是有效类型，加载时服务会退出。",
            ),
            ("Write fp16, bf16 or fp32.", "可选 fp16、bf16、fp32。"),
        )
    if "data_type" not in told and "is_half" not in told:
        yield error(
            model.file,
            "data_type",
            ("Neither data_type nor is_half (older branches) is there.", "缺少 data_type，也没有旧分支的 is_half。"),
            ("Add data_type: fp16, bf16 or fp32.", "添加 data_type：fp16、bf16 或 fp32。"),
        )
    kind = told.get("model_type", "GPT")
    if kind not in _TYPES:
        near = next((name for name in _TYPES if name.lower() == kind.lower()), None)
        hint = f"Write {near}; case counts." if near else f"Known: {', '.join(_TYPES)}."
        hint_zh = f"应写作 {near}，区分大小写。" if near else f"可选：{'、'.join(_TYPES)}。"
        yield error(
            model.file,
            "model_type",
            (f"There is no model type “{kind}”.", f"没有模型类型“{kind}”。"),
            (hint, hint_zh),
        )
    yield from _int8(model, told, kind)
    if told.get("enable_custom_all_reduce") == "1" and told.get("tensor_para_size") != "8":
        yield warning(
            model.file,
            "enable_custom_all_reduce",
            ("It works with 8 ranks only; NCCL is used instead.", "只支持 8 路并行，否则改用 NCCL。"),
            ("Set it to 0.", "改为 0。"),
        )


def _int8(model: ModelFolder, told: Mapping[str, str], kind: str) -> Iterator[Finding]:
    mode = told.get("int8_mode")
    if mode is None:
        return
    if mode not in ("0", "1", "2"):
        yield error(
            model.file,
            "int8_mode",
            (f"“{mode}” is no mode.", f"“{mode}”不是有效的模式。"),
            ("Write 0 (off), 1 (weights only) or 2 (SmoothQuant).", "可选 0（关闭）、1（仅权重）、2（SmoothQuant）。"),
        )
    elif mode == "2" and kind not in ("GPT", "bert"):
        yield error(
            model.file,
            "int8_mode",
            (f"Mode 2 ends the server for {kind}.", f"{kind} 使用模式 2 会使服务退出。"),
            ("Write 1 for int8 weights.", "int8 权重请写 1。"),
        )
    elif mode == "1" and told.get("data_type") == "fp32":
        yield error(
            model.file,
            "int8_mode",
            ("int8 weights with fp32 end the server.", "int8 权重与 fp32 同用会使服务退出。"),
            ("Set data_type to fp16.", "将 data_type 改为 fp16。"),
        )


def _instances(model: ModelFolder, config: pbtxt.ModelConfig) -> Iterator[Finding]:
    groups = list(config.instance_group)
    kinds = config.instance_group[0].DESCRIPTOR.fields_by_name["kind"].enum_type.values_by_number if groups else {}
    if len(groups) != 1:
        yield error(
            model.file,
            "instance_group",
            (
                f"There are {len(groups)} groups; FasterTransformer takes exactly one.",
                f"有 {len(groups)} 个 instance_group，只能有一个。",
            ),
            ("Write one group: count 1, kind KIND_CPU.", "保留一个：count 1、kind KIND_CPU。"),
        )
    for group in groups:
        if kinds[group.kind].name != "KIND_CPU":
            yield error(
                model.file,
                "instance_group.kind",
                (
                    f"It is {kinds[group.kind].name}; FasterTransformer places its ranks itself.",
                    f"值为 {kinds[group.kind].name}；FasterTransformer 自行分配 GPU。",
                ),
                ("Write KIND_CPU.", "改为 KIND_CPU。"),
            )
    if config.HasField("sequence_batching") and config.max_batch_size != 1:
        yield error(
            model.file,
            "sequence_batching",
            ("It works with max_batch_size 1 only.", "只支持 max_batch_size 为 1。"),
            ("Set max_batch_size to 1, or remove it.", "将 max_batch_size 设为 1，或去掉该项。"),
        )


def _checkpoint(repository: Repository, model: ModelFolder) -> Iterator[Finding]:
    told = model.parameters
    path = told.get("model_checkpoint_path")
    if path is None or "${" in path:
        return
    if not path.startswith("/"):
        yield warning(
            model.file,
            "model_checkpoint_path",
            (f"“{path}” is relative to wherever the server is started.", f"“{path}”相对于启动服务时的目录。"),
            ("Name the folder by its whole path.", "请填写绝对路径。"),
        )
        return
    ranks = int(told["tensor_para_size"]) if told.get("tensor_para_size", "").isdigit() else 0
    named = _FOLDER.match(path.rstrip("/").rsplit("/", 1)[-1])
    if named and ranks and int(named.group(1)) != ranks:
        yield error(
            model.file,
            "tensor_para_size",
            (
                f"It is {ranks}, but the weights in {path} are split for {named.group(1)}.",
                f"值为 {ranks}，但 {path} 中的权重按 {named.group(1)} 路拆分。",
            ),
            (
                f"Set it to {named.group(1)}, or name the folder {ranks}-gpu.",
                f"改为 {named.group(1)}，或指向 {ranks}-gpu 目录。",
            ),
        )
    entries = repository.entries(path.rstrip("/"))
    if entries is None:
        yield error(
            model.file,
            "model_checkpoint_path",
            (f"{path} is not there.", f"{path} 不存在。"),
            (
                "Correct the path. If the server runs in a container, say what it sees: --mount FOLDER:PATH.",
                "修正路径。若服务在容器中运行，用 --mount 文件夹:路径 说明挂载。",
            ),
        )
        return
    yield from _weights(model, path, entries, ranks)


def _weights(model: ModelFolder, path: str, entries: Mapping[str, int], ranks: int) -> Iterator[Finding]:
    old = "is_half" in model.parameters and model.parameters.get("model_type") == "GPT-J"
    if "config.ini" not in entries and not old:
        yield error(
            model.file,
            "model_checkpoint_path",
            (
                f"{path} has no config.ini: the server ends while loading.",
                f"{path} 中没有 config.ini，加载时服务会退出。",
            ),
            (
                "Name the folder that the converter wrote, which ends in N-gpu.",
                "请指向转换脚本写出的、以 N-gpu 结尾的目录。",
            ),
        )
    files = [name for name in entries if name.endswith(".bin")]
    if not files:
        yield error(
            model.file,
            "model_checkpoint_path",
            (
                f"{path} holds no weights; the server starts all the same and answers nonsense.",
                f"{path} 中没有权重；服务照样启动，但输出乱码。",
            ),
            ("Convert the model into it.", "请先转换模型。"),
        )
        return
    empty = next((name for name in files if entries[name] == 0), None)
    if empty is not None:
        yield error(
            model.file,
            "model_checkpoint_path",
            (f"{empty} is empty.", f"{empty} 是空文件。"),
            ("Convert the model again.", "请重新转换模型。"),
        )
    found = {int(match.group(1)) for name in files if (match := _RANK.search(name))}
    if found and ranks and found != set(range(ranks)):
        yield error(
            model.file,
            "tensor_para_size",
            (
                f"It is {ranks}, the weight files are of {len(found)} ranks; the server starts all the same, answering "
                "nonsense.",
                f"值为 {ranks}，但权重文件为 {len(found)} 路；服务照样启动，但输出乱码。",
            ),
            (f"Set it to {len(found)}, or convert again for {ranks}.", f"改为 {len(found)}，或按 {ranks} 路重新转换。"),
        )
    if model.parameters.get("model_type") == "Llama" and "model.lm_head.weight.bin" not in entries:
        yield error(
            model.file,
            "model_checkpoint_path",
            (
                "model.lm_head.weight.bin is missing: the converter leaves it out of a model with tied embeddings.",
                "缺少 model.lm_head.weight.bin：输出层与词嵌入共享权重时，转换脚本会漏掉它。",
            ),
            ("Copy model.wte.weight.bin to that name.", "将 model.wte.weight.bin 复制为该文件名。"),
        )
