"""Reads a value from outside (a file, a form, an imported plan) into the vocabulary, or says clearly what is wrong."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from backends.errors import BadInput
from backends.text import Text

M = TypeVar("M", bound=BaseModel)

_SAID = {  # pydantic's error types, in the person's words; {…} from the error's context
    "missing": ("It is missing.", "缺少此项。"),
    "extra_forbidden": ("There is no such field. Remove it or check its spelling.", "没有此字段，删除或检查拼写。"),
    "literal_error": ("It must be {expected}.", "只能是 {expected}。"),
    "union_tag_invalid": ("It must be one of {expected_tags}.", "只能是 {expected_tags}。"),
    "union_tag_not_found": ("“kind” is missing.", "缺少 “kind”。"),
    "greater_than_equal": ("It must be at least {ge}.", "不能小于 {ge}。"),
    "greater_than": ("It must be more than {gt}.", "必须大于 {gt}。"),
    "less_than_equal": ("It must be at most {le}.", "不能大于 {le}。"),
    "less_than": ("It must be less than {lt}.", "必须小于 {lt}。"),
    "finite_number": ("It must be a finite number.", "必须是有限数值。"),
    "int_parsing": ("It must be a whole number, such as 16.", "必须是整数，例如 16。"),
    "int_type": ("It must be a whole number, such as 16.", "必须是整数，例如 16。"),
    "int_from_float": ("It must be a whole number, such as 16.", "必须是整数，例如 16。"),
    "float_parsing": ("It must be a number, such as 0.7.", "必须是数值，例如 0.7。"),
    "float_type": ("It must be a number, such as 0.7.", "必须是数值，例如 0.7。"),
    "bool_parsing": ("It must be true or false.", "必须是 true 或 false。"),
    "bool_type": ("It must be true or false.", "必须是 true 或 false。"),
    "string_type": ("It must be text in quotes.", "必须是带引号的文本。"),
    "string_too_short": ("It must not be empty.", "不能为空。"),
    "string_too_long": ("It is longer than {max_length} characters.", "超过 {max_length} 个字符。"),
    "string_pattern_mismatch": ("It does not have the form that is wanted here.", "格式不符。"),
    "tuple_type": ("It must be a list in square brackets.", "必须是方括号中的列表。"),
    "dict_type": ("It must be an object in curly brackets.", "必须是花括号中的对象。"),
    "model_type": ("It must be an object in curly brackets.", "必须是花括号中的对象。"),
    "too_short": ("It must not be empty.", "不能为空。"),
}


def read(kind: type[M], value: object, what: str = "") -> M:
    """`value` (plain data, such as parsed JSON or form fields) as a `kind`.

    Raises BadInput naming the first wrong field as a dotted path under `what`, and how many more there are.
    """
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        raise _bad_input(error, what) from None


def read_json(kind: type[M], text: str | bytes, what: str = "") -> M:
    """JSON text as a `kind`. Raises BadInput, also where the text is not JSON at all."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f"line {error.lineno}, column {error.colno}" if isinstance(error, json.JSONDecodeError) else "it"
        raise BadInput(
            what or "json",
            Text(en=f"This is not valid JSON: {where} cannot be read.", zh=f"不是有效的 JSON：{where} 无法解析。"),
            Text(en="Open the file, mend that place, and try again.", zh="打开文件修正该处后重试。"),
        ) from None
    return read(kind, value, what)


def _bad_input(error: ValidationError, what: str) -> BadInput:
    first = error.errors(include_url=False)[0]
    context = first.get("ctx", {})
    named = context.get("field", "") if first["type"] == "slipway" else ""
    path = [str(part) for part in first["loc"] if not str(part).startswith("function-")]
    field = ".".join([*([what] if what else []), *path, *([named] if named else [])])
    if first["type"] == "slipway":
        said = (context["en"], context["zh"])
    else:
        words = _SAID.get(first["type"], (first["msg"].replace("{", "(").replace("}", ")") + ".",) * 2)
        said = (words[0].format(**context), words[1].format(**context))
    more = error.error_count() - 1
    hint = None
    if more:
        hint = Text(en=f"{more} more fields are wrong too.", zh=f"另有 {more} 个字段也有问题。")
    name = field or "value"
    return BadInput(name, Text(en=f"{name}: {said[0]}", zh=f"{name}：{said[1]}"), hint)
