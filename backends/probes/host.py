"""CPU, memory, disks and system of this machine, as far as this process may use them: control groups are minded."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import shutil
import socket
from pathlib import Path

import psutil

from backends.spec import Disk, Frozen
from backends.text import Text

_MIB = 1024 * 1024
_ROOT = Path("/")
_NO_LIMIT = 1 << 60  # version 1 of control groups writes a huge number for "no limit"


class Host(Frozen):
    """The machine without GPUs, disks and Docker. Field names and units are those of Hardware."""

    hostname: str | None
    os: str | None
    architecture: str | None
    glibc: str | None
    python: str
    cpu_name: str | None
    cpu_cores: int | None
    ram_total_mib: int | None
    ram_free_mib: int | None
    unknown: dict[str, Text] = {}


def read(root: Path = _ROOT) -> Host:
    """The facts of the machine whose /proc, /sys and /etc lie under `root`."""
    unknown: dict[str, Text] = {}
    cpu_name = _cpu_name(root)
    if cpu_name is None:
        unknown["cpu_name"] = Text(en="The system does not name its CPU.", zh="系统未给出 CPU 名称。")
    libc = _glibc()
    if libc is None:
        unknown["glibc"] = Text(
            en="This system's C library is not glibc. Triton needs glibc.",
            zh="本系统的 C 库不是 glibc，Triton 需要 glibc。",
        )
    memory = psutil.virtual_memory()
    total, free = memory.total, memory.available
    limit, used = memory_limit(root)
    if limit is not None and limit < total:
        total, free = limit, min(free, max(0, limit - used))
    return Host(
        hostname=socket.gethostname() or None,
        os=_system(root),
        architecture=platform.machine() or None,
        glibc=libc,
        python=platform.python_version(),
        cpu_name=cpu_name,
        cpu_cores=_cores(root),
        ram_total_mib=total // _MIB,
        ram_free_mib=free // _MIB,
        unknown=unknown,
    )


def disk(purpose: str, path: Path) -> Disk:
    """Free space at `path`, or at the folder above that exists. May hang on a dead network mount. Raises OSError."""
    here = path.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    usage = shutil.disk_usage(here)
    return Disk.model_validate(
        {"purpose": purpose, "path": str(path), "free_mib": usage.free // _MIB, "total_mib": usage.total // _MIB}
    )


def memory_limit(root: Path = _ROOT) -> tuple[int | None, int]:
    """The tightest memory limit of this process's control groups and what they use, in bytes. (None, 0): no limit.

    File cache that the kernel can drop at once (inactive_file) does not count as used.
    """
    limits = []
    for folder in _groups(root, "memory"):
        for limit_file, used_file in (
            ("memory.max", "memory.current"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes"),
        ):
            limit = _number(folder / limit_file)
            if limit is not None and limit < _NO_LIMIT:
                used = _number(folder / used_file) or 0
                limits.append((limit, max(0, used - _statistic(folder / "memory.stat", "inactive_file"))))
    return min(limits, default=(None, 0))


def _cores(root: Path) -> int | None:
    """CPU cores that this process may use: its affinity and the CPU quota of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for folder in _groups(root, "cpu"):
        with contextlib.suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            cores = min(cores or 1, max(1, math.ceil(int(quota) / int(period))))  # "max" is no number: no quota
        quota_us, period_us = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if quota_us is not None and period_us and quota_us > 0:
            cores = min(cores or 1, max(1, math.ceil(quota_us / period_us)))
    return cores


def _groups(root: Path, controller: str) -> list[Path]:
    """The control group folders of this process from its own to the top, versions 2 and 1."""
    base = root / "sys/fs/cgroup"
    folders = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            top = base if number == "0" else base / controller
            if number != "0" and controller not in controllers.split(","):
                continue
            folder = top / path.lstrip("/")
            while folder != top and top in folder.parents:
                folders.append(folder)
                folder = folder.parent
            folders.append(top)
    return folders


def _number(path: Path) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        return int(path.read_text())
    return None


def _statistic(path: Path, name: str) -> int:
    with contextlib.suppress(OSError):
        for line in path.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == name and value.isdigit():
                return int(value)
    return 0


def _cpu_name(root: Path) -> str | None:
    with contextlib.suppress(OSError):
        for line in (root / "proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model", "cpu model") and value.strip():
                return " ".join(value.split())
    return platform.processor() or None


def _glibc() -> str | None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        return version if name == "glibc" and version else None
    return None


def _system(root: Path) -> str | None:
    with contextlib.suppress(OSError):
        for line in (root / "etc/os-release").read_text().splitlines():
            key, _, value = line.partition("=")
            if key == "PRETTY_NAME":
                return value.strip().strip('"')
    return platform.platform(terse=True) or None
