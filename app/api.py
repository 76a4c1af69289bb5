"""The OpenAI-compatible API beside the page, for every deployment that serves: /v1/models, /v1/chat/completions,
/v1/completions. A model's name is its deployment's.

An application of its own, mounted at /v1, so that nothing under that path can answer in another shape. A client that
goes away ends the generation on the server, streaming or not.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from app.asked import json_body, language_of, unheard
from app.control import Control
from backends import openai
from backends.errors import SlipwayError
from backends.openai import Answer, Asked
from backends.runs import Run
from backends.spec import Piece
from backends.text import Language, Text

T = TypeVar("T")

HEADERS = {"cache-control": "no-store", "x-accel-buffering": "no"}
CLIENT_GONE = 499  # nobody reads it; the log of a proxy knows it by this number
BROKEN = Text(en="Slipway failed on this request; its log tells why.", zh="Slipway 处理此请求时出错，原因见其日志。")


class Gone(Exception):
    """The client closed its connection."""


def api(control: Control) -> FastAPI:
    """The application to mount at /v1."""
    app = FastAPI(title="Slipway API", docs_url=None, redoc_url=None, openapi_url=None)

    @app.exception_handler(SlipwayError)
    async def _refused(request: Request, error: Exception) -> Response:
        return refusal(error, language_of(request), getattr(request.state, "asked", None))

    @app.exception_handler(HTTPException)
    async def _not_here(request: Request, error: HTTPException) -> Response:
        status = error.status_code
        return JSONResponse(openai.told(unheard(status).of(language_of(request)), status), status_code=status)

    @app.exception_handler(Exception)
    async def _broken(request: Request, _error: Exception) -> Response:
        return JSONResponse(openai.told(BROKEN.of(language_of(request)), 500), status_code=500)

    @app.exception_handler(Gone)
    async def _gone(_request: Request, _error: Exception) -> Response:
        return Response(status_code=CLIENT_GONE)

    @app.get("/models")
    async def _models() -> dict[str, Any]:
        runs = await asyncio.to_thread(control.serving)
        return {"object": "list", "data": [_card(run) for run in runs]}

    @app.get("/models/{name}")
    async def _model(name: str) -> dict[str, Any]:
        return _card(await asyncio.to_thread(_serving, control, name))

    @app.post("/chat/completions")
    async def _chat(request: Request) -> Response:
        return await _answer(request, control, openai.read_chat(await json_body(request)))

    @app.post("/completions")
    async def _complete(request: Request) -> Response:
        return await _answer(request, control, openai.read_completion(await json_body(request)))

    return app


def refusal(error: Exception, language: Language, asked: Asked | None = None) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    if not isinstance(error, SlipwayError):
        return JSONResponse(openai.told(str(error), 500), status_code=500)
    return JSONResponse(openai.error_body(error, language, asked), status_code=openai.status_of(error))


async def _answer(request: Request, control: Control, asked: Asked) -> Response:
    request.state.asked = asked
    run = await asyncio.to_thread(_serving, control, asked.model)
    answer = Answer(asked, f"{'chatcmpl' if asked.shape == 'chat' else 'cmpl'}-{secrets.token_hex(12)}",
                    int(time.time()), run.id)  # fmt: skip
    pieces = control.chat(run.id, asked.chat)
    if not asked.stream:
        return JSONResponse(await unless_gone(request, _whole(answer, pieces)), headers=HEADERS)
    # The first piece is awaited before the status goes out: what the server refuses is refused with the right one.
    first = await unless_gone(request, _first(pieces))
    return Stream(_parts(answer, first, pieces, language_of(request)), media_type="text/event-stream", headers=HEADERS)


async def _whole(answer: Answer, pieces: AsyncIterator[Piece]) -> dict[str, Any]:
    texts, last = [], Piece()
    async with aclosing(pieces) as opened:  # type: ignore[type-var]
        async for piece in opened:
            texts.append(piece.text)
            last = merged(last, piece)
    return answer.whole("".join(texts), last)


async def _first(pieces: AsyncIterator[Piece]) -> Piece | None:
    return await anext(pieces, None)


async def _parts(
    answer: Answer, first: Piece | None, pieces: AsyncIterator[Piece], language: Language
) -> AsyncGenerator[bytes, None]:
    """Server-sent events, one a piece, and the mark of the end. A failure on the way is an event of its own."""
    last = Piece()
    try:
        async with aclosing(pieces) as opened:  # type: ignore[type-var]
            if answer.asked.shape == "chat":
                yield _event(answer.part(first=True))
            if first is not None:
                last = first
                if first.text:
                    yield _event(answer.part(first.text))
            async for piece in opened:
                last = merged(last, piece)
                if piece.text:
                    yield _event(answer.part(piece.text))
    except SlipwayError as error:
        yield _event(openai.error_body(error, language, answer.asked))
        return
    yield _event(answer.part(finish=openai.finish_reason(last)))
    if answer.asked.usage:
        yield _event(answer.counts(last))
    yield b"data: [DONE]\n\n"


def merged(last: Piece, piece: Piece) -> Piece:
    """What is known of an answer's end after one more piece."""
    return piece.model_copy(
        update={name: kept for name, kept in last.model_dump().items() if getattr(piece, name) is None}
    )


class Stream(StreamingResponse):
    """Closes its source at once when the client goes, also where it stood still at that moment."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            close = getattr(self.body_iterator, "aclose", None)
            if close is not None:
                await close()


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`; ends it and raises Gone where the client closes its connection before."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_until_gone(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _serving(control: Control, name: str) -> Run:
    run = next((run for run in control.serving() if run.name == name), None)
    if run is None:
        raise openai.no_model(name)
    return run


def _card(run: Run) -> dict[str, Any]:
    return openai.model_card(run.name, int((run.ready_at or run.created_at).timestamp()))


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()
