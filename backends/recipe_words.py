"""What recipes say alike: what stands against a container, a hub or a length, what is unusual, the first question.

Pure. `engine` is the engine's name as a sentence begins with it.
"""

from __future__ import annotations

from backends.spec import Chat, Docker, Hardware, Message, Model, Sampling, Spec
from backends.text import Text


class Untold(Text):
    """A reason that is no refusal: what would decide it is not known, and a person can say it."""


def untold_image(image: str | None, ask: Text) -> Untold:
    """That the tag of a person's own image does not say what it holds. `ask` is what to say instead."""
    return Untold(
        en=f"The tag of {image} does not tell what it holds. {ask.en}",
        zh=f"从标签无法得知 {image} 的内容，{ask.zh}",
    )


def against_containers(spec: Spec, hardware: Hardware, engine: Text) -> tuple[Text, ...]:
    """What of the target and of Docker stands against an engine that runs in a container; empty: nothing."""
    reasons: list[Text] = []
    if spec.target != "docker":
        reasons.append(
            Text(
                en=f"{engine.en} runs in a container. Choose the Docker target.",
                zh=f"{engine.zh}在容器中运行，请选择 Docker 目标。",
            )
        )
    docker = hardware.docker
    if docker is not None and not docker.reachable:
        reasons.append(docker.why or Text(en="Docker is not reachable.", zh="无法连接 Docker。"))
    return (*reasons, *without_gpus(docker))


def no_gpu(hardware: Hardware) -> tuple[Text, ...]:
    """That there is no GPU for an engine that needs one, and what hides them, where that is known."""
    hidden = None if hardware.gpus else hardware.unknown.get("gpus")
    needed = Text(
        en="It needs an NVIDIA GPU, and there is none here or none was chosen.",
        zh="需要 NVIDIA GPU，而本机没有或未选择。",
    )
    return (needed,) if hidden is None else (needed, hidden)


def without_gpus(docker: Docker | None) -> tuple[Text, ...]:
    """The reason where Docker answers and shows its containers no GPU."""
    if docker is None or not docker.reachable or docker.nvidia_runtime is not False or docker.cdi is True:
        return ()
    return (
        Text(
            en="Docker has no NVIDIA runtime, so containers see no GPU. Install nvidia-container-toolkit.",
            zh="Docker 没有 NVIDIA 运行时，容器无法使用 GPU，请安装 nvidia-container-toolkit。",
        ),
    )


def against_hub(model: Model, engine: Text) -> tuple[Text, ...]:
    """The reason where the model lies on a hub that no recipe downloads from yet."""
    if model.source.kind != "modelscope":
        return ()
    return (
        Text(
            en=f"{engine.en} does not download from ModelScope yet. Name a local folder instead.",
            zh=f"{engine.zh}暂不支持从魔搭下载，请改用本地目录。",
        ),
    )


def against_length(spec: Spec, model: Model) -> tuple[Text, ...]:
    """The reason where more context is asked for than the model has."""
    asked = spec.limits.context
    if asked is None or model.context is None or asked <= model.context:
        return ()
    return (
        Text(
            en=f"The model's context is {model.context:,} tokens; {asked:,} were asked for.",
            zh=f"模型上下文为 {model.context:,} 个 token，要求了 {asked:,} 个。",
        ),
    )


def unusual(spec: Spec) -> tuple[Text, ...]:
    """What of the spec a person should know of, whatever the engine."""
    notes: list[Text] = []
    if spec.bind != "127.0.0.1":
        notes.append(
            Text(
                en="The server will listen on every address of this machine, without a login.",
                zh="服务将监听本机所有地址，且没有登录保护。",
            )
        )
    if spec.trust_remote_code:
        notes.append(
            Text(en="Code that comes with the model will run, as you asked.", zh="按您的要求，将运行模型自带的代码。")
        )
    return tuple(notes)


def first_question(spoken: bool, most: int) -> Chat:
    """What a server is asked before it counts as running. `spoken`: it takes conversations; `most`: tokens."""
    sampling = Sampling(max_tokens=min(32, most), temperature=0.0)
    if spoken:
        return Chat(messages=(Message(role="user", content="Hello! Who are you?"),), sampling=sampling)
    return Chat(prompt="Hello, my name is", sampling=sampling)
