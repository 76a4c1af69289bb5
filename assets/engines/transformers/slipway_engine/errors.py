"""What can be wrong with a request, in words that a program and a person can both read.

An error reaches the client as one line: `slipway ` and a JSON object with `field` (the input that is wrong, or
"server"), `en` and `zh` (what is wrong and what to do, in English and Chinese).
"""

from __future__ import annotations

import json
from typing import Literal

Code = Literal["invalid", "unavailable", "cancelled", "internal"]
PREFIX = "slipway "


class RequestError(Exception):
    """One request cannot be served. `code` says whose fault it is; neighbours are not concerned."""

    def __init__(self, field: str, en: str, zh: str, code: Code = "invalid") -> None:
        super().__init__(en)
        self.field, self.en, self.zh, self.code = field, en, zh, code

    def line(self) -> str:
        """The error as it goes to the client."""
        return PREFIX + json.dumps({"field": self.field, "en": self.en, "zh": self.zh}, ensure_ascii=False)


def queue_full(limit: int) -> RequestError:
    """The queue holds as many requests as it may."""
    return RequestError(
        "server",
        f"The queue is full ({limit} requests are waiting). Try again in a moment, or raise queue_limit.",
        f"排队已满（{limit} 个请求在等待）。请稍后重试，或调大 queue_limit。",
        "unavailable",
    )


def waited_too_long(seconds: float) -> RequestError:
    """The request was still queued when its time ran out."""
    return RequestError(
        "server",
        f"The request waited {seconds:.0f} s in the queue without a free place. Try again later.",
        f"请求排队 {seconds:.0f} 秒仍未轮到。请稍后重试。",
        "unavailable",
    )


def shutting_down() -> RequestError:
    """The model is being unloaded."""
    return RequestError(
        "server",
        "The server is shutting down. Ask again when it is back.",
        "服务器正在关闭，请待其恢复后重试。",
        "unavailable",
    )


def internal(reason: BaseException) -> RequestError:
    """Something in the engine failed for this request alone."""
    kind = type(reason).__name__
    return RequestError(
        "server",
        f"The engine failed on this request ({kind}: {reason}). Others go on; the server's log has the details.",
        f"引擎处理该请求时出错（{kind}：{reason}）。其他请求不受影响，详情见服务器日志。",
        "internal",
    )
