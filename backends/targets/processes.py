"""Processes of this machine that belong to a run: found by a mark in their environment, ended as a tree."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

MARK = "SLIPWAY_RUN"
HOME_MARK = "SLIPWAY_RUN_HOME"
_BOOT = Path("/proc/sys/kernel/random/boot_id")  # new at every start of the machine; random(4)


def of_run(run: str, home: str) -> list[psutil.Process]:
    """Living processes that a target started for the run, and their children."""
    return [process for process in _mine() if _marked(process, run, home)]


def family(pid: int) -> list[psutil.Process]:
    """The process and all that it started, those that are alive."""
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def end(processes: Iterable[psutil.Process], patience_s: float) -> None:
    """Ends processes: asks, waits up to `patience_s`, then kills. Returns when none is left."""
    living = list(processes)
    for process in living:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(living, timeout=patience_s)
    for process in stubborn:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


def effort(processes: Iterable[psutil.Process]) -> float:
    """CPU seconds spent so far: while it grows, something moves."""
    total = 0.0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def memory_mib(processes: Iterable[psutil.Process]) -> int:
    """Resident memory in MiB, pages that several share counted once for each."""
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_info().rss
    return total // 2**20


def born(pid: int) -> str:
    """What tells a process from every other that had its pid or will: the boot, and the clock ticks from there to its
    start. Setting the clock moves neither, unlike psutil's `create_time`. Raises psutil.NoSuchProcess.

    Source: proc_pid_stat(5), field 22 (starttime); the second field, a name, may hold spaces and brackets.
    """
    try:
        told = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:  # it has ended, or it is somebody else's and hidden from us
        raise psutil.NoSuchProcess(pid) from None
    boot = _BOOT.read_text(encoding="ascii").strip() if _BOOT.exists() else "?"  # some sandboxes do not tell
    return f"{boot} {told.rpartition(')')[2].split()[19]}"


def alive(pid: int, birth: str) -> psutil.Process | None:
    """The process of that pid if it is still the one that was `born` so, and no zombie."""
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        if born(pid) == birth and process.status() != psutil.STATUS_ZOMBIE:
            return process
    return None


def alive_of_run(pid: int, run: str, home: str) -> psutil.Process | None:
    """The process of that pid if it bears the run's mark and is no zombie."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        if _marked(process, run, home):
            return process
    return None


def _mine() -> Iterator[psutil.Process]:
    me = psutil.Process()
    for process in psutil.process_iter():
        if process.pid != me.pid:
            yield process


def _marked(process: psutil.Process, run: str, home: str) -> bool:
    try:
        environment = process.environ()
        return (
            environment.get(MARK) == run
            and environment.get(HOME_MARK) == home
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, OSError):  # somebody else's process, or one that has just ended
        return False
