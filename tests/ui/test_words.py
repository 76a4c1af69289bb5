"""Every text that a person sees is there in both languages: in templates, in scripts, in the styles none at all."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from app.settings import ASSETS
from app.ui.words import SCRIPT

PAGES = sorted((ASSETS / "ui" / "pages").glob("*.html"))
SCRIPTS = sorted((ASSETS / "ui" / "js").glob("*.js"))
NAMES = {"Slipway", "API", "EN", "中文", "GPU", "ID", "GiB", "TTFT p50", "pickle", "tok/s"}  # alike in both languages
SPOKEN = ("aria-label", "title", "placeholder", "alt", "label")
JINJA = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
HAN = re.compile(r"[\u3400-\u9fff]")


class Words(HTMLParser):
    """Collects what a reader or a screen reader would meet."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._code += tag in ("script", "style")
        self.found += [value for name, value in attrs if name in SPOKEN and value]

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag in ("script", "style")

    def handle_data(self, data: str) -> None:
        if not self._code:
            self.found.append(data)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_no_page_holds_a_word_outside_its_two_languages(path) -> None:
    words = Words()
    words.feed(JINJA.sub(" ", path.read_text(encoding="utf-8")))
    bare = {part.strip(" \n·–:,/()@×") for part in words.found}
    loose = {word for word in bare if re.search(r"[A-Za-z\u3400-\u9fff]", word)} - NAMES
    assert not loose, f"{path.name}: {loose}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_each_pair_of_a_page_is_english_and_chinese(path) -> None:
    text = path.read_text(encoding="utf-8")
    literal = r"""("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""
    calls = re.findall(r"\bt\(\s*" + literal + r"\s*,\s*" + literal, text)
    assert len(calls) == len(re.findall(r"\bt\(", text)), "a call of t() without two literals"
    for en, zh in calls:
        assert not HAN.search(en), en
        assert HAN.search(zh) or not re.search(r"[A-Za-z]{2}", re.sub(r"\{\w+\}", "", en)), (en, zh)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_no_script_speaks_for_itself(path) -> None:
    code = re.sub(r"(?m)(?<![:\"'`])//.*$|/\*.*?\*/", "", path.read_text(encoding="utf-8"))
    assert not HAN.search(code)
    for said in re.findall(r"(?:textContent|title|placeholder|ariaLabel) = ([\"'`][^\"'`]*[\"'`])", code):
        assert not re.search(r"[A-Za-z]{2}", re.sub(r"\$\{[^}]*\}", "", said)), said


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_asks_only_for_words_that_there_are(path) -> None:
    asked = set(re.findall(r"(?:\bw|slipway\.word)\(\"(\w+)\"", path.read_text(encoding="utf-8")))
    assert asked <= SCRIPT.keys()


def test_every_word_of_the_scripts_is_used() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in SCRIPTS)
    assert not [key for key in SCRIPT if f'"{key}"' not in code]
