"""Upstream's repositories and images as stand-ins, one data folder, and a panel over it, for all tests here."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import docker
import httpx
import pytest
from openai import OpenAI

from app.__main__ import control as make_control
from app.control import Control
from tests.conftest import until
from tests.live.browser import panel_of
from tests.live.containers.conftest import engine, image  # noqa: F401  fixtures
from tests.live.trtllm.parts import BARE, HELD, VLLM, tiny_qwen
from tests.live.trtllm.story import Told, told_of
from tests.trtllm_upstream import FIXTURES, backend, examples, library
from tests.upstream import tiny_llama


@pytest.fixture(scope="package")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Addresses of the repositories that stand for upstream's."""
    folder = tmp_path_factory.mktemp("upstream")
    made = {f"library-{version}": library(folder / f"library-{version}", version)
            for version in ("0.5.0", "0.12.0", "0.19.0", "1.2.1")}  # fmt: skip
    made |= {
        "backend-0.5.0": backend(folder / "backend-0.5.0", "0.5.0", made["library-0.5.0"]),
        "backend-0.12.0": backend(folder / "backend-0.12.0", "0.12.0"),
        "backend-0.19.0": backend(folder / "backend-0.19.0", "0.19.0"),
        "examples": examples(folder / "examples"),
    }
    return {name: f"file://{path}" for name, path in made.items()}


@pytest.fixture(scope="package")
def images(
    engine: docker.DockerClient,  # noqa: F811
    image: str,  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Stand-ins: bare (what the Dockerfile of 0.5.0 builds on), 23.10 without the package, later ones with it; vLLM."""
    folder = tmp_path_factory.mktemp("image")
    for name in ("image", "library", "vllm"):
        shutil.copytree(FIXTURES / name, folder / name)
    (folder / "Dockerfile").write_text(
        f"FROM {image}\n"
        "COPY image/core.py /opt/tritonserver/backends/tensorrtllm/model.py\n"
        "COPY image/transformers.py /usr/lib/python3/dist-packages/transformers.py\n"
        "COPY image/pip3 image/mpirun image/trtllm-build image/nvidia-smi /usr/local/bin/\n"
        "ARG TENSORRT=9.1.0.4\n"
        'RUN cd /usr/lib/python3/dist-packages && mkdir "tensorrt-$TENSORRT.dist-info" && '
        'printf "Name: tensorrt\\nVersion: $TENSORRT\\n" > "tensorrt-$TENSORRT.dist-info/METADATA"\n'
        "ARG VERSION\n"
        "COPY library /tmp/library\n"
        "RUN test -z $VERSION || { cd /tmp/library && echo $VERSION > version.txt && "
        "python3 scripts/build_wheel.py --trt_root=/x && pip3 install build/*.whl; }\n",
        encoding="utf-8",
    )
    (folder / "Dockerfile.vllm").write_text(
        f"FROM {BARE}\nCOPY vllm/model.py /opt/tritonserver/backends/vllm/model.py\n", encoding="utf-8"
    )
    engine.images.build(path=str(folder), tag=BARE, rm=True)
    engine.images.get(BARE).tag("slipway.test/trtllm", "23.10-trtllm-python-py3")
    for tag, (version, tensorrt) in HELD.items():
        arguments = {"VERSION": version, "TENSORRT": tensorrt}
        engine.images.build(path=str(folder), tag=tag, rm=True, buildargs=arguments)
    engine.images.build(path=str(folder), dockerfile="Dockerfile.vllm", tag=VLLM, rm=True)


@pytest.fixture(scope="package")
def control(tmp_path_factory: pytest.TempPathFactory, engine: docker.DockerClient) -> Iterator[Control]:  # noqa: F811
    home = tmp_path_factory.mktemp("trtllm") / "home"
    tiny_llama(home / "models" / "tiny-llama")
    tiny_qwen(home / "models" / "tiny-qwen")
    control = make_control({"home": str(home)})
    yield control
    for run in control.open_runs():
        control.stop(run.id)
    until(lambda: not control.open_runs(), 120)
    target = control._targets["docker"]
    target.reclaim(target.reclaimable())


@pytest.fixture(scope="package")
def clicked(
    control: Control,
    engine: docker.DockerClient,  # noqa: F811
    chromium: str,
    upstream: dict[str, str],
    images: None,
) -> dict[str, Told]:
    """What was seen of each recipe on its way from click to chat, by the deployment's name; its server runs."""
    return told_of(control, engine, chromium, upstream)


@pytest.fixture(scope="package")
def openai(control: Control) -> Iterator[OpenAI]:
    """The panel's API, asked by the official client."""
    with panel_of(control) as address:
        yield OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0, http_client=httpx.Client(trust_env=False))
