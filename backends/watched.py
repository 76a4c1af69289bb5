"""Triton servers that Slipway did not start, watched by address; and which addresses may be looked at. Pure.

A panel that fetches whatever address it is told could be made to ask what only its own machine can reach: a cloud's
metadata service, a router, a neighbour. So an address is looked at only on loopback, or on a host that the person who
started the panel has named (SLIPWAY_WATCH_HOSTS). The name is resolved once, when the server is added, and that very
address is used from then on: a name that later points elsewhere changes nothing. No redirect is followed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Self

from pydantic import Field, model_validator

from backends.errors import BadInput
from backends.spec import Endpoint, Frozen, refusal
from backends.text import Text

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?|[0-9A-Fa-f:.]{2,45}")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class WatchedServer(Frozen):
    """A server as a person names it. Ports are Triton's usual ones; `model` is that to talk to, where it is known."""

    name: Annotated[str, Field(min_length=1, max_length=64)]
    host: str = "127.0.0.1"
    http_port: int = Field(default=8000, ge=1, le=65535)
    grpc_port: int = Field(default=8001, ge=1, le=65535)
    metrics_port: int = Field(default=8002, ge=1, le=65535)
    model: Annotated[str, Field(max_length=128)] = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.name.isprintable() or not self.name.strip():
            raise refusal("Write a name of letters that can be shown.", "请填写由可见字符组成的名称。", "name")
        if not self.model.isprintable():
            raise refusal("Write the model's name without control characters.", "模型名称不能含控制字符。", "model")
        if not _HOST.fullmatch(self.host):
            raise refusal(
                "Write a host name or an address alone, such as gpu-7 or 127.0.0.1.",
                "只写主机名或地址，例如 gpu-7 或 127.0.0.1。",
                "host",
            )
        return self


class Watched(Frozen):
    """A server that is watched. `address` is what its host was resolved to when it was added."""

    id: str
    server: WatchedServer
    address: str
    added_at: datetime

    @property
    def endpoint(self) -> Endpoint:
        """Where it is looked at: the address, never the name."""
        told = self.server
        host = f"[{self.address}]" if ":" in self.address else self.address
        return Endpoint(host=host, http_port=told.http_port, grpc_port=told.grpc_port,
                        metrics_port=told.metrics_port, model=told.model)  # fmt: skip


def may_resolve(host: str, named: Iterable[str]) -> None:
    """Raises BadInput for a host that is neither loopback nor named; before anything is asked of a name server."""
    lowered = host.lower()
    if lowered == "localhost" or lowered in {name.lower() for name in named}:
        return
    address = _address(host)
    if address is None or not address.is_loopback:
        raise _not_named(host)


def chosen(host: str, found: Iterable[str], named: Iterable[str]) -> str:
    """Of the addresses that a host was resolved to, the one to use. Raises BadInput where any of them is forbidden.

    A host that is not named must be loopback with all its addresses. A named one may lie anywhere but where no server
    is: link-local (a cloud's metadata service), multicast, unspecified; those only if the address itself was named.
    """
    allowed = {name.lower() for name in named}
    addresses = [address for one in found if (address := _address(one)) is not None]
    if not addresses:
        raise BadInput("host", Text(en=f"host: {host} has no address.", zh=f"host：{host} 无法解析。"))
    for address in addresses:
        if address.is_loopback or str(address) in allowed:
            continue
        if host.lower() not in allowed or _nowhere(address):
            raise _not_named(host)
    return str(addresses[0])


def _address(text: str) -> Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address  # ::ffff:169.254.169.254 is 169.254.169.254


_METADATA = (ipaddress.ip_address("fd00:ec2::254"), ipaddress.ip_address("100.100.100.200"))  # AWS over IPv6, Alibaba


def _nowhere(address: Address) -> bool:
    return (
        address.is_link_local or address.is_multicast or address.is_unspecified or address.is_reserved
        or address in _METADATA
    )  # fmt: skip


def _not_named(host: str) -> BadInput:
    return BadInput(
        "host",
        Text(en=f"host: {host} may not be looked at from here.", zh=f"host：不允许从此处访问 {host}。"),
        Text(
            en="Servers on this machine (127.0.0.1) may. For another, start the panel with its name in "
            "SLIPWAY_WATCH_HOSTS.",
            zh="本机（127.0.0.1）上的服务可以。其他主机须在启动面板时写入 SLIPWAY_WATCH_HOSTS。",
        ),
    )
