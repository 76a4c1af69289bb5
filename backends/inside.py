"""What a pulled image really holds. It wins over the table: tags are moved, pages are stale. Parsing is pure.

The look itself is `COMMAND`, run in the image with its entry point replaced; it prints one JSON object. Environment,
labels and digest come from inspecting the image.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from backends.releases import Image, Table
from backends.spec import Frozen
from backends.text import Text

_SCRIPT = """
import importlib.metadata as metadata, json
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
print(json.dumps(found))
"""
COMMAND: tuple[str, ...] = ("python3", "-c", _SCRIPT.strip())
_VERSION = re.compile(r"\d+(\.\d+)+[\w.+-]*")


class Inside(Frozen):
    """Versions found in an image. `driver` is the one that its CUDA was built for. None: not found."""

    digest: str | None = None
    release: str | None = None
    triton: str | None = None
    cuda: str | None = None
    driver: str | None = None
    tensorrt: str | None = None
    tensorrt_llm: str | None = None
    vllm: str | None = None
    torch: str | None = None
    transformers: str | None = None


def read_inside(
    output: str = "",
    env: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    digest: str | None = None,
) -> Inside:
    """What `COMMAND` printed, the image's environment and its labels, as one value.

    Installed packages win over the environment, the environment over labels. Lines around the JSON (an entry point's
    banner) do not matter; words that are no version are left out.
    """
    env, labels = env or {}, labels or {}
    found = _last_json(output)

    def first(*words: str | None) -> str | None:
        return next((word for word in words if word and _VERSION.fullmatch(word)), None)

    return Inside(
        digest=digest,
        release=first(env.get("NVIDIA_TRITON_SERVER_VERSION")),
        triton=first(
            found.get("triton"), env.get("TRITON_SERVER_VERSION"), labels.get("com.nvidia.tritonserver.version")
        ),
        cuda=first(env.get("CUDA_VERSION"), labels.get("com.nvidia.cuda.version")),
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
            en=f"{image.tag} has {name} {real} inside; the table says {said}.",
            zh=f"{image.tag} 内实际为 {name} {real}，表中为 {said}。",
        )
        for name, said, real in pairs
        if said and real and not _same(said, real)
    )


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
