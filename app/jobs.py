"""What a run keeps on disk: its folder, its lock, and the stamps of results that need not be made again."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from backends.spec import Endpoint
from backends.steps import Plan, Step, fill_step, fingerprints
from backends.targets.base import Target

NOWHERE = Endpoint(http_port=1, grpc_port=1, metrics_port=1, model="")  # for places of a server that has no ports yet


class RunFolder:
    """What a run keeps on disk: its lock, its logs, its model repository."""

    def __init__(self, home: Path, run_id: str) -> None:
        self.path = home / "runs" / run_id

    @property
    def lock(self) -> Path:
        return self.path / "worker.lock"

    def log(self, step_id: str) -> Path:
        """The log of one step, for all attempts."""
        return self.path / "logs" / f"{step_id}.log"

    def make(self) -> None:
        """Makes the folder; silent where it is there."""
        self.log("-").parent.mkdir(parents=True, exist_ok=True, mode=0o700)


def hold(lock: Path) -> IO[bytes] | None:
    """Takes a lock that lives as long as the returned file, or as a child that inherits it. None: somebody has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


class Stamps:
    """Which results are there: a stamp for each fingerprint that was carried out, under the data folder."""

    def __init__(self, home: Path, asset_root: Path) -> None:
        self._folder = home / "stamps"
        self._assets = asset_root

    def prints(self, steps: Sequence[Step]) -> dict[str, str]:
        """The fingerprint of each step; places must be filled."""
        return fingerprints(steps, self._asset_digest)

    def has(self, step: Step, print_: str, target: Target) -> bool:
        """True where the step was carried out and its results are still there. Servers and questions never are."""
        if step.kind in ("service", "ask") or not (self._folder / print_).exists():
            return False
        return target.has(step)

    def add(self, step: Step, print_: str, run_id: str) -> None:
        """Notes that the step was carried out."""
        if step.kind not in ("service", "ask"):
            self._folder.mkdir(parents=True, exist_ok=True)
            words = f"{step.id} {run_id} {datetime.now(UTC).isoformat()}\n"
            (self._folder / print_).write_text(words, encoding="utf-8")
            self._refused(print_).unlink(missing_ok=True)

    def begin(self, print_: str) -> None:
        """Forgets an earlier result: what is made in its place is none until the step has come to its end, even where
        its outputs are there already."""
        (self._folder / print_).unlink(missing_ok=True)

    def drop(self, print_: str) -> None:
        """Forgets a result that turned out to be wrong, so that the step is carried out again."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / print_).rename(self._refused(print_))

    def refused(self, print_: str) -> bool:
        """True where the step's last result turned out to be wrong, and no other was made since."""
        return self._refused(print_).exists()

    def _refused(self, print_: str) -> Path:
        return self._folder / f"{print_}.refused"

    def _asset_digest(self, name: str) -> str:
        path = (self._assets / name).resolve()
        if not path.is_relative_to(self._assets.resolve()):
            return "outside"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def to_do(plan: Plan, target: Target, home: Path, asset_root: Path) -> tuple[Step, ...]:
    """The steps of a plan that a run would carry out now; the others are found done."""
    places = target.places("-", NOWHERE, plan.spec.bind) | {"lock": "-"}
    steps = [fill_step(step, places) for step in plan.steps]
    stamps = Stamps(home, asset_root)
    prints = stamps.prints(steps)
    done = {step.id for step in steps if stamps.has(step, prints[step.id], target)}
    return tuple(step for step in plan.steps if step.id not in done)
