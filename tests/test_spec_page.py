"""docs/spec.md and the examples of the other pages: every field with its default, and every example can be planned."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from backends import recipes
from backends.reading import read_json
from backends.spec import (
    FasterTransformerOptions,
    Limits,
    Model,
    ModelSource,
    Ports,
    Sources,
    Spec,
    TensorRtLlmOptions,
    VllmOptions,
)
from tests import guided_trtllm, guides

ROOT = Path(__file__).parent.parent
SECTIONS: dict[str, type[BaseModel]] = {
    "The spec": Spec,
    "`model`": ModelSource,
    "`limits`": Limits,
    "`ports`": Ports,
    "`fastertransformer`": FasterTransformerOptions,
    "`tensorrt_llm`": TensorRtLlmOptions,
    "`vllm`": VllmOptions,
}
PAGES = ("README.md", "docs/README.zh-CN.md", "docs/spec.md", "docs/fastertransformer.md")
MACHINE = guided_trtllm.machine("NVIDIA A100-SXM4-80GB", 80, 2, 81_920, "580.95.05")
MODELS: dict[str, Model] = {one.source.id: one for one in (guides.LLAMA_7B, guided_trtllm.LLAMA3, guided_trtllm.QWEN3)}


def _examples(page: str) -> list[bytes]:
    found = re.findall(r"```json\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    return [example.encode() for example in found]


def _rows(section: str) -> dict[str, str]:
    told = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \| (.+?) \|", told, re.MULTILINE))


def _defaults(kind: type[BaseModel]) -> dict[str, str]:
    told = {}
    for name, field in kind.model_fields.items():
        default = {} if isinstance(field.default, BaseModel) else field.default
        told[name] = "needed" if field.is_required() else f"`{json.dumps(default)}`"
    return told


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_of_the_spec_has_every_field_with_its_default(section: str) -> None:
    assert _rows(section) == _defaults(SECTIONS[section])


@pytest.mark.parametrize("page", PAGES)
def test_every_example_of_a_page_becomes_a_plan(page: str) -> None:
    examples = _examples(page)
    assert examples
    for example in examples:
        spec = read_json(Spec, example, "spec")
        assert recipes.plan(spec, MACHINE, MODELS[spec.model.id], Sources()).steps


def test_the_page_of_the_spec_shows_each_engine() -> None:
    shown = {read_json(Spec, example, "spec").engine for example in _examples("docs/spec.md")}
    assert shown == set(recipes.RECIPES)
