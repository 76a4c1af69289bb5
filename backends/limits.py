"""What each engine asks of a GPU, a tag and a precision. The data is assets/engine_limits.toml; pure."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from functools import cache
from typing import Any, Literal

from backends import releases, tables
from backends.gpus import Card
from backends.spec import EngineName, Frozen
from backends.text import Text

Standing = Literal["tested", "untested", "not_advised", "doubtful", "refused"]


class Flow(Frozen):
    """One way to build FasterTransformer: the release to build in, for which model families and SMs."""

    release: str
    families: tuple[str, ...]
    sm: tuple[int, ...]
    why: Text

    @property
    def tag(self) -> str:
        return f"{self.release}-py3"


def flows(family: str | None) -> tuple[Flow, ...]:
    """FasterTransformer's ways for a model family (config.json's model_type), best first. None: for LLaMA."""
    return tuple(flow for flow in _flows() if (family or "llama") in flow.families)


def families() -> tuple[str, ...]:
    """The model families that FasterTransformer can be built for."""
    return tuple(dict.fromkeys(family for flow in _flows() for family in flow.families))


def standing(engine: str, sm: int, version: str | None) -> tuple[Standing, Text | None]:
    """How an engine's version stands to an SM, and the words for all but "tested".

    `version` None: the row that names no version. "tested" also where the data says nothing against it.
    """
    have = tables.version(_numbers(version)) if version else None
    for row in _data().get(engine, {}).get("sm", ()):
        if sm not in row["sm"]:
            continue
        if have is not None and "from" in row and have < tables.version(row["from"]):
            continue
        if have is not None and "before" in row and have >= tables.version(row["before"]):
            continue
        return row["standing"], Text(en=row["en"], zh=row["zh"]) if "en" in row else None
    return "tested", None


def precision(engine: EngineName, name: str, cards: Iterable[Card]) -> Text | None:
    """Why an engine cannot use a precision ("bf16", "int8", "int4", "fp8") on these GPUs; None where it can."""
    rule: dict[str, Any] = _data().get(engine, {}).get("precision", {}).get(name, {})
    if rule.get("never"):
        return Text(en=f"{LABEL[engine]} has no {name} weights.", zh=f"{LABEL[engine]} 没有 {name} 权重。")
    for card in cards:
        low, high = rule.get("from", 0), rule.get("to", 1000)
        if card.sm < low:
            return Text(
                en=f"{name} needs SM {_dotted(low)} or later in {LABEL[engine]}; {card.name} is SM {card.capability}.",
                zh=f"{LABEL[engine]} 的 {name} 需要 SM {_dotted(low)} 及以上；{card.name} 为 SM {card.capability}。",
            )
        if card.sm > high:
            return Text(
                en=f"{LABEL[engine]} has no {name} kernels beyond SM {_dotted(high)}; "
                f"{card.name} is SM {card.capability}.",
                zh=f"{LABEL[engine]} 在 SM {_dotted(high)} 以上没有 {name} 内核；{card.name} 为 SM {card.capability}。",
            )
    return None


def tensorrt_ends(sm: int) -> str | None:
    """The last release whose TensorRT backend serves this SM; None where it still does."""
    rows = _data()["tensorrt"]["sm"]
    return next((str(row["last_release"]) for row in rows if sm in row["sm"]), None)


def transformers_python() -> str:
    """The oldest Python that the transformers engine runs in."""
    return str(_data()["transformers"]["python"])


LABEL: dict[str, str] = {
    "transformers": "transformers",
    "fastertransformer": "FasterTransformer",
    "tensorrt_llm": "TensorRT-LLM",
    "vllm": "vLLM",
}


def _numbers(version: str) -> str:
    """The leading numbers of a version: "0.17.0.post1" -> "0.17.0"."""
    parts = []
    for part in version.split("."):
        if not part.isdigit():
            break
        parts.append(part)
    return ".".join(parts) or "0"


def _dotted(sm: int) -> str:
    return f"{sm // 10}.{sm % 10}"


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads((tables.ASSETS / "engine_limits.toml").read_text(encoding="utf-8"))


@cache
def _flows() -> tuple[Flow, ...]:
    return tuple(
        Flow(
            release=row["release"],
            families=tuple(row["families"]),
            sm=tuple(row["sm"]),
            why=Text(en=row["en"], zh=row["zh"]),
        )
        for row in _data()["fastertransformer"]["flow"]
    )


def problems() -> list[str]:
    """What is not consistent in the engines' data: tags and SMs that the other tables lack. One line each."""
    table = releases.load()
    tags = {image.tag for image in table.images}
    found = [f"engine_limits.toml: there is no {flow.tag} in releases.csv" for flow in _flows() if flow.tag not in tags]
    for engine in LABEL:
        for row in _data()[engine].get("sm", ()):
            strange = [sm for sm in row["sm"] if sm not in table.support]
            found += [f"engine_limits.toml: drivers.toml does not know SM {sm} of {engine}" for sm in strange]
    return found
