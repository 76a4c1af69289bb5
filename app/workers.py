"""Starts workers: a process for each run, which outlives who started it.

Loading its libraries takes a worker about 0.4 s, a tenth of the demo's deployment. So one is started ahead of time
while a person reads the plan that it may carry out, and waits for its run.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

from app.jobs import RunFolder
from app.settings import PROJECT

log = logging.getLogger(__name__)
TAKEN_S = 10.0  # how long a worker that is still loading may take to say that it has its run


class Workers:
    """The workers that this process starts, over one data folder. From any thread."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._one_at_a_time = threading.Lock()
        self._spare: tuple[subprocess.Popen[bytes], socket.socket] | None = None

    def get_ready(self) -> None:
        """Has a worker ready for the next run. It ends by itself when none comes, and with this process."""
        with self._one_at_a_time:
            if self._spare is None or self._spare[0].poll() is not None:
                self._let_go()
                ours, its = socket.socketpair()
                with its:
                    words = ("--spare", str(its.fileno()))
                    try:
                        self._spare = (self._begin(words, (its.fileno(),), subprocess.DEVNULL), ours)
                    except OSError as error:  # only haste is lost: who reads a plan is not kept from it
                        ours.close()
                        log.warning("no worker was started ahead of time: %s", error)

    def start(self, run_id: str, held: IO[bytes]) -> None:
        """Starts the worker of a run. It takes over the held lock: the caller closes its own."""
        with (RunFolder(self._home, run_id).path / "worker.log").open("ab") as log:
            if not self._given(run_id, held, log):
                os.set_inheritable(held.fileno(), True)
                words = (run_id, "--lock-fd", str(held.fileno()))
                self._begin(words, (held.fileno(),), log)

    def _given(self, run_id: str, held: IO[bytes], log: IO[bytes]) -> bool:
        """True where the worker that waits has taken the run. One that does not say so has no run, and is ended."""
        with self._one_at_a_time:
            if self._spare is None:
                return False
            worker, door = self._spare
            with contextlib.suppress(OSError):  # it is gone, or TimeoutError
                door.settimeout(TAKEN_S)
                socket.send_fds(door, (run_id.encode(),), (held.fileno(), log.fileno()))
                if door.recv(1):
                    self._spare = None
                    door.close()
                    return True
            worker.kill()
            worker.wait()
            self._let_go()
            return False

    def _let_go(self) -> None:
        if self._spare is not None:
            self._spare[1].close()
            self._spare = None

    def _begin(self, words: tuple[str, ...], handed: tuple[int, ...], out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(
            (sys.executable, "-m", "app.work", *words),
            cwd=PROJECT,
            env=dict(os.environ) | {"SLIPWAY_HOME": str(self._home)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            pass_fds=handed,
            start_new_session=True,
        )
        threading.Thread(target=worker.wait, daemon=True).start()  # so that an ended worker is no zombie
        return worker
