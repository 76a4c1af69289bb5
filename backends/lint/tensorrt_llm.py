"""Repositories of Triton's TensorRT-LLM backend: batch sizes, streaming, tokenizers' folders that must agree. Pure.

What must agree is said in `backends.tensorrt_llm.filling`, which fills such repositories; here others' are held to it.
"""

from __future__ import annotations

from collections.abc import Iterator

from backends.lint.finding import Finding, error
from backends.lint.reading import Repository
from backends.tensorrt_llm import filling

_MEND = (
    "Set it in every model alike; Slipway's own plans do.",
    "请在各模型中统一设置；Slipway 生成的方案会自动处理。",
)


def check(repository: Repository) -> Iterator[Finding]:
    """Findings in a repository that has the core model of this backend."""
    if filling.CORE not in repository.models:
        return
    configs = {name: model.config for name, model in repository.models.items() if model.config is not None}
    core = configs.get(filling.CORE)
    if core is None:
        return
    wanted = filling.Wanted(
        version="0", max_batch=core.max_batch_size, decoupled=core.model_transaction_policy.decoupled
    )
    for problem in filling.with_itself(configs, wanted):
        yield error(f"{filling.CORE}/config.pbtxt", None, (problem.en, problem.zh), _MEND)
