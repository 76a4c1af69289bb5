"""Checks that the tables of releases, CUDA versions, drivers and GPUs fit together: `make check-releases`.

Prints one line for each problem. Exit code 1 where there are any.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from backends import gpus, limits, releases


def main() -> int:
    """Look at every table once."""
    problems = releases.problems() + gpus.problems() + limits.problems()
    for problem in problems:
        print(problem)
    if not problems:
        table = releases.load()
        print(f"{len(table.of('py3'))} releases, {len(table.images)} images: the tables fit together.")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main())
