"""The probe answers on any machine, in time, and says why a fact is missing."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from backends.probes import docker, graphics, hardware, host
from backends.probes.later import Later
from backends.reading import read_json
from backends.spec import Hardware
from tests.conftest import gone, until

FIXTURES = Path(__file__).parent / "hardware"
AMPLE_S = 60  # what answers has answered by then, on a busy machine too

FAKE_NVML = """
class NVMLError(Exception): pass
class NVMLError_NotSupported(NVMLError): pass
class NVMLError_GpuIsLost(NVMLError): pass
class NVMLError_LibraryNotFound(NVMLError): pass
class NVMLError_DriverNotLoaded(NVMLError): pass
class NVMLError_LibRmVersionMismatch(NVMLError): pass
class Thing:
    def __init__(self, **facts): self.__dict__.update(facts)
GIB = 1 << 30
def nvmlInit(): pass
def nvmlShutdown(): pass
def nvmlSystemGetDriverVersion(): return "535.54.03"
def nvmlSystemGetCudaDriverVersion_v2(): return 12020
def nvmlDeviceGetCount(): return 2
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return b"NVIDIA GeForce RTX 3090" if handle in (0, 1) else "NVIDIA A100 MIG 1g.5gb"
def nvmlDeviceGetUUID(handle): return f"GPU-{handle}"
def nvmlDeviceGetCudaComputeCapability(handle): return [8, 6]
def nvmlDeviceGetMemoryInfo(handle): return Thing(total=24 * GIB, free=20 * GIB, used=4 * GIB)
def nvmlDeviceGetTemperature(handle, kind): return 41
def nvmlDeviceGetUtilizationRates(handle): return Thing(gpu=7, memory=1)
def nvmlDeviceGetComputeRunningProcesses(handle): return [Thing(pid=PID, usedGpuMemory=2 * GIB)] if handle == 0 else []
def nvmlDeviceGetGraphicsRunningProcesses(handle): return []
def nvmlDeviceGetMigMode(handle): raise NVMLError_NotSupported()
""".replace("PID", str(os.getpid()))


@pytest.fixture
def nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose pynvml.py the probe's process finds first; two healthy GPUs until a test appends to it."""
    folder = tmp_path / "fake"
    folder.mkdir()
    (folder / "pynvml.py").write_text(FAKE_NVML)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    return folder / "pynvml.py"


@pytest.fixture
def no_gpu_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphics, "cards_on_bus", lambda: 0)
    monkeypatch.setattr(graphics, "loaded_driver", lambda: None)


def append(path: Path, code: str) -> None:
    path.write_text(path.read_text() + code)


def smi(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """A fake nvidia-smi on the PATH, in a machine whose NVML has no library."""
    folder.mkdir(exist_ok=True)
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_healthy_nvml_gives_every_fact(nvml: Path) -> None:
    found = graphics.read(AMPLE_S)
    assert (found.driver_version, found.driver_cuda, found.unknown) == ("535.54.03", "12.2", {})
    first, second = found.gpus
    assert (first.name, first.sm, first.memory_total_mib, first.memory_free_mib) == (
        "NVIDIA GeForce RTX 3090",
        86,
        24576,
        20480,
    )
    assert (first.index, first.uuid, first.mig, first.temperature_c, first.utilisation_percent) == (
        0,
        "GPU-0",
        False,
        41,
        7,
    )
    assert (second.index, second.processes) == (1, ())


def test_a_process_that_holds_gpu_memory_is_named(nvml: Path) -> None:
    (process,) = graphics.read(AMPLE_S).gpus[0].processes
    assert (process.pid, process.memory_mib) == (os.getpid(), 2048)
    assert process.name == psutil.Process().name()


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("nvmlSystemGetDriverVersion()", "driver_version"),
        ("nvmlSystemGetCudaDriverVersion_v2()", "driver_cuda"),
        ("nvmlDeviceGetUUID(handle)", "gpus.1.uuid"),
        ("nvmlDeviceGetCudaComputeCapability(handle)", "gpus.1.sm"),
        ("nvmlDeviceGetMemoryInfo(handle)", "gpus.1.memory_free_mib"),
        ("nvmlDeviceGetTemperature(handle, kind)", "gpus.1.temperature_c"),
        ("nvmlDeviceGetUtilizationRates(handle)", "gpus.1.utilisation_percent"),
        ("nvmlDeviceGetComputeRunningProcesses(handle)", "gpus.1.processes"),
    ],
)
def test_a_call_that_answers_na_costs_only_its_own_fact(nvml: Path, call: str, field: str) -> None:
    append(nvml, f"\ndef {call}: raise NVMLError_NotSupported()\n")
    found = graphics.read(AMPLE_S)
    assert "N/A" in found.unknown[field].en and "N/A" in found.unknown[field].zh
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA GeForce RTX 3090"] * 2


def test_a_function_that_an_old_binding_lacks_costs_only_its_own_fact(nvml: Path) -> None:
    append(nvml, "\ndel nvmlDeviceGetUtilizationRates\n")
    found = graphics.read(AMPLE_S)
    assert "nvmlDeviceGetUtilizationRates" in found.unknown["gpus.0.utilisation_percent"].en
    assert found.gpus[0].memory_free_mib == 20480


def test_a_gpu_that_fell_off_the_bus_is_listed_with_the_reason(nvml: Path) -> None:
    append(
        nvml, "\ndef nvmlDeviceGetHandleByIndex(index):\n    if index: raise NVMLError_GpuIsLost()\n    return index\n"
    )
    found = graphics.read(AMPLE_S)
    assert [gpu.name for gpu in found.gpus] == ["NVIDIA GeForce RTX 3090", "GPU 1"]
    assert "fallen off the bus" in found.unknown["gpus.1.name"].en


def test_mig_instances_are_listed_and_empty_places_are_not(nvml: Path) -> None:
    append(
        nvml,
        """
def nvmlDeviceGetMigMode(handle): return [1, 1]
def nvmlDeviceGetMaxMigDeviceCount(handle): return 7
def nvmlDeviceGetMigDeviceHandleByIndex(handle, place):
    if place not in (1, 3): raise NVMLError_NotSupported()
    return f"mig-{handle}-{place}"
""",
    )
    found = graphics.read(AMPLE_S)
    assert found.gpus[0].mig is True
    assert [(i.index, i.uuid, i.profile) for i in found.gpus[0].mig_instances] == [
        (1, "GPU-mig-0-1", "1g.5gb"),
        (3, "GPU-mig-0-3", "1g.5gb"),
    ]
    assert found.gpus[0].mig_instances[0].memory_total_mib == 24576


def test_memory_of_a_process_that_the_driver_hides_is_not_known(nvml: Path) -> None:
    append(nvml, "\ndef nvmlDeviceGetComputeRunningProcesses(handle): return [Thing(pid=1, usedGpuMemory=None)]\n")
    assert graphics.read(AMPLE_S).gpus[0].processes[0].memory_mib is None


@pytest.mark.alone
@pytest.mark.parametrize("hang", ["nvmlInit()", "nvmlDeviceGetMemoryInfo(handle)"])
def test_an_nvml_that_hangs_is_killed_in_time_and_said(nvml: Path, hang: str) -> None:
    append(nvml, f"\ndef {hang}:\n    import time\n    time.sleep(600)\n")
    began = time.monotonic()
    found = graphics.read(0.7)
    assert time.monotonic() - began < 3
    assert "did not answer within 0.7 s" in found.unknown["gpus"].en
    assert found.gpus == ()


def test_a_hanging_nvml_leaves_no_process(nvml: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    tell = f"with open({str(note)!r}, 'w') as file: file.write(f'{{os.getpid()}}.')"
    append(nvml, f"\ndef nvmlInit():\n    import os, time\n    {tell}\n    time.sleep(600)\n")

    def hung(patience_s: float) -> int | None:
        """The process that was waited for, if it got as far as its hanging call: a busy machine starts one late."""
        graphics.read(patience_s)
        told = note.read_text() if note.exists() else ""
        return int(told[:-1]) if told.endswith(".") else None

    pid = next(filter(None, map(hung, (0.7, 3, 15, 60))))
    until(lambda: gone(pid))


def test_an_nvml_that_crashes_its_process_is_said(nvml: Path, no_gpu_here: None) -> None:
    append(nvml, "\ndef nvmlInit():\n    import os\n    os.abort()\n")
    found = graphics.read(AMPLE_S)
    assert found.gpus == () and "exit -6" in found.unknown["gpus"].en


def test_a_library_that_differs_from_the_loaded_driver_asks_for_a_restart(nvml: Path, no_gpu_here: None) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibRmVersionMismatch()\n")
    assert "Restart the machine" in graphics.read(AMPLE_S).unknown["driver_version"].en


def test_without_nvml_nvidia_smi_is_asked(nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    row = "0, NVIDIA A100-SXM4-80GB, GPU-a, 525.105.17, 81920, [N/A], 8.0, Disabled"
    smi(tmp_path / "bin", monkeypatch, f"echo '{row}'")
    found = graphics.read(AMPLE_S)
    (gpu,) = found.gpus
    assert (found.driver_version, gpu.name, gpu.sm, gpu.memory_total_mib, gpu.memory_free_mib, gpu.mig) == (
        "525.105.17",
        "NVIDIA A100-SXM4-80GB",
        80,
        81920,
        None,
        False,
    )
    assert "gpus.0.memory_free_mib" in found.unknown


def test_an_old_nvidia_smi_without_compute_cap_is_asked_again_for_less(
    nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    script = (
        'case "$1" in *compute_cap*) echo bad field; exit 2;; esac; echo "0, Tesla T4, GPU-t, 450.191.01, 15109, 15000"'
    )
    smi(tmp_path / "bin", monkeypatch, script)
    found = graphics.read(AMPLE_S)
    assert (found.gpus[0].name, found.gpus[0].sm, found.gpus[0].memory_free_mib) == ("Tesla T4", None, 15000)
    assert "gpus.0.sm" in found.unknown


def test_an_nvidia_smi_that_finds_no_device_lists_none(
    nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    smi(tmp_path / "bin", monkeypatch, "echo No devices were found")
    assert graphics.read(AMPLE_S).gpus == ()


@pytest.mark.alone
def test_an_nvidia_smi_that_hangs_is_killed_in_time(
    nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_gpu_here: None
) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    smi(tmp_path / "bin", monkeypatch, "sleep 600")
    began = time.monotonic()
    found = graphics.read(1)
    assert time.monotonic() - began < 4
    assert found.driver_version is None and "driver_version" in found.unknown


@pytest.mark.parametrize(
    "code", ["raise ImportError('no pynvml')", "def nvmlInit(): raise NVMLError_DriverNotLoaded()"]
)
def test_a_machine_without_nvidia_says_so_in_both_languages(nvml: Path, no_gpu_here: None, code: str) -> None:
    append(nvml, f"\n{code}\n")
    found = graphics.read(AMPLE_S)
    assert found.gpus == () and "gpus" not in found.unknown
    assert "No NVIDIA driver" in found.unknown["driver_version"].en
    assert "未安装 NVIDIA 驱动" in found.unknown["driver_version"].zh


def test_a_gpu_without_a_driver_is_seen_on_the_bus(
    nvml: Path, no_gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    monkeypatch.setattr(graphics, "cards_on_bus", lambda: 2)
    assert "2 NVIDIA GPUs are on the PCI bus" in graphics.read(AMPLE_S).unknown["gpus"].en


def test_a_container_without_the_toolkit_still_knows_the_driver(
    nvml: Path, no_gpu_here: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\ndef nvmlInit(): raise NVMLError_LibraryNotFound()\n")
    monkeypatch.setattr(graphics, "loaded_driver", lambda: "580.95.05")
    found = graphics.read(AMPLE_S)
    assert found.driver_version == "580.95.05" and "Container Toolkit" in found.unknown["gpus"].en


def test_only_nvidia_display_controllers_count_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x10de", "0x030200"), ("b", "0x10de", "0x040300"), ("c", "0x1002", "0x030000")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    assert graphics.cards_on_bus(tmp_path) == 1


# --- the host -----------------------------------------------------------------------------------------------------


def cgroup(root: Path, **files: str) -> Path:
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("0::/pod/box\n")
    folder = root / "sys/fs/cgroup/pod/box"
    folder.mkdir(parents=True)
    for name, words in files.items():
        (folder / name.replace("_", ".", 1)).write_text(words)
    return root


def test_the_memory_limit_of_a_control_group_bounds_ram(tmp_path: Path) -> None:
    root = cgroup(
        tmp_path,
        memory_max=f"{2 << 30}\n",
        memory_current=f"{1 << 30}\n",
        memory_stat=f"anon 5\ninactive_file {512 << 20}\n",
    )
    found = host.read(root)
    assert found.ram_total_mib == 2048
    assert found.ram_free_mib is not None and found.ram_free_mib <= 1536
    assert host.memory_limit(root) == (2 << 30, 512 << 20)


def test_a_limit_further_up_counts_too(tmp_path: Path) -> None:
    root = cgroup(tmp_path, memory_max="max\n", memory_current="0\n")
    (root / "sys/fs/cgroup/pod/memory.max").write_text(f"{1 << 30}\n")
    assert host.memory_limit(root) == (1 << 30, 0)


def test_the_old_layout_of_control_groups_is_read(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:memory:/box\n4:cpu,cpuacct:/box\n")
    folder = tmp_path / "sys/fs/cgroup/memory/box"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("1073741824")
    (folder.parent / "memory.limit_in_bytes").write_text("9223372036854771712")
    assert host.memory_limit(tmp_path) == (1 << 30, 0)


def test_a_cpu_quota_bounds_the_cores(tmp_path: Path) -> None:
    assert host.read(cgroup(tmp_path, cpu_max="100000 100000\n")).cpu_cores == 1


def test_the_cpu_and_system_are_named(tmp_path: Path) -> None:
    root = cgroup(tmp_path)
    (root / "proc/cpuinfo").write_text("processor : 0\nmodel name\t: AMD  EPYC 9654\n")
    (root / "etc").mkdir()
    (root / "etc/os-release").write_text('NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04 LTS"\n')
    found = host.read(root)
    assert (found.cpu_name, found.os) == ("AMD EPYC 9654", "Ubuntu 24.04 LTS")


def test_free_disk_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    drive = host.disk("data", tmp_path / "not" / "yet")
    assert drive.path == str(tmp_path / "not" / "yet") and drive.free_mib is not None and drive.free_mib > 0


# --- Docker -------------------------------------------------------------------------------------------------------


class Engine(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    info: dict[str, object] = {}

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class Answers(socketserver.StreamRequestHandler):
    """As much of Docker's API as the probe asks."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            path = line.split()[1].decode()
            while self.rfile.readline().strip():
                pass
            version = {"Version": "27.3.1", "ApiVersion": "1.47", "MinAPIVersion": "1.24"}
            body = json.dumps(self.server.info if path.endswith("/info") else version).encode()  # type: ignore[attr-defined]
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
            self.wfile.write(b"Content-Length: %d\r\n\r\n%s" % (len(body), body))


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[tuple[Engine, dict[str, str]]]:
    path = tmp_path / "docker.sock"
    server = Engine(str(path), Answers)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server, {"DOCKER_HOST": f"unix://{path}", "HOME": str(tmp_path)}
    server.shutdown()
    server.server_close()


def test_a_docker_with_the_nvidia_runtime_is_told_apart(engine: tuple[Engine, dict[str, str]], tmp_path: Path) -> None:
    server, environ = engine
    server.info = {"DockerRootDir": str(tmp_path), "Runtimes": {"runc": {}, "nvidia": {}}}
    found = docker.read(AMPLE_S, environ)
    assert (found.reachable, found.version, found.api_version, found.why) == (True, "27.3.1", "1.47", None)
    assert (found.nvidia_runtime, found.cdi, found.root, found.images) == (True, False, str(tmp_path), str(tmp_path))


def test_a_docker_without_the_nvidia_runtime_says_so(engine: tuple[Engine, dict[str, str]]) -> None:
    server, environ = engine
    server.info = {"Runtimes": {"runc": {}}}
    assert docker.read(AMPLE_S, environ).nvidia_runtime is False


def test_cdi_counts_once_a_file_describes_nvidia_gpus(engine: tuple[Engine, dict[str, str]], tmp_path: Path) -> None:
    server, environ = engine
    (tmp_path / "cdi").mkdir()
    server.info = {"CDISpecDirs": [str(tmp_path / "cdi")]}
    assert docker.read(AMPLE_S, environ).cdi is False
    (tmp_path / "cdi/nvidia.yaml").write_text("kind: nvidia.com/gpu\n")
    assert docker.read(AMPLE_S, environ).cdi is True


def test_cdi_devices_that_the_engine_lists_count(engine: tuple[Engine, dict[str, str]]) -> None:
    server, environ = engine
    server.info = {"DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=all"}]}
    assert docker.read(AMPLE_S, environ).cdi is True


def test_the_buildx_plugin_is_found(tmp_path: Path) -> None:
    environ = {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "HOME": str(tmp_path)}
    plugin = tmp_path / ".docker/cli-plugins/docker-buildx"
    plugin.parent.mkdir(parents=True)
    plugin.write_text("")
    plugin.chmod(0o755)
    assert docker.read(1, environ).buildx is True


def test_no_socket_means_docker_is_not_running(tmp_path: Path) -> None:
    found = docker.read(1, {"DOCKER_HOST": f"unix://{tmp_path}/none.sock", "HOME": str(tmp_path)})
    assert not found.reachable and found.why is not None and "not running here" in found.why.en


def test_a_socket_that_nobody_listens_at_means_docker_has_stopped(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead.sock")
    found = docker.read(1, {"DOCKER_HOST": f"unix://{tmp_path}/dead.sock", "HOME": str(tmp_path)})
    assert found.why is not None and "has stopped" in found.why.en


def test_a_socket_that_this_user_may_not_open_names_the_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        path.chmod(0)
        if os.geteuid() == 0:  # root may open anything: be somebody else for the moment of the knock
            for folder in (tmp_path, *tmp_path.parents):
                if folder.owner() == "root" and folder.stat().st_mode & 0o005 == 0:
                    folder.chmod(folder.stat().st_mode | 0o005)
            monkeypatch.setattr(socket.socket, "connect", connect_as_nobody)
        found = docker.read(1, {"DOCKER_HOST": f"unix://{path}", "HOME": str(tmp_path)})
    assert found.why is not None and "usermod -aG docker" in found.why.en


def connect_as_nobody(self: socket.socket, address: str) -> None:
    """Connects in a child process without root's rights and passes on its error."""
    code = (
        "import socket, sys\n"
        "try: socket.socket(socket.AF_UNIX).connect(sys.argv[1])\n"
        "except OSError as error: sys.exit(error.errno)"
    )
    errno = subprocess.run([sys.executable, "-c", code, address], user=65534, group=65534, check=False).returncode
    if errno:
        raise OSError(errno, os.strerror(errno))


@pytest.mark.alone
def test_a_docker_that_accepts_but_never_answers_is_given_up(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/mute.sock")
        server.listen(8)
        began = time.monotonic()
        found = docker.read(1, {"DOCKER_HOST": f"unix://{tmp_path}/mute.sock", "HOME": str(tmp_path)})
    assert time.monotonic() - began < 5
    assert found.why is not None and "did not answer within 1 s" in found.why.en


def test_a_tcp_docker_that_nobody_serves_is_said(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = docker.read(1, {"DOCKER_HOST": f"tcp://127.0.0.1:{port}", "HOME": str(tmp_path)})
    assert found.why is not None and "Nobody listens at tcp://127.0.0.1" in found.why.en


def test_a_docker_behind_ssh_that_cannot_be_reached_says_so(tmp_path: Path) -> None:
    found = docker.read(2, {"DOCKER_HOST": "ssh://me@127.0.0.1:9", "HOME": str(tmp_path)})
    assert found.why is not None and "cannot be reached" in found.why.en and "无法访问" in found.why.zh


def test_a_machine_without_ssh_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = docker.read(2, {"DOCKER_HOST": "ssh://me@127.0.0.1:9", "HOME": str(tmp_path)})
    assert found.why is not None and "no ssh here" in found.why.en and "没有 ssh" in found.why.zh


@pytest.mark.parametrize("kind", ["tcp", "ssh"])
def test_a_password_in_dockers_address_is_no_fact(tmp_path: Path, kind: str) -> None:
    found = docker.read(2, {"DOCKER_HOST": f"{kind}://me:pa55word@127.0.0.1:9", "HOME": str(tmp_path)})
    assert found.host == f"{kind}://me@127.0.0.1:9" and found.why is not None
    assert "pa55word" not in found.model_dump_json()


def test_docker_host_wins_over_the_context_and_the_context_over_the_default(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    assert docker.endpoint(environ) == "unix:///var/run/docker.sock"
    meta = tmp_path / ".docker/contexts/meta" / hashlib.sha256(b"lab").hexdigest() / "meta.json"
    meta.parent.mkdir(parents=True)
    meta.write_text(json.dumps({"Name": "lab", "Endpoints": {"docker": {"Host": "tcp://lab:2375"}}}))
    (tmp_path / ".docker/config.json").write_text(json.dumps({"currentContext": "lab"}))
    assert docker.endpoint(environ) == "tcp://lab:2375"
    assert docker.endpoint({**environ, "DOCKER_HOST": "tcp://other:1"}) == "tcp://other:1"


@pytest.mark.live
def test_a_real_docker_is_described() -> None:
    found = docker.read(AMPLE_S)
    if not found.reachable:
        pytest.skip(f"no Docker engine: {found.why}")
    assert found.version and found.api_version and found.root


# --- the whole ----------------------------------------------------------------------------------------------------


@pytest.mark.alone
def test_the_whole_machine_is_described_within_a_second(
    nvml: Path, no_gpu_here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\nraise ImportError\n")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/none.sock")
    took = []
    for _ in range(3):  # the best of three: what another program takes of a core is not ours
        began = time.monotonic()
        found = hardware.detect(tmp_path)
        took.append(time.monotonic() - began)
    assert min(took) < 1
    assert found.ram_total_mib and found.cpu_cores and found.architecture and found.os
    assert {drive.purpose for drive in found.disks} == {"data", "temporary"}
    assert found.docker is not None and found.docker.why is not None
    assert {"driver_version", "disks.images"} <= set(found.unknown)


@pytest.mark.alone
def test_all_that_hangs_at_once_is_still_answered_in_time(
    nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(nvml, "\ndef nvmlInit():\n    import time\n    time.sleep(600)\n")
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/mute.sock")
    never = threading.Event()
    monkeypatch.setattr(hardware.host, "disk", lambda purpose, path: never.wait())
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{tmp_path}/mute.sock")
        server.listen(8)
        began = time.monotonic()
        found = hardware.detect(tmp_path, timeout_s=1.5)
    took = time.monotonic() - began
    never.set()
    assert took < 4
    assert found.disks == () and "no answer within 1.5 s" in found.unknown["disks.data"].en
    assert "gpus" in found.unknown


def test_a_fault_in_one_part_does_not_hide_the_others(
    nvml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> host.Host:
        raise RuntimeError("proc is not mounted")

    monkeypatch.setattr(hardware.host, "read", broken)
    found = hardware.detect(tmp_path, timeout_s=AMPLE_S)
    assert "proc is not mounted" in found.unknown["ram_total_mib"].en
    assert len(found.gpus) == 2


def test_what_is_detected_survives_json(nvml: Path, tmp_path: Path) -> None:
    found = hardware.detect(tmp_path)
    assert read_json(Hardware, found.model_dump_json()) == found


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("*.json")), ids=lambda path: path.stem)
def test_every_kept_machine_is_a_valid_hardware(path: Path) -> None:
    machine = read_json(Hardware, path.read_text())
    assert machine.driver_version and machine.gpus and machine.hostname is None


def test_a_later_call_passes_on_its_own_error() -> None:
    def broken() -> int:
        raise KeyError("no")

    with pytest.raises(KeyError):
        Later(broken).answer(time.monotonic() + 5)
