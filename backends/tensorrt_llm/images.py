"""The image that everything runs in: pulled or built, with what it lacks in layers of its own. Pure.

Both guides install into a running container, where it is lost with the container; here each such thing is a layer.
"""

from __future__ import annotations

from backends.fetching import fetch_git
from backends.steps import BuildImage, File, Forecast, PullImage, Step, Task, WriteFiles
from backends.tensorrt_llm import versions
from backends.tensorrt_llm.deployment import OFFLINE, QUIET, Deployment
from backends.text import Text

_LAYERS = "{home}/layers"
_SSH, _HTTPS = "git@github.com:", "https://github.com/"


def sources(deployment: Deployment) -> tuple[Step, ...]:
    """The checkouts that this deployment works from, submodules and large files included where they are needed."""
    choice, steps = deployment.choice, list[Step]()
    if choice.flow == "build_py" or not deployment.templates_in_library:
        origin = deployment.backend
        steps.append(
            fetch_git(
                "backend-source",
                Text(en="Fetch Triton's TensorRT-LLM backend", zh="获取 Triton 的 TensorRT-LLM 后端"),
                origin.repository,
                origin.revision,
                origin.folder,
            )
        )
    if needs_whole_backend(deployment):
        steps += _whole(deployment.backend.folder, deployment.library.repository)
    if choice.flow == "llmapi" or deployment.templates_in_library or choice.flow == "trtllm_build":
        origin = deployment.library
        steps.append(
            fetch_git(
                "library-source",
                Text(en="Fetch TensorRT-LLM's scripts", zh="获取 TensorRT-LLM 脚本"),
                origin.repository,
                origin.revision,
                origin.folder,
            )
        )
    if choice.family is not None and choice.family.repository == "qwen_examples":
        origin = deployment.examples
        steps.append(
            fetch_git(
                "examples-source",
                Text(en="Fetch Qwen's build scripts", zh="获取 Qwen 构建脚本"),
                origin.repository,
                origin.revision,
                origin.folder,
            )
        )
    return tuple(steps)


def needs_whole_backend(deployment: Deployment) -> bool:
    """Whether the backend's submodules are needed: to compile something, or for 0.5.0's build scripts of llama."""
    choice = deployment.choice
    by_script = choice.flow == "build_py" and choice.family is not None and choice.family.repository == "library"
    return choice.image_from == "build" or deployment.compiles_wheel or by_script


def _whole(folder: str, library_repository: str) -> list[Step]:
    """Submodules over https, then the large files of TensorRT-LLM itself, which the parent's own pull leaves out."""
    local = () if library_repository.startswith("https://") else ("-c", "protocol.file.allow=always")
    library = f"{folder}/tensorrt_llm"
    return [
        Task(
            id="backend-submodules",
            title=Text(en="Fetch its submodules", zh="获取子模块"),
            why=Text(
                en=".gitmodules names them by SSH, which needs a key; over https they are the same.",
                zh=".gitmodules 使用 SSH 地址，需要密钥；改用 https 内容相同。",
            ),
            argv=("git", "-C", folder, "-c", f"submodule.tensorrt_llm.url={library_repository}",
                  "-c", f"url.{_HTTPS}.insteadOf={_SSH}", *local, "submodule", "update", "--init", "--recursive",
                  "--progress"),
            env={"GIT_LFS_SKIP_SMUDGE": "1", "GIT_TERMINAL_PROMPT": "0"},
            needs=("backend-source",),
            outputs=(f"{library}/examples",),
            forecast=Forecast(seconds=300, download_mib=900, disk_mib=2_000),
            shared=True,
        ),
        Task(
            id="backend-lfs-install",
            title=Text(en="Switch Git LFS on for TensorRT-LLM", zh="为 TensorRT-LLM 启用 Git LFS"),
            argv=("git", "-C", library, "lfs", "install", "--local"),
            needs=("backend-submodules",),
            forecast=Forecast(seconds=1),
            shared=True,
        ),
        Task(
            id="backend-lfs",
            title=Text(en="Fetch its large files", zh="获取大文件"),
            why=Text(
                en="The static libraries lie in Git LFS of the submodule. A pull in the parent leaves pointers, at "
                "which the compiler stops an hour later.",
                zh="静态库保存在子模块的 Git LFS 中。只在上层仓库拉取会留下指针文件，编译一小时后才会报错。",
            ),
            argv=("git", "-C", library, "lfs", "pull"),
            env={"GIT_TERMINAL_PROMPT": "0"},
            needs=("backend-lfs-install",),
            forecast=Forecast(seconds=300, download_mib=1_200, disk_mib=2_400),
            shared=True,
        ),
        Task(
            id="backend-check",
            title=Text(en="Check the checkout", zh="检查源码"),
            argv=("{python}", "-m", "backends.tensorrt_llm.lint", folder),
            env={"PYTHONPATH": "{assets}/.."},
            needs=("backend-lfs",),
            forecast=Forecast(seconds=2),
        ),
    ]  # fmt: skip


def images(deployment: Deployment) -> tuple[Step, ...]:
    """The base image, its layers, and a look at what is inside. The last step's id is `image-check`."""
    choice = deployment.choice
    steps: list[Step] = [_built(deployment) if choice.image_from == "build" else _pulled(deployment)]
    if deployment.compiles_wheel:
        steps += _wheel(deployment)
    if deployment.packages:
        steps += _packages(deployment, steps[-1].id)
    told = ["python3", "{assets}/tensorrt_llm/check_image.py", choice.release.version]
    if choice.flow != "llmapi":
        told.append("--backend")
    steps.append(
        Task(
            id="image-check",
            title=Text(en="Check what the image holds", zh="检查镜像内容"),
            why=Text(
                en="An engine only runs with the very versions that built it.",
                zh="引擎只能在构建它的同一版本上运行。",
            ),
            argv=tuple(told),
            env=QUIET | OFFLINE,
            container=deployment.container(),
            needs=(steps[-1].id,),
            forecast=Forecast(seconds=10),
            shared=True,
        )
    )
    return tuple(steps)


def tokenizer_check(deployment: Deployment) -> Task:
    """Loads the tokenizer in the image as the server will, before anything long begins."""
    trust = ("--trust",) if deployment.spec.trust_remote_code else ()
    return Task(
        id="tokenizer-check",
        title=Text(en="Load the tokenizer as the server will", zh="按服务的方式加载分词器"),
        argv=("python3", "{assets}/tensorrt_llm/check_image.py", deployment.choice.release.version,
              "--tokenizer", deployment.model_folder, *trust),
        env=QUIET | OFFLINE,
        container=deployment.container(deployment.model_folder),
        needs=("image-check", *(("model",) if deployment.model.source.kind == "huggingface" else ())),
        forecast=Forecast(seconds=10),
        shared=True,
    )  # fmt: skip


def _pulled(deployment: Deployment) -> Step:
    return PullImage(
        id="image",
        title=Text(en="Pull the image", zh="拉取镜像"),
        why=Text(
            en=f"It holds Triton with TensorRT-LLM {deployment.choice.release.version}.",
            zh=f"其中包含 Triton 与 TensorRT-LLM {deployment.choice.release.version}。",
        ),
        image=deployment.base_image,
        forecast=Forecast(seconds=900, download_mib=16_000, disk_mib=34_816),
        shared=True,
    )


def _built(deployment: Deployment) -> Step:
    """The backend's own Dockerfile, as guide 002 builds it."""
    arm = deployment.choice.architecture == "aarch64"
    return BuildImage(
        id="image",
        title=Text(en="Build the image from source", zh="从源码构建镜像"),
        why=Text(
            en="The backend's own Dockerfile, on tritonserver 23.08: an hour or more, once.",
            zh="使用后端自带的 Dockerfile（基于 tritonserver 23.08），约需一小时以上，只做一次。",
        ),
        tag=deployment.base_image,
        folder=deployment.backend.folder,
        dockerfile=versions.built().dockerfile,
        args={"TORCH_INSTALL_TYPE": "src_non_cxx11_abi"} if arm else {},
        needs=("backend-check",),
        forecast=Forecast(seconds=5_400, download_mib=14_000, disk_mib=61_440, ram_mib=24_576),
        shared=True,
        stall_s=7200.0,
    )


def _wheel(deployment: Deployment) -> list[Step]:
    """The tensorrt_llm package compiled into a layer, for the GPU at hand only."""
    folder = f"{deployment.backend.folder}/.slipway"
    arm = deployment.choice.architecture == "aarch64"
    text = f"""# Made by Slipway: the tensorrt_llm package, compiled from the checkout beside it.
FROM {deployment.base_image}
ARG TORCH_INSTALL_TYPE={"src_non_cxx11_abi" if arm else "pypi"}
COPY tensorrt_llm /app/tensorrt_llm
WORKDIR /app/tensorrt_llm
RUN bash docker/common/install_cmake.sh
ENV PATH=/usr/local/cmake/bin:$PATH
RUN bash docker/common/install_pytorch.sh $TORCH_INSTALL_TYPE
RUN python3 scripts/build_wheel.py --trt_root=/usr/local/tensorrt --cuda_architectures "{deployment.choice.sm}-real"
RUN pip3 install --no-cache-dir build/tensorrt_llm*.whl
WORKDIR /
"""
    return [
        WriteFiles(
            id="wheel-dockerfile",
            title=Text(en="Write the layer's Dockerfile", zh="写入镜像层的 Dockerfile"),
            folder=folder,
            files=(File(path="Dockerfile.wheel", text=text),),
            needs=("backend-check",),
            outputs=(f"{folder}/Dockerfile.wheel",),
            shared=True,
        ),
        BuildImage(
            id="wheel",
            title=Text(en="Compile the TensorRT-LLM package", zh="编译 TensorRT-LLM 软件包"),
            why=Text(
                en="The published image lacks it. In a layer it stays; in a container it would go with it. For this "
                "GPU alone it takes a fraction of the time.",
                zh="公开镜像不含该包。编译到镜像层中可以保留，装在容器里会随容器丢失。"
                "只为当前 GPU 编译，用时大幅减少。",
            ),
            tag=deployment.wheel_image,
            folder=deployment.backend.folder,
            dockerfile=".slipway/Dockerfile.wheel",
            needs=("image", "wheel-dockerfile"),
            forecast=Forecast(seconds=3_600, download_mib=3_000, disk_mib=24_576, ram_mib=24_576),
            shared=True,
            stall_s=7200.0,
        ),
    ]


def _packages(deployment: Deployment, below: str) -> list[Step]:
    """A small layer with the packages that the tokenizer needs."""
    image = deployment.wheel_image if deployment.compiles_wheel else deployment.base_image
    folder = f"{_LAYERS}/{deployment.image.rsplit(':', 1)[-1]}"
    listed = " ".join(f'"{package}"' for package in deployment.packages)
    text = f"""# Made by Slipway: what the tokenizer and the build script need.
FROM {image}
RUN pip3 install --no-cache-dir {listed}
"""
    return [
        WriteFiles(
            id="packages-dockerfile",
            title=Text(en="Write the tokenizer layer's Dockerfile", zh="写入分词器镜像层的 Dockerfile"),
            folder=folder,
            files=(File(path="Dockerfile", text=text),),
            outputs=(f"{folder}/Dockerfile",),
            shared=True,
        ),
        BuildImage(
            id="packages",
            title=Text(en="Add the tokenizer's packages", zh="添加分词器依赖"),
            why=Text(
                en="Installed by hand into a container they would be gone with it.",
                zh="手工装进容器会随容器一起丢失。",
            ),
            tag=deployment.image,
            folder=folder,
            needs=(below, "packages-dockerfile"),
            forecast=Forecast(seconds=60, download_mib=60, disk_mib=300),
            shared=True,
        ),
    ]
