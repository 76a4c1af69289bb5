"""How a model is served by the embedded engine: why not, or the plan. Pure.

The runtime is made once for all deployments: a virtual environment of its own (Triton's Python backend needs numpy
below 2), the tritonserver binary out of the nvidia-pytriton wheel, PyTorch in the build that fits the machine.
"""

from __future__ import annotations

from backends import consent, pbtxt, recipe_words
from backends.fetching import fetch_model, model_folder
from backends.spec import Chat, Hardware, Message, Model, Sampling, Sources, Spec
from backends.steps import Ask, File, Forecast, Plan, Service, Step, Task, WriteFiles
from backends.text import Text

_NAME = Text(en="The embedded engine", zh="内嵌引擎")
MODEL_NAME = "chat"
MODEL_LINK = "model"  # below the run's folder, which is the server's working folder
_HIDDEN = Text(
    en="Whether there is an NVIDIA GPU here is not known now: the PyTorch that is installed is kept, and the model "
    "runs on a GPU only where that PyTorch finds one.",
    zh="目前无法确定本机是否有 NVIDIA GPU：已安装的 PyTorch 会保留，只有它找到 GPU 时模型才在 GPU 上运行。",
)
TORCH = "2.13.0"
_CPU_DISK_MIB = 760
RUNTIME_FILES = ("requirements.lock", "server.lock", "lay_out.py")
ENGINE_FILES = (  # of assets/engines/transformers; a test holds this to the folder
    "model.py",
    "slipway_engine/__init__.py",
    "slipway_engine/attention.py",
    "slipway_engine/bans.py",
    "slipway_engine/engine.py",
    "slipway_engine/errors.py",
    "slipway_engine/job.py",
    "slipway_engine/loading.py",
    "slipway_engine/metrics.py",
    "slipway_engine/network.py",
    "slipway_engine/prompt.py",
    "slipway_engine/reply.py",
    "slipway_engine/request.py",
    "slipway_engine/rope.py",
    "slipway_engine/sampling.py",
    "slipway_engine/scheduler.py",
    "slipway_engine/selftest.py",
    "slipway_engine/sender.py",
    "slipway_engine/settings.py",
    "slipway_engine/single.py",
    "slipway_engine/slots.py",
    "slipway_engine/template.py",
    "slipway_engine/template_worker.py",
    "slipway_engine/text.py",
    "slipway_engine/window.py",
)
PYTHONS = ("3.11", "3.12")
_SITE = "{runtime}/lib/python*/site-packages"


def why_not(spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]:
    """Every reason why this engine cannot serve the model there; empty: it can."""
    reasons: list[Text] = []
    if spec.target != "local":
        reasons.append(
            Text(en="The embedded engine runs on the local target only.", zh="内嵌引擎只能在本机目标上运行。")
        )
    if hardware.os is not None and hardware.os.startswith(("macOS", "Darwin", "Windows")):
        reasons.append(
            Text(
                en=f"The embedded Triton server runs on Linux; this is {hardware.os}.",
                zh=f"内嵌的 Triton 服务器只能在 Linux 上运行，当前系统是 {hardware.os}。",
            )
        )
    if hardware.architecture is not None and hardware.architecture not in ("x86_64", "amd64", "AMD64"):
        reasons.append(
            Text(
                en=f"The embedded Triton server is built for x86-64; this machine is {hardware.architecture}.",
                zh=f"内嵌的 Triton 服务器只有 x86-64 版本，当前机器是 {hardware.architecture}。",
            )
        )
    if hardware.python is not None and not hardware.python.startswith(tuple(f"{version}." for version in PYTHONS)):
        reasons.append(
            Text(
                en=f"The runtime needs Python 3.11 or 3.12; the panel runs on {hardware.python}.",
                zh=f"运行环境需要 Python 3.11 或 3.12，当前面板使用 {hardware.python}。",
            )
        )
    if spec.template not in ("auto", "raw"):
        reasons.append(
            Text(
                en=f"The embedded engine uses the model's own template or none; “{spec.template}” was asked for.",
                zh=f"内嵌引擎只使用模型自带模板或不用模板，要求的是“{spec.template}”。",
            )
        )
    if spec.precision in ("int8", "int4"):
        reasons.append(
            Text(
                en=f"The embedded engine does not quantise to {spec.precision}. Choose auto, fp16 or bf16.",
                zh=f"内嵌引擎不支持量化到 {spec.precision}，可选 auto、fp16 或 bf16。",
            )
        )
    if model.quantisation is not None:
        reasons.append(
            Text(
                en=f"The weights are quantised ({model.quantisation}); the embedded engine takes plain weights only.",
                zh=f"权重已量化（{model.quantisation}），内嵌引擎只接受未量化的权重。",
            )
        )
    reasons += consent.missing(spec, model)
    reasons += recipe_words.against_hub(model, _NAME)
    known = {gpu.index for gpu in hardware.gpus}
    missing = [str(index) for index in spec.gpus or () if index not in known]
    if missing:
        reasons.append(
            Text(en=f"There is no GPU {', '.join(missing)} here.", zh=f"本机没有 GPU {', '.join(missing)}。")
        )
    if spec.gpus is not None and len(spec.gpus) > 1:
        reasons.append(
            Text(
                en="The embedded engine uses one GPU. Choose one; several need TensorRT-LLM or vLLM.",
                zh="内嵌引擎只使用一块 GPU，请只选一块；多卡请用 TensorRT-LLM 或 vLLM。",
            )
        )
    reasons += recipe_words.against_length(spec, model)
    return tuple(reasons)


def recipe(spec: Spec, hardware: Hardware, model: Model, sources: Sources) -> Plan:
    """The plan: the runtime, the model, the model repository, the server, a first answer."""
    steps: list[Step] = [*runtime(hardware, sources)]
    if model.source.kind == "huggingface":
        steps.append(fetch_model(model, model_folder(model)))
    steps += [_link(model), _repository(spec), _service(spec, hardware), _first_answer(spec, model)]
    return Plan(spec=spec, steps=tuple(steps), notes=_notes(spec, hardware, model))


def runtime(hardware: Hardware, sources: Sources) -> tuple[Step, ...]:
    """The steps that make the embedded runtime; found done on every later deployment."""
    pip = ("{runtime}/bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input")
    lay_out = "{home}/runtime-setup/lay_out.py"
    return (
        WriteFiles(
            id="runtime-files",
            title=Text(en="Write the lists of packages", zh="写入软件包清单"),
            folder="{home}/runtime-setup",
            files=tuple(File(path=name, asset=f"runtime/{name}") for name in RUNTIME_FILES),
            outputs=(lay_out,),
            shared=True,
        ),
        Task(
            id="runtime-check",
            title=Text(en="Check that this machine can run Triton", zh="检查本机能否运行 Triton"),
            argv=("{python}", lay_out, "--check"),
            needs=("runtime-files",),
            inputs={"python": hardware.python or "", "glibc": hardware.glibc or ""},
            shared=True,
        ),
        Task(
            id="runtime-venv",
            title=Text(en="Make the runtime's environment", zh="创建运行环境"),
            why=Text(
                en="Triton's Python backend needs numpy below 2, the panel a newer one: two environments.",
                zh="Triton 的 Python 后端需要低于 2 的 numpy，而面板使用更新的版本，因此分为两个环境。",
            ),
            argv=("{python}", "-m", "venv", "{runtime}"),
            needs=("runtime-check",),
            outputs=("{runtime}/bin/python",),
            forecast=Forecast(seconds=5, disk_mib=25),
            shared=True,
        ),
        Task(
            id="runtime-packages",
            title=Text(en="Install transformers and what it needs", zh="安装 transformers 及其依赖"),
            argv=(*pip, "--require-hashes", "-r", "{home}/runtime-setup/requirements.lock"),
            needs=("runtime-venv",),
            outputs=("{runtime}/bin/hf",),
            forecast=Forecast(seconds=25, download_mib=60, disk_mib=400),
            shared=True,
        ),
        Task(
            id="runtime-server",
            title=Text(en="Install the Triton server", zh="安装 Triton 服务器"),
            argv=(*pip, "--require-hashes", "--no-deps", "-r", "{home}/runtime-setup/server.lock"),
            needs=("runtime-packages",),
            outputs=("{runtime}/bin/pytriton",),
            forecast=Forecast(seconds=6, download_mib=55, disk_mib=145),
            shared=True,
        ),
        _torch(hardware, sources, pip),
        Task(
            id="runtime-layout",
            title=Text(en="Lay out the Triton server", zh="布置 Triton 服务器"),
            argv=("{runtime}/bin/python", lay_out),
            needs=("runtime-torch",),
            outputs=("{runtime}/bin/slipway-tritonserver", "{runtime}/backends/python"),
            forecast=Forecast(seconds=3),
            shared=True,
        ),
    )


def _torch(hardware: Hardware, sources: Sources, pip: tuple[str, ...]) -> Task:
    """PyTorch in the build that fits the machine. To pip the CPU build is as good a `torch==2.13.0` as the CUDA build,
    so the CUDA build is asked for by what it is not; then pip exchanges the one for the other, either way, and takes
    away with a build the outputs that tell of it."""
    index = () if sources.torch_index is None else ("--extra-index-url", sources.torch_index)
    cpu = f"{TORCH}+cpu"
    either = f"{_SITE}/torch-{TORCH}*.dist-info"
    if hardware.gpus:
        argv = (*pip, f"torch=={TORCH},!={cpu}")
        outputs: tuple[str, ...] = (either, f"{_SITE}/torch/lib/libtorch_cuda.so")
        forecast = Forecast(seconds=180, download_mib=2600, disk_mib=4600)
        why = Text(
            en="There is an NVIDIA GPU here, so the CUDA build is taken, with its CUDA packages. It replaces a CPU "
            "build that is there.",
            zh="本机有 NVIDIA GPU，因此安装 CUDA 版本及其 CUDA 软件包；若已装有 CPU 版本，将被替换。",
        )
    elif "gpus" in hardware.unknown:
        # Either build will do, and where none is there, pip holds the one that ends in +cpu to be the newer. It may
        # only find the other, so that one's dependencies are not forbidden.
        argv = (*pip, "--retries", "2", f"torch=={TORCH}", *index)
        outputs = (either,)
        forecast = Forecast(seconds=20, download_mib=190, disk_mib=_CPU_DISK_MIB)
        why = Text(
            en="Whether there is an NVIDIA GPU here is not known now, so the build that is there is kept; where there "
            "is none yet, the CPU build is taken.",
            zh="目前无法确定本机是否有 NVIDIA GPU，因此保留已安装的版本；若尚未安装，则安装 CPU 版本。",
        )
    else:
        argv = (*pip, "--no-deps", "--retries", "2", f"torch=={cpu}", *index)
        outputs = (f"{_SITE}/torch-{cpu}.dist-info",)
        forecast = Forecast(seconds=20, download_mib=190, disk_mib=_CPU_DISK_MIB)
        why = Text(
            en="There is no NVIDIA GPU here, so the CPU build is taken and no CUDA package is downloaded.",
            zh="本机没有 NVIDIA GPU，因此安装 CPU 版本，不下载任何 CUDA 软件包。",
        )
    return Task(
        id="runtime-torch",
        title=Text(en="Install PyTorch", zh="安装 PyTorch"),
        why=why,
        argv=argv,
        needs=("runtime-server",),
        outputs=outputs,
        forecast=forecast,
        shared=True,
    )


def _link(model: Model) -> Task:
    return Task(
        id="link",
        title=Text(en="Link the model folder", zh="链接模型目录"),
        why=Text(
            en="Triton's Python backend finds no path with letters outside ASCII. Through a short link it does.",
            zh="Triton 的 Python 后端无法识别含中文等非 ASCII 字符的路径，通过短链接即可。",
        ),
        argv=("ln", "-sfn", "--", model_folder(model), f"{{run}}/{MODEL_LINK}"),
        needs=("model",) if model.source.kind == "huggingface" else (),
        outputs=(f"{{run}}/{MODEL_LINK}/config.json",),
    )


def _repository(spec: Spec) -> WriteFiles:
    limits = spec.limits
    config = {
        "name": MODEL_NAME,
        "backend": "python",
        "max_batch_size": 0,
        "model_transaction_policy": {"decoupled": True},
        "input": [
            *(
                {"name": name, "data_type": kind, "dims": [dims], "optional": True}
                for name, kind, dims in (
                    ("text_input", "TYPE_STRING", 1),
                    ("messages", "TYPE_STRING", 1),
                    ("max_tokens", "TYPE_INT32", 1),
                    ("temperature", "TYPE_FP32", 1),
                    ("top_p", "TYPE_FP32", 1),
                    ("top_k", "TYPE_INT32", 1),
                    ("repetition_penalty", "TYPE_FP32", 1),
                    ("seed", "TYPE_UINT64", 1),
                    ("stop", "TYPE_STRING", -1),
                    ("bad_words", "TYPE_STRING", -1),
                    ("stream", "TYPE_BOOL", 1),
                )
            )
        ],
        "output": [
            {"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "finish_reason", "data_type": "TYPE_STRING", "dims": [1]},
            {"name": "prompt_tokens", "data_type": "TYPE_INT32", "dims": [1]},
            {"name": "completion_tokens", "data_type": "TYPE_INT32", "dims": [1]},
            {"name": "queue_ms", "data_type": "TYPE_FP32", "dims": [1]},
            {"name": "ttft_ms", "data_type": "TYPE_FP32", "dims": [1]},
        ],
        "instance_group": [{"kind": "KIND_CPU", "count": 1}],
        "parameters": {
            "model_dir": MODEL_LINK,
            "dtype": spec.precision,
            "device": "auto" if spec.gpus is None else "cuda:0" if spec.gpus else "cpu",
            "max_rows": limits.concurrent,
            **({} if limits.context is None else {"max_context": limits.context}),
            "max_new_tokens_cap": limits.new_tokens,
            "queue_limit": limits.queue,
            "queue_timeout_s": limits.queue_timeout_s,
            "template": spec.template,
            "trust_remote_code": str(spec.trust_remote_code).lower(),
            "allow_pickle": str(spec.allow_pickle).lower(),
        },
    }
    engine = tuple(File(path=f"{MODEL_NAME}/1/{name}", asset=f"engines/transformers/{name}") for name in ENGINE_FILES)
    return WriteFiles(
        id="repository",
        title=Text(en="Write the model repository", zh="写入模型仓库"),
        folder="{run}/repository",
        files=(File(path=f"{MODEL_NAME}/config.pbtxt", text=pbtxt.write(config)), *engine),
        outputs=(f"{{run}}/repository/{MODEL_NAME}/config.pbtxt",),
    )


def _service(spec: Spec, hardware: Hardware) -> Service:
    # Closed with a word that nobody keeps: loading other models, shared memory, tracing and log settings would let
    # whoever reaches the port run code or read files; chatting needs none of them.
    closed = "model-repository,shared-memory,trace,logging:slipway-lock={lock}"
    env = {"LC_ALL": "C.UTF-8", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    if spec.gpus is not None:
        by_index = {gpu.index: gpu.uuid for gpu in hardware.gpus}
        env["CUDA_VISIBLE_DEVICES"] = ",".join(by_index.get(index) or str(index) for index in spec.gpus)
    return Service(
        id="serve",
        title=Text(en="Start Triton", zh="启动 Triton"),
        argv=(
            "{runtime}/bin/slipway-tritonserver",
            "--model-repository=repository",
            "--backend-directory={runtime}/backends",
            "--model-control-mode=none",
            "--disable-auto-complete-config",
            "--http-address={bind}",
            "--http-port={port.http}",
            "--grpc-address={bind}",
            "--grpc-port={port.grpc}",
            "--metrics-address={bind}",
            "--metrics-port={port.metrics}",
            f"--http-restricted-api={closed}",
            f"--grpc-restricted-protocol={closed}",
            "--exit-timeout-secs=5",
        ),
        cwd="{run}",
        env=env,
        model=MODEL_NAME,
        needs=("runtime-layout", "repository"),
        forecast=Forecast(seconds=12),
    )


def _first_answer(spec: Spec, model: Model) -> Ask:
    sampling = Sampling(max_tokens=min(64, spec.limits.new_tokens), temperature=0.0)
    question = "What is Slipway?" if model.source.kind == "demo" else "Hello! Who are you?"
    if spec.template == "auto" and model.tokenizer.chat_template:
        chat = Chat(messages=(Message(role="user", content=question),), sampling=sampling)
    else:
        chat = Chat(prompt=question, sampling=sampling)
    return Ask(
        id="first-answer",
        title=Text(en="Ask for a first answer", zh="请求首个回答"),
        why=Text(
            en="A server counts as ready when a real streamed answer has come back, not when its port is open.",
            zh="只有真正收到流式回答才算就绪，端口打开不算。",
        ),
        engine="transformers",
        model=MODEL_NAME,
        chat=chat,
        talk={"tokenizer": f"{{run}}/{MODEL_LINK}", "template": spec.template},
        needs=("serve",),
        forecast=Forecast(seconds=2),
    )


def _notes(spec: Spec, hardware: Hardware, model: Model) -> tuple[Text, ...]:
    notes: list[Text] = []
    hidden = None if hardware.gpus else hardware.unknown.get("gpus")
    if hidden is not None:
        notes += [_HIDDEN, hidden]
    elif not hardware.gpus:
        notes.append(
            Text(
                en="No NVIDIA GPU was found: the model runs on the CPU.",
                zh="未发现 NVIDIA GPU，模型将在 CPU 上运行。",
            )
        )
    notes += recipe_words.unusual(spec)
    if not model.tokenizer.chat_template and spec.template == "auto":
        notes.append(
            Text(
                en="The model has no chat template: it continues a raw prompt.",
                zh="该模型没有对话模板，将直接续写原始提示。",
            )
        )
    return tuple(notes)
