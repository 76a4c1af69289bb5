"""What Slipway promises in figures, measured: a line each, `name value target met|short`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """One measured figure. `most` or `least` is the target; neither: told for information."""

    name: str
    value: float
    unit: str = ""
    most: float | None = None
    least: float | None = None

    @property
    def met(self) -> bool:
        """True where the target is reached."""
        return (self.most is None or self.value <= self.most) and (self.least is None or self.value >= self.least)

    def line(self) -> str:
        """Name, value, target, met or short; parted by tabs."""
        target, verdict = "-", "-"
        if self.most is not None or self.least is not None:
            target = f"<= {self.most:g}{self.unit}" if self.most is not None else f">= {self.least:g}{self.unit}"
            verdict = "met" if self.met else "short"
        return f"{self.name}\t{self.value:.4g}{self.unit}\t{target}\t{verdict}"
