"""Looks, inside an image, whether it holds Triton with FasterTransformer: check_image.py --release YY.MM

Standard library only; runs with the image's Python (3.8 and later).
"""

import argparse
import sys
from pathlib import Path

ROOT = Path("/opt/tritonserver")
VERSIONS = {"22.03": "2.20", "22.12": "2.29", "23.01": "2.30", "23.02": "2.31", "23.03": "2.32", "23.04": "2.33"}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", required=True)
    parser.add_argument("--python-backend", action="store_true")
    given = parser.parse_args()
    needed = [ROOT / "bin" / "tritonserver"]
    missing = [path for path in needed if not path.exists()]
    backend = ROOT / "backends" / "fastertransformer"
    # The backend is a library of Triton's; one written in Python is one as well.
    if not any((backend / name).exists() for name in ("libtriton_fastertransformer.so", "model.py")):
        missing.append(backend / "libtriton_fastertransformer.so")
    python = ROOT / "backends" / "python" / "libtriton_python.so"
    if given.python_backend and not python.exists():
        missing.append(python)
    for path in missing:
        print(f"slipway: the image lacks {path}")
    told = ROOT / "TRITON_VERSION"
    if told.exists():
        version = told.read_text().strip()
        print(f"Triton {version}, release {given.release}")
        wanted = VERSIONS.get(given.release)
        if wanted is not None and not version.startswith(wanted + "."):
            print(f"slipway: note: Triton {version} is not the one of {given.release} ({wanted})")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
