"""Loads a model folder: device, number format, weights, tokenizer, end tokens, and how it likes to be sampled."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from . import rope
from .network import free_memory
from .prompt import Defaults
from .settings import Settings

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
CONTEXT = 4096  # tokens of context where the person sets none and the model allows more
SMALL = 30_000_000  # parameters below which a second thread costs more than it brings


@dataclass(frozen=True)
class Loaded:
    """A model ready to run, and what its files say."""

    model: Any
    tokenizer: Any
    eos: frozenset[int]
    defaults: Defaults
    context: int
    independent: int | None  # tokens of context up to which a batch's rows do not change each other; None: always
    chat_template: str | None
    decoder_start: int | None
    parameters: int


class CannotLoad(Exception):
    """The model cannot be served. Says why and what to do."""


def load(settings: Settings, log: Callable[[str], None]) -> Loaded:
    """Loads the model. Raises CannotLoad."""
    folder = Path(settings.model_dir)
    if not (folder / "config.json").is_file():
        raise CannotLoad(f"{folder} is not a model folder: it has no config.json")
    if not settings.trust_remote_code:
        os.environ["HF_HUB_OFFLINE"] = "1"  # everything lies in the folder
    _check_weights(folder, settings)
    common = {"trust_remote_code": settings.trust_remote_code, "local_files_only": not settings.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **common)
        device = choose_device(settings.device)
        dtype = choose_dtype(settings.dtype, _configured_dtype(config), device, _weights_bytes(folder))
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        log(f"loading {config.model_type} from {folder} to {device} as {NAMES[dtype]}")
        model, told = kind.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=not _only_pickle(folder),
            output_loading_info=True,
            **common,
        )
        _check_complete(folder, told)
        tokenizer = AutoTokenizer.from_pretrained(folder, **common)
    except CannotLoad:
        raise
    except Exception as error:
        hint = (
            "" if settings.trust_remote_code else " (code that comes with a model is not run: trust_remote_code is off)"
        )
        raise CannotLoad(f"{folder} cannot be loaded: {type(error).__name__}: {error}{hint}") from error
    if device.type == "cuda":
        torch.cuda.set_device(device)
    model = model.to(device).eval()
    parameters = sum(weight.numel() for weight in model.parameters())
    positions = _positions(config)
    _set_threads(settings.threads, parameters, device)
    return Loaded(
        model=model,
        tokenizer=tokenizer,
        eos=_end_tokens(model, tokenizer),
        defaults=_defaults(model.generation_config),
        context=_context(config, positions, settings.max_context),
        independent=None if positions is None else rope.bound(config.get_text_config(), positions),
        chat_template=getattr(tokenizer, "chat_template", None) if isinstance(tokenizer.chat_template, str) else None,
        decoder_start=_decoder_start(model) if config.is_encoder_decoder else None,
        parameters=parameters,
    )


def choose_device(wanted: str) -> torch.device:
    """The device that is named, or the first GPU, or the CPU. Raises CannotLoad."""
    if wanted == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    device = torch.device(wanted)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise CannotLoad(f"device is {wanted}, but PyTorch {torch.__version__} sees no GPU here")
        device = torch.device("cuda", device.index or 0)
        if device.index >= torch.cuda.device_count():
            raise CannotLoad(f"device is {wanted}, but there are {torch.cuda.device_count()} GPUs, counted from 0")
    return device


def choose_dtype(wanted: str, own: torch.dtype, device: torch.device, weights_bytes: int) -> torch.dtype:
    """The format that is named; else on a GPU the checkpoint's own (bf16 becomes fp16 below SM 8.0), on a CPU fp32
    where twice the weights of that size fit into memory, else bf16."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        old = torch.cuda.get_device_capability(device) < (8, 0)
        if own == torch.bfloat16 and old:
            return torch.float16
        return own if own in NAMES else torch.float32
    as_fp32 = weights_bytes * 4 // own.itemsize
    return torch.float32 if own == torch.float32 or as_fp32 * 1.5 < free_memory(device) else torch.bfloat16


def _configured_dtype(config: Any) -> torch.dtype:
    own = getattr(config, "dtype", None) or getattr(config, "torch_dtype", None)
    if isinstance(own, str):
        own = getattr(torch, own.removeprefix("torch."), None)
    return own if isinstance(own, torch.dtype) else torch.float32


def _weight_files(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern))


def _only_pickle(folder: Path) -> bool:
    return not _weight_files(folder, "*.safetensors")


def _weights_bytes(folder: Path) -> int:
    files = _weight_files(folder, "*.safetensors") or _weight_files(folder, "pytorch_model*.bin")
    return sum(file.stat().st_size for file in files)


def _check_weights(folder: Path, settings: Settings) -> None:
    if _weight_files(folder, "*.safetensors"):
        return
    if not _weight_files(folder, "*.bin"):
        raise CannotLoad(f"{folder} has no weights: neither *.safetensors nor *.bin")
    if not settings.allow_pickle:
        raise CannotLoad(
            f"{folder} has its weights only as pickle files (*.bin), which can run any code when they are read. "
            "Use a folder with safetensors, or set allow_pickle if you trust where it comes from."
        )


def _check_complete(folder: Path, told: dict[str, Any]) -> None:
    """Weights that are missing or of another shape would be drawn at random in silence. Raises CannotLoad."""
    wrong = sorted(str(name) for name in (*told.get("missing_keys", ()), *told.get("mismatched_keys", ())))
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise CannotLoad(
            f"the weights in {folder} do not fit its config.json: {', '.join(wrong[:3])}{more} missing or of another "
            "shape. Download the model again, or take a folder whose weights and config.json belong together."
        )


def _set_threads(wanted: int | None, parameters: int, device: torch.device) -> None:
    if wanted is None and (device.type == "cuda" or parameters < SMALL):
        wanted = 1
    if wanted is not None:
        torch.set_num_threads(wanted)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    for told in (model.generation_config.eos_token_id, model.config.eos_token_id, tokenizer.eos_token_id):
        if told is not None:
            return frozenset(told if isinstance(told, (list, tuple)) else [told])
    return frozenset()


def _defaults(config: Any) -> Defaults:
    penalty = float(getattr(config, "repetition_penalty", None) or 1.0)
    if not getattr(config, "do_sample", False):
        return Defaults(repetition_penalty=penalty)
    temperature, top_p = getattr(config, "temperature", None), getattr(config, "top_p", None)
    return Defaults(
        temperature=1.0 if temperature is None else float(temperature),
        top_k=int(getattr(config, "top_k", None) or 0),
        top_p=1.0 if top_p is None else float(top_p),
        repetition_penalty=penalty,
    )


def _positions(config: Any) -> int | None:
    """The positions of config.json; None where they are relative, and the number only what it was trained with."""
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "seq_length", "max_seq_len")
    own = next((value for name in names if isinstance(value := getattr(text, name, None), int) and value > 0), None)
    return None if config.model_type in ("t5", "mt5", "umt5", "bloom") else own


def _context(config: Any, positions: int | None, wanted: int | None) -> int:
    own = None if positions is None else rope.reach(config.get_text_config(), positions)
    if wanted is None:  # no further than chats can be decoded together
        together = None if positions is None else rope.bound(config.get_text_config(), positions)
        return min(own or CONTEXT, CONTEXT, together or CONTEXT)
    if own is not None and wanted > own:
        raise CannotLoad(f"max_context is {wanted}, but the model knows {own} positions")
    return wanted


def _decoder_start(model: Any) -> int:
    for config in (model.generation_config, model.config):
        start = getattr(config, "decoder_start_token_id", None)
        if start is not None:
            return int(start)
    raise CannotLoad("the model is an encoder-decoder whose config.json names no decoder_start_token_id")


def described(facts: dict[str, object]) -> str:
    """One line for programs: `slipway-engine {...}`."""
    return "slipway-engine " + json.dumps(facts)
