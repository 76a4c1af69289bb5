"""A way to another machine: its sockets and ports brought here by the person's own `ssh`, with its keys and settings.

The tunnel lives as long as the process that opened it: its far end waits for our end of a pipe to close.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from backends.errors import Unreachable
from backends.text import Text

DOCKER_SOCKET = "/var/run/docker.sock"


class Tunnel:
    """Forwards from this machine to `host` (ssh://[user@]name[:port]). `forwards` are pairs of near and far end, each
    a port or a path of a socket. Raises Unreachable where ssh fails or takes longer than `timeout_s`."""

    def __init__(self, host: str, forwards: Iterable[tuple[str, str]], timeout_s: float = 20.0) -> None:
        pairs = tuple(forwards)
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  kept as long as the tunnel
        try:
            self._child = subprocess.Popen(
                command(host, pairs, timeout_s),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,
            )
        except FileNotFoundError:
            self._said.close()
            raise Unreachable(
                Text(en=f"{host} cannot be reached: there is no ssh here.", zh=f"无法访问 {host}：本机没有 ssh。"),
                Text(en="Install OpenSSH's client.", zh="请安装 OpenSSH 客户端。"),
            ) from None
        deadline = time.monotonic() + timeout_s
        sockets = [Path(near) for near, _ in pairs if near.startswith("/")]
        up = b""
        while time.monotonic() < deadline and self._child.poll() is None:
            if not up and self._child.stdin is not None and self._child.stdout is not None:
                self._child.stdin.write(b"up\n")  # comes back once the forwards stand and the far end runs
                with contextlib.suppress(BrokenPipeError):
                    self._child.stdin.flush()
                up = self._child.stdout.readline()
            if up and all(path.exists() for path in sockets):
                return
            time.sleep(0.02)
        words = self._words()
        self.close()
        raise Unreachable(
            Text(en=f"{host} cannot be reached: {words}", zh=f"无法访问 {host}：{words}"),
            Text(
                en="Try `ssh` there by hand: it has to log in without asking for anything.",
                zh="请先手动执行 ssh 登录：必须无需任何交互即可登录。",
            ),
        )

    @property
    def alive(self) -> bool:
        """Whether the tunnel stands."""
        return self._child.poll() is None

    def close(self) -> None:
        """Ends the tunnel."""
        if self._child.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._child.stdin.close()
        self._child.terminate()
        self._child.wait()
        self._said.close()

    def _words(self) -> str:
        self._said.seek(0)
        lines = [line.strip() for line in self._said.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it did not answer in time"


def command(host: str, forwards: Iterable[tuple[str, str]], timeout_s: float) -> tuple[str, ...]:
    """The ssh command of a tunnel: no questions asked, no tunnel without all of its forwards."""
    parts = urlsplit(host)
    options = ["BatchMode=yes", "ExitOnForwardFailure=yes", "StreamLocalBindUnlink=yes", "ServerAliveInterval=15"]
    options.append(f"ConnectTimeout={max(1, int(timeout_s))}")
    argv = ["ssh", *(word for option in options for word in ("-o", option))]
    if parts.port:
        argv += ["-p", str(parts.port)]
    if parts.username:
        argv += ["-l", parts.username]
    for near, far in forwards:
        argv += ["-L", f"{near}:{far}" if near.startswith("/") else f"127.0.0.1:{near}:127.0.0.1:{far}"]
    return (*argv, "--", parts.hostname or "", "cat")


class DockerTunnel:
    """The Docker engine of another machine as a socket of this one. `url` is what the library connects to."""

    def __init__(self, host: str, timeout_s: float = 20.0) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="slipway-ssh-")
        near = f"{self._folder.name}/docker.sock"
        try:
            self._tunnel = Tunnel(host, [(near, urlsplit(host).path or DOCKER_SOCKET)], timeout_s)
        except Unreachable:
            self._folder.cleanup()
            raise
        self.url = f"unix://{near}"

    @property
    def alive(self) -> bool:
        """Whether the tunnel stands."""
        return self._tunnel.alive

    def close(self) -> None:
        """Ends the tunnel."""
        self._tunnel.close()
        self._folder.cleanup()
