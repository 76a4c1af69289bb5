"""Chat <-> tensors of TensorRT-LLM's models: token ids of 0.5.0's core, text of its ensemble, ensemble and BLS of later
versions, the LLM API.

What the servers do (tensorrtllm_backend 0.5.0, 0.19.0, TensorRT-LLM's llmapi model):
- 0.5.0 streams new tokens only, and whole answers with the prompt in front. end_id must be sent: nothing else ends an
  answer. bad_words and stop_words must be there in the ensemble and do nothing.
- exclude_input_in_output came to ensemble and BLS after 0.13; Triton refuses an input that a model does not have.
- the ensemble of later versions streams the text of each new token by itself; the BLS model, told to accumulate, all
  text so far, and at the end an empty response with nothing but the final flag.
- the LLM API sends all text so far in some versions, and only what is new in others: both are understood. Its input
  for stop texts does not work: helpers.py gives the tensor's bytes to SamplingParams, where a tokenizer wants text. For
  bad words it has none.
- bad_words of later ensembles and BLS models are tokenised as they are, each for itself (preprocessing/1/model.py), and
  only where the answer's ids are the same a word is kept out: so both its forms are sent.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Literal

from backends import bad_words, prompts, tokenizers
from backends.answers import Answer
from backends.errors import BadInput, Refused
from backends.sessions import Session
from backends.spec import Chat, Piece, Sampling, Tensor
from backends.tensorrt_llm import formats, qwen_tokens
from backends.text import Text

Finish = Literal["stop", "length", "cancelled"]
_KNOWN_REFUSALS = (
    (
        "exceeds maximum",
        Text(en="The prompt is longer than the engine was built for.", zh="提示超过引擎构建时的最大长度。"),
    ),
    (
        "decoupled mode",
        Text(en="This deployment does not stream (decoupled is off).", zh="此部署未启用流式输出（decoupled 关闭）。"),
    ),
)


def session(chat: Chat, told: Mapping[str, str]) -> Session:
    """A session for one chat. `told` is what the plan's first question says of the deployment (serve.py).

    Raises BadInput for a prompt that leaves no room for an answer, for bad words where the model has no use for them,
    and where the tokenizer cannot be loaded.
    """
    interface = told.get("interface", "ensemble")
    bad_words.refuse(chat, no_bad_words(told))
    if interface == "0.5-ids":
        return _IdSession(chat, told)
    if interface == "llmapi":
        return _LlmApiSession(chat, told)
    return _TextSession(chat, told, interface)


def prompt(chat: Chat, told: Mapping[str, str]) -> str:
    """The text that the model is given to continue. Raises BadInput for what its template refuses."""
    return text_of(chat, told)


def no_bad_words(told: Mapping[str, str]) -> Text | None:
    """Why answers cannot be kept free of words; None: they can."""
    interface = told.get("interface", "ensemble")
    if interface.startswith("0.5"):
        return Text(
            en="TensorRT-LLM 0.5.0 cannot forbid words: its core has no input for them, and the ensemble drops them.",
            zh="TensorRT-LLM 0.5.0 不支持禁用词：核心模型没有这一输入，ensemble 收到后会直接丢弃。",
        )
    if interface == "llmapi":
        return Text(
            en="The LLM API's model cannot forbid words: it has no input for them.",
            zh="LLM API 模型不支持禁用词：它没有这一输入。",
        )
    return None


def refused(words: str) -> Refused:
    """What the server said of a request that it did not serve, with the known causes in words."""
    return Refused(words, next((text for sign, text in _KNOWN_REFUSALS if sign in words), None))


_UNEXPECTED = re.compile(r"unexpected inference input '(\w+)'")


def corrected(told: Mapping[str, str], words: str) -> dict[str, str] | None:
    """`told` as the model that refused a request would have it, where an input is all it refused. None: it is not.

    Templates change between releases of one version; a filled one knows best what its inputs are.
    """
    found = _UNEXPECTED.search(words)
    name, interface = (found.group(1) if found else ""), told.get("interface", "")
    if name == "exclude_input_in_output" and "excludes" in told:
        return {key: value for key, value in told.items() if key != "excludes"}
    if name not in ("seed", "random_seed") or "renamed" in told or not interface.startswith(("ensemble", "bls")):
        return None
    renamed = interface.removesuffix("-seed") if name == "seed" else f"{interface}-seed"
    return {**told, "interface": renamed, "renamed": name}


# --- token ids: 0.5.0 ---------------------------------------------------------------------------------------------


class _IdSession:
    """The core model of 0.5.0, as both guides' clients ask it: ids there, ids back, decoded here all together."""

    outputs: tuple[str, ...] = ("output_ids",)
    final_flag = True
    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str]) -> None:
        folder = told["tokenizer"]
        self._tokenizer = qwen_tokens.load(folder) if qwen_tokens.is_there(folder) else tokenizers.load(folder)
        text, special = prompt_of(chat, told)
        ids = self._tokenizer.encode(text, special)
        self._prompt = len(ids)
        self._streams = told.get("streams") == "true"
        self._most = _most(chat.sampling, told, int(told["context"]) - len(ids))
        self._ends = {int(one) for one in (told.get("ends") or told.get("end_id", "")).split(",") if one}
        self._ids: list[int] = []
        self._answer = Answer((*chat.sampling.stop, *stops_of(chat, told)))
        self.inputs: tuple[Tensor, ...] = (
            Tensor(name="input_ids", datatype="INT32", shape=(1, len(ids)), values=ids),
            _one("input_lengths", "INT32", len(ids)),
            _one("request_output_len", "UINT32", self._most),
            *_end(told, "UINT32"),
            *_drawn(chat.sampling, "UINT32", {"top_k": "runtime_top_k", "top_p": "runtime_top_p"}),
            _one("streaming", "BOOL", self._streams),
        )

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        if "output_ids" not in outputs:  # the answer to a request to stop
            return None
        new = [int(one) for one in outputs["output_ids"].values]
        if not self._streams:
            new = new[self._prompt :]
        ended: Finish | None = None
        for one in new:
            if one in self._ends:
                ended = "stop"
                break
            self._ids.append(one)
        if len(self._ids) >= self._most and ended is None:
            ended = "length"
        return self._answer.whole(self._tokenizer.decode(self._ids), ended, self._prompt, len(self._ids))

    def finish(self) -> Piece | None:
        why: Finish = "length" if len(self._ids) >= self._most else "stop"
        return self._answer.end(why, self._prompt, len(self._ids))


# --- text: ensembles and BLS --------------------------------------------------------------------------------------


class _TextSession:
    """Ensemble or BLS model: text there, text back. `interface` says which version's tensors."""

    outputs: tuple[str, ...] = ("text_output",)
    final_flag = True
    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str], interface: str) -> None:
        self._text = text_of(chat, told)
        self._cumulative = interface.startswith("bls")
        self._old = interface == "0.5-text"
        self._streams = told.get("streams") == "true"
        self._most = _most(chat.sampling, told, int(told["context"]))
        self._responses = 0
        stops = (*chat.sampling.stop, *stops_of(chat, told))
        self._answer = Answer(stops)
        whole = "UINT32" if self._old else "INT32"
        seed = "seed" if interface.endswith("-seed") else "random_seed"
        words = ("",) if self._old or not stops else stops
        tensors = [
            Tensor(name="text_input", datatype="BYTES", shape=(1, 1), values=(self._text,)),
            _one("max_tokens", whole, self._most),
            *_end(told, whole),
            *_drawn(chat.sampling, whole, {"seed": seed}),
            _one("stream", "BOOL", self._streams),
        ]
        if self._old or stops:
            tensors.append(Tensor(name="stop_words", datatype="BYTES", shape=(1, len(words)), values=words))
        forms = bad_words.forms(chat.sampling.bad_words)
        if forms:
            tensors.append(Tensor(name="bad_words", datatype="BYTES", shape=(1, len(forms)), values=forms))
        if self._old:  # must be there, and does nothing
            tensors.append(Tensor(name="bad_words", datatype="BYTES", shape=(1, 1), values=("",)))
        elif told.get("excludes") == "true":
            tensors.append(_one("exclude_input_in_output", "BOOL", True))
        self.inputs: tuple[Tensor, ...] = tuple(tensors)

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        text = _text(outputs, "text_output")
        if text is None:
            return None
        self._responses += 1
        if not self._streams:
            start = text.find(self._text) if self._old else -1
            return self._answer.whole(text[start + len(self._text) :] if start >= 0 else text, "stop")
        if self._cumulative:
            return self._answer.whole(text)
        return self._answer.more(text)

    def finish(self) -> Piece | None:
        return self._answer.end("length" if self._responses >= self._most else "stop", None, self._responses)


class _LlmApiSession:
    """The LLM API's model: no batch dimension, its own names."""

    outputs: tuple[str, ...] = ("text_output", "finish_reason")
    final_flag = True
    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str]) -> None:
        sampling = chat.sampling
        self._responses = 0
        self._answer = Answer(sampling.stop)
        values: list[tuple[str, str, str | int | float | bool | None]] = [
            ("text_input", "BYTES", text_of(chat, told)),
            ("streaming", "BOOL", told.get("streams") == "true"),
            ("sampling_param_max_tokens", "INT32", _most(sampling, told, int(told["context"]))),
            ("sampling_param_temperature", "FP32", sampling.temperature),
            ("sampling_param_top_p", "FP32", sampling.top_p),
            ("sampling_param_top_k", "INT32", 1 if sampling.temperature == 0.0 else sampling.top_k),
            ("sampling_param_seed", "UINT64", sampling.seed),
            ("sampling_param_exclude_input_from_output", "BOOL", True),
            ("return_finish_reason", "BOOL", True),
        ]
        tensors = [
            Tensor(name=name, datatype=kind, shape=(1,), values=(value,))
            for name, kind, value in values
            if value is not None
        ]
        # Stop texts are not sent: the model hands them to the tokenizer as bytes, which that refuses. The answer is cut
        # here, and the stream given up, which ends the generation.
        self.inputs: tuple[Tensor, ...] = tuple(tensors)

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        text = _text(outputs, "text_output")
        if text is None:
            return None
        self._responses += 1
        why = _text(outputs, "finish_reason")
        ended: Finish | None = {"stop": "stop", "length": "length", "cancelled": "cancelled"}.get(why or "")  # type: ignore[assignment]
        return self._answer.either(text, ended, None, self._responses)

    def finish(self) -> Piece | None:
        return self._answer.end("stop", None, self._responses)


# --- what goes in -------------------------------------------------------------------------------------------------


def prompt_of(chat: Chat, told: Mapping[str, str]) -> tuple[str, bool]:
    """What the model is given to continue, and whether the tokenizer puts its start token in front of it."""
    if chat.prompt is not None:
        return chat.prompt, True
    template = told.get("template", "raw")
    if template == "chatml":
        return prompts.chatml(chat.messages), False
    if template == "llama2":
        return prompts.llama2(chat.messages), True
    if template == "atom":
        return prompts.atom(chat.messages), True
    if template == "tokenizer":
        return tokenizers.load(told["tokenizer"]).prompt(chat.messages), False
    return prompts.plain(chat.messages), True


def text_of(chat: Chat, told: Mapping[str, str]) -> str:
    """What a server is given that tokenises by itself, and puts the start token in front by itself too."""
    text, special = prompt_of(chat, told)
    if special or told.get("template") != "tokenizer":
        return text
    return tokenizers.load(told["tokenizer"]).unstarted(text)


def stops_of(chat: Chat, told: Mapping[str, str]) -> tuple[str, ...]:
    """What ends an answer of this format in text, where a token alone might not. None for a raw prompt."""
    form = formats.formats().get(told.get("template", "raw"))
    return form.stop if form is not None and chat.prompt is None else ()


def _most(sampling: Sampling, told: Mapping[str, str], room: int) -> int:
    """Tokens of the answer: as asked, within what the engine was built for and what the prompt leaves."""
    if room < 1:
        raise BadInput(
            "messages",
            Text(
                en=f"The prompt fills the {int(told['context']):,} tokens that the engine was built for.",
                zh=f"提示已占满引擎构建时的 {int(told['context']):,} 个 token。",
            ),
            Text(en="Shorten it, or begin a new chat.", zh="请缩短内容，或开始新的对话。"),
        )
    allowed = int(told["new_tokens"])
    return min(sampling.max_tokens or min(allowed, 512), allowed, room)


def _end(told: Mapping[str, str], kind: str) -> tuple[Tensor, ...]:
    return tuple(_one(name, kind, int(told[name])) for name in ("end_id", "pad_id") if name in told)


def _drawn(sampling: Sampling, whole: str, names: Mapping[str, str]) -> tuple[Tensor, ...]:
    """How tokens are drawn, each scalar as [1, 1]. Greedy is top_k 1: a temperature of 0 is no number to divide by.

    Without a seed every question would be drawn alike, so one is made.
    """
    greedy = sampling.temperature == 0.0
    top_k = 1 if greedy else sampling.top_k
    top_p = None if greedy else sampling.top_p
    seed = sampling.seed if sampling.seed is not None else None if greedy else secrets.randbelow(2**31)
    values: tuple[tuple[str, str, int | float | None], ...] = (
        ("top_k", whole, top_k),
        ("top_p", "FP32", top_p),
        ("temperature", "FP32", 1.0 if greedy else sampling.temperature),
        ("repetition_penalty", "FP32", sampling.repetition_penalty),
        ("seed", "UINT64", seed),
    )
    names = {"seed": "random_seed"} | dict(names)
    return tuple(_one(names.get(name, name), kind, value) for name, kind, value in values if value is not None)


def _one(name: str, datatype: str, value: int | float | bool) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(1, 1), values=(value,))


def _text(outputs: Mapping[str, Tensor], name: str) -> str | None:
    if name not in outputs or not outputs[name].values:
        return None
    value = outputs[name].values[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
