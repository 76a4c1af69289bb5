"""Memory: formulas against published figures and logs, verdicts, and what is offered where it does not fit."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from backends.fitting import changes_that_fit
from backends.memory import (
    BYTES,
    activations_bytes,
    attention_bytes,
    estimate,
    kv_bytes_per_token,
    resolved_precision,
    verdict_of,
    weights_bytes,
)
from backends.model_config import read_config
from backends.spec import Disk, FasterTransformerOptions, Gpu, Hardware, Limits, Model, ModelSource, Spec
from tests.checkpoints import config_of

GIB, MIB = 2**30, 2**20


def model(name: str, **changes: object) -> Model:
    shapes = read_config(config_of(name))
    told = shapes.model_dump(exclude={"counted", "notes"})
    source = ModelSource(kind="folder", id=f"/models/{name}")
    return Model.model_validate(
        {**told, "source": source, "parameters": shapes.counted, "weight_format": "safetensors", **changes}
    )


LLAMA_7B, QWEN_7B, LLAMA_13B = model("llama-2-7b"), model("qwen-7b-chat"), model("llama-2-13b")


def machine(free_mib: int | None = 24_000, gpus: int = 1, sm: int = 86, total_mib: int = 24_576) -> Hardware:
    return Hardware(
        gpus=tuple(
            Gpu(name="NVIDIA GeForce RTX 3090", index=i, sm=sm, memory_free_mib=free_mib, memory_total_mib=total_mib)
            for i in range(gpus)
        ),
        ram_free_mib=64_000,
        ram_total_mib=64_000,
        disks=(Disk(purpose="data", path="/", free_mib=200_000),),
    )


def spec(
    engine: str = "tensorrt_llm", batch: int = 4, context: int | None = 4096, new: int = 2048, **more: object
) -> Spec:
    limits = Limits(concurrent=batch, context=context, new_tokens=new)
    return Spec.model_validate({"model": {"kind": "demo"}, "engine": engine, "limits": limits, **more})


# --- worked examples: figures computed for three models, two of them against engines' own logs -----------------------


@pytest.mark.parametrize(
    ("of", "parameters"), [(LLAMA_7B, 6_738_415_616), (QWEN_7B, 7_721_324_544), (LLAMA_13B, 13_015_864_320)]
)
def test_parameters_of_the_worked_examples(of: Model, parameters: int) -> None:
    assert of.parameters == parameters


@pytest.mark.parametrize(
    ("of", "precision", "gib"),
    [
        (LLAMA_7B, "fp16", 12.55),
        (LLAMA_7B, "int8", 6.52),
        (LLAMA_7B, "int4", 3.50),
        (QWEN_7B, "fp16", 14.38),
        (QWEN_7B, "int8", 8.35),
        (QWEN_7B, "int4", 5.34),
        (LLAMA_13B, "fp16", 24.24),
        (LLAMA_13B, "int8", 12.43),
        (LLAMA_13B, "int4", 6.52),
    ],
)
def test_weights_of_the_worked_examples(of: Model, precision: str, gib: float) -> None:
    assert weights_bytes(of, precision) / GIB == pytest.approx(gib, rel=1e-3, abs=0.005)


def test_plain_weights_are_exact() -> None:
    assert weights_bytes(LLAMA_7B, "fp16") == 2 * 6_738_415_616
    assert round(weights_bytes(LLAMA_7B, "fp16") / MIB, 1) == 12_852.5


@pytest.mark.parametrize(
    ("of", "ranks", "mib"),
    [
        (LLAMA_7B, 2, 6551),
        (LLAMA_7B, 4, 3401),
        (QWEN_7B, 2, 7957),
        (QWEN_7B, 4, 4572),
        (LLAMA_13B, 2, 12_569),
        (LLAMA_13B, 4, 6441),
    ],
)
def test_weights_of_one_rank(of: Model, ranks: int, mib: int) -> None:
    assert weights_bytes(of, "fp16", tensor_parallel=ranks) / MIB == pytest.approx(mib, rel=1e-3)


def test_a_pipelines_fullest_rank_has_an_end_of_the_model() -> None:
    two = weights_bytes(LLAMA_7B, "fp16", pipeline_parallel=2)
    assert two == pytest.approx((6_738_415_616 - 2 * 32000 * 4096) + 2 * 32000 * 4096, rel=1e-3)


@pytest.mark.parametrize(("of", "kib"), [(LLAMA_7B, 512), (QWEN_7B, 512), (LLAMA_13B, 800)])
def test_kv_cache_of_one_token_is_exact(of: Model, kib: int) -> None:
    assert kv_bytes_per_token(of) == kib * 1024


@pytest.mark.parametrize(
    ("of", "batch", "tokens", "gib"),
    [
        (LLAMA_7B, 4, 2048, 4.0),
        (QWEN_7B, 4, 4096, 8.0),
        (QWEN_7B, 8, 2560, 10.0),
        (LLAMA_13B, 4, 2048, 6.25),
        (LLAMA_13B, 4, 4096, 12.5),
        (LLAMA_13B, 8, 2560, 15.625),
    ],
)
def test_kv_cache_of_the_worked_examples_is_exact(of: Model, batch: int, tokens: int, gib: float) -> None:
    assert batch * tokens * kv_bytes_per_token(of) == gib * GIB


def test_kv_cache_agrees_with_what_engines_logged() -> None:
    assert kv_bytes_per_token(model("mistral-7b-v0.1"), tensor_parallel=4) == 7_767_851_008 / 237_056
    assert kv_bytes_per_token(model("gemma-7b")) == 54_022_635_520 / 117_760


def test_one_kv_head_is_not_split_further() -> None:
    of = model("falcon-7b")
    assert kv_bytes_per_token(of, tensor_parallel=8) == kv_bytes_per_token(of)


@pytest.mark.parametrize(("of", "gib"), [(LLAMA_7B, 1.17), (QWEN_7B, 1.17), (LLAMA_13B, 1.47)])
def test_activations_of_the_worked_examples(of: Model, gib: float) -> None:
    assert activations_bytes(of, 8 * 2048) / GIB == pytest.approx(gib, abs=0.005)


def test_attention_that_is_not_fused_grows_with_the_square() -> None:
    assert attention_bytes(LLAMA_7B, 4, 2048) == 4 * attention_bytes(LLAMA_7B, 4, 1024)


def test_scales_of_packed_checkpoints_count() -> None:
    bare, scaled = weights_bytes(LLAMA_7B, "int4"), weights_bytes(LLAMA_7B, "int4", group_size=128)
    assert 0.05 < scaled / bare - 1 < 0.07


def test_experts_all_count_as_weights_and_only_some_as_work() -> None:
    of = model("qwen3-30b-a3b")
    assert weights_bytes(of, "bf16") == 2 * 30_532_122_624
    assert activations_bytes(of, 1) == (4 * 2048 + 2 * 8 * 768) * 2


# --- one deployment -----------------------------------------------------------------------------------------------


def test_qwen_7b_at_4_times_4096_overflows_a_24_gb_card() -> None:
    told = estimate(spec("tensorrt_llm", 4, 4096, 2048), machine(), QWEN_7B)
    assert told.verdict == "over"
    parts = {part.kind: part.mib for part in told.places[0].parts}
    assert parts["weights"] == math.ceil(14.3819 * 1024) and parts["kv_cache"] == 8192
    without_fixed = told.needed_mib - parts["fixed"]
    assert without_fixed / 1024 == pytest.approx(23.0, abs=0.1)


def test_qwen_7b_in_int4_fits_a_12_gb_card() -> None:
    card = machine(free_mib=11_900, total_mib=12_288)
    told = estimate(spec("tensorrt_llm", 4, 2048, 1024, precision="int4"), card, QWEN_7B)
    assert told.verdict in ("fits", "tight")
    assert told.needed_mib / 1024 == pytest.approx(9.6 + 1.0, abs=0.2)


def test_parts_add_up_and_every_gpu_is_told() -> None:
    told = estimate(spec("vllm", gpus=(0, 1)), machine(gpus=2), LLAMA_13B)
    assert [place.index for place in told.places] == [0, 1]
    for place in told.places:
        assert place.needed_mib == sum(part.mib for part in place.parts)
        assert place.left_mib == 24_000 - place.needed_mib
    assert told.tensor_parallel == 2


@pytest.mark.parametrize(
    ("needed", "free", "total", "verdict"),
    [
        (1000, 3000, 3000, "fits"),
        (1000, 2024, 4096, "fits"),
        (1000, 2023, 4096, "tight"),
        (100_000, 104_000, 144_000, "tight"),
        (100_000, 106_000, 144_000, "fits"),
        (1000, 999, 4096, "over"),
        (1000, None, None, "unknown"),
    ],
)
def test_tight_is_less_than_a_gib_or_four_percent(
    needed: int, free: int | None, total: int | None, verdict: str
) -> None:
    assert verdict_of(needed, free, total) == verdict


def test_without_gpus_the_hosts_memory_counts() -> None:
    told = estimate(spec("transformers", gpus=()), machine(), LLAMA_7B)
    assert told.places[0].index is None
    assert told.precision == "fp32"
    assert told.places[0].parts[0].mib == math.ceil(4 * 6_738_415_616 / MIB)


def test_a_machine_without_gpus_needs_no_choice() -> None:
    assert estimate(spec("transformers"), Hardware(ram_free_mib=8000), LLAMA_7B).verdict == "over"


def test_an_engine_that_needs_a_gpu_is_not_forecast_for_a_cpu() -> None:
    told = estimate(spec("vllm"), Hardware(ram_free_mib=8000), LLAMA_7B)
    assert told.unknown is not None and "needs an NVIDIA GPU" in told.unknown.en


def test_the_hosts_memory_for_conversion_is_that_of_fp32() -> None:
    stages = {need.stage.en: need for need in estimate(spec("fastertransformer"), machine(), LLAMA_7B).host}
    convert = stages["Convert (in fp32)"]
    assert 27_000 < (convert.ram_mib or 0) < 29_000
    assert convert.disk_mib == math.ceil(2 * 6_738_415_616 / MIB)


def test_an_engine_build_asks_for_48_gib_of_host_memory() -> None:
    stages = {need.stage.en: need for need in estimate(spec("tensorrt_llm"), machine(), LLAMA_7B).host}
    assert (stages["Build engine"].ram_mib or 0) / 1024 == pytest.approx(46, abs=2)
    small = machine().model_copy(update={"ram_free_mib": 32_000})
    stages = {need.stage.en: need for need in estimate(spec("tensorrt_llm"), small, LLAMA_7B).host}
    assert stages["Build engine"].verdict == "over"


def test_images_lie_on_dockers_disk_and_weights_on_the_data_disk() -> None:
    disks = (Disk(purpose="data", path="/", free_mib=100_000), Disk(purpose="images", path="/d", free_mib=10_000))
    here = machine().model_copy(update={"disks": disks})
    stages = {need.stage.en: need.verdict for need in estimate(spec("tensorrt_llm"), here, LLAMA_7B).host}
    assert (stages["Image"], stages["Convert"]) == ("over", "fits")


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_without_a_choice_a_chat_has_4096_tokens_at_most(engine: str) -> None:
    assert estimate(spec(engine, context=None), machine(), model("llama-3.1-8b-instruct")).context == 4096
    assert estimate(spec(engine, context=None), machine(), model("gpt2")).context == 1024
    assert estimate(spec(engine, context=8192), machine(), model("llama-3.1-8b-instruct")).context == 8192


def test_what_is_not_known_is_said_and_not_guessed() -> None:
    told = estimate(spec(), machine(), LLAMA_7B.model_copy(update={"parameters": None}))
    assert told.verdict == "unknown" and told.places == ()
    assert told.unknown is not None and "parameters" in told.unknown.en


def test_a_gpu_that_does_not_tell_its_memory_is_unknown() -> None:
    assert estimate(spec(), machine(free_mib=None), LLAMA_7B).verdict == "unknown"


def test_heads_that_gpus_cannot_share_are_said() -> None:
    told = estimate(spec("vllm", gpus=(0, 1, 2)), machine(gpus=3), LLAMA_7B)
    assert told.unknown is not None and "32 attention heads" in told.unknown.en


@pytest.mark.parametrize(
    ("name", "precision"), [("llama-2-7b-gptq", "int4"), ("llama-3.1-8b-instruct", "bf16"), ("gpt2", "fp16")]
)
def test_auto_comes_to_what_the_files_hold(name: str, precision: str) -> None:
    assert resolved_precision(spec(), machine(), model(name)) == precision


@pytest.mark.parametrize(
    ("dtype", "gpus", "sm", "ram", "precision"),
    [
        ("fp16", 1, 86, 64_000, "fp16"),
        ("bf16", 1, 86, 64_000, "bf16"),
        ("bf16", 1, 75, 64_000, "fp16"),
        ("fp32", 1, 86, 64_000, "fp32"),
        ("fp16", 0, 86, 64_000, "fp32"),
        ("fp16", 0, 86, 30_000, "bf16"),
        ("fp32", 0, 86, 30_000, "fp32"),
    ],
)
def test_the_embedded_engines_auto_is_what_it_decides_at_load(
    dtype: str, gpus: int, sm: int, ram: int, precision: str
) -> None:
    here = machine(gpus=gpus, sm=sm).model_copy(update={"ram_free_mib": ram})
    of = LLAMA_7B.model_copy(update={"dtype": dtype})
    assert resolved_precision(spec("transformers"), here, of) == precision


MEASURED = [  # model, chats, tokens, MiB that one H200 had in use at worst (docs/memory.md), Triton's process included
    ((28, 1024, 4096, 16, 8, 64, 32000, False), 16, 4096, 8781 + 591),
    ((16, 2048, 8192, 32, 8, 64, 128256, True), 16, 4096, 7905 + 591),
    ((32, 4096, 11008, 32, 32, 128, 32000, False), 16, 4096, 71581 + 591),
    ((28, 1024, 4096, 16, 8, 64, 32000, False), 4, 2048, 2785 + 591),
]


@pytest.mark.parametrize(("shape", "chats", "context", "measured"), MEASURED)
def test_the_embedded_engines_forecast_is_within_a_tenth_of_what_was_measured(
    shape: tuple[int, int, int, int, int, int, int, bool], chats: int, context: int, measured: int
) -> None:
    layers, hidden, inner, heads, kv_heads, head_size, vocabulary, tied = shape
    config = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_size,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "torch_dtype": "float16",
        "max_position_embeddings": 131072,
    }
    shapes = read_config(config)
    of = LLAMA_7B.model_copy(update={**shapes.model_dump(exclude={"counted", "notes"}), "parameters": shapes.counted})
    told = estimate(spec("transformers", chats, context, 1024), machine(143_000, total_mib=143_771, sm=90), of)
    assert told.needed_mib == pytest.approx(measured, rel=0.10)


# --- what would fit -----------------------------------------------------------------------------------------------


def test_where_it_fits_nothing_is_offered() -> None:
    assert changes_that_fit(spec("vllm", 1, 2048, 512), machine(), LLAMA_7B) == ()


def test_the_overflow_of_qwen_7b_is_mended_four_ways() -> None:
    offered = changes_that_fit(spec("tensorrt_llm", 4, 4096, 2048), machine(gpus=2), QWEN_7B)
    words = [suggestion.text.en for suggestion in offered]
    assert words[0] == "Serve 3 chats at once instead of 4"
    assert words[1].startswith("Allow 3,") and words[1].endswith("tokens a chat instead of 4,096")
    assert words[2:] == ["Use int8 weights instead of fp16", "Split it over 2 GPUs: 0, 1"]


def test_a_model_too_large_alone_is_made_smaller_in_several_ways_at_once() -> None:
    offered = changes_that_fit(spec("transformers", 64, 4096), machine(free_mib=15_800, total_mib=16_384), LLAMA_7B)
    assert offered
    assert offered[0].spec.limits.concurrent < 64


def test_what_can_never_fit_gets_no_false_hope() -> None:
    assert changes_that_fit(spec("transformers"), machine(free_mib=4000), LLAMA_13B) == ()


_NAMES = [
    "llama-2-7b",
    "qwen-7b-chat",
    "llama-3.1-8b-instruct",
    "gpt2",
    "mixtral-8x7b",
    "falcon-7b",
    "qwen3-0.6b",
    "t5-3b",
]


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(_NAMES),
    st.sampled_from(["transformers", "fastertransformer", "tensorrt_llm", "vllm"]),
    st.integers(1, 256),
    st.none() | st.integers(512, 200_000),
    st.integers(1000, 150_000),
    st.integers(1, 4),
)
def test_every_offer_fits_and_changes_something(
    name: str, engine: str, batch: int, context: int | None, free: int, gpus: int
) -> None:
    of, wanted, here = model(name), spec(engine, batch, context, 512), machine(free, gpus, total_mib=max(free, 24_576))
    for offer in changes_that_fit(wanted, here, of):
        assert offer.spec != wanted
        assert estimate(offer.spec, here, of).verdict in ("fits", "tight")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(_NAMES), st.integers(1, 128), st.integers(600, 100_000), st.sampled_from(sorted(BYTES)))
def test_more_chats_and_longer_ones_never_need_less(name: str, batch: int, context: int, precision: str) -> None:
    assume(precision != "fp8")
    of, here = model(name), machine()
    least = estimate(spec("tensorrt_llm", batch, context, 512, precision=precision), here, of).needed_mib
    assert estimate(spec("tensorrt_llm", batch + 1, context, 512, precision=precision), here, of).needed_mib >= least
    assert estimate(spec("tensorrt_llm", batch, context + 100, 512, precision=precision), here, of).needed_mib >= least


def test_a_split_takes_as_many_of_the_first_gpus_as_it_has_ranks() -> None:
    wanted = spec("fastertransformer", fastertransformer=FasterTransformerOptions(tensor_parallel=2))
    assert len(estimate(wanted, machine(gpus=4), LLAMA_7B).places) == 2


def test_t5_is_counted_in_fp32_on_fastertransformer_as_its_recipe_runs_it() -> None:
    t5 = LLAMA_7B.model_copy(update={"encoder_decoder": True})
    assert estimate(spec("fastertransformer"), machine(), t5).precision == "fp32"
