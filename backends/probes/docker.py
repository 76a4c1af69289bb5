"""The Docker engine: can it be reached, what can it do. Every way of not reaching it has its own words.

The socket is knocked on first: that tells "not installed", "not running" and "not allowed" apart, and costs nothing
where there is no Docker. Only then is the Docker library imported, which is slow.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import socket
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from backends.spec import Docker
from backends.text import Text

_SOCKET = Path("/var/run/docker.sock")
_CONTAINERD = Path("/var/lib/containerd")  # where images lie when Docker keeps them in containerd's store
_PLUGINS = (  # where Docker's command looks for plugins, beside ~/.docker/cli-plugins
    Path("/usr/local/lib/docker/cli-plugins"),
    Path("/usr/local/libexec/docker/cli-plugins"),
    Path("/usr/lib/docker/cli-plugins"),
    Path("/usr/libexec/docker/cli-plugins"),
)
_START = Text(en="Start it: sudo systemctl start docker.", zh="请启动：sudo systemctl start docker。")


def read(timeout_s: float = 2.0, environ: Mapping[str, str] | None = None) -> Docker:
    """What the Docker engine says of itself. `timeout_s` holds for each question. Raises nothing of Docker's."""
    environ = os.environ if environ is None else environ
    host = endpoint(environ)
    why = _closed(host, timeout_s)
    if why is not None:
        return Docker(host=host, why=why, buildx=_buildx(environ))
    try:
        import docker
    except ImportError:
        why = Text(en="The Docker library for Python is not installed.", zh="未安装 Docker 的 Python 库。")
        return Docker(host=host, why=why, buildx=_buildx(environ))
    client = None
    try:
        client = docker.from_env(
            version="auto", timeout=math.ceil(timeout_s), environment={**environ, "DOCKER_HOST": host}
        )
        version, info = client.version(), client.info()
    except Exception as error:  # requests, urllib3, TLS files, the library's own: all mean "not reachable", and say why
        return Docker(host=host, why=_refused(host, error, timeout_s), buildx=_buildx(environ))
    finally:
        if client is not None:
            client.close()
    return _facts(host, version, info, _buildx(environ))


def endpoint(environ: Mapping[str, str]) -> str:
    """Where Docker listens: DOCKER_HOST, else the current Docker context, else the usual socket or a rootless one."""
    if host := environ.get("DOCKER_HOST"):
        return host
    folder = _config_folder(environ)
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


def images_folder(facts: Docker, containerd_store: bool) -> str | None:
    """Where pulled images lie on this machine. None where the engine is elsewhere or not reachable."""
    if not facts.reachable or not (facts.host or "").startswith("unix://"):
        return None
    return str(_CONTAINERD) if containerd_store and _CONTAINERD.is_dir() else facts.root


def _facts(host: str, version: Mapping[str, Any], info: Mapping[str, Any], buildx: bool) -> Docker:
    devices = [str(device.get("ID", "")) for device in info.get("DiscoveredDevices") or ()]
    folders = [Path(folder) for folder in info.get("CDISpecDirs") or ()]
    cdi: bool | None = any(device.startswith("nvidia.com/gpu") for device in devices)
    if not cdi and host.startswith("unix://"):
        cdi = any(_names_gpus(folder) for folder in folders)
    elif not cdi and folders:
        cdi = None  # the engine reads CDI files of another machine, and does not list what it found
    root = str(info["DockerRootDir"]) if info.get("DockerRootDir") else None
    store = any("containerd" in str(line) for line in info.get("DriverStatus") or ())
    facts = Docker(
        reachable=True,
        host=host,
        version=version.get("Version"),
        api_version=version.get("ApiVersion"),
        root=root,
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        cdi=cdi,
        buildx=buildx,
    )
    return facts.model_copy(update={"images": images_folder(facts, store)})


def _closed(host: str, timeout_s: float) -> Text | None:
    """Why nobody can be reached at a Unix socket; None where somebody listens, and for other kinds of address."""
    if host.startswith("ssh://"):
        return Text(
            en=f"Docker at {host} is behind SSH. "
            "Forward its socket and set DOCKER_HOST to that, or run on that machine.",
            zh=f"{host} 上的 Docker 需经 SSH 访问。请转发其套接字并设置 DOCKER_HOST，或在那台机器上运行。",
        )
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
        return _slow(host, timeout_s)
    except OSError as error:
        return Text(en=f"{path} cannot be opened: {error.strerror}.", zh=f"无法打开 {path}：{error.strerror}。")
    return None


def _refused(host: str, error: Exception, timeout_s: float) -> Text:
    said = str(error)
    if "timed out" in said.lower():
        return _slow(host, timeout_s)
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


def _slow(host: str, timeout_s: float) -> Text:
    return Text(
        en=f"Docker at {host} did not answer within {timeout_s:g} s.",
        zh=f"{host} 上的 Docker 在 {timeout_s:g} 秒内没有应答。",
    )


def _buildx(environ: Mapping[str, str]) -> bool:
    return any(
        os.access(folder / "docker-buildx", os.X_OK) for folder in (_config_folder(environ) / "cli-plugins", *_PLUGINS)
    )


def _config_folder(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/") / ".docker")


def _value(path: Path, *keys: str) -> str | None:
    """A string deep in a JSON file; None where the file or the value is missing or odd."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, str) else None


def _names_gpus(folder: Path) -> bool:
    """Whether a CDI file in `folder` describes NVIDIA GPUs."""
    for pattern in ("*.yaml", "*.json"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if "nvidia.com/gpu" in path.read_text(errors="replace"):
                    return True
    return False
