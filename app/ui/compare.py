"""Two deployments side by side, and what memory one was forecast and measured to take. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import ndiff
from typing import NamedTuple

from app.ui import units
from app.ui.words import ENGINES, STATES
from backends.deployment_files import Compared, Group, Value
from backends.runs import Run
from backends.text import Language, Text, same

PLAN_ROWS = 80  # more differences of two plans than that are read in the exported files

SECTIONS: dict[Group, Text] = {
    "spec": Text(en="Settings", zh="设置"),
    "took": Text(en="Time", zh="用时"),
    "forecast": Text(en="Forecast", zh="预测"),
    "measured": Text(en="Measured", zh="实测"),
    "plan": Text(en="Plan, where it differs", zh="方案的不同之处"),
}
LABELS: dict[str, Text] = {
    "name": Text(en="Name", zh="名称"),
    "model.kind": Text(en="Source of the model", zh="模型来源"),
    "model.id": Text(en="Model", zh="模型"),
    "model.revision": Text(en="Revision", zh="修订版本"),
    "engine": Text(en="Engine", zh="引擎"),
    "target": Text(en="Where it runs", zh="运行位置"),
    "image": Text(en="Image", zh="镜像"),
    "precision": Text(en="Precision", zh="精度"),
    "limits.concurrent": Text(en="Requests at once", zh="并发请求数"),
    "limits.context": Text(en="Context, tokens", zh="上下文 token"),
    "limits.new_tokens": Text(en="Output tokens, at most", zh="最大输出 token"),
    "limits.queue": Text(en="Queue, requests", zh="队列长度"),
    "limits.queue_timeout_s": Text(en="Wait in the queue, s", zh="排队时限（秒）"),
    "restart": Text(en="Restart by itself", zh="自动重启"),
    "ready_s": Text(en="Launch took", zh="启动用时"),
    "first_token_s": Text(en="First token of the first answer", zh="首个回答的首 token"),
    "load_s": Text(en="Loading the model", zh="加载模型"),
    "seconds_s": Text(en="Launch", zh="启动"),
    "download_mib": Text(en="Download", zh="下载"),
    "disk_mib": Text(en="Disk", zh="磁盘"),
    "memory_mib": Text(en="Memory", zh="内存与显存"),
    "weights_mib": Text(en="Weights", zh="权重"),
    "cache_mib": Text(en="KV cache", zh="KV 缓存"),
    "peak_mib": Text(en="Peak", zh="峰值"),
    "restarts": Text(en="Restarts", zh="重启次数"),
}


class Row(NamedTuple):
    """One line. `label` is a name in words, else `field` is shown as it is written in the file."""

    label: str
    field: str
    one: str
    other: str
    differs: bool


class Section(NamedTuple):
    """A group of lines. `left_out` counts differences that are not shown."""

    title: str
    rows: Sequence[Row]
    left_out: int = 0
    code: bool = False


def sections(one: Run, other: Run, pairs: Sequence[Compared], language: Language) -> list[Section]:
    """Status and time first, then settings, memory, plan. What is empty on both sides is left out."""
    state, there = (STATES[run.state].word.of(language) for run in (one, other))
    word = Text(en="Status", zh="状态").of(language)
    found = [Section(Text(en="Result", zh="结果").of(language), [Row(word, "state", state, there, state != there)])]
    steps = {step.id: step.title for run in (other, one) for step in run.plan.steps}
    for group in ("took", "forecast", "measured", "spec", "plan"):
        chosen = [pair for pair in pairs if pair.group == group and _is_worth_a_row(pair)]
        rows = [_row(pair, steps, language) for pair in chosen[: PLAN_ROWS if group == "plan" else None]]
        if rows:
            title = SECTIONS[chosen[0].group].of(language)
            found.append(Section(title, rows, len(chosen) - len(rows), group == "plan"))
    return found


def memory_words(run: Run, language: Language) -> str:
    """“1.2 GiB forecast, 1.1 GiB measured”; empty where neither is known."""
    forecast, measured = run.plan.memory_mib, run.measured.get("memory_mib") or run.measured.get("peak_mib")
    parts = []
    if forecast is not None:
        parts.append(Text(en=f"{units.gib(forecast)} forecast", zh=f"预测 {units.gib(forecast)}").of(language))
    if measured is not None:
        parts.append(Text(en=f"{units.gib(measured)} measured", zh=f"实测 {units.gib(measured)}").of(language))
    return Text(en=", ", zh="，").of(language).join(parts)


def _is_worth_a_row(pair: Compared) -> bool:
    if pair.one is None and pair.other is None:
        return False
    return pair.differs or (pair.group != "plan" and (pair.group != "spec" or pair.field in LABELS))


def _row(pair: Compared, steps: dict[str, Text], language: Language) -> Row:
    label = LABELS.get(pair.field)
    if label is None and pair.group == "took":
        label = steps.get(pair.field.removesuffix("_s"))
    one, other = (_shown(pair, value, language) for value in (pair.one, pair.other))
    if pair.differs and "\n" in one and "\n" in other:
        one, other = _lines_apart(one, other)
    return Row("" if label is None else label.of(language), pair.field, one, other, pair.differs)


def _lines_apart(one: str, other: str) -> tuple[str, str]:
    """Of two files the lines that only one of them has."""
    told = [line for line in ndiff(one.splitlines(), other.splitlines()) if line[0] in "-+"]
    mine, theirs = ("\n".join(line[2:] for line in told if line[0] == sign) for sign in "-+")
    return mine or units.NOTHING, theirs or units.NOTHING


def _shown(pair: Compared, value: Value, language: Language) -> str:
    if value is None:
        return units.NOTHING
    if isinstance(value, bool):
        return (Text(en="yes", zh="是") if value else Text(en="no", zh="否")).of(language)
    if pair.field == "engine" and pair.group == "spec":
        return ENGINES.get(str(value), same(str(value))).of(language)
    if isinstance(value, int | float) and pair.group != "plan":
        if pair.field == "first_token_s":
            return units.milliseconds(value)
        if pair.field.endswith("_s") and pair.group != "spec":
            return units.duration(value, language)
        if pair.field.endswith("_mib"):
            return units.gib(value)
        return units.grouped(value) if float(value).is_integer() else f"{value:g}"
    return str(value)
