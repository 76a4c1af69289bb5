"""Built engines, kept: found again, checked, listed, removed, and those registered that a person already has.

    python -m backends.tensorrt_llm.engine_store look   FOLDER --want FILE --inside FILE --model DIR [--converted DIR]
    python -m backends.tensorrt_llm.engine_store accept FOLDER --want FILE --inside FILE --model DIR

`look` makes room for a build, or says why what lies there does not serve. `accept` checks what a build left, or what a
person named, and stamps it. Exit status 1: it does not fit; every difference is printed in English and Chinese.
--inside: what the image at hand really holds (look_inside.py). --converted: where the weights are converted to.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from backends import reading
from backends.errors import BadInput, CannotDo, Conflict, NotFound, SlipwayError
from backends.spec import Frozen
from backends.tensorrt_llm import engine_config, stamps
from backends.tensorrt_llm.stamps import Maker, Stamp, Want
from backends.tensorrt_llm.templates import reading_json
from backends.text import Text

CONFIG, STAMP, INSIDE = "config.json", "stamp.json", "inside.json"
_REGISTERED = "registered"
_HEAD = 65_536


class EngineView(Frozen):
    """One kept engine as `slipway engines` shows it. `registered`: it lies where a person put it."""

    name: str
    folder: str
    stamp: Stamp | None
    size_mib: int
    ranks: int
    problem: Text | None = None
    registered: bool = False


# --- what there is ------------------------------------------------------------------------------------------------


def engines(home: Path) -> tuple[EngineView, ...]:
    """Every kept engine under `home`, by name, each looked at now."""
    root = home / "engines"
    found = [
        _view(path.name, path, registered=False)
        for path in (sorted(root.iterdir()) if root.is_dir() else ())
        if path.is_dir() and path.name != _REGISTERED and not path.name.startswith(".")
    ]
    entries = sorted((root / _REGISTERED).glob("*.json")) if (root / _REGISTERED).is_dir() else []
    for entry in entries:
        told = reading.read_json(EngineView, entry.read_text(encoding="utf-8"), "registered")
        found.append(_view(told.name, Path(told.folder), registered=True, stamp=told.stamp))
    return tuple(found)


def check(home: Path, name: str, sms: Sequence[int] = ()) -> stamps.Comparison:
    """Whether a kept engine is whole, and whether a GPU of these (compute capabilities) runs it. Raises NotFound."""
    view = _named(home, name)
    if view.problem is not None:
        return stamps.Comparison(refusals=(view.problem,))
    if view.stamp is None or view.stamp.sm is None or view.stamp.sm in sms:
        return stamps.Comparison()
    there = ", ".join(map(str, sorted(set(sms)))) or "–"
    said = Text(
        en=f"It is whole, and was built for SM {view.stamp.sm}; the GPUs here have {there}.",
        zh=f"引擎完整，为 SM {view.stamp.sm} 构建；本机 GPU 为 {there}。",
    )
    return stamps.Comparison(cautions=(said,))


def remove(home: Path, name: str, in_use: Sequence[str] = ()) -> int | None:
    """Removes a kept engine and returns the MiB that it freed; of a registered one only the entry, which gives None.

    Raises NotFound, and Conflict where its folder is in `in_use` (folders that running servers read).
    """
    view = _named(home, name)
    if view.folder in in_use:
        raise Conflict(
            Text(en=f"A running server uses the engine {name}.", zh=f"有服务正在使用引擎 {name}。"),
            Text(en="Stop that server first.", zh="请先停止该服务。"),
        )
    if view.registered:
        (home / "engines" / _REGISTERED / f"{name}.json").unlink()
        return None
    shutil.rmtree(view.folder)
    return view.size_mib


def register(home: Path, folder: Path, known: Stamp) -> EngineView:
    """Takes an engine folder that a person already has into the list. It stays where it is.

    `known` is what the person says of it (at least the model); config.json wins where it says something else.
    Raises BadInput where there is no engine or a rank's file is missing.
    """
    stamp = _facts(folder, _stamp(folder) or known)
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:6]  # one like it may be kept already
    view = EngineView(
        name=f"{stamps.name(stamp)}-{place}",
        folder=str(folder.resolve()),
        stamp=stamp,
        size_mib=_size_mib(folder),
        ranks=stamp.tensor_parallel * stamp.pipeline_parallel,
        registered=True,
    )
    _write(home / "engines" / _REGISTERED / f"{view.name}.json", view.model_dump_json(indent=2))
    return view


def _named(home: Path, name: str) -> EngineView:
    view = next((view for view in engines(home) if view.name == name), None)
    if view is None:
        raise NotFound(Text(en=f"There is no engine {name}.", zh=f"没有名为 {name} 的引擎。"))
    return view


def _view(name: str, folder: Path, *, registered: bool, stamp: Stamp | None = None) -> EngineView:
    problem, ranks = None, 0
    try:
        facts = engine_config.read(reading_json(folder / CONFIG))
        ranks, problem = facts.world, _lacking(folder, facts)
        stamp = stamp or _stamp(folder)
        if stamp is None and problem is None:
            problem = Text(en="It has no stamp: its build did not end well.", zh="没有标记：构建未正常完成。")
    except BadInput as error:
        problem = error.message
    return EngineView(
        name=name,
        folder=str(folder),
        stamp=stamp,
        size_mib=_size_mib(folder),
        ranks=ranks,
        problem=problem,
        registered=registered,
    )


def _lacking(folder: Path, facts: engine_config.EngineConfig) -> Text | None:
    missing = [name for name in facts.files() if not (folder / name).is_file()]
    if not missing:
        return None
    return Text(
        en=f"The engine of {len(missing)} of {facts.world} rank(s) is missing: {missing[0]}.",
        zh=f"{facts.world} 个进程中有 {len(missing)} 个缺少引擎文件：{missing[0]}。",
    )


def _size_mib(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) // 2**20 if folder.is_dir() else 0


def _stamp(folder: Path) -> Stamp | None:
    path = folder / STAMP
    return reading.read_json(Stamp, path.read_text(encoding="utf-8"), STAMP) if path.is_file() else None


def _inside(folder: Path) -> Maker | None:
    path = folder / INSIDE
    return reading.read_json(Maker, path.read_text(encoding="utf-8"), INSIDE) if path.is_file() else None


# --- a plan's two questions ---------------------------------------------------------------------------------------


def look(
    folder: Path, want: Want, inside: Maker, model: Path, converted: Path | None = None
) -> tuple[str, tuple[Text, ...]]:
    """Before a build: "kept" where the engine there serves, "room" where there is none yet; and what is worth a word.

    For a build the engine's folder is made and told what will build it; converted weights of another source, version
    or image are removed, so that they are made anew. Raises CannotDo where the image or the GPU is not what the plan
    counts on, and where an engine lies there that does not serve.
    """
    wanted = _complete(want, inside, model)
    _refuse_place(want.stamp, inside)
    have = _stamp(folder) if (folder / CONFIG).is_file() else None
    if have is not None:
        return "kept", _refuse(wanted, have, folder).cautions
    if not (folder / CONFIG).is_file():
        _write(folder / INSIDE, inside.model_dump_json(indent=2))
    if converted is not None and _stamp(converted) != wanted.stamp:
        shutil.rmtree(converted, ignore_errors=True)
        _write(converted / STAMP, wanted.stamp.model_dump_json(indent=2))
    return "room", ()


def accept(folder: Path, want: Want, inside: Maker, model: Path) -> tuple[Stamp, tuple[Text, ...]]:
    """After a build, or of a folder that a person named: the stamp, and what is worth a word.

    Raises BadInput where it is no engine or not whole, CannotDo with every difference.
    """
    wanted = _complete(want, inside, model)
    kept, built_in = _stamp(folder), _inside(folder)
    # A folder without that record was made elsewhere: what nobody knows of it stays unknown.
    made = None if built_in is None else stamps.made_by(wanted.stamp, built_in)
    have = _facts(folder, kept or made or _unknown(wanted.stamp))
    comparison = _refuse(wanted, have, folder)
    if kept is None and made is not None:
        _write(folder / STAMP, have.model_dump_json(indent=2))
    return have, comparison.cautions


def against(home: Path, folder: Path, want: Want) -> stamps.Comparison:
    """While planning: whether the engine in a folder that a person named would serve. Weights are not looked at yet.

    Raises BadInput where it is no engine or a rank's file is missing.
    """
    entries = (view for view in engines(home) if view.registered and Path(view.folder) == folder)
    registered = next(entries, None)
    known = _stamp(folder) or (registered.stamp if registered is not None else None)
    return stamps.compare(want.stamp, _facts(folder, known or _unknown(want.stamp)), want.cost)


def _facts(folder: Path, known: Stamp) -> Stamp:
    """What the engine is by its own config, over what is known of it. Raises BadInput where it is none or not whole."""
    facts = engine_config.read(reading_json(folder / CONFIG))
    lacking = _lacking(folder, facts)
    if lacking is not None:
        raise BadInput("engine_folder", lacking)
    return stamps.of_config(facts, known)


def _unknown(wanted: Stamp) -> Stamp:
    return Stamp(model=wanted.model, quantisation=wanted.quantisation)


def _complete(want: Want, inside: Maker, model: Path) -> Want:
    """What is wanted, with what can only be known where it is made: the weights, the image, its TensorRT."""
    found = {
        "source_digest": source_digest(model) if model.is_dir() else None,
        "image_digest": inside.image_digest,
        "tensorrt": inside.tensorrt or want.stamp.tensorrt,
    }
    return want.model_copy(update={"stamp": want.stamp.model_copy(update=found)})


def _refuse_place(want: Stamp, inside: Maker) -> None:
    """Raises CannotDo where the image or the GPU is not what the plan counts on."""
    told = (
        (Text(en="TensorRT", zh="TensorRT"), want.tensorrt, inside.tensorrt),
        (Text(en="TensorRT-LLM", zh="TensorRT-LLM"), want.version, inside.tensorrt_llm),
        (Text(en="Compute capability (SM)", zh="计算能力（SM）"), want.sm, inside.sm),
    )
    differences = [
        Text(
            en=f"{what.en}: it has {found}, the plan counts on {wanted}.",
            zh=f"{what.zh}：实际为 {found}，方案要求 {wanted}。",
        )
        for what, wanted, found in told
        if None not in (wanted, found) and not stamps.agree(str(wanted), str(found))
    ]
    if differences:
        raise CannotDo(
            Text(en="The image or the GPU is not what the plan counts on.", zh="镜像或 GPU 与方案不符。"), differences
        )


def _refuse(want: Want, have: Stamp, folder: Path) -> stamps.Comparison:
    comparison = stamps.compare(want.stamp, have, want.cost)
    if comparison.refusals:
        raise CannotDo(
            Text(en=f"The engine in {folder} does not fit.", zh=f"{folder} 中的引擎不适用。"),
            comparison.refusals,
            Text(
                en=f"Remove it (slipway engines remove {folder.name}) and start again to build another.",
                zh=f"删除它（slipway engines remove {folder.name}）后重新开始，即可另行构建。",
            ),
        )
    return comparison


def source_digest(model: Path) -> str:
    """What tells one set of weights from another without reading all of it: names, sizes, how each file begins."""
    found = hashlib.sha256()
    for path in sorted(path for path in model.iterdir() if path.is_file() and not path.name.startswith(".")):
        if path.suffix not in (".json", ".safetensors", ".bin", ".model", ".tiktoken", ".txt"):
            continue
        with path.open("rb") as file:
            head = file.read(_HEAD)
        found.update(f"{path.name}\0{path.stat().st_size}\0".encode() + head)
    return found.hexdigest()[:32]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text + "\n", encoding="utf-8")
    new.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line at the head of this file."""
    parser = argparse.ArgumentParser(prog="engine_store")
    parser.add_argument("question", choices=("look", "accept"))
    parser.add_argument("folder", type=Path)
    for name in ("want", "inside", "model"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--converted", type=Path)
    given = parser.parse_args(argv)
    try:
        want = reading.read_json(Want, given.want.read_text(encoding="utf-8"), "want")
        inside = reading.read_json(Maker, given.inside.read_text(encoding="utf-8"), "inside")
        if given.question == "look":
            found, cautions = look(given.folder, want, inside, given.model, given.converted)
            print({"kept": "an engine that fits is here already", "room": "no engine yet"}[found])
        else:
            stamp, cautions = accept(given.folder, want, inside, given.model)
            print(stamp.model_dump_json(indent=2))
        for caution in cautions:
            print(f"note: {caution.en}\n{caution.zh}")
    except SlipwayError as error:
        print(f"error: {error.of('en')}\n{error.of('zh')}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
