"""The lanes of `make test`: each test in one, one result for all."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import test_lanes
from tests.conftest import LANES, lane_of


def ran(folder: Path, name: str, passed: int, failed: int = 0) -> None:
    """What a lane leaves."""
    cases = "".join(f'<testcase classname="tests.x" name="p{number}"/>' for number in range(passed))
    cases += "".join(
        f'<testcase classname="tests.x" name="f{number}"><failure/></testcase>' for number in range(failed)
    )
    counts = f'tests="{passed + failed}" failures="{failed}" errors="0" skipped="0"'
    (folder / f"{name}.xml").write_text(
        f'<testsuites><testsuite name="pytest" {counts}>{cases}</testsuite></testsuites>'
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
        ran(tmp_path, name, 2 - again, failed=again)
        return again

    monkeypatch.setattr(lanes, "show", show)
    lanes.run_again()
    assert [word for word in asked if "::" in word] == ["tests/x.py::f0", "tests/x.py::f1"]
    assert test_lanes._sum(lanes.results(), list(lanes.statuses.values()), 1.0) == status
    assert told in capsys.readouterr().out


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
