"""The history of 100,000 deployments: what one page of the list, and the counts beside it, take in the store."""

from __future__ import annotations

import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backends.runs import Place, State
from backends.spec import ModelSource, Spec
from backends.steps import Plan
from scripts.bench import Figure
from storage.store import Store

DEPLOYMENTS = 100_000
ROUNDS = 21
PLAN_BYTES = 8192
INSERT = """INSERT INTO run (id, name, state, engine, model, target, spec, plan, spec_digest, created_at, attempt,
    stop_asked, measured, pinned, words)
    VALUES (?, ?, ?, ?, ?, 'local', ?, ?, 'd', ?, 1, 0, '{}', ?, ?)"""
ENGINES = ("transformers", "vllm", "tensorrt_llm", "fastertransformer")
STATES = (State.STOPPED, State.FAILED, State.LOST)


def figures() -> Iterator[Figure]:
    """Fills a store, then times the first page, one from its middle, and the slowest filters."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        _fill(store)
        middle = Place(False, _at(DEPLOYMENTS // 2), f"r-{DEPLOYMENTS // 2:06}")
        pages: dict[str, Callable[[], object]] = {
            "first_page": lambda: store.pinned_first(),
            "middle_page": lambda: store.pinned_first(before=middle),
            "filtered_page": lambda: store.pinned_first("model-3", (State.FAILED, State.LOST), engine="vllm"),
            "empty_search": lambda: store.pinned_first("in none of them"),
            "counts": lambda: store.counts("model-3"),
        }
        for name, look in pages.items():
            yield Figure(f"history.{name}_of_100000", _median_ms(look), " ms", most=50)
        store.close()


def _fill(store: Store) -> None:
    spec = Spec(model=ModelSource(kind="demo"))
    plan = Plan(spec=spec, steps=()).model_dump_json()
    plan += " " * (PLAN_BYTES - len(plan))

    def row(number: int) -> tuple[object, ...]:
        run, name, model = f"r-{number:06}", f"name-{number % 977}", f"org/model-{number % 13}"
        engine = ENGINES[number % len(ENGINES)]
        words = f"{run}\n{name}\n{model}\n{engine}"
        told = (run, name, STATES[number % 3].value, engine, model, spec.model_dump_json(), plan)
        return (*told, _at(number).isoformat(), number % 1000 == 0, words)

    with sqlite3.connect(store.path) as db:
        db.executemany(INSERT, map(row, range(DEPLOYMENTS)))


def _at(number: int) -> datetime:
    return datetime(2025, 1, 1, tzinfo=UTC) + timedelta(seconds=number, microseconds=1)


def _median_ms(look: Callable[[], object]) -> float:
    times = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        look()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)
