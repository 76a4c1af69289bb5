"""The composition root of the panel and the command line: `slipway` and `python -m app` start here.

The other one, of a worker's process, is app/work.py.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping

from app import cli
from app.control import Control
from app.settings import settings
from app.targets import Targets
from storage.store import Store


def control(flags: Mapping[str, object]) -> Control:
    """A Control over the data folder that flags and environment name."""
    chosen = settings(flags)
    store = Store(chosen.home)
    return Control(chosen, store, Targets(chosen))


def main() -> int:
    """The program. Returns its exit status."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a sign that a terminal lacks does not end the program
    return cli.main(sys.argv[1:], control)


if __name__ == "__main__":
    sys.exit(main())
