"""A hub of our own on loopback, speaking the paths of Hugging Face and ModelScope that Slipway reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

from tests.http_stand_in import listening, send

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """What the hub has: folders by model id, ids that are gated, and the token that opens them. `asked` is its log."""

    models: dict[str, Path] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    token: str = "hf_open_sesame"
    status: int | None = None  # answer everything with this status
    asked: list[tuple[str, str | None]] = field(default_factory=list)  # path, Range
    tokens: set[str] = field(default_factory=set)
    url: str = ""


def _answer(hub: Hub, handler: BaseHTTPRequestHandler) -> None:
    parts = urlsplit(handler.path)
    path = unquote(parts.path)
    hub.asked.append((path, handler.headers.get("Range")))
    given = (handler.headers.get("Authorization") or "").removeprefix("Bearer ")
    if given:
        hub.tokens.add(given)
    if hub.status is not None:
        return send(handler, hub.status, b"{}")
    if path.startswith("/api/v1/models/"):
        return _modelscope(hub, handler, path, {k: v[0] for k, v in parse_qs(parts.query).items()}, given)
    listing = path.startswith("/api/models/")
    words = path.removeprefix("/api/models/").lstrip("/").split("/")
    model = "/".join(words[:2])
    if model not in hub.models:
        return send(handler, 401 if not given else 404, b"{}", {"X-Error-Code": "RepoNotFound"})
    if words[3] == "nowhere":
        return send(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
    folder = hub.models[model]
    if listing:
        files = [{"rfilename": f.name, "size": f.stat().st_size} for f in sorted(folder.iterdir())]
        if len(words) > 2 and words[2] == "tree":
            told = [
                {"type": "file", "path": f.name, "size": f.stat().st_size, "oid": COMMIT}
                for f in sorted(folder.iterdir())
            ]
            return send(handler, 200, json.dumps(told).encode())
        told = {"id": model, "sha": COMMIT, "siblings": files, "private": False, "tags": [], "downloads": 0}
        return send(handler, 200, json.dumps(told).encode())
    if model in hub.gated and given != hub.token:
        return send(handler, 403 if given else 401, b"{}", {"X-Error-Code": "GatedRepo"})
    return _send_file(handler, folder / words[4])


def _modelscope(hub: Hub, handler: BaseHTTPRequestHandler, path: str, query: dict[str, str], given: str) -> None:
    words = path.removeprefix("/api/v1/models/").split("/")
    model = "/".join(words[:2])
    if model not in hub.models:
        return send(handler, 404, b'{"Code": 10010205001, "Success": false}')
    if model in hub.gated and given != hub.token:
        return send(handler, 403, b'{"Code": 10010202003, "Success": false}')
    folder = hub.models[model]
    if words[-1] == "files":
        files = [{"Path": f.name, "Size": f.stat().st_size, "Type": "blob"} for f in sorted(folder.iterdir())]
        return send(handler, 200, json.dumps({"Code": 200, "Data": {"Files": files}}).encode())
    return _send_file(handler, folder / query["FilePath"])


def _send_file(handler: BaseHTTPRequestHandler, path: Path) -> None:
    asked = handler.headers.get("Range")
    if not path.is_file():
        return send(handler, 404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
    size = path.stat().st_size
    etag = hashlib.sha256(f"{path} {size}".encode()).hexdigest()  # not of the content: a test's weights may be sparse
    marks = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
    if handler.command == "HEAD":
        return send(handler, 200, b"", marks | {"Content-Length": str(size)})
    if asked is None:
        return send(handler, 200, path.read_bytes(), marks)
    first, last = (int(number) for number in asked.removeprefix("bytes=").split("-"))
    with path.open("rb") as file:
        last = min(last, path.stat().st_size - 1)
        file.seek(first)
        return send(handler, 206, file.read(last - first + 1))


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub on a free port of loopback while the block runs."""
    with listening(lambda handler: _answer(hub, handler)) as address:
        hub.url = f"http://{address}"
        yield hub
