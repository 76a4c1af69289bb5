"""A stand-in for NVIDIA's Triton image, for tests: Debian with the real tritonserver at /opt/tritonserver.

NVIDIA's own images are large and need GPUs; this one has their layout, the real server binary with its Python backend
(out of the nvidia-pytriton wheel that the embedded runtime uses), Debian's Python 3.11 and numpy 1. It is named as what
it is: `slipway.test/…`, with the label `slipway.test.stand-in`.

    python -m tests.docker.stand_in        build it where it is missing, say its name

The Debian root and the image are kept between runs; the digest of what they are made of decides.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import docker

IMAGE = "slipway.test/tritonserver:23.04-py3"
DEBIAN = "slipway.test/debian:12"
PYTHON = "slipway.test/python:3.11"  # stands for python:3.12-slim, as the base of the panel's own image
LABEL = "slipway.test.stand-in"
PACKAGES = "python3,libpython3.11,python3-numpy,git,make,ca-certificates,curl"
SUITE = "bookworm"
DOCKERFILE = f"""FROM {DEBIAN}
COPY tritonserver /opt/tritonserver
ENV PATH=/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \\
    LD_LIBRARY_PATH=/opt/tritonserver/lib TRITON_SERVER_VERSION={{version}}
WORKDIR /opt/tritonserver
"""
_UNNEEDED = ("var/cache/apt/archives", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
PYTHON_DOCKERFILE = f"""FROM {DEBIAN}
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
RUN apt-get update -q && apt-get install -qy --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/*
"""


def home() -> Path:
    """The data folder that `make test` prepares."""
    return Path(os.environ.get("SLIPWAY_TEST_HOME") or Path.home() / ".cache" / "slipway-test")


def why_not() -> str | None:
    """Why the image cannot be built here; None: it can, or it is there."""
    if os.geteuid() != 0:
        return "root (debootstrap makes a Debian root)"
    if shutil.which("debootstrap") is None:
        return "debootstrap (apt install debootstrap)"
    if not (home() / "runtime" / "tritonserver.json").exists():
        return f"the embedded runtime in {home() / 'runtime'}"
    return None


@contextlib.contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Two programs that run tests do not build the same."""
    (home() / "docker").mkdir(parents=True, exist_ok=True)
    with (home() / "docker" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@_one_at_a_time()
def build() -> str:
    """The image's name; builds it where it is missing. Raises CalledProcessError, docker.errors.APIError."""
    engine = docker.from_env(version="auto", timeout=600).api
    root = _debian_root()
    if not _there(engine, DEBIAN, _digest(root.name)):
        _import(engine, root)
    told = json.loads((home() / "runtime" / "tritonserver.json").read_text(encoding="utf-8"))
    digest = _digest(root.name, told["wheel"], Path(__file__).read_text(encoding="utf-8"))
    if not _there(engine, IMAGE, digest):
        with tempfile.TemporaryDirectory(dir=home() / "docker") as folder:
            context = Path(folder)
            _lay_out(context / "tritonserver", Path(told["server"]), Path(told["backend_directory"]))
            (context / "Dockerfile").write_text(DOCKERFILE.format(version=told["server_version"]), encoding="utf-8")
            said = list(engine.build(path=folder, tag=IMAGE, labels={LABEL: digest}, rm=True, decode=True))
        if not _there(engine, IMAGE, digest):
            raise RuntimeError(f"{IMAGE} could not be made: {said[-3:]}")
    return IMAGE


@_one_at_a_time()
def python() -> str:
    """A base for the panel's own image: Debian's Python with venv. It trusts what this machine trusts."""
    engine = docker.from_env(version="auto", timeout=600).api
    root = _debian_root()
    if not _there(engine, DEBIAN, _digest(root.name)):
        _import(engine, root)
    trusted = Path("/etc/ssl/certs/ca-certificates.crt")
    digest = _digest(root.name, PYTHON_DOCKERFILE, trusted.read_text(encoding="utf-8"))
    if not _there(engine, PYTHON, digest):
        with tempfile.TemporaryDirectory(dir=home() / "docker") as folder:
            shutil.copy2(trusted, folder)
            (Path(folder) / "Dockerfile").write_text(PYTHON_DOCKERFILE, encoding="utf-8")
            options = {"tag": PYTHON, "labels": {LABEL: digest}, "rm": True, "decode": True, "network_mode": "host"}
            said = list(engine.build(path=folder, **options))
        if not _there(engine, PYTHON, digest):
            raise RuntimeError(f"{PYTHON} could not be made: {said[-3:]}")
    return PYTHON


def _lay_out(target: Path, server: Path, backends: Path) -> None:
    libraries = server.parents[3] / "nvidia_pytriton.libs"
    (target / "bin").mkdir(parents=True)
    shutil.copy2(server, target / "bin" / "tritonserver")
    shutil.copytree(libraries, target / "lib")
    shutil.copytree(backends, target / "backends", ignore=shutil.ignore_patterns("__pycache__"))


def _debian_root() -> Path:
    """A Debian root folder, made once for a list of packages."""
    root = home() / "docker" / f"debian-{_digest(SUITE, PACKAGES)}"
    if root.is_dir():
        return root
    new = root.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    command = ("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(new))
    subprocess.run(command, check=True, stdout=sys.stderr)
    for folder in _UNNEEDED:
        shutil.rmtree(new / folder, ignore_errors=True)
    new.rename(root)
    return root


def _import(engine: docker.APIClient, root: Path) -> None:
    """Makes an image of one layer out of a Debian root."""
    name, tag = DEBIAN.rsplit(":", 1)
    with tempfile.NamedTemporaryFile(dir=home() / "docker", suffix=".tar") as archive:
        subprocess.run(("tar", "--numeric-owner", "-C", str(root), "-c", "."), check=True, stdout=archive)
        changes = ["CMD /bin/bash", f"LABEL {LABEL}={_digest(root.name)}"]
        said = engine.import_image(src=archive.name, repository=name, tag=tag, changes=changes)
    if not _there(engine, DEBIAN, _digest(root.name)):
        raise RuntimeError(f"{DEBIAN} could not be made: {said}")


def _there(engine: docker.APIClient, image: str, digest: str) -> bool:
    try:
        labels = engine.inspect_image(image)["Config"].get("Labels") or {}
    except docker.errors.ImageNotFound:
        return False
    return bool(labels.get(LABEL) == digest)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


if __name__ == "__main__":
    reason = why_not()
    if reason is not None:
        sys.exit(f"missing: {reason}")
    print(build())
