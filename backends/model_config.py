"""What a model's config.json says: sizes, context, quantisation, the facts that engines ask for.

Pure. A config comes from strangers: every value is checked before it is believed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from backends.errors import BadInput
from backends.families import Family, Shape, count_parameters, count_t5_parameters, family
from backends.spec import Frozen
from backends.text import Text

MOST = 10**9  # no size in a config.json is larger

_NAMES = {  # our name: the names it has in config.json files, the usual one first
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "hidden_size": ("hidden_size", "n_embd", "d_model", "dim"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num"),
    "head_size": ("head_dim", "kv_channels", "d_kv"),
    "intermediate_size": ("intermediate_size", "n_inner", "ffn_hidden_size", "ffn_dim", "d_ff"),
    "vocab_size": ("vocab_size", "padded_vocab_size"),
}
_CONTEXT = (  # the smallest that is given counts: Qwen's first generation gives two
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_seq_len",
    "seq_length",
    "max_sequence_length",
)
_CONFIG_DTYPES = {"float64": "fp64", "float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "half": "fp16"}


class Shapes(Frozen):
    """What config.json says of the transformer. None: not said."""

    architecture: str
    model_type: str
    encoder_decoder: bool = False
    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    context: int | None = None
    sliding_window: int | None = None
    dtype: str | None = None
    quantisation: str | None = None
    tied_embeddings: bool | None = None
    remote_code: bool = False
    counted: int | None = None  # parameters by the family's formula
    facts: dict[str, int | float | str | bool] = {}
    notes: tuple[Text, ...] = ()


@dataclass
class _Reader:
    """Reads checked values from one config and collects what is worth a note."""

    config: Mapping[str, object]
    notes: list[Text] = field(default_factory=list)

    def count(self, names: Iterable[str]) -> int | None:
        """The first of `names` that is given, as a number from 1 to MOST. A list (one a layer) gives its largest."""
        for name in names:
            value = self.config.get(name)
            if isinstance(value, list) and value and all(isinstance(item, int) for item in value):
                self.notes.append(
                    Text(en=f"“{name}” differs by layer; the largest counts.", zh=f"“{name}”各层不同，按最大值计算。")
                )
                value = max(value)
            if value is None or isinstance(value, bool):
                continue
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if not isinstance(value, int) or not 1 <= value <= MOST:
                raise BadInput(
                    "model",
                    Text(
                        en=f"config.json gives {_short(value)} as “{name}”, which no model can have.",
                        zh=f"config.json 中“{name}”为 {_short(value)}，没有模型会是这个值。",
                    ),
                    Text(
                        en="Fetch config.json again from where the model came from.",
                        zh="从模型来源处重新取得 config.json。",
                    ),
                )
            return value
        return None

    def text(self, name: str) -> str | None:
        value = self.config.get(name)
        return value if isinstance(value, str) and 0 < len(value) <= 200 else None

    def flag(self, name: str) -> bool | None:
        value = self.config.get(name)
        return value if isinstance(value, bool) else None

    def part(self, name: str) -> dict[str, object]:
        value = self.config.get(name)
        return value if isinstance(value, dict) else {}


def _short(value: object) -> str:
    words = json.dumps(value, ensure_ascii=False) if isinstance(value, str | float | list | dict) else str(value)
    return words if len(words) <= 40 else words[:37] + "…"


def read_config(config: Mapping[str, object]) -> Shapes:
    """The facts of a config.json. Raises BadInput for one that names no architecture or holds impossible sizes."""
    outer = _Reader(config)
    architectures = config.get("architectures")
    named = [name for name in architectures if isinstance(name, str)] if isinstance(architectures, list) else []
    model_type = outer.text("model_type") or ""
    if not named and not model_type:
        raise BadInput(
            "model",
            Text(
                en="config.json names neither an architecture nor a model_type, so it is not a language model's.",
                zh="config.json 未写 architectures 与 model_type，不是语言模型的配置。",
            ),
            Text(en="Choose the folder that holds the model itself.", zh="请选择模型本身所在的文件夹。"),
        )
    facts: dict[str, int | float | str | bool] = {}
    reader = outer
    inner = outer.part("text_config") or outer.part("llm_config")
    if inner:  # a model that also sees or hears: its language part is described in a part of its own
        reader = _Reader({**inner, **{k: config[k] for k in ("quantization_config",) if k in config}}, outer.notes)
        model_type = reader.text("model_type") or model_type
        facts["multimodal"] = True
        outer.notes.append(
            Text(en="The model also takes images or sound; the facts are those of its language part.",
                 zh="模型还支持图像或声音输入，此处为其语言部分的数据。")
        )  # fmt: skip
    kind = family(model_type)
    sizes = {ours: reader.count(theirs) for ours, theirs in _NAMES.items()}
    hidden, heads = sizes["hidden_size"], sizes["heads"]
    if sizes["intermediate_size"] is None and kind and kind.inner == "4h" and hidden:
        sizes["intermediate_size"] = 4 * hidden
    if kind and kind.halved_inner and sizes["intermediate_size"]:
        facts["config_intermediate_size"] = sizes["intermediate_size"]
        sizes["intermediate_size"] //= 2
    if sizes["head_size"] is None and hidden and heads:
        sizes["head_size"] = hidden // heads
    sizes["kv_heads"] = _kv_heads(reader, kind, sizes["kv_heads"], heads)
    if heads and sizes["kv_heads"] and (sizes["kv_heads"] > heads or heads % sizes["kv_heads"]):
        raise BadInput(
            "model",
            Text(
                en=f"config.json gives {heads} heads and {sizes['kv_heads']} KV heads, which do not divide.",
                zh=f"config.json 中注意力头为 {heads}、KV 头为 {sizes['kv_heads']}，不能整除。",
            ),
        )
    encoder_decoder = outer.flag("is_encoder_decoder") is True
    tied = reader.flag("tie_word_embeddings")
    if tied is None:
        tied = outer.flag("tie_word_embeddings") if inner else None
    if tied is None and kind is not None:
        tied = kind.tied
    _read_family_facts(reader, encoder_decoder, facts)
    quantisation = _quantisation(outer, facts)
    if encoder_decoder:
        sizes["layers"] = reader.count(("num_decoder_layers", "decoder_layers")) or sizes["layers"]
    dtype = _CONFIG_DTYPES.get((reader.text("dtype") or reader.text("torch_dtype") or outer.text("torch_dtype") or "")
                               .removeprefix("torch."))  # fmt: skip
    return Shapes(
        architecture=named[0] if named else model_type,
        model_type=model_type,
        encoder_decoder=encoder_decoder,
        context=_context(reader, kind, facts),
        sliding_window=_window(reader, kind),
        dtype=dtype,
        quantisation=quantisation,
        tied_embeddings=tied,
        remote_code="auto_map" in config,
        counted=_counted(kind, reader, sizes, tied, encoder_decoder, facts),
        facts=facts,
        notes=tuple(outer.notes),
        **sizes,
    )


def _kv_heads(reader: _Reader, kind: Family | None, given: int | None, heads: int | None) -> int | None:
    """KV heads with each family's own default: as many as heads, unless the config says that queries share them."""
    shared = reader.flag("multi_query") is True and reader.flag("new_decoder_architecture") is not True
    if shared or reader.config.get("multi_query_attention") is False:
        return 1 if shared else heads
    if given is None and kind is not None and kind.kv_heads is not None and "num_key_value_heads" not in reader.config:
        return kind.kv_heads
    return given or heads


def _context(reader: _Reader, kind: Family | None, facts: dict[str, int | float | str | bool]) -> int | None:
    """Longest context, rope scaling counted in.

    linear and dynamic scale the length that config.json gives; yarn scales the length of training; llama3 and longrope
    have it scaled already (transformers, modeling_rope_utils.py).
    """
    given = [value for name in _CONTEXT if (value := reader.count((name,)))]
    if not given:
        return None
    context = min(given)
    if kind is not None and kind.relative:
        facts["context_trained"] = context
        return None
    scaling = reader.part("rope_scaling") or reader.part("rope_parameters")
    how = scaling.get("rope_type") or scaling.get("type")
    if not isinstance(how, str) or how in ("default", "mrope"):
        return context
    facts["rope_scaling"] = how[:40]
    factor = scaling.get("factor")
    factor = float(factor) if isinstance(factor, int | float) and 1 <= factor <= 4096 else 1.0
    facts["rope_factor"] = factor
    trained = scaling.get("original_max_position_embeddings", reader.config.get("original_max_position_embeddings"))
    if isinstance(trained, int) and 1 <= trained <= MOST:
        facts["context_trained"] = trained
    if how == "yarn":
        base = facts.get("context_trained", context)
        return max(context, int(float(base) * factor))
    if how in ("linear", "dynamic", "ntk") and not (kind and kind.context_scaled):
        facts.setdefault("context_trained", context)
        return int(context * factor)
    return context


def _window(reader: _Reader, kind: Family | None) -> int | None:
    """The sliding window, where it is switched on."""
    if kind is not None and kind.window_switch is not None and reader.flag(kind.window_switch) is not True:
        return None
    if kind is not None and kind.window is not None and "sliding_window" not in reader.config:
        return kind.window
    value = reader.config.get("sliding_window")
    return value if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST else None


def _read_family_facts(reader: _Reader, encoder_decoder: bool, facts: dict[str, int | float | str | bool]) -> None:
    """Facts that one family or one engine asks for, under short names of our own."""
    for ours, theirs in {
        "experts": ("num_local_experts", "num_experts", "n_routed_experts"),
        "experts_per_token": ("num_experts_per_tok", "num_experts_per_token"),
        "expert_intermediate_size": ("moe_intermediate_size",),
        "kv_lora_rank": ("kv_lora_rank",),
        "qk_rope_head_size": ("qk_rope_head_dim",),
        "rotary_size": ("rotary_dim",),
        **({"encoder_layers": ("num_layers", "encoder_layers")} if encoder_decoder else {}),
        **({"d_ff": ("d_ff",), "d_kv": ("d_kv",)} if encoder_decoder else {}),
    }.items():
        value = reader.count(theirs) if any(reader.config.get(name) for name in theirs) else None
        if value is not None:
            facts[ours] = value
    for name in ("feed_forward_proj", "hidden_act", "hidden_activation", "activation_function"):
        if words := reader.text(name):
            facts[name if name == "feed_forward_proj" else "activation"] = words
    if reader.flag("attention_bias"):
        facts["attention_bias"] = True
    rope = reader.part("rope_parameters")
    theta = reader.config.get("rope_theta", rope.get("rope_theta"))
    if isinstance(theta, int | float) and not isinstance(theta, bool) and 0 < theta < 1e12:
        facts["rope_theta"] = float(theta)
    kinds = reader.config.get("layer_types")
    if isinstance(kinds, list) and len(kinds) <= 10_000:
        for name, ours in (("sliding_attention", "layers_sliding"), ("linear_attention", "layers_linear")):
            if number := sum(1 for item in kinds if item == name):
                facts[ours] = number


def _quantisation(outer: _Reader, facts: dict[str, int | float | str | bool]) -> str | None:
    """The way the weights are packed, from config.json's quantization_config."""
    packing = outer.part("quantization_config") or outer.part("compression_config")
    if not packing:
        return None
    method = packing.get("quant_method")
    if not isinstance(method, str):
        method = "bitsandbytes" if packing.get("load_in_4bit") or packing.get("load_in_8bit") else "unknown"
    bits = packing.get("bits")
    if not isinstance(bits, int):
        bits = 4 if packing.get("load_in_4bit") else 8 if packing.get("load_in_8bit") or method == "fp8" else None
    if isinstance(bits, int) and 1 <= bits <= 16:
        facts["quantisation_bits"] = bits
    group = packing.get("group_size")
    if isinstance(group, int) and 1 <= group <= 65536:
        facts["quantisation_group_size"] = group
    return method[:40]


def _counted(
    kind: Family | None,
    reader: _Reader,
    sizes: Mapping[str, int | None],
    tied: bool | None,
    encoder_decoder: bool,
    facts: dict[str, int | float | str | bool],
) -> int | None:
    """Parameters by the family's formula; None for a family not in the table or a config that lacks a size."""
    if kind is None or any(sizes[name] is None for name in _NAMES):
        return None
    said = str(facts.get("feed_forward_proj", ""))
    experts = reader.count((kind.experts,)) if kind.experts and reader.config.get(kind.experts) else None
    if kind.experts and experts is None:
        experts = reader.count(("num_local_experts", "num_experts"))
    shape = Shape(
        layers=sizes["layers"] or 0,
        hidden=sizes["hidden_size"] or 0,
        heads=sizes["heads"] or 0,
        kv_heads=sizes["kv_heads"] or 0,
        head_size=sizes["head_size"] or 0,
        inner=int(facts.get("expert_intermediate_size", 0)) or sizes["intermediate_size"] or 0,
        vocab=sizes["vocab_size"] or 0,
        tied=bool(tied),
        positions=0 if kind.positions is None else (_context(reader, kind, {}) or 0) + kind.positions,
        experts=experts or 0,
        gated=kind.mlp == "gated" or (kind.mlp == "feed_forward_proj" and said.startswith("gated")),
        encoder_layers=int(facts.get("encoder_layers", sizes["layers"] or 0)),
    )
    if encoder_decoder:
        return count_t5_parameters(shape, reader.count(("relative_attention_num_buckets",)) or 32)
    return count_parameters(kind, shape, reader.config)
