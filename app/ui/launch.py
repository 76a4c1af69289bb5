"""A run as HTML: its head, its stages, and how it came out. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from app.ui import units
from app.ui.render import page
from backends.runs import Run, Standing, State, StepView
from backends.steps import Plan
from backends.text import Language, Text, same

_BAD = re.compile(r"\b\w*(Error|Exception)\b:|\bout of memory\b|\bfailed to\b|\bfatal\b", re.IGNORECASE)
_LESS_BAD = re.compile(r"\berror\b|\bfailed\b|^[EF]\d{4} ", re.IGNORECASE)
_ENDED = (Standing.DONE, Standing.SKIPPED)


class Line(NamedTuple):
    """One of the last lines; `bad` is the first that tells of an error."""

    text: str
    bad: bool


def skeleton(language: Language) -> str:
    """The stage with empty slots; the live stream fills them."""
    return page("launch", language)


def slots(run: Run, steps: Sequence[StepView], shown: str | None, language: Language) -> dict[str, str]:
    """The HTML of each slot of the Launch stage. `shown` is the step whose log is shown."""
    return {
        "launch-head": head(run, steps, language),
        "launch-steps": page("launch_steps", language, steps=steps, shown=shown),
        "launch-result": result(run, steps, shown, language),
    }


def head(run: Run, steps: Sequence[StepView], language: Language) -> str:
    """Name, step n of m, time, and the buttons."""
    launching = run.state in (State.QUEUED, State.RUNNING)
    failed = run.state in (State.FAILED, State.LOST)
    return page(
        "launch_head",
        language,
        run=run,
        title=title(run).of(language),
        subtitle=subtitle(run, steps, language),
        since=run.created_at if launching and run.attempt == 1 else None,
        launching=launching,
        failed=failed,
        can_stop=run.state.is_open() and run.state is not State.STOPPING,
        percent=percent(steps),
    )


def title(run: Run) -> Text:
    """What the run is doing, as a headline."""
    name = run.name
    return {
        State.QUEUED: Text(en=f"Launching {name}", zh=f"正在启动 {name}"),
        State.RUNNING: Text(en=f"Launching {name}", zh=f"正在启动 {name}"),
        State.SERVING: Text(en=f"{name} is running", zh=f"{name} 已运行"),
        State.STOPPING: Text(en=f"Stopping {name}", zh=f"正在停止 {name}"),
        State.DONE: Text(en=f"{name} is done", zh=f"{name} 已完成"),
        State.STOPPED: Text(en=f"{name} is stopped", zh=f"{name} 已停止"),
        State.FAILED: Text(en=f"Launch of {name} stopped", zh=f"{name} 启动中断"),
        State.LOST: Text(en=f"{name} was lost", zh=f"{name} 已丢失"),
    }[run.state]


def subtitle(run: Run, steps: Sequence[StepView], language: Language) -> str:
    """Step n of m, or how long it took."""
    if run.state is State.SERVING and run.attempt > 1:
        return Text(en=f"Launched at attempt {run.attempt}.", zh=f"第 {run.attempt} 次尝试启动成功。").of(language)
    if run.state is State.SERVING and run.ready_at is not None:
        took = units.duration((run.ready_at - run.created_at).total_seconds(), language)
        return Text(en=f"Launched in {took}.", zh=f"启动用时 {took}。").of(language)
    done = sum(1 for step in steps if step.standing in _ENDED)
    at = min(done + 1, len(steps))
    words = Text(en=f"Step {at} of {len(steps)}", zh=f"第 {at} 步，共 {len(steps)} 步").of(language)
    if run.attempt > 1:
        words += Text(en=f" · attempt {run.attempt}", zh=f" · 第 {run.attempt} 次尝试").of(language)
    if run.finished_at is not None:
        took = units.duration((run.finished_at - run.created_at).total_seconds(), language)
        words += Text(en=f" · ended after {took}", zh=f" · {took}后结束").of(language)
    return words


def percent(steps: Sequence[StepView]) -> int:
    """How far the run is, by steps; the present step counts with its fraction."""
    if not steps:
        return 0
    done = sum(1.0 for step in steps if step.standing in _ENDED)
    done += sum(step.fraction or 0.0 for step in steps if step.standing is Standing.NOW)
    return round(100 * done / len(steps))


def shown_step(plan: Plan, steps: Sequence[StepView]) -> str | None:
    """The step whose log tells most now: in progress, else gone wrong, else the last with a log.

    While a question is asked, and once it is answered, that is the log of the server.
    """
    questions = {step.id for step in plan.steps if step.kind == "ask"}
    steps = [step for step in steps if step.id not in questions or step.standing not in (Standing.NOW, Standing.DONE)]
    for wanted in (Standing.NOW, Standing.FAILED, Standing.LOST, Standing.STOPPED):
        for step in steps:
            if step.standing is wanted:
                return step.id
    told = [step.id for step in steps if step.standing is Standing.DONE]
    return told[-1] if told else (steps[0].id if steps else None)


def result(run: Run, steps: Sequence[StepView], shown: str | None, language: Language) -> str:
    """First answer and endpoints, or the error card, or nothing while it goes on."""
    lines = last_lines(run)
    return page(
        "launch_result",
        language,
        run=run,
        shown=shown,
        failed_step=_failed_step(run, steps, language),
        endpoints=endpoints(run, language),
        measured=measured(run),
        memory=memory(run),
        last_lines=lines,
        report=report(run),
    )


def endpoints(run: Run, language: Language) -> list[tuple[str, str]]:
    """Where the server listens."""
    at = run.endpoint
    if at is None:
        return []
    metrics = Text(en="Metrics", zh="指标").of(language)
    return [
        ("HTTP", f"{at.http}/v2/models/{at.model}"),
        ("gRPC", at.grpc),
        (metrics, f"http://{at.host}:{at.metrics_port}/metrics"),
    ]


def measured(run: Run) -> str:
    """What was measured with the first answer."""
    first = run.measured.get("first_token_s")
    return "" if first is None else f"TTFT {units.milliseconds(first)}"


class Memory(NamedTuple):
    """Forecast and measured use side by side; “–” for what is not known. `off` is the forecast against the measured."""

    forecast: str
    measured: str
    off: str


def memory(run: Run) -> Memory | None:
    """What the server was expected to take and what it took; None where neither is known."""
    expected, took = run.plan.memory_mib, run.measured.get("memory_mib")
    if expected is None and took is None:
        return None
    off = units.NOTHING if not expected or not took else f"{100 * (expected - took) / took:+.0f}".replace("-", "−")
    return Memory(units.gib(expected), units.gib(took), off)


def last_lines(run: Run, most: int = 6) -> list[Line]:
    """The last lines of the step that failed, from the first that tells of an error on."""
    if run.trouble is None:
        return []
    lines = list(run.trouble.last_lines)
    for sign in (_BAD, _LESS_BAD):
        first = next((index for index, line in enumerate(lines) if sign.search(line)), None)
        if first is not None:
            return [Line(line, index == 0) for index, line in enumerate(lines[first : first + most])]
    return [Line(line, False) for line in lines[-most:]]


def report(run: Run) -> str:
    """What “Copy report” copies: plain English text without secrets, for an issue or a colleague."""
    trouble = run.trouble
    if trouble is None:
        return ""
    told = [
        f"Slipway run {run.id}, state {run.state.value}, attempt {run.attempt}",
        f"What happened: {trouble.message.en}",
        f"What to do: {trouble.hint.en}" if trouble.hint else "",
        f"Step: {trouble.step}" if trouble.step else "",
        f"Exit code: {trouble.exit_status}" if trouble.exit_status is not None else "",
        "Last lines:",
        *(f"  {line}" for line in trouble.last_lines),
        "Spec:",
        run.spec.model_dump_json(exclude_defaults=True),
    ]
    return "\n".join(line for line in told if line)


def _failed_step(run: Run, steps: Sequence[StepView], language: Language) -> str:
    if run.trouble is None or run.trouble.step is None:
        return ""
    titles = {step.id: step.title for step in steps}
    return titles.get(run.trouble.step, same(run.trouble.step)).of(language)
