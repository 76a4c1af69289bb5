"""From a checked request to a chat: template, token ids, and whether they fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

from .errors import RequestError
from .job import Choice, Job, Reply
from .request import Ask
from .template import Template

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class Limits:
    """What a chat may take: tokens of prompt and answer together (`context`), and of the answer."""

    context: int
    new_tokens: int


@dataclass(frozen=True)
class Defaults:
    """What the model's generation_config asks for where a request says nothing."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0


class Prompter:
    """Makes chats of requests for one model. `decoder_start` is set for encoder-decoder models; `eos` ends answers."""

    def __init__(
        self,
        tokenizer: Any,
        template: Template | None,
        vocabulary: int,
        limits: Limits,
        defaults: Defaults,
        queue_timeout_s: float,
        decoder_start: int | None,
        eos: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer, self._template, self._vocabulary = tokenizer, template, vocabulary
        self._limits, self._defaults, self._queue_timeout_s = limits, defaults, queue_timeout_s
        self._decoder_start, self._eos = decoder_start, eos

    def job(self, ask: Ask, reply: Reply, arrived: float, timeout_s: float | None = None) -> Job:
        """The chat of a request that arrived at that monotonic time. Raises RequestError."""
        field = "messages" if ask.messages is not None else "text_input"
        ids = self._ids(ask)
        self._check_ids(field, ids)
        limits, defaults = self._limits, self._defaults
        room = limits.context - (len(ids) if self._decoder_start is None else 1)
        if room < 1 or len(ids) > limits.context:
            raise RequestError(
                field,
                f"The prompt has {len(ids)} tokens; this server takes {limits.context} for prompt and answer together. "
                "Shorten it, or raise max_context.",
                f"提示词有 {len(ids)} 个 token，本服务器的提示词与回答合计上限为 {limits.context}。"
                "请缩短提示词，或调大 max_context。",
            )
        most = min(room, limits.new_tokens)
        if ask.max_tokens is not None and ask.max_tokens > most:
            raise RequestError(
                "max_tokens",
                f"max_tokens is {ask.max_tokens}; after this prompt of {len(ids)} tokens at most {most} are possible "
                f"(context {limits.context}, cap {limits.new_tokens}). Ask for fewer.",
                f"max_tokens 为 {ask.max_tokens}，在 {len(ids)} 个 token 的提示词之后最多可生成 {most} 个"
                f"（上下文 {limits.context}，上限 {limits.new_tokens}）。请减小该值。",
            )
        wait = self._queue_timeout_s if timeout_s is None else min(timeout_s, self._queue_timeout_s)
        return Job(
            ids,
            ask.max_tokens or most,
            Choice(
                _given(ask.temperature, defaults.temperature),
                _given(ask.top_k, defaults.top_k),
                _given(ask.top_p, defaults.top_p),
                _given(ask.repetition_penalty, defaults.repetition_penalty),
                self._bad_words(ask.bad_words),
            ),
            reply,
            seed=ask.seed,
            stop=ask.stop,
            stream=ask.stream,
            decoder_start=self._decoder_start,
            arrived=arrived,
            deadline=arrived + wait,
        )

    def _ids(self, ask: Ask) -> list[int]:
        if ask.messages is None:
            return list(self._tokenizer(ask.text or "")["input_ids"])
        if self._template is None:
            raise RequestError(
                "messages",
                "This model has no chat template. Send a raw prompt as text_input.",
                "该模型没有对话模板。请用 text_input 发送原始提示词。",
            )
        rendered = self._template.render(ask.messages)
        return list(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])

    def _bad_words(self, words: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
        """The token ids of each word as it is written at the beginning of a text and after a space."""
        found: dict[tuple[int, ...], None] = {}
        for word in words:
            for text in (word.strip(), f" {word.strip()}"):
                ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
                self._check_ids("bad_words", ids)
                if len(ids) == 1 and ids[0] in self._eos:
                    raise RequestError(
                        "bad_words",
                        f"bad_words holds '{word}', the token that ends an answer. Leave it out.",
                        f"bad_words 含有结束回答的 token“{word}”，请去掉。",
                    )
                found[tuple(ids)] = None
        return tuple(found)

    def _check_ids(self, field: str, ids: list[int]) -> None:
        if not ids:
            raise RequestError(
                field, f"{field} has no tokens. Write something.", f"{field} 不含任何 token，请填写内容。"
            )
        if max(ids) >= self._vocabulary or min(ids) < 0:
            raise RequestError(
                field,
                f"The tokenizer made the id {max(ids)}, which the vocabulary of {self._vocabulary} lacks: model "
                "and tokenizer do not belong together.",
                f"分词器产生了 id {max(ids)}，超出模型词表大小 {self._vocabulary}：模型与分词器不匹配。",
            )


def _given(value: _Number | None, default: _Number) -> _Number:
    return default if value is None else value
