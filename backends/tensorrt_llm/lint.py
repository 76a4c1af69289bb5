"""Looks through a checkout of Triton's TensorRT-LLM backend, or a model repository made of it, for known mistakes.

    python -m backends.tensorrt_llm.lint FOLDER

Nothing is changed or run. Exit status 1 where something would fail later; each finding in English and Chinese.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from backends import pbtxt
from backends.errors import SlipwayError
from backends.spec import Frozen
from backends.tensorrt_llm import engine_config, filling, placeholders
from backends.tensorrt_llm.templates import MODELS, reading_json
from backends.text import Text

_POINTER = b"version https://git-lfs.github.com/spec/"
_LIBRARIES = "tensorrt_llm/cpp/tensorrt_llm/batch_manager"


class Finding(Frozen):
    """One mistake: where, and what. `sure`: it fails; else it is only worth a look."""

    path: str
    text: Text
    sure: bool = True


def knows(folder: Path) -> bool:
    """Whether this is something that this room can look through."""
    return _is_checkout(folder) or _is_repository(folder)


def lint(folder: Path) -> tuple[Finding, ...]:
    """Everything that is found in a checkout or a model repository."""
    found: list[Finding] = []
    if _is_checkout(folder):
        found += _checkout(folder)
    if _is_repository(folder):
        found += _repository(folder)
    return tuple(found)


def _is_checkout(folder: Path) -> bool:
    return (folder / "inflight_batcher_llm").is_dir() and (folder / "all_models").is_dir()


def _is_repository(folder: Path) -> bool:
    return (folder / filling.CORE / "config.pbtxt").is_file()


def _checkout(folder: Path) -> Iterator[Finding]:
    library = folder / "tensorrt_llm"
    if not (library / "examples").is_dir():
        yield Finding(
            path=str(library),
            text=Text(
                en="The submodule TensorRT-LLM is not there. Fetch submodules over https.",
                zh="缺少子模块 TensorRT-LLM，请通过 https 获取子模块。",
            ),
        )
        return
    for path in sorted((folder / _LIBRARIES).rglob("*.a")):
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                yield Finding(
                    path=str(path),
                    text=Text(
                        en="This is a Git LFS pointer, not a library: run git lfs pull in the submodule.",
                        zh="这是 Git LFS 指针而非库文件，请在子模块中运行 git lfs pull。",
                    ),
                )


def _repository(folder: Path) -> Iterator[Finding]:
    configs = {}
    for name in MODELS:
        path = folder / name / "config.pbtxt"
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        left = placeholders.in_text("\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")))
        required = {one.name for one in placeholders.placeholders().values() if one.required}
        for placeholder in left:
            yield Finding(
                path=str(path),
                text=Text(en=f"${{{placeholder}}} is not filled.", zh=f"${{{placeholder}}} 未填写。"),
                sure=placeholder in required,
            )
        try:
            configs[name] = pbtxt.read(text)
        except SlipwayError as error:
            yield Finding(path=str(path), text=error.message)
        if not (folder / name / "1").is_dir():
            yield Finding(path=str(path.parent), text=Text(en="The folder 1 is missing.", zh="缺少目录 1。"))
    core = configs.get(filling.CORE)
    if core is None:
        return
    wanted = filling.Wanted(
        version="0",
        max_batch=core.max_batch_size,
        decoupled=core.model_transaction_policy.decoupled,
        batching="v1" if core.parameters["gpt_model_type"].string_value in ("V1", "v1") else "inflight",
    )
    for problem in filling.with_itself(configs, wanted):
        yield Finding(path=str(folder), text=problem)
    engine = Path(core.parameters["gpt_model_path"].string_value)
    if engine.is_absolute() and (engine / "config.json").is_file():
        facts = engine_config.read(reading_json(engine / "config.json"))
        split = {"tensor_parallel": facts.tensor_parallel, "pipeline_parallel": facts.pipeline_parallel}
        for problem in filling.with_engine(configs, facts, wanted.model_copy(update=split)):
            yield Finding(path=str(folder), text=problem)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line at the head of this file."""
    given = list(sys.argv[1:] if argv is None else argv)
    if len(given) != 1:
        print("usage: python -m backends.tensorrt_llm.lint FOLDER", file=sys.stderr)
        return 2
    found = lint(Path(given[0]))
    for finding in found:
        word = "error" if finding.sure else "note"
        print(f"{word}: {finding.path}: {finding.text.en}\n{finding.text.zh}")
    if not found:
        print("nothing was found")
    return 1 if any(finding.sure for finding in found) else 0


if __name__ == "__main__":
    sys.exit(main())
