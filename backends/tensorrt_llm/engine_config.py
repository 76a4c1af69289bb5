"""What an engine's own config.json says, old form (0.5.0) and new (0.8 on), as one value. Pure.

Fields of the old form: cpp/tensorrt_llm/runtime/gptJsonConfig.cpp of 0.5.0. Of the new: commands/build.py and
docs/source/architecture/checkpoint.md.
"""

from __future__ import annotations

from collections.abc import Mapping

from backends.errors import BadInput
from backends.spec import Frozen
from backends.text import Text


class EngineConfig(Frozen):
    """Facts of a built engine. Lengths in tokens; None: the file does not say."""

    form: str  # "old" or "new"
    version: str | None = None  # TensorRT-LLM that built it
    name: str | None = None
    precision: str | None = None  # float16, bfloat16, float32
    quantisation: str | None = None  # as the file has it: quant_algo, or 0.5.0's quant_mode; "none" where it says none
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    max_batch: int | None = None
    max_input: int | None = None
    max_output: int | None = None
    max_sequence: int | None = None
    max_beam: int = 1
    tokens_per_block: int | None = None
    paged_kv_cache: bool | None = None
    remove_input_padding: bool | None = None
    attention_plugin: bool | None = None
    paged_context: bool | None = None
    logits: str | None = None  # float32, float16
    vocab_size: int | None = None
    hidden_size: int | None = None
    layers: int | None = None

    @property
    def world(self) -> int:
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def made_with(self) -> str | None:
        """The quantisation as `versions` names it; one that is not among them as the file has it."""
        if self.quantisation in (None, "none"):
            return self.quantisation
        if self.form == "old":
            return _by_mode(int(self.quantisation))
        return next((name for sign, name in _ALGORITHMS if self.quantisation.startswith(sign)), self.quantisation)

    @property
    def inflight(self) -> bool:
        """Whether in-flight batching can run it: attention plugin, paged KV cache, no padding."""
        return None not in (self.paged_kv_cache, self.remove_input_padding) and all(
            (self.paged_kv_cache, self.remove_input_padding, self.attention_plugin is not False)
        )

    def files(self) -> tuple[str, ...]:
        """The engine files that must lie beside it, one a rank."""
        if self.form == "new":
            return tuple(f"rank{rank}.engine" for rank in range(self.world))
        stage = f"_pp{self.pipeline_parallel}" if self.pipeline_parallel > 1 else ""
        head = f"{self.name}_{self.precision}_tp{self.tensor_parallel}{stage}"
        return tuple(f"{head}_rank{rank}.engine" for rank in range(self.world))


_ALGORITHMS = (  # QuantAlgo of tensorrt_llm/quantization/mode.py; the first that fits counts
    ("W4A16_AWQ", "int4_awq"),
    ("W4A16_GPTQ", "int4_gptq"),
    ("W4A16", "int4_weight_only"),
    ("W8A16", "int8_weight_only"),
    ("W8A8_SQ", "smoothquant"),
    ("FP8", "fp8"),
)
_INT4, _INT8, _ACTIVATIONS = 1, 2, 4  # bits of QuantMode in 0.5.0's tensorrt_llm/quantization/mode.py


def _by_mode(mode: int) -> str:
    """0.5.0's quant_mode: weights of 8 bits with activations are SmoothQuant, without them weight-only."""
    if mode & _INT8:
        return "smoothquant" if mode & _ACTIVATIONS else "int8_weight_only"
    return "int4_weight_only" if mode & _INT4 else f"quant_mode {mode}"


def read(config: Mapping[str, object]) -> EngineConfig:
    """The facts of a config.json. Raises BadInput where it is no engine's."""
    if "builder_config" in config:
        return _old(_part(config, "builder_config"), _part(config, "plugin_config"))
    if "pretrained_config" in config and "build_config" in config:
        return _new(config)
    raise BadInput(
        "engine_folder",
        Text(en="config.json is not that of a TensorRT-LLM engine.", zh="config.json 不是 TensorRT-LLM 引擎的配置。"),
        Text(
            en="An engine's has builder_config (0.5.0) or pretrained_config and build_config (0.8 on).",
            zh="引擎的配置含 builder_config（0.5.0），或 pretrained_config 与 build_config（0.8 起）。",
        ),
    )


def _old(builder: Mapping[str, object], plugins: Mapping[str, object]) -> EngineConfig:
    """0.5.0: two flat tables. `max_num_tokens` may be null, which the runtime warns of and ignores."""
    longest, answer = _int(builder, "max_input_len"), _int(builder, "max_output_len")
    mode = builder.get("quant_mode")
    return EngineConfig(
        form="old",
        name=_str(builder, "name"),
        precision=_str(builder, "precision"),
        quantisation=None if mode is None else str(mode or "none"),
        tensor_parallel=_int(builder, "tensor_parallel") or 1,
        pipeline_parallel=_int(builder, "pipeline_parallel") or 1,
        max_batch=_int(builder, "max_batch_size"),
        max_input=longest,
        max_output=answer,
        max_sequence=None if longest is None or answer is None else longest + answer,
        max_beam=_int(builder, "max_beam_width") or 1,
        tokens_per_block=_int(plugins, "tokens_per_block"),
        paged_kv_cache=_bool(plugins, "paged_kv_cache"),
        remove_input_padding=_bool(plugins, "remove_input_padding"),
        attention_plugin=_plugin(plugins.get("gpt_attention_plugin")),
        vocab_size=_int(builder, "vocab_size"),
        hidden_size=_int(builder, "hidden_size"),
        layers=_int(builder, "num_layers"),
    )


def _new(config: Mapping[str, object]) -> EngineConfig:
    pretrained, build = _part(config, "pretrained_config"), _part(config, "build_config")
    plugins, mapping = _part(build, "plugin_config"), _part(pretrained, "mapping")
    quantisation = _part(pretrained, "quantization")
    longest, sequence = _int(build, "max_input_len"), _int(build, "max_seq_len")
    answer = _int(build, "max_output_len")  # until 0.11; later only the sum is given
    if sequence is None and longest is not None and answer is not None:
        sequence = longest + answer
    cache = _str(build, "kv_cache_type")
    paged = (cache.lower().endswith("paged") if cache else None) if cache else _bool(plugins, "paged_kv_cache")
    return EngineConfig(
        form="new",
        version=_str(config, "version"),
        name=_str(pretrained, "architecture"),
        precision=_str(pretrained, "dtype"),
        quantisation=_str(quantisation, "quant_algo") or ("none" if "quant_algo" in quantisation else None),
        tensor_parallel=_int(mapping, "tp_size") or 1,
        pipeline_parallel=_int(mapping, "pp_size") or 1,
        max_batch=_int(build, "max_batch_size"),
        max_input=longest,
        max_output=answer,
        max_sequence=sequence,
        max_beam=_int(build, "max_beam_width") or 1,
        tokens_per_block=_int(plugins, "tokens_per_block"),
        paged_kv_cache=paged,
        remove_input_padding=_bool(plugins, "remove_input_padding"),
        attention_plugin=_plugin(plugins.get("gpt_attention_plugin")),
        paged_context=_bool(plugins, "use_paged_context_fmha"),
        logits=_str(pretrained, "logits_dtype"),
        vocab_size=_int(pretrained, "vocab_size"),
        hidden_size=_int(pretrained, "hidden_size"),
        layers=_int(pretrained, "num_hidden_layers"),
    )


def _part(config: Mapping[str, object], name: str) -> Mapping[str, object]:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _int(part: Mapping[str, object], name: str) -> int | None:
    value = part.get(name)
    return value if type(value) is int and 0 <= value < 2**40 else None


def _str(part: Mapping[str, object], name: str) -> str | None:
    value = part.get(name)
    return value[:80] if isinstance(value, str) and value else None


def _bool(part: Mapping[str, object], name: str) -> bool | None:
    value = part.get(name)
    return value if isinstance(value, bool) else {"enable": True, "disable": False}.get(str(value).lower())


def _plugin(value: object) -> bool | None:
    """A plugin is off where it says false, null or nothing; else it names its precision."""
    return None if value is None else value not in (False, "", "disable")
