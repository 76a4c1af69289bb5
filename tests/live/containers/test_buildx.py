"""Builds by the real `docker buildx`, out of Debian's package, on the machine's own engine."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from secrets import token_hex

import psutil
import pytest

from app.__main__ import control as make_control
from backends.errors import StepFailed, Stopped
from backends.runs import State
from backends.targets import buildx
from scripts.test_parts import BUILDX
from tests.conftest import missing, until
from tests.docker import stand_in
from tests.live.containers.parts import a_plan, a_target, do, dockerfile, log
from tests.test_jobs import worker_of

pytestmark = pytest.mark.live
TOKEN = "hf_plantedsecretvalue456"


@pytest.fixture
def with_buildx(tmp_path: Path) -> dict[str, str]:
    """The environment in which `docker buildx` works, and a hub's token is set."""
    plugin = stand_in.home() / "docker" / "buildx" / BUILDX
    if plugin.exists():
        (tmp_path / "docker" / "cli-plugins").mkdir(parents=True)
        shutil.copy2(plugin, tmp_path / "docker" / "cli-plugins")
        environ = {"DOCKER_CONFIG": str(tmp_path / "docker")}
    else:
        environ = {}
    if not buildx.there(dict(os.environ) | environ):
        missing("docker buildx (apt install docker-buildx, in Debian from trixie on)")
    return environ | {"HF_TOKEN": TOKEN}


def test_buildx_builds_with_stages_log_labels_and_mirrors_and_without_secrets(
    home: Path, image: str, engine, with_buildx: dict[str, str]
) -> None:
    target = a_target(home, with_buildx)
    text = f"FROM {stand_in.DEBIAN}\nARG WORD\nRUN echo said $WORD from $PIP_INDEX_URL\nRUN env\n"
    index, word = "https://pypi.example/simple", token_hex(4)  # a word of its own: nothing is kept from another run
    step = dockerfile(home, text, args={"WORD": word}, sources={"PIP_INDEX_URL": index})
    told = do(target, home, step)
    assert f"\nsaid {word} from {index}\n" in log(home)
    assert "[3/3] RUN env\n" in log(home)
    assert '"vertexes"' not in log(home)
    fractions = [event.fraction for event in told if event.fraction is not None]
    assert fractions == sorted(fractions)
    assert told[-1].fraction == 1.0
    assert target.has(step)
    built = engine.images.get(step.tag)
    assert built.labels["slipway.home"] == str(home)
    assert TOKEN not in log(home) + json.dumps(built.attrs) + json.dumps(built.history())
    do(target, home, step)
    assert "(kept from before)" in log(home)
    engine.images.remove(step.tag)


def test_a_failure_under_buildx_is_told_in_the_commands_own_words(home, image, with_buildx) -> None:
    with pytest.raises(StepFailed) as failed:
        do(a_target(home, with_buildx), home, dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN echo why >&2; exit 7\n"))
    assert failed.value.exit_status == 7
    assert "why" in failed.value.last_lines
    assert "exit code: 7" in failed.value.message.en


def test_a_build_under_buildx_stops_at_once_and_leaves_no_process(home: Path, image: str, with_buildx) -> None:
    target = a_target(home, with_buildx)
    step = dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN echo $((20+22)); sleep 613\n")
    with pytest.raises(Stopped):
        do(target, home, step, lambda: "\n42" in log(home))

    def left() -> list[psutil.Process]:
        return [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [])[-1:] == ["613"]]

    until(lambda: not left(), 10, "the build's command to go")
    assert not target.has(step)


def goes_on(word: str) -> None:
    """Lets the programs go on that have the word in their command."""
    for process in psutil.process_iter(["cmdline"]):
        if any(word in part for part in process.info["cmdline"] or ()):
            process.resume()


def test_a_build_under_buildx_outlives_its_worker_and_no_line_is_lost_or_told_twice(
    home: Path, image: str, engine, with_buildx: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in with_buildx.items():
        monkeypatch.setenv(name, value)
    word = token_hex(4)
    loop = f"for number in $(seq 30); do echo tick-$number {word}; [ $number = 5 ] && kill -STOP $$; done"
    step = dockerfile(home, f"FROM {stand_in.DEBIAN}\nRUN sh -c '{loop}'; true\n")  # pid 1 would not stop
    control = make_control({"home": str(home)})
    run = control.start_plan(a_plan(step)).run
    path = control.log_path(run.id, step.id)
    until(lambda: path.exists() and f"\ntick-5 {word}\n" in path.read_text(), 30, "the build to be under way")
    try:
        worker = worker_of(control, run.id)
        worker.kill()
        worker.wait(10)
        make_control({"home": str(home)}).recover()
        found = "Found the running build."
        until(lambda: found in {event.text.en for event in control.events(run.id) if event.text}, 60, found)
    finally:
        goes_on(word)
    ended = control.wait(run.id, 60)
    assert ended.state is State.DONE, ended.trouble
    assert re.findall(rf"^tick-(\d+) {word}$", path.read_text(), re.MULTILINE) == [str(n) for n in range(1, 31)]
    assert not list(path.parent.parent.glob("*.buildx.*"))
    engine.images.remove(step.tag)
