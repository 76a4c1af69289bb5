"""Which metrics of the embedded engine's model tell what (assets/engines/transformers/slipway_engine/metrics.py). Pure.

Triton's own latency and execution counters say nothing here: the model takes a request and returns at once, the answer
streams later. So the engine counts for itself.
"""

from __future__ import annotations

TOKENS = "slipway_generated_tokens_total"
PROMPT_TOKENS = "slipway_prompt_tokens_total"
FINISHED = "slipway_requests_finished_total"
FAILED = "slipway_requests_failed_total"
CANCELLED = "slipway_requests_cancelled_total"
ACTIVE = "slipway_active_requests"
QUEUED = "slipway_queued_requests"
FIRST_TOKEN_MS = "slipway_first_token_ms"
QUEUE_MS = "slipway_queue_ms"
