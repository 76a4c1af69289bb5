"""Writes docs/parity-fastertransformer.md: each guide beside the plan that does the same, out of the golden plans.

python -m scripts.parity [--check]: with --check nothing is written; ends with 1 where the file is not as it would be.
"""

from __future__ import annotations

import sys
from pathlib import Path

from backends.fastertransformer.guides import guides, table
from backends.steps import Plan

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "parity-fastertransformer.md"
PLANS = {  # the guide: the golden plan that follows it
    "000": "000-atom-7b-fp16",
    "001": "001-llama-7b-tp2",
    "003-gptj": "003-gptj-6b-tp2",
    "003-t5": "003-t5-3b-tp2",
}
_HEAD = """# The FasterTransformer guides, and what Slipway does instead

Made by `python -m scripts.parity` from assets/fastertransformer/guides.toml and the golden plans in tests/plans.
Where a guide is wrong the plan is right, and the last column says why.
"""


def page() -> str:
    """The whole page."""
    parts = [_HEAD]
    for name, plan_name in PLANS.items():
        text = (ROOT / "tests" / "plans" / f"{plan_name}.json").read_text(encoding="utf-8")
        guide = guides()[name]
        parts.append(f"## Guide {name}: {guide.title.en}\n\n{table(guide, Plan.model_validate_json(text))}\n")
    return "\n".join(parts)


def main() -> int:
    if "--check" in sys.argv[1:]:
        return 0 if PAGE.exists() and PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
