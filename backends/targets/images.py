"""Images: pulled with bytes and percentage, built with a live log and stages, given up the moment a person asks."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import docker

from backends import sources
from backends.errors import BadInput, OutOfSpace, Stalled, StepFailed
from backends.events import Event, Kind
from backends.steps import BuildImage, PullImage
from backends.targets import buildx, waiting
from backends.targets.base import Work
from backends.targets.engine import Engine, said
from backends.text import Text

SAY_S = 0.5  # how often progress is told
_DOWNLOAD = 0.7  # share of a layer's progress that its download is; the rest is its unpacking
_STAGE = re.compile(r"^Step (\d+)/(\d+) : (.*)")

_NO_PROXY = Text(
    en="Docker's own proxy has a login, which a build by the engine's old builder would show to `docker inspect`: it "
    "is left out. Install docker-buildx, or name a proxy without a login (SLIPWAY_HTTPS_PROXY).",
    zh="Docker 的代理设置含登录信息，旧版构建器会让 docker inspect 看到它，因此未使用。请安装 docker-buildx，"
    "或指定不含登录信息的代理（SLIPWAY_HTTPS_PROXY）。",
)

Watch = Callable[[], None]
"""Raises OutOfSpace where the engine's disk runs full."""


class PullProgress:
    """Layers of one pull, summed. Pure: fed with the engine's messages, says how far it is.

    A layer's size is known only once its download begins, so the others count as large as the known ones; the fraction
    never falls for that.
    """

    def __init__(self) -> None:
        self._layers: dict[str, tuple[int, int, float]] = {}  # id -> bytes here, bytes in all (0: unknown), fraction
        self._best = 0.0

    def feed(self, message: Mapping[str, Any]) -> None:
        """One message of the engine: {"status", "id", "progressDetail": {"current", "total"}}."""
        layer, status = str(message.get("id") or ""), str(message.get("status") or "")
        if not layer or status.startswith(("Pulling from", "Digest")):
            return
        detail = message.get("progressDetail") or {}
        current, total = int(detail.get("current") or 0), int(detail.get("total") or 0)
        here, whole, fraction = self._layers.get(layer, (0, 0, 0.0))
        whole = max(whole, total) if status == "Downloading" else whole
        if status == "Downloading":
            here = max(here, min(current, whole) if whole else current)
            fraction = max(fraction, _DOWNLOAD * here / whole if whole else 0.0)
        elif status in ("Download complete", "Verifying Checksum"):
            here, fraction = whole, max(fraction, _DOWNLOAD)
        elif status == "Extracting":
            share = min(1.0, current / total) if total else 0.0
            here, fraction = whole, max(fraction, _DOWNLOAD + (1 - _DOWNLOAD) * share)
        elif status in ("Pull complete", "Already exists"):
            here, fraction = whole, 1.0
        self._layers[layer] = (here, whole, fraction)

    @property
    def bytes_here(self) -> int:
        """Bytes downloaded."""
        return sum(here for here, _, _ in self._layers.values())

    @property
    def bytes_known(self) -> int:
        """Bytes to download as far as is known: layers that wait are not in it."""
        return sum(whole for _, whole, _ in self._layers.values())

    @property
    def layers(self) -> tuple[int, int]:
        """Layers that are done, and layers in all."""
        return sum(1 for *_, fraction in self._layers.values() if fraction >= 1.0), len(self._layers)

    @property
    def fraction(self) -> float:
        """0 to 1, by bytes; never falls."""
        sizes = [whole for _, whole, _ in self._layers.values() if whole]
        if self._layers:
            usual = sum(sizes) / len(sizes) if sizes else 1.0
            weights = [(whole or usual, fraction) for _, whole, fraction in self._layers.values()]
            now = sum(weight * fraction for weight, fraction in weights) / sum(weight for weight, _ in weights)
            self._best = max(self._best, min(1.0, now))
        return self._best

    def event(self, step_id: str) -> Event:
        """How far the pull is."""
        done, layers = self.layers
        here, known = self.bytes_here / 2**20, self.bytes_known / 2**20
        return Event(
            step=step_id,
            kind=Kind.PROGRESS,
            fraction=self.fraction,
            text=Text(
                en=f"{here:,.0f} of {known:,.0f} MiB, {done} of {layers} layers.",
                zh=f"{here:,.0f} / {known:,.0f} MiB，{done} / {layers} 层。",
            ),
            data={"bytes": self.bytes_here, "bytes_known": self.bytes_known, "layers": layers, "layers_done": done},
        )


def pull(engine: Engine, step: PullImage, work: Work, watch: Watch) -> Iterator[Event]:
    """Pulls an image, from a mirror where the step names one. One that is here already is not asked for again."""
    if there(engine, step.image):
        yield Event(step=step.id, kind=Kind.NOTE, text=Text(en="The image is here already.", zh="镜像已在本机。"))
    else:
        yield from _pulled(engine, step, work, watch)


def pull_again(engine: Engine, step: PullImage, work: Work, watch: Watch) -> Iterator[Event]:
    """Asks for an image that is here and turned out to be wrong: its registry may have another one by now. Where none
    comes, the one that is here is taken; it may have been judged by mistake, and was perhaps never in a registry."""
    try:
        yield from _pulled(engine, step, work, watch)
    except (OutOfSpace, Stalled):
        raise
    except StepFailed as failed:
        kept = Text(en="The image that is here is taken again.", zh="仍使用本机已有的镜像。")
        yield Event(step=step.id, kind=Kind.NOTE, text=kept + failed.message)


def _pulled(engine: Engine, step: PullImage, work: Work, watch: Watch) -> Iterator[Event]:
    """Logins are Docker's own: its settings file and credential helpers are read by its library, nothing is kept."""
    source = step.mirror or step.image
    repository, tag = split(source)
    progress, told = PullProgress(), 0.0
    movement = waiting.Movement(step.stall_s)
    log = waiting.Lines(work.log)
    with engine.flow(lambda api: api.pull(repository, tag=tag, stream=True, decode=True)) as flow:
        for batch in flow.batches(waiting.LOOK_S):
            work.check_stop()
            watch()
            for message in batch:
                _raise_error(message, log)
                progress.feed(message)
                if not message.get("progressDetail"):
                    log.line(": ".join(str(message[key]) for key in ("id", "status") if message.get(key)))
            log.write()
            if batch:
                movement.moved()
            movement.check(work.log)
            if batch and time.monotonic() - told > SAY_S:
                told = time.monotonic()
                yield progress.event(step.id)
    if source != step.image:
        wanted, wanted_tag = split(step.image)
        with engine.clearly():
            engine.api().tag(source, wanted, wanted_tag, force=True)
        log.line(f"{source} -> {step.image}")
        log.write()
    yield progress.event(step.id).model_copy(update={"fraction": 1.0})


def there(engine: Engine, image: str, labels: Mapping[str, str] | None = None) -> bool:
    """Whether the engine has the image, with those labels."""
    with engine.clearly():
        try:
            held = engine.api().inspect_image(image)["Config"].get("Labels") or {}
        except docker.errors.NotFound:
            return False
    return all(held.get(name) == value for name, value in (labels or {}).items())


def split(image: str) -> tuple[str, str | None]:
    """Repository and tag or digest of an image's name; "latest" where it has none."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    head, colon, tag = name.rpartition(":")
    return (head, tag) if colon and "/" not in tag else (name, "latest")


def build(
    engine: Engine,
    step: BuildImage,
    work: Work,
    labels: Mapping[str, str],
    watch: Watch,
    environ: Mapping[str, str],
    home: Path,
) -> Iterator[Event]:
    """Builds an image from a folder: with buildx where the machine has it, else with the engine's own builder."""
    folder = Path(step.folder)
    if not (folder / step.dockerfile).resolve().is_relative_to(folder.resolve()):
        raise BadInput("plan", Text(en=f"“{step.dockerfile}” leaves its folder.", zh=f"“{step.dockerfile}”越出目录。"))
    if not (folder / step.dockerfile).is_file():
        raise StepFailed(
            Text(en=f"There is no {folder / step.dockerfile}.", zh=f"缺少 {folder / step.dockerfile}。"),
            Text(en="The step that fetches it has to run first.", zh="需要先执行获取它的步骤。"),
        )
    dockerfile = _dockerfile(step, work)
    if buildx.there(environ):
        yield from buildx.build(engine.host, step, dockerfile, work, labels, watch, environ, home)
    else:
        yield from _with_the_engine(engine, step, dockerfile, work, labels, watch)
    if not there(engine, step.tag):
        raise StepFailed(
            Text(en=f"The build ended well, but {step.tag} is not there.", zh=f"构建正常结束，但 {step.tag} 不存在。"),
            last_lines=waiting.tail(work.log),
        )
    yield Event(step=step.id, kind=Kind.PROGRESS, fraction=1.0)


def _dockerfile(step: BuildImage, work: Work) -> Path:
    """The Dockerfile to build with: the folder's own, or where mirrors are set a copy of it that takes them."""
    own = Path(step.folder) / step.dockerfile
    names = sources.declared(step)
    if not names:
        return own
    taking = work.folder / f"Dockerfile.{step.id}"
    taking.write_text(sources.with_arguments(own.read_text(encoding="utf-8"), names), encoding="utf-8")
    return taking


def _with_the_engine(
    engine: Engine, step: BuildImage, dockerfile: Path, work: Work, labels: Mapping[str, str], watch: Watch
) -> Iterator[Event]:
    """The classic builder. Leaving the stream ends the build and its container."""
    movement, log = waiting.Movement(step.stall_s), waiting.Lines(work.log)
    without_proxy = bool(engine.secret_proxies) and not {"http_proxy", "https_proxy"} & step.sources.keys()
    if without_proxy:
        yield Event(step=step.id, kind=Kind.NOTE, text=_NO_PROXY)
    with engine.flow(
        lambda api: api.build(
            path=step.folder,
            dockerfile=str(dockerfile),
            tag=step.tag,
            buildargs=step.sources | step.args,
            labels=dict(labels),
            rm=True,
            forcerm=True,
            use_config_proxy=not engine.secret_proxies,
            decode=True,
        )
    ) as flow:
        for batch in flow.batches(waiting.LOOK_S):
            work.check_stop()
            watch()
            stage: Event | None = None
            for message in batch:
                _raise_error(message, log)
                for line in log.feed(str(message.get("stream") or "")):
                    stage = _stage(step.id, line) or stage
                if message.get("status") and not message.get("progressDetail"):
                    log.line(": ".join(str(message[key]) for key in ("id", "status") if message.get(key)))
            log.write()
            if batch:
                movement.moved()
            movement.check(work.log)
            if stage is not None:
                yield stage


def _stage(step_id: str, line: str) -> Event | None:
    found = _STAGE.match(line)
    if found is None:
        return None
    now, of, what = int(found[1]), int(found[2]), found[3].strip()
    return Event(
        step=step_id,
        kind=Kind.PROGRESS,
        fraction=(now - 1) / of,
        text=Text(en=f"Stage {now} of {of}: {what[:120]}", zh=f"阶段 {now} / {of}：{what[:120]}"),
        data={"stage": now, "stages": of},
    )


def _raise_error(message: Mapping[str, Any], log: waiting.Lines) -> None:
    """The engine tells failures as messages: {"errorDetail": {"code", "message"}, "error"}."""
    if "error" not in message:
        return
    words = str(message["error"])
    log.line(words)
    log.write()
    failure = said(words)
    if isinstance(failure, StepFailed):
        code = (message.get("errorDetail") or {}).get("code")
        failure.exit_status = int(code) if isinstance(code, int) else None
        failure.last_lines = waiting.tail(log.path)
    raise failure
