"""The engines that this version can drive: each a recipe and its tensors, one row of both tables below.

A new engine also needs its name in `spec.EngineName` and its facts in assets/engine_paths.toml and engine_limits.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from backends.errors import CannotDo, Refused
from backends.fastertransformer import recipe as fastertransformer_recipe
from backends.fastertransformer import tensors as fastertransformer_tensors
from backends.sessions import Session
from backends.sources import applied
from backends.spec import Chat, EngineName, Hardware, Model, ModelSource, Sources, Spec
from backends.steps import Ask, Plan
from backends.tensorrt_llm import recipe as tensorrt_llm_recipe
from backends.tensorrt_llm import tensors as tensorrt_llm_tensors
from backends.text import Text
from backends.transformers import recipe as transformers_recipe
from backends.transformers import tensors as transformers_tensors
from backends.vllm import recipe as vllm_recipe
from backends.vllm import tensors as vllm_tensors


class Recipe(Protocol):
    """Pure: reads no machine, touches no disk."""

    def why_not(self, spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]: ...

    def recipe(self, spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan: ...


class Tensors(Protocol):
    """Chat <-> the tensors of the model repository that the recipe beside it writes."""

    def session(self, chat: Chat, told: Mapping[str, str]) -> Session:
        """What is sent for one chat; `told` is what the plan's first question says of the deployment (`Ask.talk`)."""

    def prompt(self, chat: Chat, told: Mapping[str, str]) -> str:
        """The text that the model is given to continue. Raises BadInput where it cannot be told."""

    def no_bad_words(self, told: Mapping[str, str]) -> Text | None:
        """Why answers cannot be kept free of words (`Sampling.bad_words`); None: they can."""

    def refused(self, words: str) -> Refused: ...


RECIPES: dict[EngineName, Recipe] = {
    "transformers": transformers_recipe,
    "fastertransformer": fastertransformer_recipe,
    "tensorrt_llm": tensorrt_llm_recipe,
    "vllm": vllm_recipe,
}
TENSORS: dict[EngineName, Tensors] = {
    "transformers": transformers_tensors,
    "fastertransformer": fastertransformer_tensors,
    "tensorrt_llm": tensorrt_llm_tensors,
    "vllm": vllm_tensors,
}


def no_bad_words(plan: Plan) -> Text | None:
    """Why answers of what this plan serves cannot be kept free of words; None: they can."""
    told = next((step.talk for step in plan.steps if isinstance(step, Ask)), {})
    return TENSORS[plan.spec.engine].no_bad_words(told)


# What the plan said of a model, put right by what the model refused: asked once more before a refusal is told.
CORRECTED: dict[str, Callable[[Mapping[str, str], str], dict[str, str] | None]] = {
    "tensorrt_llm": tensorrt_llm_tensors.corrected,
}


def setup(hardware: Hardware, sources: Sources) -> Plan:
    """Only the steps that make the embedded runtime, under a name of its own."""
    spec = Spec(model=ModelSource(kind="demo"), name="runtime")
    return applied(Plan(spec=spec, steps=transformers_recipe.runtime(hardware, sources)), sources)


def plan(spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan:
    """The plan for the spec on that machine. Raises CannotDo with every reason."""
    engine = RECIPES.get(spec.engine)
    if engine is None:
        raise CannotDo(
            Text(en=f"Slipway cannot drive {spec.engine} yet.", zh=f"Slipway 暂不支持 {spec.engine}。"),
            hint=Text(en=f"Choose one of: {', '.join(RECIPES)}.", zh=f"可选：{'、'.join(RECIPES)}。"),
        )
    reasons = engine.why_not(spec, hardware, model)
    if reasons:
        raise CannotDo(
            Text(en=f"{spec.engine} cannot serve this model here.", zh=f"{spec.engine} 无法在此运行该模型。"), reasons
        )
    return applied(engine.recipe(spec, hardware, model, sources), sources)
