"""The composition root: the one place where concrete classes meet. `slipway` and `python -m app` start here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from app import cli
from app.control import Control
from app.settings import ASSETS, Settings, settings
from app.talking import talk
from backends.spec import Chat, Endpoint, Piece
from backends.targets.base import Target
from backends.targets.local import LocalTarget
from storage.store import Store


def control(flags: Mapping[str, object]) -> Control:
    """A Control over the data folder that flags and environment name."""
    chosen = settings(flags)
    store = Store(chosen.home)
    return Control(chosen, store, Targets(chosen))


class Targets(Mapping[str, Target]):
    """The targets by the name that a spec gives them; Docker's is made when first asked for: its library is slow."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._local = LocalTarget(chosen.home, ASSETS, sys.executable, os.environ, _ask)
        self._docker: Target | None = None

    def __getitem__(self, name: str) -> Target:
        if name == "local":
            return self._local
        if name != "docker":
            raise KeyError(name)
        if self._docker is None:
            from backends.targets.docker import DockerTarget

            roots = self._settings.model_roots
            self._docker = DockerTarget(self._settings.home, roots, os.environ, self._local)
        return self._docker

    def __iter__(self) -> Iterator[str]:
        return iter(("local", "docker"))

    def __len__(self) -> int:
        return 2


def _ask(engine: str, endpoint: Endpoint, chat: Chat, told: Mapping[str, str]) -> Iterator[Piece]:
    from app.asking import in_step

    return in_step(talk(engine, endpoint, chat, told))


def main() -> int:
    """The program. Returns its exit status."""
    return cli.main(sys.argv[1:], control)


if __name__ == "__main__":
    sys.exit(main())
