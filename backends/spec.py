"""The vocabulary: what is wanted (Spec), what there is (Hardware, Model), what is said (Chat, Tensor, Piece).

Frozen values, JSON in and out, unknown fields refused. They never read the machine and never hold a secret: a token is
named by its environment variable, never by its value.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from backends.text import Text


class Frozen(BaseModel):
    """Base of every value of the vocabulary."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def refusal(en: str, zh: str, field: str = "") -> PydanticCustomError:
    """The error that a validator raises: words in both languages, and the field where it is not the validated one."""
    return PydanticCustomError("slipway", "{en}", {"en": en, "zh": zh, "field": field})


_LOGIN = re.compile(
    r"(?:[a-z][a-z0-9+.-]*://)?[^/@\s]*(?::(?!\d*/)[^@\s]*)?@", re.IGNORECASE
)  # a password may hold a "/"


def has_login(address: str) -> bool:
    """Whether an address holds a name or password before its host."""
    return _LOGIN.match(address) is not None


# --- what there is: the machine -----------------------------------------------------------------------------------


class GpuProcess(Frozen):
    """A process that holds GPU memory. `memory_mib` is None where the driver does not tell."""

    pid: int
    name: str | None = None
    memory_mib: int | None = None


class MigInstance(Frozen):
    """One slice of a GPU in MIG mode."""

    index: int
    uuid: str
    profile: str | None = None
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None


class Gpu(Frozen):
    """One GPU. `sm` is the compute capability as one number: 86 for 8.6. None: not known, see `Hardware.unknown`.

    `data_centre` is whether NVIDIA sells it for data centres, which decides forward compatibility of drivers. None: the
    name table says (assets/gpus.csv), and a name that it lacks counts as no.
    """

    name: str
    index: int | None = None
    uuid: str | None = None
    sm: int | None = None
    data_centre: bool | None = None
    memory_total_mib: int | None = None
    memory_free_mib: int | None = None
    temperature_c: int | None = None
    utilisation_percent: int | None = None
    mig: bool | None = None
    mig_instances: tuple[MigInstance, ...] = ()
    processes: tuple[GpuProcess, ...] = ()


class Disk(Frozen):
    """Free space where something would lie. `purpose`: data (models, engines, runtime), images (Docker's root)."""

    purpose: Literal["data", "images", "temporary"]
    path: str
    free_mib: int | None = None
    total_mib: int | None = None


class Docker(Frozen):
    """The container engine. `why` says why it is not reachable or a fact is not known. `host` is where it was asked."""

    reachable: bool = False
    host: str | None = None  # unix:///var/run/docker.sock, tcp://build-host:2376
    version: str | None = None
    api_version: str | None = None
    root: str | None = None
    images: str | None = None  # folder on this machine where pulled images lie; None: not on this machine
    nvidia_runtime: bool | None = None
    cdi: bool | None = None
    buildx: bool | None = None
    why: Text | None = None


class Inside(Frozen):
    """What was found when an image was looked into. `driver` is the one that its CUDA was built for. None: not found.

    `image` is the name that it was pulled by, `digest` what it then was, `looked_at` when (ISO 8601, UTC). `why` says
    why nobody could look: then only what its settings tell is known, if anything.
    """

    image: str = ""
    digest: str | None = None
    looked_at: str = ""
    why: Text | None = None
    release: str | None = None
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    tensorrt: str | None = None
    tensorrt_llm: str | None = None
    vllm: str | None = None
    torch: str | None = None
    transformers: str | None = None


class Hardware(Frozen):
    """One machine. Needs no more than a driver version and GPU names; everything else may be absent.

    `unknown` maps a dotted field ("gpus.0.sm", "driver_version") to the reason why it is not known. `images` is what
    was found inside Triton images that were pulled there, by tag ("24.07-py3"): it wins over the table of releases.
    """

    driver_version: str | None = None
    driver_cuda: str | None = None  # highest CUDA that the driver supports, "12.2"
    gpus: tuple[Gpu, ...] = ()
    hostname: str | None = None
    os: str | None = None
    architecture: str | None = None
    glibc: str | None = None
    python: str | None = None
    cpu_name: str | None = None
    cpu_cores: int | None = None
    ram_total_mib: int | None = None
    ram_free_mib: int | None = None
    disks: tuple[Disk, ...] = ()
    docker: Docker | None = None
    images: dict[str, Inside] = {}
    unknown: dict[str, Text] = {}


# --- what there is: the model -------------------------------------------------------------------------------------


class Tokenizer(Frozen):
    """What the tokenizer's files say. None: the file does not say."""

    kind: str | None = None  # tokenizer.json's model ("BPE", "Unigram") or the class that tokenizer_config.json names
    vocab_size: int | None = None
    chat_template: bool | None = None
    eos_token: str | None = None  # None where tokenizer_config.json names none, as with Qwen's first generation
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    remote_code: bool = False


class Model(Frozen):
    """A model as its config.json and safetensors headers describe it, never its name.

    Counts are numbers of parameters or units; `weights_mib` is the size of the weight files on disk or on the hub.
    `layers` of an encoder-decoder are the decoder's. `context` counts rope scaling in; None: no limit of its own.
    `dtype` and `quantisation` are short names: fp32, fp16, bf16, fp8; gptq, awq, bitsandbytes, fp8.
    """

    source: ModelSource
    architecture: str
    model_type: str
    encoder_decoder: bool = False
    parameters: int | None = None
    parameters_from: Literal["headers", "hub", "index", "config"] | None = None  # all exact but "index" and "config"
    layers: int | None = None
    hidden_size: int | None = None
    heads: int | None = None
    kv_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None
    vocab_size: int | None = None
    context: int | None = None
    sliding_window: int | None = None
    dtype: str | None = None
    quantisation: str | None = None
    tied_embeddings: bool | None = None
    tokenizer: Tokenizer = Tokenizer()
    weight_format: Literal["safetensors", "pickle", "none"] = "none"
    weight_files: tuple[str, ...] = ()
    weights_mib: int | None = None
    remote_code: bool = False
    facts: dict[str, int | float | str | bool] = {}  # facts of one family that one engine asks for, such as d_ff
    notes: tuple[Text, ...] = ()


# --- what is wanted -----------------------------------------------------------------------------------------------

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,46}[a-z0-9])?")
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


def _no_control_characters(words: str) -> str:
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in words):
        raise refusal(
            "This text holds a control character. Write it without line breaks and tabs.",
            "文本含控制字符，去掉换行与制表符。",
        )
    return words


PathText = Annotated[str, Field(min_length=1, max_length=4096), AfterValidator(_no_control_characters)]


class ModelSource(Frozen):
    """Where the model comes from: the demo model, a folder, or a hub id with its revision."""

    kind: Literal["demo", "folder", "huggingface", "modelscope"]
    id: PathText = "demo"
    revision: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.kind in ("huggingface", "modelscope") and (not _HUB_ID.fullmatch(self.id) or ".." in self.id):
            raise refusal(
                f"“{self.id}” is not a hub id. Write it as owner/name, such as Qwen/Qwen3-0.6B.",
                f"“{self.id}”不是模型 ID，写法为 所有者/名称，例如 Qwen/Qwen3-0.6B。",
            )
        if self.revision is not None and (not _REVISION.fullmatch(self.revision) or ".." in self.revision):
            raise refusal(
                f"“{self.revision}” is not a revision. Write a branch, tag or commit, such as main.",
                f"“{self.revision}”不是修订版本，写分支、标签或提交，例如 main。",
            )
        return self


class Limits(Frozen):
    """What one server takes on. Tokens and requests."""

    concurrent: int = Field(default=16, ge=1, le=256)  # chats decoded together
    context: int | None = Field(default=None, ge=16, le=1_048_576)  # input + output, None: the model's own
    new_tokens: int = Field(default=1024, ge=1, le=1_048_576)  # the most that one answer may have
    queue: int = Field(default=64, ge=0, le=100_000)
    queue_timeout_s: int = Field(default=60, ge=1, le=86_400)


class Ports(Frozen):
    """Ports to listen on. None: free ones are chosen at launch and shown."""

    http: int | None = Field(default=None, ge=1, le=65535)
    grpc: int | None = Field(default=None, ge=1, le=65535)
    metrics: int | None = Field(default=None, ge=1, le=65535)


_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,254}(?:@[a-z0-9]+:[0-9a-f]{32,128})?")  # "@": a digest, no login


def _image_name(words: str) -> str:
    if not _IMAGE.fullmatch(words):
        raise refusal(
            "This is not an image's name. Write it with its tag, such as registry.example/tritonserver:23.04-py3.",
            "这不是镜像名称，请连同标签一起写，例如 registry.example/tritonserver:23.04-py3。",
        )
    return words


ImageText = Annotated[str, AfterValidator(_image_name)]
REPOSITORY = r"^(https://|file://|/)[A-Za-z0-9._~%/:@+-]{1,500}$"  # of git; https, or a copy on this machine


def _without_login(value: str) -> str:
    if has_login(value):
        raise refusal(
            "it holds a name or password, which every plan and log would show. Leave them out: git finds the login in "
            "~/.netrc or its credential helper.",
            "其中含有用户名或密码，会出现在方案与日志中。请去掉，git 会从 ~/.netrc 或凭据助手读取登录信息。",
        )
    return value


RepositoryText = Annotated[str, Field(pattern=REPOSITORY), AfterValidator(_without_login)]
GIT_REVISION = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$"
EngineName = Literal["transformers", "fastertransformer", "tensorrt_llm", "vllm"]
Precision = Literal["auto", "fp32", "fp16", "bf16", "int8", "int4"]


class TensorRtLlmOptions(Frozen):
    """What only TensorRT-LLM asks. Everything left open is chosen from the model, the machine and `Spec`.

    `flow`: build_py (0.5.0), trtllm_build (0.8 to 1.2), llmapi (1.0 and later, no engine build). `release` is Triton's,
    "23.10"; `version` is TensorRT-LLM's, "0.5.0". Lengths are tokens of one request. `overlap` only means something to
    0.5.0, where an open value lets twice `max_batch` sequences in.
    """

    flow: Literal["auto", "build_py", "trtllm_build", "llmapi"] = "auto"
    release: str | None = Field(default=None, pattern=r"^\d\d\.\d\d$")
    version: str | None = Field(default=None, pattern=r"^\d+(\.\d+){1,3}$")
    tensor_parallel: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    quantisation: (
        Literal["none", "int8_weight_only", "int4_weight_only", "smoothquant", "int4_awq", "int4_gptq", "fp8"] | None
    ) = None  # None: as `Spec.precision` says
    batching: Literal["inflight", "v1"] = "inflight"
    decoupled: bool = True
    front: Literal["auto", "ensemble", "bls", "ids"] = "auto"  # which model is asked; ids: tensorrt_llm itself
    max_batch: int | None = Field(default=None, ge=1, le=4096)  # None: `limits.concurrent`
    max_input: int | None = Field(default=None, ge=1, le=1_048_576)
    max_output: int | None = Field(default=None, ge=1, le=1_048_576)
    overlap: bool = False
    kv_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    kv_tokens: int | None = Field(default=None, ge=1)
    image_from: Literal["auto", "pull", "build"] = "auto"  # build: the backend's own Dockerfile, as guide 002 does
    prebuilt_image: ImageText | None = None
    engine_folder: PathText | None = None  # an engine that a person already has
    backend_repository: RepositoryText | None = None
    backend_revision: str | None = Field(default=None, pattern=GIT_REVISION)
    library_repository: RepositoryText | None = None  # TensorRT-LLM itself
    library_revision: str | None = Field(default=None, pattern=GIT_REVISION)
    examples_repository: RepositoryText | None = None  # Qwen's build scripts for 0.5.0
    examples_revision: str | None = Field(default=None, pattern=GIT_REVISION)


class VllmOptions(Frozen):
    """What only vLLM asks. `memory_fraction` is the share of GPU memory that vLLM takes for itself."""

    release: str | None = Field(default=None, pattern=r"^\d\d\.\d\d$")
    tensor_parallel: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    memory_fraction: float | None = Field(default=None, gt=0.0, lt=1.0)
    eager: bool = False  # no CUDA graphs: starts sooner, decodes slower


Template = Literal["auto", "raw", "chatml", "llama2", "atom"]
"""How a conversation becomes a prompt: the tokenizer's own template, none, or one written in `backends.prompts`."""


class FasterTransformerOptions(Frozen):
    """What only FasterTransformer asks. In place of a step a person may name what is there; it is checked first.

    `tensor_parallel` None: the number of GPUs over `pipeline_parallel`. `decoupled`, `autotune` None: as the family's
    guide. Sizes of autotuning are those of the requests that count: its entries are used for the same sizes only.
    """

    profile: Literal["auto", "rayrtfr", "void-main", "blog"] = "auto"
    tensor_parallel: int | None = Field(default=None, ge=1, le=64)
    pipeline_parallel: int = Field(default=1, ge=1, le=64)
    instances: int = Field(default=1, ge=1, le=16)
    decoupled: bool | None = None
    autotune: bool | None = None
    autotune_batch: int = Field(default=1, ge=1, le=1024)
    autotune_beam: int = Field(default=1, ge=1, le=64)
    autotune_input: int = Field(default=32, ge=1, le=8192)  # tokens
    prebuilt_image: ImageText | None = None
    backend_checkout: PathText | None = None
    library_checkout: PathText | None = None
    converted: PathText | None = None  # the folder that holds config.ini and the .bin files
    gemm_config: PathText | None = None  # a gemm_config.in made on the same kind of GPU
    slim_checkpoint: PathText | None = None  # GPT-J-6B as the guide has it: the unpacked step_383500
    backend_repository: RepositoryText | None = None  # holds the Dockerfile and all_models
    backend_revision: str | None = Field(default=None, pattern=GIT_REVISION)
    library_repository: RepositoryText | None = None  # FasterTransformer itself
    library_revision: str | None = Field(default=None, pattern=GIT_REVISION)
    shm_mib: int = Field(default=4096, ge=64, le=1_048_576)
    jobs: int | None = Field(default=None, ge=1, le=512)  # compilers at once


class Spec(Frozen):
    """One deployment as a person wants it. Everything has a default but the model."""

    model: ModelSource
    name: str = "demo"
    engine: EngineName = "transformers"
    target: Literal["local", "docker"] = "local"
    precision: Precision = "auto"
    gpus: tuple[int, ...] | None = None  # None: what the engine chooses; (): CPU
    limits: Limits = Limits()
    template: Template = "auto"
    trust_remote_code: bool = False
    allow_pickle: bool = False
    bind: Literal["127.0.0.1", "0.0.0.0"] = "127.0.0.1"  # noqa: S104  loopback unless a person asks
    ports: Ports = Ports()
    restart: Literal["no", "on-failure"] = "no"  # whether a server that ended by itself is started again
    image: ImageText | None = None  # or but the tag that was recommended, "24.07-py3"
    fastertransformer: FasterTransformerOptions | None = None
    tensorrt_llm: TensorRtLlmOptions | None = None
    vllm: VllmOptions | None = None

    @property
    def own_image(self) -> str | None:
        """The image that a person named; None where it is open, or `image` is but a tag of the table of releases."""
        return self.image if self.image is not None and any(mark in self.image for mark in "/:") else None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not _NAME.fullmatch(self.name):
            raise refusal(
                "A name has 1 to 48 small letters, digits and hyphens, such as my-llama.",
                "名称由 1 到 48 个小写字母、数字和连字符组成，例如 my-llama。",
                "name",
            )
        if self.gpus is not None and len(set(self.gpus)) != len(self.gpus):
            raise refusal(
                "One GPU is named twice. Name each index once.", "同一 GPU 出现两次，每个序号只写一次。", "gpus"
            )
        return self


_URL = re.compile(r"https?://[^\s/]+(?:/\S*)?")
_IMAGE_PREFIX = re.compile(r"[a-z0-9][a-z0-9.-]*(?::[0-9]{1,5})?(?:/[a-z0-9._/-]+)?")
_SHAPES = {"registry_mirror": _IMAGE_PREFIX, "torch_index": None, "no_proxy": None}  # a folder, hosts: of any shape


class Sources(Frozen):
    """Where things are fetched from, besides what each tool's own settings say. They are shown in every plan and hold
    no secret: an address with a name and password in it is refused."""

    torch_index: str | None = None  # an index or folder with CPU builds of PyTorch
    registry_mirror: str | None = None  # put before an image's whole name: mirror.example/nvcr.io/nvidia/…
    git_mirror: str | None = None  # stands in place of https://github.com/
    pip_index: str | None = None
    hf_endpoint: str | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: str | None = None  # hosts reached without the proxy, parted by commas; loopback always is

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, value in self:
            if value is None:
                continue
            if has_login(value):
                raise refusal(
                    f"{name} holds a name or password, which every plan and log would show. "
                    "Leave them out: give the login to the tool itself (pip.conf, ~/.netrc, Docker's config.json).",
                    f"{name} 含有用户名或密码，会出现在方案与日志中。"
                    "请去掉，改在工具自身的配置中登录（pip.conf、~/.netrc、Docker 的 config.json）。",
                    name,
                )
            shape = _SHAPES.get(name, _URL)
            if shape is not None and not shape.fullmatch(value):
                example = "mirror.example:5000/hub" if name == "registry_mirror" else "https://mirror.example/"
                raise refusal(
                    f"{name}: this cannot be used. Write it like {example}.",
                    f"{name}：无法使用，写法如 {example}。",
                    name,
                )
        return self


# --- what is said -------------------------------------------------------------------------------------------------


class Message(Frozen):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


_WORDS, _LETTERS = 64, 64


class Sampling(Frozen):
    """How the answer is drawn. temperature 0 is greedy. None leaves the engine's own default.

    `stop`: texts that end the answer and are not part of it; `bad_words`: words that it may not hold.
    """

    max_tokens: int | None = Field(default=None, ge=1, le=1_048_576)
    temperature: float | None = Field(default=None, ge=0.0, le=100.0)
    top_p: float | None = Field(default=None, gt=0.0, le=1.0)
    top_k: int | None = Field(default=None, ge=0, le=1_000_000)
    repetition_penalty: float | None = Field(default=None, gt=0.0, le=100.0)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    stop: tuple[str, ...] = ()
    bad_words: tuple[str, ...] = ()

    @field_validator("bad_words")
    @classmethod
    def _check_bad_words(cls, words: tuple[str, ...]) -> tuple[str, ...]:
        if len(words) > _WORDS or any(not word.strip() or len(word) > _LETTERS for word in words):
            raise refusal(
                f"At most {_WORDS} words of 1 to {_LETTERS} characters each, none of them blank.",
                f"最多 {_WORDS} 个词，每个 1 到 {_LETTERS} 个字符，且不能为空白。",
            )
        return words


class Chat(Frozen):
    """A conversation to be answered, or a raw prompt to be continued (`prompt` wins nothing: exactly one is given)."""

    messages: tuple[Message, ...] = ()
    prompt: str | None = None
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.messages) == (self.prompt is not None):
            raise refusal("Give either messages or a prompt.", "请给出 messages 或 prompt 其中之一。", "messages")
        return self


class Tensor(Frozen):
    """One tensor of a request or a response: Triton's datatype name, shape, and the values in row-major order."""

    name: str
    datatype: str  # BYTES, INT32, UINT64, FP32, BOOL …
    shape: tuple[int, ...]
    values: tuple[str | bytes | int | float | bool, ...]


class Piece(Frozen):
    """A part of an answer: new text, and with the last one why it ended and what it counted."""

    text: str = ""
    finish: Literal["stop", "length", "cancelled"] | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Endpoint(Frozen):
    """Where a running server listens, and the model to talk to."""

    host: str = "127.0.0.1"
    http_port: int
    grpc_port: int
    metrics_port: int
    model: str

    @property
    def http(self) -> str:
        return f"http://{self.host}:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"{self.host}:{self.grpc_port}"


Model.model_rebuild()
