"""A server that can be talked to, whoever started it; and what the files of an unknown one say of its tensors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backends.spec import Endpoint, EngineName, Frozen
from backends.text import Text

_MANY = "1048576"  # a server that others started does not tell what its engine was built for
_CORE = {"input_ids", "INPUT_IDS", "decoder_input_ids"}


class Server(Frozen):
    """Where and how to talk. `told` is what the engine's tensors must know of the deployment."""

    id: str
    name: str
    engine: EngineName
    model: str
    endpoint: Endpoint
    told: dict[str, str] = {}
    ours: bool = True  # False: watched by address


class Spoken(Frozen):
    """The engine whose tensors a model speaks, and what those must know."""

    engine: EngineName
    told: dict[str, str] = {}


def spoken(config: Mapping[str, Any]) -> Spoken | Text:
    """How to talk to a model, by Triton's own configuration of it; or why Slipway cannot.

    Sources: the inputs of vllm_backend, of tensorrtllm_backend's models and of TensorRT-LLM's LLM API model.
    """
    name = str(config.get("name", "?"))
    inputs = {str(one.get("name")): one for one in _parts(config.get("input"))}
    outputs = {str(one.get("name")) for one in _parts(config.get("output"))}
    if {"text_input", "messages"} <= inputs.keys() and "finish_reason" in outputs:
        return Spoken(engine="transformers", told={"bans": str("bad_words" in inputs).lower()})
    if {"text_input", "sampling_parameters"} <= inputs.keys():
        tells = str("return_finish_reason" in inputs).lower()
        return Spoken(engine="vllm", told={"template": "raw", "new_tokens": _MANY, "tells": tells})
    decoupled = bool((config.get("model_transaction_policy") or {}).get("decoupled"))
    if {"text_input", "sampling_param_max_tokens"} <= inputs.keys():
        return Spoken(engine="tensorrt_llm", told=_tensorrt_llm("llmapi", decoupled))
    if {"text_input", "max_tokens"} <= inputs.keys():
        if "bad_words" in inputs and not inputs["bad_words"].get("optional") and config.get("platform") == "ensemble":
            kind = "0.5-text"
        else:
            kind = "bls" if str(config.get("backend")) == "python" else "ensemble"
            kind = f"{kind}-seed" if "seed" in inputs else kind
        told = _tensorrt_llm(kind, decoupled or kind.startswith("ensemble"))
        excludes = {"excludes": "true"} if "exclude_input_in_output" in inputs else {}
        return Spoken(engine="tensorrt_llm", told=told | excludes)
    if _CORE & inputs.keys():
        return Text(
            en=f"The model “{name}” takes token ids, and its tokenizer is not known here. Name its ensemble instead.",
            zh=f"模型“{name}”只接受 token id，此处没有它的分词器。请改填其 ensemble 模型。",
        )
    return Text(
        en=f"The model “{name}” takes other tensors than any chat that Slipway knows.",
        zh=f"模型“{name}”的张量不是 Slipway 已知的对话接口。",
    )


def _tensorrt_llm(interface: str, streams: bool) -> dict[str, str]:
    return {
        "interface": interface,
        "template": "raw",
        "new_tokens": _MANY,
        "context": _MANY,
        "streams": str(streams).lower(),
    }


def _parts(value: object) -> Sequence[Mapping[str, Any]]:
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []
