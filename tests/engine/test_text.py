"""Token ids to text: whole characters, stop strings."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_engine.text import Detokeniser, StopStrings
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

TEXT = "Hi 你好，世界 👩‍👩‍👧 🇨🇳 한국어 é ✓"


class Slow:
    """The same tokenizer, as one without a fast core looks."""

    is_fast = False

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self.decode = fast.decode


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One id a byte: the hardest case for characters of several tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_characters_of_several_tokens_come_out_whole(tokenizer: PreTrainedTokenizerFast, kind: str) -> None:
    detokeniser = Detokeniser(tokenizer if kind == "fast" else Slow(tokenizer))
    pieces = [detokeniser.feed((token,)) for token in tokenizer(TEXT)["input_ids"]]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + detokeniser.flush() == TEXT
    assert sum(map(bool, pieces)) == len(TEXT)


@pytest.mark.parametrize("kind", ["fast", "slow"])
def test_an_answer_cut_inside_a_character_ends_as_the_whole_decoded_at_once(
    tokenizer: PreTrainedTokenizerFast, kind: str
) -> None:
    ids = tokenizer("a你")["input_ids"][:-1]
    detokeniser = Detokeniser(tokenizer if kind == "fast" else Slow(tokenizer))
    assert detokeniser.feed(ids) + detokeniser.flush() == tokenizer.decode(ids)


def test_bytes_that_are_no_text_do_not_stop_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    draw = random.Random(0)
    ids = [draw.randrange(256) for _ in range(400)]
    detokeniser = Detokeniser(tokenizer)
    said = "".join(detokeniser.feed((token,)) for token in ids) + detokeniser.flush()
    assert said


@given(st.text(alphabet="abc", max_size=30), st.lists(st.text(alphabet="abc", min_size=1, max_size=4), max_size=3))
def test_a_stop_string_cuts_the_same_wherever_the_pieces_end(text: str, stops: list[str]) -> None:
    def cut(pieces: list[str]) -> tuple[str, bool]:
        stop = StopStrings(stops)
        out = ""
        for piece in pieces:
            out += stop.feed(piece)
            if stop.hit:
                return out, True
        return out + stop.flush(), False

    letters = cut(list(text))
    assert letters[1] == any(stop in text for stop in stops)
    if not letters[1]:
        assert letters[0] == text
    else:
        assert text.startswith(letters[0])
        assert any(text.startswith(stop, len(letters[0])) for stop in stops)
        assert not any(stop in letters[0] for stop in stops)


def test_a_tail_that_could_begin_a_stop_string_is_held_back() -> None:
    stop = StopStrings(["\nUser:"])
    assert stop.feed("Hello\nUs") == "Hello"
    assert stop.feed("ually so") == "\nUsually so"
    assert stop.feed(" done\nUser: hi") == " done"
    assert stop.hit and stop.flush() == ""
