"""Makes a model repository from upstream's template folder, on the host, at run time:

    python -m backends.tensorrt_llm.templates fill   --template DIR --wanted FILE --engine DIR --out DIR --grpc PORT
    python -m backends.tensorrt_llm.templates llmapi --template DIR --settings FILE --out DIR

The upstream files are read, never changed; the repository appears whole or not at all. What disagrees is printed, each
sentence in English and Chinese, and the exit status is 1. --grpc: the port that the server will listen on inside, for
BLS models that ask it for the configuration of the core at the port that it has by itself.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backends import pbtxt, reading
from backends.errors import BadInput, CannotDo, SlipwayError
from backends.tensorrt_llm import engine_config, filling, tokenizer_edits
from backends.tensorrt_llm.filling import LlmApiSettings, Wanted
from backends.text import Text

MODELS = ("ensemble", "preprocessing", filling.CORE, "postprocessing", "tensorrt_llm_bls")
NEEDED = MODELS[:4]
_MOST_BYTES = 2**20
_OWN_PORT = "localhost:8001"


def fill(template: Path, wanted: Wanted, engine: Path, out: Path, grpc_port: int = 8001) -> tuple[str, ...]:
    """Writes the repository and returns a line for each file. Raises BadInput, or CannotDo with every disagreement."""
    missing = [name for name in NEEDED if not (template / name / "config.pbtxt").is_file()]
    if missing:
        raise BadInput(
            "template",
            Text(en=f"{template} lacks {', '.join(missing)}.", zh=f"{template} 缺少 {'、'.join(missing)}。"),
            Text(
                en="Its version has other templates, or the checkout is not whole.",
                zh="该版本的模板不同，或代码未完整获取。",
            ),
        )
    facts = engine_config.read(reading_json(engine / "config.json"))
    present = [name for name in MODELS if (template / name / "config.pbtxt").is_file()]
    configs = {name: filling.fill(name, _text(template / name / "config.pbtxt"), wanted) for name in present}
    problems = [*filling.check(configs, facts, wanted), *_lacking(engine, facts)]
    if problems:
        raise CannotDo(
            Text(en="The model repository and the engine do not agree.", zh="模型仓库与引擎不一致。"), problems
        )
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        lines = [
            line for name in present for line in _model(template / name, new / name, configs[name], wanted, grpc_port)
        ]
        _put(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return (*lines, f"engine {facts.world} rank(s), batch {facts.max_batch}, {facts.max_sequence} tokens")


def llmapi(template: Path, settings: LlmApiSettings, out: Path) -> tuple[str, ...]:
    """Writes the repository of the LLM-API model: upstream's code, our settings. Raises BadInput."""
    source = template / filling.CORE
    if not (source / "1" / "model.py").is_file():
        raise BadInput("template", Text(en=f"{source} holds no model.py.", zh=f"{source} 中没有 model.py。"))
    config = pbtxt.read(_text(source / "config.pbtxt"))
    # Auto-completion is off, so what model.yaml says of Triton would not count: it is said in both places.
    config.max_batch_size = 0
    config.model_transaction_policy.decoupled = settings.decoupled
    told = {**settings.arguments, "triton_config": {"max_batch_size": 0, "decoupled": settings.decoupled}}
    new = out.with_name(f".{out.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        target = new / filling.CORE
        (target / "1").mkdir(parents=True)
        for path in sorted((source / "1").glob("*.py")):
            shutil.copyfile(path, target / "1" / path.name)
        (target / "config.pbtxt").write_text(filling.written(config), encoding="utf-8")
        # JSON is YAML, so no value needs quoting rules of its own.
        (target / "1" / "model.yaml").write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")
        lines = tuple(str(path.relative_to(new)) for path in sorted(new.rglob("*")) if path.is_file())
        _put(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return lines


def _model(source: Path, target: Path, config: Any, wanted: Wanted, grpc_port: int) -> list[str]:
    """One model's folder: the filled config and upstream's code, edited for tokenizer and port where it must be."""
    lines = []
    (target / "1").mkdir(parents=True)
    (target / "config.pbtxt").write_text(filling.written(config), encoding="utf-8")
    lines.append(f"{target.name}/config.pbtxt: max_batch_size {config.max_batch_size}")
    for path in sorted((source / "1").rglob("*.py")):
        place = target / "1" / path.relative_to(source / "1")
        place.parent.mkdir(parents=True, exist_ok=True)
        code = _text(path)
        edited = code
        if target.name in ("preprocessing", "postprocessing") and tokenizer_edits.loads_tokenizer(code):
            edited = tokenizer_edits.edit(
                code, trust_remote_code=wanted.trust_remote_code, eos_id=wanted.eos_id, pad_id=wanted.pad_id
            )
        # The BLS model of TensorRT-LLM #9453 asks Triton itself, with the port written down as 8001.
        edited = edited.replace(_OWN_PORT, f"localhost:{grpc_port}") if target.name == "tensorrt_llm_bls" else edited
        place.write_text(edited, encoding="utf-8")
        how = "edited for this deployment" if edited != code else "as upstream has it"
        lines.append(f"{target.name}/1/{path.relative_to(source / '1')}: {how}")
    return lines


def _lacking(engine: Path, facts: engine_config.EngineConfig) -> list[Text]:
    """Engine files of ranks that are not there."""
    missing = [name for name in facts.files() if not (engine / name).is_file()]
    if not missing:
        return []
    return [
        Text(
            en=f"{engine} lacks the engine of {len(missing)} rank(s): {missing[0]}.",
            zh=f"{engine} 缺少 {len(missing)} 个进程的引擎文件：{missing[0]}。",
        )
    ]


def reading_json(path: Path) -> Mapping[str, object]:
    """The JSON object in a small file. Raises BadInput where there is none."""
    try:
        value = json.loads(_text(path))
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise BadInput(path.name, Text(en=f"{path} holds no JSON object.", zh=f"{path} 不是 JSON 对象。"))
    return value


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise BadInput(path.name, Text(en=f"{path} is far too large.", zh=f"{path} 过大。"))
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise BadInput(path.name, Text(en=f"{path} cannot be read: {why}.", zh=f"无法读取 {path}：{why}。")) from error


def _put(new: Path, out: Path) -> None:
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line at the head of this file."""
    parser = argparse.ArgumentParser(prog="templates")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, told in (("fill", ("template", "wanted", "engine", "out")), ("llmapi", ("template", "settings", "out"))):
        one = commands.add_parser(name)
        for option in told:
            one.add_argument(f"--{option}", type=Path, required=True)
        if name == "fill":
            one.add_argument("--grpc", type=int, required=True)
    given = parser.parse_args(argv)
    try:
        if given.command == "fill":
            wanted = reading.read_json(Wanted, _text(given.wanted), "wanted")
            lines = fill(given.template, wanted, given.engine, given.out, given.grpc)
        else:
            settings = reading.read_json(LlmApiSettings, _text(given.settings), "settings")
            lines = llmapi(given.template, settings, given.out)
    except SlipwayError as error:
        print(f"error: {error.of('en')}\n{error.of('zh')}", file=sys.stderr)
        return 1
    print("\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main())
