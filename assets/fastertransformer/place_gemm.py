"""Checks a gemm_config.in and copies it to the server's working folder: place_gemm.py FILE FOLDER"""

import shutil
import sys
from pathlib import Path


def main(source, folder):
    path = Path(source)
    if path.is_dir():
        path = path / "gemm_config.in"
    if not path.is_file():
        print(f"slipway: {path} is not there")
        return 1
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    if not lines or "batch_size" not in lines[0] or "algoId" not in lines[0]:
        print(f"slipway: {path} is not a gemm_config.in: its first line names no columns")
        return 1
    if len(lines) < 2:
        print(f"slipway: {path} holds no entries")
        return 1
    Path(folder).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(str(path), str(Path(folder) / "gemm_config.in"))
    print(f"{len(lines) - 1} entries")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
