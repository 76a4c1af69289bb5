"""Where a model lies, and steps that fetch it from a hub, or a git repository: the same for every engine. Pure."""

from __future__ import annotations

from backends.spec import Model
from backends.steps import FetchSource, Forecast
from backends.text import Text

_MODEL_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.py")


def model_folder(model: Model) -> str:
    """Where the model's files lie, downloaded or given."""
    if model.source.kind == "demo":
        return "{assets}/demo_model"
    if model.source.kind == "folder":
        return model.source.id
    name = model.source.id.replace("/", "--")
    return f"{{models}}/{model.source.kind}/{name}/{(model.source.revision or 'main').replace('/', '--')}"


def fetch_model(model: Model, folder: str, *, weights: bool = True) -> FetchSource:
    """Downloads what serving needs of a model on Hugging Face: one format of the weights, configuration, tokenizer."""
    revision = model.source.revision or "main"
    packed = "*.safetensors" if model.weight_format == "safetensors" else "*.bin"
    patterns = (*((packed,) if weights else ()), *_MODEL_FILES)
    size_mib = model.weights_mib if weights else 8
    include = tuple(part for pattern in patterns for part in ("--include", pattern))
    hub = ("{python}", "-m", "huggingface_hub.cli.hf", "download", model.source.id)
    return FetchSource(
        id="model",
        title=Text(en="Download the model", zh="下载模型"),
        origin="huggingface",
        source=model.source.id,
        revision=revision,
        folder=folder,
        patterns=patterns,
        pass_env=("HF_TOKEN", "HF_ENDPOINT", "HF_HOME"),
        argv=(*hub, "--revision", revision, "--local-dir", folder, *include),
        outputs=(f"{folder}/config.json",),
        forecast=Forecast(download_mib=size_mib, disk_mib=size_mib),
        shared=True,
    )


def fetch_git(
    step_id: str, title: Text, repository: str, revision: str, folder: str, submodules: tuple[str, ...] = ()
) -> FetchSource:
    """Takes one revision of a git repository, with the named submodules; a checkout that is there already is kept.

    Done by assets/tools/fetch_git.py, which checks that HEAD is the revision that was asked for.
    """
    named = tuple(part for path in submodules for part in ("--submodule", path))
    return FetchSource(
        id=step_id,
        title=title,
        origin="git",
        source=repository,
        revision=revision,
        folder=folder,
        argv=("{python}", "{assets}/tools/fetch_git.py", repository, revision, folder, *named),
        outputs=(f"{folder}/.git",),
        forecast=Forecast(seconds=60, download_mib=120, disk_mib=300),
        shared=True,
    )
