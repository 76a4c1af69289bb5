"""Makes model folders for tests: real configs, true safetensors headers, holes where the weights would be."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path

CONFIGS = Path(__file__).parent / "models"
_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I32": 4, "U8": 1, "BOOL": 1}


def write_safetensors(path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
    """A safetensors file of these tensors; its data is a hole in the file, so any size is free."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (dtype, shape) in tensors.items():
        size = _BYTES[dtype]
        for number in shape:
            size *= number
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    words = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(words)) + words)
        file.truncate(8 + len(words) + end)


def llama_tensors(config: Mapping[str, object], dtype: str = "F16") -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors that a Llama of this config has."""

    def size(name: str) -> int:
        value = config[name]
        assert isinstance(value, int)
        return value

    h, i, v = size("hidden_size"), size("intermediate_size"), size("vocab_size")
    d = config.get("head_dim") or h // size("num_attention_heads")
    assert isinstance(d, int)
    wide = size("num_attention_heads") * d
    narrow = (size("num_key_value_heads") if "num_key_value_heads" in config else size("num_attention_heads")) * d
    found = {"model.embed_tokens.weight": (dtype, (v, h)), "model.norm.weight": (dtype, (h,))}
    for layer in range(size("num_hidden_layers")):
        at = f"model.layers.{layer}."
        found |= {
            at + "self_attn.q_proj.weight": (dtype, (wide, h)),
            at + "self_attn.k_proj.weight": (dtype, (narrow, h)),
            at + "self_attn.v_proj.weight": (dtype, (narrow, h)),
            at + "self_attn.o_proj.weight": (dtype, (h, wide)),
            at + "mlp.gate_proj.weight": (dtype, (i, h)),
            at + "mlp.up_proj.weight": (dtype, (i, h)),
            at + "mlp.down_proj.weight": (dtype, (h, i)),
            at + "input_layernorm.weight": (dtype, (h,)),
            at + "post_attention_layernorm.weight": (dtype, (h,)),
        }
    if not config.get("tie_word_embeddings"):
        found["lm_head.weight"] = (dtype, (v, h))
    return found


def config_of(name: str) -> dict[str, object]:
    """The config.json of a model under tests/models."""
    value = json.loads((CONFIGS / name / "config.json").read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def make_folder(folder: Path, name: str, shards: int = 1) -> Path:
    """A whole folder of the model `name`: its small files, and weights of the right shapes in `shards` files."""
    shutil.copytree(CONFIGS / name, folder)
    tensors = list(llama_tensors(config_of(name)).items())
    if shards == 1:
        write_safetensors(folder / "model.safetensors", dict(tensors))
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = dict(tensors[shard::shards])
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return folder
