"""Kernels chosen by measuring: gpt_gemm and t5_gemm with the dimensions of the model at hand. Pure.

The tools print their usage and end well when an argument is wrong, so a script of ours runs them and looks whether
gemm_config.in was really written. The server reads that file from its working folder and nowhere else.
"""

from __future__ import annotations

import hashlib

from backends.fastertransformer.build import QUIET, gemm_build_folder
from backends.fastertransformer.deployment import TOOLS, Deployment
from backends.steps import Container, Forecast, Step, Task
from backends.text import Text

_TYPES = {"fp32": "0", "fp16": "1", "bf16": "2"}


def tool_of(deployment: Deployment) -> str:
    """The gemm tool of the family; LLaMA and GPT-J have none of their own and share GPT's."""
    return "t5_gemm" if deployment.family == "t5" else "gpt_gemm"


def arguments(deployment: Deployment) -> tuple[str, ...]:
    """The tool's arguments in its own order: sizes of requests, of the model, data type, ranks."""
    model, options = deployment.model, deployment.options
    request = (options.autotune_batch, options.autotune_beam, options.autotune_input)
    ranks = deployment.split.tensor
    kind = _TYPES[deployment.data_type]
    if deployment.family == "t5":
        side = (model.hidden_size, model.heads, model.head_size, model.intermediate_size)
        words = [*map(str, (*request, *side, *side, model.vocab_size)), kind, str(ranks)]
        if deployment.profile.gemm_half:  # 5.0: is_fp16_compute_type, is_append; it takes `ranks` only with both
            words.append("0")  # T5TritonModel.cc sums in fp32, whatever the type of the values
        return (*words, "0")
    shape = (model.heads, model.head_size, model.intermediate_size, model.vocab_size)
    return (*map(str, (*request, *shape)), kind, str(ranks))


def measuring(deployment: Deployment) -> tuple[Step, ...]:
    """Runs the tool on one of the GPUs, or checks the file that the spec names, and puts it where the server looks."""
    if deployment.options.gemm_config is not None:
        return (_place(deployment, deployment.options.gemm_config, ()),)
    if not deployment.autotune:
        return ()
    folder = _folder(deployment)
    return _measure(deployment, folder), _place(deployment, f"{folder}/gemm_config.in", ("autotune",))


def _measure(deployment: Deployment, folder: str) -> Task:
    tool, words = tool_of(deployment), arguments(deployment)
    built = deployment.builds_tools
    binary = f"{gemm_build_folder(deployment)}/bin/{tool}" if built else f"{deployment.profile.gemm_folder}/{tool}"
    read = (gemm_build_folder(deployment),) if built else ()
    return Task(
        id="autotune",
        title=Text(en="Measure which kernels are fastest", zh="实测并选择最快的内核"),
        why=Text(
            en="The entries are used only for requests of the same batch and length, so both are the model's own here.",
            zh="只有批大小与长度相同的请求才会用到测得的条目，因此均按此模型填写。",
        ),
        argv=("python3", f"{TOOLS}/run_gemm.py", folder, binary, *words),
        env=QUIET,
        container=Container(
            image=deployment.image,
            mounts=deployment.mounts(*read, write=("{home}/gemm",)),
            gpus=deployment.split.gpus[:1],
            shm_mib=deployment.options.shm_mib,
            network="none",
        ),
        needs=("library-build",) if built else ("image-check",),
        inputs={"sm": "-".join(map(str, deployment.sm))},
        outputs=(f"{folder}/gemm_config.in",),
        progress="fastertransformer",
        forecast=Forecast(seconds=300),
        shared=True,
        stall_s=3600.0,
    )


def _place(deployment: Deployment, source: str, needs: tuple[str, ...]) -> Task:
    return Task(
        id="gemm-config",
        title=Text(en="Put gemm_config.in where the server looks", zh="将 gemm_config.in 放到服务读取的位置"),
        argv=("{python}", f"{TOOLS}/place_gemm.py", source, deployment.server_folder),
        needs=needs,
        checks=needs,
        outputs=(f"{deployment.server_folder}/gemm_config.in",),
        forecast=Forecast(seconds=1),
    )


def _folder(deployment: Deployment) -> str:
    """One folder for each tool, shape and kind of GPU."""
    sms = "-".join(map(str, deployment.sm))
    words = " ".join((tool_of(deployment), *arguments(deployment)))
    return f"{{home}}/gemm/{deployment.release}-sm{sms}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
