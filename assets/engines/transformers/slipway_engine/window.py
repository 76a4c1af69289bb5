"""The window: a batch for every family that has a cache, decoder-only or T5-like, on any device.

Keys and values of all rows END at the same column; a row's padding lies on its left and is masked. So one token a row
is appended at one column for all, and the model is only told a plain 2-D mask and position ids, through its public
arguments. A row that leaves is replaced by the last one; when the columns are used up, everything is moved to the left,
or the window grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicLayer, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from .job import Job
from .network import Network
from .sampling import Sampler


class _Layer(CacheLayerMixin):
    """One decoder layer's part of a window, as the model's attention sees it."""

    is_sliding = False

    def __init__(self, window: Window, index: int) -> None:
        super().__init__()
        self._window, self._index = window, index
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing is left to be made."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_args: Any, **_more: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends, and gives all columns that any row uses."""
        window = self._window
        keys, values = window.keys[self._index], window.values[self._index]
        rows, columns = key_states.shape[0], key_states.shape[2]
        end = window.end + columns
        keys[:rows, :, window.end : end] = key_states
        values[:rows, :, window.end : end] = value_states
        return keys[:rows, :, window.base : end], values[:rows, :, window.base : end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(columns, offset) of the mask for that many further tokens."""
        return self.get_seq_length() + int(query_length), 0

    def get_seq_length(self) -> int:
        """Columns that the model sees before this forward."""
        return self._window.end - self._window.base

    def get_max_length(self) -> int:
        """No limit that the model should know of."""
        return -1

    get_max_cache_shape = get_max_length  # its name before transformers 5.20


class _Cross:
    """What the decoder looks up in the encoder's answer (T5-like), a row a chat, padded on the right."""

    def __init__(self, layers: int) -> None:
        self.layers = [DynamicLayer() for _ in range(layers)]
        self.mask = torch.empty(0)
        self._keys: list[torch.Tensor] = []
        self._values: list[torch.Tensor] = []
        self._widths: list[int] = []

    def join(self, row: int, other: _Cross, source: int) -> None:
        """Takes the row `source` of a prefilled group as the row `row`."""
        width = int(other.mask[source].sum())
        widest = max([width, *self._widths])
        for index, layer in enumerate(other.layers):
            if len(self._keys) <= index:
                self._keys.append(layer.keys[:0, :, :0])
                self._values.append(layer.values[:0, :, :0])
            self._keys[index] = _room(self._keys[index], row + 1, widest)
            self._values[index] = _room(self._values[index], row + 1, widest)
            self._keys[index][row, :, :width] = layer.keys[source, :, :width]
            self._values[index][row, :, :width] = layer.values[source, :, :width]
        self._widths.append(width)

    def replace(self, row: int, last: int) -> None:
        """Puts the last row into the hole."""
        if row != last:
            for tensor in (*self._keys, *self._values):
                tensor[row] = tensor[last]
            self._widths[row] = self._widths[last]
        self._widths.pop()

    def settle(self, rows: int, device: torch.device) -> None:
        """Shows the model the rows in use."""
        widest = max(self._widths, default=0)
        widths = torch.tensor(self._widths, device=device)[:, None]
        self.mask = (torch.arange(widest, device=device)[None] < widths).long()
        for layer, keys, values in zip(self.layers, self._keys, self._values, strict=True):
            layer.is_initialized = True
            layer.keys, layer.values = keys[:rows, :, :widest], values[:rows, :, :widest]


def _room(tensor: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The tensor [rows, heads, columns, size], grown with zeros where too small: padding must never hold a NaN."""
    have = tensor.shape
    if have[0] >= rows and have[2] >= columns:
        return tensor
    grown = tensor.new_zeros(max(rows, have[0]), have[1], max(columns, have[2]), have[3])
    grown[: have[0], :, : have[2]] = tensor
    return grown


class Window:
    """Rows of tokens with their cache. `max_rows` and `max_columns` bound it, `budget` its memory in rows x columns."""

    lookahead = 0  # a step's tokens are known when it is launched

    def __init__(self, network: Network, max_rows: int, max_context: int, budget: int) -> None:
        self.network = network
        self.max_rows = max_rows
        self._max_context = max_context
        self._max_columns = max_context + max(64, max_context // 4)  # so that moving to the left gains a good deal
        self._budget = budget
        self.jobs: list[Job] = []
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []
        self.end = self.base = 0
        self._starts: list[int] = []
        self._ids = torch.empty(0, dtype=torch.int64, device=network.device)
        self._sampler = Sampler(network.device)
        self._make_caches()

    def _make_caches(self) -> None:
        for heads, key, value in self.network.layers:
            empty = torch.empty(0, dtype=self.network.cache_dtype, device=self.network.device)
            self.keys.append(empty.new_zeros(0, heads, 0, key))
            self.values.append(empty.new_zeros(0, heads, 0, value))
        self.cache: Any = Cache(layers=[_Layer(self, index) for index in range(len(self.network.layers))])
        self.cross: _Cross | None = None
        if self.network.encoder_decoder:
            self.cross = _Cross(len(self.network.layers))
            self.cache = EncoderDecoderCache(self.cache, Cache(layers=list(self.cross.layers)))

    @property
    def bytes(self) -> int:
        """Memory that the cache holds now."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def fits(self, jobs: Sequence[Job]) -> bool:
        """Whether these chats, besides those that run, stay within rows and memory until their ends."""
        everyone = [*self.jobs, *jobs]
        widest = max(job.need() for job in everyone)
        columns = min(self._max_columns, 2 * widest)
        fitting = len(everyone) * columns <= self._budget or len(everyone) == 1  # alone: checked when it was taken
        return len(everyone) <= self.max_rows and fitting

    def longest(self) -> int:
        """The most columns that a single chat may need."""
        return min(self._max_context, self._budget)

    # --- the model's forward -----------------------------------------------------------------------------------------

    def feed(self, ids: torch.Tensor) -> torch.Tensor:
        """Appends ids [rows, columns] and gives the last column's logits [rows, vocabulary]."""
        rows, columns = ids.shape
        end = self.end + columns
        given: dict[str, Any] = {"past_key_values": self.cache}
        mask = self._mask[:rows, self.base : end]
        if self.cross is not None:
            hidden = torch.zeros(1, 1, 1, dtype=self.network.dtype, device=ids.device)
            hidden = hidden.expand(rows, self.cross.mask.shape[1], self.network.model.config.d_model)
            self.cache.is_updated = dict.fromkeys(range(len(self.keys)), True)
            given |= {"encoder_outputs": BaseModelOutput(last_hidden_state=hidden), "attention_mask": self.cross.mask}
            given |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        else:
            given |= {"input_ids": ids, "attention_mask": mask}
            if "position_ids" in self.network.takes:
                ahead = torch.arange(self.end, end, device=ids.device)
                given["position_ids"] = (ahead[None] - self._starts_tensor[:rows]).clamp_(min=0)
        logits = self.network.forward(**given)
        self.end = end
        return logits

    # --- rows come and go --------------------------------------------------------------------------------------------

    def join(self, jobs: Sequence[Job], group: Group, ids: torch.Tensor) -> None:
        """Takes the prefilled rows of these chats, with the first token of each (ids [rows of the group])."""
        for job in jobs:
            source = group.jobs.index(job)
            length = group.end - group.start(source)
            row = len(self.jobs)
            self._place(max(self.end, length))
            self._make_room(row + 1, self.end)
            for mine, theirs in self._pairs(group):
                mine[row, :, self.end - length : self.end] = theirs[source, :, group.end - length : group.end]
            if self.cross is not None and group.cross is not None:
                self.cross.join(row, group.cross, source)
            self.jobs.append(job)
            self._starts.append(self.end - length)
            self.base = min(self._starts)  # the next one to join may move every row
            self._ids = torch.cat([self._ids, ids[source : source + 1]])
        self._settle()

    def leave(self, job: Job) -> None:
        """Frees the chat's row; the last row takes its place."""
        row, last = self.jobs.index(job), len(self.jobs) - 1
        if row != last:
            for tensor in (*self.keys, *self.values):
                tensor[row, :, self._starts[last] : self.end] = tensor[last, :, self._starts[last] : self.end]
            self.jobs[row], self._starts[row] = self.jobs[last], self._starts[last]
            self._ids[row] = self._ids[last]
        self._ids = self._ids[:last]
        if self.cross is not None:
            self.cross.replace(row, last)
        self.jobs.pop()
        self._starts.pop()
        if not self.jobs:
            self.end = 0
        self._settle()

    def clear(self) -> None:
        """Forgets every row and gives the memory back."""
        self.jobs, self._starts, self.keys, self.values = [], [], [], []
        self.end = self.base = 0
        self._ids = self._ids[:0]
        self._make_caches()

    def launch(self) -> Step:
        """One more token for each row."""
        if self.end == self.keys[0].shape[2]:
            self._make_room(len(self.jobs), self.end + 1)
        jobs = tuple(self.jobs)
        self._ids = self._sampler(self.feed(self._ids[:, None]), jobs)
        for job in jobs:
            job.launched += 1
        return Step(jobs, self._ids)

    def _pairs(self, other: Group) -> zip[tuple[torch.Tensor, torch.Tensor]]:
        return zip((*self.keys, *self.values), (*other.window.keys, *other.window.values), strict=True)

    def _place(self, end: int) -> None:
        """Moves every row so that all end at that column."""
        if end == self.end:
            return
        move = end - self.end
        self._make_room(len(self.jobs), end, compact=False)
        if self.jobs:
            for tensor in (*self.keys, *self.values):
                rows = slice(0, len(self.jobs))
                tensor[rows, :, self.base + move : end] = tensor[rows, :, self.base : self.end].clone()
        self._starts = [start + move for start in self._starts]
        self.base = min(self._starts, default=end)
        self.end = end

    def _make_room(self, rows: int, columns: int, *, compact: bool = True) -> None:
        """Makes room for so many rows and columns: by moving left where that gains a quarter, else by growing."""
        have = self.keys[0].shape
        worth = self.base if have[2] >= self._max_columns else self.base - have[2] // 4
        if compact and columns > have[2] and self.jobs and worth > 0:
            gain = self.base
            self._place(self.end - gain)
            self._settle()
            columns -= gain
        if rows > have[0] or columns > have[2]:
            if rows > have[0]:
                rows = min(max(rows, 2 * have[0]), self.max_rows)
            if columns > have[2]:
                columns = max(columns, min(max(256, 2 * have[2]), self._max_columns))
            for index in range(len(self.keys)):
                self.keys[index] = _room(self.keys[index], rows, columns)
                self.values[index] = _room(self.values[index], rows, columns)
            self._settle()

    def _settle(self) -> None:
        """What follows from the rows' starts."""
        device = self.network.device
        self._starts_tensor = torch.tensor(self._starts, dtype=torch.int64, device=device)[:, None]
        columns = self.keys[0].shape[2]
        self._mask = (torch.arange(columns, device=device)[None] >= self._starts_tensor).long()
        self.base = min(self._starts, default=0)
        if self.cross is not None and self.jobs:
            self.cross.settle(len(self.jobs), device)


class Step:
    """A launched step: whose tokens it makes, and the tokens."""

    def __init__(self, jobs: tuple[Job, ...], ids: torch.Tensor) -> None:
        self.jobs = jobs
        self._ids = ids

    def tokens(self) -> list[int]:
        """The token ids, one a chat; waits until they are computed."""
        values: list[int] = self._ids.tolist()
        return values


class Group:
    """Chats being prefilled together, in pieces, so that those that already decode need not wait long.

    Their prompts are padded on the left to one length; what they wrote before a failed step counts as prompt.
    """

    def __init__(self, network: Network, jobs: Sequence[Job]) -> None:
        self.jobs = list(jobs)
        self._network = network
        self._texts = [
            (job.prompt if job.decoder_start is None else [job.decoder_start]) + job.produced for job in self.jobs
        ]
        self.columns = max(map(len, self._texts))
        self.window = Window(network, len(self.jobs), self.columns, len(self.jobs) * self.columns)
        window = self.window
        for index in range(len(window.keys)):
            window.keys[index] = _room(window.keys[index], len(self.jobs), self.columns)
            window.values[index] = _room(window.values[index], len(self.jobs), self.columns)
        self._starts = [self.columns - len(text) for text in self._texts]
        padded = [[0] * start + text for start, text in zip(self._starts, self._texts, strict=True)]
        self._ids = torch.tensor(padded, dtype=torch.int64, device=network.device)
        starts = torch.tensor(self._starts, device=network.device)[:, None]
        window._starts_tensor = starts
        window._mask = (torch.arange(self.columns, device=network.device)[None] >= starts).long()
        self.logits = torch.empty(0)

    @property
    def cross(self) -> _Cross | None:
        """What the decoder looks up in the encoder's answer, once `advance` began."""
        return self.window.cross

    @property
    def end(self) -> int:
        """Columns that are done."""
        return self.window.end

    def start(self, row: int) -> int:
        """First column of the row's text."""
        return self._starts[row]

    def advance(self, tokens: int) -> bool:
        """Prefills about so many further tokens. True when all is done: `logits` has each row's next-token logits."""
        columns = max(1, min(tokens // len(self.jobs), self.columns - self.end))
        ids = self._ids[:, self.end : self.end + columns]
        if self.window.cross is not None and self.end == 0:
            self.logits = self._feed_first(ids)
        else:
            self.logits = self.window.feed(ids)
        return self.end == self.columns

    def _feed_first(self, ids: torch.Tensor) -> torch.Tensor:
        """Runs the encoder, and the decoder's first columns, which look the encoder's answer up for good."""
        window = self.window
        cross = window.cross or _Cross(0)
        widest = max(len(job.prompt) for job in self.jobs)
        device = self._network.device
        texts = torch.tensor([job.prompt + [0] * (widest - len(job.prompt)) for job in self.jobs], device=device)
        lengths = torch.tensor([len(job.prompt) for job in self.jobs], device=device)[:, None]
        cross.mask = (torch.arange(widest, device=device)[None] < lengths).long()
        encoded = self._network.model.get_encoder()(input_ids=texts, attention_mask=cross.mask)
        logits = self._network.forward(
            encoder_outputs=encoded,
            attention_mask=cross.mask,
            decoder_input_ids=ids,
            decoder_attention_mask=window._mask[:, : ids.shape[1]],
            past_key_values=window.cache,
        )
        window.end = ids.shape[1]
        return logits
