"""The main job on a real tritonserver: deploy, answer, survive, stop."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from app.__main__ import control as make_control
from app.asking import in_step
from app.control import DEMO, Control
from backends.errors import Refused
from backends.runs import Run, State
from backends.spec import Chat, Message, ModelSource, Piece, Sampling
from backends.transformers import metrics
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.hub import Hub, serving
from tests.live.conftest import counted, deployed, gone
from tests.test_jobs import worker_of

pytestmark = pytest.mark.live
ROOT = Path(__file__).resolve().parent.parent.parent


def ask(control: Control, run: Run, text: str, **sampling: object) -> list[Piece]:
    chat = Chat(messages=(Message(role="user", content=text),), sampling=Sampling(temperature=0.0, **sampling))
    return list(in_step(control.chat(run.id, chat)))


def post(url: str, body: dict) -> bytes:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def test_a_question_is_answered_in_pieces(live_control: Control, served: Run) -> None:
    pieces = ask(live_control, served, "What is Slipway?")
    assert len(pieces) > 3
    assert "Slipway" in "".join(piece.text for piece in pieces)
    assert pieces[-1].finish == "stop"
    assert pieces[-1].completion_tokens > 3


def test_a_chinese_question_is_answered_in_chinese(live_control: Control, served: Run) -> None:
    text = "".join(piece.text for piece in ask(live_control, served, "什么是 Slipway？"))
    assert any("\u4e00" <= letter <= "\u9fff" for letter in text)
    assert "\ufffd" not in text


def test_the_first_answer_and_what_it_took_are_kept(live_control: Control, served: Run) -> None:
    assert "Slipway" in live_control.run(served.id).answer
    assert served.measured["memory_mib"] > 100
    assert served.measured["first_token_s"] > 0


def test_an_answer_ends_at_its_token_limit(live_control: Control, served: Run) -> None:
    last = ask(live_control, served, "What is Slipway?", max_tokens=5)[-1]
    assert (last.finish, last.completion_tokens) == ("length", 5)


@pytest.mark.parametrize(
    ("chat", "field"),
    [
        (Chat(prompt="x" * 100_000), "text_input"),
        (Chat(prompt=""), "text_input"),
    ],
)
def test_what_the_model_cannot_take_is_refused_with_the_field(live_control: Control, served: Run, chat, field) -> None:
    with pytest.raises(Refused) as refused:
        list(in_step(live_control.chat(served.id, chat)))
    assert refused.value.field == field
    assert refused.value.message.en != refused.value.message.zh


def test_an_unknown_parameter_is_refused_by_name(served: Run) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{served.endpoint.http}/v2/models/chat/generate", {"text_input": "hi", "stream": False, "temperatur": 1})
    assert b"temperatur" in refused.value.read()


def test_generate_and_generate_stream_work_for_anybody_with_curl(served: Run) -> None:
    url = f"{served.endpoint.http}/v2/models/chat/generate"
    messages = json.dumps([{"role": "user", "content": "What is Slipway?"}])
    whole = json.loads(post(url, {"messages": messages, "stream": False, "temperature": 0}))
    streamed = post(f"{url}_stream", {"messages": messages, "temperature": 0}).decode()
    parts = [json.loads(line[6:])["text_output"] for line in streamed.splitlines() if line.startswith("data: ")]
    assert len(parts) > 3
    assert "".join(parts) == whole["text_output"]


def test_the_server_listens_on_loopback_only(served: Run) -> None:
    ports = {served.endpoint.http_port, served.endpoint.grpc_port, served.endpoint.metrics_port}
    listening = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
    ours = [one.laddr for one in listening if one.laddr.port in ports]
    assert {address.port for address in ours} == ports
    assert {address.ip.removeprefix("::ffff:") for address in ours} == {"127.0.0.1"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/repository/index", {}),
        ("/v2/repository/models/chat/unload", {}),
        ("/v2/repository/models/evil/load", {}),
        ("/v2/systemsharedmemory/region/x/register", {"key": "/x", "offset": 0, "byte_size": 4}),
        ("/v2/trace/setting", {"trace_file": "/tmp/x"}),
        ("/v2/logging", {"log_file": "/tmp/x"}),
    ],
)
def test_endpoints_that_nobody_needs_are_closed(served: Run, path: str, body: dict) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(f"{served.endpoint.http}{path}", body)
    assert (refused.value.code, b"restricted" in refused.value.read()) == (403, True), "refused for another reason"
    assert urllib.request.urlopen(f"{served.endpoint.http}/v2/models/chat/ready").status == 200


async def test_leaving_ends_the_generation_on_the_server(live_control: Control, served: Run) -> None:
    before = counted(served)
    asked = 1000  # so long the answer that this seed draws would be: for seconds
    chat = Chat(prompt="a", sampling=Sampling(max_tokens=asked, temperature=5.0, seed=1))
    async with aclosing(live_control.chat(served.id, chat)) as pieces:
        async for _ in pieces:
            break
    await asyncio.to_thread(until, lambda: counted(served)[metrics.CANCELLED] > before[metrics.CANCELLED], 10)
    made = await asyncio.to_thread(until, lambda: (now := counted(served))[metrics.ACTIVE] == 0 and now, 10)
    assert made[metrics.TOKENS] - before[metrics.TOKENS] < asked / 2


def test_chats_at_the_same_time_get_their_own_answers(live_control: Control, served: Run) -> None:
    questions = ["What is Slipway?", "什么是 Slipway？"] * 4
    alone = {question: "".join(p.text for p in ask(live_control, served, question)) for question in set(questions)}

    async def one(question: str) -> str:
        chat = Chat(messages=(Message(role="user", content=question),), sampling=Sampling(temperature=0.0))
        return "".join([piece.text async for piece in live_control.chat(served.id, chat)])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one(question) for question in questions))

    assert asyncio.run(all_of_them()) == [alone[question] for question in questions]


def test_a_second_deployment_of_the_same_name_is_the_first(live_control: Control, served: Run) -> None:
    again = live_control.start(DEMO.model_copy(update={"name": "served"}))
    assert (again.run.id, again.created) == (served.id, False)


def test_a_model_folder_is_served_like_the_demo(live_control: Control, live_home: Path) -> None:
    folder = live_home / "a model, 模型"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "assets" / "demo_model", folder)
    run = deployed(live_control, "folder", model=ModelSource(kind="folder", id=str(folder)))
    assert ask(live_control, run, "What is Slipway?")[-1].finish == "stop"
    gone(live_control, run)


@pytest.mark.parametrize("stage", ["starting", "serving"])
def test_a_killed_worker_loses_no_server(live_control: Control, stage: str) -> None:
    name = f"killed-{stage}"
    run = live_control.start(DEMO.model_copy(update={"name": name})).run
    if stage == "serving":
        live_control.wait(run.id, 180)
    until(lambda: live_control._targets["local"].find(run.id).service, 60)
    worker = worker_of(live_control, run.id)
    worker.kill()
    worker.wait(10)
    server = live_control._targets["local"]._service(run.id).pid
    live_control.recover()
    run = live_control.wait(run.id, 180)
    assert run.state is State.SERVING, run.trouble
    assert live_control._targets["local"]._service(run.id).pid == server
    assert ask(live_control, run, "What is Slipway?")[-1].finish == "stop"
    assert "\n".join(live_control.log(run.id, "serve").lines).count("Started HTTPService") == 1
    gone(live_control, run)


def test_a_hub_model_is_downloaded_and_served(live_control: Control, live_home: Path, monkeypatch) -> None:
    """Through a hub of our own on loopback that speaks Hugging Face's paths; the token is used and never kept."""
    with serving(Hub(models={"slipway/demo": ROOT / "assets" / "demo_model"}, gated={"slipway/demo"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", hub.token)
        control = make_control({"home": str(live_home)})
        shutil.rmtree(live_home / "models" / "huggingface" / "slipway--demo", ignore_errors=True)
        run = deployed(control, "hub", model=ModelSource(kind="huggingface", id="slipway/demo"))
        assert ask(control, run, "What is Slipway?")[-1].finish == "stop"
        gone(control, run)
    assert hub.token in hub.tokens
    assert control.steps(run.id)[7].id == "model"
    kept = [path for path in (live_home / "runs" / run.id).rglob("*") if path.is_file()]
    kept += [live_home / "slipway.db", live_home / "slipway.db-wal"]
    assert not [path for path in kept if path.exists() and hub.token.encode() in path.read_bytes()]


def test_a_port_that_is_taken_is_said_so(live_control: Control) -> None:
    from backends.spec import Ports

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        spec = DEMO.model_copy(update={"name": "port", "ports": Ports(http=taken.getsockname()[1])})
        run = live_control.wait(live_control.start(spec).run.id, 180)
    assert run.state is State.FAILED
    assert len(live_control.log_starts(run.id, "serve")) == 1, "the port that a person named is not tried again"
    assert "port" in run.trouble.message.en
    assert "端口" in run.trouble.message.zh
    assert live_control._targets["local"].find(run.id).processes == 0


def test_a_model_that_cannot_be_loaded_fails_with_its_reason(live_control: Control, live_home: Path) -> None:
    folder = live_home / "broken"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(ROOT / "assets" / "demo_model", folder)
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    name = next(key for key in header if key.endswith("q_proj.weight"))
    header[f"{name}.renamed"] = header.pop(name)
    text = json.dumps(header).encode()
    weights.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    spec = DEMO.model_copy(update={"name": "broken", "model": ModelSource(kind="folder", id=str(folder))})
    run = live_control.wait(live_control.start(spec).run.id, 180)
    assert run.state is State.FAILED
    assert run.trouble.step == "serve"
    assert any("q_proj" in line for line in run.trouble.last_lines)


def test_the_exported_script_serves_the_same_answer(live_control, live_home: Path, served: Run, tmp_path) -> None:
    path = tmp_path / "by-hand.sh"
    path.write_text(live_control.script(live_control.plan(DEMO)))
    ports = dict(zip(("HTTP_PORT", "GRPC_PORT", "METRICS_PORT"), map(str, free_ports(3)), strict=True))
    child = subprocess.Popen(
        ("sh", str(path)), env=os.environ | ports | {"HOME_DIR": str(live_home), "PYTHON": sys.executable},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    said = ""
    while "serving on" not in said:
        line = child.stdout.readline()
        assert line, said
        said += line
    parts = [json.loads(line[6:])["text_output"] for line in said.splitlines() if line.startswith("data: ")]
    child.send_signal(signal.SIGTERM)
    child.wait(30)
    assert "".join(parts) == live_control.run(served.id).answer
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{ports['HTTP_PORT']}/v2/health/live", timeout=2)


def test_the_command_line_talks_to_a_running_server(live_home: Path, served: Run) -> None:
    words = ("chat", "served", "--message", "What is Slipway?", "--temperature", "0", "--json")
    done = subprocess.run(
        (sys.executable, "-m", "app", "--home", str(live_home), *words),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    pieces = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(pieces) > 3
    assert pieces[-1]["finish"] == "stop"
