"""The model repository, the server, and a first answer. Pure."""

from __future__ import annotations

from backends.fastertransformer.build import OFFLINE, QUIET, server_packages_folder
from backends.fastertransformer.deployment import TOOLS, Deployment, context_of
from backends.fastertransformer.sources import final_flag
from backends.spec import Chat, Message, Sampling
from backends.steps import Ask, Container, Forecast, Service, Task
from backends.text import Text

REPOSITORY = "{run}/repository"
FORBIDDEN = (  # memory_utils.cu and libfastertransformer.cc: the server says READY all the same
    "loading model fails!",
    "Invalid configuration argument 'data_type'",
    "Invalid configuration argument 'tensor_para_size'",
)


def repository(deployment: Deployment) -> Task:
    """Fills the backend's own model repository by way of protobuf, and checks the result."""
    told = [f"--parameter={key}={value}" for key, value in parameters(deployment).items()]
    if deployment.kind.ensemble:
        told.append(f"--tokenizer={deployment.model_folder}")
    if deployment.kind.packages:
        told.append(f"--packages={server_packages_folder(deployment)}")
    told.append("--decoupled" if deployment.decoupled else "--classic")
    template = f"{deployment.backend_folder}/all_models/{deployment.kind.template}"
    return Task(
        id="repository",
        title=Text(en="Write the model repository", zh="写入模型仓库"),
        argv=("{python}", "-m", "backends.fastertransformer.repository", template, REPOSITORY,
              f"--instances={deployment.split.instances}", *told),
        env={"PYTHONPATH": "{assets}/.."},
        needs=("backend-source", "weights-check", *(["server-packages"] if deployment.kind.packages else [])),
        outputs=(f"{REPOSITORY}/fastertransformer/config.pbtxt",),
        forecast=Forecast(seconds=2),
    )  # fmt: skip


def parameters(deployment: Deployment) -> dict[str, str]:
    """Parameters of the fastertransformer model that differ from the template's."""
    told = {
        "tensor_para_size": str(deployment.split.tensor),
        "pipeline_para_size": str(deployment.split.pipeline),
        "model_checkpoint_path": f"{deployment.checkpoint}/",
    }
    if deployment.profile.precision == "data_type":
        told["data_type"] = deployment.data_type
        told["int8_mode"] = "1" if deployment.precision == "int8" else "0"
    else:
        told["is_half"] = "1" if deployment.data_type == "fp16" else "0"
    model = deployment.model
    facts: dict[str, object] = {
        **model.model_dump(include={"layers", "heads", "head_size", "intermediate_size", "vocab_size"}),
        "rotary_size": model.facts.get("rotary_size"),
        "context": context_of(deployment),
        "start_id": model.tokenizer.bos_token_id,
        "end_id": next(iter(model.tokenizer.eos_token_ids), None),
    }
    for key, name in deployment.kind.shapes.items():
        if facts[name] is not None:
            told[key] = str(facts[name])
    return told


def tokenizer_check(deployment: Deployment) -> Task:
    """Loads the tokenizer in the container as the server's Python models will."""
    return Task(
        id="tokenizer-check",
        title=Text(en="Load the tokenizer as the server will", zh="按服务的方式加载分词器"),
        argv=("python3", f"{TOOLS}/check_tokenizer.py", REPOSITORY),
        env=QUIET | OFFLINE,
        container=Container(
            image=deployment.image, mounts=deployment.mounts(REPOSITORY, deployment.model_folder), network="none"
        ),
        needs=("image-check", "repository"),
        checks=("repository",),
        forecast=Forecast(seconds=5),
    )


def service(deployment: Deployment) -> Service:
    """Triton in the container: loopback of this machine only, no host network."""
    tuned = deployment.autotune or deployment.options.gemm_config is not None
    read = [REPOSITORY, deployment.checkpoint, deployment.model_folder]
    needs = ["repository", *(["tokenizer-check"] if deployment.kind.ensemble else [])]
    if tuned:
        read.append(deployment.server_folder)
        needs.append("gemm-config")
    return Service(
        id="serve",
        title=Text(en="Start Triton", zh="启动 Triton"),
        argv=(
            "/opt/tritonserver/bin/tritonserver",
            f"--model-repository={REPOSITORY}",
            "--model-control-mode=none",
            "--http-port={port.http}",
            "--grpc-port={port.grpc}",
            "--metrics-port={port.metrics}",
            "--exit-timeout-secs=5",
        ),
        cwd=deployment.server_folder if tuned else None,
        env=QUIET | OFFLINE,
        container=Container(
            image=deployment.image,
            mounts=deployment.mounts(*read),
            gpus=deployment.split.gpus,
            shm_mib=deployment.options.shm_mib,
            ulimits={"memlock": -1, "stack": 67_108_864},
        ),
        model=deployment.kind.model,
        forbidden=FORBIDDEN,
        needs=tuple(needs),
        forecast=Forecast(seconds=90),
        stall_s=600.0,
    )


def talk(deployment: Deployment) -> dict[str, str]:
    """What every chat must know of this deployment; see tensors.py."""
    model = deployment.model
    told: dict[str, object] = {
        "family": deployment.family,
        "template": deployment.spec.template,
        "tokenizer": deployment.model_folder,
        "seed": deployment.kind.seed,
        "all_inputs": str(deployment.kind.all_inputs).lower(),
        "final_flag": str(final_flag(deployment.release)).lower(),
        "context": context_of(deployment),
        "new_tokens": deployment.spec.limits.new_tokens,
        "start_id": model.tokenizer.bos_token_id,
        "end_id": next(iter(model.tokenizer.eos_token_ids), None),
    }
    return {key: str(value) for key, value in told.items() if value is not None}


def first_answer(deployment: Deployment) -> Ask:
    """A real question; its answer is what makes the deployment count as running."""
    sampling = Sampling(max_tokens=min(32, deployment.spec.limits.new_tokens), temperature=0.0)
    template = deployment.spec.template
    spoken = template in ("llama2", "atom") or (template == "auto" and deployment.model.tokenizer.chat_template)
    if deployment.family == "t5":
        chat = Chat(prompt="translate English to German: The house is wonderful.", sampling=sampling)
    elif spoken:
        chat = Chat(messages=(Message(role="user", content="Hello! Who are you?"),), sampling=sampling)
    else:
        chat = Chat(prompt="Hello, my name is", sampling=sampling)
    return Ask(
        id="first-answer",
        title=Text(en="Ask for a first answer", zh="请求首个回答"),
        why=Text(
            en="A server counts as ready when a real answer has come back, not when its port is open.",
            zh="只有真正收到回答才算就绪，端口打开不算。",
        ),
        engine="fastertransformer",
        model=deployment.kind.model,
        chat=chat,
        talk=talk(deployment),
        needs=("serve",),
        forecast=Forecast(seconds=5),
    )
