"""Model repositories out of upstream's templates: every placeholder, every check, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from backends import pbtxt
from backends.errors import BadInput, CannotDo
from backends.lint import lint as lint_all
from backends.steps import fill_step
from backends.tensorrt_llm import engine_config, filling, lint, placeholders, templates, tokenizer_edits
from backends.tensorrt_llm.filling import Wanted
from backends.tensorrt_llm.versions import Release, numbers, releases
from tests.guided_trtllm import GUIDED, LLAMA2, Guided, guided, machine
from tests.trtllm_upstream import committed
from tests.trtllm_upstream import templates as upstream

OLD_ENGINE = {
    "builder_config": {
        "name": "llama", "precision": "bfloat16", "tensor_parallel": 1, "num_heads": 32, "hidden_size": 4096,
        "vocab_size": 32000, "num_layers": 32, "max_batch_size": 8, "max_input_len": 2048, "max_output_len": 512,
        "max_num_tokens": None,
    },
    "plugin_config": {
        "paged_kv_cache": True, "tokens_per_block": 64, "gpt_attention_plugin": "bfloat16",
        "remove_input_padding": True, "use_custom_all_reduce": False,
    },
}  # fmt: skip
NEW_ENGINE = {
    "version": "0.19.0",
    "pretrained_config": {
        "architecture": "LlamaForCausalLM", "dtype": "bfloat16", "logits_dtype": "float32", "vocab_size": 128256,
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}, "quantization": {"quant_algo": None},
    },
    "build_config": {
        "max_batch_size": 16, "max_input_len": 4096, "max_seq_len": 5120, "max_beam_width": 1, "kv_cache_type": "PAGED",
        "plugin_config": {"gpt_attention_plugin": "auto", "remove_input_padding": True, "use_paged_context_fmha": True},
    },
}  # fmt: skip
NEWEST_ENGINE = NEW_ENGINE | {
    "version": "1.2.1",
    "pretrained_config": NEW_ENGINE["pretrained_config"]  # type: ignore[operator]
    | {"mapping": {"world_size": 1, "tp_size": 1, "pp_size": 1}, "quantization": {"quant_algo": "W8A16"}},
}
CASES = {
    "0.5.0": ("trtllm-004-llama-2-7b-bf16", OLD_ENGINE, "llama_bfloat16_tp1_rank0.engine"),
    "0.19.0": ("trtllm-0.19-llama-3.1-8b-tp2", NEW_ENGINE, "rank0.engine rank1.engine"),
    "1.2.1": ("trtllm-1.2-llama-3.1-8b-int8", NEWEST_ENGINE, "rank0.engine"),
}


def engine(folder: Path, config: dict, files: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in files.split():
        (folder / name).write_text("engine", encoding="utf-8")
    return folder


def wanted(name: str, folder: Path, **changes: object) -> Wanted:
    """What the plan of that name wants, its places filled."""
    return wanted_by(GUIDED[name], folder, **changes)


def wanted_by(one: Guided, folder: Path, **changes: object) -> Wanted:
    """What a deployment's plan wants, its places filled."""
    places = {"home": str(folder), "models": str(folder / "models"), "run": str(folder / "run"), "assets": "/a",
              "python": "python3"}  # fmt: skip
    step = fill_step(one.plan().step("settings"), places)
    told = json.loads(step.files[0].text) | changes  # type: ignore[union-attr]
    return Wanted.model_validate(told)


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Wanted, Path]:
    name, config, files = CASES[request.param]
    template = upstream(request.param, tmp_path / "templates")
    return request.param, template, wanted(name, tmp_path), engine(tmp_path / "engine", config, files)


def test_every_placeholder_of_a_template_is_set(case: tuple[str, Path, Wanted, Path], tmp_path: Path) -> None:
    _, template, told, built = case
    templates.fill(template, told, built, tmp_path / "out")
    for path in (tmp_path / "out").glob("*/config.pbtxt"):
        assert "${" not in path.read_text(encoding="utf-8")


def test_all_models_have_the_engines_batch_and_the_same_decoupled(
    case: tuple[str, Path, Wanted, Path], tmp_path: Path
) -> None:
    _, template, told, built = case
    templates.fill(template, told, built, tmp_path / "out")
    configs = {path.parent.name: pbtxt.read(path.read_text("utf-8")) for path in (tmp_path / "out").glob("*/*.pbtxt")}
    assert {config.max_batch_size for config in configs.values()} == {told.max_batch}
    assert {"ensemble", "preprocessing", "tensorrt_llm", "postprocessing"} <= set(configs)
    generating = [config for name, config in configs.items() if name.startswith("tensorrt_llm")]
    assert all(config.model_transaction_policy.decoupled for config in generating)


def test_a_bls_model_that_asks_its_own_server_is_told_the_port_of_this_one(
    case: tuple[str, Path, Wanted, Path], tmp_path: Path
) -> None:
    version, template, told, built = case
    if version == "0.5.0":
        assert not (template / "tensorrt_llm_bls").exists()
        return
    with (template / "tensorrt_llm_bls" / "1" / "model.py").open("a", encoding="utf-8") as file:
        file.write('ASKED = "localhost:8001/v2/models/"\n')
    templates.fill(template, told, built, tmp_path / "out", 18001)
    made = (tmp_path / "out" / "tensorrt_llm_bls" / "1" / "model.py").read_text(encoding="utf-8")
    assert 'ASKED = "localhost:18001/v2/models/"' in made


def test_a_filled_repository_is_well_by_our_own_lint(case: tuple[str, Path, Wanted, Path], tmp_path: Path) -> None:
    _, template, told, built = case
    placed = {"tokenizer_dir": str(tmp_path), "engine_dir": str(built)}
    templates.fill(template, told.model_copy(update={"values": told.values | placed}), built, tmp_path / "out")
    assert lint_all(tmp_path / "out") == ()


def engine_of(row: Release) -> dict:
    """An engine's config.json as that version writes it: 0.12 on: the lengths' sum, 0.15 on: the cache's kind."""
    have = numbers(row.version)
    length = {"max_seq_len": 2560} if have >= (0, 12) else {"max_output_len": 512}
    plugins = {"gpt_attention_plugin": "float16", "remove_input_padding": True, "use_paged_context_fmha": True}
    build = {"max_batch_size": 8, "max_input_len": 2048, "max_beam_width": 1, **length}
    build |= {"kv_cache_type": "PAGED"} if have >= (0, 15) else {}
    plugins |= {} if have >= (0, 15) else {"paged_kv_cache": True}
    pretrained = {
        "architecture": "LlamaForCausalLM", "dtype": "float16", "logits_dtype": "float32", "vocab_size": 32000,
        "mapping": {"world_size": 2, "tp_size": 2, "pp_size": 1}, "quantization": {"quant_algo": None},
    }  # fmt: skip
    return {"version": row.version, "pretrained_config": pretrained, "build_config": build | {"plugin_config": plugins}}


@pytest.mark.parametrize("row", [row for row in releases() if row.flow == "trtllm_build"], ids=lambda row: row.release)
def test_each_release_from_0_8_on_gets_its_template_filled_parsed_and_held_against_its_engine(
    row: Release, tmp_path: Path
) -> None:
    cards = machine("NVIDIA A100-SXM4-80GB", 80, 2, 81_920, "590.44.01")
    sizes = {"max_batch": 8, "max_input": 2048, "max_output": 512, "tensor_parallel": 2}
    told = wanted_by(guided(LLAMA2, cards, "each", release=row.release, flow="trtllm_build", **sizes), tmp_path)
    assert told.version == row.version
    built = engine(tmp_path / "engine", engine_of(row), "rank0.engine rank1.engine")
    told = told.model_copy(update={"values": told.values | {"tokenizer_dir": str(tmp_path), "engine_dir": str(built)}})
    template = upstream(row.version, tmp_path / "templates")
    templates.fill(template, told, built, tmp_path / "out")
    assert lint_all(tmp_path / "out") == ()
    for path in (tmp_path / "out").glob("*/config.pbtxt"):
        text = path.read_text(encoding="utf-8")
        assert "${" not in text and pbtxt.read(text).max_batch_size == 8
    with pytest.raises(CannotDo) as caught:
        templates.fill(template, told.model_copy(update={"max_batch": 9, "tensor_parallel": 1}), built, tmp_path / "no")
    assert "batches of 9" in caught.value.of("en") and "1 x 1 ranks" in caught.value.of("en")


def test_the_template_of_0_12_calls_the_pictures_model_by_its_older_name(tmp_path: Path) -> None:
    template = upstream("0.12.0", tmp_path / "t")
    told = (template / "preprocessing" / "config.pbtxt").read_text(encoding="utf-8")
    assert "${visual_model_path}" in told and "${multimodal_model_path}" not in told


def test_upstreams_files_stay_as_they_are(case: tuple[str, Path, Wanted, Path], tmp_path: Path) -> None:
    _, template, told, built = case
    before = {path: path.read_bytes() for path in template.rglob("*") if path.is_file()}
    templates.fill(template, told, built, tmp_path / "out")
    assert before == {path: path.read_bytes() for path in template.rglob("*") if path.is_file()}


def test_what_is_not_set_is_not_there_for_the_core(tmp_path: Path) -> None:
    name, config, files = CASES["0.19.0"]
    template, built = upstream("0.19.0", tmp_path / "t"), engine(tmp_path / "e", config, files)
    templates.fill(template, wanted(name, tmp_path), built, tmp_path / "out")
    core = pbtxt.read((tmp_path / "out/tensorrt_llm/config.pbtxt").read_text(encoding="utf-8"))
    assert "gpu_device_ids" not in core.parameters and "medusa_choices" not in core.parameters
    assert core.parameters["gpt_model_path"].string_value.startswith(str(tmp_path))


def test_v1_batching_is_written_where_0_5_has_no_placeholder_for_it(tmp_path: Path) -> None:
    name, config, files = CASES["0.5.0"]
    template, built = upstream("0.5.0", tmp_path / "t"), engine(tmp_path / "e", config, files)
    templates.fill(template, wanted(name, tmp_path, batching="v1"), built, tmp_path / "out")
    core = pbtxt.read((tmp_path / "out/tensorrt_llm/config.pbtxt").read_text(encoding="utf-8"))
    assert core.parameters["gpt_model_type"].string_value == "V1"


@pytest.mark.parametrize(("changes", "sign"), [
    ({"max_batch": 16}, "the engine was built for 8"),
    ({"tensor_parallel": 2}, "The engine is split 1 x 1"),
    ({"values": {"tokenizer_dir": "/m", "engine_dir": "/e", "decoupled_mode": True,
                 "max_tokens_in_paged_kv_cache": 1000}}, "one may need 2,560"),
])  # fmt: skip
def test_a_repository_that_does_not_fit_the_engine_is_refused(
    tmp_path: Path, changes: dict[str, object], sign: str
) -> None:
    name, config, files = CASES["0.5.0"]
    template, built = upstream("0.5.0", tmp_path / "t"), engine(tmp_path / "e", config, files)
    with pytest.raises(CannotDo) as caught:
        templates.fill(template, wanted(name, tmp_path, **changes), built, tmp_path / "out")
    assert any(sign in reason.en for reason in caught.value.reasons)
    assert not (tmp_path / "out").exists()


def test_an_engine_without_the_trio_of_flags_cannot_batch_in_flight(tmp_path: Path) -> None:
    name, config, files = CASES["0.5.0"]
    plain = config | {"plugin_config": config["plugin_config"] | {"paged_kv_cache": False}}
    template, built = upstream("0.5.0", tmp_path / "t"), engine(tmp_path / "e", plain, files)
    with pytest.raises(CannotDo) as caught:
        templates.fill(template, wanted(name, tmp_path), built, tmp_path / "out")
    assert "In-flight batching needs" in caught.value.of("en")


def test_an_engine_with_a_rank_missing_is_refused(tmp_path: Path) -> None:
    name, config, _ = CASES["0.19.0"]
    template, built = upstream("0.19.0", tmp_path / "t"), engine(tmp_path / "e", config, "rank0.engine")
    with pytest.raises(CannotDo) as caught:
        templates.fill(template, wanted(name, tmp_path), built, tmp_path / "out")
    assert "rank1.engine" in caught.value.of("en")


def test_a_template_of_another_version_is_refused_by_its_placeholder(tmp_path: Path) -> None:
    name, config, files = CASES["0.5.0"]
    template, built = upstream("0.5.0", tmp_path / "t"), engine(tmp_path / "e", config, files)
    path = template / "tensorrt_llm" / "config.pbtxt"
    path.write_text(path.read_text("utf-8") + 'parameters { key: "x" value { string_value: "${brand_new}" } }\n')
    with pytest.raises(BadInput) as caught:
        templates.fill(template, wanted(name, tmp_path), built, tmp_path / "out")
    assert caught.value.field == "brand_new"


@pytest.mark.parametrize(("name", "value"), [
    ("tokenizer_type", "bert"), ("decoupled_mode", "yes"), ("kv_cache_free_gpu_mem_fraction", 1.5),
    ("max_tokens_in_paged_kv_cache", 0), ("engine_dir", "engines"), ("engine_dir", "/a/../b"),
    ("engine_dir", '/a"} evil'), ("batching_strategy", "V2"), ("gpu_device_ids", "a,b"),
    ("triton_max_batch_size", True), ("lora_prefetch_dir", "/${x}"), ("logits_datatype", "TYPE_BF16"),
])  # fmt: skip
def test_what_cannot_stand_in_a_placeholder_is_refused(name: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        placeholders.placeholders()[name].spelled(value)  # type: ignore[arg-type]
    assert caught.value.field == name


def test_the_command_line_says_what_is_wrong_in_both_languages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, config, files = CASES["0.5.0"]
    template, built = upstream("0.5.0", tmp_path / "t"), engine(tmp_path / "e", config, files)
    told = tmp_path / "wanted.json"
    told.write_text(wanted(name, tmp_path, max_batch=99).model_dump_json(), encoding="utf-8")
    words = ["fill", "--template", str(template), "--wanted", str(told), "--engine", str(built), "--grpc", "8001"]
    assert templates.main([*words, "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "batches of 99" in said and "批大小为 99" in said


# --- checkouts ---


def test_a_checkout_leaves_large_files_as_pointers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Git LFS is stood for by filters that write down whether it was told to leave pointers."""
    source = tmp_path / "source"
    source.mkdir()
    (source / ".gitattributes").write_text("*.a filter=lfs\n", encoding="utf-8")
    (source / "lib.a").write_text("large", encoding="utf-8")
    committed(source, "v1")
    filters = (("filter.lfs.smudge", "printenv GIT_LFS_SKIP_SMUDGE"), ("filter.lfs.clean", "cat"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(filters)))
    for number, (key, value) in enumerate(filters):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{number}", key)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{number}", value)
    tool = Path(__file__).parents[1] / "assets" / "tools" / "fetch_git.py"
    words = (sys.executable, str(tool), f"file://{source}", "v1", str(tmp_path / "out"))
    subprocess.run(words, check=True, capture_output=True)
    assert (tmp_path / "out" / "lib.a").read_text(encoding="utf-8") == "1\n"


# --- tokenizers -------------------------------------------------------------------------------------------------------

FIXTURES = Path(__file__).parent / "fixtures" / "tensorrt_llm" / "models"


def source(version: str, model: str = "preprocessing") -> str:
    return (FIXTURES / version / f"{model}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("version", ["0.5.0", "0.19.0"])
@pytest.mark.parametrize("allowed", [True, False])
def test_the_models_own_code_is_allowed_only_by_the_persons_word(version: str, allowed: bool) -> None:
    edited = tokenizer_edits.edit(source(version), trust_remote_code=allowed)
    assert ("trust_remote_code=True" in edited) is allowed


def test_a_missing_end_token_is_written_in_before_it_is_used() -> None:
    edited = tokenizer_edits.edit(source("0.5.0"), trust_remote_code=True, eos_id=151645, pad_id=151643)
    lines = [line.strip() for line in edited.splitlines()]
    place = lines.index("self.tokenizer.eos_token = self.tokenizer.decode([151645])")
    assert lines[place + 1] == "self.tokenizer.pad_token = self.tokenizer.decode([151643])"
    assert lines[place + 2].startswith("self.pad_id = ")


def test_nothing_to_edit_leaves_the_text_as_it_is() -> None:
    assert tokenizer_edits.edit(source("0.5.0"), trust_remote_code=False) == source("0.5.0")


def test_an_edit_twice_is_the_same_as_once() -> None:
    once = tokenizer_edits.edit(source("0.19.0"), trust_remote_code=True)
    assert tokenizer_edits.edit(once, trust_remote_code=True) == once


def test_a_file_without_a_place_for_the_end_token_is_refused() -> None:
    with pytest.raises(BadInput):
        tokenizer_edits.edit("x = 1\n", trust_remote_code=False, eos_id=1)


def test_non_ascii_text_before_an_edit_moves_nothing() -> None:
    text = 'a = "中文"; t = AutoTokenizer.from_pretrained("目录")\n'
    assert tokenizer_edits.edit(text, trust_remote_code=True) == (
        'a = "中文"; t = AutoTokenizer.from_pretrained("目录", trust_remote_code=True)\n'
    )


# --- engines' own config, and the look through ---


def test_both_forms_of_an_engines_config_are_read() -> None:
    old, new = engine_config.read(OLD_ENGINE), engine_config.read(NEW_ENGINE)
    assert (old.world, old.max_batch, old.max_sequence, old.inflight) == (1, 8, 2560, True)
    assert (new.world, new.max_batch, new.max_sequence, new.inflight, new.version) == (2, 16, 5120, True, "0.19.0")


def test_engine_files_are_named_by_their_split() -> None:
    piped = OLD_ENGINE | {"builder_config": OLD_ENGINE["builder_config"] | {"tensor_parallel": 2,
                                                                            "pipeline_parallel": 2}}  # fmt: skip
    assert engine_config.read(piped).files()[3] == "llama_bfloat16_tp2_pp2_rank3.engine"


def test_what_is_no_engine_is_refused() -> None:
    with pytest.raises(BadInput):
        engine_config.read({"model_type": "llama"})


def test_lint_finds_unfilled_placeholders_and_the_ensembles_batch(tmp_path: Path) -> None:
    upstream("0.5.0", tmp_path / "repository")
    found = lint.lint(tmp_path / "repository")
    assert any("${tokenizer_dir} is not filled" in one.text.en and one.sure for one in found)
    assert any("Expected" in one.text.en for one in found)  # decoupled: ${decoupled_mode} cannot be read at all
    assert any(not one.sure for one in found)  # an optional one has a default


def test_lint_finds_nothing_in_a_repository_that_was_filled(
    case: tuple[str, Path, Wanted, Path], tmp_path: Path
) -> None:
    _, template, told, built = case
    fine = told.model_copy(update={"values": told.values | {"engine_dir": str(built)}})
    templates.fill(template, fine, built, tmp_path / "out")
    assert lint.lint(tmp_path / "out") == ()


def test_lint_finds_a_pointer_in_place_of_a_library(tmp_path: Path) -> None:
    for folder in ("inflight_batcher_llm", "all_models", "tensorrt_llm/examples"):
        (tmp_path / folder).mkdir(parents=True)
    place = tmp_path / "tensorrt_llm/cpp/tensorrt_llm/batch_manager/x86_64-linux-gnu/libx.a"
    place.parent.mkdir(parents=True)
    place.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", encoding="utf-8")
    (found,) = lint.lint(tmp_path)
    assert found.path == str(place) and "git lfs pull in the submodule" in found.text.en
    assert lint.main([str(tmp_path)]) == 1


def test_the_llm_apis_repository_says_streaming_in_both_places(tmp_path: Path) -> None:
    source = tmp_path / "llmapi" / "tensorrt_llm"
    (source / "1").mkdir(parents=True)
    (source / "config.pbtxt").write_text('name: "tensorrt_llm"\nbackend: "python"\n', encoding="utf-8")
    (source / "1" / "model.py").write_text("class TritonPythonModel: pass\n", encoding="utf-8")
    settings = filling.LlmApiSettings(arguments={"model": "/m: #x", "tensor_parallel_size": 1})
    templates.llmapi(tmp_path / "llmapi", settings, tmp_path / "out")
    config = pbtxt.read((tmp_path / "out/tensorrt_llm/config.pbtxt").read_text(encoding="utf-8"))
    told = json.loads((tmp_path / "out/tensorrt_llm/1/model.yaml").read_text(encoding="utf-8"))
    assert config.model_transaction_policy.decoupled and told["triton_config"]["decoupled"]
    assert told["model"] == "/m: #x"


def test_slipway_lint_holds_anybodys_repository_to_the_same_rules(
    case: tuple[str, Path, Wanted, Path], tmp_path: Path
) -> None:
    _, template, told, built = case
    templates.fill(template, told, built, tmp_path / "out")
    path = tmp_path / "out" / "ensemble" / "config.pbtxt"
    path.write_text(path.read_text("utf-8").replace(f"max_batch_size: {told.max_batch}", "max_batch_size: 128"))
    assert any("max_batch_size must be the same in every model" in one.message.en for one in lint_all(tmp_path / "out"))
