"""The tables of releases, CUDA and drivers: consistent with themselves, and a mistake in them is named."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from backends import gpus, limits, releases, tables
from backends.errors import BadInput

ROOT = Path(__file__).parent.parent
TABLE = releases.load()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tables that a test may spoil."""
    for name in ("releases.csv", "cuda_drivers.csv", "forward_compatibility.csv", "drivers.toml"):
        shutil.copy(tables.ASSETS / name, tmp_path / name)
    return tmp_path


def spoil(folder: Path, which: str, cells: dict[str, str]) -> None:
    path = folder / "releases.csv"
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), list(reader.fieldnames or ())
    for row in rows:
        if row["release"] == which:
            row.update(cells)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def test_the_tables_are_consistent() -> None:
    assert releases.problems() == [] and gpus.problems() == [] and limits.problems() == []


def test_the_check_is_a_command_that_says_how_many_releases_there_are() -> None:
    done = subprocess.run([sys.executable, "scripts/check_releases.py"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and f"{len(TABLE.of('py3'))} releases" in done.stdout


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ({"source": ""}, "source is empty"),
        ({"cuda_version": "twelve"}, "is not a version"),
        ({"min_driver": "570.10"}, "ships with 530.30.02"),
        ({"cuda_version": "12.0.9", "min_driver": "525.60"}, None),
        ({"min_compute_capability": "75"}, "not written as 7.5"),
        ({"vllm_cuda": "12.1.0"}, "go together"),
        ({"release": "22.12"}, "is there twice"),
        ({"release": "2304"}, "not written as YY.MM"),
        ({"variants": "py3-sdk"}, "does not name py3"),
        ({"cuda_version": "99.1", "min_driver": "999.1"}, "has no CUDA 99.1"),
    ],
)
def test_a_mistake_in_a_row_is_named(folder: Path, cells: dict[str, str], words: str | None) -> None:
    spoil(folder, "23.04", cells)
    found = releases.problems(folder)
    assert (found == []) if words is None else any(words in problem for problem in found)


def test_a_branch_that_is_not_older_than_its_cuda_is_no_forward_compatibility(folder: Path) -> None:
    path = folder / "forward_compatibility.csv"
    path.write_text(path.read_text().replace("450;470;510;515;525,", "450;470;510;515;525;535,"))
    assert any("ships with R530 and lists R535" in problem for problem in releases.problems(folder))


def test_a_release_that_a_person_adds_is_recommended_at_once(folder: Path) -> None:
    with (folder / "releases.csv").open("a") as file:
        file.write("26.09,2.73.0,13.4.1.012,615.61,,7.5,,3.12,,,,,py3;vllm-python-py3,,,13.4.1.012,615.61,,,a page\n")
    assert releases.problems(folder) == []
    assert releases.load(folder).of("py3")[-1].tag == "26.09-py3"


def test_every_row_keeps_its_source() -> None:
    assert all(image.source for image in TABLE.images)


def test_marks_of_inference_are_kept() -> None:
    by_tag = {image.tag: image for image in TABLE.images}
    assert by_tag["23.01-py3"].inferred and not by_tag["23.04-py3"].inferred
    assert by_tag["23.11-trtllm-python-py3"].inferred and not by_tag["25.10-vllm-python-py3"].inferred


@pytest.mark.parametrize(
    ("branch", "cuda"),
    [
        (450, "11.0"),
        (470, "11.4"),
        (515, "11.7"),
        (535, "12.2"),
        (565, "12.7"),
        (580, "13.0"),
        (615, "13.4"),
        (552, "12.4"),
    ],
)
def test_a_driver_branch_has_a_highest_cuda(branch: int, cuda: str) -> None:
    assert TABLE.cuda_of_branch(branch) == cuda


@pytest.mark.parametrize(
    ("cuda", "branch", "answer"),
    [
        ("12.1", 525, "yes"),
        ("12.1", 520, "no"),
        ("12.9", 470, "no"),
        ("13.3", 580, "inferred"),
        ("13.1", 535, "not known"),
        ("13.1", 525, "no"),
        ("13.4", 535, "not known"),
        ("13.4", 530, "no"),
    ],
)
def test_a_forward_list_that_is_not_known_is_bounded_by_its_neighbours(cuda: str, branch: int, answer: str) -> None:
    assert TABLE.listed(cuda, branch) == answer


def test_the_floor_follows_the_cuda_where_the_page_is_stale() -> None:
    image = next(image for image in TABLE.images if image.tag == "24.05-py3")
    assert image.branch == 550


@pytest.mark.parametrize(
    ("have", "need", "enough"),
    [
        ("525", "525.60.13", True),
        ("450.80", "450.80.02", True),
        ("450.51.06", "450.80.02", False),
        ("580.65.06", "580", True),
    ],
)
def test_what_a_version_leaves_out_counts_as_enough(have: str, need: str, enough: bool) -> None:
    assert tables.at_least(tables.version(have), tables.version(need)) is enough


def test_words_that_are_no_version_name_their_field() -> None:
    with pytest.raises(BadInput) as caught:
        tables.version("535.beta", "driver_version")
    assert caught.value.field == "driver_version"
