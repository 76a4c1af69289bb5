"""Which image for which machine: worked examples, each engine's limits, and what must hold for any machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import gpus, guide_notes, images, limits, looked_into, releases
from backends.errors import BadInput
from backends.images import ENGINES, Recommendation, recommend
from backends.inside import by_tag, corrected, read_inside
from backends.reading import read, read_json
from backends.releases import VARIANTS, Variant
from backends.spec import Gpu, Hardware, Inside, Model, ModelSource
from backends.text import Text, same
from backends.verdicts import Verdict

TABLE = releases.load()
PY3: Variant = "py3"
TRT: Variant = "trtllm-python-py3"
VLLM: Variant = "vllm-python-py3"
NAMES = (
    "V100",
    "P100",
    "GTX 1080",
    "T4",
    "RTX 2080 Ti",
    "A100",
    "RTX 3090",
    "L4",
    "RTX 4090",
    "H200",
    "B200",
    "RTX 5090",
)


def machine(driver: str | None, *names: str) -> Hardware:
    return Hardware(driver_version=driver, gpus=tuple(Gpu(name=name) for name in names))


def on(driver: str, *names: str) -> Recommendation:
    return recommend(machine(driver, *names), TABLE)


def model(family: str) -> Model:
    return Model(source=ModelSource(kind="demo"), architecture="any", model_type=family)


def runs(found: Recommendation, variant: Variant) -> list[str]:
    """The verdicts as ranges of releases: "native 22.01-23.10"."""
    ranges: list[list[str]] = []
    for one in found.judgements[variant]:
        if ranges and ranges[-1][0] == one.verdict.value:
            ranges[-1][2] = one.image.release
        else:
            ranges.append([one.verdict.value, one.image.release, one.image.release])
    return [f"{verdict} {first}-{last}" for verdict, first, last in ranges]


def picks(found: Recommendation) -> dict[str, str | None]:
    return {name: engine.recommended for name, engine in found.engines.items()}


def everything_said(found: Recommendation) -> str:
    data = found.as_json("en")
    words = [reason for many in data["variants"].values() for one in many for reason in one["reasons"]]
    return " ".join([*words, *(f"{one['reason']} {' '.join(one['why_not'])}" for one in data["engines"].values())])


# --- the worked examples ------------------------------------------------------------------------------------------


def test_example_1_rtx_3090_on_535_builds_the_llama_forks_in_23_04() -> None:
    found = on("535.54.03", "NVIDIA GeForce RTX 3090")
    assert runs(found, PY3) == ["native 22.01-23.10", "minor 23.11-25.07", "impossible 25.08-26.08"]
    engine = found.engines["fastertransformer"]
    assert engine.recommended == "23.04-py3" and "-DSM=86" in engine.cautions[0].en
    two = recommend(machine("535.54.03", "NVIDIA GeForce RTX 3090"), TABLE, model("gptj"))
    assert two.engines["fastertransformer"].recommended == "22.03-py3"


def test_example_2_v100_on_470_lives_by_forward_compatibility() -> None:
    found = on("470.256.02", "Tesla V100-SXM2-32GB")
    assert runs(found, PY3) == ["forward 22.01-24.12", "impossible 25.01-26.08"]
    assert [one.image.release for one in found.judgements[PY3] if one.steady][-1] == "22.12"
    engine = found.engines["transformers"]
    assert engine.recommended == "24.12-py3" and "cautious choice is 22.12-py3" in engine.reason.en
    assert any("24.09-py3" in caution.en for caution in engine.cautions)
    assert picks(found)["fastertransformer"] == "23.04-py3"
    assert found.engines["tensorrt_llm"].recommended is None
    assert "stops working at 24.11" in found.engines["tensorrt_llm"].why_not[0].en
    assert runs(found, TRT)[-1] == "impossible 24.11-26.07"


def test_example_3_a100_on_525_takes_the_newest_tensorrt_llm_that_has_both_ways() -> None:
    found = on("525.105.17", "NVIDIA A100-SXM4-80GB")
    assert runs(found, TRT) == ["forward 23.10-24.07", "minor 24.08-25.10", "impossible 25.11-26.07"]
    assert all(one.steady for one in found.judgements[TRT] if one.verdict is Verdict.FORWARD)
    assert picks(found)["tensorrt_llm"] == "24.07-trtllm-python-py3"
    last = found.judgement("25.10-trtllm-python-py3")
    assert last is not None and last.way_out == 575
    assert "Driver 580 would make 26.02-trtllm-python-py3 native." in everything_said(found)


def test_example_4_rtx_4090_on_550_takes_the_newest_native_of_each() -> None:
    found = on("550.54.14", "NVIDIA GeForce RTX 4090")
    assert runs(found, PY3)[1:] == ["native 22.09-24.05", "minor 24.06-25.07", "impossible 25.08-26.08"]
    assert runs(found, TRT) == ["native 23.10-24.07", "minor 24.08-25.10", "impossible 25.11-26.07"]
    assert runs(found, VLLM) == ["native 23.10-24.05", "minor 24.06-25.07", "impossible 25.08-26.08"]
    assert picks(found) == {
        "transformers": "24.05-py3",
        "fastertransformer": "23.04-py3",
        "tensorrt_llm": "24.07-trtllm-python-py3",
        "vllm": "24.05-vllm-python-py3",
    }
    assert "Driver 580 would make 25.11-py3 native." in everything_said(found)


def test_example_4_on_545_the_newest_is_a_minor_version_step_only() -> None:
    one = on("545.23.08", "NVIDIA GeForce RTX 4090").judgement("24.05-py3")
    assert one is not None and one.verdict is Verdict.MINOR


def test_example_5_h200_on_580_takes_native_tags_before_newer_ones() -> None:
    found = on("580.95.05", "NVIDIA H200")
    assert runs(found, PY3) == [
        "impossible 22.01-22.08",
        "native 22.09-25.11",
        "minor 25.12-26.05",
        "forward 26.06-26.07",
        "minor 26.08-26.08",
    ]
    assert runs(found, TRT) == ["native 23.10-26.02", "minor 26.03-26.07"]
    assert picks(found) == {
        "transformers": "25.11-py3",
        "fastertransformer": "23.04-py3",
        "tensorrt_llm": "26.02-trtllm-python-py3",
        "vllm": "25.11-vllm-python-py3",
    }
    inferred = found.judgement("26.06-py3")
    assert inferred is not None and any("(inferred)" in reason.en for reason in inferred.reasons)


def test_example_6_rtx_5090_on_570_starts_at_25_01_and_has_no_fastertransformer() -> None:
    found = on("570.124.06", "NVIDIA GeForce RTX 5090")
    assert runs(found, PY3) == [
        "impossible 22.01-24.12",
        "native 25.01-25.03",
        "minor 25.04-25.07",
        "impossible 25.08-26.08",
    ]
    assert runs(found, TRT)[1:3] == ["native 25.01-25.05", "minor 25.06-25.10"]
    assert picks(found)["tensorrt_llm"] == "25.05-trtllm-python-py3"
    assert "untested" in found.as_json()["engines"]["tensorrt_llm"]["reason"]
    assert picks(found)["transformers"] == "25.03-py3"
    assert found.engines["fastertransformer"].recommended is None


def test_example_7_t4_on_450_takes_22_12_and_shows_the_stale_promise_as_doubtful() -> None:
    found = on("450.191.01", "Tesla T4")
    assert runs(found, PY3) == ["forward 22.01-23.10", "doubtful 23.11-23.12", "impossible 24.01-26.08"]
    assert [one.image.release for one in found.judgements[PY3] if one.steady][-1] == "22.12"
    assert picks(found)["transformers"] == "22.12-py3"
    older = on("450.51.06", "Tesla T4")
    assert not any(one.steady for one in older.judgements[PY3])
    assert runs(older, PY3)[0] == "forward 22.01-23.10"


def test_example_8_gtx_1080_on_390_has_no_tag_and_is_told_the_last_driver() -> None:
    found = on("390.157", "NVIDIA GeForce GTX 1080")
    assert all(one.verdict is Verdict.IMPOSSIBLE for many in found.judgements.values() for one in many)
    assert set(picks(found).values()) == {None}
    assert any(
        "Driver 580, the last for these GPUs, would make 24.12-py3" in reason.en
        for reason in found.engines["transformers"].why_not
    )


def test_example_9_p100_on_565_ends_at_24_12_and_earlier_with_tensorrt() -> None:
    found = on("565.57.01", "Tesla P100-PCIE-16GB")
    assert runs(found, PY3) == ["native 22.01-24.12", "impossible 25.01-26.08"]
    engine = found.engines["transformers"]
    assert engine.recommended == "24.12-py3" and any("24.04-py3" in caution.en for caution in engine.cautions)
    assert (picks(found)["tensorrt_llm"], picks(found)["vllm"]) == (None, None)
    assert "SM 7.0" in found.engines["tensorrt_llm"].why_not[0].en


def test_example_10_l4_on_535_takes_the_newest_vllm_that_has_both_ways() -> None:
    found = on("535.183.01", "NVIDIA L4")
    assert runs(found, VLLM) == [
        "native 23.10-23.10",
        "forward 23.11-25.11",
        "doubtful 25.12-26.05",
        "forward 26.06-26.07",
        "doubtful 26.08-26.08",
    ]
    assert [one.image.release for one in found.judgements[VLLM] if one.steady][-1] == "25.07"
    assert picks(found)["vllm"] == "25.07-vllm-python-py3"


def test_example_11_b200_on_560_waits_for_driver_570() -> None:
    found = on("560.35.03", "NVIDIA B200")
    assert set(picks(found).values()) == {None}
    assert "needs driver 570 or later" in found.engines["vllm"].why_not[0].en
    later = on("570.124.06", "NVIDIA B200")
    assert runs(later, PY3)[1:3] == ["native 25.01-25.03", "forward 25.04-25.11"]


def test_example_12_v100_on_590_is_sent_back_to_580() -> None:
    found = on("590.44.01", "Tesla V100-PCIE-16GB")
    assert set(picks(found).values()) == {None}
    assert "Go back to driver 580" in found.engines["transformers"].why_not[0].en
    one = found.judgement("24.12-py3")
    assert one is not None and one.way_out == 580


def test_example_13_rtx_3090_on_470_builds_in_22_12_and_an_a10_in_23_04() -> None:
    found = on("470.256.02", "NVIDIA GeForce RTX 3090")
    assert runs(found, PY3) == ["minor 22.01-22.12", "impossible 23.01-26.08"]
    assert picks(found)["fastertransformer"] == "22.12-py3"
    assert "would make 23.04-py3 native" in found.as_json()["engines"]["fastertransformer"]["reason"]
    assert picks(on("470.256.02", "NVIDIA A10"))["fastertransformer"] == "23.04-py3"


def test_example_14_h100_on_530_has_minor_versions_only() -> None:
    found = on("530.30.02", "NVIDIA H100 80GB HBM3")
    assert runs(found, TRT) == ["minor 23.10-25.10", "impossible 25.11-26.07"]
    assert picks(found)["tensorrt_llm"] == "23.10-trtllm-python-py3"
    assert "minor-version" in found.engines["tensorrt_llm"].reason.en


# --- the engines' own limits --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "name", "tag"),
    [
        ("llama", "RTX 3090", "23.04-py3"),
        ("llama", "H200", "23.04-py3"),
        ("llama", "GTX 1080", "23.04-py3"),
        ("gptj", "RTX 3090", "22.03-py3"),
        ("t5", "T4", "22.03-py3"),
        ("gptj", "L4", None),
        ("t5", "H200", None),
        ("llama", "B200", None),
        ("llama", "RTX 5090", None),
        ("qwen2", "A100", None),
    ],
)
def test_fastertransformer_has_fixed_images_by_family_and_sm(family: str, name: str, tag: str | None) -> None:
    engine = recommend(machine("580.95.05", name), TABLE, model(family)).engines["fastertransformer"]
    assert engine.recommended == tag
    assert bool(engine.why_not) == (tag is None)


@pytest.mark.parametrize(
    ("name", "can"), [("T4", True), ("A100", True), ("L4", True), ("H200", False), ("V100", False)]
)
def test_fastertransformer_int8_ends_before_sm_90(name: str, can: bool) -> None:
    cards = gpus.cards(machine("580.95.05", name))
    assert (limits.precision("fastertransformer", "int8", cards) is None) is can


@pytest.mark.parametrize("engine", ["fastertransformer", "tensorrt_llm", "vllm"])
def test_bf16_needs_sm_80(engine: str) -> None:
    assert limits.precision(engine, "bf16", gpus.cards(machine("580.95.05", "T4")))  # type: ignore[arg-type]
    assert limits.precision(engine, "bf16", gpus.cards(machine("580.95.05", "A100"))) is None  # type: ignore[arg-type]


def test_fp8_needs_sm_89_in_tensorrt_llm() -> None:
    limit = limits._data()["tensorrt_llm"]["precision"]["fp8"]["from"]
    assert limit == 89
    assert limits.precision("tensorrt_llm", "fp8", gpus.cards(machine("580.95.05", "A100")))
    assert limits.precision("tensorrt_llm", "fp8", gpus.cards(machine("580.95.05", "L4"))) is None


def test_a_precision_on_mixed_gpus_must_suit_every_one() -> None:
    said = limits.precision("tensorrt_llm", "bf16", gpus.cards(machine("550.54.14", "A100", "T4")))
    assert said is not None and "T4" in said.en


@pytest.mark.parametrize(
    ("version", "tag"), [("0.5.0", "23.10"), ("0.11.0", "24.07"), ("0.19.0", "25.05"), ("1.1.0", "26.02")]
)
def test_a_tensorrt_llm_version_has_its_tag(version: str, tag: str) -> None:
    assert [one.release for one in TABLE.of(TRT) if one.engine_version == version][-1] == tag


def test_tensorrt_llm_looks_its_own_cuda_up() -> None:
    py3 = next(image for image in TABLE.images if image.tag == "25.10-py3")
    trt = next(image for image in TABLE.images if image.tag == "25.10-trtllm-python-py3")
    assert (py3.cuda_minor, py3.branch, trt.cuda_minor, trt.branch) == ("13.0", 580, "12.9", 575)


def test_turing_runs_tensorrt_llm_with_a_caution() -> None:
    engine = on("580.95.05", "Tesla T4").engines["tensorrt_llm"]
    assert engine.recommended is not None and any("fused attention" in caution.en for caution in engine.cautions)


def test_b300_is_doubtful_for_tensorrt_llm_until_it_is_named() -> None:
    found = on("595.45.04", "NVIDIA B300")
    one, later = found.judgement("25.10-trtllm-python-py3"), found.judgement("26.03-trtllm-python-py3")
    assert one is not None and one.verdict is Verdict.DOUBTFUL
    assert later is not None and later.verdict is Verdict.NATIVE


# --- machines of every kind ---------------------------------------------------------------------------------------


def test_a_cpu_only_machine_gets_the_embedded_engine_and_the_py3_image() -> None:
    found = recommend(Hardware(), TABLE)
    assert found.engines["transformers"].recommended == "26.08-py3"
    assert "without an image" in found.engines["transformers"].reason.en
    assert {picks(found)[name] for name in ("fastertransformer", "tensorrt_llm", "vllm")} == {None}
    assert runs(found, PY3) == ["native 22.01-26.08"]
    assert runs(found, VLLM) == ["impossible 23.10-26.08"]


def test_gpus_that_could_not_be_read_are_told_with_the_reason() -> None:
    hidden = same("The driver did not answer.")
    found = recommend(Hardware(unknown={"gpus": hidden}), TABLE)
    assert hidden in found.engines["vllm"].why_not and found.notes == (hidden,)


def test_no_gpu_chosen_means_the_cpu() -> None:
    found = recommend(machine("535.54.03", "A100"), TABLE, gpus=())
    assert found.engines["vllm"].recommended is None and found.cards == ()


def test_mixed_gpus_are_judged_together_and_the_better_choice_is_named() -> None:
    found = on("580.95.05", "GTX 1080", "RTX 4090")
    assert runs(found, PY3) == ["impossible 22.01-22.08", "native 22.09-24.12", "impossible 25.01-26.08"]
    assert any("differ" in note.en for note in found.notes)
    assert any("On RTX 4090 alone, 25.11-py3" in note.en for note in found.notes)
    assert any("On RTX 4090 alone, 26.02-trtllm" in reason.en for reason in found.engines["tensorrt_llm"].why_not)
    alone = recommend(machine("580.95.05", "GTX 1080", "RTX 4090"), TABLE, gpus=(1,))
    assert picks(alone)["transformers"] == "25.11-py3"


def test_one_geforce_among_data_centre_gpus_ends_forward_compatibility() -> None:
    assert runs(on("470.256.02", "A10", "RTX 3090"), PY3)[0] == "minor 22.01-22.12"
    assert runs(on("470.256.02", "A10", "A10"), PY3)[0] == "forward 22.01-25.03"


def test_a_gpu_of_unknown_class_counts_as_no_data_centre_gpu() -> None:
    strange = Hardware(driver_version="470.256.02", gpus=(Gpu(name="Engineering sample", sm=80),))
    found = recommend(strange, TABLE)
    assert runs(found, PY3)[0] == "minor 22.01-22.12"
    assert any("is not known" in note.en for note in found.notes)
    told = Hardware(driver_version="470.256.02", gpus=(Gpu(name="Engineering sample", sm=80, data_centre=True),))
    assert runs(recommend(told, TABLE), PY3)[0] == "forward 22.01-25.03"


def test_an_unknown_name_is_asked_for_by_its_field() -> None:
    with pytest.raises(BadInput) as caught:
        on("535.54.03", "RTX 3090", "Quadro Imaginary 9")
    assert caught.value.field == "gpus.1.sm" and caught.value.hint is not None


def test_a_gpu_without_a_driver_version_is_asked_for() -> None:
    with pytest.raises(BadInput) as caught:
        recommend(machine(None, "A100"), TABLE)
    assert caught.value.field == "driver_version"


@pytest.mark.parametrize("driver", ["new", "535.x", "", "535..1", "-535", "５３５.1"])
def test_a_driver_version_that_is_none_is_refused(driver: str) -> None:
    with pytest.raises(BadInput) as caught:
        on(driver, "A100")
    assert caught.value.field == "driver_version"


def test_a_gpu_index_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadInput) as caught:
        recommend(machine("535.54.03", "A100"), TABLE, gpus=(1,))
    assert caught.value.field == "gpus"


def test_a_gpu_that_fell_off_the_bus_is_left_out_and_named() -> None:
    both = Hardware(
        driver_version="535.54.03",
        gpus=(Gpu(name="RTX 3090"), Gpu(name="GPU 1")),
        unknown={"gpus.1.name": same("It has fallen off the bus.")},
    )
    found = recommend(both, TABLE)
    assert [card.name for card in found.cards] == ["RTX 3090"]
    assert [note.en for note in found.notes] == ["GPU 1 is left out: It has fallen off the bus."]


def test_mig_is_noted() -> None:
    sliced = Hardware(driver_version="535.54.03", gpus=(Gpu(name="NVIDIA A100-SXM4-40GB MIG 1g.5gb", mig=True),))
    found = recommend(sliced, TABLE)
    assert found.cards[0].data_centre and any("MIG" in note.en for note in found.notes)


def test_a_jetson_needs_its_own_tags() -> None:
    found = on("540.4.0", "Orin (nvgpu)")
    assert set(picks(found).values()) == {None} and "-igpu" in found.engines["transformers"].why_not[0].en


def test_an_arm_system_that_nobody_checked_is_doubtful() -> None:
    found = on("580.95.05", "NVIDIA GB10")
    one = found.judgement("25.11-py3")
    assert one is not None and one.verdict is Verdict.DOUBTFUL


def test_a_branch_number_alone_is_a_driver_version() -> None:
    assert runs(on("525", "RTX 3090"), PY3)[1].startswith("minor 23.03")


def test_a_driver_below_the_first_of_its_branch_on_the_page_is_asked_to_be_updated() -> None:
    one = on("470.42.01", "A100").judgement("22.12-py3")
    assert one is not None and any("470.57 or later" in reason.en for reason in one.reasons)


@pytest.mark.parametrize(
    ("name", "sm", "data_centre"),
    [
        ("nvidia geforce rtx 3090", 86, False),
        ("GRID T4-16Q", 75, True),
        ("NVIDIA A100 80GB PCIe", 80, True),
        ("NVIDIA RTX 6000 Ada Generation", 89, False),
        ("Quadro RTX 6000", 75, False),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", 120, True),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 89, False),
        ("NVIDIA GH200 480GB", 90, True),
    ],
)
def test_names_are_read_as_drivers_write_them(name: str, sm: int, data_centre: bool) -> None:
    row = gpus.known(name)
    assert row is not None and (row.sm, row.kind == "data_centre") == (sm, data_centre)


@pytest.mark.parametrize("name", ["RTX 6000", "TITAN X", "Graphics Device", "", "GeForce"])
def test_names_that_could_be_two_gpus_are_not_guessed(name: str) -> None:
    assert gpus.known(name) is None


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent / "hardware").glob("*.json")), ids=lambda path: path.stem
)
def test_every_kept_machine_gets_native_images(path: Path) -> None:
    found = recommend(read_json(Hardware, path.read_text()), TABLE)
    assert picks(found)["tensorrt_llm"] == "26.02-trtllm-python-py3" and found.driver_cuda == "13.0"


# --- the answer as JSON -------------------------------------------------------------------------------------------


def test_the_json_has_the_promised_shape() -> None:
    hardware = read(Hardware, {"driver_version": "535.54.03", "gpus": [{"name": "NVIDIA GeForce RTX 3090"}]})
    data = recommend(hardware, TABLE).as_json("en")
    assert set(data) == {"variants", "engines"}
    assert set(data["variants"]) == set(VARIANTS) and set(data["engines"]) == set(ENGINES)
    assert all(set(one) == {"tag", "verdict", "reasons"} for many in data["variants"].values() for one in many)
    assert all(set(one) == {"recommended", "reason", "why_not"} for one in data["engines"].values())
    assert data["variants"]["py3"][0]["tag"] == "22.01-py3"
    assert {one["verdict"] for one in data["variants"]["py3"]} == {"native", "minor", "impossible"}


def test_the_json_speaks_the_language_asked_for() -> None:
    data = on("535.54.03", "RTX 3090").as_json("zh")
    assert "原生" in data["engines"]["vllm"]["reason"]


def test_counts_add_up_to_the_images_of_a_variant() -> None:
    found = on("535.54.03", "RTX 3090")
    assert found.counts(PY3)[Verdict.NATIVE] == 22
    assert all(sum(found.counts(variant).values()) == len(TABLE.of(variant)) for variant in VARIANTS)


@pytest.mark.alone
def test_a_recommendation_takes_less_than_50_ms() -> None:
    took = []
    for _ in range(5):
        began = time.perf_counter()
        on("450.191.01", "Tesla T4").as_json()
        took.append(time.perf_counter() - began)
    assert min(took) < 0.05


# --- notes on guides ----------------------------------------------------------------------------------------------


def test_the_claim_about_driver_535_is_corrected_where_23_04_is_shown() -> None:
    notes = on("535.54.03", "RTX 3090").engines["fastertransformer"].notes
    assert any("530 or later" in note.en for note in notes)
    assert not any("-DSM=86" in note.en for note in notes)


def test_the_copied_build_line_is_corrected_on_other_gpus_only() -> None:
    assert any("-DSM=86" in note.en for note in on("535.54.03", "A100").engines["fastertransformer"].notes)


def test_notes_follow_engine_and_family() -> None:
    assert guide_notes.notes("transformers", "23.04", None, (86,)) == ()
    gptj = guide_notes.notes("fastertransformer", "22.03", "gptj", (86,))
    assert any("510 or later" in note.en for note in gptj) and not any("Ubuntu 22.04" in note.en for note in gptj)


# --- inside an image ----------------------------------------------------------------------------------------------


def test_what_is_inside_an_image_is_read_from_output_environment_and_labels() -> None:
    found = read_inside(
        '== Triton ==\n{"tensorrt_llm": "0.11.0", "triton": "2.48.0"}\n',
        {"CUDA_VERSION": "12.4.1.003", "CUDA_DRIVER_VERSION": "550.54.15", "NVIDIA_TRITON_SERVER_VERSION": "24.07"},
        {"com.nvidia.tensorrt.version": "10.2.0.19"},
        "sha256:abc",
    )
    assert found == Inside(
        digest="sha256:abc",
        release="24.07",
        triton="2.48.0",
        cuda="12.4.1.003",
        driver="550.54.15",
        tensorrt="10.2.0.19",
        tensorrt_llm="0.11.0",
    )


@pytest.mark.parametrize("output", ["", "{", "[1]", "Error: no python3\n", '{"triton": 5}'])
def test_an_image_that_tells_nothing_is_an_empty_value(output: str) -> None:
    assert read_inside(output) == Inside()


def test_words_that_are_no_version_are_left_out() -> None:
    assert read_inside("", {"CUDA_VERSION": "latest; rm -rf"}).cuda is None


def test_what_is_inside_wins_over_the_table() -> None:
    hardware = machine("550.54.14", "RTX 4090")
    tag = "24.06-py3"
    assert recommend(hardware, TABLE).judgement(tag).verdict is Verdict.MINOR  # type: ignore[union-attr]
    found = recommend(hardware, TABLE, inside={tag: Inside(cuda="12.4.1")})
    one = found.judgement(tag)
    assert one is not None and one.verdict is Verdict.NATIVE
    assert any("has CUDA 12.4.1 inside; the table says 12.5.0.23" in reason.en for reason in one.reasons)
    assert picks(found)["transformers"] == tag


def test_what_was_found_in_a_machines_images_counts_and_says_where_it_comes_from() -> None:
    tag, name = "24.06-py3", "nvcr.io/nvidia/tritonserver:24.06-py3"
    seen = Inside(image=name, digest="sha256:0123456789abcdef", looked_at="2026-01-02T03:04:05+00:00", cuda="12.4.1")
    hardware = machine("550.54.14", "RTX 4090").model_copy(update={"images": {tag: seen}})
    found = recommend(hardware, TABLE)
    assert picks(found)["transformers"] == tag
    assert "read inside the pulled image (0123456789ab, 2026-01-02): CUDA 12.4.1." in found.as_json()["engines"][
        "transformers"]["reason"]  # fmt: skip
    said = [text.en for text in images.found_inside((name, "example.org/other:1"), hardware)]
    assert len(said) == 2 and "What is inside counts." in said[0]


def test_an_image_that_cannot_be_looked_into_leaves_the_table_as_it_is() -> None:
    tag = "24.05-py3"
    seen = Inside(image=f"nvcr.io/nvidia/tritonserver:{tag}", digest="sha256:1", why=Text(en="no python3", zh="无"))
    hardware = machine("550.54.14", "RTX 4090")
    found = recommend(hardware.model_copy(update={"images": {tag: seen}}), TABLE)
    assert found.judgement(tag) == recommend(hardware, TABLE).judgement(tag)
    reason = found.as_json()["engines"]["transformers"]["reason"]
    assert "could not be looked into (no python3). The table of releases stands." in reason


def test_looks_are_kept_by_digest_and_the_newest_look_at_a_tag_counts(tmp_path: Path) -> None:
    name = "nvcr.io/nvidia/tritonserver:24.06-py3"
    for digest, day, cuda in (("sha256:b", 1, "12.4.1"), ("sha256:a", 2, "12.5.0"), ("sha256:c", 3, "12.6.0")):
        image = name if digest != "sha256:c" else "example.org/tritonserver:24.06-py3"
        looked_into.keep(tmp_path, Inside(image=image, digest=digest, looked_at=f"2026-01-0{day}", cuda=cuda))
    (tmp_path / "images" / "other.json").write_text("{")
    assert looked_into.known(tmp_path, "sha256:b") and not looked_into.known(tmp_path, "sha256:d")
    assert {tag: one.cuda for tag, one in by_tag(looked_into.everything(tmp_path)).items()} == {"24.06-py3": "12.5.0"}


def test_a_driver_named_inside_wins_over_the_one_of_its_cuda() -> None:
    image = next(image for image in TABLE.images if image.tag == "24.06-py3")
    assert corrected(image, Inside(cuda="12.4.1", driver="560.35.03"), TABLE).branch == 560


def test_an_image_that_is_as_the_table_says_adds_no_words() -> None:
    hardware, tag = machine("550.54.14", "RTX 4090"), "24.07-trtllm-python-py3"
    found = recommend(hardware, TABLE, inside={tag: Inside(cuda="12.4.1", tensorrt_llm="0.11.0")})
    one, other = found.judgement(tag), recommend(hardware, TABLE).judgement(tag)
    assert one is not None and other is not None and one.reasons == other.reasons


# --- what holds for any machine -----------------------------------------------------------------------------------

BRANCHES = sorted({int(driver.split(".")[0]) for driver in TABLE.cuda_drivers.values()} | {418, 440, 700})
DRIVERS = st.builds(lambda branch, minor: f"{branch}.{minor}", st.sampled_from(BRANCHES), st.integers(0, 300))
MACHINES = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


@settings(max_examples=60, deadline=None)
@given(DRIVERS, st.sampled_from(BRANCHES), MACHINES)
def test_a_newer_driver_that_still_supports_the_gpus_keeps_native_tags_native(
    driver: str, newer: int, names: list[str]
) -> None:
    cards = gpus.cards(machine(driver, *names))
    ends = [TABLE.support[card.sm].last for card in cards]
    if newer < int(driver.split(".")[0]) or any(end is not None and newer > end for end in ends):
        return
    before, after = on(driver, *names), on(f"{newer}.999", *names)
    for variant in VARIANTS:
        for one, other in zip(before.judgements[variant], after.judgements[variant], strict=True):
            assert one.verdict is not Verdict.NATIVE or other.verdict is Verdict.NATIVE


@settings(max_examples=60, deadline=None)
@given(DRIVERS, MACHINES)
def test_every_verdict_has_a_reason_and_every_way_out_really_leads_out(driver: str, names: list[str]) -> None:
    found = on(driver, *names)
    tried: dict[int, Recommendation] = {}
    for variant in VARIANTS:
        for one in found.judgements[variant]:
            assert one.reasons and all(reason.en and reason.zh for reason in one.reasons)
            if one.way_out is None:
                if one.verdict is not Verdict.NATIVE:
                    assert one.refused or any("No driver makes it native" in reason.en for reason in one.reasons)
                continue
            assert f"Driver {one.way_out} would make {one.image.release} native." in [text.en for text in one.reasons]
            if one.way_out not in tried:
                tried[one.way_out] = on(str(one.way_out), *names)
            after = tried[one.way_out].judgement(one.tag)
            assert after is not None and after.verdict is Verdict.NATIVE


@settings(max_examples=60, deadline=None)
@given(DRIVERS, MACHINES)
def test_a_recommended_tag_runs_and_a_missing_one_is_explained(driver: str, names: list[str]) -> None:
    found = on(driver, *names)
    for engine in found.engines.values():
        if engine.recommended is None:
            assert engine.why_not
        else:
            one = found.judgement(engine.recommended)
            assert one is not None and one.verdict in (Verdict.NATIVE, Verdict.FORWARD, Verdict.MINOR)
            assert not engine.why_not


@settings(max_examples=60, deadline=None)
@given(DRIVERS, MACHINES)
def test_forward_is_for_data_centre_gpus_and_minor_stays_in_its_cuda(driver: str, names: list[str]) -> None:
    found = on(driver, *names)
    for many in found.judgements.values():
        for one in many:
            if one.verdict is Verdict.FORWARD:
                assert all(card.data_centre for card in found.cards)
            if one.verdict in (Verdict.FORWARD, Verdict.MINOR, Verdict.DOUBTFUL):
                assert int(driver.split(".")[0]) < one.image.branch


@settings(max_examples=30, deadline=None)
@given(DRIVERS, MACHINES)
def test_the_order_of_gpus_changes_no_verdict(driver: str, names: list[str]) -> None:
    one, other = on(driver, *names), on(driver, *reversed(names))
    verdicts = [[judged.verdict for many in found.judgements.values() for judged in many] for found in (one, other)]
    assert verdicts[0] == verdicts[1] and picks(one) == picks(other)
