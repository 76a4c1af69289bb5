"""How conversations are written, and which ids end answers. The data is assets/tensorrt_llm/chat.toml; pure."""

from __future__ import annotations

import tomllib
from functools import cache

from backends.spec import Frozen, Model, Spec
from backends.tensorrt_llm.versions import FOLDER


class Format(Frozen):
    """One way of writing a conversation. `stop`: what ends an answer in text; ids by model_type."""

    id: str
    types: tuple[str, ...]
    start: str | None = None
    end: str | None = None
    stop: tuple[str, ...] = ()
    system: str | None = None
    end_id: dict[str, int] = {}
    pad_id: dict[str, int] = {}
    source: str


class Ending(Frozen):
    """The tokens that end and pad an answer. `written`: the tokenizer names none, so its loader is told.

    `own`: what the tokenizer names is right; `end_id` is then only the first of the ids that the configuration lists.
    """

    end_id: int | None = None
    pad_id: int | None = None
    written: bool = False
    own: bool = False


@cache
def formats() -> dict[str, Format]:
    """All formats by id."""
    rows = tomllib.loads((FOLDER / "chat.toml").read_text(encoding="utf-8"))["format"]
    return {row["id"]: Format.model_validate(row) for row in rows}


@cache
def _endings() -> dict[str, int]:
    found: dict[str, int] = tomllib.loads((FOLDER / "chat.toml").read_text(encoding="utf-8"))["endings"]
    return found


def format_of(spec: Spec, model: Model) -> str:
    """How this deployment writes conversations: chatml, llama2, tokenizer (its own template), or raw."""
    if spec.template != "auto":
        return spec.template
    said = model.facts.get("chat_format")
    if said in ("raw", "chatml"):
        return str(said)
    return "tokenizer" if model.tokenizer.chat_template else "raw"


def ending(spec: Spec, model: Model) -> Ending:
    """Which tokens end an answer, as guide 002 finds them: by format for chatml, else from generation_config."""
    kind = model.model_type
    form = formats().get(format_of(spec, model))
    named = model.tokenizer.eos_token is not None
    if form is not None and form.id == "chatml" and kind in form.end_id:
        return Ending(end_id=form.end_id[kind], pad_id=form.pad_id[kind], written=not named)
    end = next(iter(model.tokenizer.eos_token_ids), None)
    if end is None:
        end = _endings().get(kind)
    pad = model.tokenizer.pad_token_id
    written = not named and end is not None
    return Ending(end_id=end, pad_id=end if pad is None else pad, written=written, own=named)
