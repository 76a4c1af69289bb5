"""What the model repository asks for: config.pbtxt parameters, as one frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

DTYPES = ("auto", "fp32", "fp16", "bf16")


@dataclass(frozen=True)
class Settings:
    """Parameters of config.pbtxt. None: the engine chooses. Times in seconds, lengths in tokens."""

    model_dir: str
    dtype: str = "auto"
    device: str = "auto"
    max_rows: int | None = None
    max_context: int | None = None
    queue_limit: int = 64
    queue_timeout_s: float = 60.0
    max_new_tokens_cap: int | None = None
    cuda_graphs: bool = True
    trust_remote_code: bool = False
    allow_pickle: bool = False
    template: str = "auto"
    threads: int | None = None


def read(parameters: Mapping[str, str]) -> Settings:
    """Settings from the strings of config.pbtxt. Raises ValueError naming the parameter that is wrong or unknown."""
    unknown = sorted(parameters.keys() - Settings.__dataclass_fields__.keys())
    if unknown:
        raise ValueError(f"config.pbtxt names the unknown parameter '{unknown[0]}'")
    if not parameters.get("model_dir"):
        raise ValueError("config.pbtxt lacks the parameter model_dir, the folder of the model")
    return Settings(
        model_dir=parameters["model_dir"],
        dtype=_choice(parameters, "dtype", DTYPES),
        device=_device(parameters.get("device", "auto")),
        max_rows=_whole(parameters, "max_rows", 1),
        max_context=_whole(parameters, "max_context", 2),
        queue_limit=_or(_whole(parameters, "queue_limit", 0), 64),
        queue_timeout_s=float(parameters.get("queue_timeout_s") or 60),
        max_new_tokens_cap=_whole(parameters, "max_new_tokens_cap", 1),
        cuda_graphs=_choice(parameters, "cuda_graphs", ("auto", "off")) == "auto",
        trust_remote_code=_choice(parameters, "trust_remote_code", ("false", "true")) == "true",
        allow_pickle=_choice(parameters, "allow_pickle", ("false", "true")) == "true",
        template=_choice(parameters, "template", ("auto", "raw")),
        threads=_whole(parameters, "threads", 1),
    )


def _choice(parameters: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str:
    value = parameters.get(name) or allowed[0]
    if value not in allowed:
        raise ValueError(f"parameter {name} is '{value}'; it may be {', '.join(allowed)}")
    return value


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if value in ("", "auto"):
        return "auto"
    if value == "cpu" or (kind == "cuda" and (not index or index.isdecimal())):
        return value
    raise ValueError(f"parameter device is '{value}'; it may be auto, cpu, or cuda:N")


def _whole(parameters: Mapping[str, str], name: str, least: int) -> int | None:
    value = parameters.get(name) or "auto"
    if value == "auto":
        return None
    if not value.isdecimal() or int(value) < least:
        raise ValueError(f"parameter {name} is '{value}'; it must be a whole number, {least} or more, or auto")
    return int(value)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value
