"""What the engine's tests need: its modules importable, tiny models, and a real server over them."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "assets" / "engines" / "transformers"
sys.path.insert(0, str(ENGINE))
sys.path.insert(0, str(ROOT / "scripts" / "bench"))

import engine_server  # noqa: E402


def in_runtime(python: Path, script: str, *arguments: str, timeout_s: float = 300.0) -> list[dict[str, Any]]:
    """Runs a script of this folder with the runtime's interpreter; its JSON lines."""
    command = [str(python), str(Path(__file__).parent / script), str(ENGINE), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


@pytest.fixture(scope="session")
def tiny_models(runtime_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny random models: llama and bart."""
    folder = tmp_path_factory.mktemp("models")
    in_runtime(runtime_python, "families.py", str(folder), "llama", "bart")
    return folder


@pytest.fixture(scope="module")
def servers(
    runtime_dir: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], engine_server.Server]]:
    """Gives the one server of a module, and another where that one has died. `chat` decodes together, `narrow` has one
    place and a short queue, `odd` is a BART."""
    llama = {"model_dir": str(tiny_models / "llama"), "device": "cpu"}
    narrow = {"max_rows": "1", "queue_limit": "2", "queue_timeout_s": "1"}
    models = {"chat": llama, "narrow": llama | narrow, "odd": {"model_dir": str(tiny_models / "bart")}}
    launcher = runtime_dir / "bin" / "slipway-tritonserver"
    started: list[engine_server.Server] = []
    with contextlib.ExitStack() as held:

        def living() -> engine_server.Server:
            if not started or not started[-1].alive:
                folder = tmp_path_factory.mktemp("server")
                started.append(held.enter_context(engine_server.serving(folder, models, launcher)))
            return started[-1]

        yield living


@pytest.fixture
def server(servers: Callable[[], engine_server.Server]) -> Iterator[engine_server.Server]:
    """A real tritonserver. One that dies is the failure of the test in which it died, and of no other."""
    running = servers()
    yield running
    assert running.alive, f"tritonserver ended in this test, status {running.process.returncode}: {running.tail()}"
