"""What the engine's tests need: its modules importable, tiny models, and a real server over them."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGINE = ROOT / "assets" / "engines" / "transformers"
ENDLESS = 20_000  # tokens of context: an answer so long goes on for many seconds
NO_TOKEN = 9999  # an id that no tokenizer here has
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
    """A folder with tiny random models: llama and bart, and a llama whose answers only end at their limit."""
    folder = tmp_path_factory.mktemp("models")
    in_runtime(runtime_python, "families.py", str(folder), "llama", "bart")
    endless = shutil.copytree(folder / "llama", folder / "endless")
    for name, changed in (("config.json", {"max_position_embeddings": ENDLESS}), ("generation_config.json", {})):
        told = json.loads((endless / name).read_text()) | changed | {"eos_token_id": NO_TOKEN}
        (endless / name).write_text(json.dumps(told))
    return folder


@pytest.fixture(scope="module")
def servers(
    runtime_dir: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[], engine_server.Server]]:
    """Gives the one server of a module, and another where that one has died. `chat` decodes together, `narrow` has one
    place, a short queue and answers without an end, `odd` is a BART."""
    llama = {"model_dir": str(tiny_models / "llama"), "device": "cpu"}
    narrow = {"model_dir": str(tiny_models / "endless"), "device": "cpu", "max_context": str(ENDLESS)}
    narrow |= {"max_rows": "1", "queue_limit": "2"}
    models = {"chat": llama, "narrow": narrow, "odd": {"model_dir": str(tiny_models / "bart")}}
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
