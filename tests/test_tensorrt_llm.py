"""TensorRT-LLM's and vLLM's recipes: golden plans of the guides and of what came after, and every reason against."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from backends.guides import guides
from backends.images import recommend
from backends.spec import Docker, Gpu, Hardware, Limits, Model, Precision, Spec, TensorRtLlmOptions, Tokenizer
from backends.steps import Ask, BuildImage, Plan, Service, Task, WriteFiles, fill_step
from backends.tensorrt_llm import recipe, versions
from backends.tensorrt_llm.choices import choose
from scripts import parity
from tests.guided_trtllm import (
    A100_X2,
    GUIDED,
    H100,
    LLAMA2,
    LLAMA3,
    PLANS,
    QWEN,
    QWEN3,
    RTX_3090,
    V100,
    Guided,
    guided,
    machine,
    model,
    written,
)
from tests.trtllm_upstream import FIXTURES, examples, library

H100_X2 = machine("NVIDIA H100 80GB HBM3", 90, 2, 81_559, "590.44.01")
MODEL_FOLDER = ("--model_dir", "--hf_model_dir", "--in-file")
SMALL = {"architectures": ["X"], "vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
QWEN2 = model("qwen2.5-0.5b-instruct", "Qwen/Qwen2.5-0.5B-Instruct", tokenizer=QWEN3.tokenizer)
LLAMA2_BF16 = LLAMA2.model_copy(update={"dtype": "bf16"})


def reasons(one: Guided) -> str:
    return " ".join(reason.en for reason in one.engine.why_not(one.spec, one.hardware, one.model))


def step(plan: Plan, name: str) -> Task:
    found = plan.step(name)
    assert isinstance(found, Task)
    return found


def argv(plan: Plan, name: str) -> str:
    return " ".join(step(plan, name).argv)


# --- golden plans -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDED)
def test_the_plan_is_the_golden_one(name: str) -> None:
    assert written(GUIDED[name].plan()) == (PLANS / f"{name}.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GUIDED)
def test_a_golden_plan_is_read_back_as_it_was_made(name: str) -> None:
    assert Plan.model_validate_json((PLANS / f"{name}.json").read_text(encoding="utf-8")) == GUIDED[name].plan()


@pytest.mark.parametrize("name", GUIDED)
def test_every_step_needs_only_steps_before_it(name: str) -> None:
    seen: set[str] = set()
    for one in GUIDED[name].plan().steps:
        assert set(one.needs) <= seen, one.id
        seen.add(one.id)


@pytest.mark.parametrize("name", GUIDED)
def test_a_container_sees_every_path_that_its_command_names(name: str) -> None:
    for one in GUIDED[name].plan().steps:
        if isinstance(one, Task | Service) and one.container is not None:
            mounted = [mount.path for mount in one.container.mounts]
            words = [word.split("=", 1)[-1] for word in (*one.argv, *one.env.values(), one.cwd or "")]
            for place in (word for word in words if word.startswith("{") and "/" in word):
                assert any(place.startswith(folder) for folder in mounted), (one.id, place)


@pytest.mark.parametrize("name", GUIDED)
def test_what_a_container_writes_is_mounted_for_writing(name: str) -> None:
    for one in GUIDED[name].plan().steps:
        if isinstance(one, Task) and one.container is not None:
            written_to = [mount.path for mount in one.container.mounts if not mount.read_only]
            assert all(any(place.startswith(folder) for folder in written_to) for place in one.outputs), one.id


@pytest.mark.parametrize("guide", ["002", "004"])
def test_every_step_that_a_guide_names_is_in_one_of_its_plans(guide: str) -> None:
    there = {one.id for name, case in GUIDED.items() if guide in name for one in case.plan().steps}
    named = {name for one in guides("tensorrt_llm")[guide].step for name in one.steps}
    assert named <= there, named - there


# --- guide 002 --------------------------------------------------------------------------------------------------------


def test_the_backend_image_is_built_after_submodules_over_https_and_large_files_in_the_submodule() -> None:
    plan = GUIDED["trtllm-002-qwen-7b-fp16"].plan()
    order = [one.id for one in plan.steps]
    assert "url.https://github.com/.insteadOf=git@github.com:" in argv(plan, "backend-submodules")
    assert argv(plan, "backend-lfs").endswith("/tensorrt_llm lfs pull")
    assert order.index("backend-submodules") < order.index("backend-lfs") < order.index("image")


@pytest.mark.parametrize(("architecture", "args"), [
    ("x86_64", {}), ("aarch64", {"TORCH_INSTALL_TYPE": "src_non_cxx11_abi"}),
])  # fmt: skip
def test_the_image_is_built_for_both_kinds_of_machine(architecture: str, args: dict[str, str]) -> None:
    hardware = RTX_3090.model_copy(update={"architecture": architecture})
    image = guided(QWEN, hardware, "qwen", trust=True, version="0.5.0", max_batch=4).plan().step("image")
    assert isinstance(image, BuildImage)
    assert image.args == args


@pytest.mark.parametrize(("name", "flags"), [
    ("fp16", ""),
    ("int4", "--use_weight_only --weight_only_precision int4"),
    ("smoothquant", "--use_smooth_quant --per_token --per_channel"),
])  # fmt: skip
def test_the_engine_is_built_with_the_quantisation_that_was_asked_for(name: str, flags: str) -> None:
    told = argv(GUIDED[f"trtllm-002-qwen-7b-{name}"].plan(), "engine")
    assert flags in told
    assert ("weight_only" in told, "smooth_quant" in told) == ("weight_only" in flags, "smooth_quant" in flags)


def test_in_flight_batching_takes_three_flags_and_v1_none_of_them() -> None:
    trio = "--use_inflight_batching --paged_kv_cache --remove_input_padding"
    assert trio in argv(GUIDED["trtllm-002-qwen-7b-fp16"].plan(), "engine")
    assert "--use_inflight" not in argv(GUIDED["trtllm-002-qwen-7b-int8-v1"].plan(), "engine")


def test_smoothquant_writes_where_no_other_build_takes_weights_from() -> None:
    quantised, plain = (argv(GUIDED[f"trtllm-002-qwen-7b-{name}"].plan(), "engine") for name in ("smoothquant", "fp16"))
    told = [words.split("--ft_dir_path ")[1].split()[0] for words in (quantised, plain)]
    assert told[0] in argv(GUIDED["trtllm-002-qwen-7b-smoothquant"].plan(), "convert")
    assert told[0] != told[1]


def test_the_tokenizers_packages_lie_in_a_layer_that_everything_runs_in() -> None:
    plan = GUIDED["trtllm-002-qwen-7b-fp16"].plan()
    layer, service = plan.step("packages"), plan.service
    assert isinstance(layer, BuildImage) and service is not None and service.container is not None
    assert layer.tag == service.container.image == step(plan, "engine").container.image


def test_code_of_the_model_runs_only_with_the_persons_word() -> None:
    assert "trust_remote_code" in reasons(guided(QWEN, RTX_3090, "qwen", version="0.5.0", max_batch=4))


def test_qwens_answers_end_with_im_end_for_chatml_and_with_endoftext_for_raw() -> None:
    def talk(chat_format: str) -> dict[str, str]:
        one = QWEN.model_copy(update={"facts": {"chat_format": chat_format}})
        ask = guided(one, RTX_3090, "qwen", trust=True, version="0.5.0", max_batch=4).plan().step("first-answer")
        assert isinstance(ask, Ask)
        return ask.talk

    assert (talk("chatml")["end_id"], talk("chatml")["pad_id"]) == ("151645", "151645")
    assert (talk("raw")["end_id"], talk("raw")["pad_id"]) == ("151643", "151643")


def test_later_versions_are_left_to_the_tokenizers_own_end_and_0_5_is_told_one() -> None:
    """Of the three ids that Llama 3.1 lists the first does not end a turn."""
    for name, told in (("trtllm-0.19-llama-3.1-8b-tp2", None), ("trtllm-004-llama-2-7b-bf16", "2")):
        asked = GUIDED[name].plan().step("first-answer")
        assert isinstance(asked, Ask)
        assert (asked.talk.get("end_id"), asked.talk["ends"]) == (told, "2" if told else "128001,128008,128009")


def test_the_memory_trap_of_the_guide_is_seen_before_anything_is_built() -> None:
    four = {"max_batch": 4, "max_input": 2048, "max_output": 2048}
    notes = guided(QWEN, RTX_3090, "qwen", "fp16", trust=True, version="0.5.0", **four).plan().notes
    assert any("4 requests of 2,048 + 2,048 tokens need" in note.en for note in notes)
    small = {"max_batch": 4, "max_input": 1024, "max_output": 1024}
    notes = guided(QWEN, RTX_3090, "qwen", "fp16", trust=True, version="0.5.0", **small).plan().notes
    assert not any("tokens need" in note.en for note in notes)


def test_with_v1_batching_the_trap_is_a_reason_against() -> None:
    four = {"max_batch": 4, "max_input": 2048, "max_output": 2048, "batching": "v1"}
    assert "GiB are free" in reasons(guided(QWEN, RTX_3090, "qwen", "fp16", trust=True, version="0.5.0", **four))


# --- guide 004 --------------------------------------------------------------------------------------------------------


def test_the_wheel_is_compiled_into_a_layer_for_the_gpu_at_hand() -> None:
    plan = GUIDED["trtllm-004-llama-2-7b-bf16"].plan()
    text = plan.step("wheel-dockerfile").files[0].text  # type: ignore[union-attr]
    assert text is not None and 'build_wheel.py --trt_root=/usr/local/tensorrt --cuda_architectures "80-real"' in text
    assert step(plan, "engine").container.image == plan.step("wheel").tag  # type: ignore[union-attr]


def test_below_sm_80_the_engine_is_fp16_and_bf16_by_name_is_refused() -> None:
    assert "--dtype float16" in argv(GUIDED["trtllm-004-llama-2-7b-fp16-v100"].plan(), "engine")
    assert "bf16 needs SM 8.0" in reasons(guided(LLAMA2, V100, "llama", "bf16", release="23.10", max_batch=4))


def test_world_tensor_and_pipeline_sizes_agree_in_build_and_launch() -> None:
    plan = GUIDED["trtllm-004-llama-2-7b-tp2"].plan()
    assert "--world_size 2 --tp_size 2 --pp_size 1" in argv(plan, "engine")
    service = plan.service
    assert service is not None and service.container is not None
    assert service.argv.count("/opt/tritonserver/bin/tritonserver") == 2 and service.argv[0] == "mpirun"
    assert service.container.gpus == (0, 1)


def test_only_the_first_rank_listens() -> None:
    service = GUIDED["trtllm-0.19-llama-3.1-8b-tp2"].plan().service
    assert service is not None
    ranks = " ".join(service.argv).split(" : ")
    assert ["--http-port={port.http}" in rank for rank in ranks] == [True, False]
    assert ["--load-model=tensorrt_llm" in rank for rank in ranks] == [False, True]


def test_gpus_and_sizes_that_do_not_agree_are_refused() -> None:
    one = guided(LLAMA2, A100_X2, "llama", release="23.10", tensor_parallel=2, pipeline_parallel=2, max_batch=4)
    assert "4 GPUs are asked for" in reasons(one)
    spec = one.spec.model_copy(
        update={"gpus": (0, 1), "tensorrt_llm": TensorRtLlmOptions(release="23.10", tensor_parallel=1)}
    )
    assert "World size 2 (the GPUs chosen) is not tensor 1 x pipeline 1" in reasons(
        Guided(recipe, spec, LLAMA2, A100_X2)
    )


# --- what came after --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("version", "told", "not_told"), [
    ("0.10.0", "--max_output_len 512", "--max_seq_len"),
    ("0.12.0", "--max_seq_len 2560", "--max_output_len"),
    ("1.2.1", "--kv_cache_type paged", "--paged_kv_cache"),
])  # fmt: skip
def test_trtllm_build_is_told_lengths_as_its_version_wants_them(version: str, told: str, not_told: str) -> None:
    plan = guided(LLAMA2, H100, "llama", version=version, flow="trtllm_build", max_batch=8, max_input=2048,
                  max_output=512).plan()  # fmt: skip
    assert told in argv(plan, "engine") and not_told not in argv(plan, "engine")


def test_convert_and_build_agree_on_the_split() -> None:
    plan = GUIDED["trtllm-0.19-llama-3.1-8b-tp2"].plan()
    assert "--tp_size 2 --pp_size 1" in argv(plan, "convert")
    assert argv(plan, "convert").split("--output_dir ")[1].split()[0] in argv(plan, "engine")


def test_the_templates_come_from_the_release_that_has_them() -> None:
    old, new = (GUIDED[f"trtllm-{name}"].plan() for name in ("0.19-llama-3.1-8b-tp2", "1.2-llama-3.1-8b-int8"))
    assert "/all_models/inflight_batcher_llm" in argv(old, "repository") and "tensorrtllm_backend" in argv(
        old, "repository"
    )
    assert "/triton_backend/all_models/inflight_batcher_llm" in argv(new, "repository")


def test_the_llm_api_builds_no_engine() -> None:
    plan = GUIDED["trtllm-1.2-qwen3-0.6b-llmapi"].plan()
    assert not {"engine", "convert", "engine-check"} & {one.id for one in plan.steps}


@pytest.mark.parametrize(("context", "tokens"), [(8192, None), (32_768, 32_256)])
def test_the_llm_api_takes_the_longest_prompt_in_one_forward(context: int, tokens: int | None) -> None:
    plan = guided(QWEN3, H100, "qwen3", limits=Limits(concurrent=2, context=context, new_tokens=512)).plan()
    settings = plan.step("settings")
    assert isinstance(settings, WriteFiles)
    assert json.loads(settings.files[0].text or "")["arguments"].get("max_num_tokens") == tokens


def test_an_engine_that_a_person_has_is_checked_in_place_of_a_build() -> None:
    plan = guided(LLAMA2, A100_X2, "llama", "bf16", release="23.10", max_batch=4, engine_folder="/srv/engines/l").plan()
    assert "engine" not in {one.id for one in plan.steps}
    assert "accept /srv/engines/l" in argv(plan, "engine-check")


@pytest.mark.parametrize(("front", "instances"), [("ensemble", 1), ("bls", 4)])
def test_no_piece_of_an_answer_overtakes_another_in_the_ensemble(front: str, instances: int) -> None:
    plan = guided(LLAMA2, H100, "llama", version="1.2.1", flow="trtllm_build", front=front, max_batch=8).plan()
    (text,) = (file.text for step in plan.steps if step.id == "settings" for file in step.files)
    assert json.loads(text)["values"]["postprocessing_instance_count"] == instances


def gptq(version: str, kind: Model, files: tuple[str, ...] = ("model.safetensors",)) -> Guided:
    """A model packed by GPTQ."""
    packed = kind.model_copy(update={"quantisation": "gptq", "weight_files": files})
    return guided(packed, A100_X2, "g", version=version, flow="trtllm_build", quantisation="int4_gptq", max_batch=4)


@pytest.mark.parametrize(("kind", "files", "told"), [
    (LLAMA2, 1, True), (LLAMA2, 2, False), (QWEN2, 1, False),
])  # fmt: skip
def test_only_llamas_converter_is_told_the_packed_file_by_name(kind: Model, files: int, told: bool) -> None:
    """Qwen's has no such option; of more than one file none is the file."""
    names = tuple(f"model-{number}.safetensors" for number in range(files))
    words = argv(gptq("0.16.0", kind, names).plan(), "convert")
    assert "--weight_only_precision int4_gptq --per_group" in words
    assert ("--quant_ckpt_path" in words) is told


def test_gptq_of_llama_waits_for_the_option_that_later_versions_have() -> None:
    assert "int4 GPTQ is not made" in reasons(gptq("0.11.0", LLAMA2))


def test_what_0_5_quantises_runs_in_fp16_whatever_the_model_was_trained_in() -> None:
    def one(precision: Precision, quantisation: str) -> Guided:
        return guided(LLAMA2_BF16, A100_X2, "llama", precision, release="23.10", quantisation=quantisation, max_batch=4)

    assert "--dtype bfloat16" in argv(one("auto", "none").plan(), "engine")
    assert "--dtype float16" in argv(one("auto", "int8_weight_only").plan(), "engine")
    assert "fp16 activations only" in reasons(one("bf16", "int8_weight_only"))


def test_smoothquant_of_0_5_has_what_reads_its_calibration_texts() -> None:
    plan = GUIDED["trtllm-002-qwen-7b-smoothquant"].plan()
    assert "datasets~=2.14.7" in (plan.step("packages-dockerfile").files[0].text or "")  # type: ignore[union-attr]
    assert "datasets" not in GUIDED["trtllm-002-qwen-7b-int4"].plan().model_dump_json()


def turned(version: str, batching: str = "inflight", **facts: object) -> Guided:
    """Llama 2 with positions that turn otherwise."""
    model = LLAMA2.model_copy(update={"facts": LLAMA2.facts | facts})
    return guided(model, A100_X2, "llama", version=version, flow="build_py" if version == "0.5.0" else "trtllm_build",
                  batching=batching, max_batch=4, max_input=512, max_output=512)  # fmt: skip


@pytest.mark.parametrize(("version", "name"), [("0.5.0", "engine"), ("0.8.0", "convert")])
def test_the_first_versions_are_told_how_positions_turn_which_they_do_not_read(version: str, name: str) -> None:
    assert "--rotary" not in argv(turned(version).plan(), name)
    told = argv(turned(version, rope_theta=1_000_000.0, rope_scaling="linear", rope_factor=2.0).plan(), name)
    assert "--rotary_base 1000000.0 --rotary_scaling linear 2.0" in told
    later = turned("0.16.0", rope_theta=1_000_000.0, rope_scaling="linear").plan()
    assert "--rotary" not in argv(later, "convert") + argv(later, "engine")


@pytest.mark.parametrize(("version", "kind", "batching", "sign"), [
    ("0.5.0", "llama3", "inflight", "does not know rope scaling “llama3”."),
    ("0.11.0", "llama3", "inflight", "does not know rope scaling “llama3”, which came with 0.12."),
    ("0.5.0", "dynamic", "inflight", "choose V1 batching"),
    ("0.5.0", "dynamic", "v1", None),
    ("0.12.0", "llama3", "inflight", None),
])  # fmt: skip
def test_an_engine_that_would_turn_positions_wrongly_is_refused(
    version: str, kind: str, batching: str, sign: str | None
) -> None:
    told = reasons(turned(version, batching, rope_scaling=kind, rope_factor=2.0))
    assert (sign in told) if sign else not told


def test_qwen3_is_quantised_to_fp8_alone_and_not_cut_into_stages() -> None:
    options = {"version": "1.2.1", "flow": "trtllm_build", "max_batch": 4}
    assert "int8 weight-only is not made" in reasons(
        guided(QWEN3, H100_X2, "q", quantisation="int8_weight_only", **options)
    )
    assert reasons(guided(QWEN3, H100_X2, "q", pipeline_parallel=2, **options))
    assert "--qformat fp8" in argv(guided(QWEN3, H100_X2, "q", quantisation="fp8", **options).plan(), "convert")


@pytest.mark.parametrize(("version", "split", "sign"), [
    ("0.9.0", {"pipeline_parallel": 2}, "one pipeline stage only"), ("0.10.0", {"pipeline_parallel": 2}, None),
    ("0.16.0", {"tensor_parallel": 2}, None), ("0.16.0", {"tensor_parallel": 4}, "rows of 11,008 do not split"),
])  # fmt: skip
def test_calibrated_weights_are_not_split_as_their_export_cannot(
    version: str, split: dict[str, int], sign: str | None
) -> None:
    cards = machine("NVIDIA H100 80GB HBM3", 90, 4, 81_559, "590.44.01")
    told = reasons(guided(LLAMA2, cards, "x", version=version, quantisation="int4_awq", max_batch=4, **split))
    assert (sign in told) if sign else not told


@pytest.mark.parametrize(("version", "kind", "quantisation"), [
    ("0.5.0", LLAMA2, "int8_weight_only"), ("0.5.0", QWEN, "smoothquant"), ("0.8.0", LLAMA2, "smoothquant"),
    ("0.11.0", LLAMA2, "int4_awq"), ("0.12.0", LLAMA2, "int4_gptq"), ("0.16.0", QWEN2, "int4_gptq"),
    ("0.19.0", LLAMA3, "fp8"), ("1.2.1", QWEN2, "int4_weight_only"),
], ids=lambda told: told if isinstance(told, str) else told.model_type)  # fmt: skip
def test_every_tool_takes_the_command_line_that_the_plan_has_for_it(
    tmp_path: Path, version: str, kind: Model, quantisation: str
) -> None:
    """The stand-ins refuse what the real scripts of that version refuse, and write what those write."""
    turned = {"rope_theta": 1_000_000.0, "rope_scaling": "linear", "rope_factor": 2.0} if version == "0.8.0" else {}
    packed = {"quantisation": "gptq"} if quantisation == "int4_gptq" else {}
    one = kind.model_copy(update=packed | {"facts": kind.facts | turned})
    options = {"tensor_parallel": 2, "max_batch": 2, "max_input": 64, "max_output": 64, "quantisation": quantisation}
    flow = "build_py" if version == "0.5.0" else "trtllm_build"
    plan = guided(one, H100_X2, "x", trust=True, version=version, flow=flow, **options).plan()
    places = dict.fromkeys(("run", "assets", "python"), "/x") | {
        name: str(tmp_path / name) for name in ("home", "models")
    }
    package = tmp_path / f"tensorrt_llm-{version}.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(f"Name: tensorrt_llm\nVersion: {version}\n", encoding="utf-8")
    library(tmp_path / "library", version)
    for name in ("convert", "engine") if "convert" in {found.id for found in plan.steps} else ("engine",):
        words = list(fill_step(step(plan, name), places).argv)  # type: ignore[union-attr]
        if words[0] == "python3":
            root = Path(words[1].split("/examples/")[0] if "/examples/" in words[1] else words[1].rsplit("/", 2)[0])
            if not root.exists():
                (library if "/examples/" in words[1] else lambda folder, _: examples(folder))(root, version)
            model_folder = Path(next(after for word, after in pairwise(words) if word in MODEL_FOLDER))
            model_folder.mkdir(parents=True, exist_ok=True)
            (model_folder / "config.json").write_text(json.dumps(SMALL), encoding="utf-8")
            ran = [sys.executable, *words[1:]]
        else:
            ran = [sys.executable, str(FIXTURES / "image" / words[0]), *words[1:]]
        env = {"PYTHONPATH": f"{tmp_path / 'library'}:{tmp_path}"}
        done = subprocess.run(ran, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "Total time of building all" in done.stdout


# --- reasons against --------------------------------------------------------------------------------------------------


def test_all_reasons_are_told_at_once() -> None:
    hardware = A100_X2.model_copy(update={"docker": Docker(reachable=True, nvidia_runtime=False)})
    one = guided(QWEN, hardware, "qwen", "int8", version="0.5.0", quantisation="fp8", front="bls", max_batch=4)
    told = reasons(Guided(recipe, one.spec.model_copy(update={"target": "local"}), QWEN, hardware))
    for sign in ("Docker target", "NVIDIA runtime", "trust_remote_code", "fp8 is not made", "not asked through “bls”"):
        assert sign in told


@pytest.mark.parametrize(("options", "sign"), [
    ({"version": "0.7.1"}, "drives no TensorRT-LLM release that is 0.7.1"),
    ({"version": "0.5.0", "flow": "trtllm_build"}, "drives no TensorRT-LLM release"),
    ({"version": "1.2.1", "batching": "v1"}, "removed V1 batching"),
    ({"version": "1.2.1", "flow": "llmapi", "quantisation": "int4_awq"}, "does not quantise"),
    ({"version": "0.13.0", "quantisation": "int4_gptq"}, "takes gptq weights"),
])  # fmt: skip
def test_what_a_version_does_not_do_is_said(options: dict[str, object], sign: str) -> None:
    assert sign in reasons(guided(LLAMA2, H100, "llama", max_batch=4, **options))


def test_a_model_that_a_version_does_not_know_is_refused_by_name() -> None:
    assert "Qwen3ForCausalLM" in reasons(guided(QWEN3, RTX_3090, "qwen3", version="0.5.0"))


def test_fp8_needs_ada_or_later() -> None:
    one = guided(LLAMA3, machine("NVIDIA A100-SXM4-80GB", 80, 1, 81_920, "570.124.06"), "llama", version="0.19.0",
                 quantisation="fp8", max_batch=4)  # fmt: skip
    assert "fp8 needs SM 8.9" in reasons(one)


def test_a_gpu_that_the_version_refuses_is_named() -> None:
    assert "SM 70 is not supported" in reasons(guided(LLAMA2, V100, "llama", version="0.19.0", max_batch=4))


def test_more_context_than_the_model_has_is_refused_by_vllm_too() -> None:
    one = GUIDED["vllm-qwen3-0.6b"]
    spec = one.spec.model_copy(update={"limits": Limits(context=2**20)})
    said = [reason.en for reason in one.engine.why_not(spec, one.hardware, one.model)]
    assert said == ["The model's context is 40,960 tokens; 1,048,576 were asked for."]


@pytest.mark.parametrize(("inside", "expected", "status"), [
    ("0.19.0", "0.19.0", 0), ("0.12.0.dev2024080600", "0.12.0", 0), ("0.17.0.post1", "0.17.0.post1", 0),
    ("0.12.0", "0.13.0", 1),
])  # fmt: skip
def test_an_image_is_taken_whose_package_is_of_the_release_though_built_before_it(
    tmp_path: Path, inside: str, expected: str, status: int
) -> None:
    folder = tmp_path / f"tensorrt_llm-{inside}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Name: tensorrt_llm\nVersion: {inside}\n", encoding="utf-8")
    script = Path(__file__).parents[1] / "assets" / "tensorrt_llm" / "check_image.py"
    words = (sys.executable, str(script), expected)
    done = subprocess.run(words, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, check=False)
    assert done.returncode == status, done.stderr


def test_no_gpu_is_a_reason() -> None:
    assert "needs an NVIDIA GPU" in reasons(guided(LLAMA2, Hardware(driver_version="550.54"), "llama"))


def test_lengths_beyond_the_models_context_are_refused() -> None:
    assert "more than the model's context of 4,096" in reasons(
        guided(LLAMA2, A100_X2, "llama", release="23.10", max_batch=1, max_input=4096, max_output=512)
    )


def test_weights_that_do_not_fit_at_their_smallest_are_refused() -> None:
    small = machine("NVIDIA GeForce RTX 3060", 86, 1, 12_288)
    assert "even at its smallest" in reasons(guided(LLAMA2, small, "llama", release="23.10", max_batch=4))


@pytest.mark.parametrize("precision", ["fp16", "int8", "int4"])
def test_a_choice_never_needs_more_than_what_was_chosen(precision: Precision) -> None:
    choice, _ = choose(
        Spec(model=LLAMA2.source, engine="tensorrt_llm", target="docker", precision=precision,
             limits=Limits(concurrent=7, context=3000, new_tokens=500)),
        A100_X2,
        LLAMA2,
    )  # fmt: skip
    assert choice is not None
    assert (choice.max_batch, choice.max_input, choice.max_output) == (7, 2500, 500)


def test_without_a_release_the_recommended_one_is_taken() -> None:
    choice, told = choose(Spec(model=LLAMA2.source, engine="tensorrt_llm", target="docker"), A100_X2, LLAMA2)
    assert choice is not None and not told
    assert choice.release.image_tag == recommend(A100_X2).engines["tensorrt_llm"].recommended


def test_every_release_names_a_version_and_a_source() -> None:
    rows = versions.releases()
    assert [row.release for row in rows] == sorted({row.release for row in rows})
    assert all(row.source and versions.numbers(row.version) for row in rows)


def test_a_model_without_an_end_token_cannot_be_served_by_0_5() -> None:
    endless: Model = LLAMA2.model_copy(update={"model_type": "gpt2", "tokenizer": Tokenizer(), "facts": {}})
    assert "ends answers by its id alone" in reasons(guided(endless, RTX_3090, "x", version="0.5.0", max_batch=1))


def test_different_gpus_cannot_share_an_engine() -> None:
    mixed = A100_X2.model_copy(
        update={"gpus": (A100_X2.gpus[0], Gpu(name="NVIDIA H100 PCIe", index=1, sm=90, memory_total_mib=81_920))}
    )
    assert "these differ" in reasons(guided(LLAMA2, mixed, "llama", release="23.10", tensor_parallel=2, max_batch=4))


def test_the_parity_page_is_that_of_the_golden_plans() -> None:
    page = parity.PAGES[1]
    assert page.path.read_text(encoding="utf-8") == page.text()
