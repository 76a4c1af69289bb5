"""Where an answer goes: one request's response sender of Triton, used by one thread at a time.

Triton dies when a sender is used or asked after its final flag, so a lock and a closed flag stand before each use.
"""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from .errors import RequestError
from .job import Job

_FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
_CODES = {"invalid": "INVALID_ARG", "unavailable": "UNAVAILABLE", "cancelled": "CANCELLED", "internal": "INTERNAL"}


class TritonReply:
    """The reply to one request. After `final` or `error` every call does nothing."""

    def __init__(self, sender: Any) -> None:
        self._sender = sender
        self._lock = threading.Lock()
        self._closed = False

    def delta(self, text: str) -> None:
        """Sends more text: text_output alone, the other outputs come with the last response."""
        with self._lock:
            if not self._closed:
                self._sender.send(pb_utils.InferenceResponse(output_tensors=[_text("text_output", text)]))

    def final(self, text: str, finish: str, job: Job) -> None:
        """Sends the last text, why it ended and what it counted, and closes."""
        outputs = [
            _text("text_output", text),
            _text("finish_reason", finish),
            pb_utils.Tensor("prompt_tokens", np.array([len(job.prompt)], np.int32)),
            pb_utils.Tensor("completion_tokens", np.array([len(job.produced)], np.int32)),
            _milliseconds("queue_ms", job.arrived, job.admitted),
            _milliseconds("ttft_ms", job.arrived, job.first),
        ]
        self._close(pb_utils.InferenceResponse(output_tensors=outputs))

    def error(self, error: RequestError) -> None:
        """Sends what is wrong, and closes."""
        # The stub puts TritonError into pb_utils only after this module was imported, so it is looked up here.
        code = getattr(pb_utils.TritonError, _CODES[error.code])
        self._close(pb_utils.InferenceResponse(error=pb_utils.TritonError(error.line(), code)))

    def gone(self) -> bool:
        """Whether the client has cancelled or is gone. A tenth of a millisecond: not for every token."""
        with self._lock:
            return False if self._closed else bool(self._sender.is_cancelled())

    def _close(self, response: Any) -> None:
        with self._lock:
            if not self._closed:
                sender, self._sender, self._closed = self._sender, None, True  # Triton frees what nobody holds
                sender.send(response, flags=_FINAL)


def _text(name: str, text: str) -> Any:
    return pb_utils.Tensor(name, np.array([text.encode("utf-8", "replace")], np.object_))


def _milliseconds(name: str, since: float, until: float | None) -> Any:
    passed = (time.monotonic() if until is None else until) - since
    return pb_utils.Tensor(name, np.array([passed * 1000], np.float32))
