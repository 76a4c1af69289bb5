"""Looks whether a folder that a person named holds what is needed of it: check_files.py FOLDER FILE..."""

import sys
from pathlib import Path


def main(folder, names):
    missing = [name for name in names if not (Path(folder) / name).exists()]
    for name in missing:
        print(f"slipway: {folder} lacks {name}")
    if not missing:
        print(f"{folder} holds {', '.join(names)}")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
