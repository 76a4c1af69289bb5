"""A file that nobody can open: a lease of the kernel's (fcntl(2), F_SETLEASE), which makes who opens it wait.

So a program is held where it reads a file, in a container as well, with the file as it is, and it is known that it
waits. After /proc/sys/fs/lease-break-time (45 s) the kernel lets it go on.
"""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

from tests.conftest import until


class Lease:
    """Held from its making to `release`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1
        until(self._take, 20, f"nobody to have {path} open")

    def _take(self) -> bool:
        self._file = os.open(self._path, os.O_RDONLY)
        fcntl.fcntl(self._file, fcntl.F_SETSIG, signal.SIGURG)  # who is asked to let go is told by one that is ignored
        try:
            fcntl.fcntl(self._file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        except BlockingIOError:
            os.close(self._file)
            return False
        return True

    def wanted(self) -> bool:
        """Whether somebody waits for the file."""
        return fcntl.fcntl(self._file, fcntl.F_GETLEASE) != fcntl.F_WRLCK

    def release(self) -> None:
        """Lets everybody go on."""
        os.close(self._file)
