"""The model repository, the server with its ranks, and a first answer. Pure."""

from __future__ import annotations

from backends import recipe_words
from backends.steps import Ask, File, Forecast, Service, Step, Task, WriteFiles
from backends.tensorrt_llm import formats
from backends.tensorrt_llm.building import OURS
from backends.tensorrt_llm.deployment import OFFLINE, QUIET, REPOSITORY, Deployment
from backends.tensorrt_llm.filling import CORE, Wanted
from backends.tensorrt_llm.placeholders import Value
from backends.tensorrt_llm.versions import numbers
from backends.text import Text

_TRITON = "/opt/tritonserver/bin/tritonserver"
FORBIDDEN = ("Encountered an error in forward function",)  # the server stays ready after it, and never answers again


def repository(deployment: Deployment) -> tuple[Step, ...]:
    """What the templates are told, and the model repository made of upstream's folder."""
    text = wanted(deployment).model_dump_json(indent=2) + "\n"
    source = "library-source" if deployment.templates_in_library else "backend-source"
    settings = WriteFiles(
        id="settings",
        title=Text(en="Write the templates' values", zh="写入模板取值"),
        folder="{run}/settings",
        files=(File(path="templates.json", text=text),),
        outputs=("{run}/settings/templates.json",),
    )
    fill = Task(
        id="repository",
        title=Text(en="Fill the model repository", zh="生成模型仓库"),
        why=Text(
            en="Upstream's templates, every placeholder by its list; read back as Triton reads them, and compared with "
            "the engine and with each other.",
            zh="使用上游模板，按清单填写每个占位符；再按 Triton 的方式解析，并与引擎及彼此核对。",
        ),
        argv=("{python}", "-m", "backends.tensorrt_llm.templates", "fill", "--template", deployment.template_folder,
              "--wanted", "{run}/settings/templates.json", "--engine", deployment.engine_folder, "--out", REPOSITORY,
              "--grpc", "{port.grpc}"),
        env=OURS,
        needs=("engine-check", source, "settings"),
        outputs=(f"{REPOSITORY}/{CORE}/config.pbtxt",),
        forecast=Forecast(seconds=2),
    )  # fmt: skip
    return settings, fill


def wanted(deployment: Deployment) -> Wanted:
    """What the filled repository must say."""
    choice, spec = deployment.choice, deployment.spec
    wishes, batch = choice.options, choice.max_batch
    end = formats.ending(spec, deployment.model)
    values: dict[str, Value] = {
        "tokenizer_dir": deployment.model_folder,
        "tokenizer_type": "auto",
        "decoupled_mode": wishes.decoupled,
        "engine_dir": deployment.engine_folder,
        "max_tokens_in_paged_kv_cache": wishes.kv_tokens,
        "batch_scheduler_policy": "guaranteed_no_evict",
        "kv_cache_free_gpu_mem_fraction": wishes.kv_fraction,
        "triton_max_batch_size": batch,
        "preprocessing_instance_count": min(batch, 4),
        # Through the ensemble each piece is decoded on its way out: of several instances one would overtake another.
        "postprocessing_instance_count": 1 if deployment.front == "ensemble" else min(batch, 4),
        "bls_instance_count": batch,
        "max_queue_size": spec.limits.queue,
        "max_queue_delay_microseconds": 0,
        "batching_strategy": "inflight_fused_batching" if deployment.inflight else "V1",
        "triton_backend": "tensorrtllm",
        # One id after another loses spaces between words of SentencePiece tokenizers; all of them together do not.
        "accumulate_tokens": True,
        "exclude_input_in_output": True,
    }
    if choice.release.version == "0.5.0":
        # Left open, 0.5.0 overlaps two batches and lets twice as many sequences in as the engine's memory was made for.
        values |= {"enable_trt_overlap": wishes.overlap, "max_num_sequences": batch * (2 if wishes.overlap else 1)}
    return Wanted(
        version=choice.release.version,
        values=values,
        max_batch=batch,
        decoupled=wishes.decoupled,
        batching=wishes.batching,
        tensor_parallel=choice.tensor_parallel,
        pipeline_parallel=choice.pipeline_parallel,
        trust_remote_code=spec.trust_remote_code,
        eos_id=end.end_id if end.written else None,
        pad_id=end.pad_id if end.written else None,
    )


def service(deployment: Deployment) -> Service:
    """Triton in the container, a process for each rank; only the first one listens."""
    choice = deployment.choice
    read = [REPOSITORY, deployment.model_folder]
    if choice.flow != "llmapi":
        read.append(deployment.engine_folder)
    why = None
    if choice.world > 1 and choice.flow != "llmapi":
        why = Text(
            en=f"mpirun starts {choice.world} ranks, as the backend's launcher would, but as our own process: its end "
            "is seen, and ports can be chosen, which the launcher of 0.5.0 cannot.",
            zh=f"由 mpirun 启动 {choice.world} 个进程，与后端的启动脚本相同，但作为自己的进程："
            "能看到其退出，也能选择端口（0.5.0 的脚本做不到）。",
        )
    return Service(
        id="serve",
        title=Text(en="Start Triton", zh="启动 Triton"),
        why=why,
        argv=_ranks(deployment),
        cwd=None,
        env=QUIET | OFFLINE,
        container=deployment.container(*read, gpus=True).model_copy(update={"network": "bridge"}),
        model=deployment.front,
        forbidden=() if choice.flow == "llmapi" else FORBIDDEN,
        needs=("repository", "image-check", "tokenizer-check"),
        forecast=Forecast(seconds=120),
        stall_s=900.0,
    )


def _ranks(deployment: Deployment) -> tuple[str, ...]:
    choice = deployment.choice
    ports = ("--http-port={port.http}", "--grpc-port={port.grpc}", "--metrics-port={port.metrics}")
    if choice.flow == "llmapi" or choice.world == 1:  # the LLM API starts its own ranks
        return (_TRITON, *_common(0), *ports, "--exit-timeout-secs=10")
    argv: list[str] = ["mpirun", "--allow-run-as-root"]
    for rank in range(choice.world):
        argv += ["-n", "1", _TRITON, *_common(rank)]
        if rank == 0:
            argv += [*ports, "--exit-timeout-secs=10"]
        else:
            argv += ["--allow-http=false", "--allow-grpc=false", "--allow-metrics=false"]
            if choice.release.numbers >= numbers("0.9"):
                argv += ["--model-control-mode=explicit", f"--load-model={CORE}"]
        if rank + 1 < choice.world:
            argv.append(":")
    return tuple(argv)


def _common(rank: int) -> tuple[str, ...]:
    return (
        f"--model-repository={REPOSITORY}",
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    )


def talk(deployment: Deployment) -> dict[str, str]:
    """What every chat must know of this deployment; see tensors.py."""
    choice, model = deployment.choice, deployment.model
    end = formats.ending(deployment.spec, model)
    # From 0.9 on preprocessing takes the tokenizer's own end where none is sent: of several ids that a model lists, as
    # Llama 3.1's three, that is the one which ends a turn.
    sent = not (end.own and choice.release.numbers >= numbers("0.9"))
    told: dict[str, object] = {
        "interface": interface(deployment),
        # Before, the parameter of the core alone says it; the input was not there in every version.
        "excludes": "true" if choice.flow != "llmapi" and choice.release.numbers >= numbers("0.19") else None,
        "template": formats.format_of(deployment.spec, model),
        "tokenizer": deployment.model_folder,
        "family": model.model_type,
        "end_id": end.end_id if sent else None,
        "pad_id": end.pad_id if sent else None,
        "ends": ",".join(map(str, dict.fromkeys((end.end_id, *model.tokenizer.eos_token_ids)))) if end.end_id else None,
        "new_tokens": choice.max_output,
        "context": choice.max_sequence,
        "streams": str(choice.options.decoupled).lower(),
    }
    return {key: str(value) for key, value in told.items() if value is not None}


def interface(deployment: Deployment) -> str:
    """Which tensors the asked model has: llmapi; ids or text of 0.5.0; ensemble or bls later (-seed: renamed)."""
    choice = deployment.choice
    if choice.flow == "llmapi":
        return "llmapi"
    if choice.release.version == "0.5.0":
        return "0.5-ids" if deployment.front == "tensorrt_llm" else "0.5-text"
    kind = "bls" if deployment.front == "tensorrt_llm_bls" else "ensemble"
    return f"{kind}-seed" if choice.release.numbers >= numbers("0.20") else kind


def first_answer(deployment: Deployment) -> Ask:
    """A real question; its answer is what makes the deployment count as running."""
    spoken = formats.format_of(deployment.spec, deployment.model) != "raw"
    return Ask(
        id="first-answer",
        title=Text(en="Ask for a first answer", zh="请求首个回答"),
        why=Text(
            en="A server counts as ready when a real answer has come back, not when its port is open.",
            zh="只有真正收到回答才算就绪，端口打开不算。",
        ),
        engine="tensorrt_llm",
        model=deployment.front,
        chat=recipe_words.first_question(spoken, deployment.choice.max_output),
        talk=talk(deployment),
        needs=("serve",),
        forecast=Forecast(seconds=5),
    )
