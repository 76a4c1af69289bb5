"""OpenAI's shapes <-> the vocabulary, so that any OpenAI client can talk to a deployment. Pure.

The shapes are those of OpenAI's API reference (Chat Completions, the older Completions, Models, error objects), as its
own Python client reads them. What an engine cannot do is refused by name: an answer that silently ignores
`frequency_penalty` or `tools` would be a wrong answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from backends.errors import BadInput, CannotDo, Conflict, NotFound, Refused, SlipwayError, Unreachable
from backends.reading import read
from backends.spec import Chat, Frozen, Message, Piece, Sampling
from backends.text import Language, Text

Shape = Literal["chat", "text"]
Finish = Literal["stop", "length"]

# The last two of the first, and bad_words: ours, as `extra_body` sends them.
_SAMPLING = ("temperature", "top_p", "top_k", "repetition_penalty")
_READ = {
    "chat": {"messages", "max_completion_tokens"},
    "text": {"prompt"},
}
_READ_BY_BOTH = {"model", "stream", "stream_options", "max_tokens", "seed", "stop", "bad_words", *_SAMPLING}
# Labels for a provider's own books; they ask nothing of an answer.
_LABELS = {"user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
# What no engine does, with the values that ask for nothing; null always asks for nothing.
_NOTHING: dict[str, tuple[object, ...]] = {
    "n": (1,), "frequency_penalty": (0,), "presence_penalty": (0,), "logit_bias": ({},), "logprobs": (False,),
    "top_logprobs": (), "tools": ([],), "tool_choice": ("none", "auto"), "parallel_tool_calls": (True, False),
    "functions": ([],), "function_call": ("none", "auto"), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "audio": (), "prediction": (), "reasoning_effort": ("none",), "verbosity": (),
    "web_search_options": (), "service_tier": ("auto", "default"), "store": (False,), "best_of": (1,), "echo": (False,),
    "suffix": ("",),
}  # fmt: skip
_PENALTY = Text(
    en="Send repetition_penalty instead (above 1 repeats less), or leave it out.",
    zh="可改用 repetition_penalty（大于 1 减少重复），或去掉此项。",
)
_LEAVE = Text(en="Leave it out.", zh="请去掉此项。")
_ROLES: dict[str, Literal["system", "user", "assistant"]] = {
    "system": "system",
    "developer": "system",  # the newer name of the same thing
    "user": "user",
    "assistant": "assistant",
}


class Unsupported(BadInput):
    """The field is OpenAI's, but this server cannot do what it asks."""


class Asked(Frozen):
    """One request: which deployment, what to answer, and how to send it.

    `names` maps the engine's fields to those that the client sent, for errors that the engine finds.
    """

    model: str
    shape: Shape
    chat: Chat
    stream: bool = False
    usage: bool = False  # a last part with the counts, as stream_options.include_usage asks
    names: dict[str, str] = {}


def read_chat(body: Mapping[str, Any]) -> Asked:
    """The body of /v1/chat/completions. Raises BadInput naming the field as the client wrote it."""
    _check(body, "chat")
    turns = body.get("messages")
    if not isinstance(turns, list) or not turns:
        raise _wrong("messages", "It must be a list with at least one message.", "必须是至少含一条消息的列表。")
    limit = "max_tokens"
    if body.get("max_completion_tokens") is not None:
        limit = "max_completion_tokens"
        if body.get("max_tokens") is not None:
            raise _wrong("max_tokens", "Send this or max_completion_tokens, not both.",
                         "与 max_completion_tokens 只能二选一。")  # fmt: skip
    messages = tuple(_message(turn, f"messages.{index}") for index, turn in enumerate(turns))
    chat = Chat(messages=messages, sampling=_sampling(body, limit))
    return _asked(body, "chat", chat, {"max_tokens": limit, "text_input": "messages"})


def read_completion(body: Mapping[str, Any]) -> Asked:
    """The body of /v1/completions. Raises BadInput naming the field as the client wrote it."""
    _check(body, "text")
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) == 1:
        prompt = prompt[0]
    if not isinstance(prompt, str):
        raise _wrong("prompt", "It must be one text; lists of texts or of tokens are not read.",
                     "必须是一段文本，不支持多段文本或 token 列表。")  # fmt: skip
    chat = read(Chat, {"prompt": _whole_text(prompt, "prompt"), "sampling": _sampling(body, "max_tokens")})
    return _asked(body, "text", chat, {"text_input": "prompt", "messages": "prompt"})


@dataclass(frozen=True)
class Answer:
    """One answer as OpenAI shapes it. `created` in seconds since the epoch; `run` says which server spoke."""

    asked: Asked
    id: str
    created: int
    run: str

    def part(self, text: str = "", finish: Finish | None = None, first: bool = False) -> dict[str, Any]:
        """One part of a streamed answer."""
        if self.asked.shape == "chat":
            delta = ({"role": "assistant"} if first else {}) | ({"content": text} if text or first else {})
            choice: dict[str, Any] = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        told = self._frame("chat.completion.chunk", [choice])
        return told | ({"usage": None} if self.asked.usage else {})

    def counts(self, last: Piece) -> dict[str, Any]:
        """The last part, which only counts."""
        return self._frame("chat.completion.chunk", []) | {"usage": usage(last)}

    def whole(self, text: str, last: Piece) -> dict[str, Any]:
        """The answer in one."""
        finish = finish_reason(last)
        if self.asked.shape == "chat":
            message = {"role": "assistant", "content": text, "refusal": None}
            choice: dict[str, Any] = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        else:
            choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": finish}
        return self._frame("chat.completion", [choice]) | {"usage": usage(last)}

    def _frame(self, kind: str, choices: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind if self.asked.shape == "chat" else "text_completion",
            "created": self.created,
            "model": self.asked.model,
            "system_fingerprint": self.run,
            "choices": list(choices),
        }


def usage(last: Piece) -> dict[str, int] | None:
    """What was counted; None where the engine does not tell."""
    if last.prompt_tokens is None or last.completion_tokens is None:
        return None
    return {
        "prompt_tokens": last.prompt_tokens,
        "completion_tokens": last.completion_tokens,
        "total_tokens": last.prompt_tokens + last.completion_tokens,
    }


def finish_reason(last: Piece) -> Finish:
    """Why the answer ended. OpenAI has no word for an answer that was cancelled; it stopped."""
    return "length" if last.finish == "length" else "stop"


def model_card(name: str, created: int) -> dict[str, Any]:
    """One deployment as /v1/models lists it."""
    return {"id": name, "object": "model", "created": created, "owned_by": "slipway"}


# --- errors -----------------------------------------------------------------------------------------------------------


def no_model(name: str) -> NotFound:
    """The error for a model that no running deployment has."""
    return NotFound(
        Text(en=f"There is no running deployment “{name}”.", zh=f"没有名为“{name}”的运行中的部署。"),
        Text(en="/v1/models lists those that run.", zh="/v1/models 列出运行中的部署。"),
        "model",
    )


def status_of(error: SlipwayError) -> int:
    """The HTTP status. 503 is worth another try; the engine names the field "server" where the request was fine."""
    if isinstance(error, BadInput | CannotDo):
        return 400
    if isinstance(error, NotFound):
        return 404
    if isinstance(error, Refused):
        return 502 if error.field is None else 503 if error.field == "server" else 400
    return 503 if isinstance(error, Unreachable | Conflict) else 500


def error_body(error: SlipwayError, language: Language, asked: Asked | None = None) -> dict[str, Any]:
    """The error as OpenAI shapes it, its field under the name that the client sent."""
    param = error.field
    if asked is not None and param is not None:
        param = asked.names.get(param, param)
    status = status_of(error)
    code = "model_not_found" if status == 404 and param == "model" else None
    if isinstance(error, Unsupported):
        code = "unsupported_parameter"
    words = error.of(language).replace("\n", " ")
    return told(words, status, None if param == "server" else param, code)


def told(words: str, status: int, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    """An error object of any origin."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"message": words, "type": kind, "param": param, "code": code}}


# --- reading ----------------------------------------------------------------------------------------------------------


def _check(body: Mapping[str, Any], shape: Shape) -> None:
    for name, value in body.items():
        if name in _READ_BY_BOTH or name in _READ[shape] or name in _LABELS or value is None:
            continue
        if name not in _NOTHING:
            raise _wrong(_shown(name), "There is no such field. Remove it or check its spelling.",
                         "没有此字段，删除或检查拼写。")  # fmt: skip
        nothing = () if (name, shape) == ("logprobs", "text") else _NOTHING[name]  # there 0 asks for one of each token
        if value not in nothing:
            raise Unsupported(
                name,
                Text(en=f"{name}: this server cannot do that.", zh=f"{name}：此服务不支持。"),
                _PENALTY if name in ("frequency_penalty", "presence_penalty") else _LEAVE,
            )


def _asked(body: Mapping[str, Any], shape: Shape, chat: Chat, names: dict[str, str]) -> Asked:
    model = body.get("model")
    if not isinstance(model, str) or not model or model != _shown(model):
        raise _wrong("model", "Name a deployment, as /v1/models lists it.", "请填写 /v1/models 中列出的部署名称。")
    stream = _flag(body, "stream", "stream")
    options = body.get("stream_options")
    counted = False
    if options is not None:
        if not isinstance(options, dict):
            raise _wrong("stream_options", "It must be an object in curly brackets.", "必须是花括号中的对象。")
        if not stream:
            raise _wrong("stream_options", "It is only read together with stream.", "仅在 stream 为 true 时可用。")
        counted = _flag(options, "include_usage", "stream_options.include_usage")
    told_ = {"model": model, "shape": shape, "chat": chat, "stream": stream, "usage": counted, "names": names}
    return read(Asked, told_)


def _sampling(body: Mapping[str, Any], limit: str) -> Sampling:
    given: dict[str, Any] = {name: body.get(name) for name in _SAMPLING}
    seed = body.get("seed")
    if isinstance(seed, int) and -(2**63) <= seed < 0:
        seed += 2**64  # OpenAI's seeds are signed; the same bits as an unsigned one
    texts = {name: _texts(body, name) for name in ("stop", "bad_words")}
    try:
        return read(Sampling, given | texts | {"seed": seed, "max_tokens": body.get(limit)})
    except BadInput as wrong:
        if wrong.field != "max_tokens" or limit == "max_tokens":
            raise
        words = wrong.message
        raise BadInput(limit, Text(en=words.en.replace("max_tokens", limit, 1),
                                   zh=words.zh.replace("max_tokens", limit, 1))) from None  # fmt: skip


def _texts(body: Mapping[str, Any], name: str) -> object:
    """One text, or several, each of whole characters."""
    told_ = body.get(name)
    texts = () if told_ is None else (told_,) if isinstance(told_, str) else told_
    if not isinstance(texts, tuple | list):
        return texts
    return [_whole_text(one, name) if isinstance(one, str) else one for one in texts]


def _message(turn: object, where: str) -> Message:
    if not isinstance(turn, dict):
        raise _wrong(where, "It must be an object with role and content.", "必须是含 role 与 content 的对象。")
    for name, value in turn.items():
        if name not in ("role", "content") and value not in (None, [], ""):
            field = f"{where}.{_shown(name)}"
            raise Unsupported(
                field, Text(en=f"{field}: this server cannot pass it on.", zh=f"{field}：此服务不支持。"), _LEAVE
            )
    role = turn.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise _wrong(f"{where}.role", "Use system, developer, user or assistant.",
                     "可选 system、developer、user、assistant。")  # fmt: skip
    content = _content(turn.get("content"), role, f"{where}.content")
    return Message(role=_ROLES[role], content=_whole_text(content, f"{where}.content"))


def _content(content: object, role: str, where: str) -> str:
    if content is None and role == "assistant":
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _wrong(where, "It must be text, or a list of text parts.", "必须是文本或文本片段列表。")
    texts = []
    for index, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise Unsupported(
                f"{where}.{index}",
                Text(en=f"{where}.{index}: only text can be read.", zh=f"{where}.{index}：只支持文本。"),
                Text(en="Leave pictures, sound and files out.", zh="请去掉图片、声音与文件。"),
            )
        texts.append(part["text"])
    return "".join(texts)


def _flag(body: Mapping[str, Any], name: str, where: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise _wrong(where, "It must be true or false.", "必须是 true 或 false。")
    return bool(value)


def _whole_text(text: str, field: str) -> str:
    """JSON can carry half of a surrogate pair, which is no text and cannot be sent on."""
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise _wrong(field, "It holds half of a surrogate pair. Send whole characters.",
                     "含有不完整的代理字符，请发送完整字符。")  # fmt: skip
    return text


def _shown(name: str) -> str:
    """A name from outside, fit to be repeated: no half of a surrogate pair, no end of it that nobody reads."""
    return name[:80].encode("utf-8", "replace").decode()


def _wrong(field: str, en: str, zh: str) -> BadInput:
    return BadInput(field, Text(en=f"{field}: {en}", zh=f"{field}：{zh}"))
