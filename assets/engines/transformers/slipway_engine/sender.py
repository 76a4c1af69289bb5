"""How answers go out: one thread that turns tokens into text and sends what has gathered, merging more under load.

It alone sends, ends and asks for cancellation: asking a sender after its final flag kills the whole server, so each
chat's reply has one owner. A send costs as much as a small model's token, so the thread rests after each round in
proportion to what the round took: tokens gather meanwhile and travel together. First tokens and ends do not wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from .errors import RequestError, waited_too_long
from .job import Job
from .metrics import Metrics
from .text import Detokeniser, StopStrings

POLL_S = 0.03  # how often each chat is asked whether its client is gone
REST = 1.5  # seconds of rest for each second of sending, when several chats run
REST_LIMIT_S = 0.05


class _Outgoing:
    """What the sender keeps for one chat."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job = job
        self.detokeniser = Detokeniser(tokenizer)
        self.stops = StopStrings(job.stop)
        self.held = ""  # for answers that go out whole
        self.next_poll = time.monotonic() + POLL_S


class Sender:
    """Sends the answers of all chats that it was given."""

    def __init__(self, tokenizer: Any, metrics: Metrics, log: Callable[[str], None]) -> None:
        self._tokenizer, self._metrics, self._log = tokenizer, metrics, log
        self._live: dict[Job, _Outgoing] = {}
        self._news, self._urgent = threading.Event(), threading.Event()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="slipway-send", daemon=True)

    def start(self) -> None:
        """Begins to send."""
        self._thread.start()

    def add(self, job: Job) -> None:
        """Takes over the chat's reply; nobody else may use it from now on."""
        outgoing = _Outgoing(job, self._tokenizer)
        self._live[job] = outgoing

    def wake(self, urgent: bool) -> None:
        """Says that there is something to send; `urgent`: a first token or an end."""
        self._news.set()
        if urgent:
            self._urgent.set()

    def close(self) -> None:
        """Sends what is left of chats that have ended, and stops."""
        self._closing = True
        self.wake(True)
        self._thread.join()

    @property
    def live(self) -> int:
        """Chats that have no final answer yet."""
        return len(self._live)

    def _run(self) -> None:
        while True:
            self._news.wait(POLL_S if self._live else 0.25)
            closing = self._closing
            self._news.clear()
            self._urgent.clear()
            began = time.monotonic()
            self._round(list(self._live.values()), began)
            self._metrics.flush(began)
            if closing and (not self._live or all(job.end is None for job in self._live)):
                return
            if len(self._live) > 1:
                now = time.monotonic()
                self._urgent.wait(min(REST_LIMIT_S, (now - began) * REST))

    def _round(self, outgoing: list[_Outgoing], now: float) -> None:
        for chat in outgoing:
            try:
                self._serve(chat, now)
            except Exception as error:  # one reply that cannot be sent must not stop the others
                self._log(f"an answer could not be sent: {error!r}")
                self._forget(chat, "failed")

    def _serve(self, chat: _Outgoing, now: float) -> None:
        job = chat.job
        end = job.end  # read before the tokens: the decode thread writes it after the last of them
        text = self._text(chat)
        if chat.stops.hit:
            self._finish(chat, text, "stop")
        elif isinstance(end, RequestError):
            job.reply.error(end)
            self._forget(chat, "failed")
        elif end is not None:
            text += chat.stops.feed(chat.detokeniser.flush())
            self._finish(chat, text + chat.stops.flush(), "stop" if chat.stops.hit else end)
        else:
            if not job.stream:
                chat.held += text
            elif text:
                job.reply.delta(text)
            self._look_after(chat, now)

    def _text(self, chat: _Outgoing) -> str:
        fresh, job = chat.job.fresh, chat.job
        if not fresh:
            return ""
        ids = []
        while fresh:
            ids.append(fresh.popleft())
        self._metrics.tokens(job, len(ids))
        if not job.stop:
            return chat.detokeniser.feed(ids)
        out = ""
        for token in ids:  # one by one, to end at the token that completes the stop string
            out += chat.stops.feed(chat.detokeniser.feed((token,)))
            if chat.stops.hit:
                break
        return out

    def _look_after(self, chat: _Outgoing, now: float) -> None:
        """Ends chats whose client is gone and chats that waited too long."""
        job = chat.job
        if now >= chat.next_poll:
            chat.next_poll = now + POLL_S
            if job.reply.gone():
                job.dropped = True
                self._finish(chat, "", "cancelled")
                return
        if job.admitted is None and now > job.deadline:
            job.dropped = True
            job.reply.error(waited_too_long(now - job.arrived))
            self._forget(chat, "failed")

    def _finish(self, chat: _Outgoing, text: str, finish: str) -> None:
        chat.job.dropped = True
        chat.job.reply.final(chat.held + text, finish, chat.job)
        self._forget(chat, "cancelled" if finish == "cancelled" else "finished")

    def _forget(self, chat: _Outgoing, outcome: str) -> None:
        chat.job.dropped = True
        if self._live.pop(chat.job, None) is not None:
            self._metrics.ended(chat.job, outcome)
