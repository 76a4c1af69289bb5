"""GPUs and their driver, from NVML in a process of its own, or from nvidia-smi where NVML's library cannot be had.

Whatever NVML does (missing, hanging, crashing, answering N/A), this answers in time, and says why a fact is missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from backends.spec import Frozen, Gpu
from backends.text import Text

_CHILD = Path(__file__).with_name("nvml.py")
_REAP_S = 0.2  # a killed process that is stuck in the driver does not go; it is left to the system

_NO_DRIVER = Text(en="No NVIDIA driver is installed on this machine.", zh="本机未安装 NVIDIA 驱动。")
_NVML_SAYS = {
    "NotSupported": Text(en="NVML does not tell this for this GPU (N/A).", zh="NVML 对该 GPU 不提供此项（N/A）。"),
    "NoPermission": Text(en="NVML tells this to root only.", zh="NVML 仅对 root 用户提供此项。"),
    "GpuIsLost": Text(en="The GPU has fallen off the bus. Restart the machine.", zh="GPU 已从总线上脱落，请重启机器。"),
    "LibRmVersionMismatch": Text(
        en="The driver was updated while loaded: library and kernel module differ. Restart the machine.",
        zh="驱动更新后尚未重新加载：库与内核模块版本不一致，请重启机器。",
    ),
}


class Graphics(Frozen):
    """What is known of the GPUs. `unknown` maps dotted fields of Hardware to the reason."""

    driver_version: str | None = None
    driver_cuda: str | None = None
    gpus: tuple[Gpu, ...] = ()
    unknown: dict[str, Text] = {}


class _Silent(Exception):
    """The command gave no answer in time."""


def read(timeout_s: float) -> Graphics:
    """The GPUs of this machine. Returns within about `timeout_s`, whatever the driver does."""
    until = time.monotonic() + timeout_s
    try:
        code, out = _output([sys.executable, "-P", str(_CHILD)], until - time.monotonic())
    except _Silent:
        words = Text(
            en=f"The NVIDIA driver did not answer within {timeout_s:g} s. Look at dmesg for Xid errors.",
            zh=f"NVIDIA 驱动在 {timeout_s:g} 秒内没有应答，请在 dmesg 中查看 Xid 错误。",
        )
        return _nothing(words, hidden=True)
    answer = _parsed(out) if code == 0 else None
    if answer is None:
        trouble = f"exit {code}"
    elif "trouble" not in answer:
        return _from_nvml(answer)
    else:
        trouble = str(answer["trouble"])
    if trouble == "no driver":
        return _without_library(trouble)
    return _from_smi(until - time.monotonic()) or _without_library(trouble)


def memory_used_mib(timeout_s: float = 4.0) -> int | None:
    """MiB in use on all GPUs together; None where there is no GPU or one of them does not tell."""
    gpus = read(timeout_s).gpus
    if not gpus or any(gpu.memory_total_mib is None or gpu.memory_free_mib is None for gpu in gpus):
        return None
    return sum((gpu.memory_total_mib or 0) - (gpu.memory_free_mib or 0) for gpu in gpus)


def _output(command: Sequence[str], timeout_s: float) -> tuple[int, str]:
    """Exit code and standard output. Raises _Silent when the time is up, FileNotFoundError where there is no program.

    The process is killed with all its children; one that the kernel will not let go is not waited for.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    try:
        out, _ = process.communicate(timeout=max(timeout_s, 0.05))
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=_REAP_S)
        raise _Silent from None
    return process.returncode, out


def _parsed(out: str) -> dict[str, Any] | None:
    try:
        answer = json.loads(out)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None


def _from_nvml(answer: Mapping[str, Any]) -> Graphics:
    gpus = tuple(Gpu.model_validate(_named(gpu)) for gpu in answer["gpus"])
    unknown = {
        field: _NVML_SAYS.get(code, Text(en=f"NVML answered {code}.", zh=f"NVML 返回 {code}。"))
        for field, code in answer["unknown"].items()
    }
    return Graphics(
        driver_version=answer["driver_version"], driver_cuda=answer["driver_cuda"], gpus=gpus, unknown=unknown
    )


def _named(gpu: dict[str, Any]) -> dict[str, Any]:
    """Gives the processes names. NVML's process ids are the host's: in a container they may belong to nobody here."""
    for process in gpu.get("processes", ()):
        with contextlib.suppress(psutil.Error):
            process["name"] = psutil.Process(process["pid"]).name()
    return gpu


# --- nvidia-smi ---------------------------------------------------------------------------------------------------

_FIELDS = ("index", "name", "uuid", "driver_version", "memory.total", "memory.free", "compute_cap", "mig.mode.current")


def _from_smi(timeout_s: float) -> Graphics | None:
    """What nvidia-smi tells. None where there is no such program or it cannot reach the driver either.

    `compute_cap` and `mig.mode.current` are missing in old drivers, which then refuse the whole query.
    """
    until = time.monotonic() + timeout_s
    for fields in (_FIELDS, _FIELDS[:6]):
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
        try:
            code, out = _output(command, until - time.monotonic())
        except (OSError, _Silent):
            return None
        if code == 0:
            return _from_rows(
                [dict(zip(fields, map(str.strip, row.split(",")), strict=False)) for row in out.splitlines()]
            )
    return None


def _from_rows(rows: Sequence[Mapping[str, str]]) -> Graphics:
    not_told = Text(en="nvidia-smi does not tell this.", zh="nvidia-smi 不提供此项。")
    unknown = {"driver_cuda": not_told}
    gpus = []
    cards = [row for row in rows if row.get("index", "").isdigit()]  # not "No devices were found"
    for place, row in enumerate(cards):
        known = {field: value for field, value in row.items() if value and not value.startswith("[") and value != "N/A"}
        capability = known.get("compute_cap", "").replace(".", "")
        gpu = {
            "index": int(row["index"]),
            "name": known.get("name", f"GPU {place}"),
            "uuid": known.get("uuid"),
            "sm": int(capability) if capability.isdigit() else None,
            "memory_total_mib": _whole(known.get("memory.total")),
            "memory_free_mib": _whole(known.get("memory.free")),
            "mig": known["mig.mode.current"] == "Enabled" if "mig.mode.current" in known else None,
        }
        fields = ("uuid", "sm", "memory_total_mib", "memory_free_mib", "mig")
        unknown |= {f"gpus.{place}.{field}": not_told for field in fields if gpu[field] is None}
        unknown |= {f"gpus.{place}.processes": not_told}
        gpus.append(Gpu.model_validate(gpu))
    driver = next((row["driver_version"] for row in rows if row.get("driver_version", "")[:1].isdigit()), None)
    if driver is None:
        unknown["driver_version"] = not_told
    return Graphics(driver_version=driver, gpus=tuple(gpus), unknown=unknown)


def _whole(words: str | None) -> int | None:
    return int(words) if words and words.isdigit() else None


# --- nothing at all -----------------------------------------------------------------------------------------------


def _without_library(trouble: str) -> Graphics:
    """Why there is nothing: no GPU, a GPU without a driver, or a driver that this process cannot reach."""
    cards = cards_on_bus()
    version = loaded_driver()
    if version is not None:
        words = Text(
            en=f"Driver {version} is loaded, but its library cannot be used here ({trouble}). "
            "In a container, start it with the NVIDIA Container Toolkit.",
            zh=f"驱动 {version} 已加载，但此处无法使用其库（{trouble}）。"
            "若在容器中，请通过 NVIDIA Container Toolkit 启动。",
        )
        return Graphics(driver_version=version, unknown={"gpus": words, "driver_cuda": words})
    if cards:
        words = Text(
            en=f"{cards} NVIDIA GPU{'s are' if cards > 1 else ' is'} on the PCI bus, but no driver is loaded. "
            "Install the NVIDIA driver.",
            zh=f"PCI 总线上有 {cards} 个 NVIDIA GPU，但未加载驱动，请安装 NVIDIA 驱动。",
        )
        return _nothing(words, hidden=True)
    if trouble in ("no library", "no module", "no driver"):
        return _nothing(_NO_DRIVER, hidden=False)
    words = _NVML_SAYS.get(trouble, Text(en=f"NVML could not be read: {trouble}.", zh=f"无法读取 NVML：{trouble}。"))
    return _nothing(words, hidden=True)


def _nothing(words: Text, *, hidden: bool) -> Graphics:
    """No GPU is known. `hidden`: there may be some all the same."""
    unknown = {"driver_version": words, "driver_cuda": words}
    return Graphics(unknown={**unknown, "gpus": words} if hidden else unknown)


def cards_on_bus(devices: Path = Path("/sys/bus/pci/devices")) -> int:
    """How many NVIDIA display controllers the PCI bus shows (vendor 0x10de, class 0x03), driver or not."""
    count = 0
    for device in devices.glob("*"):
        with contextlib.suppress(OSError):
            vendor = (device / "vendor").read_text().strip()
            count += vendor == "0x10de" and (device / "class").read_text().startswith("0x03")
    return count


def loaded_driver(path: Path = Path("/sys/module/nvidia/version")) -> str | None:
    """The version of the loaded kernel module, where one is loaded."""
    with contextlib.suppress(OSError):
        return path.read_text().strip() or None
    return None
