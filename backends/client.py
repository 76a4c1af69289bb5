"""Speaks to a running Triton: sends tensors, yields tensors. The only importer of tritonclient's client."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
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
END_S = 1.0  # for a server to end a stream after its last answer: it takes a millisecond
_requests = itertools.count(1)
_UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

Responses = AsyncGenerator[dict[str, Tensor], None]


def load() -> None:
    """Loads the libraries that a first request would otherwise wait for."""
    from tritonclient.grpc import service_pb2_grpc  # noqa: F401


async def stream(
    endpoint: Endpoint, inputs: Sequence[Tensor], outputs: Sequence[str] = (), final_flag: bool = True
) -> Responses:
    """Sends one request and yields the output tensors of each response, by name, until the final one.

    `final_flag` False: a server before 23.06, which marks no response as the last and must not be asked to. The side of
    the request is closed then, and the server ends the stream when everything has come.

    Works for decoupled and other models. Closing the iterator cancels the request on the server. Raises Unreachable
    where no server answers, Refused with the server's words where it refuses or fails the request.
    """
    # The generated stub, not the library's client: that one can neither ask for empty final responses on its
    # asynchronous side nor send the parameter that asks for them (it is a reserved name there).
    import grpc
    from tritonclient.grpc import InferResult, service_pb2_grpc

    over = asyncio.Event()

    async def one_request() -> AsyncIterator[Any]:
        yield _request(endpoint.model, inputs, outputs, final_flag)
        if final_flag:
            await over.wait()  # the stream stays open for the answers; its end is ours to say

    async with grpc.aio.insecure_channel(endpoint.grpc, options=_UNLIMITED) as channel:
        responses = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStreamInfer(one_request())
        try:
            async for response in responses:
                if response.error_message:
                    raise Refused(response.error_message)
                told = response.infer_response
                result = InferResult(told)
                tensors = {output.name: _tensor(result, output) for output in told.outputs}
                if tensors:
                    yield tensors
                if final_flag and told.parameters["triton_final_response"].bool_param:
                    over.set()
                    await _ended(responses)
                    return
        except grpc.aio.AioRpcError as error:
            raise _refused(error) from error
        finally:
            over.set()
            responses.cancel()


async def _ended(responses: Any) -> None:
    """Lets the server end a stream whose answers have all come. Cancelled instead, as one that does not end is, each
    could be the one in many thousand that ends a Triton before 25.04 (upstream's issues 7368 and 8034)."""
    import grpc

    with contextlib.suppress(TimeoutError, grpc.aio.AioRpcError):
        async with asyncio.timeout(END_S):
            async for _ in responses:
                pass  # nothing comes any more but the end


def _request(model: str, inputs: Sequence[Tensor], outputs: Sequence[str], final_flag: bool) -> Any:
    """The message of one request, its values as Triton's raw bytes."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name=model, id=str(next(_requests)))
    for tensor in inputs:
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        request.raw_input_contents.append(_raw(tensor))
    for name in outputs:
        request.outputs.add(name=name)
    if final_flag:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    return request


def _raw(tensor: Tensor) -> bytes:
    from tritonclient.utils import serialize_byte_tensor

    values: list[Any] = list(tensor.values)
    if tensor.datatype == "BYTES":
        values = [value.encode() if isinstance(value, str) else value for value in values]
    array = np.array(values, dtype=_NUMPY[tensor.datatype]).reshape(tensor.shape)
    if tensor.datatype == "BYTES":
        packed = serialize_byte_tensor(array)
        return bytes(packed.item()) if packed.size else b""
    return array.tobytes()


def _tensor(result: Any, output: Any) -> Tensor:
    array = result.as_numpy(output.name)
    values = () if array is None else tuple(array.ravel().tolist())
    return Tensor(name=output.name, datatype=output.datatype, shape=tuple(output.shape), values=values)


def _refused(error: Any) -> SlipwayError:
    """A broken call in words: the server is away, or it refused the call as a whole."""
    import grpc

    if error.code() is grpc.StatusCode.UNAVAILABLE:
        return Unreachable(
            Text(en="The server does not answer.", zh="服务没有响应。"),
            Text(en="See whether it still runs on the Monitor page.", zh="请在“监控”页查看它是否仍在运行。"),
        )
    return Refused(str(error.details() or error.code()))
