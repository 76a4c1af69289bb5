"""Stand-ins for FasterTransformer's repositories, and small models that go through them."""

from __future__ import annotations

import importlib.util
import subprocess
from argparse import Namespace
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "fastertransformer"
TOOLS = ROOT / "assets" / "fastertransformer"


def tool(name: str, folder: Path = TOOLS) -> ModuleType:
    """One of the scripts that run outside of the panel, as a module."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shape(family: str, tensor: int = 1, layers: int = 2, **more: object) -> Namespace:
    """The arguments of check_weights.py for a small model."""
    told: dict[str, object] = {
        "hidden": 16, "heads": 4, "head_size": 4, "inner": 32, "vocab": 24, "encoder_layers": None, "type": "fp16",
        "config_optional": False,
    }  # fmt: skip
    return Namespace(family=family, tensor=tensor, layers=layers, **(told | more))


def checkpoint(folder: Path, given: Namespace) -> Path:
    """A converted folder with every file of the right size, full of zeros."""
    check = tool("check_weights")
    folder.mkdir(parents=True, exist_ok=True)
    section = check.SECTION[given.family]
    keys = {key: getattr(given, name) for key, name in check.KEYS[given.family].items()}
    lines = "\n".join(f"{key} = {value}" for key, value in keys.items())
    (folder / "config.ini").write_text(f"[{section}]\n{lines}\nweight_data_type = {given.type}\n", encoding="utf-8")
    expected, _ = check.shapes(check.configparser.ConfigParser(), given)
    for name, values in expected.items():
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(values * check.BYTES[given.type])
    return folder


def tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer's file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def git_repository(source: Path, target: Path) -> str:
    """The files of `source` as a git repository of one commit; returns the commit."""
    subprocess.run(("cp", "-r", str(source), str(target)), check=True)
    for words in (
        ("init", "-q", "-b", "main"),
        ("add", "-A", "-f"),
        ("-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "all"),
    ):
        subprocess.run(("git", *words), cwd=target, check=True)
    told = subprocess.run(("git", "rev-parse", "HEAD"), cwd=target, check=True, capture_output=True, text=True)
    return told.stdout.strip()
