"""What is known of a model family: the defaults its config.json leaves out, and how many parameters its shape has.

The data is assets/model_families.toml. Pure: a parsed config in, numbers out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Literal

from backends.spec import Frozen

_TABLE = Path(__file__).resolve().parent.parent / "assets" / "model_families.toml"


class Family(Frozen):
    """One row of the table. Its comments there say what each field means."""

    tied: bool
    mlp: Literal["gated", "plain", "feed_forward_proj"]
    norms: int
    norm: Literal["rms", "layer"]
    kv_heads: int | None = None
    inner: Literal["4h"] | None = None
    halved_inner: bool = False
    window: int | None = None
    window_switch: str | None = None
    bias: tuple[Literal["qkv", "out", "mlp", "head"], ...] = ()
    bias_from: str | None = None
    qkv_bias_from: str | None = None
    mlp_bias_from: str | None = None
    qk_norm: Literal["head"] | None = None
    positions: int | None = None
    embed_norm: bool = False
    context_scaled: bool = False
    relative: bool = False
    experts: str | None = None
    head: str = "lm_head.weight"

    def biased(self, config: Mapping[str, object], part: Literal["qkv", "out", "mlp", "head"]) -> bool:
        """Whether `part` of this family carries a bias under this config."""
        switches = {
            "qkv": (self.bias_from, self.qkv_bias_from),
            "out": (self.bias_from,),
            "mlp": (self.mlp_bias_from,),
            "head": (),
        }[part]
        return part in self.bias or any(config.get(name) is True for name in switches if name)


class Shape(Frozen):
    """The sizes of a transformer, as config.json gives them: units, not bytes."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int  # width of one MLP matrix
    vocab: int
    tied: bool
    positions: int = 0  # rows of learned positions
    experts: int = 0  # MLPs a layer; 0: a dense model
    gated: bool = True
    encoder_layers: int = 0


@cache
def families() -> dict[str, Family]:
    """The table: model_type to family."""
    rows = tomllib.loads(_TABLE.read_text(encoding="utf-8"))["family"]
    return {model_type: Family.model_validate(row) for model_type, row in rows.items()}


def family(model_type: str) -> Family | None:
    """The row of a model_type, if there is one."""
    return families().get(model_type)


def count_parameters(kind: Family, shape: Shape, config: Mapping[str, object]) -> int:
    """Parameters of a decoder-only model of this family and shape, exactly.

    layer = attention (q, k, v, out) + MLP (or experts and their router) + norms; plus embeddings, final norm and head.
    """
    h, wide = shape.hidden, shape.heads * shape.head_size
    narrow = shape.kv_heads * shape.head_size
    norm = h * (2 if kind.norm == "layer" else 1)
    attention = h * (wide + 2 * narrow) + wide * h
    attention += (wide + 2 * narrow) * kind.biased(config, "qkv") + h * kind.biased(config, "out")
    attention += 2 * shape.head_size * (kind.qk_norm == "head")
    matrices = 3 if shape.gated else 2
    mlp = matrices * h * shape.inner
    mlp += ((matrices - 1) * shape.inner + h) * kind.biased(config, "mlp")
    if shape.experts:
        mlp = mlp * shape.experts + h * shape.experts
    layer = attention + mlp + kind.norms * norm
    embeddings = (shape.vocab + shape.positions) * h + norm * kind.embed_norm
    head = 0 if shape.tied else shape.vocab * h
    return shape.layers * layer + embeddings + norm + head + shape.vocab * kind.biased(config, "head")


def count_t5_parameters(shape: Shape, buckets: int) -> int:
    """Parameters of a T5: encoder and decoder, each with one table of relative positions (`buckets` x heads)."""
    h, wide = shape.hidden, shape.heads * shape.head_size
    attention, mlp = 4 * h * wide, (3 if shape.gated else 2) * h * shape.inner
    encoder = shape.encoder_layers * (attention + mlp + 2 * h)
    decoder = shape.layers * (2 * attention + mlp + 3 * h)
    shared = shape.vocab * h * (1 if shape.tied else 2)
    return encoder + decoder + 2 * h + 2 * buckets * shape.heads + shared
