"""HTML from facts: every page and part is a pure function of values and language. Markup lies in assets/ui/pages.

Everything that is put into a page is escaped by Jinja, whatever it is: a model's name, a log line, an answer.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.settings import ASSETS
from app.ui import units
from app.ui.words import ENGINES, ORIGINS, SHAPES, STANDINGS, STATES, VERDICTS
from backends.recipes import no_bad_words
from backends.runs import OPEN
from backends.steps import Forecast
from backends.text import Language, Text, same

PAGES = ASSETS / "ui" / "pages"


def page(name: str, language: Language, **facts: Any) -> str:
    """The page or part of that file name, in one language."""
    return environment(language).get_template(f"{name}.html").render(**facts)


@cache
def environment(language: Language) -> Environment:
    """Jinja for one language: `t(en, zh, …)` picks the words, `say(text)` those of a Text."""
    made = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def t(en: str, zh: str, **values: object) -> str:
        return Text(en=en, zh=zh).of(language).format(**values)

    def say(text: Text) -> str:
        return text.of(language)

    def engine_name(name: str) -> str:
        return ENGINES.get(name, same(name or "?")).of(language)

    made.globals |= {
        "t": t,
        "say": say,
        "language": language,
        "engine_name": engine_name,
        "no_bad_words": no_bad_words,
        "forecast": partial(forecast, language=language),
        "duration": partial(units.duration, language=language),
        "gib": units.gib,
        "grouped": units.grouped,
        "count_of": units.count_of,
        "clock": units.clock,
        "share": units.share,
        "sm": units.sm,
        "STATES": STATES,
        "STANDINGS": STANDINGS,
        "SHAPES": SHAPES,
        "VERDICTS": VERDICTS,
        "ORIGINS": ORIGINS,
        "OPEN": OPEN,
    }
    return made


def forecast(expected: Forecast, language: Language) -> str:
    """What a step is expected to cost: “6.4 GiB · ~4 min”. Empty where nothing is worth a word."""
    parts = []
    if expected.download_mib:
        parts.append(units.gib(expected.download_mib))
    if expected.seconds:
        parts.append(f"~{units.duration(expected.seconds, language)}")
    return " · ".join(parts)
