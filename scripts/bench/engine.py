"""The embedded engine on this machine's CPU, through a real tritonserver (see engine_cpu.py), with the demo model."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from scripts.bench import Figure

HERE = Path(__file__).resolve().parent
DEMO = HERE.parents[1] / "assets" / "demo_model"


def figures() -> Iterator[Figure]:
    """What engine_cpu.py prints, as figures."""
    runtime = Path(os.environ["SLIPWAY_TEST_HOME"]) / "runtime"
    command = (sys.executable, str(HERE / "engine_cpu.py"), f"--runtime={runtime}", f"--model={DEMO}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    for line in done.stdout.splitlines():
        name, value, target, _ = line.split()
        sign, bound = target[:2], target[2:]
        limits = {"least": float(bound)} if sign == ">=" else {"most": float(bound)} if sign == "<=" else {}
        yield Figure(name.replace("engine_cpu_", "engine."), float(value), **limits)
