"""A real tritonserver that is killed, under a spec that asks for it back."""

from __future__ import annotations

import pytest

from app.asking import in_step
from app.control import Control
from backends.runs import State
from backends.spec import Chat
from tests.conftest import until
from tests.live.conftest import deployed, gone

pytestmark = pytest.mark.live


def test_a_killed_server_comes_back_and_answers_at_the_same_address(live_control: Control) -> None:
    run = deployed(live_control, "comes-back", restart="on-failure")
    live_control._targets["local"]._service(run.id).kill()
    until(lambda: live_control.run(run.id).ready_at != run.ready_at, 120, "the server to be back")
    back = live_control.run(run.id)
    assert (back.state, back.endpoint, back.measured["restarts"]) == (State.SERVING, run.endpoint, 1)
    assert "".join(piece.text for piece in in_step(live_control.chat(run.id, Chat(prompt="Slipway is"))))
    (newest, _), (_, end) = live_control.log_starts(run.id, "serve")
    assert newest == end
    gone(live_control, back)
