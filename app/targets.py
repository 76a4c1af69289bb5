"""The targets of this machine, put together. What only some runs need is loaded when it is first asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from app.settings import ASSETS, Settings
from backends.spec import Chat, Endpoint, Piece
from backends.targets.base import Target
from backends.targets.local import LocalTarget


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
    from app.talking import talk

    return in_step(talk(engine, endpoint, chat, told))


def load_asking() -> None:
    """Loads what a question to a server takes, a third of a second, so that a first one need not wait for it."""
    from backends import client

    client.load()
