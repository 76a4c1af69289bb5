"""How far FasterTransformer's long commands are, by the lines that they print. Pure.

The converters and the build print these lines themselves: huggingface_llama_convert.py, both GPT-J converters,
huggingface_t5_ckpt_convert.py, gpt_gemm and t5_gemm, cmake and make, pip.
"""

from __future__ import annotations

import re

from backends.progress import Told
from backends.text import Text

_LAYERS = re.compile(r"""['"](?:num_hidden_layers|n_layer|num_layers)['"]: (\d+)""")
_LLAMA = re.compile(r"^(?:converting|done) layer (\d+)$")
_GPTJ = re.compile(r"^Saving layer (\d+) / (\d+)$")
_SHARD = re.compile(r"^loading shards for part (\d+)$")
_LOADING = re.compile(r"Loading (?:checkpoint shards|weights)[^|]*?(\d+)%\|")
_MAKE = re.compile(r"^\[ *(\d+)%\] (Building|Linking|Built|Generating)")
_READING = re.compile(r"^reading (\S+)$")
_SPEND = re.compile(r"Spend .* to convert the model")
_GEMM = re.compile(r"^GEMM test (\d+): ")
_LOAD_SHARE = 0.3  # of a conversion that reading the checkpoint takes, roughly


class Reader:
    """Reads the lines of one conversion, build or measurement."""

    def __init__(self) -> None:
        self._layers: int | None = None
        self._far = 0.0

    def read(self, line: str) -> Told | None:
        """What the line tells, if it tells something. A fraction never goes back: two jobs of make may say theirs in
        either order."""
        told = self._read(line)
        if told is None or told.fraction is None:
            return told
        self._far = max(self._far, told.fraction)
        return told.model_copy(update={"fraction": self._far})

    def _read(self, line: str) -> Told | None:
        if line.startswith("hf_config:") and (found := _LAYERS.search(line)):
            self._layers = int(found.group(1))
            return _told("Checkpoint read", "检查点已读取", _LOAD_SHARE)
        if found := _LLAMA.match(line):
            return self._layer(int(found.group(1)) + line.startswith("done"), self._layers)
        if found := _GPTJ.match(line):
            return self._layer(int(found.group(1)), int(found.group(2)))
        if found := _LOADING.search(line):
            share = int(found.group(1)) / 100
            return _told("Reading the checkpoint", "读取检查点", _LOAD_SHARE * share)
        if found := _MAKE.match(line):
            return _told("Compiling", "编译中", int(found.group(1)) / 100)
        if _SHARD.match(line) or _READING.match(line) or line.startswith("loading"):
            return _told("Reading the checkpoint", "读取检查点", None)
        if _SPEND.search(line):
            return _told("Converted", "转换完成", 1.0)
        if found := _GEMM.match(line):
            number = int(found.group(1)) + 1
            return _told(f"Measuring matrix product {number}", f"实测第 {number} 种矩阵乘法", None)
        return None

    def _layer(self, done: int, layers: int | None) -> Told:
        if not layers:
            return _told(f"Layer {done}", f"第 {done} 层", None)
        share = _LOAD_SHARE + (1 - _LOAD_SHARE) * min(done, layers) / layers
        return _told(f"Layer {done} of {layers}", f"第 {done} 层，共 {layers} 层", share)


def _told(en: str, zh: str, fraction: float | None) -> Told:
    return Told(text=Text(en=en, zh=zh), fraction=fraction)
