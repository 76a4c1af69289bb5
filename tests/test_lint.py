"""What is found in model repositories that are not as Triton or FasterTransformer wants them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from backends import pbtxt
from backends.errors import BadInput
from backends.fastertransformer import repository
from backends.lint import Finding, lint
from tests.upstream import FIXTURES, checkpoint, shape, tokenizer


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A LLaMA repository as the recipe writes it, in which nothing is wrong."""
    weights = checkpoint(tmp_path / "weights" / "2-gpu", shape("llama", tensor=2))
    found = repository.write(
        FIXTURES / "backend" / "all_models" / "llama",
        tmp_path / "repository",
        {"tensor_para_size": "2", "model_checkpoint_path": f"{weights}/", "int8_mode": "0"},
        tokenizer=str(tokenizer(tmp_path / "model")),
        decoupled=True,
    )
    assert found == ()
    return tmp_path / "repository"


def change(folder: Path, model: str, edit: Callable[[pbtxt.ModelConfig], None]) -> None:
    path = folder / model / "config.pbtxt"
    config = pbtxt.read(path.read_text(encoding="utf-8"))
    edit(config)
    path.write_text(pbtxt.text_of(config), encoding="utf-8")


def set_parameter(key: str, value: str) -> Callable[[pbtxt.ModelConfig], None]:
    def edit(config: pbtxt.ModelConfig) -> None:
        config.parameters[key].string_value = value

    return edit


def only(findings: tuple[Finding, ...], field: str | None, words: str) -> Finding:
    """The one finding of that field; its words are in it."""
    found = [finding for finding in findings if finding.field == field]
    assert len(found) == 1, findings
    assert words in found[0].message.en
    return found[0]


# --- any model --------------------------------------------------------------------------------------------------------


def test_nothing_is_found_in_a_repository_that_is_well(llama: Path) -> None:
    assert lint(llama) == ()


def test_a_config_that_does_not_parse_names_its_line(llama: Path) -> None:
    path = llama / "preprocessing" / "config.pbtxt"
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join([*lines[:2], "no_such_field: 1", *lines[2:]]), encoding="utf-8")
    found = lint(llama)[0]
    assert (found.file, found.line) == ("preprocessing/config.pbtxt", 3)
    assert "no_such_field" in found.message.en


def test_a_name_that_is_not_the_folders_is_found(llama: Path) -> None:
    change(llama, "postprocessing", lambda config: setattr(config, "name", "postprocess"))
    only(lint(llama), "name", "the folder's is “postprocessing”")


def test_a_missing_version_folder_is_found(llama: Path) -> None:
    (llama / "ensemble" / "1").rmdir()
    assert [(one.file, one.severity) for one in lint(llama)] == [("ensemble", "error")]


def test_a_missing_model_file_is_found(llama: Path) -> None:
    (llama / "preprocessing" / "1" / "model.py").unlink()
    only(lint(llama), "default_model_filename", "model.py")


def test_a_template_variable_that_was_not_filled_names_its_line(llama: Path) -> None:
    change(llama, "preprocessing", set_parameter("tokenizer_dir", "${tokenizer_dir}"))
    found = next(one for one in lint(llama) if "${tokenizer_dir}" in one.message.en)
    text = (llama / "preprocessing" / "config.pbtxt").read_text(encoding="utf-8").splitlines()
    assert "${tokenizer_dir}" in text[(found.line or 0) - 1]


def test_a_model_folder_instead_of_a_repository_is_told_so(llama: Path) -> None:
    assert any("not a repository" in one.message.en for one in lint(llama / "preprocessing"))


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        lint(tmp_path / "none")


def test_a_parameter_that_is_there_twice_is_found(llama: Path) -> None:
    path = llama / "fastertransformer" / "config.pbtxt"
    twice = 'parameters {\n  key: "int8_mode"\n  value {\n    string_value: "1"\n  }\n}\n'
    path.write_text(path.read_text(encoding="utf-8") + twice, encoding="utf-8")
    assert only(lint(llama), "int8_mode", "2 times").severity == "warning"


# --- Python models ----------------------------------------------------------------------------------------------------


def rewrite(llama: Path, old: str, new: str) -> None:
    path = llama / "postprocessing" / "1" / "model.py"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_python_that_does_not_parse_names_its_line(llama: Path) -> None:
    rewrite(llama, "class TritonPythonModel:", "class TritonPythonModel")
    found = lint(llama)[0]
    assert found.file == "postprocessing/1/model.py"
    assert found.line is not None


def test_a_python_model_without_its_class_is_found(llama: Path) -> None:
    rewrite(llama, "TritonPythonModel", "Model")
    assert any("no class TritonPythonModel" in one.message.en for one in lint(llama))


def test_a_model_that_streams_without_being_decoupled_is_found(llama: Path) -> None:
    rewrite(llama, "responses = []", "responses = [one.get_response_sender() for one in requests]")
    only(lint(llama), "model_transaction_policy.decoupled", "streams its answers")


def test_a_decoupled_model_that_never_streams_is_found(llama: Path) -> None:
    change(llama, "postprocessing", lambda config: setattr(config.model_transaction_policy, "decoupled", True))
    only(lint(llama), "model_transaction_policy.decoupled", "never takes a response sender")


@pytest.mark.parametrize(
    ("path", "words", "severity"),
    [
        ("/nowhere/llama", "is not there", "error"),
        ("owner/model", "looked up on a hub", "warning"),
        ("./model", "relative to wherever the server is started", "warning"),
    ],
)
def test_a_tokenizer_that_the_server_would_not_find_is_found(
    llama: Path, tmp_path: Path, path: str, words: str, severity: str
) -> None:
    rewrite(llama, str(tmp_path / "model"), path)
    assert only(lint(llama), "from_pretrained", words).severity == severity


def test_a_folder_without_a_tokenizer_is_found(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "model" / "tokenizer.json").unlink()
    assert any("holds no tokenizer" in one.message.en for one in lint(llama))


def test_paths_inside_a_container_are_looked_for_where_its_mounts_lie(llama: Path, tmp_path: Path) -> None:
    rewrite(llama, str(tmp_path / "model"), "/inside/model")
    assert lint(llama) != ()
    assert lint(llama, {"/inside": str(tmp_path)}) == ()


# --- ensembles --------------------------------------------------------------------------------------------------------


def step(config: pbtxt.ModelConfig, number: int):
    return config.ensemble_scheduling.step[number]


def test_a_step_of_an_unknown_model_is_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: setattr(step(config, 0), "model_name", "preprocess"))
    only(lint(llama), "ensemble_scheduling.step[0].model_name", "preprocess")


def test_an_input_that_the_model_lacks_is_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: step(config, 1).input_map.update({"inputs": "_INPUT_ID"}))
    only(lint(llama), "ensemble_scheduling.step[1].input_map", "no input “inputs”")


def test_a_required_input_that_is_not_mapped_is_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: step(config, 1).input_map.pop("input_lengths"))
    only(lint(llama), "ensemble_scheduling.step[1].input_map", "“input_lengths” of fastertransformer is required")


def test_a_value_that_nothing_makes_is_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: step(config, 2).input_map.update({"TOKENS_BATCH": "_TOKENS"}))
    only(lint(llama), "ensemble_scheduling.step[2].input_map.TOKENS_BATCH", "Nothing makes “_TOKENS”")


def test_types_that_do_not_meet_are_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: setattr(config.input[1], "data_type", 10))
    found = only(lint(llama), "ensemble_scheduling.step[0].input_map.REQUEST_OUTPUT_LEN", "changes its type")
    assert "UINT32" in found.message.en


def test_dims_that_do_not_meet_are_found(llama: Path) -> None:
    change(llama, "postprocessing", lambda config: config.input[0].dims.append(3))
    only(lint(llama), "ensemble_scheduling.step[2].input_map.TOKENS_BATCH", "does not fit")


def test_an_ensemble_of_larger_batches_than_its_models_take_is_found(llama: Path) -> None:
    change(llama, "preprocessing", lambda config: setattr(config, "max_batch_size", 8))
    only(lint(llama), "max_batch_size", "preprocessing of 8 at most")


def test_an_output_that_no_step_makes_is_found(llama: Path) -> None:
    change(llama, "ensemble", lambda config: setattr(config.output[0], "name", "TEXT"))
    only(lint(llama), "output.TEXT", "Nothing makes")


# --- FasterTransformer ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("tensor_para_size", "two", "counts as 0"),
        ("tensor_para_size", "4", "split for 2"),
        ("pipeline_para_size", "0", "counts as 0"),
        ("data_type", "half", "is no type"),
        ("model_type", "llama", "no model type"),
        ("int8_mode", "2", "ends the server"),
        ("int8_mode", "yes", "is no mode"),
        ("model_checkpoint_path", "/nowhere/2-gpu/", "is not there"),
    ],
)
def test_a_parameter_that_the_server_would_misread_is_found(llama: Path, key: str, value: str, words: str) -> None:
    change(llama, "fastertransformer", set_parameter(key, value))
    assert any(one.field == key and words in one.message.en and one.severity == "error" for one in lint(llama))


def test_int8_with_fp32_is_found(llama: Path) -> None:
    change(llama, "fastertransformer", set_parameter("int8_mode", "1"))
    change(llama, "fastertransformer", set_parameter("data_type", "fp32"))
    only(lint(llama), "int8_mode", "fp32")


def test_instances_on_gpus_are_found(llama: Path) -> None:
    change(llama, "fastertransformer", lambda config: setattr(config.instance_group[0], "kind", 1))
    only(lint(llama), "instance_group.kind", "KIND_GPU")


def test_a_relative_checkpoint_is_a_warning(llama: Path) -> None:
    change(llama, "fastertransformer", set_parameter("model_checkpoint_path", "./models/2-gpu/"))
    assert only(lint(llama), "model_checkpoint_path", "relative").severity == "warning"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("config.ini", "no config.ini"),
        ("model.lm_head.weight.bin", "tied embeddings"),
    ],
)
def test_a_converted_folder_that_lacks_a_file_is_found(llama: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "weights" / "2-gpu" / name).unlink()
    only(lint(llama), "model_checkpoint_path", words)


def test_an_empty_weight_file_is_found(llama: Path, tmp_path: Path) -> None:
    (tmp_path / "weights" / "2-gpu" / "model.wte.weight.bin").write_bytes(b"")
    only(lint(llama), "model_checkpoint_path", "model.wte.weight.bin is empty")


def test_weights_of_fewer_ranks_than_the_config_says_are_found(llama: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "weights" / "2-gpu").glob("*.1.bin"):
        path.unlink()
    only(lint(llama), "tensor_para_size", "of 1 ranks")


def test_every_finding_is_told_in_both_languages(llama: Path) -> None:
    change(llama, "fastertransformer", set_parameter("model_type", "llama"))
    found = lint(llama)[0]
    assert found.message.zh != found.message.en
    assert "Llama" in found.hint.zh
