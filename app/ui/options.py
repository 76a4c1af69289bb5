"""What only one engine asks, as fields of the form: kinds, bounds and defaults from the spec, words from data."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from app.settings import ASSETS
from backends.spec import FasterTransformerOptions, Frozen, Spec, TensorRtLlmOptions, VllmOptions
from backends.text import Text, same

OPTIONS: dict[str, type[Frozen]] = {
    "fastertransformer": FasterTransformerOptions,
    "tensorrt_llm": TensorRtLlmOptions,
    "vllm": VllmOptions,
}
_YES, _NO = Text(en="Yes", zh="是"), Text(en="No", zh="否")
_BY_THE_CARD = {"tensorrt_llm.flow"}
_OPEN, _NONE = Text(en="Automatic", zh="自动"), Text(en="none", zh="无")


class OwnField(NamedTuple):
    """One field. `name` is the dotted name of the spec; `choices` empty: it is typed. An empty value means `usual`."""

    name: str
    label: Text
    help: Text
    usual: Text
    number: bool = False
    given: bool = False  # something that a person may have: an image, a folder
    choices: tuple[tuple[str, Text], ...] = ()


@cache
def fields(engine: str) -> tuple[OwnField, ...]:
    """The fields of an engine, in the spec's order; none for an engine without options of its own."""
    kind = OPTIONS.get(engine)
    if kind is None:
        return ()
    told = kind.model_json_schema()["properties"]
    return tuple(_field(engine, name, shape) for name, shape in told.items() if f"{engine}.{name}" not in _BY_THE_CARD)


@cache
def names() -> tuple[str, ...]:
    """Every field of every engine, by its dotted name."""
    return tuple(field.name for engine in OPTIONS for field in fields(engine))


def told(draft: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    """What the form says of each engine, as a Spec takes it: fields left empty are not there."""
    found: dict[str, dict[str, str]] = {}
    for name in names():
        if text := draft.get(name):
            engine, key = name.split(".")
            found.setdefault(engine, {})[key] = text.replace(",", "") if text.replace(",", "").isdecimal() else text
    return found


def of(spec: Spec) -> dict[str, str]:
    """The fields of the form that mean the spec's options: only what is not as usual."""
    found = {}
    for engine, kind in OPTIONS.items():
        chosen, usual = getattr(spec, engine), kind()
        for key in kind.model_fields:
            value = None if chosen is None else getattr(chosen, key)
            if value is not None and value != getattr(usual, key) and f"{engine}.{key}" in names():
                found[f"{engine}.{key}"] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


@cache
def _words() -> dict[str, Any]:
    return tomllib.loads((ASSETS / "engine_options.toml").read_text(encoding="utf-8"))


def _field(engine: str, name: str, shape: Mapping[str, Any]) -> OwnField:
    words = _words().get(engine, {}).get(name) or _words()["words"][name]
    kinds = shape.get("anyOf", [shape])
    kind, usual = kinds[0], shape.get("default")
    choices: tuple[tuple[str, Text], ...] = ()
    if kind.get("type") == "boolean":
        choices = (("true", _YES), ("false", _NO))
    elif "enum" in kind:
        choices = tuple((str(value), same(str(value))) for value in kind["enum"])
    left_open = usual is None or usual == "auto"
    given = name == "prebuilt_image" or kind.get("maxLength") == 4096
    shown = (_NONE if given else _OPEN) if left_open else same(str(usual))
    if isinstance(usual, bool):
        shown = _YES if usual else _NO
    return OwnField(
        name=f"{engine}.{name}",
        label=Text.model_validate(words["label"]),
        help=_ranged(Text.model_validate(words["help"]), kind),
        usual=shown,
        number=kind.get("type") in ("integer", "number"),
        given=given,
        choices=tuple(choice for choice in choices if usual is None or choice[0] != str(usual).lower()),
    )


def _ranged(words: Text, kind: Mapping[str, Any]) -> Text:
    low, high = kind.get("minimum", kind.get("exclusiveMinimum")), kind.get("maximum", kind.get("exclusiveMaximum"))
    if low is None or "number" not in str(kind.get("type")).replace("integer", "number"):
        return words
    bounds = f"{low:,g} – {high:,g}" if high is not None and high < 10**6 else f"≥ {low:g}"
    return Text(en=f"{words.en}; {bounds}", zh=f"{words.zh}，{bounds}")
