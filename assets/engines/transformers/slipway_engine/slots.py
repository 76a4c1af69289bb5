"""The slots: a batch for decoder-only models on CUDA whose every step is one replayed CUDA graph.

Rows are fixed places in one big cache, each with its own length; a 4-D mask hides what lies beyond it. Nothing in a
step depends on the host, so the whole forward, the greedy choice and the lengths' increment are captured once for each
number of rows (powers of two) and of columns. The host launches the next step before it has read this one's tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from .job import Job
from .network import Network, Unsupported
from .sampling import Sampler
from .window import Group, Step


class _Layer(CacheLayerMixin):
    """One layer's part of the slots, as the model's attention sees it: a row's token is written at the row's length."""

    is_sliding = False

    def __init__(self, slots: Slots, index: int) -> None:
        super().__init__()
        self._slots, self._index = slots, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to be made."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_more: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes one token a row, and gives the columns of this step's graph."""
        slots, rows = self._slots, key_states.shape[0]
        keys, values = slots.store[self._index, 0], slots.store[self._index, 1]
        row, column = slots.arange[:rows], slots.lengths[:rows]
        keys[row, :, column] = key_states[:, :, 0]
        values[row, :, column] = value_states[:, :, 0]
        return keys[:rows, :, : slots.columns], values[:rows, :, : slots.columns]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
        """(columns, offset) of the mask."""
        return self._slots.columns, 0

    def get_seq_length(self) -> int:
        """The model is given position ids and a 4-D mask, and needs no length."""
        return self._slots.columns - 1

    def get_max_length(self) -> int:
        """Columns of the store."""
        return int(self._slots.store.shape[4])

    get_max_cache_shape = get_max_length


class Slots:
    """`max_rows` rows of `max_context` columns, allocated whole. Raises Unsupported for models it cannot serve."""

    lookahead = 1  # a step's tokens are read while the next one runs

    def __init__(self, network: Network, max_rows: int, max_context: int) -> None:
        why = _why_not(network)
        if why:
            raise Unsupported(why)
        self.network, self.max_rows, self.max_context = network, max_rows, max_context
        self.jobs: list[Job] = []
        self._known: list[int] = []  # lengths as the host knows them
        heads, size, _ = network.layers[0]
        device = network.device
        self.store = torch.zeros(
            len(network.layers), 2, max_rows, heads, max_context, size, dtype=network.cache_dtype, device=device
        )
        self.arange = torch.arange(max(max_rows, max_context), device=device)
        self.lengths = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self.columns = max_context
        self._ids = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._sampler = Sampler(device)
        self._cache = Cache(layers=[_Layer(self, index) for index in range(len(network.layers))])
        self._graphs: dict[tuple[int, int], tuple[torch.cuda.CUDAGraph, torch.Tensor]] = {}
        self._row_steps = _powers(1, max_rows)
        self._column_steps = _powers(256, max_context)

    @property
    def bytes(self) -> int:
        """Memory that the cache holds."""
        return self.store.nbytes

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Whether there are rows for these chats besides those that run."""
        return len(self.jobs) + len(jobs) <= self.max_rows

    def longest(self) -> int:
        """The most columns that a single chat may need."""
        return self.max_context

    def join(self, jobs: Sequence[Job], group: Group, ids: torch.Tensor) -> None:
        """Takes the prefilled rows of these chats, with the first token of each (ids [rows of the group])."""
        for job in jobs:
            source, row = group.jobs.index(job), len(self.jobs)
            start, length = group.start(source), group.end - group.start(source)
            mine = [layer for pair in self.store[:, :, row, :, :length].unbind(0) for layer in pair.unbind(0)]
            theirs = [
                tensor[source, :, start : group.end]
                for pair in zip(group.window.keys, group.window.values, strict=True)
                for tensor in pair
            ]
            torch._foreach_copy_(mine, theirs)
            self._ids[row] = ids[source]
            self.lengths[row] = length
            self.jobs.append(job)
            self._known.append(length)

    def leave(self, job: Job) -> None:
        """Frees the chat's row; the last row takes its place."""
        row, last = self.jobs.index(job), len(self.jobs) - 1
        if row != last:
            used = self._known[last]
            self.store[:, :, row, :, :used] = self.store[:, :, last, :, :used]
            self._ids[row], self.lengths[row] = self._ids[last], self.lengths[last]
            self.jobs[row], self._known[row] = self.jobs[last], self._known[last]
        self.jobs.pop()
        self._known.pop()

    def clear(self) -> None:
        """Forgets every row."""
        self.jobs, self._known = [], []

    def launch(self) -> Step:
        """Begins one more token for each row; the ids can be read later."""
        jobs = tuple(self.jobs)
        rows, longest = len(jobs), max(self._known) + 1
        shape = _least(self._row_steps, rows), _least(self._column_steps, longest)
        if shape in self._graphs:
            graph, logits = self._graphs[shape]
            graph.replay()
        else:
            logits = self._forward(*shape)
        if not all(job.choice.plain for job in jobs):
            self._ids[:rows] = self._sampler(logits[:rows], jobs)
        for index, job in enumerate(jobs):
            self._known[index] += 1
            job.launched += 1
        return _later(jobs, self._ids[:rows])

    def _forward(self, rows: int, columns: int) -> torch.Tensor:
        """The step itself, all on the device: logits [rows, vocabulary], the greedy ids, the lengths' increment."""
        self.columns = columns
        lengths = self.lengths[:rows]
        mask = self.arange[:columns][None] <= lengths[:, None]
        logits = self.network.forward(
            input_ids=self._ids[:rows, None],
            position_ids=lengths[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=self._cache,
        )
        self._ids[:rows] = logits.argmax(dim=-1)
        self.lengths[:rows] = (lengths + 1).clamp(max=self.max_context - 1)  # rows in use never reach it
        return logits

    def capture(self) -> int:
        """Captures a graph for each number of rows and columns; returns how many. Rows must be empty.

        What a graph must not do raises RuntimeError out of here; the batch then works without graphs.
        """
        pool = torch.cuda.graph_pool_handle()
        stream = torch.cuda.Stream(self.network.device)
        with _in_rest(self):
            for columns in reversed(self._column_steps):
                for rows in reversed(self._row_steps):
                    with torch.cuda.stream(stream):
                        self._forward(rows, columns)
                    stream.synchronize()
                    graph = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(graph, pool=pool, stream=stream):
                        logits = self._forward(rows, columns)
                    self._graphs[rows, columns] = graph, logits
        return len(self._graphs)

    def drop_graphs(self) -> None:
        """Works without graphs from now on."""
        self._graphs.clear()


class _Later(Step):
    """A step whose tokens travel to the host on their own."""

    def __init__(self, jobs: tuple[Job, ...], ids: torch.Tensor, arrived: torch.cuda.Event) -> None:
        super().__init__(jobs, ids)
        self._arrived = arrived

    def tokens(self) -> list[int]:
        """The token ids, one a chat; waits until they are on the host."""
        self._arrived.synchronize()
        return super().tokens()


def _later(jobs: tuple[Job, ...], ids: torch.Tensor) -> Step:
    """A step that can be read without waiting for what is launched after it."""
    if ids.device.type != "cuda":
        return Step(jobs, ids.clone())
    host = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
    host.copy_(ids, non_blocking=True)
    arrived = torch.cuda.Event()
    arrived.record()
    return _Later(jobs, host, arrived)


later = _later


@contextlib.contextmanager
def _in_rest(slots: Slots) -> Iterator[None]:
    """Nothing of the warm-up stays: lengths and ids are put back to zero."""
    try:
        yield
    finally:
        slots.lengths.zero_()
        slots._ids.zero_()
        torch.cuda.synchronize(slots.network.device)


def _why_not(network: Network) -> str | None:
    model = network.model
    if network.encoder_decoder:
        return "it is an encoder-decoder"
    if "position_ids" not in network.takes:
        return "its forward takes no position ids"
    if network.sliding:
        return "it has sliding-window attention"
    if not network.uniform:
        return "its layers' caches differ in shape"
    if model.config._attn_implementation != "sdpa":
        return f"its attention is '{model.config._attn_implementation}', not sdpa"
    return None


def _powers(least: int, most: int) -> tuple[int, ...]:
    """least, twice that, ... up to `most`, which is always the last."""
    steps = []
    while least < most:
        steps.append(least)
        least *= 2
    return (*steps, most)


def _least(steps: Sequence[int], value: int) -> int:
    """The smallest step that holds the value."""
    return next(step for step in steps if step >= value)
