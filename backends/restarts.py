"""Whether a server that ended by itself is started again, and when. Pure.

The wait doubles from one second to a minute while the server keeps ending; after ten minutes of good service it begins
anew. Three ends of the same cause in a row are a loop: what ended it three times will end it a fourth time, and a
person should hear the cause instead of a server that comes and goes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from backends.errors import StepFailed
from backends.spec import Frozen
from backends.text import Text

FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
STEADY_S = 600.0  # of service, after which earlier ends no longer count
SAME = 3
_CHANGING = re.compile(r"0x[0-9a-fA-F]+|\d+")  # times, process ids, addresses: alike ends differ in them


class End(Frozen):
    """One end of the server: why, and how long it had served before; 0 where it did not get that far."""

    cause: str
    served_s: float


def cause_of(failed: StepFailed) -> str:
    """What two ends of the same cause have in common: the exit status and the last line, numbers aside."""
    last = next((line for line in reversed(failed.last_lines) if line.strip()), "")
    return f"{failed.exit_status} {_CHANGING.sub('#', last).strip()}"


def wait_s(ends: Sequence[End]) -> float | None:
    """Seconds to wait before the next start, after these ends, oldest first; None: it is a loop, leave it."""
    unsteady = 0
    for end in reversed(ends):
        if end.served_s >= STEADY_S:
            break
        unsteady += 1
    latest = ends[-SAME:]
    if unsteady >= SAME and len({end.cause for end in latest}) == 1:
        return None
    doubled = FIRST_WAIT_S * 2.0 ** min(max(unsteady - 1, 0), 16)
    return float(min(LONGEST_WAIT_S, doubled))


def note(failed: StepFailed, seconds: float) -> Text:
    """What is said before a server is started again."""
    return failed.message + Text(en=f"It is started again in {seconds:.0f} s.", zh=f"将在 {seconds:.0f} 秒后重新启动。")


def loop(failed: StepFailed) -> StepFailed:
    """The error that ends a loop: what was the same each time."""
    last = next((line.strip() for line in reversed(failed.last_lines) if line.strip()), "")
    said = Text(en=f"It said: {last[:300]}", zh=f"最后输出：{last[:300]}") if last else None
    message = failed.message + Text(
        en=f"It ended {SAME} times in the same way, so it is not started again.",
        zh=f"已连续 {SAME} 次以相同方式结束，不再重新启动。",
    )
    return StepFailed(
        message if said is None else message + said,
        Text(en="Mend the cause, then deploy it again.", zh="请排除原因后重新部署。"),
        exit_status=failed.exit_status,
        last_lines=failed.last_lines,
    )
