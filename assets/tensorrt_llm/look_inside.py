"""Runs in the container that engines are built and served in: writes down what is in it and on it, as JSON.

    python3 look_inside.py FILE

Keys: tensorrt (four parts), tensorrt_llm, gpu, sm (86 for 8.6), image_digest (as SLIPWAY_IMAGE says). One that cannot
be found is left out. Plain Python 3.8.
"""

import importlib.metadata as metadata
import json
import os
import subprocess
import sys
from pathlib import Path

found = {}
for name, packages in (
    ("tensorrt", ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")),
    ("tensorrt_llm", ("tensorrt_llm", "tensorrt-llm")),
):
    for package in packages:
        try:
            found[name] = metadata.version(package)
            break
        except metadata.PackageNotFoundError:
            continue
try:
    said = subprocess.run(
        ("nvidia-smi", "--query-gpu=name,compute_cap", "--format=csv,noheader"),
        stdout=subprocess.PIPE,
        timeout=60,
        check=True,
    ).stdout.decode()
    gpu, _, capability = said.splitlines()[0].rpartition(",")
    found["gpu"] = gpu.strip()
    found["sm"] = int(capability.strip().replace(".", ""))
except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
    print(f"nvidia-smi did not tell: {error}", file=sys.stderr)
if os.environ.get("SLIPWAY_IMAGE"):
    found["image_digest"] = os.environ["SLIPWAY_IMAGE"]
Path(sys.argv[1]).write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
print(json.dumps(found))
