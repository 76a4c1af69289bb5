"""A choice with every place and name that follows from it: folders, images, the engine that is wanted. Pure."""

from __future__ import annotations

import hashlib
import re

from backends import memory
from backends.fetching import model_folder
from backends.spec import Frozen, Model, Spec
from backends.steps import Container, Mount
from backends.tensorrt_llm import stamps, versions
from backends.tensorrt_llm.choices import Choice
from backends.tensorrt_llm.stamps import Cost, Stamp, Want

TOOLS = "{assets}/tensorrt_llm"
REPOSITORY = "{run}/repository"
ENGINES, CONVERTED, SOURCES = "{home}/engines", "{home}/converted", "{home}/sources"
WANTED = "{run}/wanted"
QUIET = {  # inside a container; the person there has no name of its own
    "HOME": "/tmp",  # noqa: S108
    "USER": "slipway",
    "PYTHONUNBUFFERED": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
# 0.5.0's converters read a calibration set with it: requirements.txt of examples/llama has 2.14 (0.7.1), Qwen's
# ~=2.3.2, which cannot be imported with today's pyarrow.
_DATASETS = "datasets~=2.14.7"
_SHM_MIB = 2048  # both guides; Docker's own 64 MiB hold one Python model
_ULIMITS = {"memlock": -1, "stack": 67_108_864}


class Origin(Frozen):
    """A git repository at a revision."""

    repository: str
    revision: str

    @property
    def folder(self) -> str:
        """Where its checkout lies: one for each repository and revision."""
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", self.repository.removesuffix(".git").rstrip("/").rsplit("/", 1)[-1])
        own = hashlib.sha256(self.repository.encode()).hexdigest()[:6]
        return f"{SOURCES}/{stem}-{self.revision.replace('/', '-')}-{own}"


class Deployment(Frozen):
    """One deployment of TensorRT-LLM, fully placed."""

    spec: Spec
    model: Model
    choice: Choice
    ram_mib: int | None = None
    cpu_cores: int | None = None

    # --- where things come from -----------------------------------------------------------------------------------

    @property
    def backend(self) -> Origin:
        """tensorrtllm_backend: templates up to 0.19; at 0.5.0 the Dockerfile, and TensorRT-LLM as a submodule."""
        wanted, release = self.choice.options, self.choice.release
        repository = wanted.backend_repository or versions.repository("backend")
        return Origin(repository=repository, revision=wanted.backend_revision or release.backend)

    @property
    def library(self) -> Origin:
        """TensorRT-LLM: the convert scripts, and from 0.20 on the templates too."""
        wanted, release = self.choice.options, self.choice.release
        repository = wanted.library_repository or versions.repository("library")
        return Origin(repository=repository, revision=wanted.library_revision or release.tag)

    @property
    def examples(self) -> Origin:
        """Qwen's build scripts for 0.5.0, which lie in a repository of their own."""
        wanted = self.choice.options
        repository = wanted.examples_repository or versions.repository("qwen_examples")
        return Origin(repository=repository, revision=wanted.examples_revision or f"v{self.choice.release.version}")

    @property
    def templates_in_library(self) -> bool:
        """Whether the model repository's templates lie in TensorRT-LLM itself."""
        return self.choice.release.backend == "library"

    @property
    def template_folder(self) -> str:
        """The folder with the models' templates."""
        if self.choice.flow == "llmapi":
            return f"{self.library.folder}/triton_backend/all_models/llmapi"
        if self.templates_in_library:
            return f"{self.library.folder}/triton_backend/all_models/inflight_batcher_llm"
        return f"{self.backend.folder}/all_models/inflight_batcher_llm"

    @property
    def scripts(self) -> str:
        """The folder with build.py or convert_checkpoint.py. Only for flows that build an engine."""
        family = self.choice.family
        if family is None:
            raise ValueError("this flow has no build scripts")
        if family.repository == "qwen_examples":
            return f"{self.examples.folder}/{family.examples}"
        inside = f"{self.backend.folder}/tensorrt_llm" if self.choice.flow == "build_py" else self.library.folder
        return f"{inside}/{family.examples}"

    @property
    def scripts_root(self) -> str:
        """The checkout that the scripts lie in."""
        if self.choice.family is not None and self.choice.family.repository == "qwen_examples":
            return self.examples.folder
        return self.backend.folder if self.choice.flow == "build_py" else self.library.folder

    # --- images ---------------------------------------------------------------------------------------------------

    @property
    def base_image(self) -> str:
        """The image that is pulled, built, or here already."""
        own = self.choice.options.backend_repository or self.choice.options.backend_revision
        if self.choice.image_from == "build" and own:
            return f"{self.choice.image}-{_short(self.backend.folder)}"
        return self.choice.image

    @property
    def compiles_wheel(self) -> bool:
        """Whether the tensorrt_llm package is compiled in a layer: the published image lacks it."""
        return self.choice.release.wheel == "compile" and self.choice.image_from == "pull"

    @property
    def packages(self) -> tuple[str, ...]:
        """Packages that the model's tokenizer or build script needs and the image lacks."""
        family = self.choice.family
        told = family.packages if family is not None else ()
        calibrates = versions.quantised()[self.choice.quantisation].calibrates
        return (*told, _DATASETS) if calibrates and self.choice.flow == "build_py" else told

    @property
    def wheel_image(self) -> str:
        """The image with the compiled package."""
        version, sm = self.choice.release.version, self.choice.sm
        return f"slipway/tensorrt-llm:{version}-{self.choice.release.release}-sm{sm}-{_short(self.backend.folder)}"

    @property
    def image(self) -> str:
        """The image that everything runs in, layers included."""
        below = self.wheel_image if self.compiles_wheel else self.base_image
        if not self.packages:
            return below
        return f"slipway/tensorrt-llm-tokenizer:{_short(below + ' '.join(self.packages))}"

    def container(
        self,
        *read: str,
        write: tuple[str, ...] = (),
        gpus: bool = False,
        network: bool = False,
    ) -> Container:
        """A container with our scripts and these folders, each at its own path; only `write` can be written."""
        places = dict.fromkeys((TOOLS, *read, *write))
        return Container(
            image=self.image,
            mounts=tuple(Mount(source=path, path=path, read_only=path not in write) for path in places),
            gpus=self.choice.gpus if gpus else None,
            shm_mib=_SHM_MIB if gpus else None,
            ulimits=_ULIMITS if gpus else {},
            network="bridge" if network else "none",
        )

    # --- model and engine -----------------------------------------------------------------------------------------

    @property
    def model_folder(self) -> str:
        """Where the model's files lie, downloaded or given."""
        return model_folder(self.model)

    @property
    def inflight(self) -> bool:
        return self.choice.options.batching == "inflight"

    @property
    def want(self) -> Want:
        """The engine that is needed, and an estimate of what building it takes."""
        choice = self.choice
        size_mib = None
        seconds = None
        if self.model.parameters:
            size_mib = round(memory.weights_bytes(self.model, choice.precision) / 2**20)
            seconds = 120.0 + 45.0 * self.model.parameters / 1e9
        source = self.model.source
        revision = f"@{source.revision}" if source.revision else ""
        return Want(
            stamp=Stamp(
                model=f"{source.id}{revision}",
                version=choice.release.version,
                tensorrt=None if choice.release.inferred else choice.release.tensorrt,
                image=self.base_image,
                sm=choice.sm,
                gpu=choice.gpu_name,
                dtype=choice.dtype,
                quantisation=choice.quantisation,
                tensor_parallel=choice.tensor_parallel,
                pipeline_parallel=choice.pipeline_parallel,
                max_batch=choice.max_batch,
                max_input=choice.max_input,
                max_sequence=choice.max_sequence,
                inflight=self.inflight,
                plugins=("gpt_attention", "gemm", "paged_kv_cache", "remove_input_padding")
                if self.inflight
                else ("gpt_attention", "gemm"),
            ),
            cost=Cost(seconds=seconds, disk_mib=size_mib),
        )

    @property
    def engine_name(self) -> str:
        return stamps.name(self.want.stamp)

    @property
    def engine_folder(self) -> str:
        """The engine's folder: one of ours, or the one that a person named."""
        return self.choice.options.engine_folder or f"{ENGINES}/{self.engine_name}"

    @property
    def converted_folder(self) -> str:
        """Where converted weights go."""
        return f"{CONVERTED}/{self.engine_name}"

    # --- answers --------------------------------------------------------------------------------------------------

    @property
    def front(self) -> str:
        """The model that is asked.

        Where nobody says: of 0.5.0 the core, in token ids, as both guides' clients do; later the BLS model, which
        decodes all tokens together. The ensemble decodes each alone, which loses spaces and characters of several.
        """
        if self.choice.flow == "llmapi":
            return "tensorrt_llm"
        by_default = "ids" if self.choice.release.version == "0.5.0" else "bls"
        front = by_default if self.choice.options.front == "auto" else self.choice.options.front
        return {"ids": "tensorrt_llm", "bls": "tensorrt_llm_bls"}.get(front, "ensemble")


def _short(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:8]
