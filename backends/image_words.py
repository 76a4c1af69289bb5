"""The sentences of a recommendation, each in both languages. They decide nothing."""

from __future__ import annotations

from collections.abc import Sequence

from backends.gpus import Card
from backends.text import Text
from backends.verdicts import Verdict

DRIVER_NEEDED = Text(
    en="driver_version: GPUs are given, but the driver's version is not known.",
    zh="driver_version：给出了 GPU，但驱动版本未知。",
)
DRIVER_HINT = Text(
    en="nvidia-smi --query-gpu=driver_version --format=csv shows it. Without a driver, install one first.",
    zh="可用 nvidia-smi --query-gpu=driver_version --format=csv 查看；若未安装驱动，请先安装。",
)
EMBEDDED = Text(
    en="The embedded engine needs no image; this tag is for running it in Docker.",
    zh="内嵌引擎无需镜像；此标签用于在 Docker 中运行。",
)
MIG = Text(
    en="MIG is on: a server sees one instance of a GPU, and tensor parallelism over instances is not possible.",
    zh="MIG 已开启：一个服务只能使用 GPU 的一个实例，无法跨实例做张量并行。",
)
ARM = Text(
    en="This machine is arm64. Which of these tags are published for arm64 was not checked.",
    zh="本机为 arm64，尚未核实哪些标签发布了 arm64 版本。",
)


def no_tag(engine: str) -> Text:
    return Text(en=f"There is no image for {engine} on this machine.", zh=f"本机没有可用于 {engine} 的镜像。")


def about(tag: str, reason: Text) -> Text:
    """A reason with the tag that it is about in front."""
    return Text(en=f"{tag}: {reason.en}", zh=f"{tag}：{reason.zh}")


def newest_native(tag: str, driver: str) -> Text:
    return Text(
        en=f"{tag} is the newest that driver {driver} runs natively.",
        zh=f"{tag} 是驱动 {driver} 可原生运行的最新镜像。",
    )


def both_ways(tag: str, branch: int, passed: str | None) -> Text:
    """`passed`: the native tag that is much older."""
    return Text(
        en=f"{tag} is the newest that runs both by forward compatibility (R{branch} is on its list) and by "
        f"minor-version compatibility.{_passed_en(passed)}",
        zh=f"{tag} 是同时符合前向兼容（R{branch} 在其列表中）与次要版本兼容的最新镜像。{_passed_zh(passed)}",
    )


def forward_only(tag: str, branch: int, passed: str | None, steady: str | None) -> Text:
    """`steady`: an older tag that runs in two ways, the cautious choice."""
    en = f"{tag} is the newest that runs by forward compatibility (R{branch} is on its list).{_passed_en(passed)}"
    zh = f"{tag} 是符合前向兼容的最新镜像（R{branch} 在其列表中）。{_passed_zh(passed)}"
    if steady is None:
        return Text(en=en, zh=zh)
    return Text(
        en=f"{en} The cautious choice is {steady}, which minor-version compatibility covers too.",
        zh=f"{zh}更稳妥的选择是 {steady}，它同时符合次要版本兼容。",
    )


def minor_only(tag: str, driver: str) -> Text:
    return Text(
        en=f"Nothing runs natively on driver {driver}. {tag} runs by minor-version compatibility, with limits, and is "
        "the smallest step up.",
        zh=f"驱动 {driver} 无法原生运行任何镜像。{tag} 可按次要版本兼容运行（有限制），且跨度最小。",
    )


def _passed_en(tag: str | None) -> str:
    return "" if tag is None else f" {tag} is native, but more than a year and a half older."


def _passed_zh(tag: str | None) -> str:
    return "" if tag is None else f"{tag} 为原生，但旧了一年半以上。"


def on_cpu(tag: str) -> Text:
    return Text(
        en=f"The embedded engine runs on this CPU without an image. In Docker, {tag} runs on the CPU.",
        zh=f"内嵌引擎可直接在本机 CPU 上运行，无需镜像。在 Docker 中可用 {tag}，同样运行于 CPU。",
    )


def needs_gpu(engine: str) -> Text:
    return Text(
        en=f"{engine} needs an NVIDIA GPU, and this machine has none that can be used.",
        zh=f"{engine} 需要 NVIDIA GPU，而本机没有可用的 GPU。",
    )


def upgrade(branch: int, tag: str, last: bool) -> Text:
    """`last`: no newer driver supports these GPUs."""
    en, zh = (", the last for these GPUs,", "（支持这些 GPU 的最后一个分支）") if last else ("", "")
    return Text(en=f"Driver {branch}{en} would make {tag} native.", zh=f"换用驱动 {branch}{zh}后，{tag} 即为原生。")


def flow_runs(tag: str, verdict: Verdict, why: Text) -> Text:
    en = {Verdict.NATIVE: "natively", Verdict.FORWARD: "by forward compatibility"}.get(
        verdict, "by minor-version compatibility, with limits"
    )
    zh = {Verdict.NATIVE: "可原生运行", Verdict.FORWARD: "可按前向兼容运行"}.get(
        verdict, "可按次要版本兼容运行（有限制）"
    )
    return Text(en=f"{tag} runs {en}: {why.en}.", zh=f"{tag} {zh}：{why.zh}。")


def build_for(cards: Sequence[Card]) -> Text:
    sms = ";".join(str(sm) for sm in sorted({card.sm for card in cards}))
    return Text(en=f"Build it with -DSM={sms}.", zh=f"以 -DSM={sms} 编译。")


def other_flow(family: str | None) -> tuple[Text, ...]:
    """Without a model, the LLaMA way is shown; the other one is named."""
    if family is not None:
        return ()
    return (Text(en="GPT-J and T5 are built in 22.03-py3.", zh="GPT-J 与 T5 在 22.03-py3 中构建。"),)


def no_flow(family: str, families: Sequence[str]) -> Text:
    there = ", ".join(families)
    return Text(
        en=f"FasterTransformer is built here for {there}; this model is {family}.",
        zh=f"此处的 FasterTransformer 仅支持 {there}；该模型为 {family}。",
    )


def build_lacks(card: Card) -> Text:
    return Text(
        en=f"The FasterTransformer for this model has no kernels for SM {card.capability} ({card.name}).",
        zh=f"该模型对应的 FasterTransformer 没有 SM {card.capability}（{card.name}）的内核。",
    )


def untested(card: Card, words: Text) -> Text:
    return Text(
        en=f"{card.name} (SM {card.capability}) is likely to run, but untested: {words.en}.",
        zh=f"{card.name}（SM {card.capability}）很可能可以运行，但未经测试：{words.zh}。",
    )


def old_python(tag: str, python: str, needed: str, other: str | None) -> Text:
    """`other`: the tag to take instead, where one runs."""
    en = f"{tag} has Python {python}; to run the transformers engine inside an image it takes {needed} or later"
    zh = f"{tag} 内为 Python {python}；在镜像内运行 transformers 引擎需要 {needed} 及以上"
    if other is None:
        return Text(en=f"{en}.", zh=f"{zh}。")
    return Text(en=f"{en}: take {other} for that.", zh=f"{zh}，此时请选 {other}。")


def tensorrt_until(last: str) -> Text:
    return Text(
        en=f"For models of the TensorRT backend take {last}-py3: it is the last whose TensorRT serves these GPUs.",
        zh=f"若使用 TensorRT 后端的模型，请选 {last}-py3：这是其 TensorRT 仍支持这些 GPU 的最后版本。",
    )


def inferred(tag: str) -> Text:
    return Text(
        en=f"Facts of {tag} are partly inferred; the image is looked into after the pull.",
        zh=f"{tag} 的部分信息为推断，拉取后会查看镜像内部核对。",
    )


def mixed(cards: Sequence[Card]) -> Text:
    names = ", ".join(f"{card.name} (SM {card.capability})" for card in cards)
    return Text(
        en=f"The GPUs differ: {names}. Verdicts are for all of them together.",
        zh=f"GPU 型号不一：{names}。结论针对全部 GPU 一起使用的情形。",
    )


def alone(card: Card, tag: str) -> Text:
    return Text(
        en=f"On {card.name} alone, {tag} would be the newest native one.",
        zh=f"若只用 {card.name}，原生可用的最新镜像为 {tag}。",
    )


def lost(name: str, why: Text) -> Text:
    return Text(en=f"{name} is left out: {why.en}", zh=f"{name} 未计入：{why.zh}")


def class_not_known(card: Card) -> Text:
    return Text(
        en=f"Whether {card.name} is a data-centre GPU is not known; it is taken as none.",
        zh=f"{card.name} 是否为数据中心 GPU 未知，按非数据中心 GPU 处理。",
    )
