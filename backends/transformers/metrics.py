"""Which metrics of the embedded engine's model tell what (assets/engines/transformers/slipway_engine/metrics.py). Pure.

Triton's own latency and execution counters say nothing here: the model takes a request and returns at once, the answer
streams later. So the engine counts for itself.
"""

from __future__ import annotations

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
