"""`python -m scripts.bench [PART ...]`: every figure, or those of the named parts. Exit status 1 where one is short."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

PARTS = ("panel", "log", "monitor", "history", "deploy", "chat", "engine")


def main(argv: Sequence[str]) -> int:
    """Measures and prints as it goes."""
    short = 0
    for part in argv or PARTS:
        for figure in importlib.import_module(f"scripts.bench.{part}").figures():
            print(figure.line(), flush=True)
            short += not figure.met
    return int(short > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
