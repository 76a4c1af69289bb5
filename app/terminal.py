"""What the command line prints: values as lines for a person, or as JSON. Decides nothing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any
from unicodedata import east_asian_width

from pydantic import BaseModel

from app.control import Control
from backends.engines import Way
from backends.errors import SlipwayError
from backends.fitting import Suggestion
from backends.images import Recommendation
from backends.memory import Estimate
from backends.runs import Run
from backends.script import command
from backends.spec import Hardware, Model
from backends.steps import Plan, WriteFiles, expected
from backends.targets.base import Leftover
from backends.text import Language, Text
from backends.verdicts import LABELS

DEMO_STARTED = Text(en="The demo deployment is launching.", zh="演示部署正在启动。")
DEMO_THERE = Text(en="The demo deployment is there already.", zh="演示部署已存在。")
STARTED = Text(en="Started {run}. Follow it: slipway follow {run}", zh="已启动 {run}。查看进度：slipway follow {run}")
ALREADY = Text(en="{run} is open already: the same deployment.", zh="{run} 已在进行中，是同一个部署。")
NOTHING_OPEN = Text(en="Nothing runs.", zh="没有正在运行的部署。")
SERVING = Text(
    en="\n{run} serves on {http}. It answered:\n{answer}\n\nTalk to it: slipway chat {run} --message TEXT",
    zh="\n{run} 正在 {http} 提供服务，首个回答：\n{answer}\n\n开始对话：slipway chat {run} --message 文本",
)
_CHINESE: dict[str, str] = {  # the terms that stand in columns; in English they are shown as JSON has them
    "queued": "排队中", "running": "启动中", "serving": "运行中", "stopping": "停止中", "done": "已完成",
    "stopped": "已停止", "failed": "失败", "lost": "已丢失",
    "started": "开始", "progress": "进行中", "note": "说明", "ready": "就绪", "skipped": "已复用",
    "error": "错误", "warning": "警告",
    "fits": "放得下", "tight": "余量很小", "over": "放不下", "unknown": "无法判断",
    **{verdict.value: label.zh for verdict, label in LABELS.items()},
}  # fmt: skip


def term(word: str, language: Language, columns: int = 0) -> str:
    """A run's state, an event's kind, a verdict as a word, filled with blanks to so many columns of a terminal."""
    shown = _CHINESE[word] if language == "zh" else str(word)
    return shown.ljust(columns - sum(east_asian_width(sign) in "WF" for sign in shown))


def downloads(control: Control, plan: Plan, language: Language) -> str:
    """What a run of the plan will download and use, once."""
    left = expected(control.to_do(plan))
    download, disk = left.download_mib, left.disk_mib or 0
    if download is None:
        return Text(en="How much it downloads is not known.", zh="下载大小未知。").of(language)
    if not download:
        return Text(en="Nothing has to be downloaded.", zh="无需下载任何内容。").of(language)
    return Text(
        en=f"It downloads about {download:,} MiB and uses about {disk:,} MiB of disk, once.",
        zh=f"首次约下载 {download:,} MiB，占用磁盘约 {disk:,} MiB。",
    ).of(language)


def plan_lines(control: Control, plan: Plan, language: Language) -> str:
    lines = [f"{plan.spec.name} · {plan.spec.engine} · {plan.spec.target}", downloads(control, plan, language), ""]
    lines += [f"! {note.of(language)}" for note in plan.notes]
    for number, step in enumerate(plan.steps, 1):
        lines.append(f"{number:>2}. {step.title.of(language)}")
        argv = getattr(step, "argv", None)
        if argv:
            lines.append("      " + command(argv).replace("\n", "\n      "))
        if isinstance(step, WriteFiles):
            lines += [f"      {step.folder}/{file.path}" for file in step.files]
    return "\n".join(lines)


def hardware_lines(hardware: Hardware, language: Language) -> str:
    """The machine, a line a fact; what is not known says why."""

    def walk(value: Any, path: str) -> list[str]:
        if isinstance(value, dict):
            return [line for key, part in value.items() for line in walk(part, f"{path}.{key}" if path else key)]
        if isinstance(value, list):
            return [line for key, part in enumerate(value) for line in walk(part, f"{path}.{key}")]
        why = hardware.unknown.get(path)
        shown = "–" if value is None else str(value)
        return [f"{path:<28} {shown}" + (f"  ({why.of(language)})" if why else "")]

    facts = hardware.model_dump(mode="json", exclude={"unknown"}, exclude_none=False)
    docker = facts.pop("docker", None) or {}
    why = hardware.docker.why if hardware.docker else None
    docker.pop("why", None)
    lines = walk(facts, "") + walk({"docker": docker}, "")
    named = {line.split(" ", 1)[0] for line in lines}
    lines += [f"{path:<28} – ({why_.of(language)})" for path, why_ in hardware.unknown.items() if path not in named]
    if why is not None:
        lines.append(f"{'docker.why':<28} {why.of(language)}")
    return "\n".join(lines)


def recommendation_lines(told: dict[str, Any], found: Recommendation, language: Language) -> str:
    """One suggestion an engine with its reason, then how many tags of each image have which verdict."""
    lines = [note.of(language) for note in found.notes]
    for name, engine in told["engines"].items():
        lines += ["", f"{name:<16} {engine['recommended'] or '–'}", f"  {engine['reason']}"]
        lines += [f"  - {reason}" for reason in engine["why_not"]]
        lines += [f"  ! {note.of(language)}" for note in found.engines[name].notes]
    lines.append("")
    for variant, many in told["variants"].items():
        counts = {verdict.value: count for verdict, count in found.counts(variant).items() if count}
        spans = ", ".join(f"{term(verdict, language)} {count}" for verdict, count in counts.items())
        lines.append(f"{variant:<20} {many[0]['tag']} … {many[-1]['tag']}: {spans}")
    return "\n".join(lines).lstrip("\n")


def model_lines(
    model: Model, forecast: Estimate, ways: Sequence[Way], changes: Sequence[Suggestion], language: Language
) -> str:
    """A model's facts, a line each; what it takes; every way to serve it."""
    facts = model.model_dump(mode="json", exclude={"source", "notes", "weight_files"}, exclude_none=True)
    lines = [f"{name:<20} {value}" for name, value in facts.items() if value not in ({}, [])]
    lines += [f"! {note.of(language)}" for note in model.notes]
    lines += ["", f"{term(forecast.verdict, language)}  ~{forecast.needed_mib:,} MiB"]
    lines += [f"  {one.text.of(language)}" for one in changes]
    for way in ways:
        mark = "+" if not way.reasons else "-"
        lines += ["", f"{mark} {way.title.of(language)}: {way.gain.of(language)}"]
        lines += [f"    {reason.of(language)}" for reason in way.reasons]
    return "\n".join(lines)


def leftover_lines(left: tuple[Leftover, ...], freed: int | None, language: Language) -> str:
    """What Slipway left in Docker, a line each, and what removing it frees or freed."""
    if not left:
        return Text(en="Slipway has left nothing in Docker.", zh="Docker 中没有 Slipway 留下的内容。").of(language)
    kinds = {"image": Text(en="image", zh="镜像"), "container": Text(en="container", zh="容器")}
    lines = [f"{one.bytes / 2**20:>10,.0f} MiB  {kinds[one.kind].of(language)}  {one.name}" for one in left]
    total = sum(one.bytes for one in left) / 2**30
    if freed is None:
        last = Text(
            en=f"Removing all of it frees {total:.1f} GiB: slipway clean --yes",
            zh=f"全部删除可释放 {total:.1f} GiB：slipway clean --yes",
        )
    else:
        last = Text(en=f"{freed / 2**30:.1f} GiB freed.", zh=f"已释放 {freed / 2**30:.1f} GiB。")
    return "\n".join([*lines, last.of(language)])


def run_json(run: Run) -> dict[str, Any]:
    told = run.model_dump(mode="json", exclude={"spec", "plan"})
    return told | {"engine": run.spec.engine, "model": run.spec.model.id}


def error_json(error: SlipwayError, language: Language) -> dict[str, Any]:
    told: dict[str, Any] = {
        "error": type(error).__name__,
        "message": error.message.of(language),
        "hint": error.hint.of(language) if error.hint else None,
        "field": error.field,
    }
    reasons = getattr(error, "reasons", ())
    if reasons:
        told["reasons"] = [reason.of(language) for reason in reasons]
    return told


def print_json(value: object) -> None:
    if isinstance(value, BaseModel):
        print(value.model_dump_json(), flush=True)
    else:
        print(json.dumps(value, ensure_ascii=False, default=str), flush=True)
