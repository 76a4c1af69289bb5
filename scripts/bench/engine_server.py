"""A real tritonserver with the transformers engine, on free loopback ports, for benchmarks and tests.

Standard library only. The server is the embedded runtime's, or any that `launcher` names.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ENGINE = Path(__file__).resolve().parents[2] / "assets" / "engines" / "transformers"
PORTS = range(20_000, 32_000)  # below those of net.ipv4.ip_local_port_range
SAID = "slipway-engine "  # begins what an engine says of itself at load
INPUTS = {
    "text_input": ("TYPE_STRING", 1),
    "messages": ("TYPE_STRING", 1),
    "max_tokens": ("TYPE_INT32", 1),
    "temperature": ("TYPE_FP32", 1),
    "top_p": ("TYPE_FP32", 1),
    "top_k": ("TYPE_INT32", 1),
    "repetition_penalty": ("TYPE_FP32", 1),
    "seed": ("TYPE_UINT64", 1),
    "stop": ("TYPE_STRING", -1),
    "bad_words": ("TYPE_STRING", -1),
    "stream": ("TYPE_BOOL", 1),
}
OUTPUTS = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "prompt_tokens": "TYPE_INT32",
    "completion_tokens": "TYPE_INT32",
    "queue_ms": "TYPE_FP32",
    "ttft_ms": "TYPE_FP32",
}


def config_pbtxt(name: str, parameters: dict[str, str]) -> str:
    """config.pbtxt of the engine."""
    lines = [f'name: "{name}"', 'backend: "python"', "max_batch_size: 0"]
    lines.append("model_transaction_policy { decoupled: true }")
    lines.append("instance_group [{ kind: KIND_CPU, count: 1 }]")
    for key, (kind, size) in INPUTS.items():
        lines.append(f'input {{ name: "{key}", data_type: {kind}, dims: [ {size} ], optional: true }}')
    for key, kind in OUTPUTS.items():
        lines.append(f'output {{ name: "{key}", data_type: {kind}, dims: [ 1 ] }}')
    for key, value in parameters.items():
        lines.append(f"parameters {{ key: {json.dumps(key)}, value: {{ string_value: {json.dumps(value)} }} }}")
    return "\n".join(lines) + "\n"


def write_repository(folder: Path, models: dict[str, dict[str, str]]) -> None:
    """A model repository: name to config.pbtxt parameters."""
    for name, parameters in models.items():
        version = folder / name / "1"
        shutil.copytree(ENGINE, version, ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
        (folder / name / "config.pbtxt").write_text(config_pbtxt(name, parameters))


def facts_in(log: str) -> list[dict[str, object]]:
    """What the engines said in a server's log, wherever on a line: Triton writes the end of its own lines apart from
    their text, and what a model's process says may come between (2.51, seen with strace)."""
    _, *said = log.split(SAID + "{")
    return [json.JSONDecoder().raw_decode("{" + one)[0] for one in said]


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody has, and that the kernel gives to nobody who asks for any while a server loads."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in secrets.SystemRandom().sample(PORTS, 500):
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
                found.append(port)
            if len(found) == count:
                return found
    raise OSError(errno.EADDRINUSE, "no port of loopback is free")


@dataclass
class Server:
    """A running tritonserver."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    metrics_port: int
    log: Path

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process.poll() is None

    def tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-4000:]

    def facts(self) -> list[dict[str, object]]:
        """What each engine said about itself at load."""
        return facts_in(self.log.read_text(errors="replace"))

    def metrics(self) -> str:
        """The metrics page."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as page:
            return str(page.read().decode())


@contextlib.contextmanager
def serving(
    folder: Path, models: dict[str, dict[str, str]], launcher: Path, timeout_s: float = 300.0, *options: str
) -> Iterator[Server]:
    """A server over a fresh repository in the folder, ended with the block. Raises RuntimeError if it fails."""
    write_repository(folder / "repository", models)
    http, grpc, metrics = free_ports(3)
    log = folder / "tritonserver.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                str(launcher),
                f"--model-repository={folder / 'repository'}",
                f"--backend-directory={launcher.parents[1] / 'backends'}",
                "--http-address=127.0.0.1",
                f"--http-port={http}",
                "--grpc-address=127.0.0.1",
                f"--grpc-port={grpc}",
                "--metrics-address=127.0.0.1",
                f"--metrics-port={metrics}",
                "--exit-timeout-secs=3",  # after broken streams 2.51 may wait in vain for a model that nothing uses
                "--disable-auto-complete-config",  # which would load each model file once more
                *options,
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    server = Server(process, http, grpc, metrics, log)
    try:
        _wait(server, timeout_s)
        yield server
    finally:
        _end(process)


def _wait(server: Server, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not server.alive:
            raise RuntimeError("tritonserver ended:\n" + server.tail())
        with contextlib.suppress(urllib.error.URLError, OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/v2/health/ready", timeout=2).close()
            server.metrics()  # which it begins to show last
            return
        time.sleep(0.1)
    raise RuntimeError("tritonserver is not ready in time:\n" + server.tail())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(20)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # a server that crashed leaves its models' processes behind
    process.wait()
