"""What of the Monitor's newest sample should worry a person. Pure: a sample and thresholds in, words out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from app.monitor import GpuSample, HostSample, Monitor, ServerSample
from backends.spec import Frozen
from backends.text import Text

Kind = Literal[
    "server_down", "failures", "queue", "first_token", "queue_time", "ram", "gpu_memory", "gpu_temperature"
]  # fmt: skip
FEW = 20  # requests, below which a share of failures says nothing


class Thresholds(Frozen):
    """From which value on an alert is raised; None: never. A server that does not answer always raises one."""

    failed_percent: float | None = Field(default=5.0, ge=0, le=100)
    queued: float | None = Field(default=32, ge=1)
    first_token_ms: float | None = Field(default=5000, gt=0)  # 95 of 100 answers begin sooner
    queue_ms: float | None = Field(default=2000, gt=0)  # half of the requests wait less
    ram_percent: float | None = Field(default=95, gt=0, le=100)
    gpu_memory_percent: float | None = Field(default=97, gt=0, le=100)
    gpu_temperature_c: float | None = Field(default=87, gt=0)


class Alert(Frozen):
    """One thing that is wrong now. `subject` is a run's id, "host" or "gpu0"; `value` and `limit` share a unit."""

    kind: Kind
    subject: str
    text: Text
    value: float | None = None
    limit: float | None = None

    @property
    def hint(self) -> Text:
        """What to do about it."""
        return HINTS[self.kind]


HINTS: dict[Kind, Text] = {
    "server_down": Text(
        en="Open its log: the last lines tell why. If its process is gone, launch it again.",
        zh="查看其日志，最后几行会说明原因；进程已退出时请重新启动。",
    ),
    "failures": Text(
        en="Its log names each failed request. Full queues and too long prompts are the usual causes.",
        zh="日志记录了每个失败的请求，常见原因是队列已满或提示过长。",
    ),
    "queue": Text(
        en="Send fewer requests at once, or launch it with more requests at once or as a second server.",
        zh="减少同时发送的请求，或提高并发请求数后重新启动，也可再启动一个服务。",
    ),
    "first_token": Text(
        en="Shorter prompts and fewer requests at once begin sooner; a second server shares the load.",
        zh="缩短提示、减少并发可更快开始，也可再启动一个服务分担负载。",
    ),
    "queue_time": Text(
        en="More requests arrive than it answers. Raise requests at once if memory allows, or add a server.",
        zh="请求多于处理能力。内存允许时可提高并发请求数，或增加服务。",
    ),
    "ram": Text(
        en="Stop a server or another program before the system ends one by itself.",
        zh="请停止某个服务或其他程序，以免系统强制结束进程。",
    ),
    "gpu_memory": Text(
        en="A longer context may not fit any more. Lower context or requests at once, or free the GPU.",
        zh="更长的上下文可能放不下。请降低上下文或并发，或释放该 GPU。",
    ),
    "gpu_temperature": Text(
        en="It slows itself down when too warm. Look at fans and air; lower the load until it cools.",
        zh="过热时 GPU 会自动降频。请检查风扇与通风，并降低负载。",
    ),
}


def alerts(monitor: Monitor, thresholds: Thresholds) -> tuple[Alert, ...]:
    """What is beyond its threshold, servers first. What is not known raises nothing."""
    found = [one for server in (*monitor.servers, *monitor.others) for one in _of_server(server, thresholds)]
    found += _of_host(monitor.host, thresholds)
    for number, gpu in enumerate(monitor.gpus):
        found += _of_gpu(gpu, number if gpu.gpu.index is None else gpu.gpu.index, thresholds)
    return tuple(found)


def _of_server(server: ServerSample, thresholds: Thresholds) -> list[Alert]:
    name = server.name
    if not server.ready:
        return [Alert(kind="server_down", subject=server.run,
                      text=Text(en=f"{name} does not answer.", zh=f"{name} 没有响应。"))]  # fmt: skip
    found = []
    total = (server.requests or 0.0) + (server.failures or 0.0)
    failed = 100 * (server.failures or 0.0) / total if total >= FEW else None
    if _beyond(failed, thresholds.failed_percent):
        text = Text(en=f"{name}: {failed:.0f} % of its requests failed.", zh=f"{name}：{failed:.0f}% 的请求失败。")
        found.append(_alert("failures", server.run, text, failed, thresholds.failed_percent))
    if _beyond(server.queued, thresholds.queued):
        text = Text(en=f"{name}: {server.queued:.0f} requests wait.", zh=f"{name}：{server.queued:.0f} 个请求在排队。")
        found.append(_alert("queue", server.run, text, server.queued, thresholds.queued))
    first = server.first_token_ms_p95
    if _beyond(first, thresholds.first_token_ms):
        text = Text(
            en=f"{name}: an answer may take {first:.0f} ms to begin.", zh=f"{name}：首 token 可能需 {first:.0f} ms。"
        )
        found.append(_alert("first_token", server.run, text, first, thresholds.first_token_ms))
    waited = server.queue_ms_p50
    if _beyond(waited, thresholds.queue_ms):
        text = Text(en=f"{name}: half of the requests wait longer than {waited:.0f} ms.",
                    zh=f"{name}：半数请求排队超过 {waited:.0f} ms。")  # fmt: skip
        found.append(_alert("queue_time", server.run, text, waited, thresholds.queue_ms))
    return found


def _of_host(host: HostSample, thresholds: Thresholds) -> list[Alert]:
    used = _share(host.ram_used_mib, host.ram_total_mib)
    if not _beyond(used, thresholds.ram_percent):
        return []
    text = Text(en=f"{used:.0f} % of the memory is in use.", zh=f"内存已使用 {used:.0f}%。")
    return [_alert("ram", "host", text, used, thresholds.ram_percent)]


def _of_gpu(sample: GpuSample, number: int, thresholds: Thresholds) -> list[Alert]:
    gpu, found = sample.gpu, []
    free, total = gpu.memory_free_mib, gpu.memory_total_mib
    used = None if free is None or total is None else _share(float(total - free), float(total))
    if _beyond(used, thresholds.gpu_memory_percent):
        text = Text(
            en=f"GPU {number}: {used:.0f} % of its memory is in use.", zh=f"GPU {number}：显存已使用 {used:.0f}%。"
        )
        found.append(_alert("gpu_memory", f"gpu{number}", text, used, thresholds.gpu_memory_percent))
    warm = None if gpu.temperature_c is None else float(gpu.temperature_c)
    if _beyond(warm, thresholds.gpu_temperature_c):
        text = Text(en=f"GPU {number} has {warm:.0f} °C.", zh=f"GPU {number} 温度为 {warm:.0f} °C。")
        found.append(_alert("gpu_temperature", f"gpu{number}", text, warm, thresholds.gpu_temperature_c))
    return found


def _alert(kind: Kind, subject: str, text: Text, value: float | None, limit: float | None) -> Alert:
    return Alert(kind=kind, subject=subject, text=text, value=value, limit=limit)


def _beyond(value: float | None, limit: float | None) -> bool:
    return value is not None and limit is not None and value >= limit


def _share(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else 100 * part / whole
