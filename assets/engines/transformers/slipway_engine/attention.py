"""Decoding attention without copies of keys and values, for models whose query heads share them (GQA).

transformers' SDPA repeats the keys and values of a masked batch for every query head of a group, each step anew. With
one query a row the heads of a group can stand where several queries of one head would: same numbers, nothing copied.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, AttentionInterface

_plain = ALL_ATTENTION_FUNCTIONS["sdpa"]


def _grouped(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *args: Any,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of query [rows, heads, 1, size] over key and value [rows, key heads, columns, size].

    Gives [rows, 1, heads, size].

    Everything but one query a row, a group of more than one, and a plain mask goes to transformers' own.
    """
    rows, heads, queries, size = query.shape
    shared = key.shape[1]
    masked = attention_mask is not None and attention_mask.shape[1:3] == (1, 1)
    plain = not args and not any(given.get(name) for name in ("dropout", "softcap", "cache"))
    plain = plain and given.get("position_bias") is None
    if queries != 1 or heads == shared or heads % shared or not masked or not plain:
        answer: tuple[torch.Tensor, None] = _plain(module, query, key, value, attention_mask, *args, **given)
        return answer
    out = torch.nn.functional.scaled_dot_product_attention(
        query.reshape(rows, shared, heads // shared, size),
        key,
        value,
        attn_mask=attention_mask,
        scale=given.get("scaling"),
    )
    return out.reshape(rows, 1, heads, value.shape[-1]), None


def install() -> None:
    """Makes every SDPA model of this process decode so; the self-test then proves it for the one that is loaded."""
    AttentionInterface.register("sdpa", _grouped)
