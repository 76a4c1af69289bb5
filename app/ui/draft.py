"""The wizard's form as plain text fields, and the Spec that they mean. A field carries the dotted name of its value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from app.ui import options
from backends.errors import BadInput
from backends.reading import read
from backends.spec import ModelSource, Spec

Draft = dict[str, Any]

DEFAULTS: Draft = {
    "model.kind": "demo", "model.id": "", "model.revision": "", "name": "", "precision": "auto", "device": "auto",
    "gpus": [], "limits.concurrent": "", "limits.context": "", "limits.new_tokens": "", "limits.queue": "",
    "limits.queue_timeout_s": "", "template": "auto", "trust_remote_code": False, "allow_pickle": False,
    "choice": "", "ports.http": "", "ports.grpc": "", "ports.metrics": "", "bind": "127.0.0.1",
    "restart": False, "image": "",
    **dict.fromkeys(options.names(), ""),
}  # fmt: skip
_NUMBERS = ("limits.", "ports.")
_LONGEST = 4096


def tidy(told: object) -> Draft:
    """What a browser sent, over the defaults: unknown names dropped, every value of the kind that the field has."""
    draft: Draft = dict(DEFAULTS)
    if not isinstance(told, Mapping):
        return draft
    for name, default in DEFAULTS.items():
        value = told.get(name, default)
        if isinstance(default, bool):
            draft[name] = value in (True, "true", "on")
        elif isinstance(default, list):
            values = value if isinstance(value, list | tuple) else [value]
            draft[name] = [str(one)[:_LONGEST] for one in values if str(one)][:64]
        else:
            draft[name] = ("" if value is None else str(value)).strip()[:_LONGEST]
    return draft


def source_of(draft: Draft) -> ModelSource | None:
    """The model that the form names; None while it names none. Raises BadInput."""
    kind = draft["model.kind"]
    if kind == "demo":
        return ModelSource(kind="demo")
    if not draft["model.id"]:
        return None
    value = {"kind": kind, "id": draft["model.id"], "revision": (draft["model.revision"] or None)}
    if kind == "folder":
        value["revision"] = None
    try:
        return read(ModelSource, value, "model")
    except BadInput as bad:
        raise BadInput("model.id" if bad.field == "model" else bad.field or "model.id", bad.message, bad.hint) from None


def spec_of(draft: Draft, chosen: Mapping[str, Any] | None = None) -> Spec:
    """The Spec that the form means. `chosen` holds what an engine's card stands for: engine, target, image.

    Raises BadInput naming the field of the form.
    """
    source = source_of(draft)
    if source is None:
        raise missing_model()
    value: dict[str, Any] = {
        "model": source.model_dump(),
        "name": draft["name"] or suggested_name(draft),
        "precision": draft["precision"],
        "template": draft["template"],
        "trust_remote_code": draft["trust_remote_code"],
        "allow_pickle": draft["allow_pickle"],
        "bind": draft["bind"],
        "restart": "on-failure" if draft["restart"] else "no",
        "limits": {},
        "ports": {},
        "image": draft["image"] or None,
        **options.told(draft),
        **(chosen or {}),
    }
    if draft["device"] == "cpu":
        value["gpus"] = []
    elif draft["device"] == "gpus":
        value["gpus"] = draft["gpus"]
    for name, text in draft.items():
        if name.startswith(_NUMBERS) and text:
            group, key = name.split(".")
            value[group][key] = text.replace(",", "").replace("_", "")
    return read(Spec, value)


def draft_of(spec: Spec, choice: str = "") -> Draft:
    """The form that means this Spec, for “Edit settings” and “Change and launch”."""
    draft: Draft = dict(DEFAULTS)
    draft |= {
        "model.kind": spec.model.kind,
        "model.id": "" if spec.model.kind == "demo" else spec.model.id,
        "model.revision": spec.model.revision or "",
        "name": spec.name,
        "precision": spec.precision,
        "template": spec.template,
        "trust_remote_code": spec.trust_remote_code,
        "allow_pickle": spec.allow_pickle,
        "bind": spec.bind,
        "restart": spec.restart == "on-failure",
        "choice": choice,
        "image": spec.own_image or "",
        "device": "auto" if spec.gpus is None else "gpus" if spec.gpus else "cpu",
        "gpus": [str(index) for index in spec.gpus or ()],
    }
    plain = Spec(model=spec.model)
    for group in ("limits", "ports"):
        for key, value in getattr(spec, group).model_dump().items():
            if value is not None and value != getattr(getattr(plain, group), key):
                draft[f"{group}.{key}"] = str(value)
    return draft | options.of(spec)


def mended(draft: Draft) -> tuple[Draft, BadInput | None]:
    """The form without what the Engine stage's own fields say wrong, so that the stage can be shown, and what that was.

    Raises BadInput for any other field.
    """
    first: BadInput | None = None
    while True:
        try:
            spec_of(draft)
        except BadInput as bad:
            if bad.field not in draft or not bad.field.startswith(
                ("image", "ports.", *(f"{one}." for one in options.OPTIONS))
            ):
                raise
            draft, first = draft | {bad.field: ""}, first or bad
            continue
        return draft, first


def suggested_name(draft: Draft) -> str:
    """A name from the model's: Qwen/Qwen3-0.6B gives qwen3-0-6b."""
    if draft["model.kind"] == "demo":
        return "demo"
    last = draft["model.id"].rstrip("/").rsplit("/", 1)[-1].lower()
    return re.sub(r"[^a-z0-9]+", "-", last).strip("-")[:48].strip("-") or "model"


def missing_model() -> BadInput:
    """No model is named yet."""
    from backends.text import Text

    return BadInput(
        "model.id",
        Text(en="No model is named yet. Write its id or folder, or take the demo model.",
             zh="尚未填写模型，写出模型 ID 或目录，或选择演示模型。"),
    )  # fmt: skip
