"""The batches, in the embedded runtime: token for token what each model says alone, and nobody harms a neighbour."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import in_runtime

BATCHED = ("llama", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "gptj", "gpt2", "neox", "opt", "bloom", "phi")
BATCHED += ("falcon", "falcon_alibi", "t5")
SLOTTED = ("llama", "qwen2", "qwen3", "gemma", "gpt2", "neox", "opt", "phi", "falcon")
CHECKS = re.findall(r"^def (check_\w+)", (Path(__file__).parent / "in_runtime.py").read_text(), re.MULTILINE)


@pytest.fixture(scope="session")
def families(runtime_python: Path) -> dict[str, dict[str, Any]]:
    """What came of each family, decoded in a batch and alone."""
    return {told["family"]: told for told in in_runtime(runtime_python, "identity.py")}


@pytest.fixture(scope="session")
def checks(runtime_python: Path) -> dict[str, str]:
    """What each check found wrong."""
    return {told["check"]: told["problem"] for told in in_runtime(runtime_python, "in_runtime.py")}


@pytest.mark.parametrize("family", BATCHED)
def test_a_batch_says_token_for_token_what_generate_says(families: dict[str, dict[str, Any]], family: str) -> None:
    told = families[family]
    assert (told.get("error"), told["served"]) == (None, "batch")
    assert told["equal"] == told["of"] == 8
    assert told["distinct"] >= 20, "too few distinct tokens to prove anything"
    assert told["ended_early"] >= 1 and all(0 < cut < 60 for cut in told["cut"])


@pytest.mark.parametrize("family", SLOTTED)
def test_slots_say_token_for_token_what_generate_says(families: dict[str, dict[str, Any]], family: str) -> None:
    assert families[family]["slots"] == 8


@pytest.mark.parametrize("family", ["bart", "mamba"])
def test_the_self_test_catches_families_that_a_batch_would_falsify(
    families: dict[str, dict[str, Any]], family: str
) -> None:
    assert families[family]["served"] == "single" and families[family]["why"]


@pytest.mark.parametrize("name", CHECKS)
def test_in_the_runtime(checks: dict[str, str], name: str) -> None:
    assert checks[name] == ""
