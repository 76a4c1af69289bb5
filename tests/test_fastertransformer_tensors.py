"""What FasterTransformer's models are sent for a chat, and what is shown of what they answer."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from backends import pbtxt, prompts
from backends.errors import BadInput
from backends.fastertransformer import tensors
from backends.spec import Chat, Message, Piece, Sampling, Tensor
from backends.tokenizers import load
from tests.upstream import FIXTURES

WORDS = ("<unk>", "<s>", "</s>", "Hello", "my", "name", "is", "Slipway", "and", "ships", "sail", "!", "Human:",
         "Assistant:")  # fmt: skip


def make_tokenizer(folder: Path, template: str | None = None) -> str:
    """A word-level tokenizer that puts <s> in front."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    inner = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    inner.decoder = decoders.Fuse()
    folder.mkdir(parents=True, exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    config: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    if template:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return str(folder)


@pytest.fixture
def told(tmp_path: Path) -> dict[str, str]:
    folder = make_tokenizer(tmp_path / "model")
    return {"family": "llama", "tokenizer": folder, "template": "raw", "seed": "UINT64", "final_flag": "false",
            "context": "64", "new_tokens": "32", "start_id": "1", "end_id": "2", "all_inputs": "false"}  # fmt: skip


def inputs(chat: Chat, told: dict[str, str]) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in tensors.session(chat, told).inputs}


def response(ids: Iterable[int], longest: int = 40) -> dict[str, Tensor]:
    """What a server sends: all ids so far, padded to the longest answer, and how many of them count."""
    known = tuple(ids)
    padded = known + (0,) * (longest - len(known))
    return {
        "output_ids": Tensor(name="output_ids", datatype="UINT32", shape=(1, 1, longest), values=padded),
        "sequence_length": Tensor(name="sequence_length", datatype="UINT32", shape=(1, 1), values=(len(known),)),
    }


def answer(chat: Chat, told: dict[str, str], *responses: Iterable[int]) -> list[Piece]:
    """The pieces that come of responses, as the panel shows them."""
    session = tensors.session(chat, told)
    pieces = []
    for ids in responses:
        piece = session.decode(response(ids))
        if piece is not None:
            pieces.append(piece)
            if piece.finish:
                return pieces
    last = session.finish()
    return pieces if last is None else [*pieces, last]


PROMPT = (1, 3, 4, 5, 6)  # <s> Hello my name is
CHAT = Chat(prompt="Hello my name is", sampling=Sampling(max_tokens=10, temperature=0.0))


# --- LLaMA ------------------------------------------------------------------------------------------------------------


def test_a_llama_is_sent_ids_their_number_and_the_number_of_new_ones(told: dict[str, str]) -> None:
    sent = inputs(CHAT, told)
    assert (sent["input_ids"].values, sent["input_ids"].shape) == (PROMPT, (1, 5))
    assert (sent["input_lengths"].values, sent["request_output_len"].values) == ((5,), (10,))
    assert {tensor.shape for name, tensor in sent.items() if name != "input_ids"} == {(1, 1)}


def test_cumulative_ids_with_the_prompt_in_front_are_shown_as_what_is_new(told: dict[str, str]) -> None:
    pieces = answer(CHAT, told, (*PROMPT, 7), (*PROMPT, 7, 8, 9), (*PROMPT, 7, 8, 9, 10))
    assert [piece.text for piece in pieces] == ["Slipway", "andships", "sail", ""]
    assert (pieces[-1].finish, pieces[-1].completion_tokens, pieces[-1].prompt_tokens) == ("stop", 4, 5)


def test_the_end_is_found_without_a_flag_by_the_streams_end(told: dict[str, str]) -> None:
    assert tensors.session(CHAT, told).final_flag is False
    assert answer(CHAT, told, (*PROMPT, 7))[-1].finish == "stop"


def test_an_answer_as_long_as_was_asked_for_ended_by_its_length(told: dict[str, str]) -> None:
    pieces = answer(CHAT, told, (*PROMPT, *([7] * 10)))
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("length", 10)


def test_what_follows_the_end_token_is_padding(told: dict[str, str]) -> None:
    pieces = answer(CHAT, told, (*PROMPT, 7, 2, 2, 2))
    assert "".join(piece.text for piece in pieces) == "Slipway"
    assert (pieces[-1].finish, pieces[-1].completion_tokens) == ("stop", 1)


def test_a_response_that_was_overtaken_on_its_way_is_left_out(told: dict[str, str]) -> None:
    pieces = answer(CHAT, told, (*PROMPT, 7, 8, 9), (*PROMPT, 7))
    assert "".join(piece.text for piece in pieces) == "Slipwayandships"


def test_a_repeated_response_says_nothing_new(told: dict[str, str]) -> None:
    pieces = answer(CHAT, told, (*PROMPT, 7), (*PROMPT, 7))
    assert [piece.text for piece in pieces] == ["Slipway", ""]


def test_a_stop_text_ends_the_answer_before_the_server_does(told: dict[str, str]) -> None:
    chat = CHAT.model_copy(update={"sampling": Sampling(max_tokens=10, stop=("ships",))})
    pieces = answer(chat, told, (*PROMPT, 7, 8), (*PROMPT, 7, 8, 9, 10))
    assert "".join(piece.text for piece in pieces) == "Slipwayand"
    assert pieces[-1].finish == "stop"


def test_what_may_become_a_stop_text_is_held_back(told: dict[str, str]) -> None:
    chat = CHAT.model_copy(update={"sampling": Sampling(max_tokens=10, stop=("andships",))})
    assert [piece.text for piece in answer(chat, told, (*PROMPT, 7, 8), (*PROMPT, 7, 8, 10))] == [
        "Slipway", "andsail", ""
    ]  # fmt: skip


def test_ids_beyond_the_vocabulary_do_not_break_the_answer(told: dict[str, str]) -> None:
    assert "".join(piece.text for piece in answer(CHAT, told, (*PROMPT, 7, 31_999))) == "Slipway"


def test_a_prompt_that_fills_the_context_is_refused_with_words(told: dict[str, str]) -> None:
    with pytest.raises(BadInput) as caught:
        tensors.session(Chat(prompt=" ".join(["ships"] * 64)), told)
    assert "64 tokens" in caught.value.message.en


def test_the_answer_is_as_long_as_the_context_leaves_room_for(told: dict[str, str]) -> None:
    chat = Chat(prompt=" ".join(["ships"] * 50), sampling=Sampling(max_tokens=30))
    assert inputs(chat, told)["request_output_len"].values == (13,)


# --- drawing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "top_k", "top_p"),
    [
        (Sampling(temperature=0.0), 1, 0.0),
        (Sampling(temperature=0.0, top_p=0.9), 1, 0.0),
        (Sampling(), 50, 0.0),
        (Sampling(top_p=0.9), 0, 0.9),
        (Sampling(top_k=7, top_p=0.9), 7, 0.9),
        (Sampling(top_k=5000), 1024, 0.0),
    ],
)
def test_top_k_and_top_p_are_told_as_fastertransformer_takes_them(
    told: dict[str, str], sampling: Sampling, top_k: int, top_p: float
) -> None:
    sent = inputs(Chat(prompt="Hello", sampling=sampling), told)
    assert (sent["runtime_top_k"].values, sent["runtime_top_p"].values) == ((top_k,), (top_p,))


def test_two_answers_without_a_seed_are_drawn_with_different_ones(told: dict[str, str]) -> None:
    assert len({inputs(CHAT, told)["random_seed"].values for _ in range(5)}) > 1


def test_the_seed_has_the_type_that_the_branch_takes(told: dict[str, str]) -> None:
    chat = Chat(prompt="Hello", sampling=Sampling(seed=2**40))
    assert inputs(chat, told)["random_seed"].datatype == "UINT64"
    old = inputs(chat, told | {"seed": "INT32"})["random_seed"]
    assert old.datatype == "INT32"
    assert 0 <= old.values[0] < 2**31


# --- templates --------------------------------------------------------------------------------------------------------

TURNS = (
    Message(role="system", content="Be short."),
    Message(role="user", content="Hi"),
    Message(role="assistant", content="Hello."),
    Message(role="user", content="Who?"),
)


def test_llama2_has_its_system_words_in_the_first_turn() -> None:
    expected = "[INST] <<SYS>>\nBe short.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Who? [/INST]"
    assert prompts.llama2(TURNS) == expected


def test_atom_names_who_speaks() -> None:
    assert prompts.atom(TURNS[1:]) == "Human: Hi\n</s><s>Assistant: Hello.\n</s><s>Human: Who?\n</s><s>Assistant: "


@pytest.mark.parametrize("template", [prompts.llama2, prompts.atom])
def test_turns_that_do_not_alternate_are_refused(template: object) -> None:
    for turns in (TURNS[:3], (TURNS[2],), (TURNS[1], TURNS[3])):
        with pytest.raises(BadInput):
            template(turns)


def test_the_atom_template_reaches_the_server_with_one_start_token(told: dict[str, str]) -> None:
    chat = Chat(messages=(Message(role="user", content="Hello"),))
    ids = inputs(chat, told | {"template": "atom"})["input_ids"].values
    assert ids[:3] == (1, 12, 3)


def test_the_tokenizers_own_template_brings_its_own_start_token(told: dict[str, str], tmp_path: Path) -> None:
    template = "<s> {% for m in messages %}{{ m.content }} {% endfor %}"
    folder = make_tokenizer(tmp_path / "templated", template)
    chat = Chat(messages=(Message(role="user", content="Hello"),))
    assert inputs(chat, told | {"template": "auto", "tokenizer": folder})["input_ids"].values == (1, 3)


def test_a_template_that_refuses_a_conversation_says_why(told: dict[str, str], tmp_path: Path) -> None:
    folder = make_tokenizer(tmp_path / "refusing", "{{ raise_exception('only one turn') }}")
    chat = Chat(messages=(Message(role="user", content="Hello"),))
    with pytest.raises(BadInput) as caught:
        tensors.session(chat, told | {"template": "auto", "tokenizer": folder})
    assert "only one turn" in caught.value.message.en


def test_a_folder_without_a_tokenizer_is_told_with_words(told: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        tensors.session(CHAT, told | {"tokenizer": str(tmp_path)})
    assert caught.value.field == "tokenizer"


# --- T5 and GPT-J -----------------------------------------------------------------------------------------------------


def test_t5_is_asked_by_its_own_names_and_answers_without_the_prompt(told: dict[str, str]) -> None:
    t5 = told | {"family": "t5", "seed": "INT32"}
    sent = inputs(CHAT, t5)
    assert (sent["sequence_length"].values, sent["max_output_len"].values) == ((5,), (10,))
    assert "input_lengths" not in sent
    pieces = answer(CHAT, t5, (7, 8, 2))
    assert "".join(piece.text for piece in pieces) == "Slipwayand"
    assert pieces[-1].finish == "stop"


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_bad_words_are_ids_in_a_row_and_below_them_where_each_word_ends(told: dict[str, str], family: str) -> None:
    """As ban_bad_words.cu reads them: [batch, 2, ids], -1 where no further word ends."""
    chat = CHAT.model_copy(update={"sampling": Sampling(bad_words=("my name is", "Slipway"))})
    sent = inputs(chat, told | {"family": family})["bad_words_list"]
    assert (sent.datatype, sent.shape) == ("INT32", (1, 2, 4))
    assert (sent.values[:4], sent.values[4:]) == ((4, 5, 6, 7), (3, 4, -1, -1))
    assert "bad_words_list" not in inputs(CHAT, told | {"family": family})


@pytest.mark.parametrize(("family", "folder"), [
    ("llama", "backend/all_models/llama"), ("t5", "blog/all_models/t5"), ("gptj", "blog/all_models/gptj"),
])  # fmt: skip
def test_the_models_have_the_tensor_of_bad_words(told: dict[str, str], family: str, folder: str) -> None:
    model = "ensemble" if family == "gptj" else "fastertransformer"
    config = pbtxt.read((FIXTURES / folder / model / "config.pbtxt").read_text("utf-8"))
    there = {one.name: one for one in config.input}
    sent = inputs(CHAT.model_copy(update={"sampling": Sampling(bad_words=("ship",))}), told | {"family": family})
    one = sent["INPUT_2" if family == "gptj" else "bad_words_list"]
    kind = {"BYTES": "STRING"}.get(one.datatype, one.datatype)
    assert pbtxt.DATA_TYPES[there[one.name].data_type] == f"TYPE_{kind}"
    assert len(there[one.name].dims) + 1 == len(one.shape)


def gptj(told: dict[str, str], text: str, chat: Chat = CHAT) -> Piece | None:
    session = tensors.session(chat, told | {"family": "gptj", "all_inputs": "true", "seed": "INT32"})
    return session.decode(
        {"OUTPUT_0": Tensor(name="OUTPUT_0", datatype="BYTES", shape=(1, 1), values=(text.encode(),))}
    )


def test_gptj_is_sent_text_and_every_input_that_its_branch_requires(told: dict[str, str]) -> None:
    sent = inputs(CHAT, told | {"family": "gptj", "all_inputs": "true", "seed": "INT32"})
    required = {"INPUT_0", "INPUT_1", "INPUT_2", "INPUT_3", "runtime_top_k", "runtime_top_p", "temperature",
                "beam_search_diversity_rate", "len_penalty", "repetition_penalty", "random_seed",
                "is_return_log_probs", "beam_width", "start_id", "end_id"}  # fmt: skip
    assert set(sent) == required
    assert sent["INPUT_0"].values == ("Hello my name is",)


def test_gptj_reads_bad_words_from_one_line_of_csv(told: dict[str, str]) -> None:
    words = ("ship", "slip, way", 'the "sea"')
    chat = CHAT.model_copy(update={"sampling": Sampling(bad_words=words)})
    (line,) = inputs(chat, told | {"family": "gptj"})["INPUT_2"].values
    assert list(csv.reader([str(line)])) == [[form for word in words for form in (word, f" {word}")]]
    assert inputs(CHAT, told | {"family": "gptj"})["INPUT_2"].values == ("",)


@pytest.mark.parametrize(
    ("text", "shown", "finish"),
    [
        ("Hello my name is Slipway", " Slipway", "length"),
        ("Hello my name is Slipway<|endoftext|><|endoftext|>", " Slipway", "stop"),
    ],
)
def test_gptj_is_shown_without_its_prompt_and_its_padding(
    told: dict[str, str], text: str, shown: str, finish: str
) -> None:
    piece = gptj(told, text)
    assert piece is not None
    assert (piece.text, piece.finish) == (shown, finish)


def test_a_plain_request_to_a_streaming_model_is_explained() -> None:
    words = "ModelInfer RPC doesn't support models with decoupled transaction policy"
    assert "streams its answers" in tensors.refused(words).message.en
    assert tensors.refused("anything else").message.en == "anything else"


# --- tokenizers that are only a sentencepiece model -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "types"),
    [("LlamaTokenizer", "tokenizer.model", "llama"), ("T5Tokenizer", "spiece.model", "t5")],
)
def test_a_tokenizer_of_sentencepiece_alone_is_loaded(tmp_path: Path, kind: str, name: str, types: str) -> None:
    import sentencepiece

    lines = ["a ship lies on the slipway", "the slipway leads a ship to the sea", "ships sail"] * 20
    with (tmp_path / name).open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            vocab_size=60,
            hard_vocab_limit=False,
            model_type="bpe" if types == "llama" else "unigram",
            minloglevel=2,
        )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}), encoding="utf-8")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": types}), encoding="utf-8")
    tokenizer = load(str(tmp_path))
    assert tokenizer.decode(tokenizer.encode("the slipway leads a ship")).strip() == "the slipway leads a ship"
