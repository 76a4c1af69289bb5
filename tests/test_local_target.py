"""The local target, with real processes: what it writes, how it ends, what it never lets through."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backends.errors import BadInput, OutOfSpace, Refused, Stalled, StepFailed, Stopped, Unreachable
from backends.spec import Chat, Endpoint, Piece
from backends.steps import Ask, File, Forecast, Service, Step, WriteFiles, fill_step
from backends.targets import waiting
from backends.targets.base import Work, child_environment, redact
from backends.targets.local import LocalTarget
from backends.targets.processes import born
from backends.text import same
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.plans import python

ENDPOINT = Endpoint(http_port=1, grpc_port=2, metrics_port=3, model="m")
RUN = "demo-1"


@pytest.fixture
def target(home: Path) -> Iterator[LocalTarget]:
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    target = LocalTarget(home, home / "assets", sys.executable, os.environ, lambda *_: iter(()))
    yield target
    target.stop(RUN)


def work(home: Path, step: Step, stop=lambda: False) -> Work:
    folder = home / "runs" / RUN
    return Work(RUN, folder, folder / "logs" / f"{step.id}.log", ENDPOINT, {}, stop)


def do(target: LocalTarget, home: Path, step: Step, stop=lambda: False) -> Path:
    """Carries one step out and returns its log."""
    filled = fill_step(step, target.places(RUN, ENDPOINT, "127.0.0.1"))
    circumstances = work(home, filled, stop)
    for _ in target.carry_out(filled, circumstances):
        pass
    return circumstances.log


def test_a_task_writes_its_output_as_its_log(target: LocalTarget, home: Path) -> None:
    assert do(target, home, python("t", "print('hello'); print('你好')")).read_text() == "hello\n你好\n"


def test_a_failed_task_tells_exit_status_and_last_lines(target: LocalTarget, home: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, python("t", "print('before'); raise SystemExit(3)"))
    assert failed.value.exit_status == 3
    assert failed.value.last_lines == ("before",)


def test_a_task_that_leaves_its_result_out_has_failed(target: LocalTarget, home: Path) -> None:
    with pytest.raises(StepFailed, match="is not there"):
        do(target, home, python("t", "pass", outputs=("{run}/result",)))


def test_a_known_error_is_named_with_its_cure(target: LocalTarget, home: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        do(target, home, python("t", "print('OSError: [Errno 28] No space left on device'); raise SystemExit(1)"))
    assert "disk is full" in failed.value.message.en
    assert "磁盘已满" in failed.value.message.zh
    assert failed.value.hint is not None


def test_a_program_that_is_not_there_is_said_so(target: LocalTarget, home: Path) -> None:
    step = python("t", "pass").model_copy(update={"argv": ("/nonexistent/program",)})
    with pytest.raises(StepFailed, match="no program"):
        do(target, home, step)


def test_a_silent_idle_task_has_stalled(target: LocalTarget, home: Path) -> None:
    with pytest.raises(Stalled):
        do(target, home, python("t", "import time; time.sleep(600)", stall_s=0.5))
    assert target.find(RUN).processes == 0


def test_a_silent_busy_task_is_waited_for(target: LocalTarget, home: Path) -> None:
    code = "import time\nend = time.monotonic() + 3\nwhile time.monotonic() < end: pass\nprint('done')"
    assert do(target, home, python("t", code, stall_s=2.0)).read_text() == "done\n"


def test_stopping_a_task_leaves_no_process(target: LocalTarget, home: Path) -> None:
    code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']);"
    log = home / "runs" / RUN / "logs" / "t.log"
    step = python("t", code + "print('up', flush=True); time.sleep(600)")
    with pytest.raises(Stopped):
        do(target, home, step, stop=lambda: log.exists() and "up" in log.read_text())
    until(lambda: target.find(RUN).processes == 0)


def test_a_secret_never_reaches_the_log(home: Path) -> None:
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    environ = os.environ | {"HF_TOKEN": "hf_abcdefghijklmnop", "OTHER_API_KEY": "k-123456"}
    target = LocalTarget(home, home, sys.executable, environ, lambda *_: iter(()))
    code = "import os; print('token', os.environ['HF_TOKEN']); print(os.environ.get('OTHER_API_KEY'))"
    text = do(target, home, python("t", code, pass_env=("HF_TOKEN",))).read_text()
    assert text == "token [secret]\nNone\n"


def test_a_secret_split_over_two_writes_is_still_taken_out(home: Path) -> None:
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    target = LocalTarget(home, home, sys.executable, os.environ | {"HF_TOKEN": "s3cr3t-value"}, lambda *_: iter(()))
    code = (
        "import os, sys, time\nfor c in os.environ['HF_TOKEN'] + '\\n': print(c, end='', flush=True); time.sleep(0.01)"
    )
    assert do(target, home, python("t", code, pass_env=("HF_TOKEN",))).read_text() == "[secret]\n"


@pytest.mark.parametrize(
    "text",
    [
        "https://user:pa55word@host/x",
        "https://pa55word@host/x",
        "Authorization: Bearer abcdefgh12345",
        "hf_ABCDEFGHIJKLMNOPQ",
        "nvapi-abcdefghijklmn",
    ],
)
def test_what_has_the_shape_of_a_secret_is_taken_out(text: str) -> None:
    assert "[secret]" in redact(text)


def test_a_command_does_not_inherit_secrets_or_a_bent_interpreter() -> None:
    env, secrets = child_environment(
        {"PATH": "/bin", "HF_TOKEN": "t0ken", "AWS_SECRET_ACCESS_KEY": "x", "PYTHONPATH": "/p", "VIRTUAL_ENV": "/v"},
        {"A": "b"},
    )
    assert env == {"PATH": "/bin", "A": "b"}
    assert secrets == ()


def files(folder: str, path: str, text: str = "x\n") -> WriteFiles:
    return WriteFiles(id="w", title=same("w"), folder=folder, files=(File(path=path, text=text),))


def test_files_are_written_under_the_data_folder(target: LocalTarget, home: Path) -> None:
    do(target, home, files("{run}/files", "a/b.txt", "{port.http}\n"))
    assert (home / "runs" / RUN / "files" / "a" / "b.txt").read_text() == "1\n"


def test_files_written_again_replace_the_folder_whole(target: LocalTarget, home: Path) -> None:
    do(target, home, files("{run}/files", "old.txt"))
    do(target, home, files("{run}/files", "new.txt"))
    assert [path.name for path in (home / "runs" / RUN / "files").iterdir()] == ["new.txt"]


@pytest.mark.parametrize("folder", ["/etc/slipway-test", "{home}/../outside", "{home}"])
def test_a_folder_outside_the_data_folder_is_refused(target: LocalTarget, home: Path, folder: str) -> None:
    with pytest.raises(BadInput):
        do(target, home, files(folder, "a"))
    assert not Path("/etc/slipway-test").exists()


@pytest.mark.parametrize("path", ["../escaped", "/etc/escaped", "a/../../escaped"])
def test_a_file_that_leaves_its_folder_is_refused(target: LocalTarget, home: Path, path: str) -> None:
    with pytest.raises(BadInput):
        do(target, home, files("{run}/files", path))
    assert not (home / "runs" / RUN / "escaped").exists()


def test_a_link_out_of_the_data_folder_is_refused(target: LocalTarget, home: Path, tmp_path: Path) -> None:
    (home / "link").symlink_to(tmp_path)
    with pytest.raises(BadInput):
        do(target, home, files("{home}/link/files", "a"))


def test_a_step_that_needs_more_disk_than_there_is_does_not_begin(target: LocalTarget, home: Path) -> None:
    step = python("t", "print('ran')", forecast=Forecast(disk_mib=10**9))
    with pytest.raises(OutOfSpace, match="MiB left"):
        do(target, home, step)
    assert not (home / "runs" / RUN / "logs" / "t.log").exists()


HOSTILE = [
    "; touch X",
    "$(touch X)",
    "`touch X`",
    "a\nb",
    "--privileged",
    "-x",
    "../..",
    "'\"",
    "中文 🚢",
    "x" * 10_000,
]


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_reaches_a_command_as_one_literal_word(target: LocalTarget, home: Path, value: str) -> None:
    step = python("t", "import sys; print(ascii(sys.argv[1:]))")
    step = step.model_copy(update={"argv": (*step.argv, value)})
    assert do(target, home, step).read_text().strip() == ascii([value])
    assert not (home / "runs" / RUN / "X").exists()


SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
    def log_message(self, *a): pass
print('listening', flush=True)
http.server.HTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()
"""


def service(code: str = SERVER, **more: object) -> Service:
    return Service(id="s", title=same("s"), argv=(sys.executable, "-c", code, "{port.http}"), model="m", **more)


@pytest.fixture
def free() -> Endpoint:
    (port,) = free_ports(1)
    return Endpoint(http_port=port, grpc_port=2, metrics_port=3, model="m")


def serve(target: LocalTarget, home: Path, step: Service, endpoint: Endpoint) -> None:
    filled = fill_step(step, target.places(RUN, endpoint, "127.0.0.1"))
    folder = home / "runs" / RUN
    circumstances = Work(RUN, folder, folder / "logs" / "s.log", endpoint, {}, lambda: False)
    for _ in target.carry_out(filled, circumstances):
        pass


def test_a_server_is_found_by_another_target_and_ended_by_it(target: LocalTarget, home: Path, free: Endpoint) -> None:
    serve(target, home, service(), free)
    assert target.watch(RUN) is None
    other = LocalTarget(home, home, sys.executable, os.environ, lambda *_: iter(()))
    assert other.find(RUN).service
    other.stop(RUN)
    assert not other.find(RUN).service
    assert until(lambda: target.watch(RUN) is not None)


def test_a_running_server_is_adopted_not_started_twice(target: LocalTarget, home: Path, free: Endpoint) -> None:
    serve(target, home, service(), free)
    first = target._service(RUN)
    other = LocalTarget(home, home, sys.executable, os.environ, lambda *_: iter(()))
    serve(other, home, service(), free)
    assert other._service(RUN) == first


def test_a_server_that_dies_at_its_start_fails_at_once(target: LocalTarget, home: Path, free: Endpoint) -> None:
    with pytest.raises(StepFailed) as failed:
        serve(target, home, service("print('no model', flush=True); raise SystemExit(5)"), free)
    assert failed.value.exit_status == 5
    assert failed.value.last_lines == ("no model",)


def test_a_server_that_never_answers_and_does_nothing_has_stalled(target, home: Path, free: Endpoint) -> None:
    with pytest.raises(Stalled):
        serve(target, home, service("import time; time.sleep(600)", stall_s=2.0), free)


@pytest.mark.parametrize("known_by", ["born", "created"])
def test_a_server_is_still_found_after_the_clock_was_set(
    target: LocalTarget, home: Path, free: Endpoint, known_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(target, home, service(), free)
    kept = home / "runs" / RUN / "service.json"
    told = json.loads(kept.read_text())
    if known_by == "created":  # as a version before wrote it
        told = {"pid": told["pid"], "created": psutil.Process(told["pid"]).create_time(), "endpoint": told["endpoint"]}
        kept.write_text(json.dumps(told))
    before = psutil.boot_time()
    monkeypatch.setattr("psutil._pslinux.boot_time", lambda: before + 3600)
    assert psutil.Process(told["pid"]).create_time() > before + 3600
    other = LocalTarget(home, home, sys.executable, os.environ, lambda *_: iter(()))
    assert other.find(RUN).service
    assert other.watch(RUN) is None


def _another_boot(birth: str) -> str:
    return f"another {birth.split()[1]}"


def _another_start(birth: str) -> str:
    return f"{birth.split()[0]} {int(birth.split()[1]) - 1}"


@pytest.mark.parametrize(
    "told",
    [
        lambda me: {"born": _another_boot(born(me.pid))},
        lambda me: {"born": _another_start(born(me.pid))},
        lambda me: {"created": me.create_time()},
    ],
)
def test_a_pid_that_was_given_to_another_program_is_not_ours(target: LocalTarget, home: Path, told) -> None:
    me = psutil.Process()
    (home / "runs" / RUN / "service.json").write_text(json.dumps({"pid": me.pid} | told(me)))
    assert not target.find(RUN).service
    target.stop(RUN)
    assert me.is_running()


def test_a_process_is_known_by_its_start_whatever_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a) b (1 2"
    odd.symlink_to(sys.executable)
    child = subprocess.Popen((odd, "-c", "import time; time.sleep(60)"))
    try:
        ticks = int(born(child.pid).split()[1])
        started_s = ticks / os.sysconf("SC_CLK_TCK") + psutil.boot_time()
        assert started_s == pytest.approx(psutil.Process(child.pid).create_time(), abs=0.02)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(psutil.NoSuchProcess):
        born(child.pid)


QUESTION = Ask(id="a", title=same("a"), engine="transformers", model="m", chat=Chat(prompt="x"), needs=("s",))


def test_a_server_that_dies_over_its_first_question_is_told_with_its_own_words(home: Path, free: Endpoint) -> None:
    def ask(*_: object) -> Iterator[object]:
        target._service(RUN).kill()
        raise Unreachable(same("nobody answers"))
        yield

    (home / "runs" / RUN / "logs").mkdir(parents=True)
    target = LocalTarget(home, home, sys.executable, os.environ, ask)
    serve(target, home, service(SERVER.replace("listening", "CUDA out of memory")), free)
    with pytest.raises(StepFailed) as failed:
        do(target, home, QUESTION)
    assert (failed.value.exit_status, failed.value.last_lines) == (-9, ("CUDA out of memory",))
    assert "GPU" in failed.value.message.en and failed.value.hint is not None
    target.stop(RUN)


def test_a_server_that_refuses_its_first_question_is_told_with_both_words(home: Path, free: Endpoint) -> None:
    def ask(*_: object) -> Iterator[object]:
        raise Refused("no such tensor")
        yield

    (home / "runs" / RUN / "logs").mkdir(parents=True)
    target = LocalTarget(home, home, sys.executable, os.environ, ask)
    serve(target, home, service(), free)
    with pytest.raises(StepFailed, match="no such tensor") as failed:
        do(target, home, QUESTION)
    assert (failed.value.exit_status, failed.value.last_lines) == (None, ("listening",))
    target.stop(RUN)


@pytest.mark.parametrize("said", ["", " \n"])
def test_an_answer_of_nothing_is_none(target: LocalTarget, home: Path, said: str) -> None:
    target._ask = lambda *_: iter((Piece(text=said), Piece(text="", finish="stop")))
    with pytest.raises(StepFailed, match="answered nothing"):
        do(target, home, QUESTION.model_copy(update={"needs": ()}))


def test_a_slow_answer_is_waited_for_as_long_as_it_comes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looked = [0.0], threading.Event()
    monkeypatch.setattr(waiting, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(waiting, "LOOK_S", 0.01)

    def a_look() -> None:
        looked.clear()
        assert looked.wait(30)

    def ask(*_: object) -> Iterator[Piece]:
        for word in ("slow", " but", " moving"):
            a_look()
            now[0] += 0.8 * QUESTION.stall_s
            a_look()
            yield Piece(text=word)

    def stop() -> bool:
        looked.set()
        return False

    (home / "runs" / RUN / "logs").mkdir(parents=True)
    log = do(LocalTarget(home, home, sys.executable, os.environ, ask), home, QUESTION, stop)
    assert log.read_text() == "slow but moving\n"


def test_a_question_that_a_version_before_kept_is_read_with_its_patience() -> None:
    kept = QUESTION.model_dump(mode="json")
    del kept["stall_s"]
    assert Ask.model_validate(kept | {"timeout_s": 12.5}).stall_s == 12.5


def test_a_server_that_never_answers_can_be_stopped(home: Path, free: Endpoint) -> None:
    (home / "runs" / RUN / "logs").mkdir(parents=True)
    silent = threading.Event()

    def ask(*_: object) -> Iterator[object]:
        silent.wait(60)
        yield from ()

    target = LocalTarget(home, home, sys.executable, os.environ, ask)
    begun = time.monotonic()
    with pytest.raises(Stopped):
        do(target, home, QUESTION, stop=lambda: time.monotonic() - begun > 0.5)
    (home / "runs" / RUN / "logs" / "s.log").write_text("the server's own words\n")
    with pytest.raises(Stalled, match="no part of an answer") as stalled:
        do(target, home, QUESTION.model_copy(update={"stall_s": 0.3}))
    assert stalled.value.last_lines == ("the server's own words",)
    assert time.monotonic() - begun < 45
    silent.set()
