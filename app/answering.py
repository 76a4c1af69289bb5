"""One answer on its way from a server to a page and into the store.

The clock runs where the answer arrives at the panel, not in the browser. A page that goes away closes the stream, and
with it the generation on the server; what had come by then is kept, marked as stopped.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

from app.control import Control
from app.talks import Begun
from backends.errors import SlipwayError
from backends.text import Language

T = TypeVar("T")
log = logging.getLogger(__name__)

UPDATE_S = 0.04  # between two parts of an answer: 25 a second, whatever the speed of the model
KEEP_S = 2.0  # between two writings of an answer that grows: what a panel that is killed may lose


class Answering:
    """An answer while it comes."""

    def __init__(self, control: Control, begun: Begun, server_id: str) -> None:
        self._control = control
        self._begun = begun
        self._server = server_id
        self._texts: list[str] = []
        self._started = time.monotonic()
        self._first: float | None = None
        self._last = self._started
        self._saving: asyncio.Task[None] | None = None
        self._figures: dict[str, Any] = {}
        self.pieces = 0
        self.trouble: SlipwayError | None = None
        self.unkept: SlipwayError | None = None

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the question to the first text."""
        return None if self._first is None else self._first - self._started

    @property
    def figures(self) -> dict[str, Any]:
        """What was measured, and where it is not whole its `state`."""
        return self._figures

    async def texts(self) -> AsyncGenerator[str, None]:
        """The answer's texts as they come. However it ends, what came is kept then."""
        state: str | None = "stopped"
        kept = time.monotonic()
        try:
            async with aclosing(self._control.chat(self._server, self._begun.chat)) as pieces:
                async for piece in pieces:
                    if piece.finish is not None:
                        self._figures["finish"] = piece.finish
                    if piece.completion_tokens is not None:
                        self._figures |= {"prompt_tokens": piece.prompt_tokens, "tokens": piece.completion_tokens}
                    if piece.text:
                        self._last = time.monotonic()
                        if self._first is None:
                            self._first = self._last
                        self.pieces += 1
                        self._texts.append(piece.text)
                        yield piece.text
                        if self._last - kept > KEEP_S and (self._saving is None or self._saving.done()):
                            kept = self._last
                            self._saving = asyncio.create_task(self._keep({"state": "cut"}))
            state = None
        except SlipwayError as error:
            self.trouble, state = error, "failed"
        finally:
            self._measure(state)
            last = asyncio.create_task(self._keep_last())
            await asyncio.shield(last)  # a page that has gone cancels this task, and the answer is kept all the same

    def _measure(self, state: str | None) -> None:
        told = self._figures
        tokens = told.get("tokens") or self.pieces
        told |= {"tokens": tokens, "seconds": time.monotonic() - self._started, "ttft": self.first_token_s}
        if self._first is not None and tokens > 1 and self._last > self._first:
            told["speed"] = (tokens - 1) / (self._last - self._first)
        if state is None:
            told.setdefault("finish", "stop")
        else:
            told["state"] = state
        if self.trouble is not None:
            told |= {"trouble_en": self.trouble.of("en"), "trouble_zh": self.trouble.of("zh")}

    async def _keep_last(self) -> None:
        if self._saving is not None:
            await self._saving
        await self._keep(self._figures)

    async def _keep(self, figures: dict[str, Any]) -> None:
        try:
            await asyncio.to_thread(self._control.keep_answer, self._begun, "".join(self._texts), figures)
            self.unkept = None
        except SlipwayError as error:
            self.unkept = error
            log.warning("an answer is not kept: %s", error)


async def lines(control: Control, begun: Begun, server_id: str, language: Language) -> AsyncGenerator[bytes, None]:
    """An answer as lines of JSON: {"kept"} at once, {"text"} at most 25 times a second, the first without delay, and
    {"done"} with the figures, which tells of `trouble` and of what could not be kept (`unkept`)."""
    answering = Answering(control, begun, server_id)
    yield _line({"kept": _kept(begun)})
    async with aclosing(gathered(answering.texts(), UPDATE_S)) as parts:
        async for part in parts:
            yield _line({"text": "".join(part), "ttft": answering.first_token_s, "pieces": answering.pieces})
    done: dict[str, Any] = {"done": answering.figures}
    if answering.trouble is not None:
        done["trouble"] = trouble(answering.trouble, language)
    if answering.unkept is not None:
        done["unkept"] = trouble(answering.unkept, language)
    yield _line(done)


def _kept(begun: Begun) -> dict[str, Any]:
    return {
        "conversation": begun.conversation,
        "name": begun.name,
        "question": {"id": begun.question.id, "beside": begun.beside_question},
        "answer": {"id": begun.answer.id, "beside": begun.beside_answer},
    }


async def gathered(source: AsyncIterator[T], period_s: float) -> AsyncGenerator[list[T], None]:
    """The items of `source`, the first at once, later ones gathered so that a list comes at most each `period_s`.

    Nothing waits longer than that, however slow the source is. Closing this closes the source.
    """
    items: list[T] = []
    wake = asyncio.Event()

    async def pump() -> None:
        try:
            async with aclosing(source) as opened:  # type: ignore[type-var]
                async for item in opened:
                    items.append(item)
                    wake.set()
        finally:
            wake.set()

    task = asyncio.create_task(pump())
    try:
        while not (task.done() and not items):
            await wake.wait()
            wake.clear()
            if items:
                part, items[:] = list(items), []
                yield part
                if not task.done():
                    await asyncio.wait({task}, timeout=period_s)
            if task.done():
                wake.set()
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def trouble(error: Exception, language: Language) -> dict[str, Any]:
    """An error as the page shows it."""
    if not isinstance(error, SlipwayError):
        return {"title": str(error)}
    hint = None if error.hint is None else error.hint.of(language)
    reasons = [reason.of(language) for reason in getattr(error, "reasons", ())]
    return {"title": error.message.of(language), "hint": hint, "reasons": reasons, "field": error.field}


def _line(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, ensure_ascii=False) + "\n").encode()
