"""What Slipway left in the engine and nothing uses now: found by its labels, removed on request, with the bytes freed.

Only what bears the label of this data folder is ever touched. Pulled images bear none, so they stay.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import docker

from backends.targets import containers
from backends.targets.base import Leftover
from backends.targets.engine import Engine

PATIENCE_S = 30.0  # for what another program counts


def leftovers(engine: Engine, home: Path) -> tuple[Leftover, ...]:
    """Ended containers and unused images of this data folder, the largest first."""
    usage = _usage(engine)
    mine = f"{home}"
    held = usage.get("Containers") or ()
    ended = [
        one
        for one in held
        if _label(one, containers.HOME) == mine and one.get("State") in ("exited", "created", "dead")
    ]
    gone = {one["Id"] for one in ended}
    used = {one.get("ImageID") for one in held if one["Id"] not in gone}
    found = [
        Leftover(
            kind="container",
            id=str(one["Id"]),
            name=str((one.get("Names") or ["/?"])[0]).lstrip("/"),
            bytes=int(one.get("SizeRw") or 0),
            run=_label(one, containers.RUN),
        )
        for one in ended
    ]
    found += [
        Leftover(
            kind="image",
            id=str(one["Id"]),
            name=_image_name(one),
            bytes=max(0, int(one.get("Size") or 0) - max(0, int(one.get("SharedSize") or 0))),
            run=_label(one, containers.RUN),
        )
        for one in usage.get("Images") or ()
        if _label(one, containers.HOME) == mine and one["Id"] not in used
    ]
    return tuple(sorted(found, key=lambda one: (-one.bytes, one.name)))


def remove(engine: Engine, home: Path, chosen: Iterable[Leftover]) -> int:
    """Removes what is chosen and still unused; returns the bytes that this freed on the engine's disk."""
    wanted = {one.id for one in chosen}
    there = [one for one in leftovers(engine, home) if one.id in wanted]
    before = _size(engine)
    for one in sorted(there, key=lambda one: one.kind):  # containers first: they hold images
        if one.kind == "container":
            containers.remove(engine, one.id)
        else:
            _remove_image(engine, one)
    return max(0, before - _size(engine))


def _remove_image(engine: Engine, image: Leftover) -> None:
    """By name, so that an image with another name too keeps that one; silent where it is gone or in use by now."""
    with engine.clearly(), contextlib.suppress(docker.errors.NotFound):
        try:
            engine.api().remove_image(image.name)
        except docker.errors.APIError as error:
            if error.status_code != 409:
                raise


def _usage(engine: Engine) -> dict[str, Any]:
    """What lies on the engine's disk. Docker before 23 counts for one at a time and refuses the others: they wait."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        with engine.clearly():
            try:
                found: dict[str, Any] = engine.api().df()
                return found
            except docker.errors.APIError as error:
                if "already running" not in str(error) or time.monotonic() > deadline:
                    raise
        time.sleep(0.2)


def _size(engine: Engine) -> int:
    """Bytes of all images and containers."""
    usage = _usage(engine)
    return int(usage.get("LayersSize") or 0) + sum(int(one.get("SizeRw") or 0) for one in usage.get("Containers") or ())


def _image_name(image: dict[str, Any]) -> str:
    """Its first name; a build that was broken off leaves images without one, which the engine calls <none>:<none>."""
    named = [str(tag) for tag in image.get("RepoTags") or () if "<none>" not in str(tag)]
    return named[0] if named else str(image["Id"])[7:19]


def _label(thing: dict[str, Any], name: str) -> str:
    return str((thing.get("Labels") or {}).get(name, ""))
