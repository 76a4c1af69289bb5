"""Stand-ins for FasterTransformer's repositories, and small models that go through them."""

from __future__ import annotations

import importlib.util
import itertools
import json
import shutil
import subprocess
from argparse import Namespace
from pathlib import Path
from types import ModuleType

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
FIXTURES = ROOT / "tests" / "fixtures" / "fastertransformer"
TOOLS = ROOT / "assets" / "fastertransformer"


def tool(name: str, folder: Path = TOOLS) -> ModuleType:
    """One of the scripts that run outside of the panel, as a module."""
    spec = importlib.util.spec_from_file_location(f"tool_{name}", folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def shape(family: str, tensor: int = 1, layers: int = 2, **more: object) -> Namespace:
    """The arguments of check_weights.py for a small model."""
    told: dict[str, object] = {
        "hidden": 16, "heads": 4, "head_size": 4, "inner": 32, "vocab": 24, "encoder_layers": None, "type": "fp16",
        "config_optional": False,
    }  # fmt: skip
    return Namespace(family=family, tensor=tensor, layers=layers, **(told | more))


def checkpoint(folder: Path, given: Namespace) -> Path:
    """A converted folder with every file of the right size, full of zeros."""
    check = tool("check_weights")
    folder.mkdir(parents=True, exist_ok=True)
    section = check.SECTION[given.family]
    keys = {key: getattr(given, name) for key, name in check.KEYS[given.family].items()}
    lines = "\n".join(f"{key} = {value}" for key, value in keys.items())
    (folder / "config.ini").write_text(f"[{section}]\n{lines}\nweight_data_type = {given.type}\n", encoding="utf-8")
    expected, _ = check.shapes(check.configparser.ConfigParser(), given)
    for name, values in expected.items():
        with (folder / f"{name}.bin").open("wb") as file:
            file.truncate(values * check.BYTES[given.type])
    return folder


def tokenizer(folder: Path) -> Path:
    """A folder with a tokenizer's file in it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    return folder


def git_repository(source: Path, target: Path) -> str:
    """The files of `source` as a git repository of one commit; returns the commit."""
    subprocess.run(("cp", "-r", str(source), str(target)), check=True)
    subprocess.run(("git", "init", "-q", "-b", "main"), cwd=target, check=True)
    return commit_all(target)


def commit_all(folder: Path) -> str:
    """Commits everything in a git repository; returns the commit."""
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
    for words in (("add", "-A", "-f"), (*author, "commit", "-q", "-m", "all")):
        subprocess.run(("git", *words), cwd=folder, check=True)
    told = subprocess.run(("git", "rev-parse", "HEAD"), cwd=folder, check=True, capture_output=True, text=True)
    return told.stdout.strip()


# --- small models that say one sentence -------------------------------------------------------------------------------

SENTENCE = "I am a ship on the slipway ."
GERMAN = "Das Haus ist wunderbar ."
WORDS = tuple(
    f"<unk> <s> </s> <|endoftext|> Human: Assistant: Hello, Hello! my name is Who are you? {SENTENCE} translate "
    f"English to German: The house wonderful. {GERMAN}".split()
)
VOCABULARY = {word: number for number, word in enumerate(dict.fromkeys(WORDS))}
ROWS, WIDE, HEADS, INNER, LAYERS = 48, 64, 2, 128, 2


def follower(sentence: str, end: str) -> np.ndarray:
    """For each token the one that follows: along the sentence, then its end; any other word begins it."""
    words = [*sentence.split(), end]
    follows = np.full(ROWS, VOCABULARY[words[0]])
    for one, after in itertools.pairwise(words):
        follows[VOCABULARY[one]] = VOCABULARY[after]
    return follows


def tiny_llama(folder: Path) -> Path:
    """A LLaMA of two layers, its head leading from each token to the next."""
    rng = np.random.default_rng(1)
    embeddings = np.linalg.qr(rng.normal(size=(WIDE, WIDE)))[0][:ROWS]
    head = np.zeros((ROWS, WIDE))
    np.add.at(head, follower(SENTENCE, "</s>"), embeddings)
    tensors = {"model.embed_tokens.weight": embeddings, "lm_head.weight": head, "model.norm.weight": np.ones(WIDE)}
    for layer in range(LAYERS):
        base = f"model.layers.{layer}."
        tensors |= {f"{base}self_attn.{part}_proj.weight": rng.normal(size=(WIDE, WIDE)) for part in "qkvo"}
        tensors |= {f"{base}mlp.{part}_proj.weight": rng.normal(size=(INNER, WIDE)) for part in ("gate", "up")}
        tensors[f"{base}mlp.down_proj.weight"] = rng.normal(size=(WIDE, INNER))
        tensors |= {f"{base}{part}_layernorm.weight": np.ones(WIDE) for part in ("input", "post_attention")}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act": "silu", "hidden_size": WIDE, "intermediate_size": INNER, "max_position_embeddings": 256,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "rms_norm_eps": 1e-05, "torch_dtype": "float16",
        "tie_word_embeddings": False, "vocab_size": ROWS,
    }  # fmt: skip
    _folder(folder, config, start=True)
    _safetensors(folder / "model.safetensors", {name: value.astype(np.float16) for name, value in tensors.items()})
    return folder


def tiny_gptj(folder: Path) -> Path:
    """A GPT-J of two layers. Its pytorch_model.bin is numpy's, which the stand-in of its converter reads."""
    rng = np.random.default_rng(2)
    embeddings = np.linalg.qr(rng.normal(size=(WIDE, WIDE)))[0][:ROWS]
    head = np.zeros((ROWS, WIDE))
    np.add.at(head, follower(SENTENCE, "<|endoftext|>"), embeddings)
    tensors = {
        "transformer.wte.weight": embeddings, "lm_head.weight": head, "lm_head.bias": np.zeros(ROWS),
        "transformer.ln_f.weight": np.ones(WIDE), "transformer.ln_f.bias": np.zeros(WIDE),
    }  # fmt: skip
    for layer in range(LAYERS):
        base = f"transformer.h.{layer}."
        tensors |= {f"{base}attn.{part}_proj.weight": rng.normal(size=(WIDE, WIDE)) for part in ("q", "k", "v", "out")}
        tensors |= {f"{base}ln_1.{part}": np.ones(WIDE) for part in ("weight", "bias")}
        tensors |= {
            f"{base}mlp.fc_in.weight": rng.normal(size=(4 * WIDE, WIDE)),
            f"{base}mlp.fc_in.bias": np.zeros(4 * WIDE),
        }
        tensors |= {
            f"{base}mlp.fc_out.weight": rng.normal(size=(WIDE, 4 * WIDE)),
            f"{base}mlp.fc_out.bias": np.zeros(WIDE),
        }
    config = {
        "architectures": ["GPTJForCausalLM"], "model_type": "gptj", "bos_token_id": 3, "eos_token_id": 3,
        "activation_function": "gelu_new", "n_embd": WIDE, "n_head": HEADS, "n_inner": None, "n_layer": LAYERS,
        "n_positions": 256, "rotary": True, "rotary_dim": 16, "tie_word_embeddings": False, "vocab_size": ROWS,
    }  # fmt: skip
    _folder(folder, config, start=False)
    (folder / "vocab.json").write_text(json.dumps(VOCABULARY), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
    with (folder / "pytorch_model.bin").open("wb") as file:
        np.savez(file, **{name: value.astype(np.float32) for name, value in tensors.items()})
    return folder


def tiny_t5(folder: Path, *, safetensors: bool = False) -> Path:
    """A T5 of two and two layers; its first q matrix leads from each token to the next, so both halves of it count."""
    rng = np.random.default_rng(3)
    shared = np.linalg.qr(rng.normal(size=(WIDE, WIDE)))[0][:ROWS]
    through = shared.T @ shared[follower(GERMAN, "</s>")]
    tensors = {"shared.weight": shared}
    for side, parts in (("encoder", ("SelfAttention",)), ("decoder", ("SelfAttention", "EncDecAttention"))):
        tensors[f"{side}.final_layer_norm.weight"] = np.ones(WIDE)
        tensors[f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"] = rng.normal(size=(32, HEADS))
        for layer in range(LAYERS):
            base = f"{side}.block.{layer}.layer."
            for place, part in enumerate(parts):
                tensors |= {f"{base}{place}.{part}.{name}.weight": rng.normal(size=(WIDE, WIDE)) for name in "qkvo"}
                tensors[f"{base}{place}.layer_norm.weight"] = np.ones(WIDE)
            tensors[f"{base}{len(parts)}.layer_norm.weight"] = np.ones(WIDE)
            tensors[f"{base}{len(parts)}.DenseReluDense.wi.weight"] = rng.normal(size=(INNER, WIDE))
            tensors[f"{base}{len(parts)}.DenseReluDense.wo.weight"] = rng.normal(size=(WIDE, INNER))
    tensors["encoder.block.0.layer.0.SelfAttention.q.weight"] = through.T
    config = {
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, "d_ff": INNER,
        "d_kv": WIDE // HEADS, "d_model": WIDE, "decoder_start_token_id": 0, "eos_token_id": 2, "pad_token_id": 0,
        "feed_forward_proj": "relu", "n_positions": 256, "num_heads": HEADS, "num_layers": LAYERS,
        "relative_attention_num_buckets": 32, "vocab_size": ROWS,
    }  # fmt: skip
    _folder(folder, config, start=False)
    values = {name: value.astype(np.float32) for name, value in tensors.items()}
    if safetensors:
        _safetensors(folder / "model.safetensors", values)
        return folder
    with (folder / "pytorch_model.bin").open("wb") as file:
        np.savez(file, **values)
    return folder


def _folder(folder: Path, config: dict[str, object], *, start: bool) -> None:
    """config.json and a tokenizer of whole words; `start`: it puts <s> in front."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    inner = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<unk>"))
    inner.add_special_tokens(["<unk>", "<s>", "</s>", "<|endoftext|>"])
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if start:
        inner.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    inner.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")


def _safetensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    header, data = {}, b""
    for name, value in tensors.items():
        raw = np.ascontiguousarray(value).tobytes()
        offsets = [len(data), len(data) + len(raw)]
        header[name] = {"dtype": f"F{8 * value.itemsize}", "shape": list(value.shape), "data_offsets": offsets}
        data += raw
    words = json.dumps(header).encode()
    path.write_bytes(len(words).to_bytes(8, "little") + words + data)


def backend_repository(name: str, target: Path) -> str:
    """One of the stand-ins of the Triton backend (`backend`, `blog`) as a git repository; returns its commit."""
    source = target.with_name(f"{target.name}-source")
    shutil.copytree(FIXTURES / "common", source)
    shutil.copytree(FIXTURES / name, source, symlinks=True, dirs_exist_ok=True)
    return git_repository(source, target)
