"""Writes the model repository that FasterTransformer is served from, out of the backend's own template.

python -m backends.fastertransformer.repository TEMPLATE TARGET --tokenizer FOLDER --parameter KEY=VALUE ...

TEMPLATE is a folder of the backend's all_models, as upstream has it. Every config.pbtxt is read and written as Triton's
own message; a tokenizer's folder is put into model.py where the call that loads it stands in the syntax tree. Nothing
is replaced as text. The result is checked as `slipway lint` does, and put in place whole or not at all.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from backends import pbtxt
from backends.errors import BadInput, SlipwayError
from backends.lint import lint
from backends.lint.finding import Finding
from backends.lint.python_models import tokenizer_paths
from backends.text import Text

SERVER = "fastertransformer"  # the model that runs on GPUs, in every template
_LARGEST = 8 * 2**20
_VOCABULARY, _MERGES = "gpt2-vocab.json", "gpt2-merges.txt"  # what older branches read beside model.py


def write(
    template: Path,
    target: Path,
    parameters: Mapping[str, str],
    *,
    tokenizer: str | None = None,
    packages: str | None = None,
    decoupled: bool | None = None,
    instances: int = 1,
) -> tuple[Finding, ...]:
    """Writes the repository and returns what the checks find in it; with an error among them nothing is put in place.

    `packages` is a folder of installed ones, which its Python models find beside them: their interpreter need not look
    at PYTHONPATH.

    Raises BadInput where the template is not one.
    """
    new = target.with_name(f".{target.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    with contextlib.ExitStack() as undone:
        undone.callback(shutil.rmtree, new, ignore_errors=True)
        copy(template, new)
        for model in sorted(path for path in new.iterdir() if path.is_dir()):
            _configure(model, parameters if model.name == SERVER else {}, decoupled, instances)
            if tokenizer is not None:
                for file in sorted(model.glob("*/*.py")):
                    _point(file, tokenizer)
                _vocabulary(model, Path(tokenizer))
            if packages is not None:
                _install(model, Path(packages))
        findings = lint(new)
        if not any(finding.severity == "error" for finding in findings):
            shutil.rmtree(target, ignore_errors=True)
            new.rename(target)
    return findings


def copy(template: Path, target: Path) -> None:
    """The template's models, each with a version folder, which git does not keep where it is empty.

    Weights that lie in it are left out. Links are followed, but not out of the checkout.
    """
    if not (template / SERVER / "config.pbtxt").is_file():
        raise BadInput(
            "template",
            Text(
                en=f"{template} is no model repository of FasterTransformer's: {SERVER}/config.pbtxt is not there.",
                zh=f"{template} 不是 FasterTransformer 的模型仓库：缺少 {SERVER}/config.pbtxt。",
            ),
        )
    above = (template, *template.parents)
    root = next((one for one in above if (one / ".git").exists() or (one / "all_models").is_dir()), template).resolve()
    for folder, folders, files in os.walk(template, followlinks=True):
        for name in (*folders, *files):
            path = Path(folder, name)
            real = path.resolve()
            if not real.is_relative_to(root) or (path.is_symlink() and path.is_relative_to(real)):
                raise BadInput("template", Text(en=f"{path} leads out of {root}.", zh=f"{path} 指向 {root} 之外。"))
            if path.is_file() and path.stat().st_size <= _LARGEST and path.suffix != ".bin":
                place = target / path.relative_to(template)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(real, place)
    for model in (path for path in target.iterdir() if path.is_dir()):
        if not any(path.is_dir() and path.name.isdigit() for path in model.iterdir()):
            (model / "1").mkdir()


def _configure(model: Path, parameters: Mapping[str, str], decoupled: bool | None, instances: int) -> None:
    path = model / "config.pbtxt"
    config = pbtxt.read(path.read_text(encoding="utf-8"), f"{model.name}/config.pbtxt")
    for key, value in parameters.items():
        config.parameters[key].string_value = value
    if model.name == SERVER:
        if decoupled is not None:
            config.model_transaction_policy.decoupled = decoupled
        if len(config.instance_group) == 1:
            config.instance_group[0].count = instances
    path.write_text(pbtxt.text_of(config), encoding="utf-8")


def _point(file: Path, tokenizer: str) -> None:
    """Puts `tokenizer` where a file names the tokenizer that it loads."""
    data = file.read_bytes()
    starts = [0]
    for line in data.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    named = sorted(tokenizer_paths(ast.parse(data)), key=lambda node: (node.lineno, node.col_offset), reverse=True)
    for node in named:
        end_line, end_column = node.end_lineno or node.lineno, node.end_col_offset or node.col_offset
        first, last = starts[node.lineno - 1] + node.col_offset, starts[end_line - 1] + end_column
        data = data[:first] + repr(tokenizer).encode() + data[last:]
    if named:
        ast.parse(data)  # what was written must still be Python
        file.write_bytes(data)


def _vocabulary(model: Path, tokenizer: Path) -> None:
    """Older branches read GPT-2's two vocabulary files beside model.py; the model's own take their place."""
    for file in model.glob("*/model.py"):
        if _VOCABULARY in file.read_text(encoding="utf-8"):
            for name, text in gpt2_files(tokenizer).items():
                file.with_name(name).write_text(text, encoding="utf-8")


def _install(model: Path, packages: Path) -> None:
    """Puts installed packages beside each model.py: the folder that it lies in is on its path."""
    for file in model.glob("*/model.py"):
        for package in (path for path in packages.iterdir() if (path / "__init__.py").is_file()):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(package, file.with_name(package.name), dirs_exist_ok=True, ignore=ignored)


def gpt2_files(tokenizer: Path) -> dict[str, str]:
    """GPT-2's two vocabulary files: the folder's own, else out of its tokenizer.json. Empty where it has neither.

    In merges.txt the first line is a version and the last one ends too, or a reader of that time would lose a merge.
    """
    own, merged = tokenizer / "vocab.json", tokenizer / "merges.txt"
    if own.is_file() and merged.is_file():
        return {_VOCABULARY: own.read_text(encoding="utf-8"), _MERGES: merged.read_text(encoding="utf-8")}
    path = tokenizer / "tokenizer.json"
    told = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    model = told.get("model") or {}
    if model.get("type") != "BPE" or not isinstance(model.get("vocab"), dict):
        return {}
    tokens = model["vocab"] | {one["content"]: one["id"] for one in told.get("added_tokens") or ()}
    pairs = (pair if isinstance(pair, str) else " ".join(pair) for pair in model.get("merges") or ())
    return {_VOCABULARY: json.dumps(tokens), _MERGES: "\n".join(("#version: 0.2", *pairs, ""))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Does it and prints what was written and found. 1 where the result must not be served."""
    given = _parser().parse_args(arguments)
    pairs = [item.partition("=") for item in given.parameter]
    decoupled = True if given.decoupled else False if given.classic else None
    try:
        findings = write(
            Path(given.template),
            Path(given.target),
            {key: value for key, _, value in pairs},
            tokenizer=given.tokenizer,
            packages=given.packages,
            decoupled=decoupled,
            instances=given.instances,
        )
    except SlipwayError as refused:
        print(f"slipway: {refused}", file=sys.stderr)
        return 1
    for finding in findings:
        where = f"{finding.file}:{finding.line}" if finding.line else finding.file
        field = f" {finding.field}" if finding.field else ""
        print(f"{finding.severity}: {where}{field}: {finding.message.en} {finding.hint.en}")
    bad = any(finding.severity == "error" for finding in findings)
    if not bad:
        print("\n".join(str(path) for path in sorted(Path(given.target).rglob("*")) if path.is_file()))
    return 1 if bad else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("template", help="a folder of the backend's all_models")
    parser.add_argument("target", help="the model repository to write")
    parser.add_argument("--parameter", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--tokenizer", help="the folder that holds the tokenizer")
    parser.add_argument("--packages", help="a folder of packages that its Python models need and the image lacks")
    parser.add_argument("--instances", type=int, default=1)
    streaming = parser.add_mutually_exclusive_group()
    streaming.add_argument("--decoupled", action="store_true", help="answers are streamed")
    streaming.add_argument("--classic", action="store_true", help="one answer a request")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # so that nothing half done is left
    sys.exit(main())
