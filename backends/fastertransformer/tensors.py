"""Chat <-> tensors of FasterTransformer's models: LLaMA's stream of token ids, GPT-J's text ensemble, T5's ids.

Shapes are those with the batch in front: one row. What LLaMA streams is cumulative and begins with the prompt:
`output_ids` UINT32 [1, 1, longest], of which the first `sequence_length` UINT32 [1, 1] count; a response comes every
five tokens. T5 answers without its prompt. The ensemble answers in text, its prompt in front; its bad words (INPUT_2)
are one line of comma-separated values, which it tokenises.
"""

from __future__ import annotations

import csv
import io
import secrets
from collections.abc import Mapping
from typing import Literal

from backends import bad_words, prompts, tokenizers
from backends.errors import BadInput, Refused
from backends.sessions import Session
from backends.spec import Chat, Piece, Sampling, Tensor
from backends.text import Text
from backends.tokenizers import Tokenizer

_CUT = "\ufffd"  # the end of a text whose last character is not whole yet
_END_OF_TEXT = "<|endoftext|>"
_MOST_TOP_K = 1024
Finish = Literal["stop", "length"]


def session(chat: Chat, told: Mapping[str, str]) -> Session:
    """A session for one chat. `told` is what the plan's first question says of the deployment (serve.py).

    Raises BadInput for a prompt that leaves no room for an answer, and where the tokenizer cannot be loaded.
    """
    if told.get("family") == "gptj":
        return _TextSession(chat, told)
    tokenizer = tokenizers.load(told["tokenizer"])
    return _IdSession(chat, told, tokenizer, prompt_first=told.get("family") == "llama")


def prompt(chat: Chat, told: Mapping[str, str]) -> str:
    """The text that the model is given to continue. Raises BadInput where the tokenizer cannot be loaded."""
    if told.get("family") == "gptj":
        return chat.prompt if chat.prompt is not None else prompts.plain(chat.messages)
    return text_of(chat, told, tokenizers.load(told["tokenizer"]))[0]


def no_bad_words(told: Mapping[str, str]) -> Text | None:  # noqa: ARG001
    """Why answers cannot be kept free of words; None: they can."""
    return None


def refused(words: str) -> Refused:
    """What the server said of a request that it did not serve, with the known causes in words."""
    if "decoupled transaction policy" in words:
        return Refused(
            words,
            Text(
                en="This model streams its answers; it cannot be asked for a single one.",
                zh="该模型以流式返回，不能用普通请求访问。",
            ),
        )
    return Refused(words)


class _IdSession:
    """Token ids to the server, token ids back: LLaMA with its prompt in front of the answer, T5 without."""

    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str], tokenizer: Tokenizer, *, prompt_first: bool) -> None:
        self._tokenizer = tokenizer
        self._stops = chat.sampling.stop
        ids = tokenizer.encode(*text_of(chat, told, tokenizer))
        self._prompt_tokens = len(ids)
        self._skip = len(ids) if prompt_first else 0
        room = int(told["context"]) - self._skip
        self._most = _most(chat.sampling, told, room)
        self._end = int(told["end_id"]) if "end_id" in told else None
        self._tokens = 0
        self._said = ""
        self._text = ""
        self._ended: Finish | None = None
        self.final_flag = told.get("final_flag") == "true"
        self.outputs: tuple[str, ...] = ("output_ids", "sequence_length")
        length = "input_lengths" if prompt_first else "sequence_length"
        asked = "request_output_len" if prompt_first else "max_output_len"
        self.inputs: tuple[Tensor, ...] = (
            Tensor(name="input_ids", datatype="UINT32", shape=(1, len(ids)), values=ids),
            _one(length, "UINT32", len(ids)),
            _one(asked, "UINT32", self._most),
            *_sampled(chat.sampling, told),
            *_banned(chat.sampling.bad_words, tokenizer),
        )

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        ids, length = outputs["output_ids"].values, int(outputs["sequence_length"].values[0])
        answer = [int(one) for one in ids[self._skip : length]]
        if self._end is not None and self._end in answer:  # what follows the end is padding
            answer = answer[: answer.index(self._end)]
            self._ended = "stop"
        elif len(answer) >= self._most:
            self._ended = "length"
        if len(answer) < self._tokens:  # an older response that was overtaken on its way
            return None
        self._tokens = len(answer)
        self._text = self._tokenizer.decode(answer)
        shown, stopped = cut_at(self._text, self._stops)
        if stopped:
            return self._last(shown, "stop")
        return self._new(_whole(shown, self._stops))

    def finish(self) -> Piece | None:
        return self._last(self._text, self._ended or "stop")

    def _new(self, text: str) -> Piece | None:
        """What is new in `text`. A tokenizer may still change its mind about the last word; what was said stays."""
        if not text.startswith(self._said) or text == self._said:
            return None
        new = text[len(self._said) :]
        self._said = text
        return Piece(text=new, completion_tokens=self._tokens)

    def _last(self, text: str, why: Finish) -> Piece:
        new = text[len(self._said) :]  # what was said stays said, even where the tokenizer sees it otherwise now
        return Piece(text=new, finish=why, prompt_tokens=self._prompt_tokens, completion_tokens=self._tokens)


class _TextSession:
    """GPT-J's ensemble: text to the server, text back, tokenised there."""

    outputs: tuple[str, ...] = ("OUTPUT_0", "sequence_length")
    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str]) -> None:
        self._prompt = chat.prompt if chat.prompt is not None else prompts.plain(chat.messages)
        self._stops = chat.sampling.stop
        self._most = _most(chat.sampling, told, int(told["context"]))
        self.final_flag = told.get("final_flag") == "true"
        self.inputs: tuple[Tensor, ...] = (
            Tensor(name="INPUT_0", datatype="BYTES", shape=(1, 1), values=(self._prompt,)),
            _one("INPUT_1", "UINT32", self._most),
            Tensor(name="INPUT_2", datatype="BYTES", shape=(1, 1), values=(_line(chat.sampling.bad_words),)),
            Tensor(name="INPUT_3", datatype="BYTES", shape=(1, 1), values=("",)),
            *_sampled(chat.sampling, told),
        )

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        value = outputs["OUTPUT_0"].values[0]
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
        answer = text.removeprefix(self._prompt)
        shown, stopped = cut_at(answer, (_END_OF_TEXT, *self._stops))
        return Piece(text=shown, finish="stop" if stopped else "length")

    def finish(self) -> Piece | None:
        return None


def _banned(words: tuple[str, ...], tokenizer: Tokenizer) -> tuple[Tensor, ...]:
    return (bad_words.word_list(words, tokenizer, "bad_words_list"),) if words else ()


def _line(words: tuple[str, ...]) -> str:
    """Bad words as the ensemble reads them: one line of CSV, a comma in a word quoted. Empty: none."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(bad_words.forms(words))
    return line.getvalue()


def text_of(chat: Chat, told: Mapping[str, str], tokenizer: Tokenizer) -> tuple[str, bool]:
    """What the model is given to continue, and whether the tokenizer puts its start and end tokens around it.

    A tokenizer's own template writes them itself.
    """
    if chat.prompt is not None:
        return chat.prompt, True
    template = told.get("template", "auto")
    if template == "llama2":
        return prompts.llama2(chat.messages), True
    if template == "atom":
        return prompts.atom(chat.messages), True
    if template == "auto" and tokenizer.has_template:
        return tokenizer.prompt(chat.messages), False
    return prompts.plain(chat.messages), True


def cut_at(text: str, stops: tuple[str, ...]) -> tuple[str, bool]:
    """`text` up to the first of `stops`, and whether one was there."""
    places = [text.index(stop) for stop in stops if stop and stop in text]
    return (text[: min(places)], True) if places else (text, False)


def _whole(text: str, stops: tuple[str, ...]) -> str:
    """`text` without a character that is not whole yet and without what may become the beginning of a stop."""
    text = text.rstrip(_CUT)
    for size in range(min(len(text), max((len(stop) for stop in stops), default=1) - 1), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return text[:-size]
    return text


def _most(sampling: Sampling, told: Mapping[str, str], room: int) -> int:
    """Tokens of the answer: as asked, within what the deployment allows and the context holds."""
    if room < 1:
        raise BadInput(
            "messages",
            Text(
                en=f"The prompt fills the context of {int(told['context']):,} tokens; no room is left for an answer.",
                zh=f"提示已占满 {int(told['context']):,} 个 token 的上下文，没有空间生成回答。",
            ),
            Text(en="Shorten it, or begin a new chat.", zh="请缩短内容，或开始新的对话。"),
        )
    wanted = sampling.max_tokens or min(int(told["new_tokens"]), 256)
    return min(wanted, int(told["new_tokens"]), room)


def _sampled(sampling: Sampling, told: Mapping[str, str]) -> tuple[Tensor, ...]:
    """How tokens are drawn. FasterTransformer: top_k 0 leaves the choice to top_p; both 0 is greedy, as top_k 1 is."""
    greedy = sampling.temperature == 0.0
    top_k = 1 if greedy else min(sampling.top_k, _MOST_TOP_K) if sampling.top_k else 0 if sampling.top_p else 50
    top_p = 0.0 if greedy else sampling.top_p or 0.0
    seed = sampling.seed if sampling.seed is not None else secrets.randbelow(2**31)
    kind = told.get("seed", "UINT64")
    tensors = [
        _one("runtime_top_k", "UINT32", top_k),
        _one("runtime_top_p", "FP32", top_p),
        _one("temperature", "FP32", 1.0 if greedy or sampling.temperature is None else sampling.temperature),
        _one("repetition_penalty", "FP32", sampling.repetition_penalty or 1.0),
        _one("random_seed", kind, seed % 2**31 if kind == "INT32" else seed),
    ]
    if told.get("all_inputs") == "true":
        tensors += [
            _one("beam_search_diversity_rate", "FP32", 0.0),
            _one("len_penalty", "FP32", 1.0),
            _one("is_return_log_probs", "BOOL", False),
            _one("beam_width", "UINT32", 1),
            _one("start_id", "UINT32", int(told.get("start_id", "0"))),
            _one("end_id", "UINT32", int(told.get("end_id", "0"))),
        ]
    return tuple(tensors)


def _one(name: str, datatype: str, value: int | float | bool) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(1, 1), values=(value,))
