"""A deployment as a file: whole, given away, read from strangers; and two of them side by side."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from app.kept import Kept
from backends.deployment_files import SIZE_LIMIT, DeploymentFile, compare, file_of, imported
from backends.errors import BadInput, NotFound
from backends.events import Event, Kind
from backends.runs import State
from backends.spec import Limits
from storage.store import Store
from tests.plans import plan, python
from tests.ui.conftest import StillControl, control  # noqa: F401  the fixture


@pytest.fixture
def kept(store: Store) -> Kept:
    """The use cases over a store with one finished run, demo-1."""
    store.begin("demo-1", plan().model_copy(update={"memory_mib": 512}))
    store.append("demo-1", [Event(step="files", kind=Kind.STARTED), Event(step="files", kind=Kind.DONE)])
    store.move("demo-1", State.DONE, measured={"files_s": 0.5, "memory_mib": 500.0})
    return Kept(store)


def file(kept: Kept, **changes: object) -> dict:
    """The exported run as plain data, changed."""
    return json.loads(kept.export_deployment("demo-1")) | changes


def read(value: object) -> DeploymentFile:
    return imported(json.dumps(value).encode()).file


def test_a_deployment_comes_back_from_its_file(kept: Kept, store: Store) -> None:
    told = kept.import_deployment(kept.export_deployment("demo-1").encode())
    run = store.run("demo-1")
    assert told.file == file_of(run, store.after("demo-1"))
    assert told.spec == run.spec
    assert told.notes == ()
    assert [event.kind for event in told.file.events] == [Kind.STARTED, Kind.DONE]
    assert told.file.forecast == {"memory_mib": 512.0}
    assert told.file.measured == {"files_s": 0.5, "memory_mib": 500.0}


def test_a_run_that_is_not_there_has_no_file(kept: Kept) -> None:
    for act in (kept.export_deployment, kept.pin, kept.unpin, lambda run: kept.compare(run, "demo-1")):
        with pytest.raises(NotFound):
            act("nothing")


def test_a_file_keeps_and_starts_nothing(control: StillControl, store: Store) -> None:  # noqa: F811
    control.begun("mine")
    text = control.export_deployment(store.open_run("mine").id)
    control.import_deployment(text.replace('"mine"', '"theirs"').encode())
    assert [row.name for row in store.runs()] == ["mine"]


def test_no_command_of_a_file_is_carried_out(control: StillControl, store: Store) -> None:  # noqa: F811
    evil = python("evil", "import os; os.remove('/')")
    hostile = plan(evil).model_copy(update={"spec": control.plan(plan().spec).spec})
    store.begin("demo-1", hostile)
    told = control.import_deployment(control.export_deployment("demo-1").encode())
    assert "evil" in told.file.plan.model_dump_json()
    assert "evil" not in control.plan(told.spec).model_dump_json()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "file.version"),
        ({"slipway": "other"}, "file.slipway"),
        ({"extra": 1}, "file.extra"),
        ({"id": "../../etc"}, "file.id"),
        ({"events": [{"step": None, "kind": "note"}] * 20_001}, "file.events"),
        ({"measured": {"x_s": "fast"}}, "file.measured.x_s"),
        ({"state": "flying"}, "file.state"),
        ({"plan": None}, "file.plan"),
        ({"spec": {"model": {"kind": "huggingface", "id": "../../etc/passwd"}}}, "file.spec.model"),
        ({"spec": {"model": {"kind": "demo"}, "name": "../up"}}, "file.spec.name"),
        ({"spec": {"model": {"kind": "folder", "id": "/a\u0000b"}}}, "file.spec.model.id"),
        ({"spec": {"model": {"kind": "demo"}, "command": ["sh"]}}, "file.spec.command"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_in_a_file_is_named(kept: Kept, change: dict, field: str) -> None:
    with pytest.raises(BadInput) as refused:
        read(file(kept, **change))
    assert refused.value.field == field


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\xff\xfe", b"[]", b"null", b"[" * 200_000, b'{"slipway": ' + b"9" * 100_000 + b"}", b"{}",
        b'{"measured": {"x": NaN}}', b" " * (SIZE_LIMIT + 1),
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_what_is_no_file_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(BadInput):
        imported(data)


def test_a_file_consents_to_nothing(kept: Kept) -> None:
    spec = {"model": {"kind": "demo"}, "trust_remote_code": True, "allow_pickle": True, "bind": "0.0.0.0"}
    told = imported(json.dumps(file(kept, spec=spec)).encode())
    assert (told.spec.trust_remote_code, told.spec.allow_pickle, told.spec.bind) == (False, False, "127.0.0.1")
    assert told.file.spec.trust_remote_code
    assert len(told.notes) == 3


def test_where_a_file_s_parts_come_from_is_pointed_out(kept: Kept) -> None:
    spec = {
        "model": {"kind": "demo"}, "image": "evil.example/triton:1", "fastertransformer": {"backend_checkout": "/tmp/x"}
    }  # fmt: skip
    told = imported(json.dumps(file(kept, spec=spec)).encode())
    words = " ".join(note.en for note in told.notes)
    assert "image = evil.example/triton:1" in words
    assert "fastertransformer.backend_checkout = /tmp/x" in words
    assert all(note.en != note.zh for note in told.notes)


def test_two_deployments_differ_field_by_field(kept: Kept, store: Store) -> None:
    made = plan(python("files", "print(2)"), python("more", "print(3)"), name="other")
    spec = made.spec.model_copy(update={"limits": Limits(concurrent=4)})
    store.begin("other-1", made.model_copy(update={"spec": spec}))
    store.move("other-1", State.SERVING, measured={"files_s": 0.5, "memory_mib": 700.0})
    found = {(one.group, one.field): (one.one, one.other) for one in kept.compare("demo-1", "other-1")}
    assert found["spec", "name"] == ("demo", "other")
    assert found["spec", "limits.concurrent"] == (16, 4)
    assert found["plan", "files.kind"] == (plan().steps[0].kind, "task")
    assert found["plan", "more.argv.2"] == (None, "print(3)")
    assert found["forecast", "memory_mib"] == (512.0, None)
    assert found["measured", "memory_mib"] == (500.0, 700.0)
    assert ("took", "files_s") not in found
    assert found["took", "ready_s"][0] is None and found["took", "ready_s"][1] > 0


def test_a_deployment_does_not_differ_from_itself(kept: Kept, store: Store) -> None:
    assert kept.compare("demo-1", "demo-1") == ()
    run = store.run("demo-1")
    later = run.model_copy(update={"created_at": datetime.now(UTC) + timedelta(days=1)})
    assert compare(file_of(run), file_of(later)) == ()


def test_the_other_way_round_is_the_mirror(kept: Kept, store: Store) -> None:
    store.begin("other-1", plan(name="other"))
    there = {(one.group, one.field, str(one.one), str(one.other)) for one in kept.compare("demo-1", "other-1")}
    back = {(one.group, one.field, str(one.other), str(one.one)) for one in kept.compare("other-1", "demo-1")}
    assert there == back
    assert there
