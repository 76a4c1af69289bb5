"""A loaded model as the batches see it: what its forward takes, the shape of its cache, what a token costs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer


class Unsupported(Exception):
    """This model cannot be decoded in a shared batch; it is served one at a time. Says why."""


class Network:
    """A model and the facts about it that decoding depends on. Raises Unsupported for caches that are not per token.

    `layers` has (heads, key size, value size) of each decoder layer's self-attention, read off a forward of one token.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = model.device
        self.dtype: torch.dtype = model.dtype
        self.encoder_decoder = bool(model.config.is_encoder_decoder)
        self.takes = frozenset(inspect.signature(model.forward).parameters)
        with torch.inference_mode():
            token = torch.zeros(1, 1, dtype=torch.int64, device=self.device)
            given = {"decoder_input_ids": token} if self.encoder_decoder else {}
            cache = getattr(model(input_ids=token, use_cache=True, **given), "past_key_values", None)
        cache = getattr(cache, "self_attention_cache", cache)
        layers = getattr(cache, "layers", None)
        if not layers or any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
            raise Unsupported(f"the cache of {model.config.model_type} is not one key and one value a token and layer")
        self.layers = tuple((layer.keys.shape[1], layer.keys.shape[3], layer.values.shape[3]) for layer in layers)
        self.cache_dtype: torch.dtype = layers[0].keys.dtype
        self.token_bytes = sum(heads * (key + value) for heads, key, value in self.layers) * self.cache_dtype.itemsize
        self.sliding = any(layer.is_sliding for layer in layers)

    @property
    def uniform(self) -> bool:
        """Whether all layers' keys and values have one shape."""
        heads, key, value = self.layers[0]
        return key == value and all(layer == (heads, key, value) for layer in self.layers)

    def forward(self, **given: Any) -> torch.Tensor:
        """Logits of the last column, [rows, vocabulary], in the model's dtype."""
        if "logits_to_keep" in self.takes:
            given["logits_to_keep"] = 1
        logits: torch.Tensor = self.model(use_cache=True, return_dict=True, **given).logits[:, -1]
        return logits


def free_memory(device: torch.device) -> int:
    """Bytes that may be taken: of the GPU, or of this machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return available(Path("/proc/meminfo").read_text())


def available(told: str) -> int:
    """Bytes that programs can have without swapping, as Linux tells it: the files that it keeps in memory give way, and
    after some days they fill nearly all of it. Source: proc_meminfo(5), MemAvailable."""
    return next(int(line.split()[1]) << 10 for line in told.splitlines() if line.startswith("MemAvailable:"))
