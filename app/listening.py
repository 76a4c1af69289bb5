"""Where the panel listens: taken before anything is begun, so that an address that cannot be had costs nothing.

Beside its port a panel holds a lock in the data folder that is named after its address, so that another one knows whom
it met. The kernel gives both back, however the panel ends.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from app.jobs import hold
from app.settings import Settings
from backends.errors import BadInput, Conflict, SlipwayError
from backends.text import Text

BACKLOG = 2048
ALL = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  every address of this machine, and one where it is reached
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


@contextmanager
def listening(settings: Settings) -> Iterator[list[socket.socket]]:
    """Sockets that listen at the panel's address as long as the block lasts.

    They listen before the panel can answer, since two programs may bind one address until one of them listens; who
    comes that early waits. Raises Conflict where the port is taken, BadInput where the address cannot be this panel's.
    """
    with ExitStack() as held:
        try:
            places = _places(settings.host, settings.port)
            mark = hold(_mark(settings.home, settings.host, settings.port))
            if mark is not None:
                held.enter_context(mark)
            sockets = [held.enter_context(one) for one in _bound(places)]
        except (OSError, UnicodeError) as error:
            held.close()
            refusal = _refusal(error, settings)
            if refusal is None:
                raise
            raise refusal from None
        yield sockets


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds a panel that listens there."""
    host = ALL.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _places(host: str, port: int) -> dict[tuple[int, Any], None]:
    """Family and address of each socket. Raises OSError, UnicodeError where the name means nothing."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return dict.fromkeys((family, place) for family, _, _, _, place in found)


def _bound(places: dict[tuple[int, Any], None]) -> list[socket.socket]:
    """All or none. An address that this machine lacks is left out where a name has others, as localhost may have."""
    lacking: OSError | None = None
    with ExitStack() as held:
        sockets = []
        for family, place in places:
            try:
                sockets.append(held.enter_context(socket.create_server(place, family=family, backlog=BACKLOG)))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                lacking = error
        if not sockets and lacking is not None:
            raise lacking
        held.pop_all()
        return sockets


def _mark(home: Path, host: str, port: int) -> Path:
    return home / "panels" / quote(f"{host}:{port}", safe=":")


def _panel_there(settings: Settings) -> str | None:
    """The address of a panel of this data folder that has the port."""
    for mark in _mark(settings.home, "-", settings.port).parent.glob(f"*:{settings.port}"):
        free = hold(mark)
        if free is None:
            return address(unquote(mark.name).rpartition(":")[0], settings.port)
        free.close()
    return None


def _refusal(error: OSError | UnicodeError, settings: Settings) -> SlipwayError | None:
    """Why that address cannot be had, in words; None where it is not the address's fault."""
    host, port = settings.host, settings.port
    why = error.errno if isinstance(error, OSError) else None
    if isinstance(error, UnicodeError | socket.gaierror) or why in _NOT_HERE:
        return BadInput(
            "host",
            Text(en=f"host: this machine has no address “{host}”.", zh=f"host：本机没有地址“{host}”。"),
            Text(
                en="Use 127.0.0.1 for this machine alone or 0.0.0.0 for all of its addresses: --host, SLIPWAY_HOST.",
                zh="仅供本机访问用 127.0.0.1，监听本机所有地址用 0.0.0.0：--host 或 SLIPWAY_HOST。",
            ),
        )
    other = port + 1 if port < 65535 else port - 1
    if why == errno.EADDRINUSE:
        there = _panel_there(settings)
        if there is not None:
            return Conflict(
                Text(en=f"This data folder's panel runs already: {there}", zh=f"此数据目录的面板已在运行：{there}"),
                Text(
                    en=f"Open that address. A second one needs another port: --port {other}, or SLIPWAY_PORT={other}.",
                    zh=f"打开该地址即可。再开一个面板需换端口：--port {other} 或 SLIPWAY_PORT={other}。",
                ),
                "port",
            )
        return Conflict(
            Text(
                en=f"port: another program listens on port {port} of {host} already.",
                zh=f"port：{host} 的端口 {port} 已被其他程序占用。",
            ),
            Text(
                en=f"Choose another port: --port {other}, or SLIPWAY_PORT={other}.",
                zh=f"换一个端口：--port {other} 或 SLIPWAY_PORT={other}。",
            ),
            "port",
        )
    if why in (errno.EACCES, errno.EPERM):
        return BadInput(
            "port",
            Text(en=f"port: you may not listen on port {port}.", zh=f"port：没有权限监听端口 {port}。"),
            Text(
                en="Ports below 1024 mostly belong to root. Choose a higher one: --port, SLIPWAY_PORT.",
                zh="1024 以下的端口通常仅限 root 使用，请换更大的端口：--port 或 SLIPWAY_PORT。",
            ),
        )
    return None
