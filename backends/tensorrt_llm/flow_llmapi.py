"""The LLM API: the model is loaded as it is, nothing is built. Triton's side is one Python model. Pure.

triton_backend/all_models/llmapi of TensorRT-LLM 1.0 and later; keys of model.yaml are arguments of `LLM(...)`.
"""

from __future__ import annotations

from backends.steps import File, Forecast, Step, Task, WriteFiles
from backends.tensorrt_llm.building import OURS, model_needs
from backends.tensorrt_llm.deployment import REPOSITORY, WANTED, Deployment
from backends.tensorrt_llm.filling import LlmApiSettings
from backends.text import Text

_FORWARD = 8_192  # max_num_tokens of LlmArgs where nobody says


def repository(deployment: Deployment) -> tuple[Step, ...]:
    """What the model is told, and the model repository made of upstream's folder."""
    settings = WriteFiles(
        id="settings",
        title=Text(en="Write the model's settings", zh="写入模型设置"),
        folder=WANTED,
        files=(File(path="llmapi.json", text=_settings(deployment).model_dump_json(indent=2) + "\n"),),
        outputs=(f"{WANTED}/llmapi.json",),
    )
    fill = Task(
        id="repository",
        title=Text(en="Make the model repository", zh="生成模型仓库"),
        why=Text(
            en="Upstream's own model, with our settings. Streaming is said in config.pbtxt too, since what model.yaml "
            "says of Triton only counts where Triton completes configurations by itself.",
            zh="使用上游模型与此处的设置。config.pbtxt 中也写明流式输出，"
            "因为 model.yaml 中的 Triton 设置只在自动补全配置时有效。",
        ),
        argv=("{python}", "-m", "backends.tensorrt_llm.templates", "llmapi", "--template", deployment.template_folder,
              "--settings", f"{WANTED}/llmapi.json", "--out", REPOSITORY),
        env=OURS,
        needs=("library-source", "settings", *model_needs(deployment)),
        outputs=(f"{REPOSITORY}/tensorrt_llm/1/model.yaml",),
        forecast=Forecast(seconds=2),
    )  # fmt: skip
    return settings, fill


def _settings(deployment: Deployment) -> LlmApiSettings:
    choice = deployment.choice
    cache: dict[str, str | int | float | bool] = {}
    if choice.options.kv_fraction is not None:
        cache["free_gpu_memory_fraction"] = choice.options.kv_fraction
    if choice.options.kv_tokens is not None:
        cache["max_tokens"] = choice.options.kv_tokens
    return LlmApiSettings(
        arguments={
            "model": deployment.model_folder,
            "backend": "pytorch",
            "dtype": choice.dtype,
            "tensor_parallel_size": choice.tensor_parallel,
            "pipeline_parallel_size": choice.pipeline_parallel,
            "max_batch_size": choice.max_batch,
            "max_seq_len": choice.max_sequence,
            "trust_remote_code": deployment.spec.trust_remote_code,
            # Without chunks a prompt goes through in one forward, which takes no more tokens than this.
            **({"max_num_tokens": choice.max_input} if choice.max_input > _FORWARD else {}),
            **({"kv_cache_config": cache} if cache else {}),
        },
        decoupled=choice.options.decoupled,
    )
