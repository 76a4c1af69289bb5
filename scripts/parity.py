"""Writes docs/parity-*.md: each guide beside the plan that does the same, out of the golden plans.

python -m scripts.parity [--check]: with --check nothing is written; ends with 1 where a file is not as it would be.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backends.guides import guides, table
from backends.steps import Plan

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Page:
    """One engine's guides. `plans` maps a guide to the golden plan that follows it."""

    engine: str
    folder: str
    plans: Mapping[str, str]

    @property
    def path(self) -> Path:
        return ROOT / "docs" / f"parity-{self.folder.replace('_', '-')}.md"

    def text(self) -> str:
        """The whole page."""
        parts = [
            f"# The {self.engine} guides, and what Slipway does instead\n\n"
            f"Made by `python -m scripts.parity` from assets/{self.folder}/guides.toml and the golden plans in "
            "tests/plans.\nWhere a guide is wrong the plan is right, and the last column says why.\n"
        ]
        for name, plan_name in self.plans.items():
            told = (ROOT / "tests" / "plans" / f"{plan_name}.json").read_text(encoding="utf-8")
            guide = guides(self.folder)[name]
            parts.append(f"## Guide {name}: {guide.title.en}\n\n{table(guide, Plan.model_validate_json(told))}\n")
        return "\n".join(parts)


PAGES = (
    Page(
        engine="FasterTransformer",
        folder="fastertransformer",
        plans={
            "000": "000-atom-7b-fp16",
            "001": "001-llama-7b-tp2",
            "003-gptj": "003-gptj-6b-tp2",
            "003-t5": "003-t5-3b-tp2",
        },
    ),
    Page(
        engine="TensorRT-LLM",
        folder="tensorrt_llm",
        plans={"002": "trtllm-002-qwen-7b-smoothquant", "004": "trtllm-004-llama-2-7b-tp2"},
    ),
)
PAGE, PLANS = PAGES[0].path, PAGES[0].plans


def page() -> str:
    """FasterTransformer's page."""
    return PAGES[0].text()


def main() -> int:
    """Writes the pages, or checks them."""
    if "--check" in sys.argv[1:]:
        same = (one.path.exists() and one.path.read_text(encoding="utf-8") == one.text() for one in PAGES)
        return 0 if all(same) else 1
    for one in PAGES:
        one.path.parent.mkdir(exist_ok=True)
        one.path.write_text(one.text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
