"""What deploying through the panel costs beside the exported script that does the same by hand."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

from app.__main__ import control as make_control
from app.control import DEMO
from backends.runs import State
from scripts.bench import Figure
from scripts.bench.engine_server import free_ports

ROUNDS = 3
READ_S = 2.0  # a person reads at least so long before the click


def figures() -> Iterator[Figure]:
    """Deploys the demo both ways in turn, warm: the runtime is there. Seconds to the first streamed answer, from a plan
    that is shown and from a script that is written. `unread`: of a plan that nobody looked at first, as by `slipway
    deploy`, so that no worker waits for it."""
    home = os.environ["SLIPWAY_TEST_HOME"]
    control = make_control({"home": home})
    panel, unread, script = [], [], []
    for number in range(ROUNDS):
        control.plan(DEMO)
        control.get_ready()  # as the page does when it shows the plan
        time.sleep(READ_S)
        panel.append(_by_panel(control, f"bench-{number}"))
        unread.append(_by_panel(control, f"bench-unread-{number}"))
        script.append(_by_hand(control, home))
    yield Figure("deploy.panel", statistics.median(panel), " s")
    yield Figure("deploy.unread", statistics.median(unread), " s")
    yield Figure("deploy.script", statistics.median(script), " s")
    yield Figure("deploy.panel_to_script", _ratio(panel, script), most=1.1)
    yield Figure("deploy.unread_to_script", _ratio(unread, script))


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _by_panel(control, name: str) -> float:
    begun = time.perf_counter()
    run = control.start(DEMO.model_copy(update={"name": name})).run
    run = control.wait(run.id, timeout_s=300)
    seconds = time.perf_counter() - begun
    if run.state is not State.SERVING:
        raise RuntimeError(f"{run.id}: {run.state} {run.trouble}")
    control.stop(run.id)
    while control.run(run.id).state.is_open():
        time.sleep(0.05)
    return seconds


def _by_hand(control, home: str) -> float:
    text = control.script(control.plan(DEMO))
    ports = {
        name: str(port) for name, port in zip(("HTTP_PORT", "GRPC_PORT", "METRICS_PORT"), free_ports(3), strict=True)
    }
    with tempfile.NamedTemporaryFile("w", suffix=".sh") as file:
        file.write(text)
        file.flush()
        begun = time.perf_counter()
        child = subprocess.Popen(
            ("sh", file.name),
            env=os.environ | ports | {"HOME_DIR": home, "PYTHON": sys.executable},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if child.stdout is None:
            raise RuntimeError("the script's output is always read")
        said = ""
        for line in child.stdout:
            said += line
            if "serving on" in line:
                seconds = time.perf_counter() - begun
                child.send_signal(signal.SIGTERM)
                child.wait(30)
                return seconds
    raise RuntimeError(said)
