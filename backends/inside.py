"""What a pulled image really holds. It wins over the table: tags are moved, pages are stale. Parsing is pure.

The look itself is `COMMAND`, run in the image with its entry point replaced; it prints one JSON object. Environment,
labels and digest come from inspecting the image. `backends.targets.looking` runs it, `backends.looked_into` keeps it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from backends.releases import REPOSITORY, Image, Table
from backends.spec import Inside
from backends.text import Text

_SCRIPT = """
import glob, importlib.metadata as metadata, json, re
found = {}
for name in ("tensorrt", "tensorrt_llm", "vllm", "torch", "transformers"):
    try:
        found[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
try:
    found["triton"] = open("/opt/tritonserver/TRITON_VERSION").read().strip()
except OSError:
    pass
try:
    found["cuda"] = json.load(open("/usr/local/cuda/version.json"))["cuda"]["version"]
except (OSError, ValueError, KeyError, TypeError):
    pass
for path in glob.glob("/usr/lib/*-linux-gnu/libnvinfer.so.*.*.*"):
    found.setdefault("tensorrt", re.search(r"so\\.(.*)", path).group(1))
print(json.dumps(found))
"""
COMMAND: tuple[str, ...] = ("python3", "-c", _SCRIPT.strip())
_VERSION = re.compile(r"\d+(\.\d+)+[\w.+-]*")
_NAMES = {
    "triton": "Triton",
    "cuda": "CUDA",
    "tensorrt": "TensorRT",
    "tensorrt_llm": "TensorRT-LLM",
    "vllm": "vLLM",
    "torch": "PyTorch",
}


def read_inside(
    output: str = "",
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    digest: str | None = None,
) -> Inside:
    """What `COMMAND` printed, the image's environment and its labels, as one value.

    What is installed wins over the environment, the environment over labels. Lines around the JSON (an entry point's
    banner) do not matter; words that are no version are left out.
    """
    env, labels = env or {}, labels or {}
    found, cuda = _last_json(output), env.get("CUDA_VERSION")

    def first(*words: str | None) -> str | None:
        return next((word for word in words if word and _VERSION.fullmatch(word)), None)

    return Inside(
        digest=digest,
        release=first(env.get("NVIDIA_TRITON_SERVER_VERSION")),
        triton=first(
            found.get("triton"), env.get("TRITON_SERVER_VERSION"), labels.get("com.nvidia.tritonserver.version")
        ),
        cuda=first(_longer(found.get("cuda"), cuda), cuda, labels.get("com.nvidia.cuda.version")),
        driver=first(env.get("CUDA_DRIVER_VERSION")),
        tensorrt=first(found.get("tensorrt"), env.get("TRT_VERSION"), labels.get("com.nvidia.tensorrt.version")),
        tensorrt_llm=first(found.get("tensorrt_llm"), env.get("TRT_LLM_VERSION")),
        vllm=first(found.get("vllm"), env.get("VLLM_VERSION")),
        torch=first(found.get("torch"), env.get("PYTORCH_VERSION")),
        transformers=first(found.get("transformers")),
    )


def corrected(image: Image, inside: Inside, table: Table) -> Image:
    """The image as it really is: what is inside replaces what the table says, and nothing of that is inferred."""
    cuda = inside.cuda or image.cuda
    driver = inside.driver or (table.driver_of_cuda(cuda) if inside.cuda else None) or image.driver
    engine = {"trtllm-python-py3": inside.tensorrt_llm, "vllm-python-py3": inside.vllm}.get(image.variant)
    return image.model_copy(
        update={
            "cuda": cuda,
            "driver": driver,
            "inferred": image.inferred and inside.cuda is None,
            "engine_version": engine or image.engine_version,
            "tensorrt": inside.tensorrt or image.tensorrt,
            "triton": inside.triton or image.triton,
        }
    )


def differences(image: Image, inside: Inside) -> tuple[Text, ...]:
    """Where the image is not what the table says, one sentence each."""
    pairs = (
        ("Triton", image.triton, inside.triton),
        ("CUDA", image.cuda, inside.cuda),
        ("TensorRT", image.tensorrt, inside.tensorrt),
        ("TensorRT-LLM", image.engine_version if image.variant == "trtllm-python-py3" else None, inside.tensorrt_llm),
        ("vLLM", image.engine_version if image.variant == "vllm-python-py3" else None, inside.vllm),
    )
    return tuple(
        Text(
            en=f"{image.tag} has {name} {real} inside; the table says {said}. What is inside counts.",
            zh=f"{image.tag} 内实际为 {name} {real}，表中为 {said}，以镜像内为准。",
        )
        for name, said, real in pairs
        if said and real and not _same(said, real)
    )


def told(inside: Inside) -> str:
    """The versions that were found, as one line: "Triton 2.48.0, CUDA 12.5.0"; empty where none was."""
    return ", ".join(f"{name} {version}" for key, name in _NAMES.items() if (version := getattr(inside, key)))


def source(tag: str, inside: Inside) -> Text:
    """Where the facts of a tag that was looked into come from."""
    short = (inside.digest or "").removeprefix("sha256:")[:12]
    if inside.why is not None:
        head = Text(
            en=f"{tag} ({short}) could not be looked into ({inside.why.en.rstrip('.')}).",
            zh=f"无法查看 {tag}（{short}）内部（{inside.why.zh.rstrip('。')}）。",
        )
        named = told(inside)
        return head + (
            Text(
                en=f"Of it counts what its settings name: {named}. For the rest the table of releases stands.",
                zh=f"以其配置所写为准：{named}，其余以版本表为准。",
            )
            if named
            else Text(en="The table of releases stands.", zh="仍以版本表为准。")
        )
    return Text(
        en=f"Versions of {tag} were read inside the pulled image ({short}, {inside.looked_at[:10]}): {told(inside)}.",
        zh=f"{tag} 的版本读自已拉取的镜像（{short}，{inside.looked_at[:10]}）：{told(inside)}。",
    )


def tag_of(image: str) -> str | None:
    """The tag of one of the images that the table of releases is about; None for any other image."""
    repository, _, tag = image.rpartition(":")
    return tag if repository == REPOSITORY else None


def by_tag(found: Iterable[Inside]) -> dict[str, Inside]:
    """The newest look at each image of the table, by tag."""
    ordered = sorted(found, key=lambda inside: inside.looked_at)
    return {tag: inside for inside in ordered if (tag := tag_of(inside.image)) is not None}


def _longer(installed: str | None, named: str | None) -> str | None:
    """The version as installed; where the environment names the same one with its build, that: "12.5.0.23"."""
    return named if installed and named and _same(installed, named) else installed


def _same(said: str, real: str) -> bool:
    """Whether two versions agree as far as the shorter one goes: "12.1.0" and "12.1.0.023" do."""
    one, two = said.split("."), real.split(".")
    length = min(len(one), len(two))
    return one[:length] == two[:length]


def _last_json(output: str) -> dict[str, str]:
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                return {str(key): word for key, word in value.items() if isinstance(word, str)}
    return {}
