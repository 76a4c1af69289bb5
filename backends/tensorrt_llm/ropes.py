"""How positions turn: what a version's builder must be told of it, and what it does not know. Pure.

examples/llama/build.py of 0.5.0 reads the sizes from config.json, but never rope_theta or rope_scaling. Later
converters read both; which kinds they know is in assets/engine_paths.toml.
"""

from __future__ import annotations

from backends.spec import Model
from backends.tensorrt_llm import versions
from backends.tensorrt_llm.versions import Release
from backends.text import Text

_BASE = 10_000.0  # where nobody says


def told(model: Model) -> list[str]:
    """What 0.5.0's build.py of llama is told of the model's rotary embedding."""
    argv: list[str] = []
    if (base := model.facts.get("rope_theta", _BASE)) != _BASE:
        argv += ["--rotary_base", str(base)]
    if model.facts.get("rope_scaling") == "linear":
        argv += ["--rotary_scaling", "linear", str(model.facts.get("rope_factor", 1.0))]
    return argv


def against(model: Model, release: Release, way: str, inflight: bool) -> list[Text]:
    """Why an engine of that release would turn positions wrongly; `way` is one of assets/engine_paths.toml."""
    kind = model.facts.get("rope_scaling")
    if not isinstance(kind, str):
        return []
    known, since = versions.ropes(way, kind)
    if not known or release.numbers < versions.numbers(since or "0"):
        return [
            Text(
                en=f"TensorRT-LLM {release.version} does not know rope scaling “{kind}”"
                + (f", which came with {since}." if since else "."),
                zh=f"TensorRT-LLM {release.version} 不支持 rope 缩放“{kind}”"
                + (f"，自 {since} 起支持。" if since else "。"),
            )
        ]
    if release.version == "0.5.0" and kind == "dynamic" and inflight:
        return [
            Text(
                en="TensorRT-LLM 0.5.0 builds dynamic rope scaling with padded inputs only: choose V1 batching.",
                zh="TensorRT-LLM 0.5.0 的动态 rope 缩放不支持去除输入填充，请选择 V1 批处理。",
            )
        ]
    return []
