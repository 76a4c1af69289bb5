"""Which metrics of the embedded engine's model tell what (assets/engines/transformers/slipway_engine/metrics.py). Pure.

Triton's own latency and execution counters say nothing here: the model takes a request and returns at once, the answer
streams later. So the engine counts for itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

TOKENS = "slipway_tokens_total"
PROMPT_TOKENS = "slipway_prompt_tokens_total"
FINISHED = "slipway_requests_total:finished"
FAILED = "slipway_requests_total:failed"
CANCELLED = "slipway_requests_total:cancelled"
ACTIVE = "slipway_active_requests"
QUEUED = "slipway_queued_requests"
FIRST_TOKEN_S = "slipway_first_token_seconds"
QUEUE_S = "slipway_queue_seconds"
GAP_S = "slipway_token_gap_seconds"


_TOLD = "slipway-engine {"
_KEPT = ("weights_mib", "cache_mib", "peak_mib", "load_s")


def measured(lines: Iterable[str]) -> dict[str, float]:
    """What the engine says of itself in the server's log once it is loaded: memory in MiB, seconds to load."""
    for line in lines:
        _, found, told = line.partition(_TOLD)
        if found:
            try:
                facts = json.loads("{" + told.rsplit("}", 1)[0].replace('\\"', '"') + "}")
            except ValueError:
                return {}
            return {name: float(facts[name]) for name in _KEPT if isinstance(facts.get(name), int | float)}
    return {}
