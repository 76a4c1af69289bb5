"""Processes of this machine that belong to a run: found by a mark in their environment, ended as a tree."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable, Iterator

import psutil

MARK = "SLIPWAY_RUN"
HOME_MARK = "SLIPWAY_RUN_HOME"


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


def alive(pid: int, created: float) -> psutil.Process | None:
    """The process of that pid if it is still the same one and no zombie."""
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - created) < 0.05
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
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
