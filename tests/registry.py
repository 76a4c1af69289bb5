"""A registry of images on loopback that can be slow in the middle of a layer, spoil one, and refuse.

A name stands for an image that the engine has, whose layers it need not fetch again, or for layers of our own that it
has not.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import select
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from tests.http_stand_in import listening, send

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
LAYER_BYTES = 2 * 2**20


@dataclass
class Registry:
    """`address` is what stands before the names of its images."""

    address: str = ""
    manifests: dict[str, bytes] = field(default_factory=dict)  # "name:tag" -> manifest
    blobs: dict[str, bytes] = field(default_factory=dict)  # digest -> what it is the digest of
    slow: set[str] = field(default_factory=set)  # blobs whose second half takes longer than anybody waits
    denied: set[str] = field(default_factory=set)  # names that were asked for too often
    waiting: set[str] = field(default_factory=set)  # slow blobs that somebody waits for

    def offer(self, name: str, image_id: str) -> str:
        """Lets the name stand for an image that the engine has, by its id; returns the whole name."""
        return self._tag(name, image_id, ())

    def offer_other(self, name: str) -> tuple[str, str]:
        """Lets the name stand for an image that nobody has; returns the digests of its two layers."""
        layers = [_layer(f"data{number}") for number in range(2)]
        told = {"architecture": "amd64", "os": "linux", "config": {}, "history": []}
        told["rootfs"] = {"type": "layers", "diff_ids": [_digest(gzip.decompress(one)) for one in layers]}
        first, second = (self._blob(one) for one in layers)
        self._tag(name, self._blob(json.dumps(told).encode()), (first, second))
        return first, second

    def spoil(self, digest: str) -> None:
        """Lets a blob come as something else than its digest says."""
        self.blobs[digest] = self.blobs[digest][::-1]

    def manifest(self, name: str, wanted: str) -> bytes | None:
        """By tag, or by digest as an engine asks that has seen the tag."""
        found = [one for whole, one in self.manifests.items() if whole.rpartition(":")[0] == name]
        by_digest = {_digest(one): one for one in found}
        return self.manifests.get(f"{name}:{wanted}") or by_digest.get(wanted)

    def _blob(self, data: bytes) -> str:
        digest = _digest(data)
        self.blobs[digest] = data
        return digest

    def _tag(self, name: str, config: str, layers: tuple[str, ...]) -> str:
        parts = [{"mediaType": LAYER, "size": len(self.blobs[one]), "digest": one} for one in layers]
        size = len(self.blobs.get(config, b"{}"))
        told = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": parts}
        told["config"] = {"mediaType": CONFIG, "size": size, "digest": config}
        self.manifests[name] = json.dumps(told).encode()
        return f"{self.address}/{name}"


def _layer(name: str) -> bytes:
    """A layer with one file that cannot be packed smaller."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", compresslevel=1) as tar:
        told = tarfile.TarInfo(name)
        told.size = LAYER_BYTES
        tar.addfile(told, io.BytesIO(os.urandom(LAYER_BYTES)))
    return out.getvalue()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _answer(registry: Registry, handler: BaseHTTPRequestHandler) -> None:
    """GET and HEAD of /v2/, /v2/NAME/manifests/TAG and /v2/NAME/blobs/DIGEST."""
    path = handler.path.removeprefix("/v2/")
    name, kind, what = path.rsplit("/", 2) if path.count("/") > 1 else (path, "", "")
    if not kind:
        return send(handler, 200, b"{}")
    if kind == "blobs":
        if what in registry.slow:
            return _slowly(registry, handler, what)
        return send(handler, 200, registry.blobs[what], {"Docker-Content-Digest": what})
    image = f"{name}:{what}"
    if image in registry.denied:
        return _refuse(handler, 429, "TOOMANYREQUESTS", "You have reached your pull rate limit.")
    manifest = registry.manifest(name, what)
    if manifest is None:
        return _refuse(handler, 404, "MANIFEST_UNKNOWN", "manifest unknown")
    return send(handler, 200, manifest, {"Content-Type": MANIFEST, "Docker-Content-Digest": _digest(manifest)})


def _slowly(registry: Registry, handler: BaseHTTPRequestHandler, digest: str) -> None:
    """Half of a blob, and from then on a byte at a time, until who asked hangs up."""
    data = registry.blobs[digest]
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    half = len(data) // 2
    handler.wfile.write(data[:half])
    registry.waiting.add(digest)
    with suppress(ConnectionError):
        for at in range(half, len(data)):
            handler.wfile.write(data[at : at + 1])
            if select.select((handler.connection,), (), (), 0.1)[0]:
                break  # it has hung up
    registry.waiting.discard(digest)
    handler.close_connection = True


def _refuse(handler: BaseHTTPRequestHandler, status: int, code: str, message: str) -> None:
    body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    send(handler, status, body, {"Content-Type": "application/json"})


@contextmanager
def serving() -> Iterator[Registry]:
    """A registry on a free port of loopback while the block runs."""
    registry = Registry()
    with listening(lambda handler: _answer(registry, handler)) as registry.address:
        yield registry
