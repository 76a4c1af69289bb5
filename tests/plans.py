"""Small plans for tests of everything around plans."""

from __future__ import annotations

import sys

from backends.spec import ModelSource, Spec
from backends.steps import File, Plan, Step, Task, WriteFiles
from backends.text import same

SPEC = Spec(model=ModelSource(kind="demo"), name="demo")


def named(name: str) -> Spec:
    """The demo under another name."""
    return SPEC.model_copy(update={"name": name})


def python(step_id: str, code: str, **more: object) -> Task:
    """A task that runs a little Python."""
    return Task(id=step_id, title=same(step_id), argv=(sys.executable, "-c", code), **more)


def plan(*steps: Step, name: str = "demo") -> Plan:
    """A plan of these steps, or of one that writes a file."""
    one = WriteFiles(id="files", title=same("files"), folder="{run}/files", files=(File(path="a", text="b\n"),))
    return Plan(spec=named(name), steps=steps or (one,))
