"""The command line's own words: every help and error in both languages, whatever is wrong with what was written."""

from __future__ import annotations

import argparse
import json
import re
import unicodedata
from typing import get_args

import pytest

from app import terminal
from app.arguments import Misused, Parser, language_of
from app.cli import COMMANDS, main
from app.cli_parser import parser
from backends import memory, verdicts
from backends.events import Kind
from backends.lint.finding import Finding
from backends.runs import State
from backends.text import LANGUAGES

CHINESE = re.compile(r"[\u4e00-\u9fff]")
WRONG = [
    ((), "COMMAND"),
    (("nope",), "nope"),
    (("list", "--nope"), "--nope"),
    (("chat", "run"), "--message"),
    (("chat", "run", "--message"), "--message"),
    (("chat", "run", "--message", "x", "--seed", "y"), "--seed"),
    (("chat", "run", "--message", "x", "--top-p", "y"), "--top-p"),
    (("list", "--json=yes"), "--json"),
    (("chat", "run", "--m", "x"), "--m"),
    (("--language", "fr", "list"), "fr"),
    (("panel", "--json"), "--json"),
    (("history", "--limit", "99999999999999999999"), "--limit"),
    (("history", "--limit", "0"), "--limit"),
    (("conversations", "--limit", "-5"), "--limit"),
]


TERMS = (
    *State,
    *Kind,
    *verdicts.Verdict,
    *get_args(memory.Verdict),
    *get_args(Finding.model_fields["severity"].annotation),
)


def commands(whole: Parser) -> dict[str, Parser]:
    """Each command's own parser."""
    [found] = [action for action in whole._actions if isinstance(action, argparse._SubParsersAction)]
    return dict(found.choices)


def test_every_command_can_be_written_and_carried_out() -> None:
    assert set(commands(parser("en"))) == set(COMMANDS)


@pytest.mark.parametrize("name", ["", *sorted(COMMANDS)])
def test_each_help_is_whole_in_either_language(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    english, chinese = ((commands(one)[name] if name else one) for one in (parser("en"), parser("zh")))
    assert not CHINESE.search(english.format_help())
    told = chinese.format_help()
    assert "usage:" not in told
    assert "arguments:" not in told
    assert "options:" not in told
    assert CHINESE.search(chinese.description or "")
    for action in chinese._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert CHINESE.search(action.help or ""), action
    assert all(CHINESE.search(line) for line in re.findall(r"^    \S+ {2,}(.*)$", told, re.MULTILINE))
    words = told[told.index("\n\n") :]  # behind the usage
    assert (
        max(sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in line) for line in words.split("\n")) <= 80
    )


@pytest.mark.parametrize(("words", "named"), WRONG)
def test_what_is_wrong_with_a_command_line_is_said_in_either_language(words, named: str) -> None:
    for language in LANGUAGES:
        with pytest.raises(Misused) as misused:
            parser(language).parse_args(words)
        told = misused.value.error.of(language)
        assert named in told
        assert bool(CHINESE.search(re.sub("参数", "", told))) is (language == "zh"), told
        assert misused.value.usage.startswith("用法：slipway" if language == "zh" else "usage: slipway")


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (("chat", "run", "--message", "x", "--seed", "y", "--json"), "--seed"),
        (("list", "--json", "--nope"), "arguments"),
    ],
)
def test_a_command_line_that_cannot_be_read_is_answered_in_json_where_json_is_asked_for(words, field, capsys) -> None:
    assert main(words, lambda flags: pytest.fail("it was carried out")) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["error"] == "BadInput"
    assert json.loads(said.out)["field"] == field
    assert "usage: slipway" in said.err
    assert json.loads(said.out)["message"] in said.err
    assert main([word for word in words if word != "--json"], lambda flags: pytest.fail("it was carried out")) == 2
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "environ", "language"),
    [
        ((), {}, "en"),
        ((), {"LANG": "zh_CN.UTF-8"}, "zh"),
        ((), {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ((), {"LANG": "en_US.UTF-8", "SLIPWAY_LANGUAGE": "zh"}, "zh"),
        (("--language", "en", "list"), {"SLIPWAY_LANGUAGE": "zh"}, "en"),
        (("--language=zh", "list"), {}, "zh"),
        (("--language", "fr", "list"), {"LANG": "zh_CN"}, "zh"),
        (("history", "--l", "5"), {"LANG": "zh_CN"}, "zh"),
        (("list", "--language"), {}, "en"),
    ],
)
def test_the_language_is_known_before_the_command_line_is_read(words, environ, language: str) -> None:
    assert language_of(words, environ) == language


@pytest.mark.parametrize("word", TERMS)
def test_terms_in_columns_are_the_same_width_in_either_language(word: str) -> None:
    english, chinese = (terminal.term(word, language, 12) for language in LANGUAGES)
    assert english == word.ljust(12)
    assert CHINESE.search(chinese)
    assert sum(1 + (unicodedata.east_asian_width(sign) in "WF") for sign in chinese) == 12
