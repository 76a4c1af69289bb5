"""The guides that the recipes follow, beside the plan. The data is assets/tensorrt_llm/guides.toml; pure."""

from __future__ import annotations

import tomllib
from functools import cache

from backends.fastertransformer.guides import Guide, GuideStep, differences, table
from backends.tensorrt_llm.deployment import Deployment
from backends.tensorrt_llm.versions import FOLDER

__all__ = ["Guide", "GuideStep", "differences", "guide_of", "guides", "table"]


@cache
def guides() -> dict[str, Guide]:
    """All guides by name."""
    rows = tomllib.loads((FOLDER / "guides.toml").read_text(encoding="utf-8"))["guide"]
    return {name: Guide.model_validate(row) for name, row in rows.items()}


def guide_of(deployment: Deployment) -> str | None:
    """The guide that a deployment follows: both are of 0.5.0."""
    if deployment.choice.flow != "build_py":
        return None
    return "002" if deployment.model.model_type == "qwen" else "004"
