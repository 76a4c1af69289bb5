"""How positions turn: what a version's builder must be told of it, and what it does not know. Pure.

examples/llama/build.py of 0.5.0 and examples/llama/convert_checkpoint.py of 0.8 read the sizes from config.json, but
not rope_theta or rope_scaling. Later converters read both; which kinds they know is in assets/engine_paths.toml.
"""

from __future__ import annotations

from backends.spec import Model
from backends.tensorrt_llm import versions
from backends.tensorrt_llm.versions import Release
from backends.text import Text

_BASE = 10_000.0  # where nobody says
_SCALED = ("linear", "dynamic")  # what the option takes, with a factor above 1


def told(model: Model) -> list[str]:
    """What llama's builder of 0.5.0, and its converter of 0.8, are told of the model's rotary embedding."""
    argv: list[str] = []
    if (base := model.facts.get("rope_theta", _BASE)) != _BASE:
        argv += ["--rotary_base", str(base)]
    kind, factor = model.facts.get("rope_scaling"), float(model.facts.get("rope_factor", 1.0))
    if kind in _SCALED and factor > 1.0:
        argv += ["--rotary_scaling", str(kind), str(factor)]
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
