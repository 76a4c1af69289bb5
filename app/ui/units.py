"""Figures as people read them: GiB in base 2 with one decimal, grouped digits, durations. “–” for no value, never 0."""

from __future__ import annotations

from backends.text import Language

NOTHING = "–"


def gib(mib: float | None, unit: bool = True) -> str:
    """MiB as GiB with one decimal; below 0.1 GiB as MiB."""
    if mib is None:
        return NOTHING
    if unit and 0 < abs(mib) < 102.4:
        return f"{mib:,.0f} MiB"
    return f"{mib / 1024:,.1f}" + (" GiB" if unit else "")


def grouped(number: float | None) -> str:
    """An integer with its digits grouped by commas."""
    return NOTHING if number is None else f"{number:,.0f}"


def count_of(number: int) -> str:
    """A number of parameters: 6.74 B, 125 M, 3,512."""
    for size, letter in ((1_000_000_000, "B"), (1_000_000, "M")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return grouped(number)


def milliseconds(seconds: float | None) -> str:
    """Below one second as ms, else as s with two decimals."""
    if seconds is None:
        return NOTHING
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def duration(seconds: float | None, language: Language = "en") -> str:
    """How long something took, in its two largest units."""
    if seconds is None:
        return NOTHING
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    hour, minute, second = ("小时", "分", "秒") if language == "zh" else ("h", "min", "s")
    if hours:
        return f"{hours} {hour} {minutes} {minute}" if minutes else f"{hours} {hour}"
    if minutes:
        return f"{minutes} {minute} {rest} {second}" if rest else f"{minutes} {minute}"
    return f"{seconds:.1f} {second}" if 0 < seconds < 10 else f"{rest} {second}"


def clock(seconds: float) -> str:
    """A step's time as on a stop-watch: 4:07, 1:02:33."""
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole % 3600 // 60, whole % 60
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def share(part: float | None, whole: float | None) -> str:
    """A part of a whole in percent, for the width of a bar."""
    if not part or not whole:
        return "0"
    return f"{min(100.0, max(0.0, 100 * part / whole)):.1f}"


def sm(number: int | None) -> str | None:
    """Compute capability as people write it: 86 is “SM 8.6”."""
    return None if number is None else f"SM {number // 10}.{number % 10}"
