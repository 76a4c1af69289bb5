"""The exported script does what the plan does, by hand; proved by running it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import pytest

from backends.script import by_hand, script, word
from backends.spec import Chat
from backends.steps import Ask, BuildImage, File, Plan, PullImage, Service, Task, WriteFiles
from backends.text import Language, Text, same
from scripts.bench.engine_server import free_ports
from tests.conftest import until
from tests.guides import GUIDED
from tests.plans import plan, python
from tests.test_local_target import HOSTILE, SERVER


def run_script(made: Plan, home: Path, language: Language = "en", **more: str) -> subprocess.CompletedProcess[str]:
    places = {"home": str(home), "assets": "/nowhere", "python": sys.executable}
    text = script(made, places, lambda name: f"asset {name}\n", language)
    return subprocess.run(
        ("sh",), input=text, text=True, capture_output=True, env=os.environ | more, timeout=60, check=False
    )


def test_a_script_does_the_steps_in_order(home: Path) -> None:
    done = run_script(plan(python("one", "print('one')"), python("two", "print('two')")), home)
    assert (done.returncode, done.stdout) == (0, "one\ntwo\n"), done.stderr


def test_a_script_ends_at_the_step_that_fails(home: Path) -> None:
    done = run_script(plan(python("one", "raise SystemExit(7)"), python("two", "print('two')")), home)
    assert (done.returncode, done.stdout) == (7, "")


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_stays_one_word_in_a_script(home: Path, value: str) -> None:
    step = python("one", "import sys; print(ascii(sys.argv[1:]))")
    done = run_script(plan(step.model_copy(update={"argv": (*step.argv, value, f"{{home}}/{value}")})), home)
    assert done.stdout.strip() == ascii([value, f"{home}/{value}"]), done.stderr


def test_files_come_out_as_they_were_planned(home: Path) -> None:
    text = "dollar $HOME `date` \\ back\nplace {port.http} and {other}\n"
    files = (File(path="a/b.txt", text=text), File(path="c.txt", text="$x {brace}"), File(path="d", asset="x/y"))
    step = WriteFiles(id="w", title=same("w"), folder="{run}/files", files=files)
    done = run_script(plan(step), home, HTTP_PORT="8123")
    assert done.returncode == 0, done.stderr
    folder = home / "runs" / "demo" / "files"
    assert (folder / "a" / "b.txt").read_text() == "dollar $HOME `date` \\ back\nplace 8123 and {other}\n"
    assert (folder / "c.txt").read_text() == "$x {brace}\n"
    assert (folder / "d").read_text() == "asset x/y\n"


@pytest.mark.parametrize("name", GUIDED)
def test_what_a_container_does_is_told_as_docker_commands_with_every_place_filled(name: str) -> None:
    for step in GUIDED[name].plan().steps:
        typed = (by_hand(step) or "").replace(" \\\n  ", " ")
        if isinstance(step, PullImage | BuildImage):
            assert typed.startswith(("docker pull ", "docker build --tag=")), step.id
        elif isinstance(step, Task | Service):
            assert typed.startswith("docker run --rm ") == (step.container is not None), step.id
        assert not re.search(r"\{(home|assets|run|python)\}", typed), step.id


def test_a_shared_step_is_done_once_by_a_script_too(home: Path) -> None:
    made = plan(python("one", "print('one')", shared=True))
    assert run_script(made, home).stdout == "one\n"
    assert run_script(made, home).stdout == ""


def test_a_shared_step_whose_result_has_gone_is_done_again_by_a_script_too(home: Path) -> None:
    code = "import pathlib; print('one'); pathlib.Path('{home}/made 3.12').touch()"
    made = plan(python("one", code, shared=True, outputs=("{home}/made *",)))
    assert run_script(made, home).stdout == "one\n"
    assert run_script(made, home).stdout == ""
    (home / "made 3.12").unlink()
    again = run_script(made, home)
    assert (again.stdout, again.stderr) == ("one\n", "")


BARE = ("sh", "cat", "id", "mkdir", "od", "sleep", "tail", "tr")  # what any machine has
ANSWERS = SERVER.replace(
    "    def log_message",
    """    def do_POST(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(self.path.encode() + b' ' + self.rfile.read(int(self.headers['content-length'])) + b'\\n')
    def log_message""",
)


def test_a_script_serves_on_a_bare_machine_until_it_is_interrupted(home: Path, tmp_path: Path) -> None:
    (port,) = free_ports(1)
    serve = Service(id="serve", title=same("s"), argv=(sys.executable, "-c", ANSWERS, "{port.http}"), model="m")
    question = Ask(id="ask", title=same("q"), engine="transformers", model="m", chat=Chat(prompt="it's 你好"))
    places = {"home": str(home), "assets": "/nowhere", "python": sys.executable}
    path, programs = tmp_path / "by-hand.sh", tmp_path / "bin"
    path.write_text(script(plan(serve, question), places, str))
    programs.mkdir()
    for name in BARE:
        (programs / name).symlink_to(str(shutil.which(name)))
    around = {"PATH": str(programs), "HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
    child = subprocess.Popen(("sh", str(path)), env=around, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    at_last = threading.Timer(90, child.terminate)
    at_last.start()
    said: list[str] = []
    until(lambda: said.append(child.stdout.readline()) or "serving" in said[-1] or child.poll() is not None, 120)
    at_last.cancel()
    assert said[1:-1] == ['/v2/models/m/generate_stream {"text_input": "it\'s 你好"}\n']
    url = f"http://127.0.0.1:{port}/v2/health/ready"
    with urllib.request.urlopen(url) as answer:
        assert answer.status == 200
    child.send_signal(signal.SIGTERM)
    child.wait(60)
    with pytest.raises(OSError):
        urllib.request.urlopen(url, timeout=2)


DYING = "print('no model', flush=True); raise SystemExit(5)"
DIES = Service(id="serve", title=Text(en="Serve", zh="启动服务"), argv=(sys.executable, "-c", DYING), model="m")


@pytest.mark.parametrize(("language", "said"), [("en", "the server ended"), ("zh", "服务已退出")])
def test_a_script_whose_server_dies_says_so(home: Path, language: Language, said: str) -> None:
    done = run_script(plan(DIES), home, language, HTTP_PORT="1")
    assert done.returncode == 1
    assert said in done.stderr and "no model" in done.stderr


@pytest.mark.parametrize(("language", "said"), [("en", "There is no Python at /nonexistent/python."), ("zh", "找不到")])
def test_a_script_without_its_python_says_so_before_anything_is_done(home: Path, language: Language, said: str) -> None:
    done = run_script(plan(DIES), home, language, PYTHON="/nonexistent/python")
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert not home.exists()


def test_a_script_speaks_one_language_and_does_the_same_in_both() -> None:
    places = {"home": "/home", "assets": "/nowhere", "python": sys.executable}
    made = plan(DIES, Ask(id="ask", title=Text(en="Ask", zh="提问"), engine="x", model="m", chat=Chat(prompt="x")))
    spoken = re.compile(r"^#(?!!).*|  # .*|echo \".*?\"", re.MULTILINE)
    english, chinese = script(made, places, str), script(made, places, str, "zh")
    assert spoken.sub("", english) == spoken.sub("", chinese)
    words = [*zip(spoken.findall(english), spoken.findall(chinese), strict=True)]
    assert len(words) > 6
    for en, zh in words:
        assert en.isascii() and re.search("[\u4e00-\u9fff]", zh), (en, zh)


def test_a_plain_word_stays_readable() -> None:
    assert word("{runtime}/bin/python") == '"${RUNTIME}"/bin/python'
    assert word("--http-port={port.http}") == '--http-port="$HTTP_PORT"'
    assert word("torch==2.13.0+cpu") == "torch==2.13.0+cpu"


def test_a_shared_step_of_another_model_is_not_taken_for_the_same() -> None:
    def marks(code: str) -> set[str]:
        places = {"home": "/home", "assets": "/nowhere", "python": sys.executable}
        text = script(plan(python("convert", code, shared=True)), places, lambda _: "")
        return {word for word in text.split() if "/done/convert-" in word}

    assert marks("a = 1") == marks("a = 1")
    assert not marks("a = 1") & marks("a = 2")
