"""What is read of a model, and what is refused: folders, hubs, hostile files."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.errors import BadInput, NotFound, SlipwayError, Unreachable
from backends.headers import add_up, header_length, read_header
from backends.model_config import read_config
from backends.probes.model import inspect
from backends.spec import Model, ModelSource
from tests.checkpoints import CONFIGS, config_of, llama_tensors, make_folder, write_safetensors
from tests.hub import Hub, serving


def look(folder: Path, root: Path | None = None, demo: Path | None = None) -> Model:
    source = ModelSource(kind="folder", id=str(folder))
    return inspect(source, allowed_roots=[root or folder.parent], demo_folder=demo or folder.parent)


def refused(folder: Path, root: Path | None = None) -> BadInput:
    with pytest.raises(BadInput) as caught:
        look(folder, root)
    assert caught.value.field == "model"
    return caught.value


# --- config.json --------------------------------------------------------------------------------------------------

PUBLISHED = {  # parameters as the models' own pages and transformers' meta models count them
    "bloom-560m": 559_214_592,
    "falcon-7b": 6_921_720_704,
    "flan-t5-small": 76_961_152,
    "gemma-2-2b": 2_614_341_888,
    "gemma-7b": 8_537_680_896,
    "gpt-j-6b": 6_050_882_784,
    "gpt2": 124_439_808,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3.1-8b-instruct": 8_030_261_248,
    "llama-3.2-1b": 1_235_814_400,
    "mistral-7b-v0.1": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "opt-125m": 125_239_296,
    "phi-2": 2_779_683_840,
    "pythia-70m": 70_426_624,
    "qwen-7b-chat": 7_721_324_544,
    "qwen2.5-0.5b-instruct": 494_032_768,
    "qwen2.5-7b-yarn": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-30b-a3b": 30_532_122_624,
    "t5-3b": 2_851_598_336,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_familys_formula_counts_parameters_exactly(name: str) -> None:
    assert read_config(config_of(name)).counted == PUBLISHED[name]


def test_an_early_llama_leaves_kv_heads_head_size_and_tying_to_defaults() -> None:
    shapes = read_config(config_of("llama-7b"))
    assert (shapes.kv_heads, shapes.head_size, shapes.tied_embeddings) == (32, 128, False)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        ("llama-2-7b", 4096),
        ("llama-3.1-8b-instruct", 131_072),
        ("qwen2.5-7b-yarn", 131_072),
        ("qwen-7b-chat", 8192),
        ("gpt-j-6b", 2048),
        ("gemma-3-4b-it", 131_072),
    ],
)
def test_the_context_counts_rope_scaling_in(name: str, context: int) -> None:
    assert read_config(config_of(name)).context == context


def test_linear_scaling_stretches_the_context() -> None:
    config = config_of("llama-2-7b") | {"rope_scaling": {"type": "linear", "factor": 2.0}}
    assert read_config(config).context == 8192


def test_a_sliding_window_that_is_switched_off_is_none() -> None:
    assert read_config(config_of("qwen2.5-0.5b-instruct")).sliding_window is None
    assert read_config(config_of("mistral-7b-v0.1")).sliding_window == 4096


def test_one_shared_kv_head_is_read_from_multi_query() -> None:
    assert read_config(config_of("falcon-7b")).kv_heads == 1


def test_t5_tells_what_fastertransformer_asks_for() -> None:
    shapes = read_config(config_of("t5-3b"))
    assert shapes.encoder_decoder
    told = {"encoder_layers": 24, "d_ff": 16384, "d_kv": 128, "feed_forward_proj": "relu", "context_trained": 512}
    assert shapes.facts == told
    assert shapes.context is None


def test_experts_are_facts() -> None:
    facts = read_config(config_of("qwen3-30b-a3b")).facts
    assert (facts["experts"], facts["experts_per_token"], facts["expert_intermediate_size"]) == (128, 8, 768)


@pytest.mark.parametrize(("name", "method"), [("llama-2-7b-gptq", "gptq"), ("mistral-7b-awq", "awq")])
def test_packed_weights_are_named(name: str, method: str) -> None:
    shapes = read_config(config_of(name))
    assert (shapes.quantisation, shapes.facts["quantisation_bits"]) == (method, 4)


def test_a_model_that_sees_is_described_by_its_language_part() -> None:
    shapes = read_config(config_of("gemma-3-4b-it"))
    assert (shapes.model_type, shapes.layers, shapes.facts["multimodal"]) == ("gemma3_text", 34, True)


def test_an_unknown_family_is_read_by_common_names() -> None:
    shapes = read_config({"model_type": "brand_new", "n_layers": 4, "n_heads": 8, "d_model": 64, "vocab_size": 100})
    assert (shapes.layers, shapes.heads, shapes.kv_heads, shapes.head_size, shapes.counted) == (4, 8, 8, 8, None)


@pytest.mark.parametrize("value", [-5, 0, 10**30, "4096", 1e300, {"a": 1}])
def test_impossible_sizes_are_refused_by_name(value: object) -> None:
    with pytest.raises(BadInput, match="hidden_size"):
        read_config(config_of("llama-2-7b") | {"hidden_size": value})


def test_heads_that_kv_heads_do_not_divide_are_refused() -> None:
    with pytest.raises(BadInput, match="KV heads"):
        read_config(config_of("llama-2-7b") | {"num_key_value_heads": 5})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(config_of("llama-3.1-8b-instruct"))), _JSON)
def test_any_value_in_any_field_is_read_or_refused_in_words(field: str, value: object) -> None:
    try:
        shapes = read_config(config_of("llama-3.1-8b-instruct") | {field: value})
    except BadInput as error:
        assert error.message.en and error.message.zh
    else:
        assert shapes.hidden_size is None or shapes.hidden_size >= 1


_COUNT = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
counted = {}
for name, config in json.load(sys.stdin).items():
    made = CONFIG_MAPPING[config["model_type"]](**config)
    kind = AutoModelForSeq2SeqLM if made.is_encoder_decoder else AutoModelForCausalLM
    with torch.device("meta"):
        counted[name] = sum(weight.numel() for weight in kind.from_config(made).parameters())
print("counted " + json.dumps(counted))
"""


@pytest.mark.live
def test_transformers_builds_models_of_as_many_parameters(runtime_python: Path) -> None:
    left_out = {"qwen-7b-chat", "flan-t5-small"}  # the model's own code; transformers 5 ties what its config does not
    configs = {name: config_of(name) for name in PUBLISHED if name not in left_out}
    ended = subprocess.run(
        [runtime_python, "-c", _COUNT], input=json.dumps(configs), capture_output=True, text=True, timeout=300
    )
    line = next((line for line in ended.stdout.splitlines() if line.startswith("counted ")), None)
    assert line is not None, ended.stderr[-2000:]
    assert json.loads(line.removeprefix("counted ")) == {name: PUBLISHED[name] for name in configs}


# --- safetensors headers ------------------------------------------------------------------------------------------


def test_headers_count_parameters_exactly(tmp_path: Path) -> None:
    model = look(make_folder(tmp_path / "m", "llama-2-7b"))
    assert (model.parameters, model.parameters_from, model.dtype) == (6_738_415_616, "headers", "fp16")


def test_shards_are_added_up(tmp_path: Path) -> None:
    model = look(make_folder(tmp_path / "m", "llama-3.2-1b", shards=3))
    assert (model.parameters, len(model.weight_files)) == (1_235_814_400, 3)


def test_buffers_of_old_checkpoints_are_no_parameters() -> None:
    told = add_up(
        {
            "h.0.attn.bias": ("F32", (1, 1, 1024, 1024)),
            "h.0.attn.masked_bias": ("F32", ()),
            "l.rotary_emb.inv_freq": ("F32", (64,)),
            "w": ("F16", (3, 5)),
        }
    )
    assert told.parameters == 15


def test_a_bias_named_attention_bias_is_a_parameter() -> None:
    assert add_up({"h.0.attn.c_attn.bias": ("F16", (7,)), "x.attention.bias": ("F16", (4,))}).parameters == 11


def test_a_head_stored_twice_though_tied_counts_once(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-3.2-1b")
    tensors = llama_tensors(config_of("llama-3.2-1b"), "BF16") | {"lm_head.weight": ("BF16", (128256, 2048))}
    write_safetensors(folder / "model.safetensors", tensors)
    assert look(folder).parameters == 1_235_814_400


def test_a_missing_head_means_tied(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-7b")
    tensors = llama_tensors(config_of("llama-7b"))
    del tensors["lm_head.weight"]
    write_safetensors(folder / "model.safetensors", tensors)
    model = look(folder)
    assert model.tied_embeddings is True
    assert any("tied" in note.en for note in model.notes)


def test_a_file_cut_off_is_noticed_without_reading_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1000)
    assert "1000 bytes are missing" in refused(folder).message.en


@pytest.mark.parametrize("first", [b"", b"\x00" * 8, struct.pack("<Q", 2**63), b"PK\x03\x04abcd"])
def test_what_is_no_safetensors_file_is_refused(first: bytes) -> None:
    with pytest.raises(BadInput):
        header_length("model.safetensors", first, 10**9)


@pytest.mark.parametrize(
    "said",
    [
        {"dtype": "F16", "shape": [-1, 4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4], "data_offsets": [0, 9]},
        {"dtype": "F16", "shape": [2**60], "data_offsets": [0, 2**61]},
        {"dtype": "F16", "shape": "4", "data_offsets": [0, 8]},
        {"dtype": ["F16"], "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F16", "shape": [4]},
        [],
        None,
    ],
)
def test_hostile_headers_are_refused(said: object) -> None:
    with pytest.raises(BadInput):
        read_header("model.safetensors", json.dumps({"w": said}).encode(), 10**6)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_as_a_header_are_read_or_refused(data: bytes) -> None:
    try:
        assert read_header("x.safetensors", data, None) == {} or data.startswith(b"{")
    except BadInput as error:
        assert "x.safetensors" in error.message.en


# --- folders ------------------------------------------------------------------------------------------------------


def test_the_tokenizers_facts_come_from_several_files(tmp_path: Path) -> None:
    told = look(make_folder(tmp_path / "m", "llama-3.1-8b-instruct")).tokenizer
    assert told.chat_template is True
    assert told.eos_token_ids == (128001, 128008, 128009)
    assert (told.bos_token_id, told.eos_token) == (128000, "<|eot_id|>")


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_in_a_file_of_its_own_counts(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    assert look(folder).tokenizer.chat_template is False
    (folder / name).write_text("{}", encoding="utf-8")
    assert look(folder).tokenizer.chat_template is True


def test_qwens_first_generation_names_no_eos_token_and_asks_for_its_code(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    for file in (CONFIGS / "qwen-7b-chat").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model = look(folder)
    assert model.tokenizer.eos_token is None
    assert model.tokenizer.eos_token_ids == (151643,)
    assert (model.facts["chat_format"], model.remote_code) == ("chatml", True)


def test_an_eos_id_is_found_through_the_token_where_no_file_names_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    (folder / "generation_config.json").unlink()
    config = config_of("llama-2-7b")
    del config["eos_token_id"]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tokenizer = {"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 7, "content": "</s>"}]}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    told = look(folder).tokenizer
    assert (told.eos_token_ids, told.kind, told.vocab_size) == ((7,), "BPE", 8)


def test_code_beside_a_model_is_never_run(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    config = config_of("llama-2-7b") | {"auto_map": {"AutoConfig": "trap.Config"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')", encoding="utf-8")
    assert look(folder).remote_code is True
    assert not (tmp_path / "sprung").exists()
    assert "trap" not in sys.modules


def test_pickled_weights_are_named_and_not_opened(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    model = look(folder)
    assert (model.weight_format, model.weight_files) == ("pickle", ("pytorch_model.bin",))
    assert (model.parameters, model.parameters_from) == (6_738_415_616, "config")
    assert any("pickle" in note.en for note in model.notes)


def test_a_config_that_leaves_sizes_out_gets_transformers_own(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    config = {"model_type": "codegen", "architectures": ["CodeGenForCausalLM"], "n_embd": 64}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    model = look(folder)
    assert (model.layers, model.hidden_size, model.heads, model.vocab_size) == (28, 64, 16, 50400)


def test_the_demo_folder_needs_no_root(tmp_path: Path) -> None:
    demo = make_folder(tmp_path / "demo", "llama-2-7b")
    model = inspect(ModelSource(kind="demo"), allowed_roots=[], demo_folder=demo)
    assert (model.source.kind, model.layers) == ("demo", 32)


def test_a_relative_path_starts_at_a_root(tmp_path: Path) -> None:
    make_folder(tmp_path / "m", "llama-2-7b")
    assert look(Path("m"), root=tmp_path).layers == 32


def test_a_path_outside_the_roots_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "m", "llama-2-7b")
    (tmp_path / "root").mkdir()
    for path in (tmp_path / "m", Path("../m"), tmp_path / "root" / ".." / "m", Path("/etc")):
        assert "does not lie under" in refused(path, tmp_path / "root").message.en


def test_a_link_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "m", "llama-2-7b")
    root = tmp_path / "root"
    root.mkdir()
    (root / "m").symlink_to(tmp_path / "m")
    assert "does not lie under" in refused(root / "m", root).message.en


def test_a_file_that_links_out_of_the_roots_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    folder = make_folder(root / "m", "llama-2-7b")
    (tmp_path / "secret.json").write_text("{}", encoding="utf-8")
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to(tmp_path / "secret.json")
    assert "leads out" in refused(folder, root).message.en


def test_a_pipe_in_place_of_a_file_does_not_block(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")
    assert "no config.json" in refused(folder).message.en


def test_not_there_and_not_a_folder_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    assert "is not there" in refused(tmp_path / "nothing").message.en
    assert "is not a folder" in refused(tmp_path / "file").message.en


@pytest.mark.parametrize("data", ["", "{", "[]", '{"a": ' * 5000, "nul", '{"hidden_size": ' + "9" * 5000 + "}"])
def test_a_broken_config_is_refused_in_words(tmp_path: Path, data: str) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    (folder / "config.json").write_text(data, encoding="utf-8")
    assert "config.json" in refused(folder).message.en


def test_a_config_too_large_is_not_read(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-2-7b")
    os.truncate(folder / "config.json", 2**33)
    assert "larger than 1 MiB" in refused(folder).message.en


def test_weights_missing_pointers_and_lost_shards_are_told_apart(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-3.2-1b", shards=3)
    shard = folder / "model-00002-of-00003.safetensors"
    shard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    error = refused(folder)
    assert "Git LFS pointer" in error.message.en
    assert error.hint is not None and "git lfs pull" in error.hint.en
    shard.unlink()
    assert "1 of 3 weight files are missing: model-00002" in refused(folder).message.en
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    assert "no weights" in refused(folder).message.en
    (folder / "model.gguf").write_bytes(b"GGUF")
    assert "model.gguf" in refused(folder).message.en


def test_an_index_that_names_files_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", "llama-3.2-1b", shards=2)
    index = {"weight_map": {"w": "../../etc/passwd"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    assert "does not name the weight files properly" in refused(folder).message.en


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    assert "LoRA adapter" in refused(folder).message.en


# --- hubs ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    folder = make_folder(tmp_path / "hubs", "llama-3.1-8b-instruct", shards=2)
    with serving(Hub(models={"meta/llama": folder})) as hub:
        yield hub


def ask(hub: Hub, kind: str = "huggingface", model: str = "meta/llama", **more: str | None) -> Model:
    source = ModelSource(kind=kind, id=model, revision=more.pop("revision", None))  # type: ignore[arg-type]
    environment = {"HF_ENDPOINT": hub.url, "MODELSCOPE_ENDPOINT": hub.url}
    environment |= {name: value for name, value in more.items() if value}
    return inspect(source, allowed_roots=[], demo_folder=Path("/"), timeout_s=60, environment=environment)


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_a_hub_gives_the_same_facts_as_the_folder(hub: Hub, kind: str) -> None:
    near = look(hub.models["meta/llama"])
    far = ask(hub, kind)
    assert far == near.model_copy(update={"source": far.source, "tokenizer": far.tokenizer})
    assert far.tokenizer.eos_token_ids == near.tokenizer.eos_token_ids


def test_of_weights_only_headers_travel(hub: Hub) -> None:
    ask(hub)
    weights = [span for path, span in hub.asked if path.endswith(".safetensors")]
    assert len(weights) == 4
    assert all(span is not None and int(span.split("-")[1]) < 100_000 for span in weights)


def test_a_gated_model_says_where_to_ask_and_opens_with_a_token(hub: Hub) -> None:
    hub.gated.add("meta/llama")
    with pytest.raises(Unreachable) as caught:
        ask(hub)
    assert "gated" in caught.value.message.en
    assert caught.value.hint is not None
    assert f"{hub.url}/meta/llama" in caught.value.hint.en and "HF_TOKEN" in caught.value.hint.en
    assert ask(hub, HF_TOKEN=hub.token).layers == 32


def test_a_token_is_never_shown(hub: Hub) -> None:
    hub.gated.add("meta/llama")
    with pytest.raises(Unreachable) as caught:
        ask(hub, HF_TOKEN="hf_wrong_secret")
    assert "hf_wrong_secret" in hub.tokens
    assert "hf_wrong_secret" not in caught.value.of("en") + caught.value.of("zh") + repr(caught.value)


@pytest.mark.parametrize("kind", ["huggingface", "modelscope"])
def test_an_id_that_the_hub_does_not_have_is_not_found(hub: Hub, kind: str) -> None:
    with pytest.raises(NotFound, match="no public model “meta/nothing”"):
        ask(hub, kind, "meta/nothing")


def test_a_revision_that_the_model_does_not_have_is_not_found(hub: Hub) -> None:
    with pytest.raises(NotFound, match="no revision “nowhere”"):
        ask(hub, revision="nowhere")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_hub_in_trouble_is_out_of_reach(hub: Hub, status: int) -> None:
    hub.status = status
    with pytest.raises(Unreachable) as caught:
        ask(hub)
    assert caught.value.hint is not None and "HF_ENDPOINT" in caught.value.hint.en


def test_a_hub_that_is_not_there_is_out_of_reach_within_the_time(hub: Hub) -> None:
    hub.url = "http://127.0.0.1:9"
    with pytest.raises(Unreachable, match="was not reached"):
        ask(hub)


def _cache(hub: Hub, cache: Path) -> Path:
    commit = "0" * 40
    repository = cache / "models--meta--llama"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit, encoding="utf-8")
    (repository / "blobs").mkdir()
    for file in hub.models["meta/llama"].iterdir():
        blob = repository / "blobs" / file.name
        file.rename(blob)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    return cache


@pytest.mark.parametrize("how", ["offline", "away"])
def test_a_copy_in_the_cache_stands_in_for_a_hub_out_of_reach(hub: Hub, tmp_path: Path, how: str) -> None:
    cache = _cache(hub, tmp_path / "cache")
    environment = {"HF_HUB_OFFLINE": "1"} if how == "offline" else {"HF_ENDPOINT": "http://127.0.0.1:9"}
    source = ModelSource(kind="huggingface", id="meta/llama")
    model = inspect(
        source, allowed_roots=[], demo_folder=tmp_path, hub_cache=cache, timeout_s=60, environment=environment
    )
    assert model.parameters == 8_030_261_248
    assert any("cache" in note.en for note in model.notes)


def test_offline_and_not_in_the_cache_is_said(tmp_path: Path) -> None:
    source = ModelSource(kind="huggingface", id="meta/llama")
    with pytest.raises(Unreachable, match="HF_HUB_OFFLINE is set"):
        inspect(
            source,
            allowed_roots=[],
            demo_folder=tmp_path,
            hub_cache=tmp_path / "cache",
            environment={"HF_HUB_OFFLINE": "1"},
        )


def test_every_refusal_speaks_both_languages(tmp_path: Path, hub: Hub) -> None:
    hub.status = 404
    found: list[SlipwayError] = [refused(tmp_path / "nothing")]
    for kind in ("huggingface", "modelscope"):
        with pytest.raises(SlipwayError) as caught:
            ask(hub, kind)
        found.append(caught.value)
    assert all(error.message.zh != error.message.en and error.hint for error in found)
