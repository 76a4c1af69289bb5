"""Who may talk to the panel: one gate before every route, Gradio's and ours alike.

Host and Origin are checked, so that a page of another site cannot speak to a panel on loopback (DNS rebinding, forged
requests). Off loopback a login is required; wrong passwords are slowed down. Gradio's own login guards only its own
routes and counts no wrong ones, so it is not used. Programs show a key in place of the login, on the paths made for
them; keys are too long to be guessed, so wrong ones are not counted.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import secrets
import socket
import time
from collections.abc import Callable, Iterable
from http.cookies import CookieError, SimpleCookie
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.asked import NOTHING_HERE, language_within
from backends import openai
from backends.text import Text

Scope = dict[str, Any]

COOKIE = "slipway_session"
LOGIN_PATH = "/slipway/login"
HEALTH_PATH = "/slipway/health"  # tells only that the panel lives, to whom keeps it alive
STYLE_PATH = "/slipway/ui/"
API_PATH, METRICS_PATH = "/v1/", "/metrics"  # for programs: a key stands in for the login
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
# Doors of Gradio that no page of ours uses: events, uploads, files, proxying, calls without the page.
SHUT = (
    "/gradio_api", "/upload", "/file", "/proxy", "/monitoring", "/login", "/logout", "/docs", "/redoc", "/openapi.json",
)  # fmt: skip
# Gradio's front end compiles its templates, so scripts may be made at run time; nothing may come from another host.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
SESSION_S = 7 * 24 * 3600
FREE_TRIES = 5
LONGEST_WAIT_S = 900.0
OTHER_SITE = Text(en="This request comes from another site.", zh="此请求来自其他网站，已拒绝。")
LOGIN_FIRST = Text(en="Log in first.", zh="请先登录。")
KEY_NEEDED = Text(
    en="This needs a key: send it as “Authorization: Bearer …”. `slipway keys make NAME` makes one.",
    zh="此处需要密钥，请以“Authorization: Bearer …”发送。可用 `slipway keys make 名称` 创建。",
)


class Refusal(NamedTuple):
    """Why a request does not pass: status, words, and a place to go instead."""

    status: int
    words: Text | None = None
    place: str | None = None


class Login:
    """One password, sessions by random token, and a growing wait after wrong passwords. Times from `clock`, seconds."""

    def __init__(self, password: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._password = password.encode()
        self._clock = clock
        self._sessions: dict[str, float] = {}
        self._wrong: dict[str, tuple[int, float]] = {}

    def wait_s(self, who: str) -> float:
        """Seconds until that address may try again; 0: now."""
        wrong, until = self._wrong.get(who, (0, 0.0))
        return max(0.0, until - self._clock()) if wrong >= FREE_TRIES else 0.0

    def enter(self, who: str, password: str) -> str | None:
        """A session's token, or None for a wrong password or one that comes too soon."""
        if self.wait_s(who) > 0:
            return None
        if not hmac.compare_digest(password.encode(), self._password):
            wrong = self._wrong.get(who, (0, 0.0))[0] + 1
            wait = min(LONGEST_WAIT_S, 2.0 ** (wrong - FREE_TRIES)) if wrong >= FREE_TRIES else 0.0
            if len(self._wrong) > 10_000:
                self._wrong.clear()
            self._wrong[who] = (wrong, self._clock() + wait)
            return None
        self._wrong.pop(who, None)
        token = secrets.token_urlsafe(32)
        now = self._clock()
        self._sessions = {one: until for one, until in self._sessions.items() if until > now}
        self._sessions[token] = now + SESSION_S
        return token

    def knows(self, token: str | None) -> bool:
        """True for the token of a session that has not ended."""
        return token is not None and self._sessions.get(token, 0.0) > self._clock()

    def leave(self, token: str | None) -> None:
        """Ends a session."""
        self._sessions.pop(token or "", None)


class Guard:
    """The gate, as ASGI middleware. `login` None: nobody is asked, which is right on loopback only.

    `knows_key` says whether a token is that of a key; it may wait for the disk. `key_always`: a key is asked for on
    loopback too.
    """

    def __init__(
        self,
        app: Any,
        *,
        host: str,
        login: Login | None,
        names: Iterable[str] = (),
        knows_key: Callable[[str], bool] = lambda _token: False,
        key_always: bool = False,
    ) -> None:
        self._app = app
        self._login = login
        self._knows_key = knows_key
        self._key_always = key_always
        self._any_address = login is not None
        self._names = {"localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in names)}
        if login is not None:
            self._names |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        refusal = self.refusal(scope)
        if refusal is not None:
            await _refuse(scope, receive, send, refusal)
            return
        if self._needs_key(scope) and not await asyncio.to_thread(self._knows_key, bearer(_headers(scope))):
            await _refuse_key(scope, send)
            return

        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                told = {name.lower() for name, _ in message.get("headers", ())}
                extra = [(name, value) for name, value in HEADERS if name not in told]
                if b"cache-control" not in told:
                    own = scope["path"].startswith((STYLE_PATH, "/assets/", "/static/"))
                    extra.append((b"cache-control", b"no-cache" if own else b"no-store"))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        await self._app(scope, receive, with_headers)

    def refusal(self, scope: Scope) -> Refusal | None:
        """Why the request may not pass; None where it may."""
        headers = _headers(scope)
        host = headers.get("host", "")
        if not self.knows_host(host):
            return Refusal(421, _foreign(host))
        path = scope["path"]
        if any(path == door or path.startswith((f"{door}/", f"{door}=")) for door in SHUT):
            return Refusal(404, NOTHING_HERE)
        if scope["type"] == "websocket":
            return Refusal(404, NOTHING_HERE)
        if scope.get("method") not in SAFE_METHODS and not _same_origin(headers, host):
            return Refusal(403, OTHER_SITE)
        open_path = path in (LOGIN_PATH, HEALTH_PATH) or path.startswith(STYLE_PATH) or for_programs(path)
        if self._login is not None and not open_path:
            token = cookie(headers.get("cookie", ""), COOKIE)
            if not self._login.knows(token):
                page = scope.get("method") == "GET" and "text/html" in headers.get("accept", "")
                return Refusal(303, place=LOGIN_PATH) if page else Refusal(401, LOGIN_FIRST)
        return None

    def _needs_key(self, scope: Scope) -> bool:
        """True where only a key helps: the path is for programs, and nobody is logged in."""
        if not for_programs(scope["path"]):
            return False
        if self._login is None:
            return self._key_always
        return not self._login.knows(cookie(_headers(scope).get("cookie", ""), COOKIE))

    def knows_host(self, host: str) -> bool:
        """True for a name or address under which this panel may be called; the port does not matter."""
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def cookie(header: str, name: str) -> str | None:
    """The value of a cookie."""
    try:
        morsel = SimpleCookie(header).get(name)
    except CookieError:
        return None
    return None if morsel is None else morsel.value


def for_programs(path: str) -> bool:
    """True for a path that a key opens; no other path is opened by a key, or without a login."""
    return path.startswith(API_PATH) or path == METRICS_PATH


def bearer(headers: dict[str, str]) -> str:
    """The token that a request shows; empty where it shows none."""
    kind, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def _same_origin(headers: dict[str, str], host: str) -> bool:
    """False where a browser says that another site asks. A program that sends no Origin is no browser."""
    if headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return False
    origin = headers.get("origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == host.lower() and urlsplit(origin).scheme in ("http", "https")
    except ValueError:
        return False


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}


def _foreign(host: str) -> Text:
    return Text(
        en=f"This panel does not answer to the host {host!r}. Use the address that it printed.",
        zh=f"此面板不以主机名 {host!r} 提供服务，请使用面板启动时显示的地址。",
    )


async def _refuse(scope: Scope, receive: Any, send: Any, refusal: Refusal) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store"), *HEADERS]
    if refusal.place is not None:
        headers.append((b"location", refusal.place.encode()))
    words = "" if refusal.words is None else refusal.words.of(language_within(scope))
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})


async def _refuse_key(scope: Scope, send: Any) -> None:
    words = KEY_NEEDED.of(language_within(scope))
    told = json.dumps(openai.told(words, 401, code="invalid_api_key"), ensure_ascii=False).encode()
    headers = [
        (b"content-type", b"application/json"), (b"cache-control", b"no-store"), (b"www-authenticate", b"Bearer"),
        *HEADERS,
    ]  # fmt: skip
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": told})
