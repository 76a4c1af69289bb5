"""Puts the stand-ins of tests/fixtures/tensorrt_llm together: template folders, whole upstream repositories."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from functools import cache
from pathlib import Path

from backends.tensorrt_llm import placeholders, versions

FIXTURES = Path(__file__).parent / "fixtures" / "tensorrt_llm"
_TENSOR = re.compile(r"(\w+) (\w+) \[([-\d, ]*)\](.*)")
_LATER = (  # parameters of tensorrt_llm in 0.19.0: key, placeholder
    "max_beam_width max_beam_width", "gpt_model_type batching_strategy", "gpt_model_path engine_dir",
    "encoder_model_path encoder_engine_dir", "max_tokens_in_paged_kv_cache max_tokens_in_paged_kv_cache",
    "max_attention_window_size max_attention_window_size", "sink_token_length sink_token_length",
    "batch_scheduler_policy batch_scheduler_policy", "kv_cache_free_gpu_mem_fraction kv_cache_free_gpu_mem_fraction",
    "cross_kv_cache_fraction cross_kv_cache_fraction", "kv_cache_host_memory_bytes kv_cache_host_memory_bytes",
    "kv_cache_onboard_blocks kv_cache_onboard_blocks", "enable_trt_overlap enable_trt_overlap",
    "exclude_input_in_output exclude_input_in_output", "cancellation_check_period_ms cancellation_check_period_ms",
    "stats_check_period_ms stats_check_period_ms", "iter_stats_max_iterations iter_stats_max_iterations",
    "request_stats_max_iterations request_stats_max_iterations", "enable_kv_cache_reuse enable_kv_cache_reuse",
    "normalize_log_probs normalize_log_probs", "enable_chunked_context enable_chunked_context",
    "gpu_device_ids gpu_device_ids", "participant_ids participant_ids", "num_nodes num_nodes",
    "lora_cache_optimal_adapter_size lora_cache_optimal_adapter_size",
    "lora_cache_max_adapter_size lora_cache_max_adapter_size",
    "lora_cache_gpu_memory_fraction lora_cache_gpu_memory_fraction",
    "lora_cache_host_memory_bytes lora_cache_host_memory_bytes", "lora_prefetch_dir lora_prefetch_dir",
    "decoding_mode decoding_mode", "medusa_choices medusa_choices", "eagle_choices eagle_choices",
    "lookahead_window_size lookahead_window_size", "lookahead_ngram_size lookahead_ngram_size",
    "lookahead_verification_set_size lookahead_verification_set_size", "gpu_weights_percent gpu_weights_percent",
    "enable_context_fmha_fp32_acc enable_context_fmha_fp32_acc", "multi_block_mode multi_block_mode",
    "cuda_graph_mode cuda_graph_mode", "cuda_graph_cache_size cuda_graph_cache_size",
    "speculative_decoding_fast_logits speculative_decoding_fast_logits", "tokenizer_dir tokenizer_dir",
    "guided_decoding_backend guided_decoding_backend", "xgrammar_tokenizer_info_path xgrammar_tokenizer_info_path",
)  # fmt: skip


_SINCE_0_20 = (  # model, side, tensors that came on top of 0.19's
    ("ensemble", "input", "return_num_input_tokens BOOL [1] opt; return_num_output_tokens BOOL [1] opt;"),
    ("tensorrt_llm_bls", "input", "return_num_input_tokens BOOL [1] opt reshape[]; "
     "return_num_output_tokens BOOL [1] opt reshape[];"),
    ("tensorrt_llm", "input", "return_num_input_tokens BOOL [1] opt reshape[]; "
     "return_num_output_tokens BOOL [1] opt reshape[];"),
    ("preprocessing", "input", "IMAGES STRING [-1] opt;"),
    *((model, "output", "num_input_tokens INT32 [1]; num_output_tokens INT32 [1];")
      for model in ("ensemble", "tensorrt_llm", "tensorrt_llm_bls")),
)  # fmt: skip


@cache
def _tensors() -> dict[str, dict[str, dict[str, str]]]:
    """The tensors of each version. 1.2's are 0.19's with two new names and some more (triton_backend/all_models)."""
    told = tomllib.loads((FIXTURES / "tensors.toml").read_text(encoding="utf-8"))
    renamed = {
        model: {
            side: words.replace("random_seed ", "seed ").replace("min_length ", "min_tokens ")
            for side, words in sides.items()
        }
        for model, sides in told["0.19.0"].items()
    }
    for model, side, more in _SINCE_0_20:
        renamed[model][side] = f"{renamed[model][side].rstrip()} {more}"
    return told | {"1.2.1": renamed}


def _form(version: str) -> str:
    """The version whose tensors the templates of this one have: 0.5.0, 0.19.0 (from 0.8 on), 1.2.1 (from 0.20 on)."""
    if version in _tensors():
        return version
    return "0.19.0" if versions.numbers(version) < (0, 20) else "1.2.1"


def _lacking(version: str, model: str) -> set[str]:
    """Inputs of 0.19's that ensembles and BLS models of 0.8 to 0.13 do not have: the core alone has them."""
    early = (0, 8) <= versions.numbers(version)[:2] < (0, 14) and model in ("ensemble", "tensorrt_llm_bls")
    return {"exclude_input_in_output"} if early else set()


def tensors(version: str, model: str, side: str) -> list[str]:
    """The tensors of one side ("input", "output") of a model, as pbtxt."""
    found, lacking = [], _lacking(version, model)
    version = _form(version)
    for told in _tensors()[version][model][side].split(";"):
        match = _TENSOR.match(told.strip())
        if match is None or match.group(1) in lacking:
            continue
        name, kind, dims, more = match.groups()
        if version != "0.5.0" and name in ("context_logits", "generation_logits", "draft_logits"):
            kind = "${logits_datatype}"
        elif version != "0.5.0" and name == "encoder_input_features":
            kind = "${encoder_input_features_data_type}"
        elif version == "1.2.1" and (model, name) == ("tensorrt_llm", "prompt_embedding_table"):
            kind = "${prompt_embedding_table_data_type}"
        else:
            kind = f"TYPE_{kind}"
        lines = [f'  name: "{name}"', f"  data_type: {kind}", f"  dims: [ {dims} ]"]
        if "reshape" in more:
            lines.append("  reshape: { shape: [ ] }")
        if "ragged" in more:
            lines.append("  allow_ragged_batch: true")
        if "opt" in more:
            lines.append("  optional: true")
        found.append(f"{side} {{\n" + "\n".join(lines) + "\n}")
    return found


def _parameters(*pairs: str) -> str:
    return "\n".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'
        for key, value in (pair.split(" ", 1) for pair in pairs)
    )


def _step(model: str, inputs: str, outputs: str) -> str:
    def maps(kind: str, told: str) -> str:
        pairs = (pair.split("=") for pair in told.split())
        return "\n".join(f'    {kind} {{ key: "{key}" value: "{value}" }}' for key, value in pairs)

    return f'  step {{\n    model_name: "{model}"\n    model_version: -1\n{maps("input_map", inputs)}\n' + (
        f"{maps('output_map', outputs)}\n  }}"
    )


def templates(version: str, folder: Path) -> Path:
    """The folder inflight_batcher_llm of 0.5.0, or of 0.8 to 1.2, with the placeholders that the list has for it."""
    old = version == "0.5.0"
    batch = "128" if old else "${triton_max_batch_size}"
    models = list(_tensors()[_form(version)])
    for model in models:
        both = [*tensors(version, model, "input"), *tensors(version, model, "output")]
        head = [f'name: "{model}"', f"max_batch_size: {batch}"]
        (folder / model / "1").mkdir(parents=True)
        (folder / model / "config.pbtxt").write_text(
            "# A stand-in for upstream's template, tensor for tensor.\n"
            + "\n".join([*head, *both, *_rest(version, model)])
            + "\n",
            encoding="utf-8",
        )
        source = FIXTURES / "models" / ("0.5.0" if old else "0.19.0") / f"{model}.py"
        if source.exists():
            shutil.copyfile(source, folder / model / "1" / "model.py")
        else:
            (folder / model / "1" / ".tmp").write_text("", encoding="utf-8")
    return folder


def _rest(version: str, model: str) -> list[str]:
    old = version == "0.5.0"
    if model == "ensemble":
        return ['platform: "ensemble"', "ensemble_scheduling {", *_steps(version), "}"]
    if model == "tensorrt_llm":
        policy = "model_transaction_policy { decoupled: ${decoupled_mode} }"
        if old:
            unset = ("max_tokens_in_paged_kv_cache", "batch_scheduler_policy", "kv_cache_free_gpu_mem_fraction",
                     "max_num_sequences", "enable_trt_overlap")  # fmt: skip
            told = _parameters(
                "max_beam_width 1", "FORCE_CPU_ONLY_INPUT_TENSORS no", "gpt_model_type inflight_fused_batching",
                "gpt_model_path ${engine_dir}", *(f"{name} ${{{name}}}" for name in unset)
            )  # fmt: skip
            return ['backend: "tensorrtllm"', policy, "instance_group { count: 1 kind: KIND_CPU }", told]
        known = {one.name for one in placeholders.of_version(version)}
        pairs = (pair.split(" ") for pair in (*_LATER, "max_kv_cache_length max_kv_cache_length"))
        pairs = (pair for pair in pairs if pair[1] in known)
        worker = ["executor_worker_path /opt/tritonserver/backends/tensorrtllm/trtllmExecutorWorker"]
        told = _parameters("FORCE_CPU_ONLY_INPUT_TENSORS no", *(f"{key} ${{{name}}}" for key, name in pairs),
                           *(worker if _form(version) == "1.2.1" else []))  # fmt: skip
        return ['backend: "${triton_backend}"', policy, _QUEUE, "instance_group { count: 1 kind: KIND_CPU }", told]
    if model == "tensorrt_llm_bls":
        told = _parameters(
            "accumulate_tokens ${accumulate_tokens}", "tensorrt_llm_model_name ${tensorrt_llm_model_name}",
            "tensorrt_llm_draft_model_name ${tensorrt_llm_draft_model_name}",
            "multimodal_encoders_name ${multimodal_encoders_name}",
        )  # fmt: skip
        return ['backend: "python"', "model_transaction_policy { decoupled: ${decoupled_mode} }",
                "instance_group { count: ${bls_instance_count} kind: KIND_CPU }", told]  # fmt: skip
    told, more = ["tokenizer_dir ${tokenizer_dir}"], []
    if versions.numbers(version) < (0, 10):
        told.append("tokenizer_type ${tokenizer_type}")
    if old:
        count = "1"
    elif model == "preprocessing":
        known = {one.name for one in placeholders.of_version(version) if "preprocessing" in one.files}
        known -= {"multimodal_model_path"} if "visual_model_path" in known else set()  # one folder, its name changed
        pairs = ("add_special_tokens", "visual_model_path", "multimodal_model_path", "max_num_images", "hf_model_path")
        told += [f"{name} ${{{name}}}" for name in pairs if name in known]
        told += ["gpt_model_path ${engine_dir}"] if "engine_dir" in known else []
        count = "${preprocessing_instance_count}"
        more = [_QUEUE]
    else:
        told.append("skip_special_tokens ${skip_special_tokens}")
        count = "${postprocessing_instance_count}"
    return ['backend: "python"', *more, f"instance_group {{ count: {count} kind: KIND_CPU }}", _parameters(*told)]


_QUEUE = (
    "dynamic_batching { preferred_batch_size: [ ${triton_max_batch_size} ] "
    "max_queue_delay_microseconds: ${max_queue_delay_microseconds} "
    "default_queue_policy: { max_queue_size: ${max_queue_size} } }"
)


def _steps(version: str) -> list[str]:
    names = ["end_id", "pad_id", "beam_width", "temperature", "repetition_penalty", "presence_penalty", "random_seed"]
    same = " ".join(f"{name}={name}" for name in names)
    least = "min_tokens" if _form(version) == "1.2.1" else "min_length"
    more = f"runtime_top_k=top_k runtime_top_p=top_p len_penalty=length_penalty {least}={least} streaming=stream"
    lengths = "input_ids=_INPUT_ID input_lengths=_REQUEST_INPUT_LEN request_output_len=_REQUEST_OUTPUT_LEN"
    pre_in = "QUERY=text_input BAD_WORDS_DICT=bad_words STOP_WORDS_DICT=stop_words REQUEST_OUTPUT_LEN=max_tokens"
    pre_out = "INPUT_ID=_INPUT_ID REQUEST_INPUT_LEN=_REQUEST_INPUT_LEN REQUEST_OUTPUT_LEN=_REQUEST_OUTPUT_LEN"
    if version == "0.5.0":
        return [
            _step("preprocessing", pre_in, pre_out),
            _step("tensorrt_llm", f"{lengths} {same} {more}", "output_ids=_TOKENS_BATCH"),
            _step("postprocessing", "TOKENS_BATCH=_TOKENS_BATCH", "OUTPUT=text_output"),
        ]
    return [
        _step("preprocessing", f"{pre_in} END_ID=end_id PAD_ID=pad_id {_PRE}",
              f"{pre_out} OUT_END_ID=_END OUT_PAD_ID=_PAD BAD_WORDS_IDS=_BAD STOP_WORDS_IDS=_STOP"),
        _step("tensorrt_llm", f"{lengths} end_id=_END pad_id=_PAD bad_words_list=_BAD stop_words_list=_STOP {more} "
              f"{_shared(version, 'input')}",
              f"output_ids=_TOKENS_BATCH sequence_length=_LENGTH {_shared(version, 'output')}"),
        _step("postprocessing", "TOKENS_BATCH=_TOKENS_BATCH SEQUENCE_LENGTH=_LENGTH", "OUTPUT=text_output"),
    ]  # fmt: skip


_PRE = (
    "DECODER_QUERY=decoder_text_input EMBEDDING_BIAS_WORDS=embedding_bias_words "
    "EMBEDDING_BIAS_WEIGHTS=embedding_bias_weights PROMPT_TABLE_EXTRA_ID=prompt_table_extra_id"
)


def _shared(version: str, side: str) -> str:
    """Tensors that ensemble and core call alike: Triton wants every input of an ensemble used."""
    told = _tensors()[_form(version)]
    names = [{match.group(1) for one in told[model][side].split(";") if (match := _TENSOR.match(one.strip()))}
             for model in ("ensemble", "tensorrt_llm")]  # fmt: skip
    done = {"end_id", "pad_id", "min_length", "min_tokens"} | _lacking(version, "ensemble")
    return " ".join(f"{name}={name}" for name in sorted(names[0] & names[1] - done))


# --- repositories -------------------------------------------------------------------------------------------------


def git(folder: Path, *words: str) -> None:
    """Runs git in a folder, as nobody in particular."""
    who = ("-c", "user.name=test", "-c", "user.email=test@example.invalid", "-c", "protocol.file.allow=always")
    subprocess.run(("git", *who, *words), cwd=folder, check=True, capture_output=True)


def committed(folder: Path, tag: str) -> Path:
    """Makes a folder a git repository with one commit and a tag."""
    git(folder, "init", "--quiet")
    git(folder, "add", "-A")
    git(folder, "commit", "--quiet", "-m", "stand-in")
    git(folder, "tag", tag)
    return folder


def library(folder: Path, version: str) -> Path:
    """TensorRT-LLM: build scripts where that version has them, a package that says its version, and from 1.0 on the
    templates."""
    shutil.copytree(FIXTURES / "library", folder)
    (folder / "version.txt").write_text(f"{version}\n", encoding="utf-8")
    if version != "0.5.0":
        (folder / "examples" / "qwen").mkdir()
        shutil.copy(folder / "examples" / "llama" / "convert_checkpoint.py", folder / "examples" / "qwen")
    if versions.numbers(version) >= (0, 19):
        (folder / "examples" / "models" / "core").mkdir(parents=True)
        for name in ("llama", "qwen"):
            (folder / "examples" / name).rename(folder / "examples" / "models" / "core" / name)
    if version.startswith("1."):
        all_models = folder / "triton_backend" / "all_models"
        templates(version, all_models / "inflight_batcher_llm")
        llmapi(all_models / "llmapi")
    return committed(folder, f"v{version}")


def llmapi(folder: Path) -> Path:
    """The LLM API's model: no placeholders; batch size and decoupled are said in model.yaml alone."""
    core = folder / "tensorrt_llm"
    shutil.copytree(FIXTURES / "llmapi", core / "1")
    tensors_ = [*tensors("llmapi", "tensorrt_llm", "input"), *tensors("llmapi", "tensorrt_llm", "output")]
    told = ['name: "tensorrt_llm"', 'backend: "python"', "instance_group [ { count: 1 kind: KIND_CPU } ]", *tensors_]
    (core / "config.pbtxt").write_text("\n".join(told) + "\n", encoding="utf-8")
    return folder


def backend(folder: Path, version: str, submodule: Path | None = None) -> Path:
    """tensorrtllm_backend: templates, and at 0.5.0 the Dockerfile and TensorRT-LLM as a submodule named by SSH."""
    templates(version, folder / "all_models" / "inflight_batcher_llm")
    (folder / "inflight_batcher_llm").mkdir()
    (folder / "inflight_batcher_llm" / "CMakeLists.txt").write_text("# stand-in\n", encoding="utf-8")
    (folder / "dockerfile").mkdir()
    (folder / "dockerfile" / "Dockerfile.trt_llm_backend").write_text(
        "FROM slipway.test/trtllm:bare\nARG TORCH_INSTALL_TYPE=pypi\nCOPY tensorrt_llm /app/tensorrt_llm\n"
        "RUN cd /app/tensorrt_llm && python3 scripts/build_wheel.py --trt_root=/usr/local/tensorrt "
        "&& pip3 install build/tensorrt_llm*.whl\n",
        encoding="utf-8",
    )
    git(folder, "init", "--quiet")
    if submodule is not None:
        git(folder, "submodule", "add", "--quiet", str(submodule), "tensorrt_llm")
        modules = folder / ".gitmodules"
        text = modules.read_text(encoding="utf-8")
        modules.write_text(text.replace(str(submodule), "git@github.com:NVIDIA/TensorRT-LLM.git"), encoding="utf-8")
    return committed(folder, f"v{version}")


def examples(folder: Path) -> Path:
    """Qwen's build scripts for 0.5.0."""
    folder.mkdir(parents=True)
    shutil.copytree(FIXTURES / "qwen", folder / "qwen")
    return committed(folder, "v0.5.0")
