"""The scripts that FasterTransformer's plans run: checkouts, weights, kernels, the model repository."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from backends import pbtxt
from backends.errors import BadInput
from backends.fastertransformer import repository
from backends.fastertransformer.progress import Reader
from backends.lint.finding import Finding
from tests.upstream import FIXTURES, ROOT, TOOLS, checkpoint, git_repository, shape, tokenizer, tool

LLAMA = FIXTURES / "backend" / "all_models" / "llama"
FETCH = ROOT / "assets" / "tools" / "fetch_git.py"


def run(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, words)], cwd=cwd, capture_output=True, text=True, check=False)


# --- weights ----------------------------------------------------------------------------------------------------------


def count(family: str, tensor: int, layers: int) -> int:
    expected, _ = tool("check_weights").shapes(tool("check_weights").configparser.ConfigParser(),
                                               shape(family, tensor, layers))  # fmt: skip
    return len(expected)


@pytest.mark.parametrize(("tensor", "layers"), [(1, 2), (2, 2), (4, 32)])
def test_a_llama_has_five_files_a_layer_and_rank_two_a_layer_and_three_more(tensor: int, layers: int) -> None:
    assert count("llama", tensor, layers) == layers * (5 * tensor + 2) + 3


@pytest.mark.parametrize(("tensor", "layers"), [(1, 28), (2, 28)])
def test_a_gptj_has_five_files_a_layer_and_rank_three_a_layer_and_five_more(tensor: int, layers: int) -> None:
    assert count("gptj", tensor, layers) == layers * (5 * tensor + 3) + 5


def test_a_t5_of_two_and_two_layers_has_45_files_and_one_is_the_head() -> None:
    check = tool("check_weights")
    expected, optional = check.shapes(check.configparser.ConfigParser(), shape("t5"))
    assert (len(expected), list(optional)) == (44, ["lm_head.weight"])


def test_sizes_add_up_to_the_parameters_of_llama_7b() -> None:
    given = shape("llama", 2, 32, hidden=4096, heads=32, head_size=128, inner=11008, vocab=32000)
    expected, _ = tool("check_weights").shapes(None, given)
    assert sum(expected.values()) == 6_738_415_616


@pytest.mark.parametrize("family", ["llama", "gptj", "t5"])
def test_a_whole_conversion_passes(tmp_path: Path, family: str) -> None:
    given = shape(family, tensor=2)
    assert tool("check_weights").check(checkpoint(tmp_path / "2-gpu", given), given) == []


@pytest.mark.parametrize("family", ["llama", "gptj", "t5"])
def test_every_single_missing_file_is_named(tmp_path: Path, family: str) -> None:
    given = shape(family, tensor=2, layers=1)
    folder = checkpoint(tmp_path / "2-gpu", given)
    for path in sorted(folder.glob("*.bin")):
        data = path.read_bytes()
        path.unlink()
        assert tool("check_weights").check(folder, given) == [f"{path.name} is missing"]
        path.write_bytes(data)


def test_a_short_file_is_named_with_both_sizes(tmp_path: Path) -> None:
    given = shape("llama")
    folder = checkpoint(tmp_path / "1-gpu", given)
    (folder / "model.wte.weight.bin").write_bytes(b"\0" * 10)
    assert tool("check_weights").check(folder, given) == ["model.wte.weight.bin has 10 bytes, 768 are needed"]


def test_a_folder_of_another_split_or_type_does_not_pass(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "2-gpu", shape("llama", tensor=2))
    assert tool("check_weights").check(folder, shape("llama", tensor=4))
    assert tool("check_weights").check(folder, shape("llama", tensor=2, type="fp32")) != []


def test_a_config_of_another_model_is_told(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "1-gpu", shape("llama"))
    found = tool("check_weights").check(folder, shape("llama", vocab=25))
    assert "config.ini says vocab_size = 24, the model has 25" in found


def test_a_named_folder_may_be_of_any_type_that_it_says(tmp_path: Path) -> None:
    given = shape("gptj", type="fp32")
    folder = checkpoint(tmp_path / "1-gpu", given)
    assert tool("check_weights").check(folder, shape("gptj", type="any")) == []


def test_gptj_of_the_older_branch_needs_no_config_ini(tmp_path: Path) -> None:
    given = shape("gptj")
    folder = checkpoint(tmp_path / "1-gpu", given)
    (folder / "config.ini").unlink()
    assert tool("check_weights").check(folder, given)
    assert tool("check_weights").check(folder, shape("gptj", config_optional=True)) == []


def test_the_check_ends_badly_and_prints_what_it_found(tmp_path: Path) -> None:
    words = ("--family=llama", "--tensor=1", "--layers=1", "--hidden=4", "--heads=1", "--head-size=4", "--inner=8",
             "--vocab=8")  # fmt: skip
    ended = run(TOOLS / "check_weights.py", tmp_path / "none", *words)
    assert ended.returncode == 1
    assert "is not there" in ended.stdout


# --- kernels ----------------------------------------------------------------------------------------------------------

HEADER = "batch_size, seq_len, head_num, size_per_head dataType ### batchCount, n, m, k, algoId, customOption"


def a_tool(folder: Path, code: str) -> Path:
    path = folder / "gpt_gemm"
    path.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    path.chmod(0o755)
    return path


def test_a_gemm_tool_that_ends_well_and_writes_nothing_is_a_failure(tmp_path: Path) -> None:
    usage = a_tool(tmp_path, "print('[ERROR] gpt_gemm batch_size beam_width')")
    ended = run(TOOLS / "run_gemm.py", tmp_path / "out", usage, "8")
    assert ended.returncode == 1
    assert "wrote no entries" in ended.stdout


def test_an_old_result_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gemm_config.in").write_text(f"{HEADER}\n1 2 3\n", encoding="utf-8")
    assert run(TOOLS / "run_gemm.py", tmp_path / "out", a_tool(tmp_path, "pass"), "8").returncode == 1


def test_what_a_gemm_tool_writes_lands_where_the_server_looks(tmp_path: Path) -> None:
    writes = a_tool(tmp_path, f"open('gemm_config.in', 'w').write({HEADER!r} + '\\n8 32 16 256 1 ### 1 2\\n')")
    assert run(TOOLS / "run_gemm.py", tmp_path / "out", writes, "8").returncode == 0
    placed = run(TOOLS / "place_gemm.py", tmp_path / "out" / "gemm_config.in", tmp_path / "server")
    assert placed.returncode == 0
    assert (tmp_path / "server" / "gemm_config.in").read_text(encoding="utf-8").startswith("batch_size")


@pytest.mark.parametrize("text", ["", "hello\n", f"{HEADER}\n"])
def test_a_file_that_is_no_gemm_config_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "gemm_config.in").write_text(text, encoding="utf-8")
    assert run(TOOLS / "place_gemm.py", tmp_path / "gemm_config.in", tmp_path / "server").returncode == 1
    assert not (tmp_path / "server").exists()


# --- the model repository ---------------------------------------------------------------------------------------------


def write(tmp_path: Path, template: Path = LLAMA, **parameters: str) -> tuple[object, ...]:
    weights = checkpoint(tmp_path / "weights" / "1-gpu", shape("llama"))
    told = {"tensor_para_size": "1", "model_checkpoint_path": f"{weights}/", "int8_mode": "1"} | parameters
    return repository.write(
        template, tmp_path / "out", told, tokenizer=str(tokenizer(tmp_path / "it's a “model”")), decoupled=False
    )


def test_fields_are_set_and_the_rest_stays_as_upstream_has_it(tmp_path: Path) -> None:
    assert write(tmp_path) == ()
    was = pbtxt.read((LLAMA / "fastertransformer" / "config.pbtxt").read_text(encoding="utf-8"))
    now = pbtxt.read((tmp_path / "out" / "fastertransformer" / "config.pbtxt").read_text(encoding="utf-8"))
    assert now.parameters["int8_mode"].string_value == "1"
    assert now.model_transaction_policy.decoupled is False
    for key in ("tensor_para_size", "model_checkpoint_path", "int8_mode"):
        was.parameters[key].string_value = now.parameters[key].string_value
    was.model_transaction_policy.decoupled = False
    assert was == now


@pytest.mark.parametrize("model", ["preprocessing", "postprocessing"])
def test_a_tokenizers_path_with_quotes_lands_in_the_call_that_loads_it(tmp_path: Path, model: str) -> None:
    write(tmp_path)
    text = (tmp_path / "out" / model / "1" / "model.py").read_text(encoding="utf-8")
    named = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
    assert str(tmp_path / "it's a “model”") in named
    assert "/ft_workspace/llama_7b_hf" not in text


def test_every_model_gets_a_version_folder(tmp_path: Path) -> None:
    write(tmp_path)
    assert all((folder / "1").is_dir() for folder in (tmp_path / "out").iterdir())


def test_a_repository_with_an_error_does_not_take_the_place_of_the_old_one(tmp_path: Path) -> None:
    write(tmp_path)
    assert write(tmp_path, tensor_para_size="2") != ()
    now = pbtxt.read((tmp_path / "out" / "fastertransformer" / "config.pbtxt").read_text(encoding="utf-8"))
    assert now.parameters["tensor_para_size"].string_value == "1"


def test_a_folder_that_is_no_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput):
        write(tmp_path, FIXTURES)


def test_a_link_that_leads_out_of_the_checkout_is_refused(tmp_path: Path) -> None:
    template = tmp_path / "llama"
    subprocess.run(("cp", "-r", LLAMA, template), check=True)
    (template / "ensemble" / "secret").symlink_to("/etc/hostname")
    with pytest.raises(BadInput):
        write(tmp_path, template)


def test_links_within_the_checkout_are_followed(tmp_path: Path) -> None:
    git_repository(FIXTURES / "backend", tmp_path / "checkout")
    models = tmp_path / "checkout" / "all_models"
    (models / "gpt" / "utils").mkdir(parents=True)
    (models / "gpt" / "utils" / "encoder.py").write_text("", encoding="utf-8")
    (models / "llama" / "preprocessing" / "1" / "utils").symlink_to("../../../gpt/utils")
    assert write(tmp_path, models / "llama") == ()
    assert (tmp_path / "out" / "preprocessing" / "1" / "utils" / "encoder.py").is_file()


def test_links_within_a_checkout_that_is_no_git_repository_are_followed(tmp_path: Path) -> None:
    models = tmp_path / "checkout" / "all_models"
    models.parent.mkdir()
    subprocess.run(("cp", "-r", FIXTURES / "blog" / "all_models", models.parent), check=True)
    (models / "gptj" / "postprocessing" / "1" / "utils").rename(models / "utils")
    (models / "gptj" / "postprocessing" / "1" / "utils").symlink_to("../../../utils")
    repository.copy(models / "gptj", tmp_path / "out")
    assert (tmp_path / "out" / "preprocessing" / "1" / "utils" / "gpt_token_encoder.py").is_file()


def test_a_link_in_a_circle_is_refused(tmp_path: Path) -> None:
    git_repository(FIXTURES / "backend", tmp_path / "checkout")
    models = tmp_path / "checkout" / "all_models"
    (models / "llama" / "ensemble" / "again").symlink_to("..")
    with pytest.raises(BadInput):
        write(tmp_path, models / "llama")


BPE = {
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
    "added_tokens": [{"id": 3, "content": "<|endoftext|>"}],
}


@pytest.mark.parametrize(
    ("files", "vocabulary", "merges"),
    [
        ({"vocab.json": '{"a": 0}', "merges.txt": "#version: 0.2\n"}, {"a": 0}, "#version: 0.2\n"),
        (
            {"tokenizer.json": json.dumps(BPE)},
            {"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3},
            "#version: 0.2\na b\n",
        ),
    ],
)
def test_the_vocabulary_that_older_branches_read_beside_model_py_is_the_models_own(
    tmp_path: Path, files: dict[str, str], vocabulary: dict[str, int], merges: str
) -> None:
    folder = tokenizer(tmp_path / "model")
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    assert write_gptj(tmp_path, folder) == ()
    for model in ("preprocessing", "postprocessing"):
        beside = tmp_path / "out" / model / "1"
        assert json.loads((beside / "gpt2-vocab.json").read_text(encoding="utf-8")) == vocabulary
        assert (beside / "gpt2-merges.txt").read_text(encoding="utf-8") == merges


def test_a_vocabulary_that_an_older_branch_would_not_find_is_told_before_the_server_starts(tmp_path: Path) -> None:
    found = write_gptj(tmp_path, tokenizer(tmp_path / "model"))
    assert {(one.severity, one.file) for one in found} == {
        ("error", "preprocessing/1/model.py"), ("error", "postprocessing/1/model.py")
    }  # fmt: skip
    assert "vocab.json" in found[0].hint.en + found[1].hint.en
    assert not (tmp_path / "out").exists()


def write_gptj(tmp_path: Path, model: Path, packages: str | None = None) -> tuple[Finding, ...]:
    weights = checkpoint(tmp_path / "weights" / "2-gpu", shape("gptj", tensor=2))
    told = {"tensor_para_size": "2", "model_checkpoint_path": f"{weights}/"}
    template = FIXTURES / "blog" / "all_models" / "gptj"
    return repository.write(template, tmp_path / "out", told, tokenizer=str(model), packages=packages, decoupled=False)


def test_packages_that_the_python_models_need_lie_beside_them(tmp_path: Path) -> None:
    package = tmp_path / "packages" / "regex"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (tmp_path / "packages" / "regex-1.dist-info").mkdir()
    folder = tokenizer(tmp_path / "model")
    (folder / "tokenizer.json").write_text(json.dumps(BPE), encoding="utf-8")
    assert write_gptj(tmp_path, folder, packages=str(tmp_path / "packages")) == ()
    names = {path.name for path in (tmp_path / "out" / "preprocessing" / "1").iterdir()}
    assert names == {"model.py", "word_list.py", "utils", "regex", "gpt2-vocab.json", "gpt2-merges.txt"}
    assert not list((tmp_path / "out" / "fastertransformer" / "1").iterdir())


def test_a_module_that_the_image_lacks_is_named_before_the_server_starts(tmp_path: Path) -> None:
    folder = tmp_path / "preprocessing" / "1"
    (folder / "utils").mkdir(parents=True)
    (folder / "model.py").write_text(
        "import json\nimport utils.words\nimport triton_python_backend_utils\n"
        "try:\n    import faster_json\nexcept ImportError:\n    pass\n",
        encoding="utf-8",
    )
    assert tool("check_tokenizer").main(str(tmp_path)) == 0
    (folder / "utils" / "words.py").write_text("def words():\n    import no_such_regex as re\n", encoding="utf-8")
    ended = run(TOOLS / "check_tokenizer.py", tmp_path)
    assert ended.returncode == 1
    assert "slipway: preprocessing imports no_such_regex, which this image has not" in ended.stdout


def test_the_command_prints_findings_and_ends_badly(tmp_path: Path) -> None:
    ended = run("-m", "backends.fastertransformer.repository", LLAMA, tmp_path / "out", cwd=ROOT)
    assert ended.returncode == 1
    assert "error: fastertransformer/config.pbtxt model_checkpoint_path" in ended.stdout
    assert not (tmp_path / "out").exists()


def test_tokenizers_are_read_out_of_model_py_without_running_it() -> None:
    text = (LLAMA / "preprocessing" / "1" / "model.py").read_text(encoding="utf-8")
    assert list(tool("check_tokenizer").tokenizers(ast.parse(text))) == [
        ("LlamaTokenizer", "/ft_workspace/llama_7b_hf")
    ]


# --- checkouts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def upstream(tmp_path: Path) -> tuple[Path, str]:
    commit = git_repository(FIXTURES / "backend", tmp_path / "upstream")
    subprocess.run(("git", "tag", "v1"), cwd=tmp_path / "upstream", check=True)
    (tmp_path / "upstream" / "later").write_text("later\n", encoding="utf-8")
    author = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(("git", "add", "-A"), cwd=tmp_path / "upstream", check=True)
    subprocess.run(("git", *author, "commit", "-q", "-m", "later"), cwd=tmp_path / "upstream", check=True)
    return tmp_path / "upstream", commit


def head(folder: Path) -> str:
    return subprocess.run(
        ("git", "rev-parse", "HEAD"), cwd=folder, capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.parametrize("how", ["full", "short", "tag"])
def test_a_pinned_revision_is_taken_by_commit_short_commit_and_tag(
    tmp_path: Path, upstream: tuple[Path, str], how: str
) -> None:
    source, commit = upstream
    revision = {"full": commit, "short": commit[:7], "tag": "v1"}[how]
    ended = run(FETCH, f"file://{source}", revision, tmp_path / "copy")
    assert ended.returncode == 0, ended.stderr
    assert head(tmp_path / "copy") == commit
    assert not (tmp_path / "copy" / "later").exists()


@pytest.mark.parametrize("revision", ["main", "HEAD"])
def test_a_branch_is_taken_at_its_newest_commit(tmp_path: Path, upstream: tuple[Path, str], revision: str) -> None:
    assert run(FETCH, f"file://{upstream[0]}", revision, tmp_path / "copy").returncode == 0
    assert (tmp_path / "copy" / "later").exists()


def test_a_fetch_that_was_broken_off_is_finished(tmp_path: Path, upstream: tuple[Path, str]) -> None:
    source, commit = upstream
    subprocess.run(("git", "init", "-q", tmp_path / "copy"), check=True)
    for _ in range(2):
        assert run(FETCH, f"file://{source}", commit[:7], tmp_path / "copy").returncode == 0
    assert head(tmp_path / "copy") == commit


def test_a_checkout_moves_to_another_revision_and_drops_changes(tmp_path: Path, upstream: tuple[Path, str]) -> None:
    source, commit = upstream
    run(FETCH, f"file://{source}", "main", tmp_path / "copy")
    (tmp_path / "copy" / "later").write_text("changed\n", encoding="utf-8")
    assert run(FETCH, f"file://{source}", commit, tmp_path / "copy").returncode == 0
    assert not (tmp_path / "copy" / "later").exists()


@pytest.mark.parametrize("revision", ["no-such-branch", "0123456789"])
def test_a_revision_that_is_not_there_is_told(tmp_path: Path, upstream: tuple[Path, str], revision: str) -> None:
    ended = run(FETCH, f"file://{upstream[0]}", revision, tmp_path / "copy")
    assert ended.returncode == 1
    assert f"has no revision {revision}" in ended.stderr


def test_a_named_submodule_is_fetched_and_one_that_is_none_is_no_matter(tmp_path: Path) -> None:
    git_repository(FIXTURES / "backend", tmp_path / "cutlass")
    git_repository(FIXTURES / "blog", tmp_path / "library")
    allow = ("-c", "protocol.file.allow=always", "-c", "user.name=t", "-c", "user.email=t@example.org",
             "-c", "commit.gpgsign=false")  # fmt: skip
    for words in (
        ("submodule", "add", "-q", f"file://{tmp_path / 'cutlass'}", "3rdparty/cutlass"),
        ("commit", "-q", "-m", "cutlass"),
    ):
        subprocess.run(("git", *allow, *words), cwd=tmp_path / "library", check=True, capture_output=True)
    words = (FETCH, f"file://{tmp_path / 'library'}", "main", tmp_path / "copy", "--submodule", "3rdparty/cutlass")
    settings = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "protocol.file.allow", "GIT_CONFIG_VALUE_0": "always"}
    ended = subprocess.run(
        [sys.executable, *map(str, words), "--submodule", "3rdparty/none"], env=os.environ | settings, check=False
    )
    assert ended.returncode == 0
    assert (tmp_path / "copy" / "3rdparty" / "cutlass" / "all_models").is_dir()


# --- how far a command is ---------------------------------------------------------------------------------------------


def fractions(*lines: str) -> list[float | None]:
    reader = Reader()
    return [told.fraction for line in lines if (told := reader.read(line)) is not None]


def test_a_llamas_conversion_tells_how_far_it_is() -> None:
    told = fractions("hf_config: {'num_hidden_layers': 2}", "- model.norm.weight", "converting layer 0", "done layer 0",
                     "converting layer 1", "done layer 1")  # fmt: skip
    assert told == pytest.approx([0.3, 0.3, 0.65, 0.65, 1.0])


def test_gptjs_conversion_says_its_layers_itself() -> None:
    assert fractions("Saving layer 14 / 28", "Saving layer 28 / 28") == pytest.approx([0.65, 1.0])


def test_a_build_tells_makes_percents() -> None:
    assert fractions("[ 42%] Building CUDA object src/x.cu.o", "[100%] Built target gpt_gemm") == [0.42, 1.0]


def test_two_jobs_of_make_that_say_theirs_the_wrong_way_round_take_nothing_back() -> None:
    assert fractions("[ 50%] Building CXX object b.o", "[ 25%] Building CXX object a.o") == [0.5, 0.5]


def test_loading_shards_is_the_first_part_of_a_conversion() -> None:
    assert fractions("Loading checkpoint shards:  50%|#####     | 1/2 [00:05<00:05]") == pytest.approx([0.15])


def test_each_product_that_a_gemm_tool_measures_is_told_once() -> None:
    reader = Reader()
    lines = ("***Encoder Gemm Testing Begin***", "***Cublas Gemm Testing Begin***", "-----------------------------",
             "GEMM test 0: [M: 32, K: 4096, N: 6144] context from_tensor * weightQKV", "algo_99 costs 0.031ms ",
             "***cublasLt Gemm Testing Beign***", "***cublasLt Gemm Testing End***",
             "GEMM test 1: [M: 32, K: 256, N: 32] context batch gemm Q*K^T")  # fmt: skip
    told = [one.text.en for line in lines if (one := reader.read(line)) is not None]
    assert told == ["Measuring matrix product 1", "Measuring matrix product 2"]


def test_lines_that_say_nothing_of_progress_are_passed_over() -> None:
    assert fractions("=============== Argument ===============", "- lm_head.weight", "") == []
