"""How answers go out, without a server: one end for each, cancelled ones end, one that cannot be sent harms nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from slipway_engine.errors import RequestError, internal
from slipway_engine.job import Job
from slipway_engine.metrics import Metrics
from slipway_engine.sender import PARTING_S, TURN_S, Sender

from tests.conftest import until

PATIENCE_S = 30.0  # how long a busy machine may take, not what is claimed


class Letters:
    """A tokenizer whose ids are letters."""

    is_fast = False

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(map(chr, ids))


class Listener:
    """A reply that keeps what it gets."""

    def __init__(self, *, broken: bool = False, halts_s: float = 0.0) -> None:
        self.text, self.finish, self.problem, self.sends = "", "", None, 0
        self.ended, self.left = threading.Event(), False
        self.seen_gone: float | None = None
        self.ended_at = 0.0
        self.was_over = False  # its chat, when its final answer came
        self._broken, self._halts_s, self.went_on = broken, halts_s, 0.0

    def delta(self, text: str) -> None:
        assert not self.ended.is_set()
        if self._broken:
            raise OSError("the client's side is gone")
        time.sleep(self._halts_s)
        self.went_on = time.monotonic()
        self.text += text
        self.sends += 1

    def final(self, text: str, finish: str, job: Job) -> None:
        assert not self.ended.is_set()
        self.text, self.finish = self.text + text, finish
        self.ended_at, self.was_over = time.monotonic(), job.dropped
        self.ended.set()

    def error(self, error: RequestError) -> None:
        assert not self.ended.is_set()
        self.problem = error
        self.ended.set()

    def gone(self) -> bool:
        assert not self.ended.is_set()
        if self.left and self.seen_gone is None:
            self.seen_gone = time.monotonic()
        return self.left


@pytest.fixture
def sender() -> Iterator[Sender]:
    sending = Sender(Letters(), Metrics(None, {}, lambda: (0, 0)), lambda line: None)
    sending.start()
    yield sending
    sending.close()


def make(reply: Any, **given: Any) -> Job:
    return Job([1, 2], 50, None, reply, seed=0, **given)  # type: ignore[arg-type]


def say(sender: Sender, job: Job, text: str, end: Any = None) -> None:
    job.fresh.extend(map(ord, text))
    job.produced.extend(map(ord, text))
    job.end = end
    sender.wake(True)


def test_an_answer_goes_out_in_pieces_and_ends_once(sender: Sender) -> None:
    listener = Listener()
    job = make(listener)
    job.admitted = job.arrived
    sender.add(job)
    say(sender, job, "Hello")
    say(sender, job, " there", "stop")
    assert listener.ended.wait(PATIENCE_S)
    assert (listener.text, listener.finish) == ("Hello there", "stop")


def test_an_answer_that_is_asked_for_whole_comes_in_one_response(sender: Sender) -> None:
    listener = Listener()
    job = make(listener, stream=False)
    sender.add(job)
    for letter in "whole":
        say(sender, job, letter)
    say(sender, job, "", "length")
    assert listener.ended.wait(PATIENCE_S)
    assert (listener.text, listener.finish, listener.sends) == ("whole", "length", 0)


def test_a_stop_string_ends_the_answer_and_lets_the_decoder_know(sender: Sender) -> None:
    listener = Listener()
    job = make(listener, stop=("END",))
    sender.add(job)
    say(sender, job, "so it isENDand more")
    assert listener.ended.wait(PATIENCE_S)
    assert (listener.text, listener.finish) == ("so it is", "stop")
    until(lambda: job.dropped)


def test_a_client_that_is_gone_ends_its_chat_at_once_and_gets_its_final_answer_later(sender: Sender) -> None:
    listener = Listener()
    job = make(listener)
    sender.add(job)
    say(sender, job, "heard")
    until(lambda: listener.text == "heard")
    listener.left = True
    until(lambda: job.dropped and sender.live == 0)
    say(sender, job, "unheard")
    assert listener.ended.wait(PATIENCE_S)
    assert (listener.text, listener.finish, listener.was_over) == ("heard", "cancelled", True)
    assert listener.seen_gone is not None and listener.ended_at - listener.seen_gone >= PARTING_S


@pytest.mark.parametrize("end", ["stop", internal(RuntimeError("a step failed"))], ids=["whole", "failed"])
def test_an_answer_whose_client_left_before_its_end_is_held_back_too(sender: Sender, end: object) -> None:
    listener = Listener()
    listener.left = True
    job = make(listener)
    job.end = end  # type: ignore[assignment]
    sender.add(job)
    sender.wake(True)
    assert listener.ended.wait(PATIENCE_S)
    assert (listener.text, listener.finish, listener.problem) == ("", "cancelled", None)
    assert listener.seen_gone is not None and listener.ended_at - listener.seen_gone >= PARTING_S


def test_what_is_held_back_keeps_its_distance_from_a_time_in_which_everything_stood_still() -> None:
    sending = Sender(Letters(), Metrics(None, {}, lambda: (0, 0)), lambda line: None)
    away, halts = Listener(), Listener(halts_s=PARTING_S + TURN_S)
    away.left = True
    for listener, end in ((away, "stop"), (halts, None)):
        job = make(listener)
        job.fresh.extend(map(ord, "text"))
        job.end = end
        sending.add(job)
    sending.start()  # its first turn is both
    assert away.ended.wait(PATIENCE_S)
    sending.close()
    assert halts.text == "text" and away.ended_at - halts.went_on >= PARTING_S - TURN_S


def test_a_sender_that_closes_sends_what_it_held_back() -> None:
    sending = Sender(Letters(), Metrics(None, {}, lambda: (0, 0)), lambda line: None)
    sending.start()
    listener = Listener()
    listener.left = True
    sending.add(make(listener))
    until(lambda: sending.live == 0)
    sending.close()
    assert listener.finish == "cancelled"


def test_a_chat_that_waited_too_long_is_told_so(sender: Sender) -> None:
    listener = Listener()
    sender.add(make(listener, deadline=0.0))
    assert listener.ended.wait(PATIENCE_S)
    assert listener.problem is not None and listener.problem.code == "unavailable"


def test_a_reply_that_cannot_be_sent_does_not_stop_the_others(sender: Sender) -> None:
    lost, listener = Listener(broken=True), Listener()
    broken = make(lost)
    well = make(listener)
    sender.add(broken)
    sender.add(well)
    say(sender, broken, "lost")
    say(sender, well, "arrives", "stop")
    assert listener.ended.wait(PATIENCE_S) and lost.ended.wait(PATIENCE_S)
    assert listener.text == "arrives" and broken.dropped
    assert lost.problem is not None and lost.problem.code == "internal"  # else the server would wait for it for ever
