"""Which splits over GPUs a quantisation does not survive. Pure."""

from __future__ import annotations

from backends.spec import Model
from backends.tensorrt_llm import versions
from backends.tensorrt_llm.versions import Quantisation, Release
from backends.text import Text

_GROUP = 128  # weights that share a scale: quantize.py's --awq_block_size where nobody says


def against(quantisation: Quantisation, model: Model, release: Release, tensor: int, pipeline: int) -> list[Text]:
    """Why converting would fail after it has calibrated for minutes."""
    reasons = []
    # TensorRT-LLM #1476: 0.9.0's export asserts that there is one stage.
    if quantisation in ("int4_awq", "fp8") and pipeline > 1 and release.numbers < versions.numbers("0.10"):
        reasons.append(
            Text(
                en=f"TensorRT-LLM {release.version} exports calibrated weights for one pipeline stage only.",
                zh=f"TensorRT-LLM {release.version} 只能为单个流水线阶段导出校准后的权重。",
            )
        )
    # TensorRT-LLM #1636: each GPU's part of a row must be whole groups.
    uneven = [size for size in (model.hidden_size, model.intermediate_size) if size and size % (_GROUP * tensor)]
    if quantisation == "int4_awq" and uneven:
        reasons.append(
            Text(
                en=f"int4 AWQ scales weights in groups of {_GROUP}: rows of {uneven[0]:,} do not split into whole "
                f"groups on {tensor} GPUs.",
                zh=f"int4 AWQ 以 {_GROUP} 个权重为一组：长度 {uneven[0]:,} 的行无法在 {tensor} 块 GPU 上整组切分。",
            )
        )
    return reasons
