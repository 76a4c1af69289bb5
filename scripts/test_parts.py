"""Gets the real parts that the tests use: the embedded runtime, a browser, fonts with Chinese characters, Docker.

With root and apt they are installed; without, the tests that need them are skipped by name with the reason. In CI
(CI=true) a missing part is an error. A Docker engine that runs already is used; else one is started here, and ended by
`--end` after the tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PACKAGES = {
    "chromium": "chromium",
    "fc-list": "fontconfig",
    "dockerd": "docker.io",
    "docker-registry": "docker-registry",
    "debootstrap": "debootstrap",
    "busybox": "busybox-static",
    "sshd": "openssh-server",
    "strace": "strace",
}
PATIENT = ("-o", "Acquire::Retries=3", "-o", "DPkg::Lock::Timeout=300")  # of a mirror, and of a machine's own updates
FONTS = ("fonts-noto-cjk", "/usr/share/fonts/opentype/noto")
BUILDX = "usr/libexec/docker/cli-plugins/docker-buildx"
BUILDX_SUITE = "trixie"  # Debian has it from there on


def main() -> int:
    """Installs what is missing; 0 where the tests can begin."""
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    if not Path(FONTS[1]).exists():
        missing.append(FONTS[0])
    if missing and hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"Installing for the tests: {' '.join(missing)}", flush=True)
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        quiet = {"env": env, "stdout": subprocess.DEVNULL}
        subprocess.run(("apt-get", *PATIENT, "update", "-q"), check=False, **quiet)
        install = ("apt-get", *PATIENT, "install", "-qy", "--no-install-recommends", *missing)
        subprocess.run(install, check=False, **quiet)
    _get_buildx()
    home = str(_home())
    for kept in ("slipway.db", "slipway.db-wal", "slipway.db-shm"):
        (Path(home) / kept).unlink(missing_ok=True)
    shutil.rmtree(Path(home) / "runs", ignore_errors=True)
    _start_docker()
    done = subprocess.run((sys.executable, "-m", "app", "--home", home, "setup"), check=False)
    return done.returncode


def end() -> int:
    """Ends the Docker engine that an earlier call started, and no other."""
    noted = _home() / "dockerd.pid"
    if not noted.exists():
        return 0
    pid = int(noted.read_text())
    noted.unlink()
    if b"dockerd" in _command(pid):
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + 30
        while b"dockerd" in _command(pid) and time.monotonic() < deadline:
            time.sleep(0.1)
    return 0


def _get_buildx() -> None:
    """Takes the package of `docker buildx` apart beside the tests' data: installed, every build would go through it.

    An older Debian has none; it is then asked of the release that has, at the address that apt uses here.
    """
    folder = _home() / "docker" / "buildx"
    if (folder / BUILDX).exists() or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    with tempfile.TemporaryDirectory() as own:
        for options in ((), _newer_debian(Path(own))):
            command = ("apt-get", *PATIENT, *options, "download", "-q", "docker-buildx")
            subprocess.run(command, cwd=own, check=False, capture_output=True)
            for package in Path(own).glob("docker-buildx_*.deb"):
                folder.mkdir(parents=True, exist_ok=True)
                subprocess.run(("dpkg-deb", "-x", str(package), str(folder)), check=False)
                return


def _newer_debian(own: Path) -> tuple[str, ...]:
    """Options of apt for lists of its own, of the release that has buildx, filled."""
    told = "".join(path.read_text() for path in Path("/etc/apt").glob("sources.list.d/*.sources"))
    told += Path("/etc/apt/sources.list").read_text() if Path("/etc/apt/sources.list").exists() else ""
    mirror = re.search(r"https?://\S+/debian/?(?=\s)", told)
    if mirror is None:
        return ()
    (own / "sources.list").write_text(f"deb {mirror[0]} {BUILDX_SUITE} main\n")
    (own / "lists" / "partial").mkdir(parents=True)
    named = {"Dir::Etc::sourcelist": own / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
             "Dir::State::lists": own / "lists", "Dir::Cache": own / "cache"}  # fmt: skip
    options = tuple(word for name, value in named.items() for word in ("-o", f"{name}={value}"))
    subprocess.run(("apt-get", *PATIENT, *options, "update", "-q"), check=False, capture_output=True)
    return options


def _start_docker() -> None:
    """Starts a Docker engine where none answers, and notes its pid. The tests say what is missing where it fails."""
    if _answers() or os.geteuid() != 0 or shutil.which("dockerd") is None:
        return
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    with (home / "dockerd.log").open("ab") as out:
        engine = subprocess.Popen(("dockerd",), stdout=out, stderr=out, start_new_session=True)
    (home / "dockerd.pid").write_text(str(engine.pid))
    deadline = time.monotonic() + 120
    while not _answers() and engine.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    if not _answers():
        print(f"Docker did not start; {home / 'dockerd.log'} tells why.", file=sys.stderr)


def _answers() -> bool:
    if os.environ.get("DOCKER_HOST"):
        return True  # somebody chose an engine: the tests use that one, or say that it is away
    with socket.socket(socket.AF_UNIX) as knock:
        return knock.connect_ex("/var/run/docker.sock") == 0


def _home() -> Path:
    return Path(os.environ.get("SLIPWAY_TEST_HOME") or Path.home() / ".cache" / "slipway-test")


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


if __name__ == "__main__":
    sys.exit(end() if sys.argv[1:] == ["--end"] else main())
