"""Guides that recipes follow: their steps, the plan's steps that do the same, each difference with its reason. Pure.

Each engine's guides are data, assets/<engine>/guides.toml; notes of plans and the parity tables in docs/ come of it.
"""

from __future__ import annotations

import tomllib
from functools import cache

from backends import tables
from backends.spec import Frozen
from backends.steps import Plan
from backends.text import Text


class GuideStep(Frozen):
    """One step of a guide; `steps` are ids of plan steps, none where it is left out."""

    number: str
    does: Text
    steps: tuple[str, ...]
    differs: Text


class Guide(Frozen):
    """A guide: what it deploys, and its steps in order."""

    title: Text
    step: tuple[GuideStep, ...]


@cache
def guides(engine: str) -> dict[str, Guide]:
    """All guides of an engine by name."""
    path = tables.ASSETS / engine / "guides.toml"
    rows = tomllib.loads(path.read_text(encoding="utf-8"))["guide"]
    return {name: Guide.model_validate(row) for name, row in rows.items()}


def differences(guide: Guide, steps: tuple[str, ...]) -> tuple[Text, ...]:
    """What is left out or done otherwise in a plan of these steps, each led by the guide's step."""
    told = [step for step in guide.step if not step.steps or set(step.steps) & set(steps)]
    return tuple(
        Text(
            en=f"Guide step {step.number} ({step.does.en}): {step.differs.en}",
            zh=f"指南步骤 {step.number}（{step.does.zh}）：{step.differs.zh}",
        )
        for step in told
    )


def table(guide: Guide, plan: Plan) -> str:
    """The guide beside the plan as a Markdown table."""
    titles = {step.id: step.title.en for step in plan.steps}
    lines = ["| guide's step | what a person does there | Slipway's steps | difference and why |", "|---|---|---|---|"]
    for step in guide.step:
        done = "<br>".join(f"`{name}` {titles[name]}" for name in step.steps if name in titles) or "left out"
        lines.append(f"| {step.number} | {step.does.en} | {done} | {step.differs.en} |")
    return "\n".join(lines)
