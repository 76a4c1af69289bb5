"""One question and its answer, between a chat and tensors. An engine's tensors make a session for each chat.

A session may remember: some servers send all tokens again with each response, and none says how an answer ended.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from backends.spec import Piece, Tensor


class Session(Protocol):
    """What is sent for one chat, and what comes back of it."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The tensors of the request."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the tensors that are asked for; empty: all."""

    @property
    def final_flag(self) -> bool:
        """Whether the server marks its last response (Triton 23.06 and later). Else the stream's end counts."""

    @property
    def cuts(self) -> bool:
        """Whether the answer may be over before the server is: then the rest of the stream is given up."""

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        """One response as a piece of the answer; None: nothing new in it. A piece with `finish` is the last."""

    def finish(self) -> Piece | None:
        """What is left to say when the stream has ended without a last piece."""


@dataclass(frozen=True)
class Stateless:
    """A session of a server whose every response stands for itself."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[str, ...]
    read: Callable[[Mapping[str, Tensor]], Piece]
    final_flag: bool = True
    cuts: bool = False

    def decode(self, outputs: Mapping[str, Tensor]) -> Piece | None:
        return self.read(outputs)

    def finish(self) -> Piece | None:
        return None
