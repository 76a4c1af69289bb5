"""One chat from its arrival to its last token.

The decode thread writes tokens and the end; the sender thread reads them, and alone may drop the chat. Each field has
one writer, and Python's own lock makes single reads and writes whole.
"""

from __future__ import annotations

import random
import secrets
import time
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from .errors import RequestError


@dataclass(frozen=True)
class Choice:
    """How one answer is drawn. temperature 0: greedy; top_k 0 and top_p 1: no cut; repetition_penalty 1: none.

    bad_words: token ids of what may not be said, none of them empty.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    bad_words: tuple[tuple[int, ...], ...] = ()

    @cached_property
    def plain(self) -> bool:
        """Whether the likeliest token is always taken."""
        return self.temperature == 0 and self.repetition_penalty == 1 and not self.bad_words


class Reply(Protocol):
    """Where an answer goes. One thread at a time uses it; nothing may be sent after `final` or `error`."""

    def delta(self, text: str) -> None: ...

    def final(self, text: str, finish: str, job: Job) -> None: ...

    def error(self, error: RequestError) -> None: ...

    def gone(self) -> bool: ...


class Job:
    """A chat: what it asks, what it has, when. Times are time.monotonic() seconds."""

    __slots__ = (
        "admitted",
        "arrived",
        "choice",
        "deadline",
        "decoder_start",
        "dropped",
        "end",
        "first",
        "fresh",
        "last",
        "launched",
        "limit",
        "produced",
        "prompt",
        "random",
        "reply",
        "resumed",
        "seen",
        "stop",
        "stream",
        "tail",
    )

    def __init__(
        self,
        prompt: list[int],
        limit: int,
        choice: Choice,
        reply: Reply,
        *,
        seed: int | None = None,
        stop: tuple[str, ...] = (),
        stream: bool = True,
        decoder_start: int | None = None,
        arrived: float | None = None,
        deadline: float = float("inf"),
    ) -> None:
        self.prompt, self.limit, self.choice, self.reply = prompt, limit, choice, reply
        self.random = random.Random(secrets.randbits(64) if seed is None else seed)  # noqa: S311
        self.stop, self.stream, self.decoder_start = stop, stream, decoder_start
        self.arrived = time.monotonic() if arrived is None else arrived
        self.deadline = deadline
        self.admitted: float | None = None
        self.first: float | None = None  # when the first token was known
        self.last: float | None = None
        self.produced: list[int] = []  # every token that counts, the end token included
        self.launched = 0  # tokens whose computation has begun; ahead of `produced` by what is in flight
        self.fresh: deque[int] = deque()  # tokens that the sender has not taken yet
        self.end: str | RequestError | None = None  # "stop", "length", "cancelled" or what went wrong
        self.dropped = False  # nobody waits for more: cancelled, or a stop string was met
        self.resumed = 0  # how often it was prefilled again after a failed step
        self.seen: Any = None  # the device's record of its tokens, for the repetition penalty
        self.tail: Any = None  # the device's record of its last tokens, for its bad words

    def context_ids(self) -> list[int]:
        """The ids that a repetition penalty counts and bad words go on from: the prompt (decoder-only), what was
        produced."""
        own = self.prompt if self.decoder_start is None else [self.decoder_start]
        return own + self.produced

    def need(self) -> int:
        """Columns of cache that this chat may come to fill."""
        return (len(self.prompt) if self.decoder_start is None else 1) + self.limit
