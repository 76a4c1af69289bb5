"""A server that ends by itself: started again as the spec asks, left with its cause where it would only end again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from app.control import Control
from backends import restarts
from backends.errors import StepFailed
from backends.events import Kind
from backends.restarts import STEADY_S, End, cause_of, wait_s
from backends.runs import State
from backends.steps import Plan, Service
from backends.text import same
from tests.conftest import until
from tests.plans import plan
from tests.test_jobs import control, over  # noqa: F401  the fixture
from tests.test_local_target import SERVER


def ends(*served_s: float, cause: str = "1 x") -> list[End]:
    return [End(cause=cause, served_s=seconds) for seconds in served_s]


def failed(*lines: str, status: int = 1) -> StepFailed:
    return StepFailed(same("It ended."), exit_status=status, last_lines=lines)


def test_the_wait_doubles_up_to_a_minute() -> None:
    different = [End(cause=str(number), served_s=0) for number in range(30)]
    waits = [wait_s(different[:count]) for count in range(1, 30)]
    assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
    assert set(waits[7:]) == {60}


def test_three_ends_of_one_cause_are_a_loop() -> None:
    assert wait_s(ends(5, 0)) is not None
    assert wait_s(ends(5, 0, 0)) is None
    assert wait_s([*ends(0, 0), *ends(0, cause="2 y")]) is not None
    assert wait_s([*ends(0, cause="2 y"), *ends(0, 0, 0)]) is None


def test_good_service_makes_earlier_ends_forgotten() -> None:
    assert wait_s(ends(0, 0, STEADY_S)) == 1
    assert wait_s(ends(STEADY_S, STEADY_S, STEADY_S, STEADY_S)) == 1
    assert wait_s(ends(0, 0, STEADY_S, 0)) == 1
    assert wait_s(ends(STEADY_S, 0, 0, 0)) is None


def test_alike_ends_differ_in_numbers_only() -> None:
    one = failed("08:31:07 pid 77 at 0x7f3a: out of memory", "")
    assert cause_of(one) == cause_of(failed("09:01:33 pid 4242 at 0xbeef: out of memory"))
    assert cause_of(one) != cause_of(failed("08:31:07 pid 77 at 0x7f3a: out of disk"))
    assert cause_of(one) != cause_of(failed("08:31:07 pid 77 at 0x7f3a: out of memory", status=-9))
    assert cause_of(failed()) == cause_of(failed(" "))


# --- with real workers ------------------------------------------------------------------------------------------------


def served(home: Path, policy: str, code: str = SERVER) -> Plan:
    """A plan of one server with that policy."""
    made = plan(Service(id="serve", title=same("serve"), argv=(sys.executable, "-c", code, "{port.http}"), model="m"))
    return made.model_copy(update={"spec": made.spec.model_copy(update={"restart": policy})})


def killed(control: Control, run_id: str) -> int:  # noqa: F811
    """Kills the server and returns its process id."""
    process = control._targets["local"]._service(run_id)
    process.kill()
    return process.pid


def test_a_server_that_was_killed_is_started_again_on_its_ports(control: Control, home: Path) -> None:  # noqa: F811
    run = control.start_plan(served(home, "on-failure")).run
    assert over(control, run.id) is State.SERVING
    before = control.run(run.id)
    pid = killed(control, run.id)
    until(lambda: (now := control._targets["local"]._service(run.id)) and now.pid != pid, 30, "another server")
    until(lambda: control.run(run.id).ready_at != before.ready_at, 30, "it to serve")
    after = control.run(run.id)
    assert (after.state, after.endpoint, after.measured["restarts"]) == (State.SERVING, before.endpoint, 1)
    assert any(event.kind is Kind.NOTE and "again in 1 s" in event.text.en for event in control.events(run.id))
    assert control.steps(run.id)[0].standing == "done"


def test_the_log_of_this_and_of_the_start_before_can_be_told_apart(control: Control, home: Path) -> None:  # noqa: F811
    code = SERVER.replace("'listening'", "'listening', __import__('os').getpid()")
    run = control.start_plan(served(home, "on-failure", code)).run
    assert over(control, run.id) is State.SERVING
    first = control._targets["local"]._service(run.id).pid
    ready_at = control.run(run.id).ready_at
    killed(control, run.id)
    until(lambda: control.run(run.id).ready_at != ready_at, 30, "it to serve again")
    second = control._targets["local"]._service(run.id).pid
    (newest, end), (older, older_end) = control.log_starts(run.id, "serve")
    assert (older, older_end, end) == (0, newest, None)
    assert control.log(run.id, "serve", start=1).lines == (f"listening {first}",)
    assert control.log(run.id, "serve", start=2).lines == (f"listening {second}",)


def test_a_server_that_keeps_ending_in_the_same_way_is_left_with_its_cause(
    control: Control,  # noqa: F811
    home: Path,
) -> None:
    mark = home / "dies"
    code = (
        f"import pathlib, sys\nif pathlib.Path({str(mark)!r}).exists(): sys.exit('no memory left, 17 bytes')\n{SERVER}"
    )
    run = control.start_plan(served(home, "on-failure", code)).run
    assert over(control, run.id) is State.SERVING
    mark.touch()
    killed(control, run.id)
    until(lambda: control.run(run.id).state is State.FAILED, 120, "the loop to be seen")
    trouble = control.run(run.id).trouble
    assert "3 times in the same way" in trouble.message.en
    assert "no memory left" in trouble.message.en
    assert trouble.message.zh != trouble.message.en
    assert [line for line in control.log(run.id, "serve").lines if "no memory" in line] == [
        "no memory left, 17 bytes"
    ] * restarts.SAME
    assert control.steps(run.id)[0].standing == "failed"
    assert control._targets["local"].find(run.id).processes == 0


def test_a_stop_while_it_waits_is_a_stop(control: Control, home: Path) -> None:  # noqa: F811
    run = control.start_plan(served(home, "on-failure")).run
    assert over(control, run.id) is State.SERVING
    killed(control, run.id)
    until(lambda: any(event.kind is Kind.NOTE for event in control.events(run.id)), 30, "the note")
    control.stop(run.id)
    until(lambda: control.run(run.id).state is State.STOPPED)
    assert control._targets["local"].find(run.id).processes == 0


@pytest.mark.parametrize("code", ["import sys; sys.exit('broken')"])
def test_a_server_that_never_served_is_not_started_again(control: Control, home: Path, code: str) -> None:  # noqa: F811
    run = control.start_plan(served(home, "on-failure", code)).run
    assert over(control, run.id) is State.FAILED
    assert control.log(run.id, "serve").lines == ("broken",)


def test_a_server_that_ends_without_a_failure_is_left(control: Control, home: Path) -> None:  # noqa: F811
    code = f"import os, signal; signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n{SERVER}"
    run = control.start_plan(served(home, "on-failure", code)).run
    assert over(control, run.id) is State.SERVING
    control._targets["local"]._service(run.id).terminate()
    until(lambda: control.run(run.id).state is State.FAILED, 30)
    assert len(control.log_starts(run.id, "serve")) == 1


def test_without_the_wish_nothing_is_started_again(control: Control, home: Path) -> None:  # noqa: F811
    run = control.start_plan(served(home, "no")).run
    assert over(control, run.id) is State.SERVING
    killed(control, run.id)
    until(lambda: control.run(run.id).state is State.FAILED, 30)
    assert len(control.log_starts(run.id, "serve")) == 1
