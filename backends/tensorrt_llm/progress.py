"""How far a conversion or an engine build is, from the lines that it prints. Pure.

Lines of 0.5.0: examples/llama/{build,weight}.py, tensorrt_llm/builder.py; of later versions: commands/build.py and the
convert scripts. While TensorRT itself builds, no line tells how far it is: the stage is named and time passes.
"""

from __future__ import annotations

import re

from backends.progress import Told
from backends.spec import Frozen
from backends.text import Text


class _Stage(Frozen):
    """A line that begins a stage: where that lies within one rank's work, from 0 to 1."""

    pattern: str
    text: Text
    at: float


_STAGES = (
    _Stage(pattern=r"(Serially|Parallelly) build TensorRT engines", text=Text(en="Starting", zh="准备"), at=0.0),
    _Stage(pattern=r"Loading HF .*\bfrom\b|Loading checkpoint shards", text=Text(en="Loading the model", zh="加载模型"),
           at=0.02),
    _Stage(pattern=r"HF \w+ loaded", text=Text(en="Model loaded", zh="模型已加载"), at=0.15),
    _Stage(pattern=r"(?i)calibrat(ing|ion)|Starting quantization", text=Text(en="Calibrating", zh="校准"), at=0.2),
    _Stage(pattern=r"Loading weights from|Process weights in layer|Weight conversion", text=Text(en="Reading weights",
           zh="读取权重"), at=0.18),
    _Stage(pattern=r"Weights loaded\. Total time|Total time of reading and converting|Quantization done", text=Text(
           en="Weights read", zh="权重已读取"), at=0.4),
    _Stage(pattern=r"Build TensorRT engine |Building TensorRT engine|Set \w+_plugin to |Compiler: ", text=Text(
           en="TensorRT builds", zh="TensorRT 构建中"), at=0.45),
    _Stage(pattern=r"Total time of building (?!all)\S", text=Text(en="Engine built", zh="引擎已构建"), at=0.9),
    _Stage(pattern=r"Serializing engine to|Timing cache serialized|Config saved to", text=Text(en="Writing the engine",
           zh="写入引擎"), at=0.92),
    _Stage(pattern=r"Engine serialized", text=Text(en="Engine written", zh="引擎已写入"), at=1.0),
)  # fmt: skip
_PATTERNS = tuple((re.compile(stage.pattern), stage) for stage in _STAGES)
_NAME = re.compile(r"_tp(\d+)(?:_pp(\d+))?_rank(\d+)\.engine|\brank(\d+)\.engine")
_PERCENT = re.compile(r"(?:^|[\s:])(\d{1,3})%\|")  # tqdm's bars
_ENDED = re.compile(
    r"Total time of building all( \d+)? engines|Total time of converting checkpoints|Quantized model exported to"
)
_SPAN = {"Loading the model": (0.02, 0.15), "Calibrating": (0.2, 0.4), "Reading weights": (0.18, 0.4)}


class Reader:
    """Reads one command's lines in order. `ranks`: engines to build, where the plan knows; else from their names."""

    def __init__(self, ranks: int = 1) -> None:
        self._ranks = max(1, ranks)
        self._rank = 0
        self._stage: _Stage | None = None
        self._far = 0.0

    def read(self, line: str) -> Told | None:
        """What a line tells: a stage, a fraction, both; None: nothing new. A fraction never goes back."""
        if _ENDED.search(line):
            self._far = 1.0
            return Told(text=Text(en="Done", zh="完成"), fraction=1.0)
        self._named(line)
        stage = next((stage for pattern, stage in _PATTERNS if pattern.search(line)), None)
        if stage is not None and stage != self._stage:
            if self._stage is not None and stage.at < self._stage.at and self._stage.at >= 0.9:
                self._rank = min(self._rank + 1, self._ranks - 1)  # the next rank begins where the last one ended
            self._stage = stage
            return self._told(stage.at)
        percent = _PERCENT.search(line)
        if percent is not None and self._stage is not None and self._stage.text.en in _SPAN:
            low, high = _SPAN[self._stage.text.en]
            return self._told(low + (high - low) * min(100, int(percent.group(1))) / 100)
        return None

    def _named(self, line: str) -> None:
        """An engine's file name tells how many ranks there are, and which one this is."""
        found = _NAME.search(line)
        if found is None:
            return
        if found.group(1) is not None:
            self._ranks = max(self._ranks, int(found.group(1)) * int(found.group(2) or 1))
        rank = int(found.group(3) or found.group(4) or 0)
        self._rank = max(self._rank, min(rank, self._ranks - 1))

    def _told(self, within: float) -> Told | None:
        if self._stage is None:
            return None
        far = (self._rank + within) / self._ranks
        self._far = max(self._far, min(far, 0.99))
        text = self._stage.text
        if self._ranks > 1:
            which = f" {self._rank + 1}/{self._ranks}"
            text = Text(en=f"{text.en}, rank{which}", zh=f"{text.zh}，进程{which}")
        return Told(text=text, fraction=round(self._far, 3))
