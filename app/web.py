"""The panel's own web server: our routes first, Gradio's page behind them, one gate before all.

Routes: /slipway/ui/… (files of the page), /slipway/ask (what a person does there: app/ui/acts.py), /slipway/stream
(what changes, live), those of the Chat page (app/chat_routes.py), /slipway/runs/{run}/log/{step} (a log to read or
download), /slipway/runs/{run}/export (a deployment as a file), /slipway/login, /slipway/logout, /slipway/health, the
OpenAI-compatible API at /v1 (app/api.py), and /metrics for Prometheus.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from app.answering import trouble
from app.api import api
from app.asked import json_body, language_of, unheard
from app.chat_routes import routes
from app.control import Control
from app.guard import COOKIE, SESSION_S, Guard, Login, cookie
from app.listening import address
from app.live import Live, Wanted
from app.prometheus import exposition
from app.settings import ASSETS, Settings
from app.ui import mount
from app.ui.acts import Acts
from app.ui.opening import Opening
from app.ui.render import page
from backends.errors import BadInput, NotFound, NotKept, SlipwayError, Unreachable
from backends.logs import raw
from backends.reading import bad_input
from backends.text import Text

log = logging.getLogger(__name__)

ASK_LIMIT = 48 * 1024 * 1024  # bytes: a deployment's file of 16 MiB (assets/ui/js/history.js), escaped
STATUS = {BadInput: 400, NotFound: 404, Unreachable: 502, NotKept: 503}


def web(control: Control, settings: Settings, login: Login | None) -> FastAPI:
    """The whole application."""
    app = FastAPI(title="Slipway", docs_url=None, redoc_url=None, openapi_url=None)
    live = Live(control)
    acts = Acts(control)
    app.state.live = live
    app.add_middleware(Opening)
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

    @app.exception_handler(RequestValidationError)
    async def _misread(request: Request, error: RequestValidationError) -> Response:
        found = [{**one, "loc": one["loc"][1:]} for one in error.errors()]  # without "query" before the field
        return await _told(request, bad_input(found))

    @app.exception_handler(HTTPException)
    async def _unheard(request: Request, error: HTTPException) -> Response:
        told = {"title": unheard(error.status_code).of(language_of(request))}
        return JSONResponse(told, status_code=error.status_code, headers=error.headers)

    @app.get("/slipway/health")
    async def _health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def _metrics() -> Response:
        now = control.monitor()
        raised = await asyncio.to_thread(control.alerts)
        return Response(exposition(now, raised), media_type=CONTENT_TYPE_LATEST)

    @app.post("/slipway/ask")
    async def _ask(request: Request) -> Response:
        told = await acts.answer(await json_body(request, ASK_LIMIT))
        return JSONResponse(told, headers={"cache-control": "no-store"})

    @app.get("/slipway/stream")
    async def _stream(request: Request) -> StreamingResponse:
        wanted = await asyncio.to_thread(_wanted, request, control)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(live.stream(wanted), media_type="text/event-stream", headers=headers)

    @app.get("/slipway/runs/{run_id}/log/{step_id}")
    async def _log(run_id: str, step_id: str, show: bool = False, start: int = 0) -> Response:
        path = await asyncio.to_thread(control.log_path, run_id, step_id)
        if not path.is_file():
            raise NotFound(Text(en="This step has written no log.", zh="此步骤没有日志。"))
        begin, end = await asyncio.to_thread(control.log_span, run_id, step_id, start)
        end = path.stat().st_size if end is None else end
        name = f"{run_id}-{step_id}{f'-start-{start}' if start else ''}.log"
        kind = "inline" if show else "attachment"
        headers = {"content-disposition": f'{kind}; filename="{name}"', "content-length": str(end - begin)}
        # Not as a file: a running step's grows meanwhile, and an answer longer than it said to be is broken off.
        return StreamingResponse(raw(path, begin, end), headers=headers, media_type="text/plain; charset=utf-8")

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

    app.include_router(routes(control))
    app.mount("/v1", api(control))
    app.mount("/slipway/ui", StaticFiles(directory=ASSETS / "ui"))
    return mount(app, control)


def serve(control: Control, settings: Settings, sockets: list[socket.socket]) -> int:
    """Serves the panel on sockets that listen already, until it is ended. Returns the exit status of the program."""
    login = None
    if not settings.loopback:
        password = settings.password or secrets.token_urlsafe(12)
        login = Login(password)
        if settings.password is None:
            print(Text(en=f"Password: {password}", zh=f"密码：{password}").of(settings.language or "en"), flush=True)
    control.watch()
    app = web(control, settings, login)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, server_header=False, ws="none"
    )
    server = Server(config, app.state.live, address(settings.host, settings.port))
    try:
        server.run(sockets)
    except SystemExit:
        return 1
    return 0 if server.started else 1


class Server(uvicorn.Server):
    """uvicorn that says its address once it answers, and ends the live streams before it waits for them."""

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
    which = int(start) if (start := asked.get("start", "")).isdecimal() else 0
    if run is not None:
        control.run(run)
    if run is not None and step is not None:
        control.log_path(run, step)
        control.log_span(run, step, which)
    told = request.headers.get("last-event-id") or asked.get("from") or ""
    cursor = int(told) if told.isdecimal() else None
    return Wanted(language_of(request), run, step, cursor, asked.get("monitor") == "1", which)


__all__ = ["serve", "web"]
