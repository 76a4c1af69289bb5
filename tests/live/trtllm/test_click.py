"""From a click in the wizard to an answer in the Chat page, for each recipe, and what comes between. See story.py."""

from __future__ import annotations

import pytest

from app.control import Control
from backends.engines import way_of
from backends.lint import lint
from backends.runs import State
from tests.live.trtllm.parts import skipped
from tests.live.trtllm.story import Told

pytestmark = pytest.mark.live
NAMES = ("qwen", "llama", "middle", "llmapi", "vllm")


@pytest.fixture(params=NAMES)
def told(request: pytest.FixtureRequest, clicked: dict[str, Told]) -> Told:
    return clicked[request.param]


def test_each_recipe_goes_from_click_to_an_answer_that_streams_into_the_page(control: Control, told: Told) -> None:
    assert told.answer == told.recipe.answer
    parts = [piece for piece in told.pieces if piece != told.answer]  # a busy page draws several at once
    assert parts and all(told.answer.startswith(piece) for piece in parts), told.pieces
    run = control.run(told.run_id)
    assert (run.state, way_of(run.spec), run.spec.limits.context) == (State.SERVING, told.recipe.card, 192)
    assert run.spec.limits.new_tokens == (1024 if told.recipe.card == "vllm" else 96)


def test_a_failure_is_shown_with_its_cause_at_its_step(told: Told) -> None:
    assert told.failed is not None and told.failed.trouble is not None
    assert told.failed.trouble.step == told.recipe.step
    assert told.recipe.fails in told.alert


def test_a_retry_goes_on_behind_what_was_done(control: Control, told: Told) -> None:
    plan = [step.id for step in control.run(told.run_id).plan.steps]
    long = {
        "backend-source",
        "library-source",
        "image",
        "wheel",
        "packages",
        "image-check",
        "tokenizer-check",
        "convert",
    }
    before = long & set(plan[: plan.index(told.recipe.step)])
    kept = skipped(control, control.run(told.run_id))
    assert "image" in before and before <= kept
    assert told.recipe.step not in kept and 0 < told.percent < 100


def test_a_cancel_leaves_no_container(told: Told) -> None:
    assert told.left == []


def test_when_panel_and_worker_are_killed_the_work_goes_on_in_its_container(control: Control, told: Told) -> None:
    assert told.boxes[0] == told.boxes[1] and len(told.boxes[0]) == 1
    assert told.workers[0] != told.workers[1]
    assert control.run(told.run_id).attempt == 3


def test_what_each_deployment_wrote_is_well(control: Control, told: Told) -> None:
    assert lint(control.settings.home / "runs" / told.run_id / "repository") == ()
