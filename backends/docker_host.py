"""Where the Docker engine listens, and why nobody answers there. For the probe and the target alike.

The socket is knocked on first: that tells "not installed", "not running" and "not allowed" apart, and costs nothing
where there is no Docker.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from backends.text import Text

_SOCKET = Path("/var/run/docker.sock")
_START = Text(en="Start it: sudo systemctl start docker.", zh="请启动：sudo systemctl start docker。")


_PASSWORD = re.compile(r"(?<=://)([^/@:]*):[^/@]*(?=@)")  # of an address: no kind of it takes one, all words show it


def endpoint(environ: Mapping[str, str]) -> str:
    """Where Docker listens: DOCKER_HOST, else the current Docker context, else the usual socket or a rootless one.
    Without a password, which neither Docker nor ssh reads there."""
    return _PASSWORD.sub(r"\1", _named(environ))


def _named(environ: Mapping[str, str]) -> str:
    if host := environ.get("DOCKER_HOST"):
        return host
    folder = config_folder(environ)
    context = environ.get("DOCKER_CONTEXT") or _value(folder / "config.json", "currentContext")
    if context and context != "default":
        meta = folder / "contexts" / "meta" / sha256(context.encode()).hexdigest() / "meta.json"
        host = _value(meta, "Endpoints", "docker", "Host")
        if host:
            return host
    rootless = Path(environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "docker.sock"
    with contextlib.suppress(OSError):
        if not _SOCKET.exists() and rootless.exists():
            return f"unix://{rootless}"
    return f"unix://{_SOCKET}"


def closed(host: str, timeout_s: float) -> Text | None:
    """Why nobody can be reached at a Unix socket; None where somebody listens, and for other kinds of address."""
    if not host.startswith("unix://"):
        return None
    path = host.removeprefix("unix://")
    try:
        with socket.socket(socket.AF_UNIX) as knock:
            knock.settimeout(timeout_s)
            knock.connect(path)
    except FileNotFoundError:
        return Text(
            en=f"Docker is not running here: there is no {path}. Install Docker, or start it.",
            zh=f"此处没有运行 Docker：{path} 不存在。请安装或启动 Docker。",
        )
    except PermissionError:
        return Text(
            en=f"Docker is there, but this user may not open {path}. "
            "Add the user to the group: sudo usermod -aG docker $USER, then log in again.",
            zh=f"Docker 已就绪，但当前用户无权打开 {path}。请执行 sudo usermod -aG docker $USER 后重新登录。",
        )
    except ConnectionRefusedError:
        return (
            Text(en=f"Nobody listens at {path}: Docker has stopped.", zh=f"{path} 无人监听：Docker 已停止。") + _START
        )
    except TimeoutError:
        return slow(host, timeout_s)
    except OSError as error:
        return Text(en=f"{path} cannot be opened: {error.strerror}.", zh=f"无法打开 {path}：{error.strerror}。")
    return None


def refused(host: str, error: Exception, timeout_s: float) -> Text:
    """Why the engine at `host` cannot be used, from what its library raised."""
    said = str(error)
    if "timed out" in said.lower():
        return slow(host, timeout_s)
    if "connection refused" in said.lower():
        return Text(en=f"Nobody listens at {host}.", zh=f"{host} 无人监听。")
    if re.search("name resolution|name or service not known|nodename nor servname", said, re.IGNORECASE):
        return Text(
            en=f"The host of {host} is not known. Check DOCKER_HOST.", zh=f"无法解析 {host}，请检查 DOCKER_HOST。"
        )
    if "certificate" in said.lower() or "tls" in said.lower():
        return Text(
            en=f"TLS with {host} failed. Check DOCKER_TLS_VERIFY and DOCKER_CERT_PATH.",
            zh=f"与 {host} 的 TLS 连接失败，请检查 DOCKER_TLS_VERIFY 与 DOCKER_CERT_PATH。",
        )
    cause = said.splitlines()[0][:200] if said else type(error).__name__
    return Text(en=f"Docker at {host} cannot be used: {cause}.", zh=f"无法使用 {host} 上的 Docker：{cause}。")


def slow(host: str, timeout_s: float) -> Text:
    """It is there, but does not answer."""
    return Text(
        en=f"Docker at {host} did not answer within {timeout_s:g} s.",
        zh=f"{host} 上的 Docker 在 {timeout_s:g} 秒内没有应答。",
    )


def config_folder(environ: Mapping[str, str]) -> Path:
    """Where Docker's command keeps its settings and logins."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/") / ".docker")


def proxies(environ: Mapping[str, str], host: str) -> dict[str, str]:
    """The proxies that Docker's own settings give to every container and build, as environment variables.

    Source: https://docs.docker.com/engine/cli/proxy/ (proxies, by the engine's address or "default").
    """
    path = config_folder(environ) / "config.json"
    found: dict[str, str] = {}
    for key, name in (("httpProxy", "http_proxy"), ("httpsProxy", "https_proxy"), ("noProxy", "no_proxy")):
        value = _value(path, "proxies", host, key) or _value(path, "proxies", "default", key)
        if value:
            found |= {name: value, name.upper(): value}
    return found


def _value(path: Path, *keys: str) -> str | None:
    """A string deep in a JSON file; None where the file or the value is missing or odd."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None
