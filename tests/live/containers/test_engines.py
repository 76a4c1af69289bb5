"""Engines that are away, full, or behind SSH."""

from __future__ import annotations

import getpass
import http.server
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from backends.errors import OutOfSpace, StepFailed, Unreachable
from backends.ssh import Tunnel
from backends.steps import (
    BuildImage,
    Forecast,
    PullImage,
)
from backends.targets import docker as docker_target
from backends.targets.waiting import healthy
from backends.text import same
from scripts.bench.engine_server import free_ports
from tests.conftest import missing, until
from tests.live.containers.parts import RUN, a_target, asked, do, filled, log, mine, repository, task, triton

pytestmark = pytest.mark.live


class OwnEngine:
    """A Docker engine beside the machine's own, on a small disk in memory, to be stopped and filled."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        self.folder = folder
        self.host = f"unix://{folder}/docker.sock"
        self._root = folder / "root"
        self._root.mkdir()
        subprocess.run(("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", str(self._root)), check=True)
        self._child: subprocess.Popen | None = None
        self.start()

    def start(self) -> None:
        # In namespaces of its own: an engine without a bridge removes the bridge of the machine's own engine.
        argv = (
            "unshare", "--net", "--mount",
            "dockerd", f"--host={self.host}", f"--data-root={self._root}", f"--exec-root={self.folder}/exec",
            f"--pidfile={self.folder}/pid", "--bridge=none", "--iptables=false", "--storage-driver=overlay2",
        )  # fmt: skip
        with (self.folder / "dockerd.log").open("ab") as out:
            self._child = subprocess.Popen(argv, stdout=out, stderr=out)
        until(self._up, 40, "an engine of our own")

    def stop(self) -> None:
        if self._child is not None:
            self._child.terminate()
            self._child.wait(30)
            self._child = None

    def client(self) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.host, version="auto", timeout=60)

    def load(self) -> str:
        """A tiny image: one static program of Debian's that sleeps, waits and writes."""
        context = self.folder / "busybox"
        context.mkdir()
        shutil.copy2(shutil.which("busybox") or "", context / "busybox")
        (context / "Dockerfile").write_text("FROM scratch\nCOPY busybox /bin/sh\nCOPY busybox /bin/sleep\n")
        self.client().images.build(path=str(context), tag="slipway.test/busybox:1", rm=True)
        return "slipway.test/busybox:1"

    def end(self) -> None:
        self.stop()
        mounted = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for path in sorted((path for path in mounted if path.startswith(str(self.folder))), reverse=True):
            subprocess.run(("umount", "-l", path), check=True)

    def _up(self) -> bool:
        try:
            return bool(self.client().ping())
        except (docker.errors.DockerException, OSError):
            return False


@pytest.fixture(scope="session")
def own(engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None:
        missing("root and dockerd, for an engine of our own")
    if shutil.which("busybox") is None:
        missing("busybox (apt install busybox-static)")
    own = OwnEngine(tmp_path_factory.mktemp("own"), 96)
    own.image = own.load()
    yield own
    own.end()


def test_an_engine_that_was_restarted_is_told_as_the_cause(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    up = threading.Event()

    def restart() -> None:
        up.wait(30)
        own.stop()
        own.start()

    beside = threading.Thread(target=restart)
    beside.start()

    def look() -> bool:
        if "up" in log(home):
            up.set()
        return False

    step = task(own.image, "trap 'exit 143' TERM; echo up; sleep 600 & wait", container={"network": "host"})
    with pytest.raises(StepFailed, match="Docker was stopped or restarted") as failed:
        do(target, home, step, look)
    beside.join(60)
    assert "重启" in failed.value.message.zh
    assert failed.value.last_lines == ("up",)
    assert not own.client().containers.list(all=True)


def test_an_engine_that_stays_away_is_named_and_the_run_ends(own: OwnEngine, home: Path, monkeypatch) -> None:
    monkeypatch.setattr(docker_target, "AWAY_S", 1.0)
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    away = threading.Event()

    def look() -> bool:
        if "up" in log(home) and not away.is_set():
            away.set()
            own.stop()
        return False

    step = task(own.image, "trap 'exit 143' TERM; echo up; sleep 600 & wait", container={"network": "host"})
    try:
        with pytest.raises(Unreachable, match="Docker"):
            do(target, home, step, look)
        with pytest.raises(Unreachable):
            target.find(RUN)
    finally:
        own.start()
    target.stop(RUN)
    assert not own.client().containers.list(all=True)


def test_a_full_disk_ends_the_build_and_says_what_to_free(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    context = home / "context"
    context.mkdir()
    (context / "data").write_bytes(os.urandom(120 * 2**20))
    (context / "Dockerfile").write_text("FROM scratch\nCOPY data /\n")
    step = BuildImage(id="t", title=same("t"), tag="slipway.test/full:1", folder=str(context))
    with pytest.raises(OutOfSpace) as failed:
        do(target, home, step)
    assert str(own.folder) in failed.value.message.en
    assert "docker system df" in failed.value.hint.en and "docker system df" in failed.value.hint.zh
    assert "no space left" in " ".join(failed.value.last_lines)


def test_a_step_that_needs_more_disk_than_docker_has_does_not_begin(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    step = PullImage(id="t", title=same("t"), image="slipway.test/large:1", forecast=Forecast(disk_mib=10_000))
    with pytest.raises(OutOfSpace, match=r"needs about 10,000 MiB") as failed:
        do(target, home, step)
    assert str(own.folder) in failed.value.message.en
    assert log(home) == ""


def test_a_container_that_makes_more_than_the_data_folders_disk_holds_does_not_begin(own, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=0)
    free_mib = shutil.disk_usage(home).free // 2**20
    step = task(own.image, "echo ran", forecast=Forecast(disk_mib=free_mib + 10_000), container={"network": "host"})
    with pytest.raises(OutOfSpace) as failed:
        do(target, home, step)
    assert failed.value.message.en.startswith(f"{home} has")
    assert "SLIPWAY_HOME" in failed.value.hint.en
    do(target, home, step.model_copy(update={"forecast": Forecast(disk_mib=200)}))  # more than Docker's own disk has
    assert log(home) == "ran\n"


def test_a_disk_that_runs_full_ends_the_task_before_docker_fails(own: OwnEngine, home: Path) -> None:
    target = a_target(home, {"DOCKER_HOST": own.host}, low_mib=40)
    step = task(own.image, "i=0; while :; do printf '%1000000d' $i > /f$i; i=$((i+1)); sleep 0.05; done",
                container={"network": "host", "as_person": False})  # fmt: skip
    with pytest.raises(OutOfSpace, match=r"has \d+ MiB left"):
        do(target, home, step)
    assert not own.client().containers.list(all=True)


@pytest.fixture(scope="session")
def behind_ssh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """This machine behind an SSH server of our own: DOCKER_HOST, and the PATH with an `ssh` that has our key."""
    if os.geteuid() != 0 or shutil.which("sshd") is None:
        missing("root and sshd (apt install openssh-server)")
    folder = tmp_path_factory.mktemp("ssh")
    for key in ("host", "mine"):
        subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)), check=True)
    (port,) = free_ports(1)
    (folder / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {folder}/mine.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    real = shutil.which("ssh")
    options = f"-i {folder}/mine -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=no"
    (folder / "ssh").write_text(f'#!/bin/sh\nexec {real} {options} "$@"\n')
    (folder / "ssh").chmod(0o755)
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd parts its rights; its package makes it at boot
    command = (shutil.which("sshd"), "-D", "-e", "-f", str(folder / "sshd_config"))
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def up() -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", port)) == 0

    try:
        until(up, 20, "sshd")
        yield f"ssh://{getpass.getuser()}@127.0.0.1:{port}", f"{folder}:{os.environ['PATH']}"
    finally:
        server.terminate()
        server.wait(10)


def test_an_engine_behind_ssh_is_driven_like_one_here(behind_ssh, home, image, free, engine, monkeypatch) -> None:
    host, path = behind_ssh
    monkeypatch.setenv("PATH", path)
    target = a_target(home, {"DOCKER_HOST": host})
    do(target, home, task(image, "echo far"))
    assert log(home) == "far\n"
    do(target, home, filled(target, repository(home), free), endpoint=free)
    do(target, home, filled(target, triton(image), free), endpoint=free)
    assert asked(free) == [42]
    target.stop(RUN)
    assert not mine(engine, home)


def test_a_port_of_the_far_machine_is_brought_here_and_goes_with_the_tunnel(behind_ssh, free, monkeypatch) -> None:
    host, path = behind_ssh
    monkeypatch.setenv("PATH", path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as far:
        threading.Thread(target=far.serve_forever, args=(0.02,), daemon=True).start()
        tunnel = Tunnel(host, [(str(free.http_port), str(far.server_port))])
        assert healthy(f"{free.http}/")
        tunnel.close()
        assert not healthy(f"{free.http}/")
        far.shutdown()
