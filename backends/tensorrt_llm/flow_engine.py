"""The engine of TensorRT-LLM 0.8 to 1.2: weights converted to a checkpoint of its own, then trtllm-build. Pure.

Arguments: examples/…/convert_checkpoint.py, examples/quantization/quantize.py, tensorrt_llm/commands/build.py.
"""

from __future__ import annotations

from backends.steps import Forecast, Step, Task
from backends.tensorrt_llm import building, ropes
from backends.tensorrt_llm.deployment import CONVERTED, OFFLINE, QUIET, Deployment
from backends.tensorrt_llm.versions import numbers
from backends.text import Text

_BY_QUANTIZE = {"int4_awq": "int4_awq", "fp8": "fp8"}  # calibrated with ModelOpt, by a script of their own
_SMOOTH = "0.5"
_READS_FOLDER = ("qwen", "qwen2", "qwen3")


def engine(deployment: Deployment) -> tuple[Step, ...]:
    """The steps that leave an engine, or check the one that a person named."""
    if deployment.choice.options.engine_folder is not None:
        return building.given(deployment)
    build = building.built(
        deployment,
        _build(deployment),
        ("convert",),
        (deployment.converted_folder,),
        Text(
            en="In the serving image, for this GPU: an engine runs only where its TensorRT and its GPU are the same.",
            zh="在服务所用镜像中、针对当前 GPU 构建：引擎只能在相同的 TensorRT 与 GPU 上运行。",
        ),
    )
    return (*building.before(deployment, True), _convert(deployment), build, building.after(deployment))


def _convert(deployment: Deployment) -> Task:
    choice = deployment.choice
    calibrates = choice.quantisation in ("smoothquant", *_BY_QUANTIZE)
    argv = _quantize(deployment) if choice.quantisation in _BY_QUANTIZE else _checkpoint(deployment)
    want = deployment.want.cost
    full_mib = round((deployment.model.parameters or 0) * 2 / 2**20) or None
    ram_mib = None if full_mib is None or want.disk_mib is None else full_mib + want.disk_mib + 2_048
    return Task(
        id="convert",
        title=Text(en="Convert the weights", zh="转换权重"),
        why=Text(
            en="It reads a calibration set from the hub, and holds the whole model on the GPU in 16 bits.",
            zh="需要从模型站读取校准数据，并以 16 位精度将整个模型放入显存。",
        )
        if calibrates
        else None,
        argv=argv,
        cwd=CONVERTED,
        env=QUIET | ({"HF_HOME": f"{CONVERTED}/hub"} if calibrates else OFFLINE),
        pass_env=("HF_TOKEN", "HF_ENDPOINT") if calibrates else (),
        container=deployment.container(
            deployment.scripts_root, deployment.model_folder, write=(CONVERTED,), gpus=True, network=calibrates
        ),
        inputs={"gpu": choice.gpu_name, "weights": building.weights_of(deployment)},
        needs=("image-check", "library-source", *building.model_needs(deployment)),
        outputs=(f"{deployment.converted_folder}/config.json",),
        forecast=Forecast(seconds=600 if calibrates else 180, disk_mib=want.disk_mib, ram_mib=ram_mib),
        shared=True,
        progress="tensorrt_llm",
        stall_s=3600.0,
    )


def _checkpoint(deployment: Deployment) -> tuple[str, ...]:
    choice = deployment.choice
    argv = ["python3", f"{deployment.scripts}/convert_checkpoint.py", "--model_dir", deployment.model_folder,
            "--output_dir", deployment.converted_folder, "--dtype", choice.dtype,
            "--tp_size", str(choice.tensor_parallel), "--pp_size", str(choice.pipeline_parallel)]  # fmt: skip
    if choice.release.numbers < numbers("0.9") and deployment.model.model_type not in _READS_FOLDER:
        argv += ropes.told(deployment.model)
    if choice.quantisation in ("int8_weight_only", "int4_weight_only"):
        argv += ["--use_weight_only", "--weight_only_precision", choice.quantisation.split("_")[0]]
    elif choice.quantisation == "smoothquant":
        argv += ["--smoothquant", _SMOOTH, "--per_token", "--per_channel"]
    elif choice.quantisation == "int4_gptq":
        argv += ["--use_weight_only", "--weight_only_precision", "int4_gptq", "--per_group"]
        files = deployment.model.weight_files or ("model.safetensors",)
        # Llama's converter takes one file by name; Qwen's has no such option and reads the model's folder.
        if deployment.model.model_type not in _READS_FOLDER and len(files) == 1:
            argv += ["--quant_ckpt_path", f"{deployment.model_folder}/{files[0]}"]
    return tuple(argv)


def _quantize(deployment: Deployment) -> tuple[str, ...]:
    choice = deployment.choice
    script = f"{deployment.library.folder}/examples/quantization/quantize.py"
    argv = ["python3", script, "--model_dir", deployment.model_folder, "--output_dir", deployment.converted_folder,
            "--dtype", choice.dtype, "--qformat", _BY_QUANTIZE[choice.quantisation], "--calib_size", "512",
            "--tp_size", str(choice.tensor_parallel), "--pp_size", str(choice.pipeline_parallel)]  # fmt: skip
    if choice.quantisation == "fp8":
        argv += ["--kv_cache_dtype", "fp8"]
    return tuple(argv)


def _build(deployment: Deployment) -> tuple[str, ...]:
    """trtllm-build with every length and size said: its defaults differ from version to version."""
    choice, have = deployment.choice, deployment.choice.release.numbers
    argv = ["trtllm-build", "--checkpoint_dir", deployment.converted_folder, "--output_dir", deployment.engine_folder,
            "--gemm_plugin", choice.dtype, "--gpt_attention_plugin", choice.dtype,
            "--max_batch_size", str(choice.max_batch), "--max_input_len", str(choice.max_input)]  # fmt: skip
    if have >= numbers("0.12"):
        argv += ["--max_seq_len", str(choice.max_sequence)]
    else:  # the answer's length by itself; 0.12 took the option away
        argv += ["--max_output_len", str(choice.max_output)]
    if have >= numbers("0.9"):
        argv += ["--max_num_tokens", str(tokens_in_flight(deployment))]
    if deployment.inflight:
        argv += ["--remove_input_padding", "enable"]
        argv += ["--kv_cache_type", "paged"] if have >= numbers("0.15") else ["--paged_kv_cache", "enable"]
    return tuple(argv)


def tokens_in_flight(deployment: Deployment) -> int:
    """Tokens of one forward: all prompts at once where that is little, else the builder's own limit since 0.14."""
    choice = deployment.choice
    return max(choice.max_input, min(choice.max_batch * choice.max_input, 8_192))
