"""An answer as it grows, out of responses that hold all of it or only what is new: stops, half characters. Pure."""

from __future__ import annotations

from typing import Literal

from backends.spec import Piece

Finish = Literal["stop", "length", "cancelled"]
_SETTLES = 16  # characters that nobody repeats by chance
_HALF = "\ufffd"  # the end of a text whose last character is not whole yet


class Answer:
    """One answer. `stops` end it, and are not part of it."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._text = ""  # everything that has come
        self._said = 0  # how much of it was given out
        self._over = False
        self._all: bool | None = None  # whether responses hold all text so far; None: not clear yet

    def whole(
        self, text: str, ended: Finish | None = None, prompt: int | None = None, tokens: int | None = None
    ) -> Piece | None:
        """A response with all text so far. A shorter one was overtaken on its way and tells nothing."""
        if len(text) >= self._said:
            self._text = text
        return self._out(ended, prompt, tokens)

    def more(
        self, text: str, ended: Finish | None = None, prompt: int | None = None, tokens: int | None = None
    ) -> Piece | None:
        """A response with new text only."""
        self._text += text
        return self._out(ended, prompt, tokens)

    def either(
        self, text: str, ended: Finish | None = None, prompt: int | None = None, tokens: int | None = None
    ) -> Piece | None:
        """A response of a server that sends all text so far in some versions, and new text in others.

        One that does not begin with what has come before is new text, and then so are all; one that repeats a whole
        sentence's beginning settles it the other way.
        """
        if self._all is None and self._text:
            if not text.startswith(self._text):
                self._all = False
            elif len(self._text) >= _SETTLES:
                self._all = True
        if self._all is False or not self._text:
            return self.more(text, ended, prompt, tokens)
        return self.whole(text, ended, prompt, tokens)

    def end(self, why: Finish, prompt: int | None = None, tokens: int | None = None) -> Piece | None:
        """What is left to say when the stream is over; None where its end was said already."""
        return None if self._over else self._out(why, prompt, tokens)

    def _out(self, ended: Finish | None, prompt: int | None, tokens: int | None) -> Piece | None:
        if self._over:
            return None
        places = [place for stop in self._stops if (place := self._text.find(stop)) >= 0]
        if places:
            text, ended = self._text[: min(places)], "stop"
        else:
            text = self._text if ended is not None else self._sure()
        new, self._said = text[self._said :], max(self._said, len(text))
        if ended is not None:
            self._over = True
            return Piece(text=new, finish=ended, prompt_tokens=prompt, completion_tokens=tokens)
        return Piece(text=new, completion_tokens=tokens) if new else None

    def _sure(self) -> str:
        """The text without a character that is not whole yet, and without what may become a stop."""
        text = self._text.rstrip(_HALF)
        for size in range(min(len(text), max((len(stop) for stop in self._stops), default=1) - 1), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return text[:-size]
        return text
