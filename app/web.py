"""The panel's own web server: our routes first, Gradio's page behind them, one gate before all.

Routes: /slipway/ui/… (files of the page), /slipway/stream (what changes, live), /slipway/chat (an answer, streamed),
/slipway/runs/{run}/log/{step} (a log to read or download), /slipway/runs/{run}/export (a deployment as a file),
/slipway/login, /slipway/logout, /slipway/health, the
OpenAI-compatible API at /v1 (app/api.py), and /metrics for Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.staticfiles import StaticFiles

from app.api import api
from app.asked import json_body, language_of
from app.control import Control
from app.guard import COOKIE, SESSION_S, Guard, Login, cookie
from app.live import Live, Wanted
from app.prometheus import exposition
from app.settings import ASSETS, Settings
from app.ui import mount
from app.ui.render import page
from backends.errors import BadInput, NotFound, SlipwayError, Unreachable
from backends.reading import read
from backends.spec import Chat, Piece
from backends.text import Language, Text

T = TypeVar("T")
log = logging.getLogger(__name__)

UPDATE_S = 0.04  # between two parts of an answer: 25 a second, whatever the speed of the model
STATUS = {BadInput: 400, NotFound: 404, Unreachable: 502}


def web(control: Control, settings: Settings, login: Login | None) -> FastAPI:
    """The whole application."""
    app = FastAPI(title="Slipway", docs_url=None, redoc_url=None, openapi_url=None)
    live = Live(control)
    app.state.live = live
    app.add_middleware(
        Guard,
        host=settings.host,
        login=login,
        names=settings.names,
        knows_key=control.knows_key,
        key_always=settings.require_key,
    )

    @app.exception_handler(SlipwayError)
    async def _told(request: Request, error: Exception) -> Response:
        return JSONResponse(trouble(error, language_of(request)), status_code=status_of(error))

    @app.get("/slipway/health")
    async def _health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def _metrics() -> Response:
        now = control.monitor()
        raised = await asyncio.to_thread(control.alerts)
        return Response(exposition(now, raised), media_type=CONTENT_TYPE_LATEST)

    @app.get("/slipway/stream")
    async def _stream(request: Request) -> StreamingResponse:
        wanted = await asyncio.to_thread(_wanted, request, control)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(live.stream(wanted), media_type="text/event-stream", headers=headers)

    @app.post("/slipway/chat")
    async def _chat(request: Request) -> StreamingResponse:
        told = await json_body(request)
        run_id = str(told.pop("run", ""))
        chat = read(Chat, told)
        run = await asyncio.to_thread(control.run, run_id)
        stream = answer(control, run.id, chat, language_of(request))
        return StreamingResponse(stream, media_type="application/x-ndjson", headers={"cache-control": "no-store"})

    @app.get("/slipway/runs/{run_id}/log/{step_id}")
    async def _log(run_id: str, step_id: str, show: bool = False) -> Response:
        path = await asyncio.to_thread(control.log_path, run_id, step_id)
        if not path.is_file():
            raise NotFound(Text(en="This step has written no log.", zh="此步骤没有日志。"))
        name = f"{run_id}-{step_id}.log"
        kind = "inline" if show else "attachment"
        return FileResponse(path, media_type="text/plain; charset=utf-8", filename=name, content_disposition_type=kind)

    @app.get("/slipway/runs/{run_id}/export")
    async def _export(run_id: str) -> Response:
        told = await asyncio.to_thread(control.export_deployment, run_id)
        headers = {"content-disposition": f'attachment; filename="{run_id}.json"'}
        return Response(told, media_type="application/json", headers=headers)

    @app.get("/slipway/login")
    async def _login_page(request: Request) -> Response:
        if login is None:
            return RedirectResponse("/", status_code=303)
        return HTMLResponse(page("login", language_of(request), trouble=""))

    @app.post("/slipway/login")
    async def _log_in(request: Request) -> Response:
        return await _enter(request, login)

    @app.post("/slipway/logout")
    async def _log_out(request: Request) -> Response:
        if login is not None:
            login.leave(cookie(request.headers.get("cookie", ""), COOKIE))
        gone = RedirectResponse("/slipway/login", status_code=303)
        gone.delete_cookie(COOKIE)
        return gone

    @app.get("/favicon.ico")
    async def _favicon() -> Response:
        return FileResponse(ASSETS / "ui" / "favicon.svg", media_type="image/svg+xml")

    app.mount("/v1", api(control))
    app.mount("/slipway/ui", StaticFiles(directory=ASSETS / "ui"))
    return mount(app, control)


def serve(control: Control, settings: Settings) -> int:
    """Serves the panel until it is ended. Returns the exit status of the program."""
    login = None
    if not settings.loopback:
        password = settings.password or secrets.token_urlsafe(12)
        login = Login(password)
        if settings.password is None:
            print(Text(en=f"Password: {password}", zh=f"密码：{password}").of(settings.language or "en"), flush=True)
    control.watch()
    app = web(control, settings, login)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level="warning", access_log=False,
        timeout_graceful_shutdown=2, server_header=False, ws="none",
    )  # fmt: skip
    server = Server(config, app.state.live, f"http://{_shown_host(settings.host)}:{settings.port}")
    try:
        server.run()
    except SystemExit:
        return 1
    return 0 if server.started else 1


class Server(uvicorn.Server):
    """uvicorn that says its address once it listens, and ends the live streams before it waits for them."""

    def __init__(self, config: uvicorn.Config, live: Live, address: str) -> None:
        super().__init__(config)
        self._live = live
        self._address = address

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print(f"Slipway: {self._address}", flush=True)

    async def shutdown(self, sockets: list[Any] | None = None) -> None:
        self._live.close()
        await super().shutdown(sockets)


async def answer(control: Control, run_id: str, chat: Chat, language: Language) -> AsyncIterator[bytes]:
    """An answer as lines of JSON: {"text"} at most 25 times a second, the first at once, and {"done"} or {"trouble"}.

    The clock runs where the answer arrives at the panel, not in the browser. A page that goes away closes this
    iterator, and with it the generation on the server.
    """
    started = time.monotonic()
    first: float | None = None
    last = started
    pieces = 0
    done: dict[str, Any] = {}
    try:
        async with aclosing(gathered(timed(control.chat(run_id, chat)), UPDATE_S)) as parts:
            async for part in parts:
                text = "".join(piece.text for _, piece in part)
                for at, piece in part:
                    if piece.text:
                        pieces += 1
                        first, last = first or at, at
                    if piece.finish is not None:
                        done["finish"] = piece.finish
                    if piece.completion_tokens is not None:
                        done |= {"prompt_tokens": piece.prompt_tokens, "tokens": piece.completion_tokens}
                if text and first is not None:
                    yield _line({"text": text, "ttft": first - started, "pieces": pieces})
    except SlipwayError as error:
        yield _line({"trouble": trouble(error, language)})
        return
    ended = time.monotonic()
    done |= {"seconds": ended - started, "ttft": None if first is None else first - started}
    tokens = done.get("tokens") or pieces
    if first is not None and tokens > 1 and last > first:
        done["speed"] = (tokens - 1) / (last - first)
    yield _line({"done": {"finish": "stop", "tokens": tokens, **done}})


async def timed(source: AsyncIterator[Piece]) -> AsyncIterator[tuple[float, Piece]]:
    """Each piece with the moment at which it arrived here."""
    async with aclosing(source) as opened:  # type: ignore[type-var]
        async for piece in opened:
            yield time.monotonic(), piece


async def gathered(source: AsyncIterator[T], period_s: float) -> AsyncGenerator[list[T], None]:
    """The items of `source`, the first at once, later ones gathered so that a list comes at most each `period_s`.

    Nothing waits longer than that, however slow the source is. Closing this closes the source.
    """
    items: list[T] = []
    wake = asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(source) as opened:  # type: ignore[type-var]
                async for item in opened:
                    items.append(item)
                    wake.set()
        finally:
            wake.set()

    task = asyncio.create_task(pump())
    try:
        while not (task.done() and not items):
            await wake.wait()
            wake.clear()
            if items:
                part, items[:] = list(items), []
                yield part
                if not task.done():
                    await asyncio.wait({task}, timeout=period_s)
            if task.done():
                wake.set()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def trouble(error: Exception, language: Language) -> dict[str, Any]:
    """An error as the page shows it."""
    if not isinstance(error, SlipwayError):
        return {"title": str(error)}
    hint = None if error.hint is None else error.hint.of(language)
    reasons = [reason.of(language) for reason in getattr(error, "reasons", ())]
    return {"title": error.message.of(language), "hint": hint, "reasons": reasons, "field": error.field}


def status_of(error: Exception) -> int:
    """The HTTP status of an error."""
    return next((status for kind, status in STATUS.items() if isinstance(error, kind)), 409)


async def _enter(request: Request, login: Login | None) -> Response:
    if login is None:
        return RedirectResponse("/", status_code=303)
    language = language_of(request)
    who = request.client.host if request.client else "?"
    wait = login.wait_s(who)
    form = dict(_pair(part) for part in (await request.body())[:4096].decode("utf-8", "replace").split("&"))
    token = login.enter(who, form.get("password", ""))
    if token is None:
        if wait > 0:
            words = Text(
                en=f"Too many wrong passwords. Try again in {wait:.0f} s.",
                zh=f"密码错误次数过多，{wait:.0f} 秒后再试。",
            )
        else:
            words = Text(en="This is not the password.", zh="密码不正确。")
        return HTMLResponse(page("login", language, trouble=words.of(language)), status_code=429 if wait > 0 else 401)
    entered = RedirectResponse("/", status_code=303)
    entered.set_cookie(
        COOKIE, token, max_age=SESSION_S, httponly=True, samesite="strict", secure=request.url.scheme == "https"
    )
    return entered


def _pair(part: str) -> tuple[str, str]:
    from urllib.parse import unquote_plus

    name, _, value = part.partition("=")
    return unquote_plus(name), unquote_plus(value)


def _wanted(request: Request, control: Control) -> Wanted:
    """What the page asks to watch. Raises NotFound, so that a page that asks for nothing hears so at once."""
    asked = request.query_params
    run, step = asked.get("run") or None, asked.get("step") or None
    if run is not None:
        control.run(run)
    if run is not None and step is not None:
        control.log_path(run, step)
    told = request.headers.get("last-event-id") or asked.get("from") or ""
    start = int(told) if told.isdecimal() else None
    return Wanted(language_of(request), run, step, start, monitor=asked.get("monitor") == "1")


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()


def _shown_host(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104


__all__ = ["serve", "web"]
