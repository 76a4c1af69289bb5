"""The composition root: the one place where concrete classes meet. `slipway` and `python -m app` start here."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

from app import cli
from app.control import Control, talk
from app.settings import ASSETS, settings
from backends.spec import Chat, Endpoint, Piece
from backends.targets.local import LocalTarget
from storage.store import Store


def control(flags: Mapping[str, object]) -> Control:
    """A Control over the data folder that flags and environment name."""
    chosen = settings(flags)
    store = Store(chosen.home)
    target = LocalTarget(chosen.home, ASSETS, sys.executable, os.environ, _ask)
    return Control(chosen, store, target)


def _ask(engine: str, endpoint: Endpoint, chat: Chat) -> Iterator[Piece]:
    from app.asking import in_step

    return in_step(talk(engine, endpoint, chat))


def main() -> int:
    """The program. Returns its exit status."""
    return cli.main(sys.argv[1:], control)


if __name__ == "__main__":
    sys.exit(main())
