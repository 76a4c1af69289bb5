"""`slipway lint` and `slipway engines`: what lies on disk, on the command line."""

from __future__ import annotations

import argparse

from app import terminal
from app.arguments import Parser
from app.control import Control
from backends.errors import BadInput
from backends.lint.finding import Finding
from backends.tensorrt_llm.engine_store import EngineView
from backends.text import Language, Text

_CLEAN = Text(en="Nothing is wrong.", zh="未发现问题。")
_NONE = Text(en="No engine is kept.", zh="没有保存的引擎。")
_WHOLE = Text(en="It is whole.", zh="引擎完整。")
_OFF_THE_LIST = Text(en="Taken off the list; its folder stays.", zh="已从列表移除，目录保留。")
_FREED = Text(en="Removed; {mib:,} MiB are free again.", zh="已删除，释放 {mib:,} MiB。")


def lint_arguments(parser: Parser) -> None:
    """What `slipway lint` takes."""
    parser.takes("path", metavar="PATH", words=Text(en="a model repository", zh="模型仓库目录"))
    words = Text(
        en="a folder of this machine and the path at which the server sees it; may be repeated",
        zh="本机目录及其在服务端的路径，可多次使用",
    )
    parser.takes("--mount", action="append", default=[], metavar="FOLDER:PATH", words=words)


def lint(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Prints each finding; exit status 1 where one of them is an error."""
    found = control.shelf.lint(given.path, given.mount)
    if given.json:
        terminal.print_json([finding.model_dump(mode="json") for finding in found])
    else:
        print("\n".join(_finding(one, language) for one in found) or _CLEAN.of(language))
    return int(any(finding.severity == "error" for finding in found))


def engines_arguments(parser: Parser) -> None:
    """What `slipway engines` takes."""
    acts, usual = ("list", "check", "remove", "register"), Text(en="list is the default", zh="默认 list（列出）")
    parser.takes("act", nargs="?", choices=acts, default="list", words=usual)
    words = Text(en="a kept engine; register: an engine's folder", zh="已保存的引擎；register：引擎目录")
    parser.takes("which", nargs="?", metavar="NAME|FOLDER", words=words)
    words = Text(en="register: the model that the engine was built from", zh="register：构建引擎所用的模型")
    parser.takes("--model", words=words)


def engines(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Lists, checks, removes, registers. `check` ends with 1 where the engine would not run."""
    if given.act == "list":
        found = control.shelf.engines()
        if given.json:
            terminal.print_json([view.model_dump(mode="json") for view in found])
        else:
            print("\n".join(_engine(view, language) for view in found) or _NONE.of(language))
        return 0
    if not given.which or (given.act == "register" and not given.model):
        raise BadInput(
            "engines",
            Text(en=f"engines {given.act}: a word is missing.", zh=f"engines {given.act}：缺少一个参数。"),
            Text(
                en="Write: engines check NAME, engines remove NAME, or engines register FOLDER --model MODEL.",
                zh="写法：engines check 名称，engines remove 名称，或 engines register 目录 --model 模型。",
            ),
        )
    if given.act == "register":
        view = control.shelf.register(given.which, given.model)
        if given.json:
            terminal.print_json(view)
        else:
            print(_engine(view, language))
        return 0
    if given.act == "remove":
        freed_mib = control.shelf.remove(given.which)
        if given.json:
            terminal.print_json({"freed_mib": freed_mib})
        else:
            print(_OFF_THE_LIST.of(language) if freed_mib is None else _FREED.of(language).format(mib=freed_mib))
        return 0
    compared = control.shelf.check(given.which, control.detect())
    if given.json:
        terminal.print_json(compared)
    else:
        lines = [text.of(language) for text in (*compared.refusals, *compared.cautions)]
        print("\n".join(lines) or _WHOLE.of(language))
    return int(bool(compared.refusals))


def _finding(one: Finding, language: Language) -> str:
    where = ":".join(str(part) for part in (one.file, one.line, one.field) if part is not None)
    return (
        f"{terminal.term(one.severity, language)}  {where}: {one.message.of(language)}\n       {one.hint.of(language)}"
    )


def _engine(view: EngineView, language: Language) -> str:
    state = "" if view.problem is None else f"  {view.problem.of(language)}"
    model = view.stamp.model if view.stamp else "–"
    return f"{view.name}  {view.size_mib:,} MiB  {model}{state}"
