"""Asks something that may never answer, and does not wait longer than it is worth."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """A call under way in a thread of its own. The thread is a daemon: an answer that never comes holds up nobody."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._answer: list[T] = []
        self._error: BaseException | None = None
        self._done = threading.Event()
        threading.Thread(target=self._run, name=f"probe {getattr(call, '__name__', '')}", daemon=True).start()

    def _run(self) -> None:
        try:
            self._answer.append(self._call())
        except BaseException as error:
            self._error = error
        finally:
            self._done.set()

    def answer(self, deadline: float) -> T:
        """The answer, or the call's own error. Raises TimeoutError when `deadline` (time.monotonic, s) has passed."""
        if not self._done.wait(max(0.0, deadline - time.monotonic())):
            raise TimeoutError("no answer in time")
        if self._error is not None:
            raise self._error
        return self._answer[0]
