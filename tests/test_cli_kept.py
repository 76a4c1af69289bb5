"""The commands about what is kept: pins, comparisons, files, watched servers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app import cli
from backends.runs import State
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture

Said = tuple[int, str, str]


@pytest.fixture
def slipway(control: StillControl, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:  # noqa: F811
    """The command line over a control whose runs stand still: exit status, output, errors."""

    def say(*words: str) -> Said:
        status = cli.main(["--language", "en", *words], lambda _flags: control)
        told = capsys.readouterr()
        return status, told.out, told.err

    return say


def test_a_pinned_deployment_leads_the_history(slipway, control: StillControl) -> None:  # noqa: F811
    first, second = control.begun("first").id, control.begun("second").id

    def listed() -> list[str]:
        return [row["id"] for row in json.loads(slipway("history", "--json")[1])]

    assert slipway("pin", "first")[0] == 0
    assert listed() == [first, second]
    assert slipway("unpin", "first")[0] == 0
    assert listed() == [second, first]
    assert slipway("history", "--engine", "vllm")[1] == ""


def test_two_deployments_are_compared(slipway, control: StillControl) -> None:  # noqa: F811
    control.begun("first"), control.begun("second")
    status, out, _ = slipway("compare", "first", "second")
    assert status == 0
    assert "spec      name: first | second" in out
    assert slipway("compare", "first", "first")[1] == "They do not differ.\n"
    assert json.loads(slipway("compare", "first", "second", "--json")[1])[0]["group"] == "spec"


def test_a_deployment_goes_out_as_a_file_and_comes_in_as_a_spec(slipway, control, tmp_path: Path) -> None:  # noqa: F811
    control.begun("mine")
    told = json.loads(slipway("export", "mine")[1])
    told["spec"]["allow_pickle"] = True
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(told))
    status, out, err = slipway("import", str(path))
    assert status == 0
    spec = json.loads(out)
    assert spec["name"] == "mine"
    assert "allow_pickle" not in spec
    assert "allow_pickle" in err
    path.write_text(json.dumps(told | {"version": 2}))
    status, _, err = slipway("import", str(path))
    assert status == 2
    assert "version" in err
    assert slipway("import", str(tmp_path / "none.json"))[0] == 2


def test_only_what_is_over_is_deleted(slipway, control: StillControl) -> None:  # noqa: F811
    run = control.begun("mine")
    assert slipway("delete", "mine")[0] == 5
    control.moved(run, State.STOPPED)
    assert slipway("delete", "mine")[0] == 0
    assert control.count() == 0
    assert slipway("delete", "mine")[0] == 4


def test_servers_are_watched_by_address(slipway, control: StillControl) -> None:  # noqa: F811
    status, out, _ = slipway("watch", "add", "next-door", "--http-port", "9000")
    assert status == 0
    assert out.split()[1:] == ["next-door", "127.0.0.1", "9000", "8001", "8002"]
    assert slipway("watch")[1] == out
    for words, field in ((("--host", "169.254.169.254"), "host"), (("--grpc-port", "x"), "grpc_port")):
        status, _, err = slipway("watch", "add", "other", *words)
        assert (status, field in err) == (2, True)
    assert slipway("watch", "remove", "next-door")[0] == 0
    assert slipway("watch", "remove", "next-door")[0] == 4
    assert control.watched() == ()
