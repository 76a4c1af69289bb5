"""Counts and measures FasterTransformer's weight files: check_weights.py FOLDER --family llama --tensor 2 ...

The server starts with files missing or short and answers nonsense, so what must be there is worked out from the model's
shape: names, number and size of each. Standard library only.

--type is that of the values (fp32, fp16, bf16) or any: what config.ini says counts. --config-optional: GPT-J of
FasterTransformer 5.0 has its shape in config.pbtxt, and no config.ini need be there. Ends with 1 and a line for each
finding, at most 20.
"""

import argparse
import configparser
import sys
from pathlib import Path

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
SECTION = {"llama": "llama", "gptj": "gptj", "t5": "decoder"}
KEYS = {  # names in config.ini: ours
    "llama": {"head_num": "heads", "size_per_head": "head_size", "inter_size": "inner", "num_layer": "layers",
              "vocab_size": "vocab"},
    "gptj": {"head_num": "heads", "size_per_head": "head_size", "inter_size": "inner", "num_layer": "layers",
             "vocab_size": "vocab"},
    "t5": {"num_heads": "heads", "d_kv": "head_size", "d_ff": "inner", "num_layers": "layers", "vocab_size": "vocab",
           "d_model": "hidden"},
}  # fmt: skip


def main(arguments=None):
    given = _parser().parse_args(arguments)
    folder = Path(given.folder)
    found = check(folder, given)
    for line in found[:20]:
        print("slipway: " + line)
    if len(found) > 20:
        print(f"slipway: and {len(found) - 20} more")
    if not found:
        files = list(folder.glob("*.bin"))
        size = sum(path.stat().st_size for path in files)
        print(f"{len(files)} files, {size / 2**30:.1f} GiB, all whole")
    return 1 if found else 0


def check(folder, given):
    """Every finding, as lines."""
    if not folder.is_dir():
        return [f"{folder} is not there"]
    config = configparser.ConfigParser(interpolation=None)
    path = folder / "config.ini"
    findings = []
    if path.exists():
        config.read(str(path))
        findings += _compare(config, given)
    elif not given.config_optional:
        return [f"{path} is not there: the server would end while loading"]
    kind = given.type
    section = SECTION[given.family]
    said = config.get(section, "weight_data_type", fallback=None)
    if kind == "any":
        kind = said or "fp32"
    elif said is not None and said != kind:
        findings.append(f"config.ini says the weights are {said}, {kind} was asked for")
    if kind not in BYTES:
        return [*findings, f"config.ini names the type {kind}, which is none"]
    expected, optional = shapes(config, given)
    for name, values in sorted({**expected, **optional}.items()):
        file = folder / (name + ".bin")
        size = values * BYTES[kind]
        if not file.exists():
            if name in expected:
                findings.append(f"{file.name} is missing")
        elif file.stat().st_size != size:
            findings.append(f"{file.name} has {file.stat().st_size} bytes, {size} are needed")
    return findings


def shapes(config, given):
    """Files that must be there and files that may be, by name without .bin: the number of values in each."""
    return {"llama": _llama, "gptj": _gptj, "t5": _t5}[given.family](config, given)


def _llama(_config, given):
    h, inner, ranks = given.hidden, given.inner, given.tensor
    wide = given.heads * given.head_size
    files = {
        "model.wte.weight": given.vocab * h,
        "model.lm_head.weight": given.vocab * h,
        "model.final_layernorm.weight": h,
    }
    for layer in range(given.layers):
        base = f"model.layers.{layer}."
        files[base + "input_layernorm.weight"] = h
        files[base + "post_attention_layernorm.weight"] = h
        for rank in range(ranks):
            files[base + f"attention.query_key_value.weight.{rank}"] = 3 * h * wide // ranks
            files[base + f"attention.dense.weight.{rank}"] = wide * h // ranks
            for part in ("gate_proj", "up_proj", "down_proj"):
                files[base + f"mlp.{part}.weight.{rank}"] = h * inner // ranks
    return files, {}


def _gptj(_config, given):
    h, inner, ranks = given.hidden, given.inner, given.tensor
    files = {
        "model.wte": given.vocab * h,
        "model.final_layernorm.weight": h,
        "model.final_layernorm.bias": h,
        "model.lm_head.weight": given.vocab * h,
        "model.lm_head.bias": given.vocab,
    }
    for layer in range(given.layers):
        base = f"model.layers.{layer}."
        for name in ("input_layernorm.weight", "input_layernorm.bias", "mlp.dense_4h_to_h.bias"):
            files[base + name] = h
        for rank in range(ranks):
            files[base + f"attention.query_key_value.weight.{rank}"] = 3 * h * h // ranks
            files[base + f"attention.dense.weight.{rank}"] = h * h // ranks
            files[base + f"mlp.dense_h_to_4h.weight.{rank}"] = h * inner // ranks
            files[base + f"mlp.dense_h_to_4h.bias.{rank}"] = inner // ranks
            files[base + f"mlp.dense_4h_to_h.weight.{rank}"] = h * inner // ranks
    return files, {}


def _t5(config, given):
    h, ranks = given.hidden, given.tensor
    wide = given.heads * given.head_size
    gated = config.get("structure", "use_gated_activation", fallback="0") in ("1", "true", "True")
    buckets = config.getint("encoder", "relative_attention_num_buckets_or_max_pos_seq_len", fallback=32)
    files = {
        "shared.weight": given.vocab * h,
        "shared.weight_T": given.vocab * h,
        "encoder.final_layer_norm.weight": h,
        "decoder.final_layer_norm.weight": h,
    }
    # Later converters write the output head as a file of its own, also where it is the embeddings.
    may = {} if gated else {"lm_head.weight": given.vocab * h}
    if gated:
        files["lm_head.weight"] = given.vocab * h
    for side, layers in (("encoder", given.encoder_layers or given.layers), ("decoder", given.layers)):
        for rank in range(ranks):
            name = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight.{rank}"
            files[name] = buckets * given.heads // ranks
        last = 1 if side == "encoder" else 2
        for layer in range(layers):
            base = f"{side}.block.{layer}.layer."
            for part in range(last + 1):
                files[base + f"{part}.layer_norm.weight"] = h
            for rank in range(ranks):
                _t5_rank(files, base, side, rank, h * wide // ranks, h * given.inner // ranks, gated)
    return files, may


def _t5_rank(files, base, side, rank, attention, mlp, gated):
    if side == "encoder":
        for name in "qkvo":
            files[base + f"0.SelfAttention.{name}.weight.{rank}"] = attention
    else:
        files[base + f"0.SelfAttention.qkv.weight.{rank}"] = 3 * attention
        files[base + f"0.SelfAttention.o.weight.{rank}"] = attention
        for name in "qkvo":
            files[base + f"1.EncDecAttention.{name}.weight.{rank}"] = attention
    last = 1 if side == "encoder" else 2
    for name in ("wi", "wo", "wi2") if gated else ("wi", "wo"):
        files[base + f"{last}.DenseReluDense.{name}.weight.{rank}"] = mlp


def _compare(config, given):
    """What config.ini says of the shape against what the model says."""
    section = SECTION[given.family]
    if not config.has_section(section):
        return [f"config.ini has no section [{section}]"]
    findings = []
    for key, name in KEYS[given.family].items():
        said, want = config.get(section, key, fallback=None), getattr(given, name)
        if said is None:
            findings.append(f"config.ini does not say {key}")
        elif said.strip() != str(want):
            findings.append(f"config.ini says {key} = {said}, the model has {want}")
    return findings


def _parser():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--family", required=True, choices=sorted(SECTION))
    for name in ("tensor", "layers", "hidden", "heads", "head-size", "inner", "vocab"):
        parser.add_argument("--" + name, required=True, type=int)
    parser.add_argument("--encoder-layers", type=int)
    parser.add_argument("--type", default="any")
    parser.add_argument("--config-optional", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
