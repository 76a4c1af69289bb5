"""The lanes of `make test`: each test in one, one result for all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from scripts import test_lanes
from tests.conftest import LANES, lane_of


def ran(folder: Path, name: str, passed: int, failed: int = 0) -> None:
    """What a lane leaves."""
    cases = {f"tests.x p{number}": "" for number in range(passed)}
    left(folder, name, cases | {f"tests.x f{number}": "<failure/>" for number in range(failed)})


def left(folder: Path, name: str, cases: dict[str, str]) -> None:
    """What a lane leaves whose tests, each by its module and name, ended so."""
    told = "".join(
        '<testcase classname="{}" name="{}">{}</testcase>'.format(*test.split(" ", 1), how)
        for test, how in cases.items()
    )
    ends = [how.partition("<")[2].split(" ")[0].split("/")[0] for how in cases.values()]
    counts = f'failures="{ends.count("failure")}" errors="{ends.count("error")}" skipped="{ends.count("skipped")}"'
    (folder / f"{name}.xml").write_text(
        f'<testsuites><testsuite name="pytest" tests="{len(cases)}" {counts}>{told}</testsuite></testsuites>'
    )


@pytest.mark.parametrize(
    ("statuses", "failed", "status", "told"),
    [
        ({"plain": 0, "host": 0}, 0, 0, " 5 passed in 1.00s"),
        ({"plain": 0, "host": 1}, 2, 1, " 2 failed, 5 passed in 1.00s"),
        ({"plain": 0, "host": 0, "alone": test_lanes.NONE_COLLECTED}, 0, 0, " 5 passed in 1.00s"),
        ({"plain": 0, "host": 0, "alone": 2}, 0, 2, " 5 passed in 1.00s"),  # a lane that was broken off
    ],
)
def test_the_lanes_have_one_result(
    tmp_path: Path, capsys, statuses: dict[str, int], failed: int, status: int, told: str
) -> None:
    lanes = test_lanes.Lanes([], tmp_path)
    lanes.statuses = statuses
    ran(tmp_path, "plain", 3)
    ran(tmp_path, "host", 2, failed)
    results = lanes.results()
    assert [suite.get("name") for suite in results] == ["plain", "host"]
    assert test_lanes._sum(results, list(statuses.values()), 1.0) == status
    said = capsys.readouterr().out
    assert told in said and said.count("FAILED tests/x.py::f") == failed


@pytest.mark.parametrize(("again", "status", "told"), [(0, 0, " 7 passed in 1.00s"), (1, 1, " 1 failed, 6 passed in")])
def test_what_failed_beside_others_is_asked_alone_and_that_counts(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, again: int, status: int, told: str
) -> None:
    lanes = test_lanes.Lanes(["-q"], tmp_path)
    lanes.statuses = {"plain": 0, "host": 1, "alone": 0}
    ran(tmp_path, "plain", 3)
    ran(tmp_path, "host", 2, failed=2)
    asked: list[str] = []

    def show(name: str, command: tuple[str, ...]) -> int:
        asked.extend(command)
        left(tmp_path, name, {"tests.x f0": "", "tests.x f1": "<failure/>" * again})
        return again

    monkeypatch.setattr(lanes, "show", show)
    lanes.run_again()
    assert [word for word in asked if "::" in word] == ["tests/x.py::f0", "tests/x.py::f1"]
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == status
    assert told in capsys.readouterr().out


BAD = '<failure message="AssertionError: not within 5 s&#10;in full">def test: …</failure>'


def asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, host: dict[str, str], again: dict[str, str]
) -> tuple[test_lanes.Lanes, list[str]]:
    """The lanes after `host` failed and was asked again, which ended as `again`; and what was asked."""
    lanes = test_lanes.Lanes([], folder)
    lanes.statuses = {"host": 1, "alone": 0}
    left(folder, "host", host)
    asked: list[str] = []

    def show(name: str, command: tuple[str, ...]) -> int:
        asked.extend(word for word in command if "::" in word)
        left(folder, name, again)
        return int(any("<failure" in how for how in again.values()))

    monkeypatch.setattr(lanes, "show", show)
    lanes.run_again()
    return lanes, asked


def test_what_passed_only_when_asked_alone_tells_how_it_failed_first(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes, _ = asked_again(tmp_path, monkeypatch, {"tests.live.x a": BAD, "tests.x b": ""}, {"tests.live.x a": ""})
    results = lanes.results()
    (case,) = (case for case in results.iter("testcase") if case.get("name") == "a")
    words = "host: AssertionError: not within 5 s"
    assert case.find("properties/property").attrib == {"name": test_lanes.FIRST, "value": words}
    assert "in lane host:" in case.findtext("system-out") and "def test: …" in case.findtext("system-out")
    assert test_lanes._sum(results, list(lanes.statuses.values()), 1.0) == 0
    *_, told, last = capsys.readouterr().out.splitlines()
    assert told == f"AGAIN tests/live/x.py::a - {words}"
    assert last.strip("=") == " 2 passed in 1.00s (0:00:01) "


@pytest.mark.parametrize(
    ("test", "how"),
    [
        ("tests.engine.test_server a", BAD),
        ("tests.engine.test_server a", '<error message="it could not begin"/>'),
        ("tests.live.test_demo a", f'<error message="AssertionError: {test_lanes.DIED}: ()"/>'),
        ("tests.live.test_demo a", "<failure>last_lines=('Signal (11) received.', )</failure>"),
    ],
)
def test_a_failure_of_the_engine_is_never_forgiven(
    tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch, test: str, how: str
) -> None:
    lanes, asked = asked_again(tmp_path, monkeypatch, {test: how, "tests.live.x b": BAD}, {"tests.live.x b": ""})
    assert asked == ["tests/live/x.py::b"]
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == 1
    said = capsys.readouterr().out
    assert "AGAIN tests/live/x.py::b" in said
    assert f"{test.replace('.', '/').replace(' ', '.py::')} - " in said.partition("short test summary")[2]


@pytest.mark.parametrize(
    ("hows", "is_asked"),
    [
        (['<error message="failed on setup with &quot;TimeoutError&quot;"/>'] * 54, True),
        (["<failure/>"] * test_lanes.MOST_AGAIN, True),
        (["<failure/>"] * (test_lanes.MOST_AGAIN + 1), False),
        ([f'<error message="{number}"/>' for number in range(test_lanes.MOST_AGAIN + 1)], False),
    ],
    ids=["one fixture", "as many as may be", "too many", "too many fixtures"],
)
def test_what_many_tests_share_is_asked_again_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hows: list[str], is_asked: bool
) -> None:
    host = {f"tests.x t{number}": how for number, how in enumerate(hows)}
    lanes, asked = asked_again(tmp_path, monkeypatch, host, dict.fromkeys(host, ""))
    assert len(asked) == (len(hows) if is_asked else 0)
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == (0 if is_asked else 1)


def test_a_test_that_is_skipped_when_it_is_asked_again_stays_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes, asked = asked_again(tmp_path, monkeypatch, {"tests.x a": BAD}, {"tests.x a": "<skipped/>"})
    assert asked == ["tests/x.py::a"]
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == 1


def test_a_lane_of_which_nobody_knows_how_it_ended_is_not_called_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lanes = test_lanes.Lanes([], tmp_path)
    monkeypatch.setattr(lanes, "show", lambda *_: {}["how it ended"])
    with pytest.raises(KeyError):
        lanes.run("plain", "host")
    ran(tmp_path, "upstream", 3)
    lanes.statuses["upstream"] = 0
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == test_lanes.LOST


def test_bytes_that_are_no_text_do_not_end_what_a_lane_says(tmp_path: Path, capsys) -> None:
    says = "import sys; sys.stdout.buffer.write(bytes([255, 10])); print('more')"
    assert test_lanes.Lanes([], tmp_path).show("plain", (sys.executable, "-c", says)) == 0
    assert capsys.readouterr().out.splitlines() == ["plain    | \ufffd", "plain    | more"]


def test_a_choice_that_fits_no_test_is_not_called_a_success(tmp_path: Path) -> None:
    lanes = test_lanes.Lanes([], tmp_path)
    lanes.statuses = dict.fromkeys(LANES, test_lanes.NONE_COLLECTED)
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == test_lanes.NONE_COLLECTED


class Item:
    """A test, as far as its lane goes."""

    def __init__(self, marks: str, needs: str) -> None:
        self.fixturenames = needs.split()
        self.get_closest_marker = marks.split().count


@pytest.mark.parametrize(
    ("marks", "needs", "lane"),
    [
        ("", "home store", "plain"),
        ("", "tiny_models runtime_python runtime_dir", "host"),
        ("live", "served live_control", "host"),
        ("live", "engine image home", "host"),
        ("live", "engine image bases", "upstream"),
        ("live", "browser upstream", "upstream"),
        ("", "upstream", "plain"),
        ("live alone", "browser control", "alone"),
        ("alone", "", "alone"),
    ],
)
def test_what_a_test_needs_puts_it_into_its_lane(marks: str, needs: str, lane: str) -> None:
    assert lane_of(Item(marks, needs)) == lane
