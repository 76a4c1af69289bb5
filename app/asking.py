"""Turns an asynchronous iterator into an ordinary one, for those that wait anyway."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

T = TypeVar("T")


def in_step(source: AsyncIterator[T]) -> Iterator[T]:
    """Each item as it comes. Closing this iterator closes the source, so that what it holds is let go."""
    loop = asyncio.new_event_loop()
    try:
        while True:
            try:
                yield loop.run_until_complete(anext(source))
            except StopAsyncIteration:
                return
    finally:
        close = getattr(source, "aclose", None)
        if close is not None:
            with contextlib.suppress(RuntimeError):
                loop.run_until_complete(close())
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
