"""Chat <-> tensors of the embedded engine's model (assets/engines/transformers). Pure.

Inputs, all optional but one of `text_input` and `messages`: BYTES[1]; sampling values of shape [1]; `stop` and
`bad_words` BYTES[-1]; `stream` BOOL[1], never sent from here (false: one response with everything).
Outputs of each response: `text_output` (new text), `finish_reason` ("" until the last), token counts INT32[1], and
`queue_ms` and `ttft_ms` FP32[1], not asked for from here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal, cast

from backends import bad_words, tokenizers
from backends.errors import BadInput, Refused
from backends.sessions import Stateless
from backends.spec import Chat, Piece, Tensor
from backends.text import Text

OUTPUTS: tuple[str, ...] = ("text_output", "finish_reason", "prompt_tokens", "completion_tokens")


def session(chat: Chat, told: Mapping[str, str]) -> Stateless:
    """A session for one chat: every response holds new text and stands for itself. Raises BadInput for bad words where
    the server is too old for them."""
    bad_words.refuse(chat, no_bad_words(told))
    return Stateless(encode(chat), OUTPUTS, decode)


def prompt(chat: Chat, told: Mapping[str, str]) -> str:
    """The text that the model is given: the server makes it by the model's own template, so this does the same."""
    if chat.prompt is not None:
        return chat.prompt
    if "tokenizer" not in told:
        raise BadInput(
            "messages",
            Text(en="This server makes the prompt itself, and its tokenizer is not known here.",
                 zh="提示由该服务自行生成，此处没有它的分词器。"),
        )  # fmt: skip
    tokenizer = tokenizers.load(told["tokenizer"])
    if told.get("template") == "raw" or not tokenizer.has_template:
        raise BadInput(
            "messages", Text(en="This model is served without a chat template.", zh="该模型未使用对话模板。")
        )
    return tokenizer.prompt(chat.messages)


_TOO_OLD = Text(
    en="This server was started before its engine could forbid words. Deploy it again.",
    zh="该服务启动时的引擎尚不支持禁用词，请重新部署。",
)


def no_bad_words(told: Mapping[str, str]) -> Text | None:
    """Why answers cannot be kept free of words; None: they can, as every server does that is started now."""
    return _TOO_OLD if told.get("bans") == "false" else None


def encode(chat: Chat) -> tuple[Tensor, ...]:
    """The input tensors of one request."""
    if chat.prompt is not None:
        said = _one("text_input", "BYTES", chat.prompt)
    else:
        turns = [message.model_dump() for message in chat.messages]
        said = _one("messages", "BYTES", json.dumps(turns, ensure_ascii=False))
    sampling = chat.sampling
    values = (
        ("max_tokens", "INT32", sampling.max_tokens),
        ("temperature", "FP32", sampling.temperature),
        ("top_p", "FP32", sampling.top_p),
        ("top_k", "INT32", sampling.top_k),
        ("repetition_penalty", "FP32", sampling.repetition_penalty),
        ("seed", "UINT64", sampling.seed),
    )
    tensors = [said, *(_one(name, datatype, value) for name, datatype, value in values if value is not None)]
    for name, texts in (("stop", sampling.stop), ("bad_words", sampling.bad_words)):
        if texts:
            tensors.append(Tensor(name=name, datatype="BYTES", shape=(len(texts),), values=texts))
    return tuple(tensors)


def decode(outputs: Mapping[str, Tensor]) -> Piece:
    """One response as a piece of the answer."""
    finish = _text(outputs, "finish_reason")
    return Piece(
        text=_text(outputs, "text_output"),
        finish=cast(Literal["stop", "length", "cancelled"], finish) if finish else None,
        prompt_tokens=_count(outputs, "prompt_tokens"),
        completion_tokens=_count(outputs, "completion_tokens"),
    )


def refused(words: str) -> Refused:
    """What the engine said of a request that it did not serve: `slipway {"field", "en", "zh"}` (see its errors.py)."""
    if "unexpected inference input 'bad_words'" in words:
        return Refused(words, _TOO_OLD, "bad_words")
    _, found, told = words.partition("slipway {")
    try:
        said = json.loads("{" + told) if found else {}
        return Refused(words, Text(en=said["en"], zh=said["zh"]), said.get("field"))
    except (ValueError, KeyError):
        return Refused(words)


def _one(name: str, datatype: str, value: str | int | float) -> Tensor:
    return Tensor(name=name, datatype=datatype, shape=(1,), values=(value,))


def _text(outputs: Mapping[str, Tensor], name: str) -> str:
    if name not in outputs or not outputs[name].values:
        return ""
    value = outputs[name].values[0]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _count(outputs: Mapping[str, Tensor], name: str) -> int | None:
    if name not in outputs or not outputs[name].values:
        return None
    return int(outputs[name].values[0])
