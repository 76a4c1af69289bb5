"""The Docker engine as a target sees it: one client, streams that can be left at any time, errors in words."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker
import docker.utils
import requests
from docker.types import CancellableStream

from backends import docker_host, doctor
from backends.errors import OutOfSpace, SlipwayError, StepFailed, Unreachable
from backends.spec import has_login
from backends.ssh import DockerTunnel
from backends.text import Text

ANSWER_S = 30  # how long one question may take: an engine under load is slow, not gone
_CONTAINERD = "/var/lib/containerd"  # where images lie when Docker keeps them in containerd's store
_GONE = (requests.exceptions.ConnectionError, requests.exceptions.Timeout, requests.exceptions.ChunkedEncodingError)


class _Client(docker.APIClient):
    """A client that keeps its last answer, so that a stream can be closed from another thread."""

    answer: requests.Response | None = None

    def send(self, request: requests.PreparedRequest, **options: Any) -> requests.Response:
        self.answer = super().send(request, **options)
        return self.answer


class Engine:
    """One Docker engine: where `environ` says. Connects when first asked, again after it was away. Thread-safe."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self._api: _Client | None = None
        self._info: dict[str, Any] | None = None
        self._connecting = threading.Lock()
        self._tunnel: DockerTunnel | None = None
        self._tunnelling = threading.Lock()

    @property
    def host(self) -> str:
        """Where it listens, as DOCKER_HOST would say."""
        return docker_host.endpoint(self._environ)

    @property
    def local(self) -> bool:
        """Whether it runs on this machine, so that its paths are paths of this machine."""
        return self.host.startswith("unix://")

    def api(self) -> Any:
        """The client (docker.APIClient; the types that exist for it cover a part). Raises Unreachable."""
        with self._connecting:
            if self._api is None:
                self._api = self._connect()
            return self._api

    def info(self) -> dict[str, Any]:
        """What the engine says of itself, asked once."""
        with self._connecting:
            kept = self._info
        if kept is None:
            with self.clearly():
                kept = self.api().info()
            self._info = kept
        return kept

    @property
    def rootless(self) -> bool:
        """Whether the engine runs as the person: root inside a container is then the person outside."""
        return any("rootless" in str(option) for option in self.info().get("SecurityOptions") or ())

    @property
    def cdi(self) -> bool:
        """Whether the engine can give GPUs out by their CDI names only (no NVIDIA runtime, but CDI files)."""
        info = self.info()
        named = any("nvidia.com/gpu" in str(device.get("ID")) for device in info.get("DiscoveredDevices") or ())
        return named and "nvidia" not in (info.get("Runtimes") or {})

    @property
    def secret_proxies(self) -> dict[str, str]:
        """Docker's own proxies where one of them holds a login, which `docker inspect` would show; else empty."""
        found = docker_host.proxies(self._environ, self.host)
        return found if any(map(has_login, found.values())) else {}

    def root(self) -> str | None:
        """The folder of this machine where images and containers lie; None where the engine is elsewhere."""
        if not self.local:
            return None
        info = self.info()
        in_containerd = any("containerd" in str(line) for line in info.get("DriverStatus") or ())
        folder = _CONTAINERD if in_containerd and Path(_CONTAINERD).is_dir() else str(info.get("DockerRootDir") or "")
        return folder if folder and os.path.isdir(folder) else None  # noqa: PTH112  Path.is_dir hides "not allowed"

    def away(self) -> Text | None:
        """Why the engine does not answer right now; None where it does."""
        try:
            with self.clearly():
                self.api().ping()
        except Unreachable as gone:
            return gone.message
        return None

    @contextlib.contextmanager
    def clearly(self) -> Iterator[None]:
        """Turns what the library raises into our errors. `NotFound` of the library passes, for who asked."""
        try:
            yield
        except docker.errors.NotFound:
            raise
        except docker.errors.APIError as error:
            raise said(str(error.explanation or error)) from error
        except _GONE as error:
            self._forget()
            raise Unreachable(self._why(error), _AGAIN) from error
        except docker.errors.DockerException as error:
            raise said(str(error)) from error

    def flow(self, begin: Callable[[Any], Iterator[Any]]) -> Flow:
        """A stream of messages read by a thread of its own on a connection of its own; `begin` starts it."""
        return Flow(self, self._connect(), begin)

    def connect(self) -> Any:
        """A client of its own, for who keeps a connection busy. Raises Unreachable."""
        return self._connect()

    def _connect(self) -> _Client:
        host = self._reached()
        why = docker_host.closed(host, ANSWER_S)
        if why is not None:
            raise Unreachable(why)
        try:
            options = docker.utils.kwargs_from_env(environment=self._environ | {"DOCKER_HOST": host})
            return _Client(version="auto", timeout=ANSWER_S, **options)
        except (docker.errors.DockerException, *_GONE) as error:
            raise Unreachable(self._why(error), _AGAIN) from error

    def _reached(self) -> str:
        """The engine's address as it is reached from here: through a tunnel where it is behind SSH."""
        host = self.host
        if not host.startswith("ssh://"):
            return host
        with self._tunnelling:
            if self._tunnel is None or not self._tunnel.alive:
                self._tunnel = DockerTunnel(host, ANSWER_S)
            return self._tunnel.url

    def _why(self, error: Exception) -> Text:
        return docker_host.closed(self.host, 2.0) or docker_host.refused(self.host, error, ANSWER_S)

    def _forget(self) -> None:
        with self._connecting:
            self._api = None


class Flow:
    """Messages of a long operation. Leaving it closes the connection, which makes the engine give the operation up."""

    def __init__(self, engine: Engine, client: _Client, begin: Callable[[Any], Iterator[Any]]) -> None:
        self._engine = engine
        self._client = client
        self._come: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._failed: Exception | None = None
        self._left = False
        self._thread = threading.Thread(target=self._read, args=(begin,), daemon=True)
        self._thread.start()

    def __enter__(self) -> Flow:
        return self

    def __exit__(self, *_: object) -> None:
        self._left = True
        answer = self._client.answer
        if self._thread.is_alive() and answer is not None:
            with contextlib.suppress(OSError, AttributeError, docker.errors.DockerException):
                CancellableStream(iter(()), answer).close()
        self._client.close()

    def batches(self, every_s: float) -> Iterator[list[Any]]:
        """What has come, at least every `every_s` seconds, be it nothing. Ends with the stream.

        Raises what the stream ended with, in words.
        """
        while True:
            batch: list[Any] = []
            deadline = time.monotonic() + every_s
            ended = False
            while not ended and (wait := deadline - time.monotonic()) > 0:
                try:
                    message = self._come.get(timeout=wait)
                except queue.Empty:
                    break
                ended = message is _END
                if not ended:
                    batch.append(message)
                if len(batch) >= 1000:
                    break
            yield batch
            if ended:
                break
        if self._failed is not None:
            try:
                with self._engine.clearly():
                    raise self._failed
            except docker.errors.NotFound as error:
                raise said(str(error.explanation or error)) from error

    def _read(self, begin: Callable[[Any], Iterator[Any]]) -> None:
        try:
            for message in begin(self._client):
                self._come.put(message)
        except Exception as error:  # handed to the reader of `batches`, which raises it
            if not self._left:
                self._failed = error
        finally:
            self._come.put(_END)


_END = object()
_AGAIN = Text(en="Once it answers, retry: what was done is kept.", zh="待其恢复后重试，已完成的部分会保留。")


def said(words: str) -> SlipwayError:
    """The engine's own words as an error; a known one with its cause and cure."""
    words = words.strip()
    found = doctor.diagnose((words,))
    shown = words if len(words) <= 500 else f"{words[:500]} …"
    message = Text(en=f"Docker said: {shown}", zh=f"Docker 返回：{shown}")
    if found is None:
        return StepFailed(message, last_lines=(words,))
    kind = OutOfSpace if found.id == "disk-full" else StepFailed
    return kind(found.cause + message, found.hint, last_lines=(words,))
