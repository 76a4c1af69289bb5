"""The image that holds Triton with FasterTransformer's backend, and the checkouts that other steps work from. Pure."""

from __future__ import annotations

from backends.fastertransformer.deployment import TOOLS, Deployment, base_image
from backends.fetching import fetch_git
from backends.steps import BuildImage, Container, Forecast, PullImage, Step, Task
from backends.text import Text

QUIET = {"HOME": "/tmp", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # noqa: S108  inside a container
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
CUTLASS = "3rdparty/cutlass"
_COMPILE_CORE_S = 48_000  # of the backend for four SMs: 20 to 30 minutes on 32 cores
_MIB_A_JOB = 3072  # nvcc and cicc of one file


def backend_source(deployment: Deployment) -> Step:
    """The backend's repository: its Dockerfile, and the model repositories under all_models."""
    template = f"all_models/{deployment.kind.template}/fastertransformer/config.pbtxt"
    if deployment.options.backend_checkout is not None:
        return _named_checkout("backend-source", deployment.backend_folder, "docker/Dockerfile", template)
    origin = deployment.backend
    return fetch_git(
        "backend-source",
        Text(en="Fetch Triton's FasterTransformer backend", zh="获取 Triton 的 FasterTransformer 后端"),
        origin.repository,
        origin.revision,
        deployment.backend_folder,
    )


def converter_source(deployment: Deployment) -> Step:
    """The library's repository at the revision whose converter is used."""
    if deployment.options.library_checkout is not None:
        return _named_checkout("converter-source", deployment.converter_folder, deployment.converter.script)
    origin = deployment.converter_origin
    return fetch_git(
        "converter-source",
        Text(en="Fetch FasterTransformer's converter", zh="获取 FasterTransformer 转换脚本"),
        origin.repository,
        origin.revision,
        deployment.converter_folder,
    )


def library_source(deployment: Deployment) -> Step:
    """The library's repository with CUTLASS, to build the gemm tools from."""
    if deployment.options.library_checkout is not None:
        return _named_checkout(
            "library-source", deployment.library_folder, "CMakeLists.txt", deployment.converter.script
        )
    origin = deployment.library
    return fetch_git(
        "library-source",
        Text(en="Fetch FasterTransformer's source", zh="获取 FasterTransformer 源码"),
        origin.repository,
        origin.revision,
        deployment.library_folder,
        (CUTLASS,),
    )


def image(deployment: Deployment) -> tuple[Step, ...]:
    """Builds the image, or takes the one that the spec names, and looks whether it really holds the backend."""
    if deployment.options.prebuilt_image is not None:
        step = PullImage(
            id="image",
            title=Text(en="Take the image with FasterTransformer", zh="获取含 FasterTransformer 的镜像"),
            image=deployment.image,
            forecast=Forecast(download_mib=14_000, disk_mib=30_720),
            shared=True,
        )
        return step, _image_check(deployment)
    return _base(deployment), _built(deployment), _image_check(deployment)


def _base(deployment: Deployment) -> PullImage:
    """Triton's image by a step of its own: a build tells nothing of its pull, and knows no registry's mirror."""
    return PullImage(
        id="base-image",
        title=Text(en="Pull Triton's image", zh="拉取 Triton 镜像"),
        image=base_image(deployment),
        forecast=Forecast(download_mib=6_500, disk_mib=14_336),
        shared=True,
    )


def _built(deployment: Deployment) -> BuildImage:
    base, cores = base_image(deployment), max(1, deployment.cpu_cores or 8)
    args = {"TRITON_VERSION": deployment.release}
    if deployment.spec.own_image is not None:
        args["BASE_IMAGE"] = deployment.spec.own_image
    return BuildImage(
        id="image",
        title=Text(en="Build the image with FasterTransformer", zh="构建含 FasterTransformer 的镜像"),
        why=Text(
            en=f"No published image holds the backend; it is compiled on {base}, once.",
            zh=f"没有公开镜像自带该后端，需在 {base} 上编译一次。",
        ),
        tag=deployment.image,
        folder=deployment.backend_folder,
        dockerfile="docker/Dockerfile",
        args=args,
        needs=("backend-source", "base-image"),
        forecast=Forecast(
            seconds=900 + _COMPILE_CORE_S / cores, download_mib=3_000, disk_mib=36_864, ram_mib=_MIB_A_JOB * cores
        ),
        shared=True,
        stall_s=7200.0,
    )


def _image_check(deployment: Deployment) -> Task:
    return Task(
        id="image-check",
        title=Text(en="Check what the image holds", zh="检查镜像内容"),
        why=Text(
            en="The server loads the library that was compiled with this image, and no other.",
            zh="服务加载的是随镜像编译的库，而非其他位置的库。",
        ),
        argv=("python3", f"{TOOLS}/check_image.py", "--release", deployment.release, "--python-backend")
        if deployment.kind.ensemble
        else ("python3", f"{TOOLS}/check_image.py", "--release", deployment.release),
        env=QUIET,
        container=Container(image=deployment.image, mounts=deployment.mounts(), network="none"),
        needs=("image",),
        checks=("image",),
        forecast=Forecast(seconds=5),
        shared=True,
    )


def gemm_tools(deployment: Deployment, tool: str) -> tuple[Step, ...]:
    """Builds one gemm tool where the image has none: configure and compile only that, for the GPUs at hand."""
    source, build = deployment.library_folder, gemm_build_folder(deployment)
    sms = ",".join(map(str, deployment.sm))
    container = Container(
        image=deployment.image,
        mounts=deployment.mounts(source, write=("{home}/build",)),
        network="none",
    )
    configure = Task(
        id="library-configure",
        title=Text(en="Configure FasterTransformer's build", zh="配置 FasterTransformer 编译"),
        why=Text(
            en=f"-DSM={sms} is what the GPUs here have; the build ignores a value that it does not know in silence.",
            zh=f"-DSM={sms} 取自本机 GPU；编译脚本会静默忽略它不认识的值。",
        ),
        argv=("cmake", "-S", source, "-B", build, f"-DSM={sms}", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_PYT=OFF",
              "-DBUILD_MULTI_GPU=ON", "-DGIT_AUTOCLONE_CUTLASS=OFF", "-DPYTHON_PATH=/usr/bin/python3"),
        env=QUIET,
        container=container,
        needs=("image-check", "library-source"),
        outputs=(f"{build}/CMakeCache.txt",),
        forecast=Forecast(seconds=30),
        shared=True,
    )  # fmt: skip
    jobs = _jobs(deployment)
    compile_ = Task(
        id="library-build",
        title=Text(en=f"Build {tool}", zh=f"编译 {tool}"),
        why=Text(
            en="This image keeps no gemm tools. Only this one is built: the rest of the library reaches no server.",
            zh="该镜像不含 gemm 工具。只编译这一个，库的其余部分对服务没有作用。",
        ),
        argv=("cmake", "--build", build, "--target", tool, "-j", str(jobs)),
        env=QUIET,
        container=container,
        needs=("library-configure",),
        outputs=(f"{build}/bin/{tool}",),
        progress="fastertransformer",
        forecast=Forecast(seconds=300 + 6_000 / jobs, disk_mib=4_096, ram_mib=_MIB_A_JOB * jobs),
        shared=True,
        stall_s=3600.0,
    )
    return configure, compile_


def gemm_build_folder(deployment: Deployment) -> str:
    """Where the gemm tools are built, one folder for each revision, image and set of SMs."""
    sms = "-".join(map(str, deployment.sm))
    return f"{{home}}/build/{deployment.library.name}-{deployment.release}-sm{sms}"


def packages_folder(deployment: Deployment) -> str:
    """Where the packages lie that the converter needs and the image lacks."""
    return _python(deployment, deployment.converter.packages)


def server_packages_folder(deployment: Deployment) -> str:
    """Where the packages lie that the server's Python models need and the image lacks."""
    return _python(deployment, deployment.kind.packages)


def packages(deployment: Deployment) -> tuple[Step, ...]:
    """Installs what the converter needs and the image lacks, beside the image instead of into a passing container."""
    if not deployment.converter.packages:
        return ()
    title = Text(en="Install what the converter needs", zh="安装转换脚本的依赖")
    forecast = Forecast(seconds=60, download_mib=80, disk_mib=400)
    return (_installed(deployment, "converter-packages", title, deployment.converter.packages, forecast),)


def server_packages(deployment: Deployment) -> tuple[Step, ...]:
    """Installs what the server's Python models need and the image lacks, in the same way."""
    if not deployment.kind.packages:
        return ()
    title = Text(en="Install what the server's Python models need", zh="安装服务端 Python 模型的依赖")
    forecast = Forecast(seconds=10, download_mib=2, disk_mib=8)
    return (_installed(deployment, "server-packages", title, deployment.kind.packages, forecast),)


def _installed(deployment: Deployment, step_id: str, title: Text, names: tuple[str, ...], forecast: Forecast) -> Task:
    folder = _python(deployment, names)
    # Without --upgrade pip leaves a package alone that is in the folder already, half of one that was stopped as well.
    options = ("--disable-pip-version-check", "--no-input", "--upgrade", "--target", folder)
    return Task(
        id=step_id,
        title=title,
        argv=("python3", "-m", "pip", "install", *options, *names),
        env=QUIET,
        container=Container(image=deployment.image, mounts=deployment.mounts(write=("{home}/python",))),
        needs=("image-check",),
        outputs=(folder,),
        forecast=forecast,
        shared=True,
    )


def _python(deployment: Deployment, names: tuple[str, ...]) -> str:
    return f"{{home}}/python/{deployment.release}-" + "-".join(name.replace("==", "") for name in names)


def _named_checkout(step_id: str, folder: str, *files: str) -> Task:
    return Task(
        id=step_id,
        title=Text(en="Check the named checkout", zh="检查指定的源码目录"),
        argv=("{python}", f"{TOOLS}/check_files.py", folder, *files),
        forecast=Forecast(seconds=1),
    )


def _jobs(deployment: Deployment) -> int:
    if deployment.options.jobs is not None:
        return deployment.options.jobs
    cores = max(1, deployment.cpu_cores or 4)
    return cores if deployment.ram_mib is None else max(1, min(cores, deployment.ram_mib // _MIB_A_JOB))
