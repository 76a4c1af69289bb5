"""The Docker target's decisions, without an engine: progress, log taking, devices, mounts, words, mirrors."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import socket
import subprocess
from pathlib import Path
from unittest import mock

import docker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.settings import settings
from backends.errors import BadInput, OutOfSpace, StepFailed, Unreachable
from backends.reading import read
from backends.sources import applied, declared, mirrored, variables, with_arguments
from backends.spec import Sources, Spec
from backends.steps import BuildImage, Container, Mount, Plan, PullImage, Service, Task, fingerprints
from backends.targets import buildx, container_logs, containers
from backends.targets import engine as engine_room
from backends.targets.container_logs import Cursor, Frames, Taken
from backends.targets.engine import Engine, said
from backends.targets.images import PullProgress, split
from backends.targets.reclaim import leftovers
from backends.text import same
from tests.plans import SPEC, python

# --- pulls ------------------------------------------------------------------------------------------------------------


def layer(name: str, status: str, current: int = 0, total: int = 0) -> dict:
    return {"id": name, "status": status, "progressDetail": {"current": current, "total": total} if total else {}}


def test_a_pull_sums_bytes_over_its_layers() -> None:
    progress = PullProgress()
    for message in (
        {"status": "Pulling from library/x", "id": "1.0"},
        layer("a", "Pulling fs layer"),
        layer("b", "Pulling fs layer"),
        layer("a", "Downloading", 50, 100),
        layer("b", "Downloading", 100, 300),
    ):
        progress.feed(message)
    assert (progress.bytes_here, progress.bytes_known, progress.layers) == (150, 400, (0, 2))
    assert progress.fraction == pytest.approx(0.7 * 150 / 400)
    for name in "ab":
        progress.feed(layer(name, "Download complete"))
    assert progress.bytes_here == 400
    assert progress.fraction == pytest.approx(0.7)
    for name in "ab":
        progress.feed(layer(name, "Pull complete"))
    assert (progress.fraction, progress.layers) == (1.0, (2, 2))


STATUSES = ("Pulling fs layer", "Waiting", "Downloading", "Verifying Checksum", "Download complete", "Extracting",
            "Pull complete", "Already exists", "Retrying in 5 seconds")  # fmt: skip


@given(
    st.lists(
        st.builds(
            layer, st.sampled_from("abcd"), st.sampled_from(STATUSES), st.integers(0, 10**10), st.integers(0, 10**10)
        )
    )
)
def test_a_pull_never_goes_back_and_stays_between_0_and_1(messages: list[dict]) -> None:
    progress, before = PullProgress(), 0.0
    for message in messages:
        progress.feed(message)
        now = progress.event("pull")
        assert before <= now.fraction <= 1.0
        assert now.data["bytes"] >= 0 and now.data["layers_done"] <= now.data["layers"]
        before = now.fraction


@pytest.mark.parametrize(
    ("image", "parts"),
    [
        ("debian", ("debian", "latest")),
        ("debian:12", ("debian", "12")),
        ("127.0.0.1:5000/a/b", ("127.0.0.1:5000/a/b", "latest")),
        ("nvcr.io/nvidia/tritonserver:23.04-py3", ("nvcr.io/nvidia/tritonserver", "23.04-py3")),
        ("a/b@sha256:00ff", ("a/b", "sha256:00ff")),
    ],
)
def test_an_images_name_is_taken_apart(image: str, parts: tuple[str, str]) -> None:
    assert split(image) == parts


# --- buildx -----------------------------------------------------------------------------------------------------------


def fed(progress: buildx.Progress, message: dict, indent: int | None) -> list[str]:
    """The pieces of one message, over many lines as buildx 0.13 writes it, or in one as later ones do."""
    return [piece for line in json.dumps(message, indent=indent).splitlines() for piece in progress.feed(line)]


@pytest.mark.parametrize("indent", [None, 2])
def test_buildx_messages_become_log_and_stages(indent: int | None) -> None:
    progress = buildx.Progress()
    vertex = {"digest": "sha256:1", "name": "[1/2] FROM debian", "started": "2026-01-01T00:00:00Z"}
    other = {"digest": "sha256:2", "name": "[2/2] RUN make", "started": "2026-01-01T00:00:01Z"}
    assert fed(progress, {"vertexes": [vertex]}, indent) == ["[1/2] FROM debian\n"]
    done = vertex | {"completed": "2026-01-01T00:00:01Z"}
    assert fed(progress, {"vertexes": [done, other]}, indent) == ["[2/2] RUN make\n"]
    text = base64.b64encode("编译\n".encode()).decode()
    assert fed(progress, {"logs": [{"vertex": "sha256:2", "stream": 1, "data": text}]}, indent) == ["编译\n"]
    event = progress.event("build")
    assert (event.fraction, event.data["stage"], event.data["stages"]) == (0.5, 1, 2)
    assert fed(progress, {"vertexes": [other | {"error": "exit code: 2"}]}, indent)[-1] == "exit code: 2\n"


@given(st.text())
def test_what_buildx_says_beside_its_json_is_kept(line: str) -> None:
    pieces = buildx.Progress().feed(f"WARN {line}")
    assert pieces == [f"WARN {line}\n"]


def test_a_buildx_command_has_each_value_as_one_word() -> None:
    step = BuildImage(
        id="b", title=same("b"), tag="a:1", folder="/x y", args={"A": "$(touch X); `id`"}, sources={"HF_ENDPOINT": "h"}
    )
    command = buildx.command(step, Path("/x y/Dockerfile"), {"slipway.run": "demo-1"})
    assert "--build-arg=A=$(touch X); `id`" in command
    assert "--build-arg=HF_ENDPOINT=h" in command
    assert "--label=slipway.run=demo-1" in command
    assert command[-1] == "/x y"


# --- logs -------------------------------------------------------------------------------------------------------------


def frame(message: bytes, stream: int = 1) -> bytes:
    return bytes((stream, 0, 0, 0)) + len(message).to_bytes(4, "big") + message


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(1, 20)))
def test_a_stream_is_taken_apart_however_it_comes(messages: list[bytes], cuts: list[int]) -> None:
    data, frames, found = b"".join(frame(message) for message in messages), Frames(), []
    for cut in [*cuts, len(data)]:
        found += frames.feed(data[:cut])
        data = data[cut:]
    assert found == messages


def stamped(second: int, text: str) -> bytes:
    return f"2026-01-01T00:00:{second // 100:02}.{second % 100:02}0000000Z {text}".encode()


@given(
    st.lists(st.tuples(st.integers(0, 5999), st.integers(1, 3)), max_size=30, unique_by=lambda one: one[0]), st.data()
)
def test_a_log_gone_on_with_repeats_nothing_and_loses_nothing(
    groups: list[tuple[int, int]], data: st.DataObject
) -> None:
    """However far the first reader, its log and its cursor had come when it died."""
    seconds = [second for second, times in sorted(groups) for _ in range(times)]
    messages = [stamped(second, f"line {number}\n") for number, second in enumerate(seconds)]
    whole = "".join(f"line {number}\n" for number in range(len(seconds))).encode()
    cursor_at = data.draw(st.integers(0, len(messages)))
    written_to = data.draw(st.integers(cursor_at, len(messages)))
    with mock.patch.object(container_logs, "RECENT", 8):
        first = Taken(Cursor(container="c"), 0)
        first.feed(messages[:cursor_at])
        log = first.take()
        cursor = Cursor(container="c", recent=first.recent, size=len(log))
        first.feed(messages[cursor_at:written_to])
        log += first.take()
        second = Taken(cursor, len(log))
        oldest = min(cursor.recent, default="").encode()  # Docker begins somewhere before the oldest stamp asked for
        begin = data.draw(st.integers(0, sum(one.split(b" ")[0] < oldest for one in messages)))
        second.feed(messages[begin:])
        assert log + second.take(ended=True) == whole


def test_two_streams_that_come_out_of_order_are_both_kept() -> None:
    messages = [stamped(1, "a\n"), stamped(3, "b\n"), stamped(2, "late\n"), stamped(4, "c\n")]
    first = Taken(Cursor(container="c"), 0)
    first.feed(messages[:2])
    log = first.take()
    second = Taken(Cursor(container="c", recent=first.recent, size=len(log)), len(log))
    second.feed(messages)
    assert log + second.take(ended=True) == b"a\nb\nlate\nc\n"


def test_a_secret_in_pieces_of_one_line_is_taken_out() -> None:
    taken = Taken(Cursor(container="c"), 0, ("s3cr3t-value",))
    taken.feed([stamped(1, "token s3cr3t"), stamped(1, "-value\nnext")])
    assert taken.take() == b"token [secret]\n"
    assert taken.take(ended=True) == b"next"


# --- containers -------------------------------------------------------------------------------------------------------


def test_gpus_are_asked_for_by_index_all_or_not_at_all() -> None:
    def requests(gpus, by="runtime"):
        return containers.device_requests(Container(image="x", gpus=gpus), by)

    assert requests(None) == [] == requests(())
    assert (requests((0, 2))[0]["DeviceIDs"], requests((0, 2))[0]["Capabilities"]) == (["0", "2"], [["gpu"]])
    assert requests("all")[0]["Count"] == -1
    assert requests((1,), "cdi")[0]["DeviceIDs"] == ["nvidia.com/gpu=1"]
    assert requests("all", "cdi")[0]["Driver"] == "cdi"


@pytest.mark.parametrize(
    ("words", "left_out"),
    [
        ("error setting rlimits for ready process: error setting rlimit type 8: operation not permitted", ("memlock",)),
        ("error setting rlimits for ready process: operation not permitted", ("memlock", "stack")),
        ("no such image", ()),
    ],
)
def test_a_refused_limit_is_found_in_the_engines_words(words: str, left_out: tuple[str, ...]) -> None:
    assert containers.refused_ulimits(words, {"memlock": -1, "stack": 67108864}) == left_out


def mount(source: Path | str, home: Path, path: str = "/x"):
    return containers.mount(Mount(source=str(source), path=path), (home,), home, True)


def test_a_missing_folder_below_the_data_folder_is_made_for_a_mount(home: Path) -> None:
    assert mount(home / "a" / "b", home)["Source"] == str(home / "a" / "b")
    assert (home / "a" / "b").is_dir()


@pytest.mark.parametrize("source", ["/etc", "/", "{home}/../else", "relative"])
def test_a_mount_outside_the_allowed_folders_is_refused(home: Path, source: str) -> None:
    with pytest.raises(BadInput):
        mount(source.replace("{home}", str(home)), home)


def test_a_link_out_of_the_allowed_folders_is_not_mounted(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    (home / "link").symlink_to("/etc")
    with pytest.raises(BadInput):
        mount(home / "link", home)


@pytest.mark.parametrize("path", ["relative", "/", "/a/../../etc"])
def test_a_mount_goes_to_a_place_inside(home: Path, path: str) -> None:
    home.mkdir()
    with pytest.raises(BadInput):
        mount(home, home, path)


def test_a_socket_is_not_mounted(home: Path) -> None:
    home.mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(home / "s"))
        with pytest.raises(BadInput, match="socket"):
            mount(home / "s", home)


# --- words ------------------------------------------------------------------------------------------------------------

SAID = {
    'could not select device driver "" with capabilities: [[gpu]]': "container toolkit is missing",
    "manifest for x/y:1 not found: manifest unknown: manifest unknown": "no such image",
    "pull access denied for x, repository does not exist or may require 'docker login'": "no such image",
    'Get "https://nvcr.io/v2/": unauthorized: authentication required': "wants a login",
    'Get "https://nvcr.io/v2/": dial tcp: lookup nvcr.io: no such host': "cannot be reached",
    "toomanyrequests: You have reached your pull rate limit": "no more pulls",
    'Conflict. The container name "/x" is already in use by container 0123': "has the name",
    "Bind for 127.0.0.1:8000 failed: port is already allocated": "port is taken",
    "listen tcp4 127.0.0.1:8000: bind: address already in use": "port is taken",
    'invalid mount config for type "bind": bind source path does not exist: /x': "does not see a folder",
    'exec: "foo": executable file not found in $PATH: unknown': "lacks the program",
    "[FATAL tini (7)] exec foo failed: No such file or directory": "lacks the program",
}


@pytest.mark.parametrize("words", SAID)
def test_what_the_engine_says_has_cause_and_cure_in_both_languages(words: str) -> None:
    failure = said(words)
    assert isinstance(failure, StepFailed)
    assert SAID[words] in failure.message.en
    assert words in failure.message.en and words in failure.message.zh
    assert failure.hint is not None and failure.hint.zh


def test_a_full_disk_is_told_as_that() -> None:
    assert isinstance(said("write /var/lib/docker/tmp/x: no space left on device"), OutOfSpace)


def test_what_nobody_knows_is_told_as_it_was_said() -> None:
    assert "something new" in said("something new").message.en


def test_an_engine_that_is_not_there_is_unreachable_with_its_address(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="there is no"):
        Engine({"DOCKER_HOST": f"unix://{tmp_path}/no.sock"}).api()


def test_an_engine_that_nobody_serves_is_unreachable(tmp_path: Path) -> None:
    path = tmp_path / "dead.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
    with pytest.raises(Unreachable, match="has stopped"):
        Engine({"DOCKER_HOST": f"unix://{path}"}).api()


def test_an_engine_that_takes_a_question_and_never_answers_is_given_up(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(engine_room, "ANSWER_S", 0.5)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(f"{tmp_path}/mute.sock")
        mute.listen(8)
        with pytest.raises(Unreachable, match=r"did not answer within 0\.5 s") as gone:
            Engine({"DOCKER_HOST": f"unix://{tmp_path}/mute.sock"}).api()
    assert gone.value.hint is not None


def test_an_engine_that_this_user_may_not_reach_names_the_cure(tmp_path: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(Unreachable, match="usermod -aG docker"):
        Engine({"DOCKER_HOST": f"unix://{tmp_path}/docker.sock"}).api()


# --- mirrors and proxies ----------------------------------------------------------------------------------------------

ALL = Sources(
    registry_mirror="mirror.example/hub",
    git_mirror="https://git.example/github.com",
    pip_index="https://pypi.example/simple",
    hf_endpoint="https://hf.example/",
    https_proxy="http://proxy.example:3128",
    no_proxy="intern.example",
)


def test_every_step_that_fetches_has_the_mirrors_and_the_plan_shows_them() -> None:
    steps = (
        PullImage(id="p", title=same("p"), image="nvcr.io/nvidia/tritonserver:23.04-py3"),
        BuildImage(id="b", title=same("b"), tag="x:1", folder="/x"),
        python("t", "pass"),
        Service(id="s", title=same("s"), argv=("x",)),
    )
    plan = applied(Plan(spec=SPEC, steps=steps), ALL)
    pull, build, task, service = plan.steps
    assert pull.mirror == "mirror.example/hub/nvcr.io/nvidia/tritonserver:23.04-py3"
    for step in (build, task, service):
        assert step.sources["PIP_INDEX_URL"] == "https://pypi.example/simple"
        assert step.sources["HF_ENDPOINT"] == "https://hf.example"
        assert step.sources["GIT_CONFIG_KEY_0"] == "url.https://git.example/github.com/.insteadOf"
        assert step.sources["https_proxy"] == step.sources["HTTPS_PROXY"] == "http://proxy.example:3128"
        assert step.sources["NO_PROXY"] == "intern.example,localhost,127.0.0.1,::1"
    assert "mirror.example" in plan.model_dump_json()


DOCKERFILE = """# FROM nothing
ARG BASE=debian
FROM ${BASE} AS one
RUN pip install x && \\
  from y
FROM one
RUN <<END
FROM here
END
"""


def test_every_stage_of_a_build_takes_the_mirrors_and_no_proxy_is_kept_in_the_image() -> None:
    build = applied(Plan(spec=SPEC, steps=(BuildImage(id="b", title=same("b"), tag="x:1", folder="/x"),)), ALL).steps[0]
    names = declared(build)
    assert "PIP_INDEX_URL" in names
    assert not {"HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"} & set(names)
    lines = with_arguments(DOCKERFILE, ("A", "B")).splitlines()
    taken = [place for place, line in enumerate(lines) if line == "ARG A"]
    assert [lines[place - 1] for place in taken] == ["FROM ${BASE} AS one", "FROM one"]
    assert [line for line in lines if line not in ("ARG A", "ARG B")] == DOCKERFILE.splitlines()


def test_an_old_git_in_a_build_takes_the_mirror_too(tmp_path: Path) -> None:
    build = applied(Plan(spec=SPEC, steps=(BuildImage(id="b", title=same("b"), tag="x:1", folder="/x"),)), ALL).steps[0]
    env = {"PATH": os.environ["PATH"], "GIT_CONFIG_PARAMETERS": build.sources["GIT_CONFIG_PARAMETERS"]}
    told = subprocess.run(
        ("git", "config", "--get-regexp", "^url"), env=env, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["url.https://git.example/github.com/.insteadof", "https://github.com/"]


def test_another_mirror_is_no_other_result() -> None:
    steps = (python("t", "pass"), PullImage(id="p", title=same("p"), image="a/b:1"))
    plain = fingerprints(steps, lambda _: "")
    behind = fingerprints(applied(Plan(spec=SPEC, steps=steps), ALL).steps, lambda _: "")
    assert plain == behind


@pytest.mark.parametrize(
    ("image", "behind"),
    [
        ("debian:12", "m.example/docker.io/library/debian:12"),
        ("a/b:1", "m.example/docker.io/a/b:1"),
        ("nvcr.io/nvidia/x:1", "m.example/nvcr.io/nvidia/x:1"),
        ("localhost/x:1", "m.example/localhost/x:1"),
    ],
)
def test_a_mirrored_image_spells_its_registry_out(image: str, behind: str) -> None:
    assert mirrored(image, "m.example") == behind


def test_without_mirrors_a_plan_is_as_it_was() -> None:
    plan = Plan(spec=SPEC, steps=(python("t", "pass"), PullImage(id="p", title=same("p"), image="a/b:1")))
    assert applied(plan, Sources()) == plan
    assert variables(Sources()) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("https_proxy", "http://me:pa55word@proxy.example:3128"),
        ("pip_index", "https://me:pa55word@pypi.example/simple"),
        ("registry_mirror", "me:pa55word@mirror.example"),
        ("hf_endpoint", "https://hf_token@hf.example"),
        ("torch_index", "https://me:pa55word@wheels.example/cpu"),
        ("torch_index", "HTTPS://pa55word@wheels.example/cpu"),
        ("https_proxy", "http://me:pa55/word@proxy.example:3128"),
        ("git_mirror", "http:///me:pa55word@git.example"),
    ],
)
def test_an_address_with_a_login_is_refused_and_not_repeated(name: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refused:
        settings({"home": tmp_path}, {f"SLIPWAY_{name.upper()}": value})
    assert name in refused.value.field
    assert "pa55word" not in refused.value.of("en") + refused.value.of("zh")
    assert "hf_token@" not in refused.value.of("en") + refused.value.of("zh")


@pytest.mark.parametrize("value", ["/srv/wheels@2/cpu", "file:///srv/cpu", "https://wheels.example:8443/a@b/cpu"])
def test_wheels_may_lie_in_a_folder_or_behind_a_sign_that_is_no_login(value: str, tmp_path: Path) -> None:
    found = settings({"home": tmp_path}, {"SLIPWAY_TORCH_INDEX": value})
    assert found.sources.torch_index == value


def test_an_image_may_name_its_digest_but_no_login() -> None:
    digest = "sha256:" + "0f" * 32
    assert SPEC.model_validate({**SPEC.model_dump(), "image": f"nvcr.io/a/b@{digest}"}).image == f"nvcr.io/a/b@{digest}"
    with pytest.raises(BadInput) as refused:
        read(Spec, SPEC.model_dump() | {"image": "me:pa55word@nvcr.io/a/b:1"})
    assert "pa55word" not in refused.value.of("en") + refused.value.of("zh")


def test_usual_variables_count_too_but_not_with_a_login_in_them(tmp_path: Path) -> None:
    found = settings(
        {"home": tmp_path}, {"HF_ENDPOINT": "https://hf.example", "PIP_INDEX_URL": "https://a:b@x.example/s"}
    )
    assert (found.sources.hf_endpoint, found.sources.pip_index) == ("https://hf.example", None)


# --- steps ------------------------------------------------------------------------------------------------------------


def test_a_server_without_a_network_is_refused(home: Path) -> None:
    from backends.targets.docker import DockerTarget
    from backends.targets.local import LocalTarget

    local = LocalTarget(home, home, "python", {}, lambda *_: iter(()))
    target = DockerTarget(home, (), {"DOCKER_HOST": f"unix://{home}/no.sock"}, local)
    wish = Container(image="x", network="none")
    assert target.can(Service(id="s", title=same("s"), argv=("x",), container=wish)) is not None
    assert target.can(Task(id="t", title=same("t"), argv=("x",), container=wish)) is None
    assert local.can(Task(id="t", title=same("t"), argv=("x",), container=wish)) is not None


# --- what is left over ------------------------------------------------------------------------------------------------


class Counting:
    """An engine that counts its disk for somebody else, for so many questions."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def clearly(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def api(self) -> Counting:
        return self

    def df(self) -> dict:
        self.refusals -= 1
        if self.refusals >= 0:
            raise docker.errors.APIError("500 Server Error: a disk usage operation is already running")
        return {"Images": [{"Id": "sha256:1", "Labels": {"slipway.home": "/h"}, "RepoTags": ["mine:1"], "Size": 7}]}


def test_an_engine_that_counts_for_somebody_else_is_asked_again() -> None:
    assert [one.name for one in leftovers(Counting(2), Path("/h"))] == ["mine:1"]


def test_what_a_lost_build_put_out_does_not_stay_with_its_secrets(tmp_path: Path) -> None:
    raw, kept = tmp_path / "image.buildx.120", tmp_path / "service.json"
    raw.write_text("https://me:hunter22@mirror.test", encoding="utf-8")
    kept.touch()
    buildx.forget(tmp_path)
    assert not raw.exists() and kept.exists()
