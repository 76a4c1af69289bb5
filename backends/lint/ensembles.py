"""Checks of ensembles: that every tensor comes from somewhere, goes somewhere, and fits. Pure.

The rules are Triton's own (core, src/ensemble_utils.cc): names, data types, dims with -1 as a wildcard, batch sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backends import pbtxt
from backends.lint.finding import Finding, error, warning
from backends.lint.reading import ModelFolder, Repository


@dataclass(frozen=True)
class _End:
    """One end of a connection: whose tensor it is, its type and its dims with the batch in front where there is one."""

    whose: str
    data_type: int
    dims: tuple[int, ...]

    def __str__(self) -> str:
        name = pbtxt.DATA_TYPES.get(self.data_type, "?").removeprefix("TYPE_")
        return f"{self.whose}: {name} {list(self.dims)}"


def check(repository: Repository) -> Iterator[Finding]:
    """Findings of every ensemble."""
    for model in repository.models.values():
        config = model.config
        if config is None:
            continue
        if config.platform == "ensemble" or config.backend == "ensemble":
            yield from _ensemble(repository, model, config)
        elif config.HasField("ensemble_scheduling"):
            yield error(
                model.file,
                "platform",
                ("It has steps, but its platform is not “ensemble”.", "含有步骤，但 platform 不是“ensemble”。"),
                ('Set platform: "ensemble".', '设置 platform: "ensemble"。'),
            )


def _ensemble(repository: Repository, model: ModelFolder, config: pbtxt.ModelConfig) -> Iterator[Finding]:
    if not config.ensemble_scheduling.step:
        yield error(
            model.file,
            "ensemble_scheduling.step",
            ("The ensemble has no steps.", "ensemble 没有步骤。"),
            ("Add a step for each model in it.", "为其中每个模型添加一个步骤。"),
        )
        return
    made: dict[str, _End] = {tensor.name: _end(model.name, tensor, config.max_batch_size) for tensor in config.input}
    used: list[tuple[str, str, _End]] = []  # (ensemble tensor, field, who takes it)
    taken: set[str] = set()
    for number, step in enumerate(config.ensemble_scheduling.step):
        field = f"ensemble_scheduling.step[{number}]"
        other = repository.models.get(step.model_name)
        if other is None:
            yield error(
                model.file,
                f"{field}.model_name",
                (f"There is no model “{step.model_name}” in the repository.", f"仓库中没有模型“{step.model_name}”。"),
                (f"There are: {', '.join(repository.models)}.", f"现有：{'、'.join(repository.models)}。"),
            )
            taken |= set(step.input_map.values())
            for value in step.output_map.values():
                made.setdefault(value, _End("?", 0, ()))
            continue
        if other.config is None:
            made |= {value: _End("?", 0, ()) for value in step.output_map.values() if value not in made}
            taken |= set(step.input_map.values())
            continue
        yield from _step(model, field, step, other, made, used)
        yield from _batch(model, config, other)
        taken |= set(step.input_map.values())
    yield from _connections(model, made, used)
    yield from _edges(model, config, made, taken)


def _step(
    model: ModelFolder,
    field: str,
    step: Any,
    other: ModelFolder,
    made: dict[str, _End],
    used: list[tuple[str, str, _End]],
) -> Iterator[Finding]:
    config = other.config
    if config is None:
        return
    inputs = {tensor.name: tensor for tensor in config.input}
    outputs = {tensor.name: tensor for tensor in config.output}
    for key, value in sorted(step.input_map.items()):
        if key not in inputs:
            yield _unknown(model, f"{field}.input_map", key, other.name, "input", "输入", inputs)
        else:
            used.append((value, f"{field}.input_map.{key}", _end(other.name, inputs[key], config.max_batch_size)))
    for key, value in sorted(step.output_map.items()):
        if key not in outputs:
            yield _unknown(model, f"{field}.output_map", key, other.name, "output", "输出", outputs)
            made.setdefault(value, _End("?", 0, ()))
        elif value in made:
            yield error(
                model.file,
                f"{field}.output_map.{key}",
                (f"“{value}” is written twice.", f"“{value}”被写入两次。"),
                ("Give each value a name of its own.", "为每个值使用不同的名称。"),
            )
        else:
            made[value] = _end(other.name, outputs[key], config.max_batch_size)
    for name, tensor in inputs.items():
        if name not in step.input_map and not tensor.optional:
            yield error(
                model.file,
                f"{field}.input_map",
                (
                    f"“{name}” of {other.name} is required and not mapped.",
                    f"{other.name} 的“{name}”为必需输入，但没有映射。",
                ),
                (f"Map it, or mark it as optional in {other.file}.", f"添加映射，或在 {other.file} 中标为 optional。"),
            )


def _unknown(
    model: ModelFolder, field: str, key: str, other: str, side: str, side_zh: str, there: dict[str, Any]
) -> Finding:
    return error(
        model.file,
        field,
        (f"{other} has no {side} “{key}”.", f"{other} 没有{side_zh}“{key}”。"),
        (f"It has: {', '.join(there) or 'none'}.", f"现有：{'、'.join(there) or '无'}。"),
    )


def _batch(model: ModelFolder, config: pbtxt.ModelConfig, other: ModelFolder) -> Iterator[Finding]:
    most = other.config.max_batch_size if other.config is not None else 0
    if config.max_batch_size > 0 and 0 < most < config.max_batch_size:
        yield error(
            model.file,
            "max_batch_size",
            (
                f"The ensemble takes batches of {config.max_batch_size}, {other.name} of {most} at most.",
                f"ensemble 的批大小上限为 {config.max_batch_size}，而 {other.name} 最多为 {most}。",
            ),
            (f"Set it to {most}, or raise that of {other.name}.", f"改为 {most}，或提高 {other.name} 的上限。"),
        )


def _connections(model: ModelFolder, made: dict[str, _End], used: Sequence[tuple[str, str, _End]]) -> Iterator[Finding]:
    for value, field, sink in used:
        source = made.get(value)
        if source is None:
            yield error(
                model.file,
                field,
                (f"Nothing makes “{value}”.", f"没有步骤产生“{value}”。"),
                (
                    "Name an input of the ensemble, or a value of some output_map.",
                    "请填写 ensemble 的输入，或某个 output_map 的值。",
                ),
            )
        elif source.whose != "?" and source.data_type != sink.data_type:
            yield error(
                model.file,
                field,
                (
                    f"“{value}” changes its type on the way: {source}, {sink}.",
                    f"“{value}”前后类型不一致：{source}，{sink}。",
                ),
                ("Make both data types alike.", "将两端的数据类型改为一致。"),
            )
        elif source.whose != "?" and not _fits(source.dims, sink.dims):
            yield error(
                model.file,
                field,
                (f"“{value}” does not fit: {source}, {sink}.", f"“{value}”维度不匹配：{source}，{sink}。"),
                ("Make both dims alike; -1 fits every size.", "将两端的 dims 改为一致；-1 可匹配任意大小。"),
            )


def _edges(model: ModelFolder, config: pbtxt.ModelConfig, made: dict[str, _End], taken: set[str]) -> Iterator[Finding]:
    for tensor in config.output:
        source = made.get(tensor.name)
        end = _end(model.name, tensor, config.max_batch_size)
        if source is None:
            yield error(
                model.file,
                f"output.{tensor.name}",
                (f"Nothing makes the output “{tensor.name}”.", f"没有步骤产生输出“{tensor.name}”。"),
                ("Map some step's output to it, or remove it.", "将某个步骤的输出映射到它，或删除它。"),
            )
        elif source.whose != "?" and (source.data_type != end.data_type or not _fits(source.dims, end.dims)):
            yield error(
                model.file,
                f"output.{tensor.name}",
                (f"It is not what its step makes: {source}, {end}.", f"与产生它的步骤不一致：{source}，{end}。"),
                ("Make data type and dims those of the step.", "将数据类型与 dims 改为与该步骤一致。"),
            )
    for tensor in config.input:
        if tensor.name not in taken:
            yield warning(
                model.file,
                f"input.{tensor.name}",
                (f"No step takes the input “{tensor.name}”.", f"没有步骤使用输入“{tensor.name}”。"),
                ("Map it, or remove it.", "添加映射，或删除它。"),
            )


def _end(whose: str, tensor: Any, batch: int) -> _End:
    dims = tuple(tensor.dims)
    return _End(whose, tensor.data_type, (-1, *dims) if batch > 0 else dims)


def _fits(one: Sequence[int], other: Sequence[int]) -> bool:
    if len(one) != len(other):
        return False
    return all(left == right or -1 in (left, right) for left, right in zip(one, other, strict=True))
