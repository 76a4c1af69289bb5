"""What may stand in a placeholder of a template. The data is assets/tensorrt_llm/placeholders.toml; pure."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from typing import Literal

from backends.errors import BadInput
from backends.spec import Frozen
from backends.tensorrt_llm.versions import FOLDER, numbers
from backends.text import Text

Value = str | int | float | bool | None
NAME = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_INTS = re.compile(r"\d+(?:[,;]\d+)*")
_UNSAFE = re.compile(r'["\\\x00-\x1f\x7f]|\$\{')


class Placeholder(Frozen):
    """One row of the list; its comments there say what each field means."""

    name: str
    files: tuple[str, ...]
    kind: Literal["path", "int", "float", "bool", "enum", "ints", "text"]
    values: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    required: bool = False
    default: Value = None
    since: str = "0.5.0"
    before: str | None = None
    source: str

    def spelled(self, value: Value) -> str | None:
        """The value as the template wants it; None: unset. Raises BadInput naming the placeholder and what it takes."""
        value = self.default if value is None else value
        if value is None:
            if self.required:
                raise self._wrong("–", "It has no default.", "没有默认值。")
            return None
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if _UNSAFE.search(text):
            raise self._wrong(text, "Quotes, backslashes and ${ cannot stand there.", "不能含引号、反斜杠或 ${。")
        problem = self._problem(value, text)
        if problem is not None:
            raise self._wrong(text, problem.en, problem.zh)
        return text

    def _problem(self, value: Value, text: str) -> Text | None:
        if self.kind == "bool" and text not in ("true", "false"):
            return Text(en="It is true or false.", zh="只能是 true 或 false。")
        if self.kind == "enum" and text not in self.values:
            return Text(en=f"It is one of {', '.join(self.values)}.", zh=f"只能是 {'、'.join(self.values)}。")
        if self.kind == "ints" and not _INTS.fullmatch(text):
            return Text(en="It is a list of numbers, such as 0,1.", zh="应为数字列表，例如 0,1。")
        if self.kind == "path" and (not text.startswith("/") or ".." in text.split("/")):
            return Text(en="It is an absolute path.", zh="应为绝对路径。")
        if self.kind in ("int", "float"):
            if isinstance(value, bool) or not isinstance(value, int | float):
                return Text(en="It is a number.", zh="应为数字。")
            if self.kind == "int" and not isinstance(value, int):
                return Text(en="It is a whole number.", zh="应为整数。")
            if (self.low is not None and value < self.low) or (self.high is not None and value > self.high):
                span = f"{self.low:g} – {'∞' if self.high is None else f'{self.high:g}'}"
                return Text(en=f"It lies in {span}.", zh=f"范围为 {span}。")
        return None

    def _wrong(self, text: str, en: str, zh: str) -> BadInput:
        return BadInput(
            self.name,
            Text(en=f"{self.name}: “{text}” cannot stand there. {en}", zh=f"{self.name}：不能填“{text}”。{zh}"),
        )


@cache
def placeholders() -> dict[str, Placeholder]:
    """All rows, by name."""
    rows = tomllib.loads((FOLDER / "placeholders.toml").read_text(encoding="utf-8"))["placeholder"]
    found = (
        Placeholder.model_validate({"since": row.get("from", "0.5.0")} | {k: v for k, v in row.items() if k != "from"})
        for row in rows
    )
    return {one.name: one for one in found}


def of_version(version: str) -> tuple[Placeholder, ...]:
    """The placeholders that a version's templates are known to hold."""
    have = numbers(version)
    return tuple(
        one
        for one in placeholders().values()
        if have >= numbers(one.since) and (one.before is None or have < numbers(one.before))
    )


def in_text(text: str) -> tuple[str, ...]:
    """The placeholders that a template's text holds, each once, in order. Comments count: they are text too."""
    return tuple(dict.fromkeys(NAME.findall(text)))
