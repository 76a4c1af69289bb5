"""Puts the engine together: loads the model, chooses how it is served and proves it, and takes requests.

Threads: Triton's own calls `take`; one thread turns requests into chats (`prompt`), one decodes (`scheduler`), one
sends (`sender`).
"""

from __future__ import annotations

import gc
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from . import attention
from .errors import RequestError, internal, queue_full, shutting_down
from .job import Reply
from .loading import NAMES, CannotLoad, Loaded, described, load
from .metrics import Metrics
from .network import Network, Unsupported, free_memory
from .prompt import Limits, Prompter
from .request import Ask, Message
from .scheduler import Scheduler, Serial
from .selftest import passes
from .sender import Sender
from .settings import Settings
from .slots import Slots
from .template import Template
from .window import Window

GPU_ROWS, CPU_ROWS = 32, 16
PIECE_S = 0.03  # how long those that run may wait for a piece of a newcomer's prompt, on a CPU
GPU_PIECE = 2048  # prompt tokens a piece on a GPU
CACHE_SHARE = {"cuda": 0.8, "cpu": 0.4}  # of the memory that is free once the model is loaded
DRAIN_S = 20.0
SELFTEST_ROWS, SELFTEST_COLUMNS = 8, 64


class Engine:
    """One model, served. `log(line)` writes to Triton's log; `families` is Triton's MetricFamily or None."""

    def __init__(
        self, settings: Settings, families: Any, labels: dict[str, str], log: Callable[[str], None] = print
    ) -> None:
        began = time.monotonic()
        self._settings, self._log = settings, log
        attention.install()
        loaded = load(settings, log)
        weights = _used(loaded)
        self.metrics = Metrics(families, labels, lambda: (self._worker.active, self.waiting))
        self.sender = Sender(loaded.tokenizer, self.metrics, log)
        self._mode, self._why, self._cache_bytes = "", "", 0
        self._worker = self._choose(loaded)
        longest = loaded.context
        if isinstance(self._worker, Scheduler):
            longest = min(longest, self._worker.batch.longest())  # type: ignore[attr-defined]
        self._template = self._make_template(loaded)
        vocabulary = loaded.model.get_input_embeddings().num_embeddings
        limits = Limits(longest, min(settings.max_new_tokens_cap or longest, longest))
        self._prompter = Prompter(
            loaded.tokenizer,
            self._template,
            vocabulary,
            limits,
            loaded.defaults,
            settings.queue_timeout_s,
            loaded.decoder_start,
            loaded.eos,
        )
        self._asked: queue.SimpleQueue[tuple[Ask, Reply, float, float | None] | None] = queue.SimpleQueue()
        self._preparing = 0
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, name="slipway-prompt", daemon=True)
        self._closed = False
        self.facts = self._facts(loaded, weights, limits, time.monotonic() - began)
        self._tell(loaded)

    # --- requests ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to serve."""
        gc.collect()
        gc.freeze()  # what was loaded stays: later collections need not walk over it
        sys.setswitchinterval(0.001)  # a newcomer's thread waits that long for each turn of Python's lock
        self.sender.start()
        self._worker.start()
        self._reader.start()

    @property
    def waiting(self) -> int:
        """Requests without a place in the batch."""
        return self._preparing + self._worker.queued

    def take(self, ask: Ask, reply: Reply, timeout_s: float | None = None) -> None:
        """Takes a checked request; its answer goes to `reply`. Raises RequestError when the queue is full."""
        with self._lock:
            if self._closed:
                raise shutting_down()
            if self.waiting + self._worker.active >= self._worker.max_rows + self._settings.queue_limit:
                raise queue_full(self._settings.queue_limit)
            self._preparing += 1
        self._asked.put((ask, reply, time.monotonic(), timeout_s))

    def _read(self) -> None:
        if self._template is not None:
            self._try_template(self._template)
        while (item := self._asked.get()) is not None:
            ask, reply, arrived, timeout_s = item
            try:
                job = self._prompter.job(ask, reply, arrived, timeout_s)
                self.metrics.accepted(len(job.prompt))
                self.sender.add(job)
                try:
                    self._worker.submit(job)
                except RequestError as error:
                    job.end = error
            except RequestError as error:
                self.refuse(reply, error)
            except Exception as error:
                self._log(f"a request could not be prepared: {traceback.format_exc().strip()}")
                self.refuse(reply, internal(error))
            finally:
                with self._lock:
                    self._preparing -= 1

    def _try_template(self, template: Template) -> None:
        """Starts the template's process before the first conversation needs it, and says when it fails."""
        try:
            template.render((Message("user", "Hello"),))
        except RequestError as error:
            self._log(f"a trial of the chat template failed: {error.en}")

    def refuse(self, reply: Reply, error: RequestError) -> None:
        """Answers a request that never became a chat."""
        self.metrics.refused()
        reply.error(error)

    def close(self, patience_s: float = DRAIN_S) -> None:
        """Takes no more, lets what runs come to its end for so long, then ends it; stops every thread and process."""
        with self._lock:
            self._closed = True
        self._asked.put(None)
        self._reader.join()
        self._worker.close(patience_s)
        self.sender.close()
        if self._template is not None:
            self._template.close()

    # --- how it is served --------------------------------------------------------------------------------------------

    def _choose(self, loaded: Loaded) -> Scheduler | Serial:
        """The best way that is proven right for this model: slots with graphs, window, or one at a time."""
        try:
            if loaded.independent is not None and loaded.context > loaded.independent:
                raise Unsupported(
                    f"beyond {loaded.independent} tokens its rotary embedding follows the longest chat of a batch"
                )
            network = Network(loaded.model)
            batch = self._slots(network, loaded) or self._window(network, loaded)
        except Unsupported as reason:
            batch, self._why = None, str(reason)
        except Exception as error:
            self._log(f"the self-test failed: {traceback.format_exc().strip()}")
            batch, self._why = None, f"the self-test failed ({type(error).__name__}: {error})"
        if batch is None:
            self._mode = "single"
            return Serial(loaded.model, loaded.eos, self.sender.wake, self._log)
        self._cache_bytes = batch.bytes
        return Scheduler(network, batch, _piece(network, batch), loaded.eos, self.sender.wake, self._log)

    def _rows(self, device: torch.device) -> int:
        return self._settings.max_rows or (GPU_ROWS if device.type == "cuda" else CPU_ROWS)

    def _slots(self, network: Network, loaded: Loaded) -> Slots | None:
        if network.device.type != "cuda" or not self._settings.cuda_graphs:
            return None
        rows, columns = self._rows(network.device), loaded.context
        budget = _budget(network)
        while rows > 1 and rows * columns > budget:
            rows //= 2
        if rows * columns > budget:
            return None
        try:
            wrong = passes(network, lambda: Slots(network, SELFTEST_ROWS, SELFTEST_COLUMNS), loaded.decoder_start)
            if wrong:
                raise Unsupported(wrong)
            slots = Slots(network, rows, columns)
        except Exception as reason:  # whatever the model does with a 4-D mask: the window asks less of it
            self._why = f"no CUDA graphs: {reason}"
            return None
        try:
            with torch.inference_mode():
                slots.capture()
            self._mode = "slots"
        except RuntimeError as error:
            slots.drop_graphs()
            self._mode, self._why = "slots-eager", f"no CUDA graphs: {error}"
        return slots

    def _window(self, network: Network, loaded: Loaded) -> Window | None:
        def make() -> Window:
            return Window(network, SELFTEST_ROWS, SELFTEST_COLUMNS, SELFTEST_ROWS * SELFTEST_COLUMNS * 4)

        wrong = passes(network, make, loaded.decoder_start)
        if wrong:
            self._why = f"the self-test found that in a batch {wrong}"
            return None
        self._mode = "window"
        return Window(network, self._rows(network.device), loaded.context, _budget(network))

    def _make_template(self, loaded: Loaded) -> Template | None:
        if self._settings.template == "raw" or loaded.chat_template is None:
            return None
        tokens = loaded.tokenizer.special_tokens_map
        return Template(loaded.chat_template, {name: text for name, text in tokens.items() if isinstance(text, str)})

    # --- what is said about it ---------------------------------------------------------------------------------------

    def _facts(self, loaded: Loaded, weights: int, limits: Limits, seconds: float) -> dict[str, object]:
        model = loaded.model
        peak = torch.cuda.max_memory_allocated(model.device) if model.device.type == "cuda" else _peak_rss()
        return {
            "device": str(model.device),
            "device_name": torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else "CPU",
            "dtype": NAMES.get(model.dtype, str(model.dtype)),
            "batching": self._mode,
            "why": self._why,
            "rows": self._worker.max_rows,
            "context": limits.context,
            "new_tokens": limits.new_tokens,
            "parameters": loaded.parameters,
            "weights_mib": round(weights / 2**20, 1),
            "cache_mib": round(self._cache_bytes / 2**20, 1),
            "peak_mib": round(peak / 2**20, 1),
            "threads": torch.get_num_threads(),
            "chat_template": self._template is not None,
            "load_s": round(seconds, 2),
        }

    def _tell(self, loaded: Loaded) -> None:
        facts = self.facts
        ways = {
            "slots": "decodes chats together with CUDA graphs",
            "slots-eager": "decodes chats together",
            "window": "decodes chats together",
            "single": "answers one chat at a time",
        }
        self._log(
            f"{loaded.model.config.model_type} on {facts['device_name']} as {facts['dtype']}: {ways[self._mode]}, "
            f"up to {facts['rows']} at once, {facts['context']} tokens each; weights {facts['weights_mib']} MiB, "
            f"cache {facts['cache_mib']} MiB, loaded in {facts['load_s']} s"
        )
        if self._why:
            self._log(f"why so: {self._why}")
        print(described(facts), flush=True)  # past Triton's logger, which would quote the quotes
        self.metrics.describe(
            {name: str(facts[name]) for name in ("device", "dtype", "batching", "rows", "context")} | {"why": self._why}
        )


def _budget(network: Network) -> int:
    """Rows x columns of cache that may be used, from the memory that is free now."""
    if network.device.type == "cuda":
        torch.cuda.empty_cache()
    return int(free_memory(network.device) * CACHE_SHARE[network.device.type]) // network.token_bytes


def _piece(network: Network, batch: Any) -> int:
    """Prompt tokens to prefill between two steps: measured on a CPU, so that a piece takes about PIECE_S."""
    if network.device.type == "cuda":
        return GPU_PIECE
    from .job import Choice, Job
    from .window import Group

    size = min(32, batch.longest() - 1)
    times = []
    with torch.inference_mode():
        for _ in range(3):
            start = 0 if network.encoder_decoder else None
            group = Group(network, [Job([5] * size, 1, Choice(), None, decoder_start=start)])  # type: ignore[arg-type]
            began = time.perf_counter()
            group.advance(size)
            times.append(time.perf_counter() - began)
    return max(16, min(1024, int(PIECE_S / min(times) * size)))


def _used(loaded: Loaded) -> int:
    tensors = {id(t): t.nbytes for t in (*loaded.model.parameters(), *loaded.model.buffers())}
    return sum(tensors.values())


def _peak_rss() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


__all__ = ["CannotLoad", "Engine"]
