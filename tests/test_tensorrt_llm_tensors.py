"""Chats as tensors for every version of TensorRT-LLM on Triton and for vLLM, and their answers back."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from app.asking import in_step
from app.talking import talk
from backends.answers import Answer
from backends.errors import BadInput, Refused
from backends.reading import read
from backends.spec import Chat, Endpoint, Message, Piece, Sampling, Tensor
from backends.tensorrt_llm import qwen_tokens, tensors
from backends.vllm import tensors as vllm
from tests.trtllm_upstream import tensors as upstream
from tests.upstream import tiny_llama

TALK = {"interface": "ensemble", "template": "raw", "tokenizer": "/m", "new_tokens": "64", "context": "256",
        "streams": "true", "end_id": "2", "pad_id": "0", "ends": "2"}  # fmt: skip


def names(session: object) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in session.inputs}  # type: ignore[attr-defined]


def told(name: str, *values: object, datatype: str = "BYTES") -> dict[str, Tensor]:
    return {name: Tensor(name=name, datatype=datatype, shape=(1, len(values)), values=values)}  # type: ignore[arg-type]


def text_of(pieces: list[Piece | None]) -> str:
    return "".join(piece.text for piece in pieces if piece is not None)


def chat(prompt: str = "Hello", **sampling: object) -> Chat:
    return Chat(prompt=prompt, sampling=Sampling.model_validate(sampling))


# --- what goes in ---


@pytest.mark.parametrize(("interface", "version", "model"), [
    ("0.5-text", "0.5.0", "ensemble"), ("ensemble", "0.12.0", "ensemble"), ("bls", "0.12.0", "tensorrt_llm_bls"),
    ("ensemble", "0.19.0", "ensemble"), ("bls", "0.19.0", "tensorrt_llm_bls"),
    ("ensemble-seed", "1.2.1", "ensemble"), ("bls-seed", "1.2.1", "tensorrt_llm_bls"),
])  # fmt: skip
def test_every_tensor_is_one_that_the_model_has_with_its_type(interface: str, version: str, model: str) -> None:
    there = "\n".join(upstream(version, model, "input"))
    asked = chat(temperature=0.7, top_p=0.9, top_k=40, repetition_penalty=1.1, seed=7, stop=("END",),
                 bad_words=() if interface == "0.5-text" else ("ship",))  # fmt: skip
    excludes = {} if version == "0.12.0" else {"excludes": "true"}
    for tensor in tensors.session(asked, TALK | {"interface": interface} | excludes).inputs:
        kind = {"BYTES": "STRING"}.get(tensor.datatype, tensor.datatype)
        assert f'name: "{tensor.name}"\n  data_type: TYPE_{kind}' in there, tensor.name


@pytest.mark.parametrize("interface", ["0.5-text", "ensemble", "bls"])
def test_every_required_tensor_is_sent(interface: str) -> None:
    version, model = ("0.5.0", "ensemble") if interface == "0.5-text" else ("0.19.0", "ensemble")
    sent = names(tensors.session(chat(), TALK | {"interface": interface}))
    for one in upstream(version, model, "input"):
        if "optional: true" not in one:
            assert one.split('"')[1] in sent


def test_0_5_wants_stop_and_bad_words_though_they_do_nothing() -> None:
    sent = names(tensors.session(chat(stop=("END",)), TALK | {"interface": "0.5-text"}))
    assert sent["stop_words"].values == sent["bad_words"].values == ("",)
    assert sent["end_id"].values == (2,) and sent["max_tokens"].datatype == "UINT32"


def test_later_versions_are_sent_stop_words_only_where_there_are_any() -> None:
    assert "stop_words" not in names(tensors.session(chat(), TALK))
    assert names(tensors.session(chat(stop=("a", "b")), TALK))["stop_words"].values == ("a", "b")


def test_later_versions_are_sent_bad_words_as_they_begin_a_text_and_after_a_space() -> None:
    assert "bad_words" not in names(tensors.session(chat(), TALK))
    for interface in ("ensemble", "ensemble-seed", "bls", "bls-seed"):
        sent = names(tensors.session(chat(bad_words=("ship", " slip way")), TALK | {"interface": interface}))
        assert sent["bad_words"].values == ("ship", " ship", "slip way", " slip way")
        assert sent["bad_words"].shape == (1, 4)


@pytest.mark.parametrize("interface", ["0.5-text", "0.5-ids", "llmapi"])
def test_bad_words_are_refused_where_the_model_would_drop_them(interface: str) -> None:
    with pytest.raises(BadInput) as refused:
        tensors.session(chat(bad_words=("ship",)), TALK | {"interface": interface})
    assert refused.value.field == "bad_words"
    assert tensors.no_bad_words(TALK | {"interface": interface}) == refused.value.message


@pytest.mark.parametrize("words", [["x"] * 65, [" "], [""], ["x" * 65]])
def test_bad_words_are_limited_by_name(words: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        read(Sampling, {"bad_words": words}, "chat")
    assert refused.value.field == "chat.bad_words" and "64" in refused.value.message.zh


def test_the_newest_templates_call_the_seed_by_another_name() -> None:
    assert "seed" in names(tensors.session(chat(seed=1), TALK | {"interface": "bls-seed"}))
    assert "random_seed" in names(tensors.session(chat(seed=1), TALK | {"interface": "bls"}))


def test_the_prompt_is_left_out_by_an_input_only_where_the_model_has_it() -> None:
    """Ensembles before 0.14 know exclude_input_in_output as the core's parameter alone; Triton refuses more inputs."""
    assert "exclude_input_in_output" not in names(tensors.session(chat(), TALK))
    assert names(tensors.session(chat(), TALK | {"excludes": "true"}))["exclude_input_in_output"].values == (True,)


def test_a_model_that_calls_an_input_otherwise_is_asked_once_more_as_it_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which release renamed random_seed is not written down anywhere: the model's own word counts."""
    asked: list[set[str]] = []
    has = {"text_input", "max_tokens", "end_id", "pad_id", "stream", "temperature", "random_seed"}

    async def stream(
        endpoint: Endpoint, inputs: tuple[Tensor, ...], *_: object
    ) -> AsyncGenerator[dict[str, Tensor], None]:
        asked.append({one.name for one in inputs})
        if other := sorted(asked[-1] - has):
            raise Refused(f"[request id: 1] unexpected inference input '{other[0]}' for model 'ensemble'", None)
        yield told("text_output", "ship")

    def answer() -> str:
        believed = TALK | {"interface": "ensemble-seed", "excludes": "true"}
        endpoint = Endpoint(http_port=1, grpc_port=2, metrics_port=3, model="ensemble")
        return text_of(list(in_step(talk("tensorrt_llm", endpoint, chat(temperature=0.7), believed))))

    monkeypatch.setattr("app.talking.client.stream", stream)
    assert answer() == "ship"
    assert [one - has for one in asked] == [{"exclude_input_in_output", "seed"}, {"seed"}, set()]
    has.discard("random_seed")
    with pytest.raises(Refused):
        answer()


def test_greedy_is_top_k_1_and_no_temperature_of_0() -> None:
    sent = names(tensors.session(chat(temperature=0.0, top_p=0.5), TALK))
    assert (sent["top_k"].values, sent["temperature"].values) == ((1,), (1.0,))
    assert "top_p" not in sent and "random_seed" not in sent


def test_without_a_seed_two_questions_are_not_drawn_alike() -> None:
    seeds = {names(tensors.session(chat(temperature=1.0), TALK))["random_seed"].values for _ in range(3)}
    assert len(seeds) > 1


def test_a_conversation_is_written_in_its_format() -> None:
    asked = Chat(messages=(Message(role="user", content="你好"),))
    sent = names(tensors.session(asked, TALK | {"template": "chatml"}))
    assert sent["text_input"].values[0] == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    sent = names(tensors.session(asked, TALK | {"template": "llama2"}))
    assert sent["text_input"].values[0] == "[INST] 你好 [/INST]"


@pytest.mark.parametrize("interface", ["ensemble", "bls-seed", "llmapi", "vllm", "0.5-ids"])
def test_a_template_that_writes_the_start_token_does_not_double_it(tmp_path: Path, interface: str) -> None:
    folder = tiny_llama(tmp_path / "m")
    config = folder / "tokenizer_config.json"
    template = "{{ bos_token }}{% for one in messages %} {{ one.content }}{% endfor %}"
    config.write_text(json.dumps(json.loads(config.read_text("utf-8")) | {"chat_template": template}), "utf-8")
    asked = Chat(messages=(Message(role="user", content="Hello, my name is"),))
    talk = TALK | {"interface": interface, "template": "tokenizer", "tokenizer": str(folder)}
    sent = names((vllm if interface == "vllm" else tensors).session(asked, talk))
    if interface == "0.5-ids":
        assert sent["input_ids"].values.count(1) == 1 and sent["input_ids"].values[0] == 1
    else:
        assert sent["text_input"].values == (" Hello, my name is",)


def test_the_llm_api_has_no_batch_dimension() -> None:
    sent = tensors.session(chat(), TALK | {"interface": "llmapi"}).inputs
    assert all(tensor.shape == (1,) for tensor in sent)


def test_the_llm_api_is_sent_no_stop_texts_which_its_tokenizer_refuses_and_the_answer_is_cut_here() -> None:
    session = tensors.session(chat(stop=("on the",)), TALK | {"interface": "llmapi"})
    assert "sampling_param_stop" not in names(session)
    grown = [session.decode({"text_output": Tensor(name="text_output", datatype="BYTES", shape=(1,), values=(text,))})
             for text in ("I am", "I am a ship", "I am a ship on the slipway")]  # fmt: skip
    assert "".join(piece.text for piece in grown if piece) == "I am a ship " and grown[-1].finish == "stop"


# --- what comes back ---


def test_an_ensembles_new_texts_add_up_and_the_stream_ends_it() -> None:
    session = tensors.session(chat(), TALK)
    pieces = [session.decode(told("text_output", text)) for text in ("I", " am", " a", " ship")]
    pieces.append(session.finish())
    assert text_of(pieces) == "I am a ship"
    assert pieces[-1] is not None and pieces[-1].finish == "stop"


def test_bls_sends_all_text_so_far_and_an_empty_last_response() -> None:
    session = tensors.session(chat(), TALK | {"interface": "bls"})
    pieces = [session.decode(told("text_output", text)) for text in ("I", "I am", "I am a ship")]
    pieces += [session.decode({}), session.finish()]
    assert text_of(pieces) == "I am a ship"


@pytest.mark.parametrize("texts", [
    ("I am a ship", "I am a ship on", "I am a ship on the slipway"), ("I am a ship", " on", " the slipway"),
    ("I", " am a ship on", " the", " slipway"), ("I", "I am a ship", "I am a ship on the slipway"),
])  # fmt: skip
def test_the_llm_apis_text_is_understood_whole_or_new(texts: tuple[str, ...]) -> None:
    session = tensors.session(chat(), TALK | {"interface": "llmapi"})
    pieces = [session.decode(told("text_output", text)) for text in texts]
    pieces.append(session.decode(told("text_output", texts[-1]) | told("finish_reason", "length"))
                  if texts[-1].startswith("I am") else session.finish())  # fmt: skip
    assert text_of(pieces) == "I am a ship on the slipway"


def test_without_streaming_0_5_puts_the_prompt_in_front() -> None:
    session = tensors.session(chat("Hello"), TALK | {"interface": "0.5-text", "streams": "false"})
    piece = session.decode(told("text_output", b"<s> Hello, I am a ship"))
    assert piece is not None and (piece.text, piece.finish) == (", I am a ship", "stop")


def test_a_stop_that_comes_in_parts_is_never_shown() -> None:
    session = tensors.session(chat(stop=("END",)), TALK)
    pieces = [session.decode(told("text_output", text)) for text in ("ship E", "N", "D and more")]
    assert text_of(pieces) == "ship " and pieces[-1] is not None and pieces[-1].finish == "stop"


def test_ids_of_0_5_are_decoded_together_and_end_at_the_end_id(tmp_path: Path) -> None:
    from backends import tokenizers

    folder = str(tiny_llama(tmp_path / "llama"))
    ids = tokenizers.load(folder).encode("I am a ship", special=False)
    session = tensors.session(chat("I am"), TALK | {"interface": "0.5-ids", "tokenizer": folder})
    pieces = [session.decode(told("output_ids", one, datatype="INT32")) for one in (*ids, 2)]
    assert text_of(pieces).strip() == "I am a ship"
    last = pieces[-1]
    assert last is not None and (last.finish, last.completion_tokens) == ("stop", len(ids))


def test_a_prompt_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "llama"))
    with pytest.raises(BadInput):
        tensors.session(chat("I am a ship"), TALK | {"interface": "0.5-ids", "tokenizer": folder, "context": "2"})


def test_the_servers_words_on_a_long_prompt_are_told_in_both_languages() -> None:
    found = tensors.refused("Prompt length (5056) exceeds maximum input length (2048)")
    assert "longer than the engine" in found.message.en and "超过" in found.message.zh


@given(some.text(), some.lists(some.integers(1, 7), max_size=30), some.sampled_from([(), ("ab",), ("a", "bc")]))
def test_cutting_a_text_anywhere_says_the_same(text: str, sizes: list[int], stops: tuple[str, ...]) -> None:
    """However the text comes in parts, what is said is the text up to its first stop."""
    cuts = list(itertools.accumulate(sizes, initial=0))
    parts = [text[a:b] for a, b in itertools.pairwise([*cuts, len(text) + cuts[-1]])]
    grown, whole = Answer(stops), Answer(stops)
    one = [grown.more(part) for part in parts] + [grown.end("stop")]
    two = [whole.whole("".join(parts[: place + 1])) for place in range(len(parts))] + [whole.end("stop")]
    places = [text.index(stop) for stop in stops if stop in text]
    wanted = text[: min(places)] if places else text
    assert text_of(one) == text_of(two) == wanted


# --- Qwen's first tokenizer ---


@pytest.fixture
def qwen(tmp_path: Path) -> Path:
    """A rank file with every byte and a few merges."""
    merges = (b"he", b"ll", b"hell", b"hello", b" w", "你".encode()[:2], "你".encode())
    tokens = [bytes((one,)) for one in range(256)] + list(merges)
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (tmp_path / "qwen.tiktoken").write_text("".join(lines), encoding="utf-8")
    return tmp_path


def test_pairs_are_merged_lowest_rank_first_and_specials_are_their_own_tokens(qwen: Path) -> None:
    tokenizer = qwen_tokens.load(str(qwen))
    assert tokenizer.encode("hello 你<|im_end|>") == (259, 32, 262, 265)
    assert tokenizer.decode((259, 32, 262, 265)) == "hello 你"


@given(text=some.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    tokens = {bytes((one,)): one for one in range(256)}
    tokenizer = qwen_tokens.QwenTokenizer(tokens | {b"ab": 256})
    clean = text.encode("utf-8", "ignore").decode()
    for special in qwen_tokens.SPECIAL:
        clean = clean.replace(special, "")
    assert tokenizer.decode(tokenizer.encode(clean)) == clean


def test_a_rank_file_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    (tmp_path / "qwen.tiktoken").write_text("AA== 0\n", encoding="utf-8")
    with pytest.raises(BadInput):
        qwen_tokens.load(str(tmp_path))


# --- vLLM ---

VLLM = {"template": "raw", "tokenizer": "/m", "new_tokens": "64", "tells": "true"}


def test_vllm_is_told_sampling_as_one_json_text() -> None:
    sent = names(vllm.session(chat(temperature=0.0, max_tokens=900, stop=("END",)), VLLM))
    assert json.loads(str(sent["sampling_parameters"].values[0])) == {"max_tokens": 64, "temperature": 0.0,
                                                                      "stop": ["END"]}  # fmt: skip
    assert all(tensor.shape == (1,) for tensor in sent.values())


def test_vllm_is_given_bad_words_where_its_release_knows_them() -> None:
    asked = chat(bad_words=("ship",))
    for known in ({}, {"bans": "true"}):  # of a server that others started it is not told
        sent = names(vllm.session(asked, VLLM | known))
        assert json.loads(str(sent["sampling_parameters"].values[0]))["bad_words"] == ["ship"]
    with pytest.raises(BadInput) as refused:
        vllm.session(asked, VLLM | {"bans": "false"})
    said = vllm.refused("Unexpected keyword argument 'bad_words'")
    assert (refused.value.field, said.field) == ("bad_words", "bad_words")


def test_vllms_answer_ends_as_it_says_and_counts_tokens() -> None:
    session = vllm.session(chat(), VLLM)

    def answer(text: str, why: str) -> dict[str, Tensor]:
        counts = told("num_output_tokens", 2, datatype="UINT32") | told("num_input_tokens", 5, datatype="UINT32")
        return told("text_output", text) | told("finish_reason", why) | counts

    pieces = [session.decode(answer("I am", "None")), session.decode(answer(" a ship", "length"))]
    last = pieces[-1]
    assert text_of(pieces) == "I am a ship" and session.finish() is None
    assert last is not None and (last.finish, last.prompt_tokens, last.completion_tokens) == ("length", 5, 4)


def test_an_older_vllm_is_not_asked_what_it_does_not_tell() -> None:
    session = vllm.session(chat(), VLLM | {"tells": "false"})
    assert session.outputs == ("text_output",) and "return_finish_reason" not in names(session)
    session.decode(told("text_output", "I"))
    last = session.finish()
    assert last is not None and last.finish == "stop"
