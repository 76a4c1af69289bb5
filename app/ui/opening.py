"""The beginning of the page: what must be there before Gradio's own files, and above all when one of them is missing.

What Gradio is given as `head` it puts in by its own script, so nothing in it can look after a page that came half.
"""

from __future__ import annotations

import json
from functools import cache
from hashlib import sha256
from typing import Any

from app.settings import ASSETS
from app.ui.words import SCRIPT
from backends.text import LANGUAGES

Scope = dict[str, Any]
SCRIPTS = ("boot.js", "reload.js")
HEAD = b"<head>"


class Opening:
    """ASGI middleware: puts `opening()` at the beginning of the head of "/"."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._put = HEAD + opening().encode()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        start: dict[str, Any] = {}
        body = bytearray()

        async def whole(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body.extend(message.get("body", b""))
            if message.get("more_body"):
                return
            told = bytes(body).replace(HEAD, self._put, 1)
            headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
            if body:
                headers.append((b"content-length", str(len(told)).encode()))
            await send({**start, "headers": headers})
            await send({"type": "http.response.body", "body": told})

        # Not compressed, since it is read here.
        asked = [(name, value) for name, value in scope["headers"] if name.lower() != b"accept-encoding"]
        await self._app({**scope, "headers": asked}, receive, whole)


def opening() -> str:
    """Words, version and scripts of the page, in the page itself: each is there, or the page is not."""
    words = {language: {key: text.of(language) for key, text in SCRIPT.items()} for language in LANGUAGES}
    told = json.dumps(words, ensure_ascii=False).replace("<", "\\u003c")
    facts = f"window.slipwayWords = {told}; window.slipwayVersion = {json.dumps(version())};"
    scripts = (facts, *((ASSETS / "ui" / "js" / name).read_text() for name in SCRIPTS))
    return "".join(f"<script>{script}</script>" for script in scripts)


@cache
def version() -> str:
    """A digest of all files of the page, as they were when the panel began."""
    digest = sha256()
    for path in sorted((ASSETS / "ui").rglob("*.[cj]s*")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
