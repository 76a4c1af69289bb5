"""The LLM API of TensorRT-LLM 1.2 and vLLM on Triton, which build no engine: how they answer. See story.py."""

from __future__ import annotations

import pytest
from openai import OpenAI

from app.control import Control
from backends.errors import BadInput, Refused
from backends.lint import lint
from backends.runs import Run
from tests.live.trtllm.parts import ask, log, prompt, said
from tests.live.trtllm.story import Told

pytestmark = pytest.mark.live
WORDS = "I am a ship on the slipway, 船在船台上。"


@pytest.fixture(params=["llmapi", "vllm"])
def served(request: pytest.FixtureRequest, control: Control, clicked: dict[str, Told]) -> Run:
    return control.run(clicked[request.param].run_id)


def test_an_answer_streams_in_clean_pieces_to_its_end(control: Control, served: Run) -> None:
    pieces = ask(control, served, prompt(WORDS))
    assert said(pieces) == WORDS
    assert len([piece for piece in pieces if piece.text]) > 10
    assert "\ufffd" not in said(pieces) and pieces[-1].finish == "stop"


def test_a_stop_text_ends_an_answer_and_is_not_in_it(control: Control, served: Run) -> None:
    pieces = ask(control, served, prompt(WORDS, stop=("on the",)))
    assert (said(pieces), pieces[-1].finish) == ("I am a ship ", "stop")


def test_a_bad_word_is_left_out_by_vllm_and_refused_for_the_llm_api_which_has_no_input(
    control: Control, served: Run
) -> None:
    chat = prompt(WORDS, bad_words=("ship",))
    if served.spec.engine == "vllm":
        assert said(ask(control, served, chat)) == WORDS.replace("ship", "shi")
        return
    with pytest.raises(BadInput) as refused:
        ask(control, served, chat)
    assert refused.value.field == "bad_words" and "no input" in refused.value.message.en


def test_an_answer_ends_at_its_limit(control: Control, served: Run) -> None:
    pieces = ask(control, served, prompt(WORDS, max_tokens=6))
    assert (said(pieces), pieces[-1].finish, pieces[-1].completion_tokens) == ("I am a", "length", 6)


def test_a_prompt_without_room_is_refused_in_words(control: Control, served: Run) -> None:
    with pytest.raises(Refused) as refused:
        ask(control, served, prompt("x" * 300))
    assert "300" in refused.value.words and refused.value.of("zh")


def test_the_openai_api_streams_it(openai: OpenAI, served: Run) -> None:
    asked = {"model": served.name, "prompt": "ship ahoy", "temperature": 0, "max_tokens": 4, "stream": True}
    parts = [part for part in openai.completions.create(**asked) if part.choices]
    assert "".join(part.choices[0].text for part in parts) == "ship"
    assert parts[-1].choices[0].finish_reason == "length"


def test_what_the_model_is_told_is_what_the_spec_says(control: Control, served: Run) -> None:
    if served.spec.engine == "tensorrt_llm":
        assert "'max_seq_len': 192" in log(control, served, "serve")
        assert "tensorrt_llm 1.2.1" in log(control, served, "image-check")
    repository = control.settings.home / "runs" / served.id / "repository"
    assert [path.name for path in repository.iterdir()] == [served.plan.service.model]
    assert lint(repository) == ()
