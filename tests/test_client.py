"""The client's side of a stream, against a server of our own that speaks Triton's gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from backends import client
from backends.spec import Endpoint, Tensor

ASKED = (Tensor(name="text_input", datatype="BYTES", shape=(1,), values=("Hello",)),)


class Server(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers one request in two pieces; `held`: what never comes, the second of them or the stream's end."""

    def __init__(self, held: str = "") -> None:
        self.held, self.how = held, ""
        self.over = asyncio.Event()

    async def ModelStreamInfer(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:  # noqa: N802
        try:
            async for request in requests:
                for final in (False, True):
                    if final and self.held == "piece":
                        await asyncio.Event().wait()
                    answer = service_pb2.ModelInferResponse(model_name=request.model_name)
                    answer.outputs.add(name="text_output", datatype="BYTES", shape=[1])
                    answer.raw_output_contents.append(b"\x02\x00\x00\x00hi")
                    answer.parameters["triton_final_response"].bool_param = final
                    yield service_pb2.ModelStreamInferResponse(infer_response=answer)
            if self.held == "end":
                await asyncio.Event().wait()
            await asyncio.sleep(0.1)  # what a server has to do before it ends: a cancel would meet it there
            self.how = "ended"
        except (asyncio.CancelledError, GeneratorExit):
            self.how = "cancelled"
            raise
        finally:
            self.over.set()


async def asked(server: Server, most: int) -> int:
    """Asks that server, takes so many pieces at most, and hangs up; how many came."""
    listening = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(server, listening)
    port = listening.add_insecure_port("127.0.0.1:0")
    await listening.start()
    count = 0
    try:
        async with asyncio.timeout(30):
            pieces = client.stream(Endpoint(http_port=1, grpc_port=port, metrics_port=1, model="chat"), ASKED)
            async for _ in pieces:
                count += 1
                if count == most:
                    break
            await pieces.aclose()
            await server.over.wait()
    finally:
        await listening.stop(None)
    return count


async def test_a_stream_whose_answers_have_all_come_is_ended_and_not_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "END_S", 20.0)  # whatever a busy machine makes of the server's moment
    server = Server()
    assert await asked(server, 9) == 2
    assert server.how == "ended"


async def test_a_client_that_leaves_early_cancels() -> None:
    server = Server(held="piece")
    assert await asked(server, 1) == 1
    assert server.how == "cancelled"


async def test_a_server_that_does_not_end_a_stream_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "END_S", 0.2)
    server = Server(held="end")
    assert await asked(server, 9) == 2
    assert server.how == "cancelled"
