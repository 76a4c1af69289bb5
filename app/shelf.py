"""The use cases about what lies on disk: kept engines, and the check of model repositories that people have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from app.settings import Settings
from backends import reading
from backends.errors import BadInput, CannotDo
from backends.lint import lint
from backends.lint.finding import Finding
from backends.spec import Hardware
from backends.steps import Plan, WriteFiles
from backends.tensorrt_llm import engine_store
from backends.tensorrt_llm.engine_store import EngineView
from backends.tensorrt_llm.stamps import Comparison, Stamp, Want
from backends.text import Text


class Shelf:
    """Kept engines below the data folder. `in_use` gives the folders that running servers read."""

    def __init__(self, settings: Settings, in_use: Callable[[], Sequence[str]]) -> None:
        self._settings = settings
        self._in_use = in_use

    def engines(self) -> tuple[EngineView, ...]:
        """Every kept engine, looked at now."""
        return engine_store.engines(self._settings.home)

    def check(self, name: str, hardware: Hardware) -> Comparison:
        """Whether a kept engine is whole, and runs on that machine's GPUs. Raises NotFound."""
        sms = [gpu.sm for gpu in hardware.gpus if gpu.sm is not None]
        return engine_store.check(self._settings.home, name, sms)

    def remove(self, name: str) -> int | None:
        """Removes a kept engine; the MiB that it freed, None for one that stays where a person has it.

        Raises NotFound, Conflict where a server reads it.
        """
        return engine_store.remove(self._settings.home, name, self._in_use())

    def register(self, folder: str, model: str) -> EngineView:
        """Takes an engine that a person has into the list; it stays where it is. Raises BadInput."""
        return engine_store.register(self._settings.home, self._folder(folder), Stamp(model=model))

    def agrees(self, plan: Plan) -> tuple[Text, ...]:
        """What is worth a word of the engine that a plan's spec names; nothing where it names none.

        Raises CannotDo with every difference and what building another takes, BadInput where it is no engine.
        """
        named = plan.spec.tensorrt_llm.engine_folder if plan.spec.tensorrt_llm is not None else None
        if plan.spec.engine != "tensorrt_llm" or named is None:
            return ()
        step = plan.step("engine-wanted")
        if not isinstance(step, WriteFiles):
            raise TypeError("engine-wanted writes what is wanted")
        want = reading.read_json(Want, step.files[0].text or "", "want")
        compared = engine_store.against(self._settings.home, self._folder(named, "engine_folder"), want)
        if compared.refusals:
            raise CannotDo(
                Text(en=f"The engine in {named} does not fit.", zh=f"{named} 中的引擎不适用。"),
                compared.refusals,
                Text(en="Name another folder, or none to have it built.", zh="请指定其他目录，或留空以重新构建。"),
            )
        return compared.cautions

    def lint(self, folder: str, mounts: Sequence[str] = ()) -> tuple[Finding, ...]:
        """What is wrong in a model repository: file, field, what, how to mend. Raises BadInput.

        Each of `mounts` is FOLDER:PATH: a folder here, and the path at which the server sees it.
        """
        seen: dict[str, str] = {}
        for mount in mounts:
            here, colon, there = mount.rpartition(":")
            if not colon or not here or not there.startswith("/"):
                raise BadInput(
                    "mount",
                    Text(en=f"mount: “{mount}” is not FOLDER:PATH.", zh=f"mount：“{mount}”不是 目录:路径。"),
                    Text(en="Write it as /data/models:/models.", zh="写法如 /data/models:/models。"),
                )
            seen[there] = str(self._folder(here))
        return lint(self._folder(folder), seen)

    def _folder(self, given: str, field: str = "path") -> Path:
        """The folder, where it is one and lies under an allowed root."""
        path = Path(given).expanduser().resolve()
        if not path.is_dir():
            raise BadInput(field, Text(en=f"{field}: {given} is not a folder.", zh=f"{field}：{given} 不是目录。"))
        roots = [root.resolve() for root in self._settings.model_roots]
        if not any(path.is_relative_to(root) for root in roots):
            raise BadInput(
                field,
                Text(en=f"{field}: {path} lies outside the allowed folders.", zh=f"{field}：{path} 不在允许的目录内。"),
                Text(
                    en=f"Allowed: {', '.join(map(str, roots))}. SLIPWAY_MODEL_ROOTS sets them.",
                    zh=f"允许的目录：{'、'.join(map(str, roots))}，由 SLIPWAY_MODEL_ROOTS 设置。",
                ),
            )
        return path
