"""Runs, with real worker processes: started once, outliving everybody, true after any death."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from sqlalchemy.exc import OperationalError

from app.__main__ import control as make_control
from app.control import Control
from app.jobs import RunFolder, Stamps
from app.worker import PORTS, Worker, _free_ports, _port_taken
from backends.errors import Conflict, StepFailed, Stopped
from backends.events import Event, Kind
from backends.runs import Run, State
from backends.spec import FasterTransformerOptions, ModelSource, Ports, Spec
from backends.steps import Plan, Service, Task
from backends.text import same
from tests.conftest import gone, until
from tests.guides import RTX_3090_X2
from tests.plans import plan, python
from tests.test_local_target import SERVER
from tests.upstream import tiny_llama

ROOT = Path(__file__).resolve().parent.parent
GATE = (
    "import pathlib, time\nprint('at the gate', flush=True)\n"
    "while not pathlib.Path({gate!r}).exists(): time.sleep(0.02)"
)


@pytest.fixture
def control(home: Path) -> Iterator[Control]:
    control = make_control({"home": str(home)})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
        until(lambda run=run: not control.run(run.id).state.is_open(), 30)


def gate(home: Path, step_id: str = "gate", **more: object) -> Task:
    """A task that waits until `open_gate`."""
    return python(step_id, GATE.format(gate=str(home / "open")), **more)


def open_gate(home: Path) -> None:
    (home / "open").touch()


def server(code: str = SERVER) -> Service:
    return Service(id="serve", title=same("serve"), argv=(sys.executable, "-c", code, "{port.http}"), model="m")


def at_gate(control: Control, run_id: str, step: str = "gate") -> bool:
    return any("at the gate" in line for line in control.log(run_id, step).lines)


def worker_of(control: Control, run_id: str) -> psutil.Process:
    """The worker process of a run."""
    return until(lambda: worker_now(control, run_id), 30, "a worker")


def worker_now(control: Control, run_id: str) -> psutil.Process | None:
    """The process that has the run's lock."""
    lock = str(RunFolder(control.settings.home.resolve(), run_id).lock)
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):  # it ends just now
            is_worker = "app.work" in (process.info["cmdline"] or [])
            if is_worker and lock in [file.path for file in process.open_files()]:
                return process
    return None


def over(control: Control, run_id: str, timeout_s: float = 90) -> State:
    """The state that a run comes to: serving, or its end."""

    def look() -> State | None:
        state = control.run(run_id).state
        return state if state is State.SERVING or not state.is_open() else None

    return until(look, timeout_s)


def test_a_run_without_a_server_comes_to_its_end(control: Control) -> None:
    run = control.start_plan(plan(python("one", "print('1')"), python("two", "print('2')"))).run
    assert over(control, run.id) is State.DONE
    assert [view.standing for view in control.steps(run.id)] == ["done", "done"]
    assert control.log(run.id, "two").lines == ("2",)


@pytest.mark.parametrize(
    ("line", "again"),
    [
        ("failed to start GRPC service: Unavailable - Socket '127.0.0.1:40001' already in use", True),
        ("Bind for 127.0.0.1:40001 failed: port is already allocated", True),
        ("failed to start HTTP service: Unavailable - Socket '127.0.0.1:8000' already in use", False),
        ("Bind for 127.0.0.1:8000 failed: port is already allocated", False),
        ("no memory left", False),
    ],
)
def test_only_a_port_that_nobody_named_is_chosen_again(line: str, again: bool) -> None:
    made = plan()
    spec = made.spec.model_copy(update={"ports": Ports(http=8000)})
    run = Run(id="x-1", name="x", state=State.RUNNING, spec=spec, plan=made, created_at=datetime.now(UTC))
    assert _port_taken(StepFailed(same("It ended."), last_lines=("loading", line)), run) is again


def test_ports_that_are_chosen_are_none_that_the_system_gives_away_meanwhile(monkeypatch) -> None:
    chosen = _free_ports(3)
    assert len(set(chosen)) == 3 and set(chosen) <= set(PORTS)
    with socket.create_server(("127.0.0.1", chosen[0])):
        monkeypatch.setattr("app.worker.PORTS", [chosen[0]] * 100)
        others = _free_ports(2)
    assert len(others) == 2 and chosen[0] not in others


def test_a_step_that_fails_ends_the_run_and_says_why(control: Control) -> None:
    run = control.start_plan(plan(python("one", "print('why'); raise SystemExit(4)"), python("two", "print(2)"))).run
    assert over(control, run.id) is State.FAILED
    trouble = control.run(run.id).trouble
    assert trouble is not None
    assert (trouble.step, trouble.exit_status, trouble.last_lines) == ("one", 4, ("why",))
    assert [view.standing for view in control.steps(run.id)] == ["failed", "waiting"]


def test_a_failed_run_goes_on_from_the_step_that_failed_with_the_plan_that_was_handed_in(
    control: Control, home: Path
) -> None:
    first = python("first", "print('once')")
    second = python(
        "second", f"import pathlib, sys; sys.exit(0 if pathlib.Path({str(home / 'open')!r}).exists() else 7)"
    )
    handed_in = plan(first, second)
    run = control.start_plan(handed_in).run
    assert over(control, run.id) is State.FAILED
    open_gate(home)
    assert control.resume(run.id).plan == handed_in
    assert over(control, run.id) is State.DONE
    standing = {view.id: view.standing for view in control.steps(run.id)}
    assert standing == {"first": "skipped", "second": "done"}
    assert control.log(run.id, "first").lines == ("once",)


def test_a_plan_for_another_machine_is_resumed_for_that_machine(control: Control, home: Path) -> None:
    folder = tiny_llama(home / "models" / "tiny-llama")
    options = FasterTransformerOptions(tensor_parallel=2, backend_repository=f"file://{home}/nothing")
    spec = Spec(model=ModelSource(kind="folder", id=str(folder)), name="far", engine="fastertransformer",
                target="docker", fastertransformer=options)  # fmt: skip
    run = control.start_plan(control.plan(spec, RTX_3090_X2)).run
    assert over(control, run.id) is State.FAILED
    assert control.run(run.id).trouble.step in ("backend-source", None)  # no step: where no Docker answers
    again = control.resume(run.id).plan
    assert again.step("serve").container.gpus == (0, 1)
    assert again.hardware == RTX_3090_X2
    assert over(control, run.id) is State.FAILED


@pytest.mark.parametrize("ready", [False, True])
def test_a_run_outlives_the_program_that_started_it(control: Control, home: Path, ready: bool) -> None:
    code = (
        "import sys, os, signal; from app.__main__ import control; from backends.steps import Plan\n"
        "made = Plan.model_validate_json(sys.stdin.read())\n"
        "control = control({'home': sys.argv[1]})\n"
        "if sys.argv[2:]: control.get_ready()\n"
        "print(control.start_plan(made).run.id, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    made = plan(gate(home), python("after", "print('after')"))
    words = (sys.executable, "-c", code, str(home), *(["ready"] if ready else []))
    starter = subprocess.run(words, input=made.model_dump_json(), text=True, capture_output=True, cwd=ROOT)
    assert starter.returncode == -signal.SIGKILL
    run_id = starter.stdout.strip()
    until(lambda: at_gate(control, run_id))
    control.recover()
    assert control.run(run_id).state is State.RUNNING
    open_gate(home)
    assert over(control, run_id) is State.DONE


def spares(panel: int) -> list[psutil.Process]:
    """Workers that a panel has ready."""
    found = []
    for child in psutil.Process(panel).children():
        with contextlib.suppress(psutil.Error):  # a worker of another test that ends just now
            if "--spare" in child.cmdline():
                found.append(child)
    return found


def test_the_worker_that_is_ready_carries_out_the_next_run(control: Control, home: Path) -> None:
    control.get_ready()
    control.get_ready()  # one is enough
    [ready] = spares(os.getpid())
    run = control.start_plan(plan(gate(home))).run
    until(lambda: at_gate(control, run.id))
    assert worker_of(control, run.id) == ready
    open_gate(home)
    assert over(control, run.id) is State.DONE
    until(lambda: gone(ready.pid))


def test_a_ready_worker_that_died_keeps_no_run_from_its_own(control: Control) -> None:
    control.get_ready()
    [ready] = spares(os.getpid())
    ready.kill()
    run = control.start_plan(plan(python("one", "print('1')"))).run
    assert over(control, run.id) is State.DONE


def test_a_plan_can_be_read_where_no_process_can_be_started(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_words: object, **_more: object) -> None:
        raise BlockingIOError("Resource temporarily unavailable")

    with monkeypatch.context() as full:
        full.setattr(subprocess, "Popen", no_more)
        control.get_ready()
    run = control.start_plan(plan(python("one", "print('1')"))).run
    assert over(control, run.id) is State.DONE


def test_a_ready_worker_goes_with_its_panel(home: Path) -> None:
    code = (
        "import sys; from app.__main__ import control\n"
        "control({'home': sys.argv[1]}).get_ready(); print('ready', flush=True); sys.stdin.read()\n"
    )
    words = (sys.executable, "-c", code, str(home))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as panel:
        assert panel.stdout is not None and panel.stdout.readline() == b"ready\n"
        [ready] = spares(panel.pid)
        panel.kill()
    until(lambda: gone(ready.pid))


def test_a_killed_worker_leaves_a_lost_run_and_no_process(control: Control, home: Path) -> None:
    run = control.start_plan(plan(python("before", "print('kept')"), gate(home))).run
    until(lambda: at_gate(control, run.id))
    worker_of(control, run.id).kill()
    until(lambda: (control.recover() or control.run(run.id).state) is State.LOST, 30)
    assert control._targets["local"].find(run.id).processes == 0
    assert control.log(run.id, "before").lines == ("kept",)
    assert [view.standing for view in control.steps(run.id)] == ["done", "lost"]
    assert control.run(run.id).trouble.step == "gate"


def test_a_server_whose_worker_was_killed_is_adopted(control: Control) -> None:
    run = control.start_plan(plan(server())).run
    assert over(control, run.id) is State.SERVING
    served = control._targets["local"]._service(run.id)
    worker = worker_of(control, run.id)
    worker.kill()

    def another() -> bool:
        control.recover()  # as often as a panel does: the killed one holds the run until its last thread has ended
        now = worker_now(control, run.id)
        return now is not None and now != worker

    until(another, 30, "another worker")
    assert control._targets["local"]._service(run.id) == served
    assert control.run(run.id).state is State.SERVING
    control.stop(run.id)
    until(lambda: control.run(run.id).state is State.STOPPED, 30)
    assert control._targets["local"].find(run.id).processes == 0


def test_a_server_that_ends_by_itself_is_told_with_its_last_lines(control: Control) -> None:
    run = control.start_plan(plan(server())).run
    assert over(control, run.id) is State.SERVING
    control._targets["local"]._service(run.id).kill()
    until(lambda: control.run(run.id).state is State.FAILED, 30)
    trouble = control.run(run.id).trouble
    assert trouble.exit_status == -signal.SIGKILL
    assert "SIGKILL" in trouble.message.en
    assert trouble.last_lines == ("listening",)


@pytest.mark.parametrize("stage", ["gate", "serve"])
def test_stop_ends_a_run_within_seconds_and_leaves_no_process(control: Control, home: Path, stage: str) -> None:
    steps = (gate(home),) if stage == "gate" else (server(),)
    run = control.start_plan(plan(*steps)).run
    if stage == "gate":
        until(lambda: at_gate(control, run.id))
    else:
        assert over(control, run.id) is State.SERVING
    control.stop(run.id)
    until(lambda: control.run(run.id).state is State.STOPPED, 10)
    assert control._targets["local"].find(run.id).processes == 0


def test_two_terminals_start_the_same_deployment_once(control: Control, home: Path) -> None:
    code = (
        "import sys; from app.__main__ import control; from backends.steps import Plan\n"
        "made = Plan.model_validate_json(sys.argv[2])\n"
        "started = control({'home': sys.argv[1]}).start_plan(made)\n"
        "print(started.run.id, started.created)\n"
    )
    made = plan(gate(home)).model_dump_json()
    both = [
        subprocess.Popen((sys.executable, "-c", code, str(home), made), stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for _ in range(2)
    ]
    told = sorted(one.communicate(timeout=60)[0].split() for one in both)
    assert told[0][0] == told[1][0]
    assert sorted(word[1] for word in told) == ["False", "True"]
    assert len(control.open_runs()) == 1


def test_another_deployment_may_not_take_an_open_name(control: Control, home: Path) -> None:
    made = plan(gate(home))
    control.start_plan(made)
    other = made.model_copy(update={"spec": made.spec.model_copy(update={"precision": "fp32"})})
    with pytest.raises(Conflict, match="Choose another name") as refused:
        control.start_plan(other)
    assert refused.value.field == "name"


def test_a_step_that_serves_two_runs_is_done_once(control: Control, home: Path) -> None:
    counted = home / "count"
    code = GATE.format(gate=str(home / "open")) + f"\nopen({str(counted)!r}, 'a').write('x')"
    shared = python("shared", code, shared=True)
    first = control.start_plan(plan(shared, name="a")).run
    until(lambda: at_gate(control, first.id, "shared"))
    second = control.start_plan(plan(shared, name="b")).run
    until(lambda: any(event.kind == "note" for event in control.events(second.id)))
    open_gate(home)
    assert over(control, first.id) is State.DONE
    assert over(control, second.id) is State.DONE
    assert counted.read_text() == "x"
    assert control.steps(second.id)[0].standing == "skipped"


def test_a_result_that_has_gone_is_made_again(control: Control, home: Path) -> None:
    result = home / "result"
    step = python("make", f"open({str(result)!r}, 'w').write('x')", shared=True, outputs=(str(result),))
    assert over(control, control.start_plan(plan(step, name="a")).run.id) is State.DONE
    result.unlink()
    again = control.start_plan(plan(step, name="b")).run
    assert over(control, again.id) is State.DONE
    assert control.steps(again.id)[0].standing == "done"
    assert result.exists()


def test_a_result_that_was_made_again_by_half_is_none(control: Control, home: Path) -> None:
    result, broken = home / "result", home / "broken"
    code = f"import os; open({str(result)!r}, 'w'); raise SystemExit(os.path.exists({str(broken)!r}))"
    made = plan(python("make", code, shared=True, outputs=(str(result),)))
    assert over(control, control.start_plan(made).run.id) is State.DONE
    result.unlink()
    broken.touch()
    run = control.start_plan(made).run
    assert over(control, run.id) is State.FAILED
    assert result.exists()
    broken.unlink()
    control.resume(run.id)
    assert over(control, run.id) is State.DONE
    assert control.steps(run.id)[0].standing == "done"


def test_a_result_that_was_refused_is_known_as_such_until_another_is_made(home: Path) -> None:
    stamps, step = Stamps(home, home), python("t", "pass")
    for _ in range(2):
        stamps.add(step, "print", "run")
        assert not stamps.refused("print")
        stamps.drop("print")
        assert stamps.refused("print")
    assert not stamps.refused("another")


def test_a_locked_database_loses_no_event(control: Control, home: Path) -> None:
    run = control.start_plan(plan(gate(home), python("after", "print(1)"))).run
    until(lambda: at_gate(control, run.id))
    other = sqlite3.connect(home / "slipway.db", isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    open_gate(home)
    until(lambda: RunFolder(home, run.id).log("gate").exists())
    other.execute("ROLLBACK")
    other.close()
    assert over(control, run.id) is State.DONE
    kinds = [(event.step, event.kind.value) for event in control.events(run.id) if event.kind != "progress"]
    assert kinds == [("gate", "started"), ("gate", "done"), ("after", "started"), ("after", "done")]


def test_a_second_worker_for_one_run_is_refused(control: Control, home: Path) -> None:
    run = control.start_plan(plan(gate(home))).run
    until(lambda: at_gate(control, run.id))
    second = subprocess.run(
        (sys.executable, "-m", "app.work", run.id),
        env=os.environ | {"SLIPWAY_HOME": str(home)},
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert second.returncode == Conflict.exit_code
    assert "Traceback" not in second.stderr


def test_an_ended_worker_is_no_zombie(control: Control, home: Path) -> None:
    run = control.start_plan(plan(gate(home))).run
    worker = worker_of(control, run.id)
    open_gate(home)
    assert over(control, run.id) is State.DONE
    until(lambda: worker.pid not in psutil.pids(), 30, "the worker to be reaped")


def test_what_a_run_keeps_can_be_read_by_its_owner_only(control: Control, home: Path) -> None:
    run = control.start_plan(plan(python("one", "pass"))).run
    over(control, run.id)
    assert (home / "runs" / run.id / "logs").stat().st_mode & 0o077 == 0
    assert home.stat().st_mode & 0o077 == 0


def test_the_plan_that_ran_is_the_plan_that_was_shown(control: Control) -> None:
    made = plan(python("one", "pass"))
    run = control.start_plan(made).run
    over(control, run.id)
    assert Plan.model_validate(json.loads(control.run(run.id).plan.model_dump_json())) == made


def test_no_secret_of_the_environment_is_kept(control: Control, home: Path, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_verysecretvalue123")
    step = python("one", "import os; print(os.environ['HF_TOKEN'])", pass_env=("HF_TOKEN",))
    run = control.start_plan(plan(step)).run
    assert over(control, run.id) is State.DONE
    kept = b"".join(path.read_bytes() for path in home.rglob("*") if path.is_file())
    assert b"hf_verysecretvalue123" not in kept
    assert os.environ["HF_TOKEN"] == "hf_verysecretvalue123"


class Faulty:
    """A target with a fault of its own."""

    def places(self, *_: object) -> dict[str, str]:
        return {}

    def can(self, _step: object) -> None:
        return None

    def carry_out(self, *_: object) -> Iterator[object]:
        raise ZeroDivisionError("a fault")

    def watch(self, _run: str) -> int:
        return -1

    def stop(self, _run: str) -> None:
        return None

    def has(self, _step: object) -> bool:
        return True


def worked(worker: Worker) -> State:
    """What a worker in this process comes to; the signals stay as they were."""
    kept = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    try:
        return worker.work()
    finally:
        signal.signal(signal.SIGTERM, kept[0])
        signal.signal(signal.SIGINT, kept[1])


class Serving(Faulty):
    """A target whose server takes 500 MiB of the host, and is asked to stop as soon as it serves."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def carry_out(self, step: Service, _work: object) -> Iterator[Event]:
        yield Event(step=step.id, kind=Kind.READY, data={"memory_mib": 500})

    def watch(self, run: str) -> int | None:
        if self._control.run(run).state is not State.SERVING:
            return -1
        self._control._store.ask_to_stop(run)
        return None


@pytest.mark.parametrize(
    ("gpus", "used", "measured"),
    [(None, [1000, 7000], {"memory_mib": 6000, "host_memory_mib": 500}), (None, [None], {"memory_mib": 500}),
     ((), [], {"memory_mib": 500})],
    ids=["on a GPU", "without a GPU", "on the CPU of a machine with GPUs"],
)  # fmt: skip
def test_memory_is_measured_where_the_forecast_is_about(control: Control, home: Path, gpus, used, measured) -> None:
    made = plan(Service(id="serve", title=same("serve"), argv=("true",), model="m"))
    control._store.begin("demo-1", made.model_copy(update={"spec": made.spec.model_copy(update={"gpus": gpus})}))
    worker = Worker(control._store, Serving(control), home, home, "demo-1", iter(used).__next__)
    assert worked(worker) is State.STOPPED
    assert control.run("demo-1").state is State.STOPPED
    told = control.run("demo-1").measured
    assert {name: told[name] for name in told if name.endswith("memory_mib")} == measured


def test_a_fault_of_ours_ends_the_run_in_words(control: Control, home: Path) -> None:
    control._store.begin("demo-1", plan(python("one", "pass")))
    assert worked(Worker(control._store, Faulty(), home, home, "demo-1")) is State.FAILED
    trouble = control.run("demo-1").trouble
    assert "ZeroDivisionError" in trouble.message.en
    assert "worker.log" in trouble.hint.zh


def test_a_run_is_not_over_before_its_last_words_are_kept(control: Control, home: Path, monkeypatch) -> None:
    control._store.begin("demo-1", plan(Service(id="serve", title=same("serve"), argv=("true",), model="m")))
    append, refusals = control._store.append, ["as it is told", "before the run's end"]

    def locked_for_a_while(run_id: str, events: list[Event]) -> None:
        if any(event.kind is Kind.STOPPED for event in events) and refusals:
            raise OperationalError(refusals.pop(), {}, sqlite3.OperationalError("database is locked"))
        append(run_id, events)

    class Stopping(Faulty):
        def carry_out(self, *_: object) -> Iterator[Event]:
            raise Stopped

    monkeypatch.setattr(control._store, "append", locked_for_a_while)
    monkeypatch.setattr("app.worker.time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _s: None))
    assert worked(Worker(control._store, Stopping(), home, home, "demo-1")) is State.STOPPED
    assert [event.kind for event in control.events("demo-1")] == [Kind.STARTED, Kind.STOPPED]


def test_an_open_panel_sees_a_worker_die(control: Control, home: Path) -> None:
    run = control.start_plan(plan(gate(home))).run
    until(lambda: at_gate(control, run.id))
    control.watch()
    worker_of(control, run.id).kill()
    until(lambda: control.run(run.id).state is State.LOST, 30)
