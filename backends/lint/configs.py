"""Checks of one model alone: that config.pbtxt parses and fits its folder, tensors, instances, batching. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from backends import pbtxt
from backends.lint.finding import Finding, error, warning
from backends.lint.reading import ModelFolder, Repository

_LEFTOVER = re.compile(r"\$\{[^}\n]*\}?")
_FILES = {  # backend or platform: the file that a version folder must hold (Triton's model repository documentation)
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "onnxruntime_onnx": "model.onnx",
    "tensorrt": "model.plan",
    "tensorrt_plan": "model.plan",
    "pytorch": "model.pt",
    "pytorch_libtorch": "model.pt",
    "vllm": "model.json",
    "openvino": "model.xml",
}
_NONE = "TYPE_INVALID"


def check(repository: Repository) -> Iterator[Finding]:
    """Findings of each model by itself."""
    if not repository.models:
        yield error(
            ".",
            None,
            ("There is no model here.", "此处没有模型。"),
            (
                "Name the folder above the models, not a model's own.",
                "请指定模型文件夹的上一级，而不是某个模型自己的文件夹。",
            ),
        )
    if "config.pbtxt" in repository.strays:
        yield error(
            "config.pbtxt",
            None,
            ("This is one model's folder, not a repository.", "这是单个模型的文件夹，不是模型仓库。"),
            ("Name the folder above it.", "请指定它的上一级文件夹。"),
        )
    for model in repository.models.values():
        yield from _leftovers(model)
        yield from _config(model)


def _leftovers(model: ModelFolder) -> Iterator[Finding]:
    for number, line in enumerate((model.text or "").splitlines(), 1):
        for found in _LEFTOVER.findall(line.split("#", 1)[0]):
            yield error(
                model.file,
                None,
                (f"The template's {found} was not filled in.", f"模板变量 {found} 没有填写。"),
                (
                    "Put the value in, or remove the whole parameter where it is optional.",
                    "填入数值；若为可选项，删除整个参数。",
                ),
                number,
            )


def _config(model: ModelFolder) -> Iterator[Finding]:
    if model.text is None:
        yield error(
            model.file,
            None,
            ("There is no config.pbtxt.", "缺少 config.pbtxt。"),
            ("Write one, or move the folder out of the repository.", "请编写该文件，或将此文件夹移出仓库。"),
        )
        return
    if model.config is None:
        line, words = model.trouble or (None, "it cannot be read")
        yield error(
            model.file,
            None,
            (f"It does not parse: {words}", f"无法解析：{words}"),
            (
                "Mend that line; names and types are those of Triton's model configuration.",
                "修正该行；字段与类型须符合 Triton 模型配置。",
            ),
            line,
        )
        return
    config = model.config
    if config.name and config.name != model.name:
        yield error(
            model.file,
            "name",
            (
                f"The name is “{config.name}”, the folder's is “{model.name}”; Triton wants them alike.",
                f"名称为“{config.name}”，文件夹为“{model.name}”，二者必须一致。",
            ),
            ("Remove the field, or rename the folder.", "删除该字段，或重命名文件夹。"),
        )
    yield from _versions(model, config)
    yield from _tensors(model, config)
    yield from _batching(model, config)
    yield from _duplicates(model)


def _versions(model: ModelFolder, config: pbtxt.ModelConfig) -> Iterator[Finding]:
    if not model.versions:
        yield error(
            model.name,
            None,
            ("There is no version folder.", "没有版本文件夹。"),
            (
                f"Make {model.name}/1; it may be empty for an ensemble. git keeps no empty folders.",
                f"创建 {model.name}/1，ensemble 的可以为空。git 不保存空文件夹。",
            ),
        )
        return
    backend = config.backend or config.platform
    needed = config.default_model_filename or _FILES.get(backend)
    if backend not in _FILES or needed is None:
        return
    newest = max(model.versions, key=int)
    if needed not in model.versions[newest]:
        yield error(
            f"{model.name}/{newest}",
            "default_model_filename",
            (f"The {backend} backend needs {needed}, which is not there.", f"{backend} 后端需要 {needed}，但不存在。"),
            (f"Put {needed} into {model.name}/{newest}.", f"将 {needed} 放入 {model.name}/{newest}。"),
        )


def _tensors(model: ModelFolder, config: pbtxt.ModelConfig) -> Iterator[Finding]:
    for side in ("input", "output"):
        names: set[str] = set()
        for tensor in getattr(config, side):
            at = f"{side}.{tensor.name or '?'}"
            if tensor.name in names:
                yield error(
                    model.file, at, ("The name is there twice.", "名称重复。"), ("Keep one of them.", "只保留一个。")
                )
            names.add(tensor.name)
            if pbtxt.DATA_TYPES.get(tensor.data_type) == _NONE:
                yield error(
                    model.file,
                    at,
                    ("It has no data type.", "缺少数据类型。"),
                    ("Add data_type, such as TYPE_FP32.", "添加 data_type，例如 TYPE_FP32。"),
                )
            if not tensor.dims:
                yield error(
                    model.file,
                    at,
                    ("It has no dims.", "缺少 dims。"),
                    (
                        "Add dims; -1 stands for a size that varies, the batch is not among them.",
                        "添加 dims；-1 表示可变，不含批维度。",
                    ),
                )
            elif any(size == 0 or size < -1 for size in tensor.dims):
                yield error(
                    model.file,
                    at,
                    (
                        f"A size of {list(tensor.dims)} is neither positive nor -1.",
                        f"{list(tensor.dims)} 中有既非正数也非 -1 的值。",
                    ),
                    ("Write the size, or -1 where it varies.", "填写大小，可变时写 -1。"),
                )


def _batching(model: ModelFolder, config: pbtxt.ModelConfig) -> Iterator[Finding]:
    if config.max_batch_size < 0:
        yield error(
            model.file,
            "max_batch_size",
            (f"It is {config.max_batch_size}.", f"值为 {config.max_batch_size}。"),
            ("Write 0 for a model without batches, else 1 or more.", "不分批写 0，否则写 1 及以上。"),
        )
    if config.HasField("dynamic_batching") and config.max_batch_size == 0:
        yield error(
            model.file,
            "dynamic_batching",
            ("Requests cannot be batched while max_batch_size is 0.", "max_batch_size 为 0 时无法合并请求。"),
            ("Set max_batch_size, or remove dynamic_batching.", "设置 max_batch_size，或去掉 dynamic_batching。"),
        )
    late = config.backend in ("tensorrtllm", "vllm")  # these backends came with 23.10
    if config.HasField("dynamic_batching") and config.model_transaction_policy.decoupled and not late:
        yield warning(
            model.file,
            "dynamic_batching",
            (
                "It has no effect on a decoupled model before Triton 23.04: requests wait for each other.",
                "在 23.04 之前的 Triton 中对流式（decoupled）模型不起作用，请求会相互等待。",
            ),
            ("Remove it, or take a newer release.", "去掉该项，或使用更新的版本。"),
        )


def _duplicates(model: ModelFolder) -> Iterator[Finding]:
    keys = re.findall(r'^\s*key\s*:\s*"([^"]+)"', _parameters_text(model.text or ""), re.MULTILINE)
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        yield warning(
            model.file,
            key,
            (
                f"The parameter “{key}” is there {keys.count(key)} times; the last one counts.",
                f"参数“{key}”出现 {keys.count(key)} 次，以最后一次为准。",
            ),
            ("Keep the one that is meant.", "只保留需要的一个。"),
        )


def _parameters_text(text: str) -> str:
    """Only the `parameters { … }` blocks, since keys of ensembles' maps may repeat."""
    return "\n".join(re.findall(r"^parameters\s*:?\s*[{\[].*?^[}\]]", text, re.MULTILINE | re.DOTALL))
