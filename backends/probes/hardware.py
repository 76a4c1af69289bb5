"""This machine as a frozen `Hardware`: the parts are read side by side, and a part that does not answer is left out.

Each fact is known or says why not, under `unknown` (or `docker.why`). Nothing here raises because of the machine.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from backends.probes import docker, graphics, host
from backends.probes.later import Later
from backends.spec import Disk, Docker, Hardware
from backends.text import Text

T = TypeVar("T")


def detect(home: Path, *, timeout_s: float = 5.0) -> Hardware:
    """Everything that planning asks of this machine. `home` is the folder where models and engines would lie.

    Returns within about `timeout_s`, mostly within one second.
    """
    deadline = time.monotonic() + timeout_s
    patience_s = timeout_s * 0.8
    unknown: dict[str, Text] = {}
    gpus_later = Later(lambda: graphics.read(patience_s))
    docker_later = Later(lambda: docker.read(min(2.0, patience_s)))
    host_later = Later(host.read)
    disks_later = {
        purpose: Later(_asking(purpose, path))
        for purpose, path in (("data", home), ("temporary", Path(tempfile.gettempdir())))
    }

    def answer(later: Later[T], *fields: str) -> T | None:
        try:
            return later.answer(deadline)
        except TimeoutError:
            why = Text(en=f"There was no answer within {timeout_s:g} s.", zh=f"{timeout_s:g} 秒内没有应答。")
        except Exception as error:  # a fault in one part must not hide the others; it is told with its name
            said = f"{type(error).__name__}: {error}"
            why = Text(en=f"This could not be read: {said}", zh=f"读取失败：{said}")
        unknown.update(dict.fromkeys(fields, why))
        return None

    engine = answer(docker_later, "docker")
    if engine is not None and engine.images is not None:
        disks_later["images"] = Later(_asking("images", Path(engine.images)))
    elif engine is not None:
        unknown["disks.images"] = engine.why or Text(
            en="Docker runs on another machine.", zh="Docker 运行在另一台机器上。"
        )
    drives = [answer(later, f"disks.{purpose}") for purpose, later in disks_later.items()]
    machine = answer(
        host_later, "os", "architecture", "glibc", "cpu_name", "cpu_cores", "ram_total_mib", "ram_free_mib"
    )
    cards = answer(gpus_later, "gpus", "driver_version", "driver_cuda")
    facts = {
        **({} if machine is None else {name: getattr(machine, name) for name in host.Host.model_fields}),
        **({} if cards is None else {name: getattr(cards, name) for name in graphics.Graphics.model_fields}),
    }
    facts["unknown"] = {
        **unknown,
        **(machine.unknown if machine else {}),
        **(cards.unknown if cards else {}),
    }
    return Hardware.model_validate(
        {**facts, "docker": engine or Docker(why=unknown.get("docker")), "disks": tuple(d for d in drives if d)}
    )


def _asking(purpose: str, path: Path) -> Callable[[], Disk]:
    return lambda: host.disk(purpose, path)
