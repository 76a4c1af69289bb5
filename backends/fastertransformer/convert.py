"""Weights into FasterTransformer's files, and the check that all of them are there and whole. Pure.

The converters' own exit status says little: a T5 that cannot be split and a LLaMA with a tied head end well, with files
missing. So every conversion, and every folder that a person names instead, is counted and measured.
"""

from __future__ import annotations

from backends.fastertransformer.build import OFFLINE, QUIET, packages_folder
from backends.fastertransformer.deployment import TOOLS, Deployment
from backends.steps import Container, Forecast, Step, Task
from backends.text import Text

_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}


def conversion(deployment: Deployment) -> tuple[Step, ...]:
    """Converts, unless the spec names a converted folder."""
    if deployment.options.converted is not None:
        return ()
    joined = _joined(deployment)
    return (*joined, _convert(deployment, joined[-1].id if joined else None))


def check(deployment: Deployment) -> Task:
    """Counts and measures the files, and compares config.ini with the model."""
    named = deployment.options.converted is not None
    return Task(
        id="weights-check",
        title=Text(en="Check the converted weights", zh="检查转换后的权重"),
        why=Text(
            en="The server starts with missing or short files and answers nonsense, so they are counted and measured.",
            zh="文件缺失或不完整时服务照样启动并输出乱码，因此在此逐个核对数量与大小。",
        ),
        argv=("{python}", f"{TOOLS}/check_weights.py", deployment.checkpoint, *_shape(deployment)),
        needs=() if named else ("convert",),
        checks=() if named else ("convert",),
        forecast=Forecast(seconds=2),
    )


def _convert(deployment: Deployment, joined: str | None) -> Task:
    """The converter, in a container without network; the model is mounted read-only."""
    script = f"{deployment.converter_folder}/{deployment.converter.script}"
    paths = [f"{TOOLS}/stubs", *([packages_folder(deployment)] if deployment.converter.packages else [])]
    read = [deployment.converter_folder, _input(deployment)]
    if deployment.converter.packages:
        read.append(packages_folder(deployment))
    parameters_mib = (deployment.model.parameters or 0) // 2**20
    size_mib = parameters_mib * _BYTES[deployment.weight_type]
    needs = ["image-check", deployment.converter_step]
    needs += ["converter-packages"] if deployment.converter.packages else []
    needs += ["model"] if deployment.model.source.kind == "huggingface" else []
    needs += [joined] if joined else []
    return Task(
        id="convert",
        title=Text(en="Convert the weights", zh="转换权重"),
        argv=("python3", "-u", script, *_arguments(deployment)),
        env=QUIET | OFFLINE | {"PYTHONPATH": ":".join(paths)},
        container=Container(
            image=deployment.image, mounts=deployment.mounts(*read, write=("{home}/converted",)), network="none"
        ),
        needs=tuple(needs),
        inputs=_weights(deployment),
        outputs=(f"{deployment.checkpoint}/{_last_file(deployment)}",),
        progress="fastertransformer",
        forecast=Forecast(
            seconds=60 + parameters_mib / 40,
            disk_mib=size_mib or None,
            ram_mib=parameters_mib * 4 + 2048 if parameters_mib else None,
        ),
        shared=True,
    )


def _arguments(deployment: Deployment) -> tuple[str, ...]:
    ranks, target = str(deployment.split.tensor), deployment.converted
    if deployment.family == "llama":
        return (
            f"-saved_dir={target}",
            f"-in_file={deployment.model_folder}",
            f"-infer_gpu_num={ranks}",
            f"-weight_data_type={deployment.weight_type}",
            "-model_name=llama",
        )
    if deployment.family == "t5":
        inputs = ("-i", f"{_input(deployment)}/", "-o", f"{target}/", "-i_g", ranks)
        return (*inputs, "-weight_data_type", deployment.weight_type)
    # Both converters of GPT-J put a file's name behind the folder as it is given: the slash at its end is needed.
    common = ("--output-dir", target, "--ckpt-dir", f"{_input(deployment)}/", "--n-inference-gpus", ranks)
    slim = deployment.options.slim_checkpoint is not None
    return common if slim else (*common, "--n-layers", str(deployment.model.layers))


def _input(deployment: Deployment) -> str:
    """The folder that the converter reads."""
    if deployment.family == "gptj" and deployment.options.slim_checkpoint is not None:
        return deployment.options.slim_checkpoint.rstrip("/")
    return f"{{home}}/converted/{deployment.slug}-one-file" if _needs_joining(deployment) else deployment.model_folder


def _needs_joining(deployment: Deployment) -> bool:
    if deployment.options.slim_checkpoint is not None:
        return False
    if deployment.family == "gptj":
        return deployment.model.weight_files != ("pytorch_model.bin",)
    return deployment.family == "t5" and deployment.model.weight_format == "safetensors"


def _joined(deployment: Deployment) -> tuple[Step, ...]:
    """The converters of 22.03 are older than safetensors; GPT-J's reads one pytorch_model.bin and no shards."""
    if not _needs_joining(deployment):
        return ()
    size_mib = deployment.model.weights_mib
    downloaded = ("model",) if deployment.model.source.kind == "huggingface" else ()
    return (
        Task(
            id="one-file",
            title=Text(en="Write the weights as one file", zh="将权重合并为一个文件"),
            why=Text(
                en="The converter reads pytorch_model.bin; it is older than safetensors.",
                zh="转换脚本只读取 pytorch_model.bin，早于 safetensors 格式。",
            ),
            argv=("python3", f"{TOOLS}/one_file.py", deployment.model_folder, _input(deployment)),
            env=QUIET,
            container=Container(
                image=deployment.image,
                mounts=deployment.mounts(deployment.model_folder, write=("{home}/converted",)),
                network="none",
            ),
            needs=("image-check", *downloaded),
            inputs=_weights(deployment),
            outputs=(f"{_input(deployment)}/pytorch_model.bin",),
            progress="fastertransformer",
            forecast=Forecast(seconds=60, disk_mib=size_mib, ram_mib=size_mib),
            shared=True,
        ),
    )


def _weights(deployment: Deployment) -> dict[str, str]:
    """What tells one state of a model's folder from another, so that other weights are converted anew."""
    model = deployment.model
    return {"weights": f"{model.parameters} {model.dtype} {model.weights_mib} {len(model.weight_files)}"}


def _last_file(deployment: Deployment) -> str:
    """A file that the converter writes late, so that an interrupted conversion is not taken for a finished one."""
    if deployment.family == "t5":
        layer, rank = (deployment.model.layers or 1) - 1, deployment.split.tensor - 1
        return f"decoder.block.{layer}.layer.0.SelfAttention.qkv.weight.{rank}.bin"
    return "model.lm_head.weight.bin" if deployment.family == "llama" else "model.lm_head.bias.bin"


def _shape(deployment: Deployment) -> tuple[str, ...]:
    """What the check must know, as arguments of check_weights.py."""
    model = deployment.model
    sizes: dict[str, object] = {
        "--family": deployment.family,
        "--tensor": deployment.split.tensor,
        "--layers": model.layers,
        "--hidden": model.hidden_size,
        "--heads": model.heads,
        "--head-size": model.head_size,
        "--inner": model.intermediate_size,
        "--vocab": model.vocab_size,
    }
    if deployment.family == "t5":
        sizes["--encoder-layers"] = model.facts.get("encoder_layers", model.layers)
    sizes["--type"] = "any" if deployment.options.converted is not None else deployment.weight_type
    told = tuple(f"{name}={value}" for name, value in sizes.items() if value is not None)
    # FasterTransformer 5.0 takes GPT-J's shape from config.pbtxt, and not every converter of it writes a config.ini.
    return (*told, "--config-optional") if deployment.family == "gptj" else told
