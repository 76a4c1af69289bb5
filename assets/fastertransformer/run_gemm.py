"""Runs a gemm tool and looks whether it really wrote its file: run_gemm.py FOLDER TOOL ARGUMENT...

The tools print their usage and end with 0 when the number of arguments is wrong, so their status alone says nothing.
Standard library only; runs with the image's Python (3.8 and later).
"""

import subprocess
import sys
from pathlib import Path


def main(folder, command):
    Path(folder).mkdir(parents=True, exist_ok=True)
    made = Path(folder) / "gemm_config.in"
    if made.exists():
        made.unlink()  # an old one would be taken for the result, or appended to
    print("+ " + " ".join(command), flush=True)
    try:
        status = subprocess.run(command, cwd=folder, check=False).returncode
    except FileNotFoundError:
        print(f"slipway: the image has no {command[0]}")
        return 127
    if status != 0:
        print(f"slipway: {Path(command[0]).name} ended with {status}")
        return status if 0 < status < 256 else 1
    rows = [line for line in made.read_text().splitlines()[1:] if line.strip()] if made.exists() else []
    if not rows:
        print(f"slipway: {Path(command[0]).name} wrote no entries: it does not take these arguments")
        return 1
    print(f"{len(rows)} entries in {made}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
