"""What an engine was built from and for, its folder's name, and whether it serves what is wanted. Pure.

An engine only runs with the TensorRT and TensorRT-LLM that built it, on the compute capability that it was built on
(NVIDIA/TensorRT-LLM #222, #660, #1324); its lengths, batch and split are fixed.
"""

from __future__ import annotations

import hashlib
import json
import re

from backends.spec import Frozen
from backends.tensorrt_llm.engine_config import EngineConfig
from backends.text import Text

_PACKAGED = re.compile(r"^(\d+\.\d+\.\d+)\.post\d+\.dev(\d+)$")
_FILE_SAFE = re.compile(r"[^A-Za-z0-9._]+")


class Stamp(Frozen):
    """One engine. None: not known, as with an engine that a person brings. Lengths in tokens."""

    model: str  # hub id or folder
    source_digest: str | None = None  # of config, tokenizer and weight headers; see engine_store
    version: str | None = None  # TensorRT-LLM
    tensorrt: str | None = None  # with its four parts
    image: str | None = None
    image_digest: str | None = None
    sm: int | None = None
    gpu: str | None = None
    dtype: str | None = None
    quantisation: str = "none"
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_batch: int | None = None
    max_input: int | None = None
    max_sequence: int | None = None
    max_beam: int = 1
    inflight: bool | None = None
    plugins: tuple[str, ...] = ()


class Cost(Frozen):
    """What building it again takes. Estimates."""

    seconds: float | None = None
    disk_mib: int | None = None


class Want(Frozen):
    """The engine that a plan needs, and what building it costs."""

    stamp: Stamp
    cost: Cost = Cost()


class Maker(Frozen):
    """What makes engines here: what the image really holds, and the GPU, as look_inside.py tells. None: not found."""

    tensorrt: str | None = None
    tensorrt_llm: str | None = None
    gpu: str | None = None
    sm: int | None = None
    image_digest: str | None = None


class Comparison(Frozen):
    """`refusals`: it would not run, or would run something else. `cautions`: it should run."""

    refusals: tuple[Text, ...] = ()
    cautions: tuple[Text, ...] = ()


def name(stamp: Stamp) -> str:
    """The folder's name: readable, and another one for anything that makes another engine.

    The GPU's own name does not count, its compute capability does; nor do digests that are only known later.
    """
    told = stamp.model_dump(exclude={"source_digest", "image_digest", "gpu", "tensorrt"})
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:10]
    model = _FILE_SAFE.sub("-", stamp.model.rstrip("/").rsplit("/", 1)[-1]).strip("-.").lower()[:40] or "model"
    precision = stamp.quantisation if stamp.quantisation != "none" else stamp.dtype or "auto"
    split = f"tp{stamp.tensor_parallel}" + (f"-pp{stamp.pipeline_parallel}" if stamp.pipeline_parallel > 1 else "")
    known = (("trtllm", stamp.version), ("sm", stamp.sm), ("", precision.replace("_", "-")), ("", split),
             ("b", stamp.max_batch), ("i", stamp.max_input), ("s", stamp.max_sequence), ("", digest))  # fmt: skip
    return "-".join((model, *(f"{sign}{value}" for sign, value in known if value is not None)))


def made_by(known: Stamp, inside: Maker) -> Stamp:
    """The same with what was really found where it is made, in place of what tables say."""
    found = {"tensorrt": inside.tensorrt, "version": inside.tensorrt_llm, "gpu": inside.gpu, "sm": inside.sm,
             "image_digest": inside.image_digest}  # fmt: skip
    return known.model_copy(update={name: value for name, value in found.items() if value is not None})


def of_config(config: EngineConfig, known: Stamp) -> Stamp:
    """What the engine's own config.json says, over what else is known of it."""
    return known.model_copy(
        update={
            "version": config.version or known.version,
            "quantisation": config.made_with or known.quantisation,
            "dtype": config.precision or known.dtype,
            "tensor_parallel": config.tensor_parallel,
            "pipeline_parallel": config.pipeline_parallel,
            "max_batch": config.max_batch or known.max_batch,
            "max_input": config.max_input or known.max_input,
            "max_sequence": config.max_sequence or known.max_sequence,
            "max_beam": config.max_beam,
            "inflight": known.inflight if config.paged_kv_cache is None else config.inflight,
        }
    )


def compare(want: Stamp, have: Stamp, cost: Cost | None = None) -> Comparison:
    """Whether an engine serves what is wanted. With refusals comes what building it again takes."""
    refusals: list[Text] = []
    cautions: list[Text] = []

    def differ(what: Text, wanted: object, found: object) -> Text:
        return Text(
            en=f"{what.en}: the engine has {found}, {wanted} is needed.",
            zh=f"{what.zh}：引擎为 {found}，需要 {wanted}。",
        )

    for field, what in _EXACT.items():
        wanted, found = getattr(want, field), getattr(have, field)
        if wanted is None:
            continue
        if found is None:
            cautions.append(Text(en=f"The engine does not tell its {what.en.lower()}.", zh=f"引擎未给出{what.zh}。"))
        elif wanted != found and not (field in ("version", "tensorrt") and agree(str(wanted), str(found))):
            refusals.append(differ(what, wanted, found))
    for field, what in _AT_LEAST.items():
        wanted, found = getattr(want, field), getattr(have, field)
        if None not in (wanted, found) and found < wanted:
            refusals.append(differ(what, wanted, found))
    if want.inflight and have.inflight is False:
        refusals.append(
            Text(
                en="It was built without what in-flight batching needs (attention plugin, paged KV cache, no padding).",
                zh="构建时未启用动态批处理所需的选项（注意力插件、分页 KV 缓存、去除填充）。",
            )
        )
    if want.image_digest and have.image_digest and want.image_digest != have.image_digest:
        cautions.append(
            Text(
                en="The image has changed since the engine was built, though not its versions.",
                zh="引擎构建之后镜像有变化，但其中的版本相同。",
            )
        )
    if want.gpu and have.gpu and want.gpu != have.gpu:
        cautions.append(differ(Text(en="GPU", zh="GPU"), want.gpu, have.gpu))
    if refusals and cost is not None and cost.seconds is not None:
        mib = cost.disk_mib or 0
        large = f"{mib / 1024:.1f} GiB" if mib >= 1024 else f"{mib} MiB"
        size, size_zh = ("", "") if not mib else (f", ~{large}", f"，占用约 {large}")
        minutes = max(1, round(cost.seconds / 60))
        refusals.append(
            Text(en=f"Building it again takes ~{minutes} min{size}.", zh=f"重新构建约需 {minutes} 分钟{size_zh}。")
        )
    return Comparison(refusals=tuple(refusals), cautions=tuple(cautions))


_EXACT = {
    "source_digest": Text(en="Weights", zh="权重"),
    "version": Text(en="TensorRT-LLM version", zh="TensorRT-LLM 版本"),
    "tensorrt": Text(en="TensorRT version", zh="TensorRT 版本"),
    "sm": Text(en="Compute capability (SM)", zh="计算能力（SM）"),
    "quantisation": Text(en="Quantisation", zh="量化方式"),
    "dtype": Text(en="Precision", zh="精度"),
    "tensor_parallel": Text(en="Tensor parallel size", zh="张量并行数"),
    "pipeline_parallel": Text(en="Pipeline parallel size", zh="流水线并行数"),
}
_AT_LEAST = {
    "max_batch": Text(en="Largest batch", zh="最大批大小"),
    "max_input": Text(en="Longest prompt", zh="最长提示"),
    "max_sequence": Text(en="Longest prompt with its answer", zh="提示与回答的最大总长度"),
    "max_beam": Text(en="Beams", zh="束宽"),
}


def agree(wanted: str, found: str) -> bool:
    """Whether two versions are the same as far as the shorter one goes: tables often leave the fourth part out.

    TensorRT's Python packages spell the fourth part as 9.2.0.post12.dev5, where the library is 9.2.0.5; an image of the
    0.12.0 that is announced was seen to hold 0.12.0.dev2024080600 (triton-inference-server/server #7581).
    """
    one, two = (_PACKAGED.sub(r"\1.\2", version).split(".") for version in (wanted, found))
    return one[: len(two)] == two[: len(one)]
