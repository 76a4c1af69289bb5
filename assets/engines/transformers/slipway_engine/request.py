"""What a client asks for: input tensors and request parameters, checked, as one frozen value. Knows no Triton."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .errors import RequestError

ROLES = ("system", "user", "assistant")
TEXT_LIMIT = 8 << 20  # bytes; far beyond any context, so that nobody tokenises a gigabyte
STOP_LIMIT, STOP_LENGTH = 16, 256
BAD_LIMIT, BAD_LENGTH = 64, 64


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class Ask:
    """One request. None: the model's own default. Exactly one of `text` and `messages` is not None."""

    text: str | None = None
    messages: tuple[Message, ...] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    stream: bool = True
    bad_words: tuple[str, ...] = ()


def read(inputs: Mapping[str, Sequence[object]], parameters: Mapping[str, object]) -> Ask:
    """A request from its input tensors (name to flat values) and parameters. Raises RequestError naming the field."""
    for name in parameters:
        if not name.startswith("triton_"):  # Triton's own, such as triton_enable_empty_final_response
            raise RequestError(
                name,
                f"The request parameter '{name}' is not known. Send these as inputs: max_tokens, temperature, top_p, "
                "top_k, repetition_penalty, seed, stop, bad_words, stream.",
                f"未知的请求参数“{name}”。请改用以下输入：max_tokens、temperature、top_p、top_k、repetition_penalty、"
                "seed、stop、bad_words、stream。",
            )
    if ("text_input" in inputs) == ("messages" in inputs):
        raise RequestError(
            "text_input",
            "Send either text_input (a raw prompt) or messages (a conversation), exactly one of them.",
            "请在 text_input（原始提示词）与 messages（对话）中提供且只提供一个。",
        )
    return Ask(
        text=_text(inputs) if "text_input" in inputs else None,
        messages=_messages(inputs) if "messages" in inputs else None,
        max_tokens=_whole(inputs, "max_tokens", 1, 2**31 - 1),
        temperature=_number(inputs, "temperature", 0.0, 100.0),
        top_p=_number(inputs, "top_p", 0.0, 1.0, open_below=True),
        top_k=_whole(inputs, "top_k", 0, 2**31 - 1),
        repetition_penalty=_number(inputs, "repetition_penalty", 0.0, 100.0, open_below=True),
        seed=_whole(inputs, "seed", 0, 2**64 - 1),
        stop=_stop(inputs),
        stream=_flag(inputs, "stream", True),
        bad_words=_bad_words(inputs),
    )


def _one(inputs: Mapping[str, Sequence[object]], name: str) -> object | None:
    if name not in inputs:
        return None
    values = inputs[name]
    if len(values) != 1:
        raise RequestError(
            name,
            f"{name} holds {len(values)} values; send exactly one.",
            f"{name} 含有 {len(values)} 个值，应只有一个。",
        )
    return values[0]


def _decoded(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, bytes):
        raise RequestError(name, f"{name} must be text.", f"{name} 必须是文本。")
    if len(value) > TEXT_LIMIT:
        raise RequestError(
            name,
            f"{name} has {len(value)} bytes; at most {TEXT_LIMIT} are read. Shorten it.",
            f"{name} 有 {len(value)} 字节，上限为 {TEXT_LIMIT}。请缩短。",
        )
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            name,
            f"{name} is not UTF-8 text (byte {error.start}). Encode it as UTF-8.",
            f"{name} 不是 UTF-8 文本（第 {error.start} 字节）。请使用 UTF-8 编码。",
        ) from None


def _text(inputs: Mapping[str, Sequence[object]]) -> str:
    text = _decoded("text_input", _one(inputs, "text_input"))
    if not text:
        raise RequestError("text_input", "text_input is empty. Write a prompt.", "text_input 为空，请填写提示词。")
    return text


def _messages(inputs: Mapping[str, Sequence[object]]) -> tuple[Message, ...]:
    text = _decoded("messages", _one(inputs, "messages"))
    shape_en = 'messages must be a JSON list such as [{"role": "user", "content": "Hello"}]'
    shape_zh = 'messages 必须是 JSON 列表，例如 [{"role": "user", "content": "你好"}]'
    try:
        turns = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(
            "messages", f"{shape_en}; it is not JSON ({error}).", f"{shape_zh}；内容不是 JSON。"
        ) from None
    if not isinstance(turns, list) or not turns:
        raise RequestError("messages", f"{shape_en}, with at least one entry.", f"{shape_zh}，且至少有一项。")
    return tuple(_message(index, turn, shape_en, shape_zh) for index, turn in enumerate(turns))


def _message(index: int, turn: object, shape_en: str, shape_zh: str) -> Message:
    if not isinstance(turn, dict) or turn.keys() != {"role", "content"}:
        raise RequestError(
            f"messages.{index}",
            f"{shape_en}; entry {index} must have role and content, nothing else.",
            f"{shape_zh}；第 {index} 项应只含 role 与 content。",
        )
    role, content = turn["role"], turn["content"]
    if role not in ROLES:
        raise RequestError(
            f"messages.{index}.role",
            f"Role '{role}' of entry {index} is not known. Use system, user or assistant.",
            f"第 {index} 项的角色“{role}”未知。请使用 system、user 或 assistant。",
        )
    if not isinstance(content, str):
        raise RequestError(
            f"messages.{index}.content",
            f"The content of entry {index} must be text.",
            f"第 {index} 项的 content 必须是文本。",
        )
    if role == "user" and not content.strip():
        raise RequestError(
            f"messages.{index}.content",
            f"The user's message (entry {index}) is empty. Write something.",
            f"用户消息（第 {index} 项）为空，请填写内容。",
        )
    try:
        content.encode("utf-8")
    except UnicodeEncodeError:
        raise RequestError(
            f"messages.{index}.content",
            f"The content of entry {index} holds half of a surrogate pair. Send whole characters.",
            f"第 {index} 项的 content 含有不完整的代理字符。请发送完整字符。",
        ) from None
    return Message(role, content)


def _whole(inputs: Mapping[str, Sequence[object]], name: str, least: int, most: int) -> int | None:
    value = _one(inputs, name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(
            name,
            f"{name} is {value}; it must be a whole number from {least} to {most}.",
            f"{name} 为 {value}，应为 {least} 到 {most} 之间的整数。",
        )
    return value


def _number(
    inputs: Mapping[str, Sequence[object]], name: str, least: float, most: float, *, open_below: bool = False
) -> float | None:
    value = _one(inputs, name)
    if value is None:
        return None
    good = isinstance(value, (int, float)) and math.isfinite(value) and least <= value <= most
    if not good or (open_below and value == least):
        above = "above" if open_below else "from"
        raise RequestError(
            name,
            f"{name} is {value}; it must be a number {above} {least:g} up to {most:g}.",
            f"{name} 为 {value}，应{'大于' if open_below else '不小于'} {least:g} 且不超过 {most:g}。",
        )
    return float(value)  # type: ignore[arg-type]


def _flag(inputs: Mapping[str, Sequence[object]], name: str, default: bool) -> bool:
    value = _one(inputs, name)
    return default if value is None else bool(value)


def _stop(inputs: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    stops = tuple(_decoded("stop", value) for value in inputs.get("stop", ()))
    if len(stops) > STOP_LIMIT or any(not 1 <= len(stop) <= STOP_LENGTH for stop in stops):
        raise RequestError(
            "stop",
            f"stop takes at most {STOP_LIMIT} texts of 1 to {STOP_LENGTH} characters each.",
            f"stop 最多接受 {STOP_LIMIT} 段文本，每段 1 到 {STOP_LENGTH} 个字符。",
        )
    return stops


def _bad_words(inputs: Mapping[str, Sequence[object]]) -> tuple[str, ...]:
    words = tuple(_decoded("bad_words", value) for value in inputs.get("bad_words", ()))
    if len(words) > BAD_LIMIT or any(not word.strip() or len(word) > BAD_LENGTH for word in words):
        raise RequestError(
            "bad_words",
            f"bad_words takes at most {BAD_LIMIT} words of 1 to {BAD_LENGTH} characters each, none of them blank.",
            f"bad_words 最多接受 {BAD_LIMIT} 个词，每个 1 到 {BAD_LENGTH} 个字符，且不能为空白。",
        )
    return words
