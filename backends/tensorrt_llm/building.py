"""What all engine builds share: room for the engine, what is wanted of it, a look at what came out. Pure."""

from __future__ import annotations

from backends.steps import File, Forecast, Step, Task, WriteFiles
from backends.tensorrt_llm.deployment import OFFLINE, QUIET, TOOLS, WANTED, Deployment
from backends.text import Text

_STORE = ("{python}", "-m", "backends.tensorrt_llm.engine_store")
OURS = {"PYTHONPATH": "{assets}/.."}


def model_needs(deployment: Deployment) -> tuple[str, ...]:
    """The step that brings the model, where there is one."""
    return ("model",) if deployment.model.source.kind == "huggingface" else ()


def before(deployment: Deployment, converted: bool) -> tuple[Step, ...]:
    """Says what engine is wanted, what is really there to build it, and whether one lies there that does not serve.

    `converted`: its weights are converted first.
    """
    weights = ("--converted", deployment.converted_folder) if converted else ()
    return (
        _wanted(deployment),
        _inside(deployment),
        Task(
            id="engine-look",
            title=Text(en="Look for an engine that fits", zh="查找可用的引擎"),
            why=Text(
                en="Engines are kept by what they are made of; one that fits is used again at once.",
                zh="引擎按内容保存，符合要求的会直接复用。",
            ),
            argv=(*_STORE, "look", deployment.engine_folder, *_told(deployment), *weights),
            env=OURS,
            needs=("image-facts", *model_needs(deployment)),
            outputs=(deployment.engine_folder,),
            forecast=Forecast(seconds=2),
        ),
    )


def after(deployment: Deployment) -> Task:
    """Checks the engine against what is wanted, and stamps it."""
    return _accept(deployment, "engine")


def given(deployment: Deployment) -> tuple[Step, ...]:
    """Checks an engine that a person named, in place of building one."""
    return _wanted(deployment), _inside(deployment), _accept(deployment, "image-facts")


def built(
    deployment: Deployment,
    argv: tuple[str, ...],
    needs: tuple[str, ...],
    read: tuple[str, ...],
    why: Text | None = None,
) -> Task:
    """The step that builds the engine: `argv` in the container, with the GPUs that it is built for.

    `read`: the folders that it reads.
    """
    want, folder = deployment.want, deployment.engine_folder
    choice = deployment.choice
    return Task(
        id="engine",
        title=Text(en="Build the engine", zh="构建引擎"),
        why=why,
        argv=argv,
        cwd=folder,
        env=QUIET | OFFLINE,
        container=deployment.container(*read, write=(folder,), gpus=True),
        inputs={"gpu": choice.gpu_name, "tensorrt": choice.release.tensorrt, "weights": weights_of(deployment)},
        needs=("image-check", *needs),  # not engine-look, which is of one run: the engine serves all of them
        outputs=(f"{folder}/config.json",),
        forecast=Forecast(
            seconds=want.cost.seconds,
            disk_mib=want.cost.disk_mib,
            ram_mib=None if want.cost.disk_mib is None else 3 * want.cost.disk_mib + 8_192,
        ),
        shared=True,
        progress="tensorrt_llm",
        stall_s=3600.0,
    )


def weights_of(deployment: Deployment) -> str:
    """What is known of the weights when the plan is made: size and count. Their files are looked at when it runs."""
    model = deployment.model
    return f"{model.weights_mib or 0} MiB, {model.parameters or 0} parameters, {model.dtype or ''}"


def _wanted(deployment: Deployment) -> WriteFiles:
    text = deployment.want.model_dump_json(indent=2, exclude_none=True) + "\n"
    return WriteFiles(
        id="engine-wanted",
        title=Text(en="Write down what the engine must be", zh="写下对引擎的要求"),
        folder=WANTED,
        files=(File(path="engine.json", text=text),),
        outputs=(f"{WANTED}/engine.json",),
    )


def _inside(deployment: Deployment) -> Task:
    return Task(
        id="image-facts",
        title=Text(en="Write down what engines are built with here", zh="记录构建引擎的环境"),
        why=Text(
            en="TensorRT with all four parts, the image's digest and the GPU go into the engine's stamp. An image that "
            "holds something else than the plan counts on is told before anything long begins.",
            zh="TensorRT 的四段版本号、镜像摘要与 GPU 会写入引擎标记。镜像内容与方案不符时，会在耗时步骤前提示。",
        ),
        argv=("python3", f"{TOOLS}/look_inside.py", f"{WANTED}/inside.json"),
        env=QUIET | OFFLINE,
        container=deployment.container(write=(WANTED,), gpus=True),
        needs=("image-check", "engine-wanted"),
        outputs=(f"{WANTED}/inside.json",),
        forecast=Forecast(seconds=5),
    )


def _accept(deployment: Deployment, after_step: str) -> Task:
    return Task(
        id="engine-check",
        title=Text(en="Check the engine", zh="检查引擎"),
        why=Text(
            en="Version, GPU, split, lengths and weights must be those that are wanted, with one file for each rank.",
            zh="版本、GPU、切分、长度与权重必须与要求一致，且每个进程都有引擎文件。",
        ),
        argv=(*_STORE, "accept", deployment.engine_folder, *_told(deployment)),
        env=OURS,
        needs=(after_step, *model_needs(deployment)),
        forecast=Forecast(seconds=5),
    )


def _told(deployment: Deployment) -> tuple[str, ...]:
    return ("--want", f"{WANTED}/engine.json", "--inside", f"{WANTED}/inside.json",
            "--model", deployment.model_folder)  # fmt: skip
