"""Chat <-> tensors of Triton's vLLM backend (vllm_backend src/model.py): shape [1] each, sampling as one JSON text.

Streamed responses hold new text only, the prompt left out. Releases that `tells` give a reason and counts of tokens.
Bad words are vLLM's own since 0.6.4: it takes each word in both its forms by itself (SamplingParams).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from backends import bad_words
from backends.answers import Answer
from backends.errors import Refused
from backends.sessions import Session
from backends.spec import Chat, Piece, Tensor
from backends.tensorrt_llm.tensors import text_of
from backends.text import Text

_TOLD = ("return_finish_reason", "return_num_input_tokens", "return_num_output_tokens")


def session(chat: Chat, told: Mapping[str, str]) -> Session:
    """A session for one chat. Raises BadInput where the tokenizer's own template is wanted and cannot be used, and for
    bad words where this release does not know them."""
    bad_words.refuse(chat, no_bad_words(told))
    return _Session(chat, told)


def prompt(chat: Chat, told: Mapping[str, str]) -> str:
    """The text that the model is given to continue. Raises BadInput for what its template refuses."""
    return text_of(chat, told)


_NO_BAD_WORDS = Text(
    en="This server's vLLM cannot forbid words: that came with 0.6.4 (images from 25.02 on).",
    zh="该服务的 vLLM 不支持禁用词：该功能自 0.6.4 起提供（25.02 及以后的镜像）。",
)


def no_bad_words(told: Mapping[str, str]) -> Text | None:
    """Why answers cannot be kept free of words; None: they can, or nobody has told the release yet."""
    return _NO_BAD_WORDS if told.get("bans") == "false" else None


def refused(words: str) -> Refused:
    """What the server said of a request that it did not serve, with the known causes in words."""
    if "nexpected keyword argument 'bad_words'" in words:
        return Refused(words, _NO_BAD_WORDS, "bad_words")
    if "longer than the maximum model length" in words or "maximum context length" in words:
        return Refused(
            words,
            Text(en="The prompt is longer than the context that this server has.", zh="提示超过服务的上下文长度。"),
        )
    return Refused(words)


class _Session:
    final_flag = True
    cuts = True

    def __init__(self, chat: Chat, told: Mapping[str, str]) -> None:
        sampling = chat.sampling
        tells = told.get("tells") == "true"
        self._tokens = 0
        self._prompt: int | None = None
        self._answer = Answer(())  # stops are vLLM's own doing
        parameters = {
            "max_tokens": min(sampling.max_tokens or 512, int(told["new_tokens"])),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or None,
            "repetition_penalty": sampling.repetition_penalty,
            "seed": sampling.seed,
            "stop": list(sampling.stop) or None,
            "bad_words": list(sampling.bad_words) or None,
        }
        words = json.dumps({name: value for name, value in parameters.items() if value is not None})
        self.inputs: tuple[Tensor, ...] = (
            _one("text_input", "BYTES", text_of(chat, told)),
            _one("stream", "BOOL", True),
            _one("sampling_parameters", "BYTES", words),
            _one("exclude_input_in_output", "BOOL", True),
            *(_one(name, "BOOL", True) for name in _TOLD if tells),
        )
        self.outputs: tuple[str, ...] = (
            "text_output",
            *(("finish_reason", "num_input_tokens", "num_output_tokens") if tells else ()),
        )

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        text = _value(outputs, "text_output")
        if text is None:
            return None
        self._tokens += int(_value(outputs, "num_output_tokens") or 0) or (1 if text else 0)
        prompt = _value(outputs, "num_input_tokens")
        self._prompt = int(prompt) if prompt is not None else self._prompt
        ended: Literal["stop", "length", "cancelled"] | None = None
        match _value(outputs, "finish_reason"):
            case "stop":
                ended = "stop"
            case "length":
                ended = "length"
            case "abort":
                ended = "cancelled"
        return self._answer.more(text, ended, self._prompt, self._tokens)

    def finish(self) -> Piece | None:
        return self._answer.end("stop", self._prompt, self._tokens)


def _one(name: str, datatype: str, value: str | bool) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(1,), values=(value,))


def _value(outputs: Mapping[str, Tensor], name: str) -> str | None:
    if name not in outputs or not outputs[name].values:
        return None
    value = outputs[name].values[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
