"""The running servers as the header, the chat's list and the Monitor show them. Pure, but for the one look."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from app.alerts import Alert
from app.control import Control
from app.monitor import Monitor, Series, ServerSample
from app.ui import units
from app.ui.render import page
from app.ui.words import ENGINES, STATES
from backends.runs import Run, State
from backends.text import Language, Text, same
from backends.watched import Watched as Address

Point = tuple[float, float | None]
SILENT = Text(en="Not answering", zh="没有响应")
OWN_ONLY = ("tokens_per_s", "first_token_ms_p50")  # what only an engine with figures of its own tells
TRITON_ONLY = ("compute_ms",)  # the embedded engine answers behind Triton's back: its counter stays at zero
UNTOLD = Text(en="not told", zh="不提供")
_NO_OTHER = Text(en="nothing", zh="不对比")


class Card(NamedTuple):
    """One server's card. `figures` are (name, value, unit); `run` is None for one that Slipway did not start."""

    id: str
    name: str
    run: Run | None
    word: Text
    shape: str
    about: Sequence[str]
    figures: Sequence[tuple[str, str, str]]


class Watched(NamedTuple):
    """One sample, the runs and addresses that it is about, and what of it should worry a person."""

    monitor: Monitor
    runs: tuple[Run, ...]
    others: tuple[Address, ...] = ()
    alerts: tuple[Alert, ...] = ()


def look(control: Control) -> Watched:
    """The newest sample with all that belongs to it."""
    return Watched(control.monitor(), control.open_runs(), control.watched(), control.alerts())


class MonitorLook:
    """Looks at what the one sampler has found; new with each sample."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._seq = -1

    def __call__(self) -> Watched | None:
        if self._control.monitor().seq == self._seq:
            return None
        now = look(self._control)
        self._seq = now.monitor.seq
        return now


def panel_slots(
    serving: Sequence[Run], launching: int, others: Sequence[Address], language: Language
) -> dict[str, str]:
    """The slots that follow which servers run."""
    return {
        "panel": page("panel", language, running=len(serving), launching=launching),
        "chat-servers": page("chat_servers", language, servers=serving, watched=others, blank=""),
        "chat-others": page("chat_servers", language, servers=serving, watched=others, blank=_NO_OTHER.of(language)),
    }


def chat(serving: Sequence[Run], others: Sequence[Address], language: Language) -> str:
    """The Chat page. `others`: servers that are watched by address."""
    return page("chat", language, servers=serving, watched=others)


def monitor(watched: Watched, language: Language) -> str:
    """The Monitor page; the live stream draws its plots."""
    made = {name.replace("-", "_"): Markup(html) for name, html in slots(watched, language).items()}  # noqa: S704
    return page("monitor", language, **made)


def slots(watched: Watched, language: Language) -> dict[str, str]:
    """The parts of the Monitor that follow each sample, made by `page`."""
    number = len(watched.alerts)
    count = Text(en=f"{number} alerts" if number != 1 else "1 alert", zh=f"{number} 条告警").of(language)
    return {
        "alert-count": count if number else "",
        "alerts": page("alerts", language, alerts=watched.alerts),
        "servers": page("servers", language, cards=cards(watched, language)),
    }


def cards(watched: Watched, language: Language) -> list[Card]:
    """A card for each open run and each server that is watched: what the newest sample says of it."""
    samples = {sample.run: sample for sample in (*watched.monitor.servers, *watched.monitor.others)}
    own = [_card(run, samples.get(run.id), language) for run in watched.runs]
    return own + [_other(one, samples.get(one.id), language) for one in watched.others]


def _other(one: Address, sample: ServerSample | None, language: Language) -> Card:
    about = [
        Text(en="Triton, by address", zh="按地址监控的 Triton").of(language),
        f"{one.server.host}:{one.server.http_port}",
    ]
    if sample is None:
        return Card(one.id, one.server.name, None, Text(en="Waiting", zh="等待中"), "starting", about, ())
    if not sample.ready:
        return Card(one.id, one.server.name, None, SILENT, "degraded", about, figures(sample, language))
    word = STATES[State.SERVING]
    return Card(one.id, one.server.name, None, word.word, word.shape, about, figures(sample, language))


def _card(run: Run, sample: ServerSample | None, language: Language) -> Card:
    shown = STATES[run.state]
    word, shape = shown.word, shown.shape
    if run.state is State.SERVING and sample is not None and not sample.ready:
        word, shape = SILENT, "degraded"
    about = [ENGINES.get(run.spec.engine, same(run.spec.engine)).of(language)]
    if sample is None or run.state is not State.SERVING:
        return Card(run.id, run.name, run, word, shape, about, ())
    if sample.active is not None:
        about.append(Text(en=f"{sample.active:.0f} active", zh=f"{sample.active:.0f} 个进行中").of(language))
    if sample.queued is not None:
        about.append(Text(en=f"{sample.queued:.0f} queued", zh=f"{sample.queued:.0f} 个排队").of(language))
    if sample.memory_mib is not None:
        about.append(units.gib(sample.memory_mib))
    return Card(run.id, run.name, run, word, shape, about, figures(sample, language))


def figures(sample: ServerSample, language: Language) -> list[tuple[str, str, str]]:
    """The six figures of a running server. “–”: not known, or no request in the last seconds; what a server can never
    tell is said to be so."""
    never = "" if sample.tokens is not None or not sample.ready else UNTOLD.of(language)
    told: list[tuple[Text, str, str]] = [
        (Text(en="Speed", zh="速度"), _number(sample.tokens_per_s), never or "tok/s"),
        (same("TTFT p50"), *_time(sample.first_token_ms_p50, never)),
        (Text(en="Requests", zh="请求"), units.grouped(sample.requests), ""),
        (Text(en="Queue", zh="排队"), *_time(sample.queue_ms, "")),
        (Text(en="Per token p50", zh="每 token p50"), *_time(sample.token_gap_ms_p50, never)),
        (Text(en="Failures", zh="失败"), units.grouped(sample.failures), ""),
    ]
    return [(name.of(language), value, unit) for name, value, unit in told]


def message(watched: Watched, language: Language, whole: bool) -> dict[str, Any]:
    """What the Monitor is sent each second: the cards, and the newest point of each series (`whole`: all of them)."""
    now = watched.monitor
    memories = [one.gpu.memory_total_mib for one in now.gpus if one.gpu.memory_total_mib]
    ram = now.host.ram_total_mib or 0
    servers = (*now.servers, *now.others)
    gpus = [(str(index), f"GPU {index}", one.history) for index, one in enumerate(now.gpus)]
    plots = {
        "gpu": {"unit": "%", "top": 100, "series": [
            _series(key, name, past.get("utilisation_percent", ()), whole) for key, name, past in gpus]},
        "memory": {"unit": "GiB", "capacity": round(max(memories) / 1024, 1) if memories else None, "series": [
            _series(key, name, past.get("memory_used_mib", ()), whole, 1 / 1024) for key, name, past in gpus]},
        "speed": {"unit": "tok/s", "series": [_of_server(one, "tokens_per_s", whole) for one in servers]},
        "requests": {"unit": "/s", "series": [_of_server(one, "requests_per_s", whole) for one in servers]},
        "queue": {"unit": "ms", "series": [_of_server(one, "queue_ms", whole) for one in servers]},
        "compute": {"unit": "ms", "series": [_of_server(one, "compute_ms", whole) for one in servers]},
        "batch": {"unit": "", "series": [_of_server(one, "batch_size", whole) for one in servers]},
        "first": {"unit": "ms", "series": [_of_server(one, "first_token_ms_p50", whole) for one in servers]},
        "host": {"unit": "%", "top": 100, "series": [
            _series("cpu", "CPU", now.host.history.get("cpu_percent", ()), whole),
            _series("ram", Text(en="Memory", zh="内存").of(language), now.host.history.get("ram_used_mib", ()), whole,
                    100 / ram if ram else 0.0)]},
    }  # fmt: skip
    return {
        "now": now.at,
        "whole": whole,
        "gpus": len(now.gpus),
        "slots": slots(watched, language),
        "plots": plots,
    }


def _of_server(one: ServerSample, name: str, whole: bool) -> dict[str, Any]:
    told = _series(one.run, one.name, one.history.get(name, ()), whole)
    return told | {"untold": one.ready and name in (OWN_ONLY if one.tokens is None else TRITON_ONLY)}


def _series(key: str, name: str, points: Series, whole: bool, scale: float = 1.0) -> dict[str, Any]:
    chosen = points if whole else points[-1:]
    told = [(round(at, 1), None if value is None else round(value * scale, 2)) for at, value in chosen]
    return {"key": key, "name": name, "points": told}


def _number(value: float | None) -> str:
    return units.NOTHING if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _time(value_ms: float | None, never: str) -> tuple[str, str]:
    if value_ms is None:
        return units.NOTHING, never
    value, unit = units.milliseconds(value_ms / 1000).split(" ")
    if value == "0":
        value = f"{value_ms:.1f}"
    return value, unit
