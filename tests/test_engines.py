"""Which way to a served model: reasons, order, effort."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import images, limits
from backends.engines import Effort, Way, effort_left, images_of, ways
from backends.obstacles import Recommended
from backends.recipes import RECIPES
from backends.spec import Docker, Gpu, Hardware, Limits, Model, ModelSource, Spec
from backends.steps import Forecast, PullImage, Task
from backends.text import Text, same
from tests.test_memory import model


def machine(name: str = "NVIDIA GeForce RTX 3090", sm: int = 86, gpus: int = 1, gib: int = 24) -> Hardware:
    return Hardware(
        driver_version="535.54.03",
        gpus=tuple(
            Gpu(name=name, index=i, sm=sm, memory_free_mib=gib * 1024 - 300, memory_total_mib=gib * 1024)
            for i in range(gpus)
        ),
        architecture="x86_64",
        os="Ubuntu 22.04",
        python="3.11.7",
        ram_free_mib=120_000,
        ram_total_mib=128_000,
        docker=Docker(reachable=True, nvidia_runtime=True),
    )


H200 = machine("NVIDIA H200", 90, 1, 140)


def spec(batch: int = 4, context: int | None = 2048, **more: object) -> Spec:
    limits = Limits(concurrent=batch, context=context, new_tokens=512)
    return Spec.model_validate({"model": {"kind": "demo"}, "limits": limits, **more})


def found(of: Model, here: Hardware, wanted: Spec | None = None, **images: Recommended) -> dict[str, Way]:
    return {way.id: way for way in ways(wanted or spec(), here, of, images)}


def says(way: Way, words: str) -> bool:
    return any(words in reason.en for reason in way.reasons)


ALL = ["transformers", "fastertransformer", "trtllm_engine_0_5", "trtllm_engine", "trtllm_llmapi", "vllm"]


def test_every_way_is_told_and_what_can_be_taken_comes_first() -> None:
    told = ways(spec(), H200, model("llama-3.1-8b-instruct"))
    assert sorted(way.id for way in told) == sorted(ALL)
    assert told[0].id == "vllm" and told[0].reasons == ()


@pytest.mark.parametrize("name", [name for name in ALL if name != "transformers"])
def test_a_way_without_a_recipe_says_so_first(name: str) -> None:
    way = found(model("llama-2-7b"), machine())[name]
    driven = way.engine in RECIPES
    assert driven or way.reasons[0].en.startswith("Slipway cannot drive")
    assert driven or "Slipway 暂不能驱动" in way.reasons[0].zh


def test_what_only_slipway_lacks_comes_before_what_cannot_be() -> None:
    told = ways(spec(), H200, model("qwen3-0.6b"))
    kinds = [(not way.reasons, way.possible) for way in told]
    assert kinds == sorted(kinds, reverse=True)
    assert [way.id for way in told if way.possible][:3] == ["vllm", "trtllm_llmapi", "transformers"]


def test_llama_2_7b_can_go_the_fastertransformer_way() -> None:
    assert found(model("llama-2-7b"), machine())["fastertransformer"].possible


def test_grouped_query_attention_tied_embeddings_and_rope_scaling_each_stop_fastertransformer() -> None:
    way = found(model("llama-3.2-1b"), machine())["fastertransformer"]
    for words in ("(GQA)", "tied to the embeddings", "rope scaling “llama3”"):
        assert sum(words in reason.en for reason in way.reasons) == 1, words  # each is told once
    assert says(found(model("llama-2-70b"), machine(gpus=4, gib=80))["fastertransformer"], "(GQA)")


def test_fastertransformer_has_no_blackwell() -> None:
    here = machine("NVIDIA GeForce RTX 5090", 120, gib=32)
    assert says(found(model("llama-2-7b"), here)["fastertransformer"], "compute capability 12.0")


def test_gpt_j_runs_on_ampere_and_not_on_hopper_with_the_old_image() -> None:
    assert found(model("gpt-j-6b"), machine(gib=40))["fastertransformer"].possible
    assert says(found(model("gpt-j-6b"), H200)["fastertransformer"], "compute capability 9.0")


def test_fastertransformers_int8_does_not_run_on_hopper() -> None:
    way = found(model("llama-2-7b"), H200, spec(precision="int8"))["fastertransformer"]
    assert says(way, "int8 does not run on NVIDIA H200")
    assert found(model("llama-2-7b"), machine(), spec(precision="int8"))["fastertransformer"].possible


def test_a_t5_whose_d_ff_the_gpus_cannot_share_is_stopped() -> None:
    odd = model("t5-3b").model_copy(update={"intermediate_size": 16382})
    wanted = spec(context=512, gpus=(0, 1, 2, 3))
    assert says(
        found(odd, machine(gpus=4), wanted)["fastertransformer"], "16,382 (width of the feed-forward) cannot be split"
    )
    assert found(model("t5-3b"), machine(gpus=4), wanted)["fastertransformer"].possible


def test_trtllm_0_5_knows_qwens_first_generation_and_not_mistral() -> None:
    trust = spec(trust_remote_code=True)
    assert found(model("qwen-7b-chat"), machine(), trust)["trtllm_engine_0_5"].possible
    assert says(found(model("mistral-7b-v0.1"), machine())["trtllm_engine_0_5"], "does not know the architecture")


def test_rope_scaling_is_asked_of_the_release() -> None:
    of = model("llama-3.1-8b-instruct")
    assert says(found(of, H200)["trtllm_engine_0_5"], "rope scaling “llama3”")
    old = Recommended(tag="24.07-trtllm-python-py3", version="0.11.0")
    assert says(found(of, H200, tensorrt_llm=old)["trtllm_engine"], "came with version 0.12")


def test_the_missing_eos_token_is_noted_where_it_bites() -> None:
    told = found(model("qwen-7b-chat"), machine(), spec(trust_remote_code=True))
    assert any("eos_token" in note.en for note in told["trtllm_engine_0_5"].notes)
    assert not any("eos_token" in note.en for note in told["vllm"].notes)


def test_what_guides_say_wrong_is_corrected_on_the_way_that_it_is_about() -> None:
    here, of = machine(), model("llama-2-7b")
    told = found(of, here, None, **images_of(images.recommend(here, model=of), of))
    for words in ("530 or later", "not the same", "newer than 23.04 does not help"):
        assert any(words in note.en for note in told["fastertransformer"].notes), words
        assert not any(words in note.en for note in told["vllm"].notes)


def test_an_image_too_old_for_the_architecture_is_a_reason() -> None:
    old = Recommended(tag="24.07-trtllm-python-py3", version="0.11.0")
    new = Recommended(tag="25.10-trtllm-python-py3", version="1.0.0")
    qwen3 = model("qwen3-0.6b")
    assert says(found(qwen3, H200, tensorrt_llm=old)["trtllm_engine"], "came with version 1.0")
    told = found(qwen3, H200, tensorrt_llm=new)
    assert told["trtllm_engine"].possible and told["trtllm_engine"].image == "25.10-trtllm-python-py3"
    assert told["trtllm_engine_0_5"].image is None


def test_no_image_for_this_machine_is_a_reason_with_its_words() -> None:
    none = Recommended(tag=None, reason=Text(en="Driver 390 is too old.", zh="驱动 390 过旧。"))
    assert says(found(model("llama-2-7b"), machine(), vllm=none)["vllm"], "Driver 390 is too old.")


def test_images_of_a_machine_reach_their_ways() -> None:
    found_here = images_of(images.recommend(H200))
    assert found_here["trtllm_engine_0_5"].tag == "23.10-trtllm-python-py3"
    assert found_here["trtllm_engine_0_5"].version == "0.5.0"
    assert found_here["tensorrt_llm"].version is not None and found_here["vllm"].tag is not None
    told = found(model("llama-2-7b"), H200, **found_here)
    assert told["trtllm_engine_0_5"].image == "23.10-trtllm-python-py3"
    assert told["trtllm_engine"].image == found_here["tensorrt_llm"].tag


def test_each_flow_of_tensorrt_llm_gets_a_release_that_has_it_and_knows_the_model() -> None:
    here = machine()  # driver 535: natively only 23.10, whose engine is 0.5.0
    qwen3 = model("qwen3-0.6b")
    of_model = images_of(images.recommend(here, model=qwen3), qwen3)
    version = of_model["trtllm_engine"].version
    assert version is not None and version.startswith(("1.0", "1.1", "1.2"))
    assert found(qwen3, here, **of_model)["trtllm_engine"].possible
    llama = images_of(images.recommend(here), model("llama-2-7b"))
    assert llama["trtllm_engine"].version != "0.5.0" and llama["trtllm_engine_0_5"].version == "0.5.0"


def test_a_way_gets_a_release_that_slipway_drives_even_where_an_older_one_is_native() -> None:
    here, of = machine(), model("llama-2-7b")
    told = found(of, here, None, **images_of(images.recommend(here, model=of), of))
    assert (told["vllm"].image, told["trtllm_llmapi"].image) == ("24.04-vllm-python-py3", "25.09-trtllm-python-py3")
    assert not told["vllm"].reasons and not told["trtllm_llmapi"].reasons
    assert {part.stage.en for part in told["trtllm_llmapi"].effort.stages} == {"Image", "Load"}


def test_an_image_that_does_not_run_says_why() -> None:
    here = machine("NVIDIA GeForce GTX 1080", 61, gib=8).model_copy(update={"driver_version": "390.157"})
    told = found(model("gpt2"), here, spec(context=1024), **images_of(images.recommend(here)))
    assert told["vllm"].image is None and len(told["vllm"].reasons) >= 2
    assert told["trtllm_engine_0_5"].image is None


def test_fastertransformers_gpus_are_those_of_its_images() -> None:
    tables = {flow.release: set(flow.sm) for family in ("llama", "gptj") for flow in limits.flows(family)}
    for name, release in (("llama-2-7b", "23.04"), ("gpt-j-6b", "22.03")):
        for sm in (50, 52, 60, 61, 70, 72, 75, 80, 86, 87, 89, 90, 100, 120):
            way = found(model(name), machine(sm=sm, gib=80))["fastertransformer"]
            assert says(way, "compute capability") is (sm not in tables[release])


def test_without_a_gpu_only_the_embedded_way_is_left() -> None:
    here = machine(gpus=0)
    told = found(model("qwen3-0.6b"), here)
    assert told["transformers"].reasons == ()
    for name in ALL[1:]:
        assert says(told[name], "needs an NVIDIA GPU") and not told[name].possible


def test_all_reasons_are_told_not_only_the_first() -> None:
    here = machine("NVIDIA GeForce RTX 5090", 120, gib=8).model_copy(
        update={"docker": Docker(reachable=False), "architecture": "aarch64"}
    )
    way = found(model("llama-3.2-1b"), here, spec(batch=64, context=8192))["fastertransformer"]
    for words in ("Docker is not reachable", "x86-64", "compute capability", "(GQA)", "GiB on GPU 0"):
        assert says(way, words)


def test_docker_without_the_nvidia_runtime_is_a_reason_unless_cdi_is_there() -> None:
    for cdi, stopped in ((False, True), (True, False)):
        docker = Docker(reachable=True, nvidia_runtime=False, cdi=cdi)
        here = machine().model_copy(update={"docker": docker})
        assert says(found(model("llama-2-7b"), here)["vllm"], "no NVIDIA runtime") is stopped


def test_packed_checkpoints_are_for_those_that_read_them() -> None:
    told = found(model("mistral-7b-awq"), machine())
    assert told["vllm"].possible
    assert says(told["transformers"], "quantised (awq)")
    assert says(told["trtllm_llmapi"], "does not read awq")


def test_bf16_needs_ampere() -> None:
    here = machine("Tesla T4", 75, gib=15)
    assert says(
        found(model("gpt2"), here, spec(context=1024, precision="bf16"))["vllm"], "bf16 needs compute capability 8.0"
    )


def test_code_and_pickles_need_a_persons_word() -> None:
    told = found(model("qwen-7b-chat", remote_code=True, weight_format="pickle"), machine())
    assert says(told["vllm"], "trust_remote_code") and says(told["vllm"], "allow_pickle")


def test_what_does_not_fit_says_how_much_is_lacking() -> None:
    told = found(model("llama-2-70b"), machine())
    assert all(says(way, "GiB on GPU 0") or says(way, "GiB are free") for way in told.values())


def test_an_engine_whose_cache_takes_what_is_free_is_no_less_possible_for_many_requests() -> None:
    told = found(model("llama-2-7b"), machine(), spec(64))
    assert says(told["transformers"], "GiB on GPU 0") and told["transformers"].changes
    for name in ("vllm", "trtllm_engine"):
        way = told[name]
        assert not way.reasons and way.changes and "find no room wait" in way.notes[-1].en


def test_every_change_that_is_offered_opens_its_way() -> None:
    kinds = set()
    for name, gpus, batch in (("llama-2-7b", 1, 24), ("llama-2-13b", 2, 4), ("llama-2-13b", 1, 4)):
        here = machine(gpus=gpus)
        for way in found(model(name), here, spec(batch)).values():
            for change in way.changes:
                assert not found(model(name), here, change.spec)[way.id].reasons, (way.id, change.text.en)
                kinds.add(change.text.en.split()[0])
            assert way.memory.verdict == "over" or not way.changes
    assert kinds == {"Serve", "Allow", "Use", "Split"}


def test_where_answers_leave_no_room_for_a_prompt_shorter_ones_are_offered_and_open_the_way() -> None:
    wanted = Spec(model=ModelSource(kind="demo"), limits=Limits(concurrent=4, context=1024))  # answers of 1,024, too
    told = found(model("llama-2-7b"), machine(), wanted)
    for name in ("trtllm_engine_0_5", "trtllm_engine", "trtllm_llmapi"):
        assert says(told[name], "leave no room for a prompt in a context of 1,024"), told[name].reasons
    (change,) = told["trtllm_engine"].changes
    assert (change.spec.limits.new_tokens, change.text.en) == (512, "Allow answers of 512 tokens instead of 1,024")
    assert not found(model("llama-2-7b"), machine(), change.spec)["trtllm_engine"].reasons
    assert not told["vllm"].reasons and not told["vllm"].changes


def test_effort_tells_builds_from_mere_pulls() -> None:
    told = found(model("llama-2-7b"), machine())
    first = {name: way.effort.first_start_s or 0 for name, way in told.items()}
    assert first["fastertransformer"] > first["trtllm_engine"] > first["vllm"] > first["transformers"]
    assert all((way.effort.later_start_s or 0) <= first[name] for name, way in told.items())
    assert (told["trtllm_engine"].effort.ram_mib or 0) > 40 * 1024


def test_what_is_there_already_is_no_effort_any_more() -> None:
    whole = Effort(first_start_s=400, later_start_s=10, download_mib=15_000, disk_mib=20_000)
    pull = PullImage(id="image", title=same("Pull"), image="x", shared=True, forecast=Forecast(download_mib=11_000))
    unsized = pull.model_copy(update={"forecast": Forecast()})
    built = Task(id="build", title=same("Build"), argv=("true",), shared=True)
    start = Task(id="start", title=same("Start"), argv=("true",))
    later = whole.model_copy(update={"first_start_s": None, "download_mib": None})
    assert effort_left(whole, [start]) == later, "one of its later starts"
    assert effort_left(whole, [pull, start]) == whole.model_copy(update={"first_start_s": 300, "download_mib": 11_000})
    assert effort_left(whole, [built, start]) == whole.model_copy(update={"first_start_s": 25, "download_mib": None})
    assert effort_left(whole, [unsized, start]) == whole


def test_what_is_chosen_is_ready_to_be_started() -> None:
    image = Recommended(tag="24.05-vllm-python-py3")
    told = found(model("llama-2-7b"), machine(), vllm=image)
    assert (told["vllm"].spec.engine, told["vllm"].spec.target) == ("vllm", "docker")
    assert told["vllm"].spec.image == "24.05-vllm-python-py3"
    assert told["transformers"].spec.target == "local"


def test_an_image_whose_tag_tells_nothing_cannot_be_judged_until_a_person_says_what_it_holds() -> None:
    here = machine(gpus=2).model_copy(update={"driver_version": "590.44.01"})
    told = found(model("llama-2-7b"), here, spec(image="registry.example/mine:1"))
    for name in ("fastertransformer", "trtllm_engine", "vllm"):
        assert told[name].untold and not told[name].possible, told[name].reasons
        assert says(told[name], "The tag of registry.example/mine:1 does not tell what it holds.")
    said = spec(image="registry.example/mine:1", vllm={"release": "26.05"})
    assert found(model("llama-2-7b"), here, said)["vllm"].reasons == ()
    assert not found(model("llama-3.2-1b"), here, said)["fastertransformer"].untold, "other reasons are refusals"


def test_an_image_that_a_person_named_wins_over_the_recommended_one() -> None:
    own = spec().model_copy(update={"image": "registry.example/mine:24.07-vllm-python-py3"})
    told = found(model("llama-2-7b"), machine(), own, vllm=Recommended(tag="24.05-vllm-python-py3"))
    assert told["vllm"].spec.image == told["vllm"].image == own.image and not told["vllm"].reasons
    assert told["transformers"].spec.image is None
    assert "24.07 was named" in told["fastertransformer"].reasons[0].en


_NAMES = [
    "llama-2-7b",
    "qwen-7b-chat",
    "llama-3.2-1b",
    "gpt-j-6b",
    "t5-3b",
    "mixtral-8x7b",
    "llama-2-7b-gptq",
    "falcon-7b",
]


@settings(max_examples=120, deadline=None)
@given(
    st.sampled_from(_NAMES),
    st.integers(50, 130) | st.none(),
    st.integers(0, 8),
    st.integers(4, 200),
    st.sampled_from(["auto", "fp32", "fp16", "bf16", "int8", "int4"]),
)
def test_any_machine_and_model_gets_a_whole_answer(
    name: str, sm: int | None, gpus: int, gib: int, precision: str
) -> None:
    here = machine(gpus=gpus, gib=gib)
    here = here.model_copy(update={"gpus": tuple(gpu.model_copy(update={"sm": sm}) for gpu in here.gpus)})
    told = ways(spec(precision=precision), here, model(name))
    assert len(told) == len(ALL)
    assert all(reason.en and reason.zh for way in told for reason in way.reasons)
    assert all(way.possible or way.reasons for way in told)
