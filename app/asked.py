"""What every route of ours reads from a request, its language and its JSON, and what is said where no route has it."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import HTTPConnection, Request

from backends.errors import BadInput
from backends.text import Language, Text

BODY_LIMIT = 4 * 1024 * 1024
NOTHING_HERE = Text(en="There is nothing here.", zh="这里没有内容。")
UNHEARD = {
    404: NOTHING_HERE,
    405: Text(en="This address does not take that method.", zh="此地址不接受该请求方法。"),
}
UNREADABLE = Text(en="This request cannot be read.", zh="无法读取此请求。")


def unheard(status: int) -> Text:
    """Why no route takes a request, by the HTTP status of the refusal."""
    return UNHEARD.get(status, UNREADABLE)


def language_of(request: HTTPConnection) -> Language:
    """The language that the page has chosen, else the browser's first."""
    chosen = request.query_params.get("lang") or request.cookies.get("slipway_language")
    told = (chosen or request.headers.get("accept-language", "en")).strip().lower()
    return "zh" if told.startswith("zh") else "en"


def language_within(scope: dict[str, Any]) -> Language:
    """The same before any route: of an ASGI scope."""
    return language_of(HTTPConnection(scope))


async def json_body(request: Request, limit_bytes: int = BODY_LIMIT) -> dict[str, Any]:
    """The body as a JSON object. Raises BadInput for anything else, and for more than `limit_bytes`."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise BadInput("body", Text(en="This request is too long.", zh="请求过长。"))
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise BadInput("body", Text(en="This request is not a JSON object.", zh="请求不是 JSON 对象。"))
    return told
