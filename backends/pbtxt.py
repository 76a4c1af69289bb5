"""config.pbtxt by way of Triton's own message: what is not a ModelConfig cannot be written. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig

from backends.errors import BadInput
from backends.text import Text

__all__ = ["DATA_TYPES", "ModelConfig", "read", "text_of", "write"]

DATA_TYPES: dict[int, str] = {value: name for name, value in DataType.items()}  # number -> "TYPE_FP32"


def write(config: Mapping[str, Any]) -> str:
    """The text of a config.pbtxt. `config` has the field names of ModelConfig; parameters may be plain strings.

    Raises BadInput naming what ModelConfig does not know.
    """
    told = dict(config)
    parameters = told.pop("parameters", {})
    told["parameters"] = {key: {"string_value": str(value)} for key, value in parameters.items()}
    try:
        message = json_format.ParseDict(told, ModelConfig())
    except json_format.ParseError as error:
        raise _wrong(str(error)) from None
    return text_of(message)


def text_of(message: ModelConfig) -> str:
    """The text of a config.pbtxt that holds this message. A file that was read loses its comments."""
    return str(text_format.MessageToString(message, use_short_repeated_primitives=True))


def text(config: ModelConfig) -> str:
    """The text of a message that was read."""
    return str(text_format.MessageToString(config, use_short_repeated_primitives=True))


def read(text: str, name: str = "config.pbtxt") -> ModelConfig:
    """The message that a config.pbtxt holds. Raises BadInput with the file's name, line and column."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        raise _wrong(str(error), name) from None


def _wrong(what: str, name: str = "config.pbtxt") -> BadInput:
    return BadInput(name, Text(en=f"{name}: {what}.", zh=f"{name}：{what}。"))
