"""FasterTransformer's recipe: golden plans of the guides, and every reason against."""

from __future__ import annotations

import pytest

from backends.errors import BadInput
from backends.fastertransformer import recipe
from backends.guides import guides
from backends.reading import read
from backends.spec import FasterTransformerOptions, Gpu, Hardware, Model, Sources, Spec
from backends.steps import BuildImage, Plan, Service, Task
from scripts import parity
from tests.guides import ATOM, GPT_J, GUIDED, LLAMA_7B, RTX_3090_X2, T5_3B, Guided, model, path, written


def changed(guided: Guided, **options: object) -> Spec:
    given = guided.spec.fastertransformer.model_dump() | options
    return guided.spec.model_copy(update={"fastertransformer": FasterTransformerOptions.model_validate(given)})


def reasons(spec: Spec, one: Model, hardware: Hardware = RTX_3090_X2) -> str:
    return " ".join(reason.en for reason in recipe.why_not(spec, hardware, one))


def machine(*names: str) -> Hardware:
    return RTX_3090_X2.model_copy(
        update={"gpus": tuple(Gpu(name=name, index=index) for index, name in enumerate(names))}
    )


# --- the plans of the guides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDED)
def test_the_plan_is_the_golden_one(name: str) -> None:
    assert written(GUIDED[name].plan()) == path(name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", GUIDED)
def test_a_golden_plan_is_read_back_as_it_was_made(name: str) -> None:
    assert Plan.model_validate_json(path(name).read_text(encoding="utf-8")) == GUIDED[name].plan()


@pytest.mark.parametrize("name", GUIDED)
def test_every_step_needs_only_steps_before_it(name: str) -> None:
    seen: set[str] = set()
    for step in GUIDED[name].plan().steps:
        assert set(step.needs) <= seen, step.id
        seen.add(step.id)


@pytest.mark.parametrize("name", GUIDED)
def test_a_container_sees_every_path_that_its_command_names(name: str) -> None:
    for step in GUIDED[name].plan().steps:
        if isinstance(step, Task | Service) and step.container is not None:
            mounted = [mount.path for mount in step.container.mounts]
            words = [word.split("=", 1)[-1] for word in (*step.argv, *step.env.values(), step.cwd or "")]
            for place in (part for word in words for part in word.split(":") if part.startswith("{") and "/" in part):
                assert any(place.startswith(folder) for folder in mounted), (step.id, place)


@pytest.mark.parametrize("name", GUIDED)
def test_only_pip_has_a_network_besides_the_server(name: str) -> None:
    for step in GUIDED[name].plan().steps:
        if isinstance(step, Task) and step.container is not None:
            assert step.container.network == ("bridge" if "pip" in step.argv else "none"), step.id


def test_what_guide_000_compiles_to_no_effect_is_left_out_and_said() -> None:
    plan = GUIDED["000-atom-7b-fp16"].plan()
    assert not [step for step in plan.steps if "cmake" in getattr(step, "argv", ())]
    assert any(note.en.startswith("Guide step 2.3") and "Left out" in note.en for note in plan.notes)


def test_int8_is_a_parameter_of_the_server_and_the_files_stay_fp16() -> None:
    half, int8 = GUIDED["000-atom-7b-fp16"].plan(), GUIDED["000-atom-7b-int8"].plan()
    assert half.step("convert") == int8.step("convert")
    assert "--parameter=int8_mode=1" in int8.step("repository").argv
    assert "--parameter=int8_mode=0" in half.step("repository").argv


def test_a_prebuilt_image_is_pulled_and_looked_into_and_nothing_is_built() -> None:
    plan = GUIDED["000-atom-7b-prebuilt"].plan()
    assert plan.step("image").kind == "pull"
    assert plan.step("image-check").container.image == "xiangtao1994/atom_triton_ft:23.04"


def test_gpt_gemm_is_given_the_dimensions_of_the_model_at_hand() -> None:
    argv = GUIDED["003-gptj-6b-tp2"].plan().step("autotune").argv
    assert argv[-9:] == ("8", "1", "32", "16", "256", "16384", "50400", "1", "2")


def test_t5_gemm_is_given_the_number_of_arguments_that_its_revision_takes() -> None:
    argv = GUIDED["003-t5-3b-tp2"].plan().step("autotune").argv
    side = ("1024", "32", "128", "16384")
    assert argv[-16:] == ("1", "1", "32", *side, *side, "32128", "0", "2", "0", "0")
    guided = GUIDED["003-t5-3b-tp2"]
    half = Guided(guided.spec.model_copy(update={"precision": "fp16"}), guided.model)
    assert half.plan().step("autotune").argv[-4:] == ("1", "2", "0", "0"), "measured as the server sums: in fp32"


def test_the_server_starts_where_gemm_config_lies() -> None:
    plan = GUIDED["003-gptj-6b-tp2"].plan()
    assert plan.step("gemm-config").outputs == (f"{plan.service.cwd}/gemm_config.in",)


def test_the_server_fails_behind_a_ready_where_weights_did_not_load() -> None:
    assert "loading model fails!" in GUIDED["001-llama-7b-tp2"].plan().service.forbidden


def test_addresses_and_revisions_of_the_spec_take_the_place_of_the_pinned_ones() -> None:
    spec = changed(
        GUIDED["001-llama-7b-tp2"],
        backend_repository="https://mirror.example/backend.git",
        library_repository="file:///srv/git/library.git",
        library_revision="v1",
    )
    plan = recipe.recipe(spec, RTX_3090_X2, LLAMA_7B, Sources())
    backend, library = plan.step("backend-source"), plan.step("converter-source")
    assert (backend.source, backend.revision) == ("https://mirror.example/backend.git", "HEAD")
    assert (library.source, library.revision) == ("file:///srv/git/library.git", "v1")
    assert any(note.en.startswith("HEAD, v1 may move") for note in plan.notes)


def test_other_weights_in_the_same_folder_are_converted_anew() -> None:
    spec = GUIDED["001-llama-7b-tp2"].spec
    other = LLAMA_7B.model_copy(update={"weights_mib": 1})
    one, two = (recipe.recipe(spec, RTX_3090_X2, model_, Sources()).step("convert") for model_ in (LLAMA_7B, other))
    assert one.inputs != two.inputs


def test_what_a_person_has_already_takes_the_place_of_its_step_and_is_checked() -> None:
    spec = changed(
        GUIDED["003-gptj-6b-tp2"],
        backend_checkout="/srv/backend",
        converted="/srv/gptj/2-gpu",
        gemm_config="/srv/gemm_config.in",
        prebuilt_image="registry.example/ft:22.03",
    )
    plan = recipe.recipe(spec, RTX_3090_X2, GPT_J, Sources())
    ids = [step.id for step in plan.steps]
    assert ids == ["backend-source", "image", "image-check", "model", "weights-check", "gemm-config", "server-packages",
                   "repository", "tokenizer-check", "serve", "first-answer"]  # fmt: skip
    assert "check_files.py" in plan.step("backend-source").argv[1]
    assert plan.step("weights-check").argv[2] == "/srv/gptj/2-gpu"
    assert "/srv/gptj/2-gpu" in [mount.source for mount in plan.service.container.mounts]


def test_a_recommended_tag_is_built_on_as_if_no_image_was_named() -> None:
    plain = GUIDED["000-atom-7b-fp16"]
    plan = recipe.recipe(plain.spec.model_copy(update={"image": "23.04-py3"}), RTX_3090_X2, ATOM, Sources())
    assert plan.steps == plain.plan().steps


def test_a_prompt_that_a_family_is_not_written_in_is_refused() -> None:
    assert "not written as chatml" in reasons(
        GUIDED["000-atom-7b-fp16"].spec.model_copy(update={"template": "chatml"}), ATOM
    )
    assert "not written as atom" in reasons(
        GUIDED["003-gptj-6b-tp2"].spec.model_copy(update={"template": "atom"}), GPT_J
    )


def test_another_base_image_is_told_to_the_build_and_names_another_image() -> None:
    plain = GUIDED["000-atom-7b-fp16"]
    spec = plain.spec.model_copy(update={"image": "mirror.example/tritonserver:22.12-py3"})
    build = recipe.recipe(spec, RTX_3090_X2, ATOM, Sources()).step("image")
    assert isinstance(build, BuildImage)
    assert build.args == {"TRITON_VERSION": "22.12", "BASE_IMAGE": "mirror.example/tritonserver:22.12-py3"}
    assert build.tag != plain.plan().step("image").tag


def test_safetensors_are_written_as_one_file_for_converters_that_are_older() -> None:
    spec = GUIDED["003-gptj-6b-tp2"].spec
    one = GPT_J.model_copy(update={"weight_format": "safetensors", "weight_files": ("a.safetensors", "b.safetensors")})
    plan = recipe.recipe(spec, RTX_3090_X2, one, Sources())
    assert plan.step("one-file").outputs[0].startswith(plan.step("convert").argv[6].rstrip("/"))


def test_a_slim_checkpoint_is_read_by_its_own_converter() -> None:
    spec = changed(GUIDED["003-gptj-6b-tp2"], slim_checkpoint="/srv/step_383500")
    convert = recipe.recipe(spec, RTX_3090_X2, GPT_J, Sources()).step("convert")
    assert convert.argv[2].endswith("/gptj_ckpt_convert.py")
    assert "/srv/step_383500/" in convert.argv


# --- the parity table -------------------------------------------------------------------------------------------------


def test_every_step_that_a_guide_is_said_to_match_is_in_its_plan_or_may_be() -> None:
    known = {step.id for guided in GUIDED.values() for step in guided.plan().steps}
    for guide in guides("fastertransformer").values():
        assert {name for step in guide.step for name in step.steps} <= known


@pytest.mark.parametrize("name", parity.PLANS)
def test_every_step_of_a_plan_stands_beside_a_step_of_its_guide(name: str) -> None:
    matched = {step_id for step in guides("fastertransformer")[name].step for step_id in step.steps}
    assert {step.id for step in GUIDED[parity.PLANS[name]].plan().steps} <= matched


def test_the_parity_page_is_as_the_plans_make_it() -> None:
    assert parity.PAGE.read_text(encoding="utf-8") == parity.page()


# --- why not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GUIDED)
def test_the_guides_models_can_be_served(name: str) -> None:
    assert recipe.why_not(GUIDED[name].spec, RTX_3090_X2, GUIDED[name].model) == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("llama-2-70b", "(GQA)"),
        ("llama-3.2-1b", "tied to the embeddings"),
        ("llama-3.1-8b-instruct", "rope scaling “llama3”"),
        ("flan-t5-small", "gated"),
        ("qwen3-0.6b", "LLaMA, GPT-J and T5; this is Qwen3ForCausalLM"),
        ("llama-2-7b-gptq", "quantised (gptq)"),
    ],
)
def test_a_model_that_the_converters_cannot_take_is_refused(name: str, words: str) -> None:
    assert words in reasons(GUIDED["000-atom-7b-fp16"].spec, model(name, f"owner/{name}"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rope_theta": 1_000_000.0}, "rope base 1,000,000"),
        ({"attention_bias": True}, "biases"),
        ({"activation": "gelu"}, "only has silu"),
    ],
)
def test_a_llama_with_a_fact_that_is_lost_in_silence_is_refused(change: dict[str, object], words: str) -> None:
    assert words in reasons(GUIDED["000-atom-7b-fp16"].spec, ATOM.model_copy(update={"facts": change}))


def test_a_t5_of_another_activation_is_refused() -> None:
    odd = T5_3B.model_copy(update={"facts": T5_3B.facts | {"feed_forward_proj": "gelu"}})
    assert "takes it for relu in silence" in reasons(GUIDED["003-t5-3b-tp2"].spec, odd)


def test_head_sizes_without_a_kernel_are_refused() -> None:
    odd = ATOM.model_copy(update={"heads": 40, "kv_heads": 40, "head_size": 112, "hidden_size": 4480})
    assert "A head has 112 values" in reasons(GUIDED["000-atom-7b-fp16"].spec, odd)


def test_all_reasons_are_told_at_once() -> None:
    spec = changed(GUIDED["000-atom-7b-fp16"], tensor_parallel=3).model_copy(update={"target": "local"})
    told = reasons(spec, model("llama-2-70b", "owner/llama"))
    for words in ("Docker target", "(GQA)", "powers of two", "cannot be split over 3 ranks", "3 GPUs are needed"):
        assert words in told


def test_t5_says_that_a_split_would_lose_files_in_silence() -> None:
    odd = T5_3B.model_copy(update={"intermediate_size": 16_383})
    assert "lose files in silence" in reasons(GUIDED["003-t5-3b-tp2"].spec, odd)


def test_layers_must_divide_by_the_pipeline() -> None:
    assert "32 layers cannot be split over 3" in reasons(changed(GUIDED["000-atom-7b-fp16"], pipeline_parallel=3), ATOM)


@pytest.mark.parametrize(
    ("gpus", "options", "fits"),
    [
        ((0,), {"tensor_parallel": 2}, False),
        ((0, 1), {"tensor_parallel": 1}, False),
        ((0, 1), {"tensor_parallel": 1, "instances": 2}, True),
        ((0, 1), {"tensor_parallel": 2}, True),
        ((0, 1), {}, True),
        ((0, 1), {"pipeline_parallel": 2}, True),
        ((), {}, False),
        ((0, 7), {}, False),
    ],
)
def test_the_number_of_gpus_is_that_of_ranks_times_instances(
    gpus: tuple[int, ...], options: dict[str, object], fits: bool
) -> None:
    spec = changed(GUIDED["000-atom-7b-fp16"], **options).model_copy(update={"gpus": gpus})
    assert (recipe.why_not(spec, RTX_3090_X2, ATOM) == ()) is fits


def test_chosen_gpus_set_the_split_where_nobody_else_does() -> None:
    spec = GUIDED["000-atom-7b-fp16"].spec.model_copy(update={"gpus": (1, 0)})
    plan = recipe.recipe(spec, RTX_3090_X2, ATOM, Sources())
    assert "-infer_gpu_num=2" in plan.step("convert").argv
    assert plan.service.container.gpus == (1, 0)


@pytest.mark.parametrize(
    ("name", "gpu", "words"),
    [
        ("000-atom-7b-fp16", "NVIDIA GeForce RTX 5090", "SM 12.0, which this FasterTransformer has no kernels for"),
        ("000-atom-7b-fp16", "NVIDIA H100 PCIe", ""),
        ("000-atom-7b-int8", "NVIDIA H100 PCIe", "int8"),
        ("003-gptj-6b-tp2", "NVIDIA L4", "SM 8.9, which this FasterTransformer has no kernels for"),
    ],
)
def test_gpus_without_kernels_are_refused(name: str, gpu: str, words: str) -> None:
    guided = GUIDED[name]
    told = reasons(guided.spec, guided.model, machine(gpu, gpu))
    assert words in told
    assert bool(told) is bool(words)


@pytest.mark.parametrize(("driver", "fits"), [("530.41.03", True), ("535.54.03", True), ("470.57.02", False)])
def test_the_driver_must_be_one_that_the_image_runs_on(driver: str, fits: bool) -> None:
    old = RTX_3090_X2.model_copy(update={"driver_version": driver})
    assert (recipe.why_not(GUIDED["000-atom-7b-fp16"].spec, old, ATOM) == ()) is fits


@pytest.mark.parametrize(
    ("name", "image", "fits"),
    [
        ("000-atom-7b-fp16", "nvcr.io/nvidia/tritonserver:22.12-py3", True),
        ("000-atom-7b-fp16", "nvcr.io/nvidia/tritonserver:23.05-py3", False),
        ("003-gptj-6b-tp2", "nvcr.io/nvidia/tritonserver:23.04-py3", False),
        ("003-gptj-6b-tp2", "mirror.example:5000/triton:22.03-py3", True),
        ("000-atom-7b-fp16", "mirror.example/triton:latest", False),
    ],
)
def test_the_image_must_be_one_that_the_branch_builds_in(name: str, image: str, fits: bool) -> None:
    guided = GUIDED[name]
    spec = guided.spec.model_copy(update={"image": image})
    assert (recipe.why_not(spec, RTX_3090_X2, guided.model) == ()) is fits


@pytest.mark.parametrize(
    ("name", "precision", "fits"),
    [
        ("000-atom-7b-fp16", "bf16", True),
        ("000-atom-7b-fp16", "int4", False),
        ("003-gptj-6b-tp2", "fp32", True),
        ("003-gptj-6b-tp2", "bf16", False),
        ("003-t5-3b-tp2", "int8", False),
        ("003-t5-3b-tp2", "fp16", True),
    ],
)
def test_precisions_are_those_of_the_branch(name: str, precision: str, fits: bool) -> None:
    guided = GUIDED[name]
    spec = guided.spec.model_copy(update={"precision": precision})
    assert (recipe.why_not(spec, RTX_3090_X2, guided.model) == ()) is fits


def test_t5_runs_in_fp32_unless_asked_otherwise_and_a_note_warns_of_fp16() -> None:
    guided = GUIDED["003-t5-3b-tp2"]
    assert "--parameter=is_half=0" in guided.plan().step("repository").argv
    half = Guided(guided.spec.model_copy(update={"precision": "fp16"}), guided.model).plan()
    assert "--parameter=is_half=1" in half.step("repository").argv
    assert any("T5 in fp16" in note.en for note in half.notes)


def test_pickled_weights_need_a_word() -> None:
    spec = GUIDED["003-gptj-6b-tp2"].spec.model_copy(update={"allow_pickle": False})
    assert "allow_pickle" in reasons(spec, GPT_J)


def test_a_branch_that_does_not_know_the_family_is_refused() -> None:
    spec = changed(GUIDED["003-gptj-6b-tp2"], profile="void-main")
    assert "Choose one of: blog" in reasons(spec, GPT_J)


@pytest.mark.parametrize("url", ["https://me:pa55word@git.example/a/b.git", "https://pa55word@git.example/a/b.git"])
def test_a_repository_with_a_login_in_it_is_refused_without_repeating_it(url: str) -> None:
    told = {"model": {"kind": "demo"}, "name": "x", "fastertransformer": {"backend_repository": url}}
    with pytest.raises(BadInput, match=r"~/\.netrc") as refused:
        read(Spec, told, "spec")
    assert "pa55word" not in refused.value.of("en") + refused.value.of("zh")
