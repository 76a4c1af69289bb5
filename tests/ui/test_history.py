"""The History page without a browser: filter, pages, pins, two side by side, a file out and a file in."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from app.ui import compare
from app.ui.acts import all_acts, carry_out
from app.ui.render import page
from app.web import web
from backends.runs import State
from backends.spec import Limits, ModelSource, Spec
from backends.text import LANGUAGES
from tests.ui.conftest import StillControl

EVIL = "<img src=x onerror=alert(1)>"


def ask(control: StillControl, do: str, **told: Any) -> dict[str, Any]:
    return carry_out(all_acts(control), {"do": do, "language": "en", "serial": 1, **told})


def listed(control: StillControl, **told: Any) -> str:
    return ask(control, "history", **told)["reply"]["slots"]["history-list"]


def rows(html: str) -> list[str]:
    return re.findall(r'data-history-run="([^"]+)"', html)


def pages(control: StillControl, **told: Any) -> list[str]:
    """Every row of every page, in order."""
    seen: list[str] = []
    while True:
        html = listed(control, **told)
        seen += rows(html)
        follows = re.search(r'data-history-page="([^"]+\|[^"]+)"', html)
        if follows is None:
            return seen
        told["before"] = follows.group(1)


@pytest.mark.parametrize(("state", "shown"), [("open", True), ("failed", False), ("stopped", False)])
def test_the_list_is_filtered_by_state(control: StillControl, state: str, shown: bool) -> None:
    run = control.begun()
    assert (run.id in rows(listed(control, group=state))) is shown


def test_the_list_is_filtered_by_engine_and_counts_follow(control: StillControl) -> None:
    run = control.begun()
    assert rows(listed(control, engine="transformers")) == [run.id]
    assert rows(listed(control, engine="vllm")) == []
    groups = ask(control, "history", engine="vllm")["reply"]["slots"]["history-groups"]
    assert set(re.findall(r'num">(\d+)<', groups)) == {"0"}


def test_an_engine_is_not_found_by_a_part_of_its_name(control: StillControl) -> None:
    control.begun()
    for part in ("former", "s", "%", "transformer_"):
        assert rows(listed(control, engine=part)) == []


def test_pages_neither_lose_nor_repeat_a_run_and_have_the_pinned_first(control: StillControl) -> None:
    ids = [control.begun(f"run-{number}").id for number in range(45)]
    assert pages(control) == ids[::-1]
    pinned = [ids[3], *ids[10:34]]
    for run in pinned:
        control.pin(run)
    rest = [run for run in ids if run not in pinned]
    assert pages(control) == [*sorted(pinned, key=ids.index, reverse=True), *rest[::-1]]


def test_pins_are_set_and_let_go_in_the_list_and_in_the_drawer(control: StillControl) -> None:
    first, second = control.begun("first").id, control.begun("second").id
    slots = ask(control, "pin", run=first)["reply"]["slots"]
    assert rows(slots["history-list"]) == [first, second]
    assert "drawer" not in slots
    slots = ask(control, "pin", run=first, drawer=True)["reply"]["slots"]
    assert rows(slots["history-list"]) == [second, first]
    assert 'aria-pressed="false"' in slots["drawer"]


@pytest.mark.parametrize("place", ["", "x", "1|", "1|yesterday|a", "|||", "0|2026-01-01T00:00:00+00:00|"])
def test_a_place_that_is_none_shows_the_first_page(control: StillControl, place: str) -> None:
    run = control.begun()
    assert rows(listed(control, before=place)) == [run.id]


@pytest.mark.parametrize("language", LANGUAGES)
def test_two_deployments_stand_side_by_side(control: StillControl, language) -> None:
    one = control.moved(control.served("one"), State.STOPPED, measured={"memory_mib": 2048.0, "server_s": 61.0})
    other = control.start(Spec(model=ModelSource(kind="demo"), name="other", limits=Limits(concurrent=4))).run
    html = ask(control, "compare", run=one.id, other=other.id, language=language)["reply"]["slots"]["history-compared"]
    cells = [re.sub(r"<[^>]+>", "", part).strip() for part in re.findall(r"<td[^>]*>(.*?)</td>", html, flags=re.DOTALL)]
    triples = {cells[at]: cells[at + 1 : at + 3] for at in range(0, len(cells), 3)}
    word = {"en": "Requests at once (differs)", "zh": "并发请求数 (不同)"}[language]
    assert triples[word] == ["16", "4"]
    assert triples[{"en": "Engine", "zh": "引擎"}[language]] == ["Transformers", "Transformers"]
    assert ["2.0 GiB", "–"] in triples.values()
    assert [{"en": "1 min 1 s", "zh": "1 分 1 秒"}[language], "–"] in triples.values()


def test_what_a_deployment_says_is_text_in_a_comparison(control: StillControl) -> None:
    run = control.served()
    evil = run.model_copy(update={"name": EVIL})
    pairs = control.side_by_side(run.id, run.id)
    odd = [pairs[0].model_copy(update={"field": EVIL, "one": EVIL})]
    html = page("compare", "en", runs=(evil, evil), sections=compare.sections(evil, evil, odd, "en"))
    assert "<img" not in html
    assert html.count("&lt;img") >= 4


def test_forecast_and_measured_memory_are_told_together(control: StillControl) -> None:
    run = control.served().model_copy(update={"measured": {"memory_mib": 512.0}})
    told = compare.memory_words(run, "en")
    assert told.endswith(" forecast, 0.5 GiB measured")
    assert "实测" in compare.memory_words(run, "zh")


def test_an_exported_deployment_comes_back_into_the_form(control: StillControl) -> None:
    run = control.start(Spec(model=ModelSource(kind="demo"), name="mine", limits=Limits(concurrent=4))).run
    with TestClient(web(control, control.settings, None), base_url="http://127.0.0.1") as panel:
        got = panel.get(f"/slipway/runs/{run.id}/export")
        assert panel.get("/slipway/runs/nobody/export").status_code == 404
    assert f'filename="{run.id}.json"' in got.headers["content-disposition"]
    reply = ask(control, "import", file=got.text)["reply"]
    assert (reply["go"], reply["draft"]["name"], reply["draft"]["limits.concurrent"]) == ("stage:2", "mine", "4")
    assert "Nothing was started" in reply["notice"]["hint"]
    assert control.count() == 1


def test_a_file_s_plan_and_consents_are_not_taken_over(control: StillControl) -> None:
    told = json.loads(control.export_deployment(control.begun("mine").id))
    told["spec"]["trust_remote_code"] = True
    told["plan"]["steps"][0]["why"] = {"en": EVIL, "zh": EVIL}
    parts = ask(control, "import", file=json.dumps(told))
    assert parts["reply"]["draft"]["trust_remote_code"] is False
    assert any("trust_remote_code" in note for note in parts["reply"]["notice"]["reasons"])
    assert EVIL not in json.dumps(parts)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"version": 2}, "file.version"), ({"spec": {"model": {"kind": "demo"}, "name": "../up"}}, "file.spec.name")],
)
def test_a_file_that_is_wrong_is_refused_naming_the_field(control: StillControl, change: dict, field: str) -> None:
    told = json.loads(control.export_deployment(control.begun("mine").id)) | change
    reply = ask(control, "import", file=json.dumps(told))["reply"]
    assert reply["trouble"]["field"] == field
    assert field.removeprefix("file.") in reply["trouble"]["title"]
    assert "draft" not in reply


@pytest.mark.parametrize("file", ["", "{}", "[]", "\ud800", None, 7, {"a": 1}], ids=repr)
def test_what_is_no_file_is_refused_in_words(control: StillControl, file: object) -> None:
    assert ask(control, "import", file=file, language="zh")["reply"]["trouble"]["title"]
