"""Triton's face of the transformers engine: requests in, answers out. Everything else is in slipway_engine beside it.

Inputs (all optional, but exactly one of the first two): text_input BYTES[1] a raw prompt; messages BYTES[1] a JSON list
of {role, content}; max_tokens, top_k INT32[1]; temperature, top_p, repetition_penalty FP32[1]; seed UINT64[1]; stop,
bad_words BYTES[n]; stream BOOL[1] (false: one response with everything, which is what HTTP's /generate needs).
Outputs: text_output BYTES[1], more text in every response; and with the last response finish_reason BYTES[1] (stop,
length, cancelled), prompt_tokens and completion_tokens INT32[1], queue_ms and ttft_ms FP32[1].
Errors: one line, see slipway_engine/errors.py.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
sys.path.insert(0, str(Path(__file__).parent))

import triton_python_backend_utils as pb_utils
from slipway_engine import request as asking
from slipway_engine import settings as wishes
from slipway_engine.errors import RequestError, internal
from slipway_engine.reply import TritonReply


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, Any]) -> None:
        """Loads the model. Raises TritonModelException with the reason when it cannot be served."""
        from slipway_engine.engine import Engine  # late: it imports torch, and Triton may load this file twice

        config = json.loads(args["model_config"])
        parameters = {name: value["string_value"] for name, value in config.get("parameters", {}).items()}
        labels = {"model": args["model_name"], "version": str(args["model_version"])}
        try:
            self._engine = Engine(wishes.read(parameters), pb_utils.MetricFamily, labels, _log)
        except Exception as error:
            raise pb_utils.TritonModelException(f"{type(error).__name__}: {error}") from error
        self._engine.start()

    def execute(self, requests: list[Any]) -> None:
        """Takes the requests and returns at once; the answers are sent by the engine's own threads."""
        for request in requests:
            reply = TritonReply(request.get_response_sender())
            try:
                inputs = {tensor.name(): tensor.as_numpy().reshape(-1).tolist() for tensor in request.inputs()}
                ask = asking.read(inputs, json.loads(request.parameters() or "{}"))
                self._engine.take(ask, reply, (request.timeout() or 0) / 1e6 or None)
            except RequestError as error:
                self._engine.refuse(reply, error)
            except Exception as error:
                self._engine.refuse(reply, internal(error))

    def finalize(self) -> None:
        """Lets what runs come to its end, then stops the threads."""
        self._engine.close()


def _log(line: str) -> None:
    pb_utils.Logger.log_info(line)
