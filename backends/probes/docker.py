"""The Docker engine: can it be reached, what can it do. Every way of not reaching it has its own words.

The socket is knocked on first: that tells "not installed", "not running" and "not allowed" apart, and costs nothing
where there is no Docker. Only then is the Docker library imported, which is slow.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backends.docker_host import closed, config_folder, endpoint, refused
from backends.errors import Unreachable
from backends.spec import Docker
from backends.ssh import DockerTunnel
from backends.text import Text

_CONTAINERD = Path("/var/lib/containerd")  # where images lie when Docker keeps them in containerd's store
_PLUGINS = (  # where Docker's command looks for plugins, beside ~/.docker/cli-plugins
    Path("/usr/local/lib/docker/cli-plugins"),
    Path("/usr/local/libexec/docker/cli-plugins"),
    Path("/usr/lib/docker/cli-plugins"),
    Path("/usr/libexec/docker/cli-plugins"),
)


def read(timeout_s: float = 2.0, environ: Mapping[str, str] | None = None) -> Docker:
    """What the Docker engine says of itself. `timeout_s` holds for each question. Raises nothing of Docker's."""
    environ = os.environ if environ is None else environ
    host = endpoint(environ)
    tunnel: DockerTunnel | None = None
    if host.startswith("ssh://"):
        try:
            tunnel = DockerTunnel(host, timeout_s)
        except Unreachable as away:
            return Docker(host=host, why=away.message, buildx=_buildx(environ))
    why = closed(host, timeout_s)
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
            version="auto",
            timeout=math.ceil(timeout_s),
            environment={**environ, "DOCKER_HOST": tunnel.url if tunnel else host},
        )
        version, info = client.version(), client.info()
    except Exception as error:  # requests, urllib3, TLS files, the library's own: all mean "not reachable", and say why
        return Docker(host=host, why=refused(host, error, timeout_s), buildx=_buildx(environ))
    finally:
        if client is not None:
            client.close()
        if tunnel is not None:
            tunnel.close()
    return _facts(host, version, info, _buildx(environ))


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


def _buildx(environ: Mapping[str, str]) -> bool:
    return any(
        os.access(folder / "docker-buildx", os.X_OK) for folder in (config_folder(environ) / "cli-plugins", *_PLUGINS)
    )


def _names_gpus(folder: Path) -> bool:
    """Whether a CDI file in `folder` describes NVIDIA GPUs."""
    for pattern in ("*.yaml", "*.json"):
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                if "nvidia.com/gpu" in path.read_text(errors="replace"):
                    return True
    return False
