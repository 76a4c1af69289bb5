"""What each release holds and what its scripts can do. The data is assets/tensorrt_llm; pure."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Any, Literal

from backends import tables
from backends.spec import Frozen
from backends.text import Text

FOLDER = tables.ASSETS / "tensorrt_llm"
VARIANT = "trtllm-python-py3"
Flow = Literal["build_py", "trtllm_build", "llmapi"]
Quantisation = Literal[
    "none", "int8_weight_only", "int4_weight_only", "smoothquant", "int4_awq", "int4_gptq", "fp8"
]  # fmt: skip


class Release(Frozen):
    """One Triton image: TensorRT-LLM's version, TensorRT's, and how Slipway drives it. Comments in the data file."""

    release: str
    version: str
    tensorrt: str
    flow: Literal["build_py", "trtllm_build"]
    wheel: Literal["inside", "compile"]
    backend: str
    tag: str
    llmapi: bool = False
    inferred: bool = False
    source: str

    @property
    def numbers(self) -> tables.Version:
        return numbers(self.version)

    @property
    def image_tag(self) -> str:
        return f"{self.release}-{VARIANT}"


class Built(Frozen):
    """The image that guide 002 builds from the backend's own Dockerfile, and the one its author built."""

    release: str
    tag: str
    dockerfile: str
    prebuilt: str
    source: str


class Family(Frozen):
    """How the engine flows build one family of models in a span of versions."""

    types: tuple[str, ...]
    since: str
    before: str | None = None
    examples: str
    repository: Literal["library", "qwen_examples"]
    quantisations: tuple[Quantisation, ...]
    names: dict[str, str] = {}
    packages: tuple[str, ...] = ()  # what tokenizer and build script need and the image lacks
    pipeline: bool = True  # whether layers can be split over GPUs (pipeline parallelism)
    inferred: bool = False
    source: str


class Quantised(Frozen):
    """What one quantisation asks. `gpu_model`: the whole model lies on the GPU in 16 bits while it is calibrated."""

    label: str
    precision: Literal["int8", "int4", "fp8"] | None = None
    calibrates: bool = False
    gpu_model: bool = False
    checkpoint: str | None = None


class Rule(Frozen):
    """Something that a span of versions does not do any more."""

    id: str
    since: str
    batching: str
    words: Text
    source: str


def numbers(version: str) -> tables.Version:
    """The leading numbers of a version: "0.17.0.post1" -> (0, 17, 0)."""
    found = re.match(r"\d+(?:\.\d+)*", version)
    return tables.version(found.group()) if found else (0,)


@cache
def releases() -> tuple[Release, ...]:
    """All driven releases, oldest first."""
    return tuple(Release.model_validate(row) for row in _data("releases")["release"])


@cache
def built() -> Built:
    """The image that is built from source for 0.5.0."""
    return Built.model_validate(_data("releases")["built"])


def repository(name: str) -> str:
    """The address of a git repository or of the image's: backend, library, qwen_examples, image."""
    return str(_data("releases")["repositories"][name])


@cache
def families() -> tuple[Family, ...]:
    """The rows of models.toml."""
    rows = _data("models")["model"]
    return tuple(Family.model_validate({"since": row["from"]} | {k: v for k, v in row.items() if k != "from"})
                 for row in rows)  # fmt: skip


def family(model_type: str, version: str) -> Family | None:
    """How that version builds that family; None: it does not, as far as Slipway knows."""
    have = numbers(version)
    for row in families():
        known = row.before is None or have < numbers(row.before)
        if model_type in row.types and have >= numbers(row.since) and known:
            return row
    return None


@cache
def quantised() -> dict[str, Quantised]:
    """What each quantisation asks, by name."""
    return {name: Quantised.model_validate(row) for name, row in _data("models")["quantisation"].items()}


@cache
def rules() -> tuple[Rule, ...]:
    """What some versions do not do any more."""
    return tuple(
        Rule(id=row["id"], since=row["from"], batching=row["batching"], source=row["source"],
             words=Text(en=row["en"], zh=row["zh"]))
        for row in _data("models")["rule"]
    )  # fmt: skip


def architectures(way: str) -> dict[str, str]:
    """Architectures that a way of assets/engine_paths.toml knows, each with the first version that has it."""
    found: dict[str, str] = _ways()["path"][way]["architectures"]
    return found


def ropes(way: str, kind: str) -> tuple[bool, str | None]:
    """(whether that way knows a kind of rope scaling, the version that brought it where that is written down)."""
    found = _ways()["path"][way]
    return kind in found.get("ropes", (kind,)), found.get("ropes_since", {}).get(kind)


@cache
def _ways() -> dict[str, Any]:
    return tomllib.loads((tables.ASSETS / "engine_paths.toml").read_text(encoding="utf-8"))


@cache
def _data(name: str) -> dict[str, Any]:
    return tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
