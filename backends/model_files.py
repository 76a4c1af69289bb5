"""From the files of a model, wherever they lie, to the facts of a Model. Weights are never loaded: headers are enough.

A shelf lends the files: a folder and a hub are shelves in `backends.probes.model`. What is refused is refused with its
way out; what is only unusual becomes a note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Protocol

from backends.errors import BadInput
from backends.families import family
from backends.headers import Tensors, add_up, header_length, parse_json, read_header
from backends.model_config import Shapes, read_config
from backends.spec import Model, ModelSource
from backends.text import Text
from backends.tokenizer_files import read_tokenizer

_KIB, _MIB = 2**10, 2**20
LIMITS = {  # bytes that a file may have to be read whole
    "config.json": _MIB,
    "generation_config.json": _MIB,
    "tokenizer_config.json": 16 * _MIB,
    "tokenizer.json": 64 * _MIB,
    "model.safetensors.index.json": 32 * _MIB,
    "pytorch_model.bin.index.json": 32 * _MIB,
}
_TEMPLATES = ("chat_template.jinja", "chat_template.json")
_LFS = b"version https://git-lfs"
_PICKLE = re.compile(r"pytorch_model.*\.bin|model.*\.(?:bin|pt|pth)|consolidated.*\.pth?")
_NOT_WEIGHTS = re.compile(r"adapter_|optimizer|scheduler|rng_state|training_args")
_OTHER = (".gguf", ".ggml", ".onnx", ".h5", ".msgpack", ".nemo", ".engine")
_MOST_HEADERS = 24  # more shards than this on a hub: the index or the hub's own count is enough


class Shelf(Protocol):
    """Lends the files of one model. Names are relative, without folders. Raises BadInput or Unreachable."""

    remote: bool
    parameters: int | None  # what the hub itself counted from the headers, if it says

    def sizes(self) -> Mapping[str, int | None]:
        """Every file and its size in bytes; None where the size is not told."""

    def read(self, name: str, limit: int) -> bytes:
        """The whole file. Raises BadInput where it is larger than `limit` bytes."""

    def part(self, name: str, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`."""


def describe(shelf: Shelf, source: ModelSource, defaults: Callable[[str], Mapping[str, object]] | None = None) -> Model:
    """The facts of the model on `shelf`. Raises BadInput for what is no model that could be served.

    `defaults(model_type)` gives what a config.json of that type may leave out; asked only where a size is missing.
    """
    sizes = shelf.sizes()
    if "config.json" not in sizes:
        raise _no_config(sizes)
    config = _json(shelf, "config.json")
    shapes = read_config(config)
    lacking = any(getattr(shapes, name) is None for name in ("layers", "hidden_size", "heads", "vocab_size"))
    if lacking and defaults is not None and "text_config" not in config:
        shapes = read_config({**defaults(shapes.model_type), **config})
    weights = _weight_files(shelf, sizes)
    notes = list(shapes.notes)
    tensors = _tensors(shelf, weights, sizes, shapes) if weights.kind == "safetensors" else None
    if weights.kind == "pickle":
        notes.append(
            Text(
                en="The weights are pickle files, which can run code when loaded. They are used only if you allow it.",
                zh="权重为 pickle 文件，加载时可能执行代码，仅在允许后使用。",
            )
        )
    said = _json(shelf, "tokenizer_config.json") if "tokenizer_config.json" in sizes else {}
    tokenizer_json = _tokenizer_json(shelf, sizes)
    generation = _json(shelf, "generation_config.json") if "generation_config.json" in sizes else {}
    tokenizer = read_tokenizer(config, generation, said, tokenizer_json, any(name in sizes for name in _TEMPLATES))
    facts = dict(shapes.facts)
    if isinstance(chat_format := generation.get("chat_format"), str):
        facts["chat_format"] = chat_format[:40]
    parameters, counted_from = _parameters(shelf, shapes, tensors, weights)
    tied = shapes.tied_embeddings
    if tensors is not None and not tensors.has_head and tied is False and family(shapes.model_type) is not None:
        notes.append(
            Text(
                en="config.json says that the output head is not tied, yet the weights hold none: it is tied.",
                zh="config.json 称输出层未与词嵌入共享，但权重中没有输出层，按共享处理。",
            )
        )
        tied = True
    if not tokenizer.chat_template:
        notes.append(Text(en="The tokenizer brings no chat template.", zh="分词器不带对话模板。"))
    if not tokenizer.eos_token_ids:
        notes.append(
            Text(
                en="No end-of-text token is named, so answers end by length only.",
                zh="未指定结束 token，回答只会因长度结束。",
            )
        )
    context = shapes.context
    longest = said.get("model_max_length")
    if context is None and type(longest) is int and 16 <= longest <= 10**7 and "context_trained" not in facts:
        context = longest
    dtype = tensors.dtype if tensors and tensors.dtype and not tensors.packed else shapes.dtype
    total = [size for name in weights.names if (size := sizes.get(name)) is not None]
    return Model(
        source=source,
        **shapes.model_dump(
            exclude={"counted", "notes", "facts", "context", "tied_embeddings", "dtype", "remote_code", "quantisation"}
        ),
        parameters=parameters,
        parameters_from=counted_from,
        context=context,
        dtype=dtype,
        quantisation=shapes.quantisation or ("modelopt" if "hf_quant_config.json" in sizes else None),
        tied_embeddings=tied,
        tokenizer=tokenizer,
        weight_format=weights.kind,
        weight_files=weights.names,
        weights_mib=-(-sum(total) // _MIB) if total else None,
        remote_code=shapes.remote_code or tokenizer.remote_code,
        facts=facts,
        notes=tuple(notes),
    )


# --- small files --------------------------------------------------------------------------------------------------


def _json(shelf: Shelf, name: str) -> dict[str, object]:
    data = shelf.read(name, LIMITS[name])
    if data.startswith(_LFS):
        raise _pointer(name)
    return parse_json(name, data)


def _tokenizer_json(shelf: Shelf, sizes: Mapping[str, int | None]) -> dict[str, object]:
    """tokenizer.json where it is near; over the net it is megabytes for two facts that the other files mostly have."""
    if "tokenizer.json" not in sizes or shelf.remote:
        return {}
    return _json(shelf, "tokenizer.json")


def _no_config(sizes: Mapping[str, int | None]) -> BadInput:
    if "adapter_config.json" in sizes:
        return BadInput(
            "model",
            Text(en="This is a LoRA adapter, not a whole model.", zh="这是 LoRA 适配器，不是完整模型。"),
            Text(
                en="Merge it into its base model first, then give that folder.",
                zh="先将其合并到基础模型，再选择合并后的文件夹。",
            ),
        )
    other = next((name for name in sorted(sizes) if name.endswith(_OTHER)), None)
    if other is not None:
        return BadInput(
            "model",
            Text(
                en=f"There is no config.json, only {other}, a format that Triton's engines here cannot read.",
                zh=f"没有 config.json，只有 {other}，此处的引擎无法读取该格式。",
            ),
            Text(
                en="Take the model's original form with config.json and safetensors.",
                zh="请使用带 config.json 与 safetensors 的原始模型。",
            ),
        )
    return BadInput(
        "model",
        Text(en="There is no config.json.", zh="没有 config.json。"),
        Text(
            en="Choose the folder that holds config.json and the weights.", zh="请选择包含 config.json 与权重的文件夹。"
        ),
    )


def _pointer(name: str) -> BadInput:
    return BadInput(
        "model",
        Text(
            en=f"{name} is a Git LFS pointer: the file itself was never fetched.",
            zh=f"{name} 是 Git LFS 指针，文件本身未下载。",
        ),
        Text(
            en="Run “git lfs install” and “git lfs pull” in that folder.",
            zh="在该文件夹运行 git lfs install 与 git lfs pull。",
        ),
    )


# --- weights ------------------------------------------------------------------------------------------------------


class _Weights:
    """The files that hold the weights, and what their index says of the bytes in all."""

    def __init__(self, kind: str, names: tuple[str, ...], index: Mapping[str, object] | None = None) -> None:
        self.kind = "safetensors" if kind == "safetensors" else "pickle"
        self.names = names
        told = index.get("metadata") if index else None
        self.total_bytes = told.get("total_size") if isinstance(told, dict) else None
        self.total_parameters = told.get("total_parameters") if isinstance(told, dict) else None


def _weight_files(shelf: Shelf, sizes: Mapping[str, int | None]) -> _Weights:
    """Which files hold the weights: the index's shards, one file, or the pickled form. Raises BadInput for none."""
    for kind, single in (("safetensors", "model.safetensors"), ("pickle", "pytorch_model.bin")):
        index_name = f"{single}.index.json"
        if index_name in sizes and single not in sizes:
            index = _json(shelf, index_name)
            return _Weights(kind, _shards(index_name, index, sizes), index)
        if single in sizes:
            names: tuple[str, ...] = (single,)
        elif kind == "safetensors":
            found = sorted(n for n in sizes if n.endswith(".safetensors") and not _NOT_WEIGHTS.search(n))
            names = tuple([n for n in found if not n.startswith("consolidated")] or found)
        else:
            names = tuple(sorted(n for n in sizes if _PICKLE.fullmatch(n) and not _NOT_WEIGHTS.search(n)))
        if names:
            for name in names:
                _refuse_pointer(shelf, name, sizes)
            return _Weights(kind, names)
    other = next((name for name in sorted(sizes) if name.endswith(_OTHER)), None)
    raise BadInput(
        "model",
        Text(en="There are no weights beside config.json.", zh="config.json 旁没有权重文件。")
        if other is None
        else Text(
            en=f"The only weights are {other}, a format that no engine here reads.",
            zh=f"只有 {other}，此处的引擎无法读取。",
        ),
        Text(en="Fetch the model's .safetensors files too.", zh="请同时下载模型的 .safetensors 文件。"),
    )


def _shards(index_name: str, index: Mapping[str, object], sizes: Mapping[str, int | None]) -> tuple[str, ...]:
    """The files that an index names, all there. Raises BadInput for names that lead elsewhere and for missing files."""
    weight_map = index.get("weight_map")
    named = set(weight_map.values()) if isinstance(weight_map, dict) and _all_text(weight_map) else set()
    if not named or any("/" in name or "\\" in name or name.startswith(".") for name in named):
        raise BadInput(
            "model",
            Text(en=f"{index_name} does not name the weight files properly.", zh=f"{index_name} 未正确列出权重文件。"),
            Text(en="Fetch it again from where the model came from.", zh="从模型来源处重新取得该文件。"),
        )
    missing = sorted(name for name in named if name not in sizes)
    if missing:
        first = missing[0] if len(missing) == 1 else f"{missing[0]} … {missing[-1]}"
        raise BadInput(
            "model",
            Text(
                en=f"{len(missing)} of {len(named)} weight files are missing: {first}.",
                zh=f"{len(named)} 个权重文件缺少 {len(missing)} 个：{first}。",
            ),
            Text(
                en="Fetch the missing files; the download may have stopped halfway.",
                zh="补齐缺失文件，下载可能中途停止。",
            ),
        )
    return tuple(sorted(named))


def _all_text(weight_map: Mapping[object, object]) -> bool:
    return all(isinstance(name, str) for name in weight_map.values())


def _refuse_pointer(shelf: Shelf, name: str, sizes: Mapping[str, int | None]) -> None:
    size = sizes.get(name)
    if not shelf.remote and size is not None and size < _KIB and shelf.part(name, 0, len(_LFS)) == _LFS:
        raise _pointer(name)


def _tensors(shelf: Shelf, weights: _Weights, sizes: Mapping[str, int | None], shapes: Shapes) -> Tensors | None:
    """All headers added up; None where reading them all over the net would take too long."""
    if shelf.remote and len(weights.names) > _MOST_HEADERS:
        return None
    kind = family(shapes.model_type)
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    for name in weights.names:
        _refuse_pointer(shelf, name, sizes)
        size = sizes.get(name)
        length = header_length(name, shelf.part(name, 0, 8), size)
        header = shelf.part(name, 8, length)
        found |= read_header(name, header, None if size is None else size - 8 - length)
    return add_up(found, kind.head if kind else "lm_head.weight")


def _parameters(
    shelf: Shelf, shapes: Shapes, tensors: Tensors | None, weights: _Weights
) -> tuple[int | None, str | None]:
    """How many parameters, and from where: headers, the hub's own count, the index, or the family's formula."""
    if tensors is not None and not tensors.packed and not _packs(shapes):
        copies = tensors.head_copies if shapes.tied_embeddings and not shapes.encoder_decoder else 0
        return tensors.parameters - copies, "headers"
    if shapes.counted is not None:
        return shapes.counted, "config"
    if _packs(shapes) or tensors is not None:
        return None, None
    if shelf.parameters:
        return shelf.parameters, "hub"
    width = {"fp32": 4, "fp16": 2, "bf16": 2}.get(shapes.dtype or "")
    if type(weights.total_parameters) is int and weights.total_parameters > 0:
        return weights.total_parameters, "index"
    if width and type(weights.total_bytes) is int and weights.total_bytes > 0:
        return weights.total_bytes // width, "index"
    return None, None


def _packs(shapes: Shapes) -> bool:
    """Whether the weights are packed so that their headers do not count parameters (fp8 keeps one value each)."""
    return shapes.quantisation is not None and shapes.quantisation != "fp8"
