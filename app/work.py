"""A worker's process: `python -m app.work RUN`. The composition root of one run.

It loads nothing that only a panel or a terminal needs: what it does is begun the sooner. `--spare` loads it all before
the run is known (see app/workers.py).
"""

from __future__ import annotations

import argparse
import gc
import os
import socket
import sys
from collections.abc import Sequence
from typing import IO

from backends.errors import Conflict, SlipwayError, StepFailed

WAITS_S = 600.0  # how long a spare worker waits for a run


def main(argv: Sequence[str]) -> int:
    """Carries the run out, under the data folder of the environment, and returns an exit status that tells its end."""
    parser = argparse.ArgumentParser(prog="python -m app.work")
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("run", nargs="?")
    which.add_argument("--spare", type=int, metavar="FD", help="a socket that the run comes through")
    parser.add_argument("--lock-fd", type=int, help="the run's lock, inherited from who started it")
    arguments = parser.parse_args(argv)
    try:
        if arguments.spare is None:
            return work(arguments.run, arguments.lock_fd)
        load()
        given = wait_for_run(arguments.spare)
        return 0 if given is None else work(*given)
    except SlipwayError as error:
        print(f"slipway: {error.of('en')}", file=sys.stderr)
        return error.exit_code


def load() -> None:
    """Loads what carrying out a run takes."""
    gc.disable()  # libraries make much that lives on: looking for garbage in it would take a quarter of their loading
    import storage.store  # noqa: F401

    gc.enable()


def wait_for_run(door_fd: int) -> tuple[str, int] | None:
    """The run that came and its lock; None where nobody wants one any more."""
    with socket.socket(fileno=door_fd) as door:
        door.settimeout(WAITS_S)
        try:
            name, handed, _, _ = socket.recv_fds(door, 1024, 2)
        except TimeoutError:
            return None
        if len(handed) != 2:
            return None
        lock, log = handed
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)
        door.sendall(b"1")
    return name.decode(), lock


def work(run_id: str, lock_fd: int | None) -> int:
    """Carries the run out. Raises NotFound, Conflict where another worker has the run."""
    load()
    from app.jobs import RunFolder, hold
    from app.settings import ASSETS, settings
    from app.targets import Targets, load_asking
    from app.worker import Worker
    from backends.runs import State
    from backends.text import Text
    from storage.store import Store

    chosen = settings()
    store = Store(chosen.home)
    run = store.run(run_id)
    held: IO[bytes] | None
    if lock_fd is not None:
        held = os.fdopen(lock_fd, "ab")
        os.set_inheritable(lock_fd, False)
    else:
        held = hold(RunFolder(chosen.home, run_id).lock)
    if held is None:
        raise Conflict(Text(en="Another worker has this run.", zh="此部署已有工作进程。"), field="run")
    with held:
        target = Targets(chosen)[run.spec.target]
        state = Worker(store, target, chosen.home, ASSETS, run_id, prepare=load_asking).work()
    return 0 if state in (State.DONE, State.STOPPED) else StepFailed.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
