"""Verdicts as the page draws them: the memory-fit bar and the strip of releases. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

from app.ui import units
from app.ui.words import VERDICTS
from backends.images import Recommendation
from backends.memory import PARTS, Estimate, Place
from backends.text import Language, Text
from backends.verdicts import Judgement

SHADES = {"weights": "w", "kv_cache": "k", "activations": "a", "fixed": "x"}
SHAPES = {"fits": "running", "tight": "degraded", "over": "failed", "unknown": "stopped"}


class FitPart(NamedTuple):
    """One share of the bar. `percent` of the bar's width."""

    shade: str
    word: str
    how: str
    mib: int
    percent: str


class Fit(NamedTuple):
    """The memory-fit bar of the tightest place."""

    title: str
    needed_mib: int
    capacity_mib: int | None
    word: str
    shape: str
    parts: Sequence[FitPart]
    free_mib: int | None
    over: bool
    summary: str
    note: str


def fit(estimate: Estimate, language: Language) -> Fit | None:
    """The bar, or None where the model's facts do not allow an estimate."""
    if not estimate.places:
        return None
    place = min(estimate.places, key=lambda one: one.left_mib if one.left_mib is not None else 0)
    used = _used(place)
    whole = max(place.needed_mib + used, place.total_mib or 0, 1)
    parts = [
        FitPart(
            SHADES[part.kind],
            PARTS[part.kind].of(language),
            part.how.of(language),
            part.mib,
            units.share(part.mib, whole),
        )
        for part in place.parts
    ]
    if used:
        words = Text(en="In use now", zh="当前占用").of(language)
        parts.insert(0, FitPart("u", words, "", used, units.share(used, whole)))
    words = verdict_words(place).of(language)
    told = ", ".join(f"{part.word} {units.gib(part.mib)}" for part in parts)
    count = len(estimate.places)
    note = Text(en=f"the same on each of {count} GPUs", zh=f"{count} 块 GPU 各占同样大小").of(language)
    over = place.verdict == "over"
    left = place.left_mib
    return Fit(
        title=_title(place).of(language),
        needed_mib=place.needed_mib,
        capacity_mib=place.total_mib,
        word=words,
        shape=SHAPES[place.verdict],
        parts=parts,
        free_mib=None if left is None or left < 0 else left,
        over=over,
        summary=f"{words}: {told}",
        note=note if count > 1 else "",
    )


def verdict_words(place: Place) -> Text:
    """“Fits, 5.8 GiB free”."""
    left = place.left_mib
    if left is None:
        return Text(en="Free memory not known", zh="可用大小未知")
    size = units.gib(abs(left))
    if place.verdict == "over":
        return Text(en=f"Does not fit, {size} over", zh=f"无法容纳，超出 {size}")
    if place.verdict == "tight":
        return Text(en=f"Tight, {size} free", zh=f"偏紧，余 {size}")
    return Text(en=f"Fits, {size} free", zh=f"可容纳，余 {size}")


def _title(place: Place) -> Text:
    if place.index is None:
        return Text(en="Memory of this machine", zh="本机内存")
    return Text(en=f"Memory on GPU {place.index}", zh=f"GPU {place.index} 显存")


def _used(place: Place) -> int:
    if place.total_mib is None or place.free_mib is None:
        return 0
    return max(0, place.total_mib - place.free_mib)


class Cell(NamedTuple):
    """One monthly release of the strip."""

    release: str
    verdict: str
    words: str


class Year(NamedTuple):
    """The releases of one year, for the scale under the strip."""

    name: str
    months: int


class Strip(NamedTuple):
    """The strip of releases with its counts."""

    cells: Sequence[Cell]
    years: Sequence[Year]
    counts: dict[str, int]
    summary: str
    notes: Sequence[Text]


def strip(recommendation: Recommendation, language: Language) -> Strip:
    """One cell for each monthly release of the plain server image."""
    judgements = recommendation.judgements["py3"]
    cells = [_cell(one, language) for one in judgements]
    counts = {name: sum(cell.verdict == name for cell in cells) for name in VERDICTS}
    years = [Year(f"20{year}", len(list(of))) for year, of in groupby(cell.release[:2] for cell in cells)]
    told = ", ".join(f"{count} {VERDICTS[name].word.of(language)}" for name, count in counts.items())
    return Strip(cells, years, counts, told, recommendation.notes)


def _cell(judgement: Judgement, language: Language) -> Cell:
    verdict = judgement.verdict.value
    image = judgement.image
    return Cell(image.release, verdict, f"{image.release} · CUDA {image.cuda} · {VERDICTS[verdict].word.of(language)}")
