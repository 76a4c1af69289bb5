"""What a model's rotary embedding says of lengths: how far it reaches, and from where its rows are no longer apart.

From modeling_rope_utils.py of transformers: linear and dynamic scaling stretch the positions of config.json, yarn those
of training; llama3 and longrope have them stretched already. dynamic and longrope choose their frequencies by the
longest row of a batch, so that beyond a bound a long chat would change what its neighbours say.
"""

from __future__ import annotations

from typing import Any

TRAINED = "original_max_position_embeddings"


def reach(config: Any, positions: int) -> int:
    """The longest context, in tokens. `positions` is the number in config.json; config is the text model's."""
    rope = _flat(config)
    factor = float(rope.get("factor") or 1)
    match rope.get("rope_type"):
        case "linear" | "dynamic":
            return int(positions * factor)
        case "yarn":
            return max(positions, int((rope.get(TRAINED) or positions) * factor))
    return positions


def bound(config: Any, positions: int) -> int | None:
    """Tokens up to which the rows of a batch are independent of each other; None: always."""
    trained = getattr(config, TRAINED, None)
    bounds = [
        positions if rope["rope_type"] == "dynamic" else rope.get(TRAINED) or trained or positions
        for rope in _each(config)
        if rope.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(bounds, default=None)


def _flat(config: Any) -> dict[str, Any]:
    """The one set of parameters; empty where each kind of layer has its own, whose positions are stretched already."""
    given = getattr(config, "rope_parameters", None) or {}
    return {} if any(isinstance(value, dict) for value in given.values()) else given


def _each(config: Any) -> list[dict[str, Any]]:
    given = getattr(config, "rope_parameters", None) or {}
    return [value for value in given.values() if isinstance(value, dict)] or [given]
