"""A look into a pulled image: which Triton, CUDA, TensorRT and engine it really holds, kept by its digest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import docker

from backends import doctor, inside, looked_into, releases
from backends.errors import OutOfSpace, StepFailed
from backends.events import Event, Kind
from backends.spec import Inside
from backends.steps import PullImage
from backends.targets import waiting
from backends.targets.base import Work, redact
from backends.targets.engine import Engine
from backends.text import Text

PATIENCE_S = 120.0  # a first start of a large image on a slow disk; the look itself takes a second
_NOBODY = "65534:65534"


def digest_of(engine: Engine, image: str) -> str | None:
    """What the image is: the digest that its registry knows it by, else the engine's own id. None: not there."""
    with engine.clearly():
        try:
            return _digest(engine.api().inspect_image(image))
        except docker.errors.NotFound:
            return None


def look_into(engine: Engine, step: PullImage, work: Work, home: Path, labels: Mapping[str, str]) -> Iterator[Event]:
    """Looks into the step's image where that digest was not looked into before, and says what was found.

    An image that cannot be looked into (no Python, another architecture) is no failure: a note says so.
    """
    with engine.clearly():
        told = engine.api().inspect_image(step.image)
    digest = _digest(told)
    if looked_into.known(home, digest):
        return
    output, why = "", None
    try:
        output = _run(engine, step.image, work, labels)
    except OutOfSpace:
        raise
    except StepFailed as failed:
        cause = doctor.diagnose(failed.last_lines)
        why = failed.message if cause is None else cause.cause
    config = told.get("Config") or {}
    env = dict(line.split("=", 1) for line in config.get("Env") or () if "=" in line)
    found = inside.read_inside(output, env, config.get("Labels") or {}, digest)
    seen = found.model_copy(
        update={"image": step.image, "looked_at": datetime.now(UTC).isoformat(timespec="seconds"), "why": why}
    )
    looked_into.keep(home, seen)
    line = inside.told(seen) or (why.en if why is not None else "nothing that is known")
    with work.log.open("a", encoding="utf-8") as log:
        log.write(redact(f"Inside {step.image} ({digest}): {line}\n"))
    for text in _words(step.image, seen):
        yield Event(step=step.id, kind=Kind.NOTE, text=text, data={"digest": digest})


def _words(image: str, seen: Inside) -> tuple[Text, ...]:
    """Where it is not as the table says, and what was found."""
    tag = inside.tag_of(image)
    row = next((one for one in releases.load().images if one.tag == tag), None)
    return (*(inside.differences(row, seen) if row is not None else ()), inside.source(tag or image, seen))


def _digest(told: Mapping[str, Any]) -> str:
    known = [str(name).partition("@")[2] for name in told.get("RepoDigests") or ()]
    return next((digest for digest in known if digest), str(told["Id"]))


def _run(engine: Engine, image: str, work: Work, labels: Mapping[str, str]) -> str:
    """What `inside.COMMAND` prints in the image, as nobody, with no network. Raises StepFailed, Stopped."""
    with engine.clearly():
        api = engine.api()
        options = {
            "network_mode": "none",
            "cap_drop": ["ALL"],
            "security_opt": ["no-new-privileges"],
            "read_only": True,
        }
        config: dict[str, Any] = {
            "image": image,
            "entrypoint": list(inside.COMMAND),
            "labels": dict(labels),
            "user": _NOBODY,
            "host_config": api.create_host_config(**options),
        }
        try:
            container = str(api.create_container(**config)["Id"])
        except docker.errors.NotFound as error:
            raise StepFailed(_said(str(error.explanation or error))) from error
    try:
        return _watched(engine, container, work)
    finally:
        with engine.clearly(), contextlib.suppress(docker.errors.NotFound):
            engine.api().remove_container(container, force=True, v=True)


def _watched(engine: Engine, container: str, work: Work) -> str:
    deadline = time.monotonic() + PATIENCE_S
    try:
        with engine.clearly():
            engine.api().start(container)
            while (state := engine.api().inspect_container(container)["State"])["Status"] not in ("exited", "dead"):
                work.check_stop()
                if time.monotonic() > deadline:
                    raise StepFailed(Text(en=f"no answer within {PATIENCE_S:g} s", zh=f"{PATIENCE_S:g} 秒内没有结果"))
                time.sleep(waiting.LOOK_S)
            printed = engine.api().logs(container, stdout=True, stderr=True).decode("utf-8", "replace")
    except docker.errors.NotFound as error:  # how the engine says that the program is not in the image
        raise StepFailed(_said(str(error.explanation or error))) from error
    if state.get("ExitCode"):
        last = next((line for line in reversed(printed.splitlines()) if line.strip()), "")
        raise StepFailed(_said(f"exit code {state['ExitCode']} {last}".strip()))
    return str(printed)


def _said(words: str) -> Text:
    short = redact(words.strip())[:300]
    return Text(en=f"Docker said: {short}", zh=f"Docker 返回：{short}")
