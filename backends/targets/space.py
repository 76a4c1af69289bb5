"""Room on the disks that a step of the Docker target fills: looked at before, watched during, told when it is out."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from backends.errors import OutOfSpace, SlipwayError
from backends.steps import Service, Step, Task
from backends.targets import reclaim, waiting
from backends.targets.engine import Engine
from backends.text import Text

LOW_MIB = 256  # less than this on a disk ends a step, before the engine itself can no longer work
_LOOK_S = 2.0


class Space:
    """The disks of one engine and one data folder."""

    def __init__(self, engine: Engine, home: Path, low_mib: int) -> None:
        self._engine = engine
        self._home = home
        self._low_mib = low_mib

    def _disks(self, step: Step) -> tuple[str, ...]:
        """Folders on the disks that a step fills, that of its result first: images are the engine's, what a container
        makes is in the data folder. Empty where the engine is elsewhere."""
        root = self._engine.root()
        if root is None:
            return ()
        return (str(self._home), root) if isinstance(step, Task | Service) else (root,)

    def check(self, step: Step, need_mib: int | None = None) -> None:
        """Raises OutOfSpace where less is free than the step's forecast, or `need_mib`, asks for."""
        need = (step.forecast.disk_mib or 0) if need_mib is None else need_mib
        for folder in self._disks(step):
            if shutil.disk_usage(folder).free // 2**20 < max(need, self._low_mib):
                raise self.full(step, folder)
            need = 0

    def watch(self, step: Step) -> Callable[[], None]:
        """What to call while the step runs: it raises OutOfSpace where a disk runs full."""
        looked = time.monotonic()

        def watch() -> None:
            nonlocal looked
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                self.check(step, 0)

        return watch

    def full(self, step: Step, folder: str | None = None, told: OutOfSpace | None = None) -> OutOfSpace:
        """What is full, and what to free: at the engine's, what Slipway itself left there comes first."""
        if folder == str(self._home):
            return waiting.no_space(step, folder, waiting.FREE_HOME)
        freeable = 0
        with contextlib.suppress(SlipwayError):
            freeable = sum(one.bytes for one in reclaim.leftovers(self._engine, self._home))
        own = Text(
            en=f"`slipway clean` frees {freeable / 2**30:.1f} GiB of Slipway's own images and containers there.",
            zh=f"`slipway clean` 可释放 Slipway 自己的镜像与容器 {freeable / 2**30:.1f} GiB。",
        )
        more = Text(
            en="`docker system df` shows what else lies there. Then retry: what was done is kept.",
            zh="`docker system df` 可查看其他占用。之后重试，已完成的部分会保留。",
        )
        full = waiting.no_space(
            step, folder or self._engine.root() or str(self._home), own + more if freeable else more
        )
        if told is not None:
            full.last_lines = told.last_lines
        return full
