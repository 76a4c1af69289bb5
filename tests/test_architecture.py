"""Imports point one way, and a third-party library is imported in its own rooms alone. Walks the source; held by
`make check`."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

MAY_IMPORT = {  # room -> our own rooms that it may import, the longest matching room counts
    "backends.text": (),
    "backends.errors": ("backends.text",),
    "backends.spec": ("backends.text",),
    "backends.probes": ("backends",),
    "backends.targets": ("backends",),
    "backends": ("backends",),
    "storage": ("storage", "backends"),
    "app.ui": ("app", "backends"),
    "app": ("app", "backends", "storage"),
}
NEVER = {  # room -> rooms that it must not import even so
    "backends.probes": ("backends.targets", "backends.client", "backends.recipes"),
    "backends.targets": ("backends.probes", "backends.client", "backends.recipes"),
    "backends.client": ("backends.probes", "backends.targets"),
    "app.control": ("app.ui", "app.web", "app.cli"),
    "app.worker": ("app.ui", "app.control", "app.web", "app.cli", "backends.recipes"),
    "app.jobs": ("app.ui", "app.control", "app.web", "app.cli", "app.worker"),
    "app.cli": ("app.ui",),
    "storage": ("backends.targets", "backends.probes", "backends.client"),
}
HOMES = {  # library -> where alone it may be imported; a new one is entered here first
    "docker": ("backends.targets", "backends.probes.docker"),
    "fastapi": ("app.api", "app.chat_routes", "app.ui", "app.web"),
    "google": ("backends.pbtxt",),
    "gradio": ("app.ui.fast_gradio",),
    "grpc": ("backends.client",),
    "httpx": ("app.monitor", "app.talking", "backends.probes"),
    "huggingface_hub": ("backends.probes.model",),
    "jinja2": ("app.ui.render",),
    "markupsafe": ("app.ui",),
    "numpy": ("backends.client",),
    "platformdirs": ("app.settings",),
    "prometheus_client": ("app.prometheus", "app.web", "backends.probes.server"),
    "psutil": ("app.monitor", "backends.probes", "backends.targets"),
    "pydantic": ("app", "backends"),
    "pydantic_core": ("backends.spec",),
    "pynvml": ("backends.probes.nvml",),
    "regex": ("backends.tensorrt_llm.qwen_tokens",),
    "requests": ("backends.targets",),
    "sqlalchemy": ("storage", "app.kept", "app.talks", "app.worker"),  # outside storage only what it raises
    "sqlmodel": ("storage",),
    "starlette": ("app.api", "app.asked", "app.web"),
    "subprocess": ("backends.targets", "backends.probes", "backends.ssh", "app.workers"),
    "transformers": ("backends.probes.model", "backends.tokenizers"),
    "tritonclient": ("backends.client", "backends.pbtxt"),
    "urllib3": ("backends.targets",),
    "uvicorn": ("app.web",),
}
PURE = (
    "backends.steps", "backends.spec", "backends.images", "backends.memory", "backends.script", "backends.runs",
    "backends.transformers", "backends.fetching", "backends.prompts", "backends.openai",
    "backends.keys", "backends.conversations", "backends.deployment_files",
    "backends.watched", "backends.restarts", "backends.recipe_words",
    *(f"backends.fastertransformer.{room}" for room in ("recipe", "refusals", "deployment", "build", "convert",
      "autotune", "serve", "sources")),
    *(f"backends.tensorrt_llm.{room}" for room in ("recipe", "choices", "deployment", "versions", "formats", "images",
      "building", "flow_05", "flow_engine", "flow_llmapi", "serve", "placeholders", "filling", "tokenizer_edits",
      "engine_config", "stamps")),
    "backends.vllm",
)  # fmt: skip
IMPURE = {"os", "subprocess", "socket", "shutil", "time", "random", "docker", "urllib", "httpx", "threading"}


def _modules() -> dict[str, Path]:
    found = {}
    for top in ("app", "backends", "storage"):
        for path in (ROOT / top).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _in(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


def _rule(table: dict, name: str):
    return next((table[room] for room in sorted(table, key=len, reverse=True) if _in(name, room)), ())


MODULES = _modules()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_one_way(module: str) -> None:
    allowed, refused = _rule(MAY_IMPORT, module), _rule(NEVER, module)
    for imported in _imports(MODULES[module]):
        if imported.split(".")[0] in ("app", "backends", "storage") and module != "app.__main__":
            assert any(_in(imported, room) for room in allowed), f"{module} must not import {imported}"
            assert not any(_in(imported, room) for room in refused), f"{module} must not import {imported}"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_each_library_stays_in_its_rooms(module: str) -> None:
    for imported in _imports(MODULES[module]):
        library = imported.split(".")[0]
        if library in HOMES or library not in (*sys.stdlib_module_names, "app", "backends", "storage"):
            assert any(_in(module, home) for home in HOMES.get(library, ())), f"{module} must not import {imported}"


@pytest.mark.parametrize("module", sorted(name for name in MODULES if any(_in(name, room) for room in PURE)))
def test_decisions_touch_nothing(module: str) -> None:
    assert not {imported.split(".")[0] for imported in _imports(MODULES[module])} & IMPURE


def test_the_command_line_does_not_load_gradio() -> None:
    import subprocess

    code = "import sys, app.__main__; sys.exit('gradio' in sys.modules)"
    assert subprocess.run((sys.executable, "-c", code), cwd=ROOT, check=False).returncode == 0


def test_no_command_goes_through_a_shell() -> None:
    for module, path in MODULES.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                raise AssertionError(f"{module} line {node.value.lineno}: shell=")
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("os.system", "os.popen", "eval", "exec", "pickle.load", "pickle.loads"), (
                    f"{module} line {node.lineno}: {called}"
                )


def test_the_engine_that_is_written_is_the_engine_that_is_there() -> None:
    from backends.transformers.recipe import ENGINE_FILES

    folder = ROOT / "assets" / "engines" / "transformers"
    there = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    assert there == set(ENGINE_FILES)
