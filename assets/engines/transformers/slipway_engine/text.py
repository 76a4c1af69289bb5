"""From token ids to text that may be shown: whole characters only, and never past a stop string."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

BROKEN = "\ufffd"  # what a decoder puts for bytes that are not yet, or never, a character


class Detokeniser:
    """Token ids of one answer to text, piece by piece. A piece never ends inside a character.

    A fast tokenizer's DecodeStream does it in about a microsecond a token; other tokenizers decode the last few ids
    twice and hold back while the text ends in U+FFFD. What is still held at the end comes out with `flush`.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._fast = getattr(tokenizer, "_tokenizer", None) if getattr(tokenizer, "is_fast", False) else None
        self._stream = DecodeStream(skip_special_tokens=True) if self._fast is not None else None
        self._ids: list[int] = []
        self._sent = ""
        self._prefix = self._read = 0  # offsets into _ids, for the slow way

    def feed(self, ids: Iterable[int]) -> str:
        """The text that these further ids complete; may be empty."""
        pieces = [self._step(token) for token in ids]
        text = "".join(pieces)
        self._sent += text
        return text

    def flush(self) -> str:
        """What is still held back, as the whole answer decoded at once has it."""
        whole = self._decode(self._ids)
        rest = whole[len(self._sent) :] if whole.startswith(self._sent) else ""
        self._sent += rest
        return rest

    def _step(self, token: int) -> str:
        self._ids.append(token)
        if self._stream is not None:
            try:
                return self._stream.step(self._fast, token) or ""
            except Exception:  # the library refuses some byte sequences; the slow way takes any
                self._stream = None
                self._prefix = self._read = len(self._ids) - 1
        before = self._decode(self._ids[self._prefix : self._read])
        now = self._decode(self._ids[self._prefix :])
        if len(now) <= len(before) or now.endswith(BROKEN):
            return ""
        self._prefix, self._read = self._read, len(self._ids)
        return now[len(before) :]

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Ends a text before the first stop string that it completes. Holds back a tail that could still begin one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """What of the text may go out now. After a hit: nothing more."""
        if self.hit or not self._stops:
            return "" if self.hit else text
        self._held += text
        found = [place for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if found:
            self.hit = True
            out, self._held = self._held[: min(found)], ""
            return out
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """What was held back in vain."""
        out, self._held = self._held, ""
        return "" if self.hit else out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
