"""A control whose runs stand still: a real store and real plans, no worker; the tests say what happens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import IO

import pytest

from app.control import Control
from app.jobs import RunFolder
from app.settings import settings
from backends.errors import SlipwayError
from backends.events import Event, Kind
from backends.runs import Run, State
from backends.spec import Chat, Endpoint, Hardware, ModelSource, Piece, Spec
from backends.steps import PLACES, Step
from backends.targets.base import Found
from storage.store import Store

HARDWARE = Path(__file__).resolve().parent.parent / "hardware"
ENDPOINT = Endpoint(http_port=8000, grpc_port=8001, metrics_port=8002, model="chat")


class StillTarget:
    """A target on which nothing runs."""

    def find(self, _run: str) -> Found:
        return Found()

    def has(self, _step: Step) -> bool:
        return True

    def watch(self, _run: str) -> int | None:
        return -1

    def stop(self, _run: str) -> None:
        return None

    def places(self, run: str, _endpoint: Endpoint, _bind: str) -> dict[str, str]:
        return {place: f"/{place}" for place in PLACES} | {"run": f"/runs/{run}"}


class StillControl(Control):
    """A control without workers. `machine` is what it detects, `answers` what a model says."""

    machine: Hardware = Hardware(hostname="dock-01", os="Linux", architecture="x86_64", cpu_cores=8, python="3.11.7",
                                 ram_total_mib=65536, ram_free_mib=60000)  # fmt: skip
    answers: list[Piece | SlipwayError]
    heard: list[Chat]
    closed = False

    def detect(self, refresh: bool = False) -> Hardware:
        return self.machine

    def recover(self) -> None:
        """Nobody is lost here."""

    def get_ready(self) -> None:
        """No worker."""

    def _spawn(self, run_id: str, held: IO[bytes]) -> None:
        """No worker."""

    async def chat(self, run_id: str, chat: Chat) -> AsyncIterator[Piece]:
        self.run(run_id)
        self.heard.append(chat)
        try:
            for answer in self.answers:
                if isinstance(answer, SlipwayError):
                    raise answer
                yield answer
        finally:
            self.closed = True

    # --- what a worker would do -------------------------------------------------------------------------------------

    def begun(self, name: str = "demo") -> Run:
        """A run that has just been started."""
        return self.start(Spec(model=ModelSource(kind="demo"), name=name)).run

    def told(self, run: Run, *events: Event) -> None:
        """Events of a run."""
        self._store.append(run.id, events)

    def starts(self, run: Run, step: str, text: str | bytes) -> None:
        """A step that is started, perhaps once more, and what that start writes."""
        self.told(run, Event(step=step, kind=Kind.STARTED, data={"log_from": self.log(run.id, step).size}))
        self.wrote(run, step, text)

    def moved(self, run: Run, state: State, **more: object) -> Run:
        """A run in another state."""
        assert self._store.move(run.id, state, **more)
        return self.run(run.id)

    def served(self, name: str = "demo", answer: str = "Hello.") -> Run:
        """A run whose server answers."""
        run = self.begun(name)
        steps = [Event(step=step.id, kind=kind) for step in run.plan.steps for kind in (Kind.STARTED, Kind.DONE)]
        self.told(run, *steps)
        return self.moved(run, State.SERVING, endpoint=ENDPOINT, answer=answer, measured={"first_token_s": 0.186})

    def wrote(self, run: Run, step: str, text: str | bytes) -> None:
        """Text at the end of a step's log."""
        path = RunFolder(self.settings.home, run.id).log(step)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(text.encode() if isinstance(text, str) else text)


def machine(name: str) -> Hardware:
    """A machine that was really looked at."""
    return Hardware.model_validate(json.loads((HARDWARE / f"{name}.json").read_text(encoding="utf-8")))


@pytest.fixture
def control(home: Path, store: Store) -> Iterator[StillControl]:
    """A control over an empty data folder, whose runs stand still."""
    made = StillControl(settings({"home": str(home)}, {}), store, {"local": StillTarget(), "docker": StillTarget()})
    made.answers = []
    made.heard = []
    yield made
