"""A worker's process: `python -m app.work RUN`. The composition root of one run.

It loads nothing that only a panel or a terminal needs: what it does is begun the sooner.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from typing import IO

from backends.errors import Conflict, SlipwayError, StepFailed


def main(argv: Sequence[str]) -> int:
    """Carries the run out, under the data folder of the environment, and returns an exit status that tells its end."""
    parser = argparse.ArgumentParser(prog="python -m app.work")
    parser.add_argument("run")
    parser.add_argument("--lock-fd", type=int, help="the run's lock, inherited from who started it")
    arguments = parser.parse_args(argv)
    try:
        return work(arguments.run, arguments.lock_fd)
    except SlipwayError as error:
        print(f"slipway: {error.of('en')}", file=sys.stderr)
        return error.exit_code


def work(run_id: str, lock_fd: int | None) -> int:
    """Carries the run out. Raises NotFound, Conflict where another worker has the run."""
    gc.disable()  # libraries make much that lives on: looking for garbage in it would take a quarter of their loading
    from app.jobs import RunFolder, hold
    from app.settings import ASSETS, settings
    from app.targets import Targets, load_asking
    from app.worker import Worker
    from backends.runs import State
    from backends.text import Text
    from storage.store import Store

    gc.enable()
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
