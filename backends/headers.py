"""Safetensors headers and JSON of strangers: bytes in, checked tensors and objects out. Pure.

The format: 8 bytes with the length of a JSON header, the header with dtype, shape and offsets of each tensor, the data
(https://huggingface.co/docs/safetensors). The header alone counts a model's parameters exactly.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from math import prod

from backends.errors import BadInput
from backends.spec import Frozen
from backends.text import Text

HEADER_LIMIT = 32 * 2**20  # bytes of one safetensors header; the largest seen are below 10 MiB

_DTYPES = {  # safetensors name: (our name, bytes)
    "F64": ("fp64", 8), "F32": ("fp32", 4), "F16": ("fp16", 2), "BF16": ("bf16", 2),
    "F8_E4M3": ("fp8", 1), "F8_E5M2": ("fp8", 1), "F8_E8M0": ("fp8", 1),
    "I64": ("int64", 8), "I32": ("int32", 4), "I16": ("int16", 2), "I8": ("int8", 1), "U8": ("int8", 1),
    "U16": ("int16", 2), "U32": ("int32", 4), "U64": ("int64", 8), "BOOL": ("bool", 1),
}  # fmt: skip
_FLOATS = {"fp64", "fp32", "fp16", "bf16", "fp8"}
_BUFFER = re.compile(r"(?:rotary_emb\.inv_freq|\.masked_bias|attention\.bias|attn\.bias|position_ids)$")


class Tensors(Frozen):
    """What the safetensors headers of one model add up to."""

    parameters: int
    dtype: str | None
    head_copies: int  # parameters of an output head that repeats the embeddings
    has_head: bool
    packed: bool  # whole-number tensors hold the weights: the count is not one of parameters


def parse_json(name: str, data: bytes) -> dict[str, object]:
    """A JSON object from the file `name`. Raises BadInput where it is anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        place = f"line {error.lineno}" if isinstance(error, json.JSONDecodeError) else "the text"
        raise BadInput(
            "model",
            Text(
                en=f"{name} is not valid JSON: {place} cannot be read.",
                zh=f"{name} 不是有效的 JSON：{place} 无法解析。",
            ),
            Text(en="Fetch the file again from where the model came from.", zh="从模型来源处重新取得该文件。"),
        ) from None
    if not isinstance(value, dict):
        raise BadInput(
            "model",
            Text(en=f"{name} holds no JSON object.", zh=f"{name} 的内容不是 JSON 对象。"),
            Text(en="Fetch the file again from where the model came from.", zh="从模型来源处重新取得该文件。"),
        )
    return value


def header_length(name: str, first: bytes, file_size: int | None) -> int:
    """Length in bytes of the JSON header that follows the 8 `first` bytes of a safetensors file.

    Raises BadInput where it is no safetensors file or is cut off.
    """
    length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
    if not 2 <= length <= HEADER_LIMIT or (file_size is not None and length + 8 > file_size):
        raise BadInput(
            "model",
            Text(en=f"{name} is not a safetensors file, or only its beginning is there.",
                 zh=f"{name} 不是 safetensors 文件，或文件不完整。"),
            Text(en="Download it again.", zh="请重新下载。"),
        )  # fmt: skip
    return int(length)


def read_header(name: str, header: bytes, data_size: int | None) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Tensors of one file: name to (dtype, shape). `data_size` is the size in bytes of what follows the header.

    Raises BadInput where the header is hostile or the file is cut off.
    """
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    end = 0
    for tensor, said in parse_json(name, header).items():
        if tensor == "__metadata__":
            continue
        try:
            dtype, shape, (start, stop) = said["dtype"], tuple(said["shape"]), said["data_offsets"]  # type: ignore[index]
            whole = all(type(number) is int and 0 <= number < 2**48 for number in (*shape, start, stop))
            known = dtype in _DTYPES
            fits = whole and (not known or stop - start == prod(shape) * _DTYPES[dtype][1])
        except (KeyError, TypeError, ValueError):
            fits = False
        if not fits:
            raise BadInput(
                "model",
                Text(en=f"The header of {name} describes a tensor wrongly.", zh=f"{name} 的文件头对张量的描述有误。"),
                Text(en="Download it again, or do not trust it.", zh="请重新下载，或不要信任该文件。"),
            )
        tensors[tensor] = (str(dtype), shape)
        end = max(end, stop)
    if data_size is not None and end > data_size:
        raise BadInput(
            "model",
            Text(
                en=f"{name} is cut off: {end - data_size} bytes are missing.",
                zh=f"{name} 不完整：缺少 {end - data_size} 字节。",
            ),
            Text(en="Download it again.", zh="请重新下载。"),
        )
    return tensors


def add_up(tensors: Mapping[str, tuple[str, tuple[int, ...]]], head: str = "lm_head.weight") -> Tensors:
    """The parameters of all tensors of a model. Buffers that some old checkpoints carry are not counted."""
    by_dtype: dict[str, int] = {}
    packed = 0
    for name, (dtype, shape) in tensors.items():
        ours = _DTYPES.get(dtype, (dtype, 0))[0]
        if ours not in _FLOATS:
            packed += prod(shape) if len(shape) > 1 and not _BUFFER.search(name) else 0
        elif not (_BUFFER.search(name) and len(shape) != 1) and not name.endswith("inv_freq"):
            by_dtype[ours] = by_dtype.get(ours, 0) + prod(shape)
    heads = [shape for name, (_, shape) in tensors.items() if name == head or name.endswith("." + head)]
    return Tensors(
        parameters=sum(by_dtype.values()),
        dtype=max(by_dtype, key=lambda dtype: by_dtype[dtype], default=None),
        head_copies=prod(heads[0]) if heads else 0,
        has_head=bool(heads),
        packed=packed > sum(by_dtype.values()) // 8,
    )
