"""A step of the Docker target as the `docker` commands that a person would type. Pure; places stay as they are.

`{person}` stands for uid:gid of who runs the script.
"""

from __future__ import annotations

from backends.sources import declared
from backends.steps import BuildImage, PullImage, Service, Task


def pull(step: PullImage) -> tuple[tuple[str, ...], ...]:
    """The commands that pull an image, from the mirror where the step names one."""
    if step.mirror is None:
        return (("docker", "pull", step.image),)
    return (("docker", "pull", step.mirror), ("docker", "tag", step.mirror, step.image))


def build(step: BuildImage) -> tuple[str, ...]:
    """The command that builds an image; where mirrors are set it is given the Dockerfile that takes them."""
    arguments = [f"--build-arg={name}={value}" for name, value in (step.sources | step.args).items()]
    file = "-" if declared(step) else f"{step.folder}/{step.dockerfile}"
    return ("docker", "build", f"--tag={step.tag}", f"--file={file}", *arguments, step.folder)


def dockerfile(step: BuildImage) -> tuple[str, ...] | None:
    """The command that puts out a Dockerfile that takes the mirrors; None where there are none."""
    lines = "\\n".join(f"ARG {name}" for name in declared(step))
    program = f'{{print}} toupper($1)=="FROM"{{print "{lines}"}}'
    return ("awk", program, f"{step.folder}/{step.dockerfile}") if lines else None


def run(step: Task | Service) -> tuple[str, ...]:
    """The command that runs a step's container. Raises ValueError for a step that has none."""
    wish = step.container
    if wish is None:
        raise ValueError(f"{step.id} runs on the host")
    options = [f"--network={wish.network}", "--security-opt=no-new-privileges"]
    if isinstance(step, Task):
        options.insert(0, "--init")
    elif wish.network == "bridge":
        options += [f"--publish={{bind}}:{{port.{name}}}:{{port.{name}}}" for name in ("http", "grpc", "metrics")]
    if wish.as_person:
        options += ["--user={person}", "--env=HOME=/tmp", "--env=USER=slipway", "--env=LOGNAME=slipway"]
    if wish.gpus:
        indices = "all" if wish.gpus == "all" else f'"device={",".join(map(str, wish.gpus))}"'
        options.append(f"--gpus={indices}")
    if wish.shm_mib:
        options.append(f"--shm-size={wish.shm_mib}m")
    options += [f"--ulimit={name}={value}" for name, value in wish.ulimits.items()]
    for one in wish.mounts:
        options.append(f"--mount=type=bind,source={one.source},target={one.path}{',readonly' * one.read_only}")
    options += [f"--env={name}={value}" for name, value in (step.sources | step.env).items()]
    options += [f"--env={name}" for name in getattr(step, "pass_env", ())]
    if step.cwd:
        options.append(f"--workdir={step.cwd}")
    return ("docker", "run", "--rm", *options, wish.image, *step.argv)
