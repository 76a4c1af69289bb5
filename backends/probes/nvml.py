"""Reads NVML once and prints JSON. Run as a short-lived process: a driver that hangs then hangs this process only.

    python -P backends/probes/nvml.py

Needs nothing but the standard library and pynvml, so that it starts in some tens of milliseconds. What one call cannot
tell is left out and named under "unknown" with NVML's own error, and the other calls go on. `trouble` names what
stopped the whole reading: "no module", "no library", "no driver", or NVML's error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

_MIB = 1024 * 1024
_TROUBLE = {"LibraryNotFound": "no library", "DriverNotLoaded": "no driver"}


class Reading:
    """What was read so far: plain data for JSON, and why the rest is missing."""

    def __init__(self) -> None:
        self.facts: dict[str, Any] = {"gpus": []}
        self.unknown: dict[str, str] = {}

    def ask(self, field: str, call: Callable[[], Any]) -> Any:
        """The call's answer. None where NVML does not tell: the reason then stands under `field`."""
        try:
            return call()
        except Exception as error:  # any binding's way of saying no: NVMLError, a missing function, odd bytes
            self.unknown[field] = _name(error)
            return None


def _name(error: Exception) -> str:
    return (
        type(error).__name__.removeprefix("NVMLError_") if "NVMLError_" in type(error).__name__ else repr(error)[:200]
    )


def _words(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _processes(nvml: ModuleType, handle: Any) -> list[dict[str, Any]]:
    """Compute and graphics processes of one GPU; memory is None where the driver keeps it to itself (MIG, Windows)."""
    found: dict[int, dict[str, Any]] = {}
    for kind in (nvml.nvmlDeviceGetComputeRunningProcesses, nvml.nvmlDeviceGetGraphicsRunningProcesses):
        for process in kind(handle):
            used = process.usedGpuMemory
            memory = None if used is None or used >= 1 << 62 else used // _MIB
            found[process.pid] = {"pid": process.pid, "memory_mib": memory}
    return list(found.values())


def _instances(reading: Reading, nvml: ModuleType, handle: Any, field: str) -> list[dict[str, Any]]:
    """The MIG instances of a GPU in MIG mode. Empty places are no error."""
    instances: list[dict[str, Any]] = []
    for place in range(reading.ask(field, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle)) or 0):
        try:
            mig = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, place)
        except nvml.NVMLError:
            continue
        at = f"{field}.{len(instances)}"
        memory = reading.ask(f"{at}.memory_total_mib", partial(nvml.nvmlDeviceGetMemoryInfo, mig))
        uuid = reading.ask(f"{at}.uuid", partial(nvml.nvmlDeviceGetUUID, mig))
        if uuid is None:
            continue
        name = reading.ask(f"{at}.profile", partial(nvml.nvmlDeviceGetName, mig))
        instance: dict[str, Any] = {
            "index": place,
            "uuid": _words(uuid),
            "profile": _words(name).split("MIG ")[-1] if name else None,
        }
        if memory is not None:
            instance |= {"memory_total_mib": memory.total // _MIB, "memory_free_mib": memory.free // _MIB}
        instances.append(instance)
    return instances


def _gpu(reading: Reading, nvml: ModuleType, index: int) -> dict[str, Any]:
    at = f"gpus.{index}"
    gpu: dict[str, Any] = {"index": index, "name": f"GPU {index}"}
    handle = reading.ask(f"{at}.name", lambda: nvml.nvmlDeviceGetHandleByIndex(index))
    if handle is None:
        return gpu
    name = reading.ask(f"{at}.name", lambda: _words(nvml.nvmlDeviceGetName(handle)))
    gpu["name"] = name or gpu["name"]
    gpu["uuid"] = reading.ask(f"{at}.uuid", lambda: _words(nvml.nvmlDeviceGetUUID(handle)))
    capability = reading.ask(f"{at}.sm", lambda: tuple(nvml.nvmlDeviceGetCudaComputeCapability(handle)))
    if capability is not None:
        gpu["sm"] = capability[0] * 10 + capability[1]
    memory = reading.ask(f"{at}.memory_total_mib", lambda: nvml.nvmlDeviceGetMemoryInfo(handle))
    if memory is None:
        reading.unknown[f"{at}.memory_free_mib"] = reading.unknown[f"{at}.memory_total_mib"]
    else:
        gpu |= {"memory_total_mib": memory.total // _MIB, "memory_free_mib": memory.free // _MIB}
    gpu["temperature_c"] = reading.ask(f"{at}.temperature_c", lambda: int(nvml.nvmlDeviceGetTemperature(handle, 0)))
    gpu["utilisation_percent"] = reading.ask(
        f"{at}.utilisation_percent", lambda: int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    )
    gpu["processes"] = reading.ask(f"{at}.processes", lambda: _processes(nvml, handle)) or []
    try:
        gpu["mig"] = nvml.nvmlDeviceGetMigMode(handle)[0] == 1
    except nvml.NVMLError as error:
        if _name(error) == "NotSupported":
            gpu["mig"] = False  # this GPU cannot be sliced
        else:
            reading.unknown[f"{at}.mig"] = _name(error)
    if gpu.get("mig"):
        gpu["mig_instances"] = _instances(reading, nvml, handle, f"{at}.mig_instances")
    return gpu


def read(nvml: ModuleType) -> dict[str, Any]:
    """Everything that this NVML binding tells, as plain data for JSON. Memory in MiB."""
    reading = Reading()
    try:
        nvml.nvmlInit()
    except Exception as error:
        return {"trouble": _TROUBLE.get(_name(error), _name(error))}
    try:
        facts = reading.facts
        facts["driver_version"] = reading.ask("driver_version", lambda: _words(nvml.nvmlSystemGetDriverVersion()))
        cuda = reading.ask("driver_cuda", lambda: int(nvml.nvmlSystemGetCudaDriverVersion_v2()))
        facts["driver_cuda"] = None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}"
        for index in range(reading.ask("gpus", nvml.nvmlDeviceGetCount) or 0):
            facts["gpus"].append(_gpu(reading, nvml, index))
        return facts | {"unknown": reading.unknown}
    finally:
        reading.ask("shutdown", nvml.nvmlShutdown)


def main() -> int:
    """Print the reading as one JSON object. Exit code 0 also where there is trouble: it is in the answer."""
    try:
        import pynvml
    except ImportError:
        answer: dict[str, Any] = {"trouble": "no module"}
    else:
        answer = read(pynvml)
    json.dump(answer, sys.stdout)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
