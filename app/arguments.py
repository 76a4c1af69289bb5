"""argparse in both languages: its headings, its errors, and a help that is always a `Text`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NoReturn

from backends.errors import BadInput
from backends.text import LANGUAGES, Language, Text

_HELP = Text(en="show this help and leave", zh="显示本帮助并退出")
_USAGE = "用法："
_HEADINGS = {"positional arguments": "位置参数", "options": "选项"}
_ABOUT = re.compile(r"argument ([^:]+): (.*)", re.DOTALL)
_SAID = tuple(  # what argparse says, as patterns over the releases of Python, and the same in Chinese
    (re.compile(pattern, re.DOTALL), chinese)
    for pattern, chinese in (
        (r"the following arguments are required: (.*)", r"缺少参数：\1"),
        (r"unrecognized arguments: (.*)", r"无法识别的参数：\1"),
        (r"invalid choice: (.*?)(?:, maybe you meant .*\?)? \(choose from (.*)\)", r"没有 \1，可选：\2"),
        (r"invalid int value: (.*)", r"\1 不是整数"),
        (r"invalid float value: (.*)", r"\1 不是数字"),
        (r"not a whole number from (\d+) to (\d+): (.*)", r"\3 不是 \1 到 \2 之间的整数"),
        (r"expected one argument", "需要一个值"),
        (r"expected at (least|most) one argument", "值的个数不对"),
        (r"expected (\d+) arguments?", r"需要 \1 个值"),
        (r"ignored explicit argument (.*)", r"不需要值，却写了 \1"),
        (r"ambiguous option: (.*) could match (.*)", r"选项 \1 不明确，可能是 \2"),
        (r"not allowed with argument (.*)", r"不能与 \1 同时使用"),
    )
)


class Misused(Exception):
    """A command line that cannot be read: the usage of the command, and what is wrong."""

    def __init__(self, usage: str, error: BadInput) -> None:
        super().__init__(usage, error)
        self.usage = usage
        self.error = error


class Parser(argparse.ArgumentParser):
    """A command line whose own words are in one of the two languages. Raises Misused where it cannot be read."""

    def __init__(self, *, language: Language, **more: Any) -> None:
        self.language = language
        formatter = _Chinese if language == "zh" else argparse.HelpFormatter
        super().__init__(formatter_class=formatter, add_help=False, **more)
        self.takes("-h", "--help", action="help", words=_HELP)

    def takes(self, *names: str, words: Text, **more: Any) -> None:
        """One more argument: as `add_argument`, with a help that nobody can forget."""
        self.add_argument(*names, help=words.of(self.language), **more)

    def error(self, message: str) -> NoReturn:
        """Raises Misused; the field is the argument that argparse names, if it names one."""
        about = _ABOUT.fullmatch(message)
        words = Text(en=said(message, "en"), zh=said(message, "zh"))
        hint = Text(en=f"{self.prog} --help says what it takes.", zh=f"用法见 {self.prog} --help。")
        raise Misused(self.format_usage(), BadInput(about[1] if about else "arguments", words, hint))


class _Chinese(argparse.HelpFormatter):
    def add_usage(
        self, usage: str | None, actions: Iterable[argparse.Action], groups: Iterable[Any], prefix: str | None = None
    ) -> None:
        super().add_usage(usage, actions, groups, _USAGE if prefix is None else prefix)

    def start_section(self, heading: str | None) -> None:
        super().start_section(heading and _HEADINGS.get(heading, heading))


def said(message: str, language: Language) -> str:
    """What argparse says of a wrong command line; what is not known here stays as it is."""
    if language == "en":
        return message
    about = _ABOUT.fullmatch(message)
    if about is not None:
        return f"参数 {about[1]}：{said(about[2], language)}"
    found = ((pattern.fullmatch(message), chinese) for pattern, chinese in _SAID)
    return next((match.expand(chinese) for match, chinese in found if match), message)


def whole(low: int, high: int) -> Callable[[str], int]:
    """A type of argument: a whole number from `low` to `high`."""

    def read(given: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", given) or not low <= int(given) <= high:
            raise argparse.ArgumentTypeError(f"not a whole number from {low} to {high}: {given!r}")
        return int(given)

    return read


def language_of(argv: Sequence[str], environ: Mapping[str, str]) -> Language:
    """The language of the words: --language, SLIPWAY_LANGUAGE, the terminal's. Looked for before the command line is
    read, since what is wrong with that is said in it too."""
    early = argparse.ArgumentParser(add_help=False)
    early.add_argument("--language", nargs="?")
    flag = early.parse_known_args(argv)[0].language
    names = ("SLIPWAY_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")
    told = flag if flag in LANGUAGES else next((environ[name] for name in names if environ.get(name)), "")
    return "zh" if told.lower().startswith("zh") else "en"
