"""Speaks to a running Triton: sends tensors, yields tensors. The only importer of tritonclient's client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any

import numpy as np

from backends.errors import Refused, SlipwayError, Unreachable
from backends.spec import Endpoint, Tensor
from backends.text import Text

_NUMPY: dict[str, Any] = {
    "BOOL": np.bool_, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8,
    "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.object_,
}  # fmt: skip
_requests = itertools.count(1)

Responses = AsyncIterator[dict[str, Tensor]]


async def stream(
    endpoint: Endpoint, inputs: Sequence[Tensor], outputs: Sequence[str] = (), final_flag: bool = True
) -> Responses:
    """Sends one request and yields the output tensors of each response, by name, until the final one.

    `final_flag` False: a server before 23.06, which marks no response as the last and must not be asked to. The side of
    the request is closed then, and the server ends the stream when everything has come.

    Works for decoupled and other models. Closing the iterator cancels the request on the server. Raises Unreachable
    where no server answers, Refused with the server's words where it refuses or fails the request.
    """
    from tritonclient.grpc import aio
    from tritonclient.utils import InferenceServerException

    client = aio.InferenceServerClient(endpoint.grpc)
    over = asyncio.Event()
    request_id = str(next(_requests))

    async def one_request() -> AsyncIterator[dict[str, Any]]:
        yield {
            "model_name": endpoint.model,
            "inputs": [_input(tensor) for tensor in inputs],
            "outputs": [aio.InferRequestedOutput(name) for name in outputs] or None,
            "request_id": request_id,
        } | ({"parameters": {"triton_enable_empty_final_response": True}} if final_flag else {})  # aio lacks the option
        if final_flag:
            await over.wait()  # the stream stays open for the answers; its end is ours to say

    responses = client.stream_infer(one_request())
    try:
        async for result, error in responses:
            if error is not None:
                raise _refused(error)
            response = result.get_response()
            tensors = {output.name: _tensor(result, output) for output in response.outputs}
            if tensors:
                yield tensors
            if final_flag and response.parameters["triton_final_response"].bool_param:
                return
    except InferenceServerException as error:
        raise _refused(error) from error
    finally:
        over.set()
        with contextlib.suppress(Exception):  # the call may already be over; there is nothing left to cancel then
            responses.cancel()
        await client.close()


def _input(tensor: Tensor) -> Any:
    from tritonclient.grpc import InferInput

    values: list[Any] = list(tensor.values)
    if tensor.datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    array = np.array(values, dtype=_NUMPY[tensor.datatype]).reshape(tensor.shape)
    return InferInput(tensor.name, list(tensor.shape), tensor.datatype).set_data_from_numpy(array)


def _tensor(result: Any, output: Any) -> Tensor:
    array = result.as_numpy(output.name)
    values = () if array is None else tuple(array.ravel().tolist())
    return Tensor(name=output.name, datatype=output.datatype, shape=tuple(output.shape), values=values)


def _refused(error: Any) -> SlipwayError:
    status = str(error.status() or "")
    words = str(error.message() or error)
    if "UNAVAILABLE" in status and any(sign in words for sign in ("connect", "Connection", "Socket closed")):
        return Unreachable(
            Text(en="The server does not answer.", zh="服务没有响应。"),
            Text(en="See whether it still runs on the Monitor page.", zh="请在“监控”页查看它是否仍在运行。"),
        )
    return Refused(words)
