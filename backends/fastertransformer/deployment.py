"""One deployment, with everything decided that the spec left open: branch, image, split, precision, places. Pure."""

from __future__ import annotations

import hashlib
import re

from backends import gpus, memory, releases
from backends.errors import BadInput
from backends.fastertransformer.sources import FAMILIES, Converter, Family, Origin, Profile, RepositoryKind, profiles
from backends.fetching import model_folder
from backends.spec import FasterTransformerOptions, Frozen, Hardware, Model, Spec
from backends.steps import Mount
from backends.text import Text

TOOLS = "{assets}/fastertransformer"
_TAG = re.compile(r"(\d\d\.\d\d)(?:-[\w.-]+)?$")


class Split(Frozen):
    """How a model lies on GPUs: `tensor` ranks share each layer, `pipeline` ranks share the layers."""

    tensor: int
    pipeline: int
    instances: int
    gpus: tuple[int, ...]


class Deployment(Frozen):
    """A spec, a machine and a model with every open question answered."""

    spec: Spec
    model: Model
    options: FasterTransformerOptions
    profile: Profile
    family: Family
    release: str
    split: Split
    precision: str  # fp32, fp16, bf16, int8
    sm: tuple[int, ...]
    cpu_cores: int | None
    ram_mib: int | None

    # --- what is taken --------------------------------------------------------------------------------------------

    @property
    def backend(self) -> Origin:
        """The backend's repository, as the spec or the profile says."""
        return _origin(self.options.backend_repository, self.options.backend_revision, self.profile.backend)

    @property
    def library(self) -> Origin:
        """FasterTransformer's repository, as the spec or the profile says."""
        return _origin(self.options.library_repository, self.options.library_revision, self.profile.library)

    @property
    def converter(self) -> Converter:
        """The script that turns this model's weights into FasterTransformer's files."""
        slim = self.family == "gptj" and self.options.slim_checkpoint is not None
        return self.profile.converters["gptj-slim" if slim else self.family]

    @property
    def converter_origin(self) -> Origin:
        """Where the converter is taken from: the library, or a later revision of it."""
        revision = self.converter.revision
        chosen = self.options.library_repository or self.options.library_revision
        if revision is None or chosen:
            return self.library
        return Origin(repository=self.library.repository, revision=revision)

    @property
    def builds_tools(self) -> bool:
        """Whether the gemm tools must be built from the library's source."""
        return self.autotune and self.profile.gemm_folder is None

    @property
    def converter_step(self) -> str:
        """The step that brings the converter: the library's own where that is taken at the same revision anyway."""
        shared = self.builds_tools and self.converter_folder == self.library_folder
        return "library-source" if shared else "converter-source"

    @property
    def kind(self) -> RepositoryKind:
        """The folder of all_models that this model is served from."""
        return self.profile.repositories[self.family]

    @property
    def decoupled(self) -> bool:
        """Whether answers are streamed."""
        return self.kind.decoupled if self.options.decoupled is None else self.options.decoupled

    @property
    def autotune(self) -> bool:
        """Whether kernels are chosen by measuring: guide 003 does, the LLaMA guides do not."""
        if self.options.gemm_config is not None:
            return False
        return self.profile.guide == "003" if self.options.autotune is None else self.options.autotune

    @property
    def image(self) -> str:
        """The image that everything runs in."""
        if self.options.prebuilt_image is not None:
            return self.options.prebuilt_image
        base = "" if self.spec.own_image is None else "-" + _short(self.spec.own_image)
        return f"slipway/fastertransformer:{self.release}-{self.backend.name.replace('--', '-').lower()}{base}"

    @property
    def weight_type(self) -> str:
        """The type of the values in the .bin files. GPT-J's converters only write fp32; bf16 is made while loading."""
        if self.family == "gptj" or self.precision == "bf16":
            return "fp32"
        return "fp16" if self.precision == "int8" else self.precision

    @property
    def data_type(self) -> str:
        """What the server computes in. int8 packs weights only."""
        return "fp16" if self.precision == "int8" else self.precision

    # --- where it lies --------------------------------------------------------------------------------------------

    @property
    def model_folder(self) -> str:
        """The folder that holds config.json, weights and tokenizer."""
        return model_folder(self.model)

    @property
    def slug(self) -> str:
        """A folder's name for this model."""
        source = self.model.source
        if source.kind in ("huggingface", "modelscope"):
            return f"{source.id.replace('/', '--')}--{(source.revision or 'main').replace('/', '-')}"
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", source.id.rstrip("/").rsplit("/", 1)[-1]) or "model"
        return f"{name}-{_short(source.id)}"

    @property
    def converted(self) -> str:
        """The folder that the converter is given; it makes one folder in it for each number of GPUs."""
        return f"{{home}}/converted/{self.slug}-{self.profile.name}-{self.weight_type}"

    @property
    def checkpoint(self) -> str:
        """The folder that the server reads: config.ini and the .bin files."""
        return self.options.converted or f"{self.converted}/{self.split.tensor}-gpu"

    @property
    def backend_folder(self) -> str:
        """The backend's checkout."""
        return self.options.backend_checkout or f"{{home}}/sources/{self.backend.name}"

    @property
    def library_folder(self) -> str:
        """The library's checkout, which the gemm tools are built from."""
        return self.options.library_checkout or f"{{home}}/sources/{self.library.name}"

    @property
    def converter_folder(self) -> str:
        """The checkout that holds the converter."""
        return self.options.library_checkout or f"{{home}}/sources/{self.converter_origin.name}"

    @property
    def server_folder(self) -> str:
        """Where the server is started: it looks for gemm_config.in there and nowhere else."""
        return "{run}/server"

    def mounts(self, *folders: str, write: tuple[str, ...] = ()) -> tuple[Mount, ...]:
        """Our scripts and the given folders, each at its own path; only those of `write` can be written."""
        wanted = dict.fromkeys((TOOLS, *folders, *write))
        return tuple(Mount(source=path, path=path, read_only=path not in write) for path in wanted)


def family_of(model: Model) -> Family | None:
    """The family by config.json's model_type; None for one that FasterTransformer's converters do not know."""
    return next((family for family in FAMILIES if family == model.model_type), None)


def options_of(spec: Spec) -> FasterTransformerOptions:
    """The engine's own options, its defaults where the spec names none."""
    return spec.fastertransformer or FasterTransformerOptions()


def profile_of(spec: Spec, family: Family) -> Profile:
    """The chosen branch, else the family's first."""
    wanted = options_of(spec).profile
    if wanted != "auto":
        return profiles()[wanted]
    return next(profile for profile in profiles().values() if family in profile.families)


def release_of(spec: Spec, profile: Profile) -> str | None:
    """The Triton release: of the image that the spec names, else the profile's newest. None: the tag does not tell."""
    if spec.image is None:
        return profile.releases[-1]
    found = _TAG.search(spec.image.rsplit(":", 1)[-1])
    return found.group(1) if found else None


def split_of(spec: Spec, hardware: Hardware) -> Split:
    """How the model is split. GPUs that nobody chose are the machine's first ones."""
    options = options_of(spec)
    if options.tensor_parallel is not None:
        tensor = options.tensor_parallel
    else:
        tensor = max(1, len(spec.gpus or ()) // options.pipeline_parallel)
    chosen = spec.gpus
    if chosen is None:
        there = [gpu.index if gpu.index is not None else place for place, gpu in enumerate(hardware.gpus)]
        chosen = tuple(there[: tensor * options.pipeline_parallel])
    return Split(tensor=tensor, pipeline=options.pipeline_parallel, instances=options.instances, gpus=chosen)


def precision_of(spec: Spec, family: Family) -> str:
    """fp16 unless the spec says otherwise; T5 in fp32, since its activations leave fp16's range."""
    if spec.precision != "auto":
        return spec.precision
    return "fp32" if family == "t5" else "fp16"


def known_sms(spec: Spec, hardware: Hardware) -> tuple[int, ...]:
    """SMs of the GPUs that would be used, sorted; empty where one is not known."""
    chosen = split_of(spec, hardware).gpus
    try:
        return tuple(sorted({card.sm for card in gpus.cards(hardware, chosen)}))
    except BadInput:
        return ()


def decide(spec: Spec, hardware: Hardware, model: Model) -> Deployment:
    """Everything decided. Call it only where `why_not` has no reason. Raises BadInput where it has."""
    family = family_of(model)
    if family is None:
        raise BadInput("model", _no_family(model))
    profile = profile_of(spec, family)
    return Deployment(
        spec=spec,
        model=model,
        options=options_of(spec),
        profile=profile,
        family=family,
        release=release_of(spec, profile) or profile.releases[-1],
        split=split_of(spec, hardware),
        precision=precision_of(spec, family),
        sm=known_sms(spec, hardware),
        cpu_cores=hardware.cpu_cores,
        ram_mib=hardware.ram_total_mib,
    )


def context_of(deployment: Deployment) -> int:
    """Tokens that one chat may have, prompt and answer."""
    return memory.context_of(deployment.spec, deployment.model)


def base_image(deployment: Deployment) -> str:
    """The Triton image that the backend is built on."""
    return deployment.spec.own_image or f"{releases.REPOSITORY}:{deployment.release}-py3"


def _no_family(model: Model) -> Text:
    return Text(
        en=f"FasterTransformer's converters take LLaMA, GPT-J and T5; this is {model.architecture}.",
        zh=f"FasterTransformer 的转换脚本支持 LLaMA、GPT-J 与 T5，此模型为 {model.architecture}。",
    )


def _origin(repository: str | None, revision: str | None, pinned: Origin) -> Origin:
    if repository is not None and revision is None:
        revision = "HEAD"  # another repository need not have the pinned commit
    return Origin(repository=repository or pinned.repository, revision=revision or pinned.revision)


def _short(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:8]
