"""Which model of a running Triton to talk to, and Triton's own configuration of it."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.parse import quote

import httpx

from backends.errors import CannotDo, Unreachable
from backends.servers import spoken
from backends.spec import Endpoint
from backends.text import Text

TIMEOUT_S = 3.0
LIMIT = 4 * 1024 * 1024  # bytes of one answer


def chosen(client: httpx.Client, endpoint: Endpoint) -> tuple[Endpoint, dict[str, Any]]:
    """The endpoint with the model to talk to, and that model's configuration.

    Where none is named, the first in the server's own list that speaks a chat's tensors, an ensemble before its parts.
    Raises Unreachable, CannotDo where none is named and the server does not say what it has.
    """
    if endpoint.model:
        return endpoint, _config(client, endpoint, endpoint.model)
    names = _names(client, endpoint)
    configs = [(name, _config(client, endpoint, name)) for name in names]
    known = [(name, config) for name, config in configs if not isinstance(spoken(config), Text)]
    known.sort(key=lambda one: one[1].get("platform") != "ensemble")
    found = known or configs
    if not found:
        raise _unnamed()
    name, config = found[0]
    return endpoint.model_copy(update={"model": name}), config


def _names(client: httpx.Client, endpoint: Endpoint) -> list[str]:
    status, told = _ask(client, "POST", f"{endpoint.http}/v2/repository/index", b'{"ready": true}')
    if status != 200 or not isinstance(told, list):
        raise _unnamed()
    return [str(one["name"]) for one in told if isinstance(one, dict) and "name" in one]


def _config(client: httpx.Client, endpoint: Endpoint, model: str) -> dict[str, Any]:
    status, told = _ask(client, "GET", f"{endpoint.http}/v2/models/{quote(model, safe='')}/config")
    if status != 200 or not isinstance(told, dict):
        raise CannotDo(Text(en=f"The server has no model “{model}” that is ready.",
                            zh=f"服务上没有就绪的模型“{model}”。"))  # fmt: skip
    return told


def _ask(client: httpx.Client, method: str, url: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and JSON, None where it is none. Follows no redirect, reads no more than LIMIT. Raises Unreachable."""
    deadline, text = time.monotonic() + 2 * TIMEOUT_S, b""
    try:
        with client.stream(method, url, content=body, timeout=TIMEOUT_S, follow_redirects=False) as answer:
            for part in answer.iter_bytes():
                text += part
                if len(text) > LIMIT or time.monotonic() > deadline:
                    raise httpx.ReadError("it does not end")
            status = answer.status_code
    except httpx.HTTPError as error:
        raise Unreachable(
            Text(en="The server does not answer.", zh="服务没有响应。"),
            Text(en="See whether it still runs on the Monitor page.", zh="请在“监控”页查看它是否仍在运行。"),
        ) from error
    try:
        return status, json.loads(text)
    except ValueError:
        return status, None


def _unnamed() -> CannotDo:
    return CannotDo(
        Text(en="No model is named, and the server does not list its models.",
             zh="没有指定模型，服务也不列出其模型。"),
        hint=Text(en="Add it again on the Monitor page with the name of its model.",
                  zh="请在“监控”页重新添加，并填写模型名称。"),
    )  # fmt: skip
