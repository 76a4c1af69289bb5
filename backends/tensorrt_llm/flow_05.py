"""The engine of TensorRT-LLM 0.5.0: one build.py from the checkpoint, after a conversion for SmoothQuant. Pure.

Arguments: examples/llama/build.py of 0.5.0; qwen/build.py and qwen/hf_qwen_convert.py of Qwen's own repository.
"""

from __future__ import annotations

from backends.steps import Forecast, Step, Task
from backends.tensorrt_llm import building, ropes
from backends.tensorrt_llm.deployment import CONVERTED, QUIET, Deployment
from backends.text import Text

_SMOOTH = {"llama": "0.8", "qwen": "0.5"}  # alpha: examples/llama/README.md of 0.5.0; guide 002


def engine(deployment: Deployment) -> tuple[Step, ...]:
    """The steps that leave an engine, or check the one that a person named."""
    if deployment.choice.options.engine_folder is not None:
        return building.given(deployment)
    packed = deployment.choice.quantisation == "smoothquant"
    steps = [*building.before(deployment, packed)]
    needs = [_source_step(deployment), *building.model_needs(deployment)]
    read = [deployment.scripts_root, deployment.model_folder]
    if packed:
        steps.append(_converted(deployment))
        needs.append("convert")
        read.append(deployment.converted_folder)
    steps.append(building.built(deployment, _build(deployment), tuple(needs), tuple(read), _WHY))
    return (*steps, building.after(deployment))


_WHY = Text(
    en="In the serving image, for this GPU: an engine runs only where its TensorRT and its GPU are the same.",
    zh="在服务所用镜像中、针对当前 GPU 构建：引擎只能在相同的 TensorRT 与 GPU 上运行。",
)


def _source_step(deployment: Deployment) -> str:
    family = deployment.choice.family
    return "examples-source" if family is not None and family.repository == "qwen_examples" else "backend-check"


def _is_qwen(deployment: Deployment) -> bool:
    return deployment.model.model_type == "qwen"


def _converted(deployment: Deployment) -> Task:
    """SmoothQuant's own weights: the whole model lies on the GPU while it is calibrated."""
    choice, target = deployment.choice, deployment.converted_folder
    tensor = str(choice.tensor_parallel)
    alpha = _SMOOTH["qwen" if _is_qwen(deployment) else "llama"]
    if _is_qwen(deployment):
        script = f"{deployment.scripts}/hf_qwen_convert.py"
        argv: tuple[str, ...] = ("python3", script, "--in-file", deployment.model_folder, "--out-dir", target,
                f"--smoothquant={alpha}", f"--tensor-parallelism={tensor}", "--storage-type", "float16")  # fmt: skip
    else:
        script = f"{deployment.scripts}/hf_llama_convert.py"
        argv = ("python3", script, "-i", deployment.model_folder, "-o", target, "-sq", alpha,
                "--tensor-parallelism", tensor, "--storage-type", "fp16")  # fmt: skip
    size_mib = round((deployment.model.parameters or 0) * 2 / 2**20) or None
    return Task(
        id="convert",
        title=Text(en="Calibrate and convert for SmoothQuant", zh="校准并转换 SmoothQuant 权重"),
        why=Text(
            en="It reads a calibration set from the hub, and holds the whole model on the GPU in 16 bits.",
            zh="需要从模型站读取校准数据，并以 16 位精度将整个模型放入显存。",
        ),
        argv=argv,
        env=QUIET | {"HF_HOME": f"{CONVERTED}/hub"},
        pass_env=("HF_TOKEN", "HF_ENDPOINT"),
        container=deployment.container(
            deployment.scripts_root, deployment.model_folder, write=(CONVERTED,), gpus=True, network=True
        ),
        inputs={"gpu": choice.gpu_name, "weights": building.weights_of(deployment)},
        needs=("image-check", _source_step(deployment), *building.model_needs(deployment)),
        outputs=(f"{target}/{tensor}-gpu/config.ini",),
        forecast=Forecast(seconds=600, disk_mib=size_mib, ram_mib=None if size_mib is None else 2 * size_mib),
        shared=True,
        progress="tensorrt_llm",
        stall_s=3600.0,
    )


def _build(deployment: Deployment) -> tuple[str, ...]:
    """build.py with every length and size said, so that no default of the script decides."""
    choice, family = deployment.choice, deployment.choice.family
    if family is None:
        raise ValueError("0.5.0 always has a family")
    argv = ["python3", f"{deployment.scripts}/build.py"]
    packed = choice.quantisation == "smoothquant"
    if _is_qwen(deployment):
        # Said even where nothing was converted: the script takes weights from its default place if any lie there.
        weights = deployment.converted_folder if packed else f"{deployment.engine_folder}/none"
        argv += [family.names["model"], deployment.model_folder, "--ft_dir_path", weights]
    elif packed:
        argv += ["--ft_model_dir", f"{deployment.converted_folder}/{choice.tensor_parallel}-gpu"]
    else:
        argv += [family.names["model"], deployment.model_folder]
    argv += ["--dtype", choice.dtype, "--use_gpt_attention_plugin", choice.dtype, "--use_gemm_plugin", choice.dtype]
    if deployment.inflight:
        argv += ["--use_inflight_batching", "--paged_kv_cache", "--remove_input_padding"]
    argv += [] if _is_qwen(deployment) else ropes.told(deployment.model)
    argv += _quantised(choice.quantisation)
    argv += ["--max_batch_size", str(choice.max_batch), "--max_input_len", str(choice.max_input),
             family.names["output"], str(choice.max_output)]  # fmt: skip
    # World size alone is refused by the script: the three must agree.
    argv += ["--world_size", str(choice.world), "--tp_size", str(choice.tensor_parallel), "--pp_size",
             str(choice.pipeline_parallel), "--output_dir", deployment.engine_folder]  # fmt: skip
    return tuple(argv)


def _quantised(quantisation: str) -> list[str]:
    if quantisation in ("int8_weight_only", "int4_weight_only"):
        return ["--use_weight_only", "--weight_only_precision", quantisation.split("_")[0]]
    return ["--use_smooth_quant", "--per_token", "--per_channel"] if quantisation == "smoothquant" else []
