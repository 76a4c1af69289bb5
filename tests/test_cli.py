"""The command line: what it prints, and exit codes that tell the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app import cli
from app.__main__ import control as make_control
from app.talks import Question
from backends.errors import BadInput, NotFound
from backends.probes import host
from backends.reading import read_json
from backends.servers import Server
from backends.spec import Endpoint, Hardware
from tests.plans import plan, python

ROOT = Path(__file__).resolve().parent.parent


def slipway(*words: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        (sys.executable, "-m", "app", "--home", str(home), *words),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, **env},
        timeout=120,
        check=False,
    )


def test_detect_prints_the_machine_as_hardware_json(home: Path) -> None:
    done = slipway("detect", "--json", home=home)
    assert done.returncode == 0
    assert read_json(Hardware, done.stdout).cpu_cores == host.read().cpu_cores


def test_a_plan_can_be_made_for_another_machine(home: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"driver_version": "580.95.05", "gpus": [{"name": "NVIDIA H200", "index": 0}]}')
    done = slipway("plan", "--demo", "--hardware", str(machine), "--json", home=home)
    assert done.returncode == 0, done.stderr
    torch = next(step for step in json.loads(done.stdout)["steps"] if step["id"] == "runtime-torch")
    assert "torch==2.13.0,!=2.13.0+cpu" in torch["argv"]


def test_a_plan_without_a_gpu_downloads_no_cuda(home: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"gpus": []}')
    done = slipway("plan", "--demo", "--hardware", str(machine), "--json", home=home)
    torch = next(step for step in json.loads(done.stdout)["steps"] if step["id"] == "runtime-torch")
    assert any(word.endswith("+cpu") for word in torch["argv"])


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("plan",), 2, "Name one thing"),
        (("plan", "no-such-file.json"), 2, "cannot be read"),
        (("plan", "--model", "/no/such/folder"), 2, ""),
        (("plan", "--demo", "--name", "No Good"), 2, "small letters"),
        (("follow", "nothing"), 4, "no run"),
        (("stop", "nothing"), 4, "no run"),
        (("logs", "nothing"), 4, "no run"),
        (("chat", "nothing", "--message", "x"), 4, "no run"),
        (("history", "nothing"), 4, "no run"),
        (("resume", "nothing"), 4, "no run"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(home: Path, words, code: int, said: str) -> None:
    done = slipway(*words, home=home)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_errors_are_json_where_json_was_asked_for(home: Path) -> None:
    done = slipway("stop", "nothing", "--json", home=home)
    assert json.loads(done.stdout)["field"] == "run"


def test_errors_are_chinese_where_the_terminal_is(home: Path) -> None:
    assert "没有部署" in slipway("stop", "nothing", home=home, LANG="zh_CN.UTF-8").stderr
    assert "没有部署" in slipway("--language", "zh", "stop", "nothing", home=home).stderr


def test_a_finished_run_is_in_the_history_with_its_log(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    control = make_control({"home": str(home)})
    run = control.start_plan(plan(python("one", "print('hello')"))).run
    followed = slipway("follow", run.id, home=home)
    assert followed.returncode == 0, followed.stderr
    assert cli.main(("--home", str(home), "--language", "zh", "history"), make_control) == 0
    assert "已完成" in capsys.readouterr().out
    assert slipway("logs", run.id, home=home).stdout == "hello\n"
    assert json.loads(slipway("history", "--json", home=home).stdout)[0]["id"] == run.id
    whole = json.loads(slipway("history", "demo", home=home).stdout)
    assert whole["steps"][0]["standing"] == "done"
    assert slipway("logs", run.id, "--step", "none", home=home).returncode == 4


def test_following_a_failed_run_fails(home: Path) -> None:
    control = make_control({"home": str(home)})
    run = control.start_plan(plan(python("one", "print('why'); raise SystemExit(9)"))).run
    followed = slipway("follow", run.id, home=home)
    assert followed.returncode == 6
    assert "why" in followed.stderr
    assert "exit code 9" in followed.stderr


def test_the_reader_of_a_pipe_may_leave(home: Path) -> None:
    words = f'"{sys.executable}" -m app --home "{home}" detect | head -n 1'
    done = subprocess.run(
        ("bash", "-o", "pipefail", "-c", words), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert "Traceback" not in done.stderr


def test_recommend_answers_for_any_machine(home: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"driver_version": "535.54.03", "gpus": [{"name": "NVIDIA GeForce RTX 3090"}]}')
    done = slipway("recommend", "--hardware", str(machine), "--json", home=home)
    told = json.loads(done.stdout)
    assert set(told) == {"variants", "engines"}
    assert set(told["variants"]) == {"py3", "trtllm-python-py3", "vllm-python-py3"}
    assert told["engines"]["fastertransformer"]["recommended"] == "23.04-py3"
    assert all(set(one) == {"tag", "verdict", "reasons"} for many in told["variants"].values() for one in many)


def test_an_unknown_gpu_is_asked_for_not_guessed(home: Path, tmp_path: Path) -> None:
    machine = tmp_path / "machine.json"
    machine.write_text('{"driver_version": "535.54.03", "gpus": [{"name": "NVIDIA Mystery 9000"}]}')
    done = slipway("recommend", "--hardware", str(machine), "--json", home=home)
    assert done.returncode == 2
    assert json.loads(done.stdout)["field"] == "gpus.0.sm"


def test_inspect_tells_facts_memory_and_ways(home: Path) -> None:
    told = json.loads(slipway("inspect", "--demo", "--json", home=home).stdout)
    assert told["model"]["architecture"] == "LlamaForCausalLM"
    assert told["memory"]["verdict"] in ("fits", "tight", "over")
    assert told["ways"][0]["engine"] == "transformers"


def test_lint_finds_and_mounts_are_understood(home: Path, tmp_path: Path) -> None:
    model = tmp_path / "repository" / "m"
    model.mkdir(parents=True)
    (model / "config.pbtxt").write_text('name: "other"\nbackend: "python"\n')
    roots = {"SLIPWAY_MODEL_ROOTS": str(tmp_path)}
    done = slipway("lint", str(tmp_path / "repository"), "--json", home=home, **roots)
    assert done.returncode == 1
    assert any(finding["file"].startswith("m") for finding in json.loads(done.stdout))
    wrong = slipway("lint", str(tmp_path / "repository"), "--mount", "nonsense", home=home, **roots)
    assert wrong.returncode == 2
    assert "mount" in wrong.stderr
    assert slipway("lint", "/etc", home=home, **roots).returncode == 2
    assert slipway("engines", "check", "none", home=home).returncode == 4


def test_conversations_are_listed_exported_and_deleted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> tuple[int, str]:
        return cli.main(["--home", str(home), "conversations", *words], make_control), capsys.readouterr().out

    endpoint = Endpoint(http_port=1, grpc_port=2, metrics_port=3, model="chat")
    server = Server(id="demo-1", name="demo", engine="transformers", model="demo", endpoint=endpoint)
    kept = make_control({"home": str(home)}).begin_answer(server, Question(server="demo-1", text="Why?")).conversation
    assert [row["id"] for row in json.loads(told("--json")[1])] == [kept]
    assert "Why?" in told("--query", "why")[1]
    assert told("export", kept)[1].startswith("# Why?\n")
    assert json.loads(told("show", kept, "--json")[1])["conversation"]["id"] == kept
    assert told("delete", kept)[0] == 0
    assert told("export", kept)[0] == NotFound.exit_code
    assert told("delete")[0] == BadInput.exit_code


def test_a_script_by_hand_has_the_language_of_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--home", str(home), "--language", "zh", "plan", "--demo", "--sh"], make_control) == 0
    told = capsys.readouterr().out
    assert "正在等待服务就绪" in told and "waiting for the server" not in told
