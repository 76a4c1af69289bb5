"""Reads a value from outside (a file, a form, an imported plan) into the vocabulary, or says clearly what is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from backends.errors import BadInput
from backends.text import Text

M = TypeVar("M", bound=BaseModel)

_WHOLE = ("It must be a whole number, such as 16.", "必须是整数，例如 16。")
_NUMBER = ("It must be a number, such as 0.7.", "必须是数值，例如 0.7。")
_YES_NO = ("It must be true or false.", "必须是 true 或 false。")
_QUOTED = ("It must be text in quotes.", "必须是带引号的文本。")
_LIST = ("It must be a list in square brackets.", "必须是方括号中的列表。")
_OBJECT = ("It must be an object in curly brackets.", "必须是花括号中的对象。")
_EMPTY = ("It must not be empty.", "不能为空。")
_CHOICE = ("It must be {expected}.", "只能是 {expected}。")
_DATE = ("It must be a date, such as 2026-01-31.", "必须是日期，例如 2026-01-31。")
_MOMENT = ("It must be a date and time, such as 2026-01-31T08:00:00Z.", "必须是日期与时间，例如 2026-01-31T08:00:00Z。")
_SAID = {  # pydantic's error types, in the person's words; {…} from the error's context
    "missing": ("It is missing.", "缺少此项。"),
    "extra_forbidden": ("There is no such field. Remove it or check its spelling.", "没有此字段，删除或检查拼写。"),
    "invalid_key": ("The names in it must be text in quotes.", "其中的名称必须是带引号的文本。"),
    "literal_error": _CHOICE,
    "enum": _CHOICE,
    "union_tag_invalid": ("It must be one of {expected_tags}.", "只能是 {expected_tags}。"),
    "union_tag_not_found": ("“kind” is missing.", "缺少 “kind”。"),
    "none_required": ("It must be null.", "只能是 null。"),
    "greater_than_equal": ("It must be at least {ge}.", "不能小于 {ge}。"),
    "greater_than": ("It must be more than {gt}.", "必须大于 {gt}。"),
    "less_than_equal": ("It must be at most {le}.", "不能大于 {le}。"),
    "less_than": ("It must be less than {lt}.", "必须小于 {lt}。"),
    "multiple_of": ("It must be a multiple of {multiple_of}.", "必须是 {multiple_of} 的倍数。"),
    "finite_number": ("It must be a finite number.", "必须是有限数值。"),
    "int_parsing": _WHOLE,
    "int_parsing_size": ("It is too large a number.", "数值过大。"),
    "int_type": _WHOLE,
    "int_from_float": _WHOLE,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "bool_parsing": _YES_NO,
    "bool_type": _YES_NO,
    "string_type": _QUOTED,
    "string_unicode": ("It holds characters that are not valid Unicode.", "含有无效的 Unicode 字符。"),
    "string_not_ascii": ("Only ASCII characters may stand here.", "只能使用 ASCII 字符。"),
    "string_too_short": _EMPTY,
    "string_too_long": ("It is longer than {max_length} characters.", "超过 {max_length} 个字符。"),
    "string_pattern_mismatch": ("It does not have the form that is wanted here.", "格式不符。"),
    "tuple_type": _LIST,
    "list_type": _LIST,
    "set_type": _LIST,
    "frozen_set_type": _LIST,
    "iterable_type": _LIST,
    "dict_type": _OBJECT,
    "mapping_type": _OBJECT,
    "model_type": _OBJECT,
    "model_attributes_type": _OBJECT,
    "too_short": _EMPTY,
    "too_long": ("It has more than {max_length} entries.", "超过 {max_length} 项。"),
    "recursion_loop": ("It is nested too deeply.", "嵌套过深。"),
    "recursion_depth_exceeded": ("It is nested too deeply.", "嵌套过深。"),
    "date_type": _DATE,
    "date_parsing": _DATE,
    "date_from_datetime_parsing": _DATE,
    "datetime_type": _MOMENT,
    "datetime_parsing": _MOMENT,
    "datetime_from_date_parsing": _MOMENT,
}
_OTHER_ZH = "类型或格式不符。"  # for a type that is not listed; in English pydantic says more


def read(kind: type[M], value: object, what: str = "") -> M:
    """`value` (plain data, such as parsed JSON or form fields) as a `kind`.

    Raises BadInput naming the first wrong field as a dotted path under `what`, and how many more there are.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise bad_input(error.errors(include_url=False), what) from None


def read_json(kind: type[M], text: str | bytes, what: str = "") -> M:
    """JSON text as a `kind`. Raises BadInput, also where the text is not JSON at all."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        en, zh = "it", "内容"
        if isinstance(error, json.JSONDecodeError):
            en, zh = f"line {error.lineno}, column {error.colno}", f"第 {error.lineno} 行第 {error.colno} 列"
        raise BadInput(
            what or "json",
            Text(en=f"This is not valid JSON: {en} cannot be read.", zh=f"不是有效的 JSON：{zh}无法解析。"),
            Text(en="Open the file, mend that place, and try again.", zh="打开文件修正该处后重试。"),
        ) from None
    return read(kind, value, what)


def bad_input(errors: Sequence[Mapping[str, Any]], what: str = "") -> BadInput:
    """The first of pydantic's error details in words, under the dotted name of its field, and how many more."""
    first, more = errors[0], len(errors) - 1
    context = first.get("ctx", {})
    named = context.get("field", "") if first["type"] == "slipway" else ""
    path = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    name = ".".join([*([what] if what else []), *path, *([named] if named else [])]) or "value"
    en, zh = _said(first["type"], first["msg"], context)
    hint = None
    if more:
        fields = "1 more field is" if more == 1 else f"{more} more fields are"
        hint = Text(en=f"{fields} wrong too.", zh=f"另有 {more} 个字段也有问题。")
    return BadInput(name, Text(en=f"{name}: {en}", zh=f"{name}：{zh}"), hint)


def _said(kind: str, message: str, context: Mapping[str, Any]) -> tuple[str, str]:
    """What pydantic found, in English and Chinese."""
    if kind == "slipway":
        return context["en"], context["zh"]
    if kind not in _SAID:
        return f"{message}.", _OTHER_ZH
    en, zh = _SAID[kind]
    # pydantic joins choices in English
    choices = {name: one.replace("' or '", "' 或 '") for name, one in context.items() if isinstance(one, str)}
    return en.format(**context), zh.format(**{**context, **choices})
