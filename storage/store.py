"""The store: runs and their append-only events. Short sessions, vocabulary in, vocabulary out.

Several programs use one store at the same time (the page, the command line, a worker for each run): SQLite in WAL mode,
one writer at a time, who wins is decided by the database and never by a look beforehand.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import String, func, literal_column, tuple_
from sqlalchemy import update as sql_update
from sqlalchemy.exc import IntegrityError
from sqlmodel import col, select

from backends.errors import NotFound
from backends.events import Event, Kind
from backends.runs import OPEN, Place, Run, State, Summary, Trouble
from backends.spec import Endpoint
from backends.steps import Plan, digest
from backends.text import Text
from storage.choices import Choices
from storage.conversations import Conversations
from storage.database import changed, now, part_of
from storage.keys import Keys
from storage.tables import EventRow, RunRow
from storage.watched import WatchedServers


class Store(Choices, Conversations, Keys, WatchedServers):
    """Everything that is remembered below `folder`. Safe from several threads and programs at once."""

    # --- runs -----------------------------------------------------------------------------------------------------

    def begin(self, run_id: str, plan: Plan) -> Run | None:
        """A new run in state QUEUED, or None where an open run has the same name: the other one was first."""
        spec = plan.spec
        row = RunRow(
            id=run_id,
            name=spec.name,
            state=State.QUEUED,
            engine=spec.engine,
            model=spec.model.id,
            target=spec.target,
            spec=spec.model_dump_json(),
            plan=plan.model_dump_json(),
            spec_digest=digest(spec),
            created_at=now(),
            words="\n".join((run_id, spec.name, spec.model.id, spec.engine)),
        )
        try:
            with self._write() as session:
                session.add(row)
        except IntegrityError:
            return None
        return self.run(run_id)

    def run(self, run_id: str) -> Run:
        """The run. Raises NotFound."""
        with self._read() as session:
            row = session.get(RunRow, run_id)
            if row is None:
                raise _no_run(run_id)
            return _run(row)

    def open_run(self, name: str) -> Run | None:
        """The open run of that name."""
        with self._read() as session:
            row = session.exec(select(RunRow).where(RunRow.name == name, col(RunRow.state).in_(OPEN))).first()
            return None if row is None else _run(row)

    def ids(self) -> frozenset[str]:
        """Ids of every run that is known."""
        with self._read() as session:
            return frozenset(session.exec(select(RunRow.id)))

    def in_state(self, *states: State) -> tuple[Run, ...]:
        """Every run in one of the states, oldest first."""
        with self._read() as session:
            query = select(RunRow).where(col(RunRow.state).in_(states)).order_by(col(RunRow.created_at))
            return tuple(_run(row) for row in session.exec(query))

    def runs(
        self,
        query: str = "",
        states: Iterable[State] = (),
        limit: int = 50,
        before: tuple[datetime, str] | None = None,
        pinned: bool | None = None,
        engine: str = "",
    ) -> tuple[Summary, ...]:
        """A page of the history, newest first. `before` is the (created_at, id) of the last row of the page before.

        The rows are chosen in an index that holds all that is filtered by: plans are large, and a list reads none.
        """
        chosen = _filtered(select(RunRow.id), query, states, pinned, engine)
        if before is not None:
            place = tuple_(col(RunRow.created_at), col(RunRow.id))
            chosen = chosen.where(place < tuple_(before[0].isoformat(), before[1]))
        newest = (col(RunRow.created_at).desc(), col(RunRow.id).desc())
        columns = (
            RunRow.id, RunRow.name, RunRow.state, RunRow.engine, RunRow.model, RunRow.target,
            RunRow.created_at, RunRow.ready_at, RunRow.finished_at, RunRow.pinned,
        )  # fmt: skip
        rows: Any = select(*columns)  # type: ignore[call-overload]
        rows = rows.where(col(RunRow.id).in_(chosen.order_by(*newest).limit(limit))).order_by(*newest)
        with self._read() as session:
            return tuple(Summary.model_validate(row._asdict()) for row in session.exec(rows))

    def pinned_first(
        self,
        query: str = "",
        states: Iterable[State] = (),
        limit: int = 50,
        before: Place | None = None,
        engine: str = "",
    ) -> tuple[Summary, ...]:
        """A page of the history with what is pinned at its head; `before` is the place of the row above it."""
        named = tuple(states)
        rows: tuple[Summary, ...] = ()
        for pinned in (True, False):
            if before is None or before.pinned >= pinned:
                after = (before.created_at, before.id) if before is not None and before.pinned is pinned else None
                rows += self.runs(query, named, limit - len(rows), after, pinned, engine)
            if len(rows) == limit:
                break
        return rows

    def count(self, query: str = "", states: Iterable[State] = (), pinned: bool | None = None) -> int:
        """How many runs the same filter finds."""
        with self._read() as session:
            return int(session.exec(_filtered(select(func.count(col(RunRow.id))), query, states, pinned)).one())

    def counts(self, query: str = "", engine: str = "") -> dict[State, int]:
        """How many runs the filter finds in each state, in one look."""
        state = _state(query, engine)
        counted: Any = select(state, func.count(col(RunRow.id))).group_by(state)
        with self._read() as session:
            rows = session.exec(_filtered(counted, query, (), None, engine))
            return {State(name): int(number) for name, number in rows}

    def pin(self, run_id: str, pinned: bool) -> None:
        """Marks a run to be found again, or lets go of it. Raises NotFound."""
        with self._write() as session:
            change = sql_update(RunRow).where(col(RunRow.id) == run_id).values(pinned=pinned)
            if not changed(session.execute(change)):
                raise _no_run(run_id)

    def move(
        self,
        run_id: str,
        to: State,
        *,
        come_from: Iterable[State] | None = None,
        endpoint: Endpoint | None = None,
        trouble: Trouble | None = None,
        answer: str | None = None,
        measured: dict[str, float] | None = None,
    ) -> bool:
        """Puts a run into another state, with what is known then. False where it was not in one of `come_from`."""
        values: dict[str, Any] = {"state": to.value}
        if endpoint is not None:
            values["endpoint"] = endpoint.model_dump_json()
        if answer is not None:
            values["answer"] = answer
        if measured is not None:
            values["measured"] = json.dumps(measured)
        if to is State.SERVING:
            values["ready_at"] = now()
        if not to.is_open():
            values |= {"finished_at": now(), "trouble": None if trouble is None else trouble.model_dump_json()}
        with self._write() as session:
            change = sql_update(RunRow).where(col(RunRow.id) == run_id).values(**values)
            if come_from is not None:
                change = change.where(col(RunRow.state).in_([state.value for state in come_from]))
            return changed(session.execute(change))

    def reopen(self, run_id: str, plan: Plan) -> bool:
        """Puts a finished run back to QUEUED for another attempt. False where it is open or its name is taken."""
        values = {
            "state": State.QUEUED.value, "plan": plan.model_dump_json(), "attempt": col(RunRow.attempt) + 1,
            "stop_asked": False, "ready_at": None, "finished_at": None, "trouble": None, "endpoint": None,
        }  # fmt: skip
        try:
            with self._write() as session:
                change = sql_update(RunRow).where(col(RunRow.id) == run_id).values(**values)
                ended = [state.value for state in State if state.can_resume()]
                return changed(session.execute(change.where(col(RunRow.state).in_(ended))))
        except IntegrityError:
            return False

    def ask_to_stop(self, run_id: str) -> bool:
        """Notes that a person wants an open run to end. False where it is not open."""
        with self._write() as session:
            change = sql_update(RunRow).where(col(RunRow.id) == run_id, col(RunRow.state).in_(OPEN))
            return changed(session.execute(change.values(stop_asked=True)))

    def stop_asked(self, run_id: str) -> bool:
        """True where a person wants this run to end."""
        with self._read() as session:
            return bool(session.exec(select(RunRow.stop_asked).where(RunRow.id == run_id)).first())

    def delete(self, run_id: str) -> None:
        """Forgets a finished run. Raises NotFound where there is none that has ended."""
        with self._write() as session:
            row = session.get(RunRow, run_id)
            if row is None or State(row.state).is_open():
                raise _no_run(run_id)
            session.delete(row)
            for old in session.exec(select(EventRow).where(EventRow.run == run_id)):
                session.delete(old)

    # --- events ---------------------------------------------------------------------------------------------------

    def append(self, run_id: str, events: Iterable[Event]) -> None:
        """Adds events in order, all or none."""
        rows = [
            EventRow(
                run=run_id,
                step=happened.step,
                kind=happened.kind,
                at=(happened.at or datetime.now(UTC)).isoformat(),
                body=happened.model_dump_json(include={"text", "hint", "fraction", "data"}),
            )
            for happened in events
        ]
        with self._write() as session:
            session.add_all(rows)

    def after(self, run_id: str, seq: int = 0, limit: int | None = None) -> tuple[Event, ...]:
        """The events of a run behind the cursor `seq`, oldest first: all of them, or `limit`."""
        query = select(EventRow).where(EventRow.run == run_id, col(EventRow.seq) > seq)
        with self._read() as session:
            rows = session.exec(query.order_by(col(EventRow.seq)).limit(limit))
            return tuple(
                Event(step=row.step, kind=Kind(row.kind), seq=row.seq or 0, at=row.at, **json.loads(row.body))
                for row in rows
            )


def _filtered(chosen: Any, query: str, states: Iterable[State], pinned: bool | None, engine: str = "") -> Any:
    named = [state.value for state in states]
    if named:
        chosen = chosen.where(_state(query, engine).in_(named))
    if pinned is not None:
        chosen = chosen.where(col(RunRow.pinned).is_(pinned))
    if query:
        chosen = chosen.where(col(RunRow.words).like(part_of(query), escape="\\"))
    if engine:  # the last of the words, which an index holds
        chosen = chosen.where(col(RunRow.words).like(part_of(f"\n{engine}").removesuffix("%"), escape="\\"))
    return chosen


def _state(query: str, engine: str) -> Any:
    """The state to filter or count by. Where words are looked through too, the plus sign keeps SQLite from the index of
    states, which holds no words: it would read every run's plan to get at them."""
    return literal_column("+run.state", String) if query or engine else col(RunRow.state)


def _run(row: RunRow) -> Run:
    plan = Plan.model_validate_json(row.plan)
    return Run(
        id=row.id,
        name=row.name,
        state=State(row.state),
        spec=plan.spec,
        plan=plan,
        created_at=datetime.fromisoformat(row.created_at),
        ready_at=row.ready_at and datetime.fromisoformat(row.ready_at),
        finished_at=row.finished_at and datetime.fromisoformat(row.finished_at),
        attempt=row.attempt,
        endpoint=row.endpoint and Endpoint.model_validate_json(row.endpoint),
        trouble=row.trouble and Trouble.model_validate_json(row.trouble),
        answer=row.answer,
        measured=json.loads(row.measured),
        pinned=row.pinned,
    )


def _no_run(run_id: str) -> NotFound:
    return NotFound(
        Text(en=f"There is no run “{run_id}”.", zh=f"没有部署“{run_id}”。"),
        Text(
            en="`slipway list` and `slipway history` name the runs.", zh="用 `slipway list` 或 `slipway history` 查看。"
        ),
        "run",
    )
