"""Engines kept: named by content, found again, refused with the difference named, listed, registered, removed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from app.__main__ import control as make_control
from app.control import Control
from backends.errors import BadInput, CannotDo, Conflict, NotFound
from backends.spec import Limits, ModelSource, Spec, TensorRtLlmOptions
from backends.steps import Plan
from backends.tensorrt_llm import engine_config, engine_store, stamps
from backends.tensorrt_llm.stamps import Cost, Maker, Stamp, Want
from tests.guided_trtllm import machine
from tests.test_tensorrt_llm_templates import NEW_ENGINE, OLD_ENGINE, engine
from tests.upstream import tiny_llama

STAMP = Stamp(
    model="meta-llama/Llama-2-7b-hf", version="0.5.0", tensorrt="9.1.0.4", sm=80, gpu="NVIDIA A100-SXM4-80GB",
    dtype="bfloat16", max_batch=8, max_input=2048, max_sequence=2560, inflight=True,
)  # fmt: skip
WANT = Want(stamp=STAMP, cost=Cost(seconds=420, disk_mib=12_853))
INSIDE = Maker(tensorrt="9.1.0.4", tensorrt_llm="0.5.0", gpu="NVIDIA A100-SXM4-80GB", sm=80, image_digest="sha256:1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def built(folder: Path, **inside: object) -> Path:
    """An engine as a build of this plan leaves it."""
    made = engine(folder, OLD_ENGINE, "llama_bfloat16_tp1_rank0.engine")
    told = INSIDE.model_copy(update=inside).model_dump_json()
    (made / "inside.json").write_text(told, encoding="utf-8")
    return made


# --- names and differences --------------------------------------------------------------------------------------------


def test_a_name_tells_what_the_engine_is() -> None:
    assert stamps.name(STAMP).startswith("llama-2-7b-hf-trtllm0.5.0-sm80-bfloat16-tp1-b8-i2048-s2560-")


@pytest.mark.parametrize("field", ["version", "sm", "dtype", "tensor_parallel", "max_batch", "max_input", "model",
                                   "quantisation", "inflight", "image"])  # fmt: skip
def test_anything_that_makes_another_engine_makes_another_name(field: str) -> None:
    other = {"version": "0.9.0", "sm": 86, "dtype": "float16", "tensor_parallel": 2, "max_batch": 4, "max_input": 1024,
             "model": "b/Llama-2-7b-hf", "quantisation": "int8_weight_only", "inflight": False,
             "image": "mine"}[field]  # fmt: skip
    assert stamps.name(STAMP.model_copy(update={field: other})) != stamps.name(STAMP)


def test_the_gpus_name_alone_makes_no_other_engine() -> None:
    assert stamps.name(STAMP.model_copy(update={"gpu": "NVIDIA A30"})) == stamps.name(STAMP)


@pytest.mark.parametrize(("change", "sign"), [
    ({"version": "0.9.0"}, "TensorRT-LLM version: the engine has 0.9.0, 0.5.0 is needed"),
    ({"tensorrt": "9.2.0.5"}, "TensorRT version: the engine has 9.2.0.5"),
    ({"sm": 86}, "Compute capability (SM): the engine has 86, 80 is needed"),
    ({"max_batch": 4}, "Largest batch: the engine has 4, 8 is needed"),
    ({"max_sequence": 1024}, "Longest prompt with its answer"),
    ({"tensor_parallel": 2}, "Tensor parallel size: the engine has 2"),
    ({"inflight": False}, "without what in-flight batching needs"),
    ({"quantisation": "int4_weight_only"}, "Quantisation"),
])  # fmt: skip
def test_a_difference_is_named_with_what_building_again_takes(change: dict, sign: str) -> None:
    found = stamps.compare(STAMP, STAMP.model_copy(update=change), WANT.cost)
    assert any(sign in text.en for text in found.refusals)
    assert found.refusals[-1].en == "Building it again takes ~7 min, ~12.6 GiB."


def test_more_room_than_wanted_is_no_difference() -> None:
    larger = STAMP.model_copy(update={"max_batch": 16, "max_input": 4096, "max_sequence": 8192})
    assert stamps.compare(STAMP, larger) == stamps.Comparison()


@pytest.mark.parametrize(("table", "package"), [
    ("9.1.0.4", "9.1.0.post12.dev4"), ("9.3.0.post12.dev1", "9.3.0.1"), ("10.6.0", "10.6.0.26"),
    ("0.12.0", "0.12.0.dev2024080600"), ("0.17.0.post1", "0.17.0.post1"),
])  # fmt: skip
def test_versions_agree_however_a_package_spells_them(table: str, package: str) -> None:
    assert stamps.agree(table, package) and stamps.agree(package, table)
    assert not stamps.agree(table, f"8.{package}")


def test_versions_agree_as_far_as_the_shorter_one_goes() -> None:
    assert not stamps.compare(STAMP.model_copy(update={"tensorrt": "9.1.0"}), STAMP).refusals
    assert stamps.compare(STAMP.model_copy(update={"tensorrt": "9.1.0.5"}), STAMP).refusals


def test_what_is_not_known_and_another_gpu_of_the_kind_are_cautions() -> None:
    found = stamps.compare(STAMP, STAMP.model_copy(update={"tensorrt": None, "gpu": "NVIDIA A30"}))
    assert not found.refusals and len(found.cautions) == 2


# --- a plan's questions -----------------------------------------------------------------------------------------------


def test_room_is_made_for_an_engine_that_is_not_there(tmp_path: Path, model: Path) -> None:
    assert engine_store.look(tmp_path / "engines" / "x", WANT, INSIDE, model) == ("room", ())
    told = json.loads((tmp_path / "engines" / "x" / "inside.json").read_text(encoding="utf-8"))
    assert told == INSIDE.model_dump()


@pytest.mark.parametrize(("change", "sign"), [
    ({"tensorrt": "9.2.0.5"}, "TensorRT: it has 9.2.0.5, the plan counts on 9.1.0.4"),
    ({"tensorrt_llm": "0.6.1"}, "TensorRT-LLM: it has 0.6.1"),
    ({"sm": 86}, "SM): it has 86"),
])  # fmt: skip
def test_an_image_or_a_gpu_that_the_plan_does_not_count_on_is_told_before_a_build(
    tmp_path: Path, model: Path, change: dict, sign: str
) -> None:
    with pytest.raises(CannotDo) as caught:
        engine_store.look(tmp_path / "x", WANT, INSIDE.model_copy(update=change), model)
    assert sign in caught.value.of("en") and not (tmp_path / "x").exists()


def test_converted_weights_of_another_source_or_image_are_made_anew(tmp_path: Path, model: Path) -> None:
    converted = tmp_path / "converted" / "x"

    def left() -> bool:
        """Whether weights that lie there are still there after the look."""
        converted.mkdir(parents=True, exist_ok=True)
        (converted / "rank0.safetensors").write_bytes(b"converted")
        engine_store.look(tmp_path / "engines" / "x", WANT, inside, model, converted)
        return (converted / "rank0.safetensors").exists()

    inside = INSIDE
    assert not left() and left()  # without a stamp nobody knows what they are
    stamp = json.loads((converted / "stamp.json").read_text(encoding="utf-8"))
    assert (stamp["image_digest"], stamp["tensorrt"], len(stamp["source_digest"])) == ("sha256:1", "9.1.0.4", 32)
    inside = INSIDE.model_copy(update={"image_digest": "sha256:2"})
    assert not left()
    (model / "model.safetensors").write_bytes(b"other weights")
    assert not left() and left()


def test_a_build_is_stamped_with_what_really_built_it_and_found_again(tmp_path: Path, model: Path) -> None:
    folder = built(tmp_path / "engines" / "x")
    stamp, cautions = engine_store.accept(folder, WANT, INSIDE, model)
    assert (stamp.tensorrt, stamp.image_digest) == ("9.1.0.4", "sha256:1") and stamp.source_digest and not cautions
    assert engine_store.look(folder, WANT, INSIDE, model) == ("kept", ())


def test_an_image_that_changed_without_its_versions_is_a_caution(tmp_path: Path, model: Path) -> None:
    folder = built(tmp_path / "engines" / "x")
    engine_store.accept(folder, WANT, INSIDE, model)
    found, cautions = engine_store.look(folder, WANT, INSIDE.model_copy(update={"image_digest": "sha256:2"}), model)
    assert found == "kept" and "image has changed" in cautions[0].en


def test_a_build_by_another_tensorrt_than_is_here_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(CannotDo) as caught:
        engine_store.accept(built(tmp_path / "x", tensorrt="9.2.0.5"), WANT, INSIDE, model)
    assert "TensorRT version" in caught.value.of("en") and "slipway engines remove x" in caught.value.of("en")
    assert not (tmp_path / "x" / "stamp.json").exists()


def test_an_engine_of_weights_that_changed_is_refused(tmp_path: Path, model: Path) -> None:
    folder = built(tmp_path / "x")
    engine_store.accept(folder, WANT, INSIDE, model)
    (model / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(CannotDo) as caught:
        engine_store.look(folder, WANT, INSIDE, model)
    assert "Weights: the engine has" in caught.value.of("en")


def test_an_engine_made_elsewhere_is_taken_with_its_doubts_and_not_stamped(tmp_path: Path, model: Path) -> None:
    folder = engine(tmp_path / "x", OLD_ENGINE, "llama_bfloat16_tp1_rank0.engine")
    _, cautions = engine_store.accept(folder, WANT, INSIDE, model)
    assert any("tensorrt version" in text.en for text in cautions)
    assert not (folder / "stamp.json").exists()


def test_an_engine_with_a_rank_missing_is_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(BadInput):
        engine_store.accept(engine(tmp_path / "x", NEW_ENGINE, "rank0.engine"), WANT, INSIDE, model)


def test_the_command_line_tells_and_fails(tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    want = tmp_path / "want.json"
    want.write_text(WANT.model_dump_json(), encoding="utf-8")
    inside = tmp_path / "inside.json"
    inside.write_text(INSIDE.model_dump_json(), encoding="utf-8")
    words = ["--want", str(want), "--inside", str(inside), "--model", str(model)]
    folder = built(tmp_path / "x")
    assert engine_store.main(["accept", str(folder), *words]) == 0
    (model / "config.json").write_text("{ }", encoding="utf-8")
    assert engine_store.main(["look", str(folder), *words]) == 1
    assert "权重" in capsys.readouterr().err


# --- an engine that a person names --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planning(tmp_path_factory: pytest.TempPathFactory) -> Control:
    home = tmp_path_factory.mktemp("named") / "home"
    tiny_llama(home / "models" / "tiny-llama")
    return make_control({"home": str(home)})


def the_plan(control: Control, config: dict, files: str, **options: object) -> Plan:
    """A plan of 0.19 over two GPUs with an engine that lies there, whose config.json is that."""
    folder = control.settings.home / "mine"
    shutil.rmtree(folder, ignore_errors=True)
    engine(folder, config, files)
    told = {"version": "0.19.0", "tensor_parallel": 2, "max_batch": 4, "engine_folder": str(folder)} | options
    spec = Spec(
        model=ModelSource(kind="folder", id=str(control.settings.home / "models" / "tiny-llama")), name="named",
        engine="tensorrt_llm", target="docker", limits=Limits(context=192, new_tokens=64), precision="bf16",
        tensorrt_llm=TensorRtLlmOptions.model_validate(told),
    )  # fmt: skip
    return control.plan(spec, machine("NVIDIA H100 80GB HBM3", 90, 2, 81_559, "570.124.06"))


def changed(**told: dict) -> dict:
    """NEW_ENGINE with some of its entries otherwise."""
    return {key: value | told.get(key, {}) if isinstance(value, dict) else told.get(key, value)
            for key, value in NEW_ENGINE.items()}  # fmt: skip


def test_a_plan_takes_an_engine_that_fits_and_says_what_nobody_knows_of_it(planning: Control) -> None:
    plan = the_plan(planning, NEW_ENGINE, "rank0.engine rank1.engine")
    assert "engine" not in {step.id for step in plan.steps}
    assert any("does not tell its compute capability" in note.en for note in plan.notes)


@pytest.mark.parametrize(("config", "files", "sign"), [
    (changed(version="0.18.2"), "rank0.engine rank1.engine", "TensorRT-LLM version: the engine has 0.18.2, 0.19.0"),
    (changed(pretrained_config={"mapping": {"tp_size": 1, "pp_size": 1}}), "rank0.engine", "Tensor parallel size"),
    (changed(pretrained_config={"dtype": "float16"}), "rank0.engine rank1.engine", "Precision: the engine has float16"),
    (changed(pretrained_config={"quantization": {"quant_algo": "W8A16"}}), "rank0.engine rank1.engine",
     "Quantisation: the engine has int8_weight_only, none is needed"),
    (changed(build_config={"max_batch_size": 2}), "rank0.engine rank1.engine", "Largest batch: the engine has 2, 4"),
    (changed(build_config={"max_seq_len": 128}), "rank0.engine rank1.engine", "Longest prompt with its answer"),
])  # fmt: skip
def test_a_plan_refuses_an_engine_that_does_not_fit_with_the_difference_and_what_another_takes(
    planning: Control, config: dict, files: str, sign: str
) -> None:
    with pytest.raises(CannotDo) as caught:
        the_plan(planning, config, files)
    assert sign in caught.value.of("en")
    assert "Building it again takes ~2 min" in caught.value.of("en") and "重新构建约需" in caught.value.of("zh")


def test_a_plan_knows_of_a_registered_engine_what_its_maker_said(planning: Control) -> None:
    the_plan(planning, NEW_ENGINE, "rank0.engine rank1.engine")
    folder = planning.settings.home / "mine"
    name = engine_store.register(planning.settings.home, folder, Stamp(model="my/llama", sm=80)).name
    with pytest.raises(CannotDo) as caught:
        the_plan(planning, NEW_ENGINE, "rank0.engine rank1.engine")
    engine_store.remove(planning.settings.home, name)
    assert "Compute capability (SM): the engine has 80, 90 is needed" in caught.value.of("en")


def test_a_plan_refuses_a_folder_that_holds_no_engine_or_lies_outside(planning: Control) -> None:
    with pytest.raises(BadInput):
        the_plan(planning, NEW_ENGINE, "rank0.engine")
    with pytest.raises(BadInput, match="outside"):
        the_plan(planning, NEW_ENGINE, "rank0.engine rank1.engine", engine_folder="/usr")


@pytest.mark.parametrize(("mode", "name"), [(0, "none"), (1, "int4_weight_only"), (2, "int8_weight_only"),
                                            (2 | 4 | 8 | 16, "smoothquant"), (64, "quant_mode 64")])  # fmt: skip
def test_the_quantisation_of_0_5_is_read_out_of_its_bits(mode: int, name: str) -> None:
    told = {**OLD_ENGINE, "builder_config": OLD_ENGINE["builder_config"] | {"quant_mode": mode}}
    assert engine_config.read(told).made_with == name


# --- the store --------------------------------------------------------------------------------------------------------


def test_kept_engines_are_listed_with_their_stamp_and_size(tmp_path: Path, model: Path) -> None:
    engine_store.accept(built(tmp_path / "engines" / "a"), WANT, INSIDE, model)
    built(tmp_path / "engines" / "half-done")
    found = {view.name: view for view in engine_store.engines(tmp_path)}
    assert found["a"].problem is None and found["a"].ranks == 1
    assert "no stamp" in found["half-done"].problem.en  # type: ignore[union-attr]


def test_no_engine_is_kept_in_an_empty_home(tmp_path: Path) -> None:
    assert engine_store.engines(tmp_path) == ()


def test_an_engine_is_removed_unless_a_server_uses_it(tmp_path: Path, model: Path) -> None:
    folder = built(tmp_path / "engines" / "a")
    engine_store.accept(folder, WANT, INSIDE, model)
    with pytest.raises(Conflict):
        engine_store.remove(tmp_path, "a", in_use=[str(folder)])
    engine_store.remove(tmp_path, "a")
    assert not folder.exists()
    with pytest.raises(NotFound):
        engine_store.remove(tmp_path, "a")


def test_a_registered_engine_stays_where_it_is_and_only_its_entry_goes(tmp_path: Path) -> None:
    mine = engine(tmp_path / "mine", NEW_ENGINE, "rank0.engine rank1.engine")
    view = engine_store.register(tmp_path, mine, Stamp(model="my/llama", sm=90))
    assert view.stamp is not None and (view.stamp.version, view.stamp.tensor_parallel, view.ranks) == ("0.19.0", 2, 2)
    (listed,) = engine_store.engines(tmp_path)
    assert listed.registered and listed.folder == str(mine)
    engine_store.remove(tmp_path, view.name)
    assert mine.is_dir() and engine_store.engines(tmp_path) == ()


def test_an_engine_registered_beside_its_like_has_a_name_of_its_own(tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "engines" / stamps.name(STAMP)
    engine_store.accept(built(folder), WANT, INSIDE, model)
    shutil.copytree(folder, tmp_path / "mine")
    mine = engine_store.register(tmp_path, tmp_path / "mine", STAMP).name
    engine_store.remove(tmp_path, mine)
    assert folder.is_dir() and [view.name for view in engine_store.engines(tmp_path)] == [folder.name]


def test_a_kept_engine_is_checked_against_the_gpus_that_are_there_and_for_its_files(tmp_path: Path) -> None:
    mine = engine(tmp_path / "mine", NEW_ENGINE, "rank0.engine rank1.engine")
    name = engine_store.register(tmp_path, mine, Stamp(model="my/llama", sm=90)).name
    assert engine_store.check(tmp_path, name, [80, 90]) == stamps.Comparison()
    assert "SM 90; the GPUs here have 80" in engine_store.check(tmp_path, name, [80]).cautions[0].en
    (mine / "rank1.engine").unlink()
    assert "rank1.engine" in engine_store.check(tmp_path, name).refusals[0].en
