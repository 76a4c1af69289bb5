"""What the page asks for and what comes back: the whole wizard without a browser."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from app.jobs import NOWHERE, Stamps
from app.settings import ASSETS
from app.ui.acts import MOST_KEPT, Acts, all_acts, carry_out
from app.ui.shell import build, head, translations
from backends.errors import Unreachable
from backends.runs import State
from backends.spec import ModelSource, Spec
from backends.steps import Plan, Step, fill_step
from backends.text import LANGUAGES, Language, same
from tests.ui.conftest import StillControl, StillTarget, machine


def ask(control: StillControl, do: str, **told: Any) -> dict[str, Any]:
    return carry_out(all_acts(control), {"do": do, "language": "en", "serial": 7, **told})


DEMO = {"model.kind": "demo"}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_newcomer_meets_the_demo_chosen(control: StillControl, language) -> None:
    parts = ask(control, "boot", language=language)
    assert parts["reply"]["go"] == "stage:1"
    assert 'value="demo" checked' in parts["model"]
    assert {"header", "stepper", "detect", "model", "rail", "launch", "chat", "monitor", "history"} <= parts.keys()


def test_a_demo_that_is_being_launched_is_shown_to_the_newcomer(control: StillControl) -> None:
    run = control.begun()
    assert ask(control, "boot")["reply"]["go"] == f"run:{run.id}"


def test_the_address_names_the_run_that_is_shown(control: StillControl) -> None:
    first, _ = control.begun("first"), control.begun("second")
    assert ask(control, "boot", run=first.id)["reply"]["go"] == f"run:{first.id}"


def test_an_unknown_run_in_the_address_is_said(control: StillControl) -> None:
    reply = ask(control, "boot", run="gone-123456")["reply"]
    assert "not known" in reply["trouble"]["title"]
    assert reply["go"] == "stage:1"


def test_a_visitor_comes_back_to_where_they_were(control: StillControl) -> None:
    parts = ask(control, "boot", draft={**DEMO, "name": "mine"}, stage=4)
    assert parts["reply"]["go"] == "stage:4"
    assert 'value="mine"' in parts["model"]
    assert "engine" in parts
    assert '"name": "mine"' in parts["review"].replace("&#34;", '"')


def test_a_choice_that_cannot_be_done_any_more_leads_back_to_the_model(control: StillControl) -> None:
    draft = {"model.kind": "folder", "model.id": "/not/there"}
    assert ask(control, "boot", draft=draft, stage=4)["reply"]["go"] == "stage:2"


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_exact_commands_of_every_stage_are_one_request_away(control: StillControl, language) -> None:
    run = control.begun()
    for stage, words in (
        ("1", "slipway detect"),
        ("2", "slipway deploy -"),
        ("3", "tritonserver"),
        ("5", "tritonserver"),
    ):
        told = ask(control, "commands", stage=stage, draft=DEMO, run=run.id, language=language)
        assert words in told["reply"]["slots"][f"commands-{stage}"]
    wrong = ask(control, "commands", stage="2", draft={**DEMO, "limits.concurrent": "<b>"})
    assert "<b>" not in wrong["reply"]["slots"]["commands-2"]


def test_a_wrong_setting_of_an_engine_is_said_at_its_field_and_the_stage_stays(control: StillControl) -> None:
    control.machine = machine("h200")
    draft = {**DEMO, "vllm.tensor_parallel": "0", "choice": "vllm"}
    reply = ask(control, "engine-input", draft=draft)["reply"]
    assert reply["trouble"]["field"] == "vllm.tensor_parallel" and 'name="choice"' in reply["slots"]["engine-cards"]
    assert ask(control, "engine", draft=draft)["reply"]["trouble"]["field"] == "vllm.tensor_parallel"
    shown = ask(control, "boot", draft=draft, stage=3)
    assert shown["reply"]["go"] == "stage:3" and 'name="vllm.tensor_parallel" type="text"' in shown["engine"]


def test_the_whole_wizard(control: StillControl) -> None:
    draft = {**DEMO, "limits.concurrent": "4"}
    engines = ask(control, "model", draft=draft)
    assert engines["reply"]["go"] == "stage:3"
    assert engines["engine"].count("checked") >= 2
    plan = ask(control, "engine", draft={**draft, "choice": "transformers"})
    assert plan["reply"]["go"] == "stage:4"
    assert "pane-script" in plan["review"] and "echo &#34;waiting for the server" in plan["review"]
    chinese = ask(control, "engine", draft={**draft, "choice": "transformers"}, language="zh")
    assert "echo &#34;正在等待服务就绪" in chinese["review"]
    launched = ask(control, "review", draft=draft)
    run = control.run(launched["reply"]["go"].removeprefix("run:"))
    assert run.spec.limits.concurrent == 4


def made(control: StillControl, plan: Plan, steps: Sequence[Step]) -> None:
    """These steps of the plan were carried out before."""
    target, stamps = control._targets[plan.spec.target], Stamps(control.settings.home, ASSETS)
    filled = [fill_step(step, target.places("-", NOWHERE, "127.0.0.1")) for step in plan.steps]
    prints = stamps.prints(filled)
    for step in steps:
        stamps.add(step, prints[step.id], "before")


def test_the_review_tells_what_is_there_already(control: StillControl) -> None:
    fresh = ask(control, "engine", draft=DEMO)["review"]
    assert "done before" not in fresh and "nothing to download" not in fresh
    assert "First start" in ask(control, "model", draft=DEMO)["engine"]
    plan = control.plan(Spec(model=ModelSource(kind="demo"), name="demo"))
    there = [step for step in plan.steps if step.id.startswith("runtime-")]
    made(control, plan, there)
    left = len(plan.steps) - len(there)
    cards = ask(control, "model", draft=DEMO)["engine"]
    assert "Next starts" in cards and "First start" not in cards and "Download <b" not in cards
    again = ask(control, "engine", draft=DEMO)["review"]
    assert again.count('<li class="kept">') == len(there) > 0
    assert again.count(f"{left} of {len(plan.steps)} steps to do · nothing to download · ") == 2
    assert (
        f"{len(plan.steps)} 步中待执行 {left} 步 · 无需下载 · "
        in ask(control, "boot", draft=DEMO, stage=4, language="zh")["review"]
    )


def test_a_plan_of_which_nobody_can_tell_what_is_there_stays_whole(
    control: StillControl, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = control.plan(Spec(model=ModelSource(kind="demo"), name="demo"))
    made(control, plan, plan.steps)
    assert len(control.to_do(plan)) == 2, "the server and its first answer"
    elsewhere = control.machine.model_copy(update={"hostname": "dock-02"})
    assert control.to_do(plan.model_copy(update={"hardware": elsewhere})) == plan.steps

    def gone(*_: object) -> bool:
        raise Unreachable(same("Docker is gone."))

    monkeypatch.setattr(StillTarget, "has", gone)
    assert control.to_do(plan) == plan.steps


def test_a_second_launch_is_shown_the_first(control: StillControl) -> None:
    first, second = (ask(control, "review", draft=DEMO)["reply"] for _ in range(2))
    assert first["go"] == second["go"]
    assert first["toast"] is None
    assert second["toast"]
    assert control.count() == 1


def test_a_wrong_field_comes_back_with_its_name(control: StillControl) -> None:
    reply = ask(control, "model", draft={**DEMO, "limits.concurrent": "0"})["reply"]
    assert reply["trouble"]["field"] == "limits.concurrent"
    assert "go" not in reply


def test_a_folder_outside_the_allowed_ones_is_refused_at_its_field(control: StillControl) -> None:
    draft = {"model.kind": "folder", "model.id": "/etc"}
    assert ask(control, "model", draft=draft)["reply"]["trouble"]["title"]
    assert 'class="err"' in ask(control, "model-input", draft=draft)["reply"]["slots"]["facts"]


def test_settings_of_a_run_come_back_into_the_form(control: StillControl) -> None:
    run = control.begun("mine")
    reply = ask(control, "edit", run=run.id)["reply"]
    assert reply["draft"]["name"] == "mine"
    assert reply["go"] == "stage:2"


def test_a_run_can_be_stopped_and_its_record_deleted(control: StillControl) -> None:
    run = control.begun()
    ask(control, "stop", run=run.id)
    assert control.run(run.id).state is State.STOPPED
    assert ask(control, "delete", run=run.id)["reply"]["slots"]["drawer"] == ""
    assert control.count() == 0


def test_the_drawer_shows_spec_plan_and_steps(control: StillControl) -> None:
    run = control.served()
    drawer = ask(control, "open", run=run.id)["reply"]["slots"]["drawer"]
    assert drawer.count('data-log-step="') == len(run.plan.steps)
    assert run.id in drawer


@pytest.mark.parametrize("do", ["stop", "retry", "again", "edit", "open", "delete", "pin", "compare"])
def test_a_run_that_is_not_there_is_said_in_words(control: StillControl, do: str) -> None:
    reply = ask(control, do, run="nobody", language="zh")["reply"]
    assert "nobody" in reply["trouble"]["title"]
    assert reply["trouble"]["hint"]


def test_a_fault_in_the_panel_is_said_without_a_trace(control: StillControl) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    reply = carry_out({"x": broken}, {"do": "x", "serial": 1})["reply"]
    assert "secret detail" not in json.dumps(reply)
    assert "terminal" in reply["trouble"]["hint"]


@pytest.mark.parametrize("told", [{}, {"do": None}, {"do": "__class__"}, {"do": ["x"]}, {"do": "unknown"}], ids=str)
def test_what_is_not_known_does_nothing(control: StillControl, told: dict[str, Any]) -> None:
    assert carry_out(all_acts(control), told)["reply"].keys() == {"do", "serial"}


class Counting:
    """An act that counts how often it is carried out, and is held until it is let go."""

    def __init__(self) -> None:
        self.times = 0
        self.goes = threading.Event()

    def __call__(self, told: Mapping[str, Any], language: Language) -> dict[str, Any]:
        self.times += 1
        assert self.goes.wait(60)
        return {"reply": {"time": self.times}}


def counting(control: StillControl) -> tuple[Acts, Counting]:
    acts, act = Acts(control), Counting()
    acts._acts["count"] = act
    return acts, act


async def test_a_request_that_is_sent_again_is_carried_out_once(control: StillControl) -> None:
    acts, act = counting(control)
    first = asyncio.ensure_future(acts.answer({"do": "count", "key": "a", "serial": 1}))
    meanwhile = asyncio.ensure_future(acts.answer({"do": "count", "key": "a", "serial": 1}))
    await asyncio.sleep(0)
    act.goes.set()
    later = await acts.answer({"do": "count", "key": "a", "serial": 1})
    assert await first == await meanwhile == later
    assert act.times == 1
    assert (await acts.answer({"do": "count", "key": "b"}))["reply"]["time"] == 2
    assert [(await acts.answer({"do": "count"}))["reply"]["time"] for _ in range(2)] == [3, 4], (
        "no key: each for itself"
    )


async def test_a_page_that_leaves_ends_nothing_and_finds_the_answer(control: StillControl) -> None:
    acts, act = counting(control)
    left = asyncio.ensure_future(acts.answer({"do": "count", "key": "a"}))
    await asyncio.sleep(0)
    left.cancel()
    with pytest.raises(asyncio.CancelledError):
        await left
    act.goes.set()
    assert (await acts.answer({"do": "count", "key": "a"}))["reply"]["time"] == 1


async def test_only_so_many_answers_are_kept(control: StillControl) -> None:
    acts, act = counting(control)
    act.goes.set()
    for number in range(MOST_KEPT + 20):
        await acts.answer({"do": "count", "key": str(number)})
    assert len(acts._asked) <= MOST_KEPT + 1
    assert (await acts.answer({"do": "count", "key": str(number)}))["reply"]["time"] == MOST_KEPT + 20
    assert (await acts.answer({"do": "count", "key": "0"}))["reply"]["time"] == MOST_KEPT + 21


def test_the_page_uses_no_event_of_gradio_s() -> None:
    assert not build().get_config_file()["dependencies"]


def test_tabs_have_their_names_in_both_languages() -> None:
    assert translations()["en"].keys() == translations()["zh-CN"].keys()


def test_the_head_asks_no_other_host() -> None:
    assert "//" not in head().replace("</", "")
