"""Reads a model repository into a value that checks can look at: configs, versions, Python models. Only reads."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from backends import pbtxt
from backends.errors import BadInput
from backends.text import Text

_MOST_MODELS, _MOST_FILES, _LARGEST = 1000, 20_000, 2**20
_WHERE = re.compile(r"^(?:config\.pbtxt: )?(\d+):(\d+)\s*:?\s*(.*)$", re.DOTALL)
Entries = Callable[[str], Mapping[str, int] | None]
"""The files of a folder with their sizes in bytes, folders as -1; None where there is no such folder."""


@dataclass(frozen=True)
class PythonFile:
    """A Python file of a model, as text."""

    path: str  # relative to the repository
    text: str


@dataclass(frozen=True)
class ModelFolder:
    """One model: its folder's name, config.pbtxt as text and as message, versions with the files in them."""

    name: str
    text: str | None
    config: pbtxt.ModelConfig | None
    trouble: tuple[int | None, str] | None  # line and words of what does not parse
    versions: Mapping[str, tuple[str, ...]]
    others: tuple[str, ...]  # what else lies in the folder
    python: tuple[PythonFile, ...] = ()

    @property
    def file(self) -> str:
        """config.pbtxt, relative to the repository."""
        return f"{self.name}/config.pbtxt"

    @property
    def parameters(self) -> dict[str, str]:
        """The config's parameters; empty where it does not parse."""
        if self.config is None:
            return {}
        return {key: value.string_value for key, value in self.config.parameters.items()}


@dataclass(frozen=True)
class Repository:
    """A model repository. `entries` looks into folders that configs name, as the server would see them."""

    models: Mapping[str, ModelFolder]
    entries: Entries
    strays: tuple[str, ...] = field(default=())  # files beside the models


def read_repository(folder: Path, mounts: Mapping[str, str] | None = None) -> Repository:
    """The repository in `folder`. `mounts` says which folders of this machine (values) a container sees as what (keys).

    Raises BadInput where there is no such folder.
    """
    if not folder.is_dir():
        raise BadInput(
            "path",
            Text(en=f"{folder} is not a folder.", zh=f"{folder} 不是文件夹。"),
            Text(
                en="Give the folder that tritonserver is given as --model-repository.",
                zh="请填写传给 tritonserver --model-repository 的文件夹。",
            ),
        )
    models: dict[str, ModelFolder] = {}
    strays: list[str] = []
    for entry in sorted(folder.iterdir())[:_MOST_MODELS]:
        if entry.is_dir() and not entry.name.startswith("."):
            models[entry.name] = _model(entry)
        elif not entry.name.startswith("."):
            strays.append(entry.name)
    return Repository(models, _looking(mounts or {}), tuple(strays))


def _model(folder: Path) -> ModelFolder:
    text, config, trouble = None, None, None
    path = folder / "config.pbtxt"
    if path.is_file():
        text = _text(path)
        try:
            config = pbtxt.read(text)
        except BadInput as bad:
            found = _WHERE.match(bad.message.en.removeprefix("config.pbtxt: "))
            trouble = (int(found.group(1)), found.group(3)) if found else (None, bad.message.en)
    versions: dict[str, tuple[str, ...]] = {}
    others: list[str] = []
    python: list[PythonFile] = []
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and entry.name.isdigit():
            versions[entry.name] = tuple(sorted(item.name for item in entry.iterdir()))[:_MOST_FILES]
            python += [
                PythonFile(f"{folder.name}/{entry.name}/{file.name}", _text(file))
                for file in sorted(entry.glob("*.py"))
                if file.is_file()
            ]
        elif entry.name != "config.pbtxt":
            others.append(entry.name)
    return ModelFolder(folder.name, text, config, trouble, versions, tuple(others), tuple(python))


def _text(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_LARGEST).decode("utf-8", "replace")


def _looking(mounts: Mapping[str, str]) -> Entries:
    def entries(folder: str) -> Mapping[str, int] | None:
        for inside, outside in sorted(mounts.items(), key=lambda pair: -len(pair[0])):
            if folder == inside or folder.startswith(inside.rstrip("/") + "/"):
                folder = outside.rstrip("/") + folder[len(inside.rstrip("/")) :]
                break
        try:
            found: dict[str, int] = {}
            with os.scandir(folder) as listing:
                for entry in listing:
                    if len(found) >= _MOST_FILES:
                        break
                    found[entry.name] = -1 if entry.is_dir() else entry.stat().st_size
            return found
        except OSError:
            return None

    return entries
