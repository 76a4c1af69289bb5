"""The sentences of a verdict, each in both languages. They decide nothing."""

from __future__ import annotations

from backends.gpus import Card
from backends.releases import Image
from backends.text import Text

RUNS_ON_CPU = Text(en="It runs on the CPU; no GPU and no driver are needed.", zh="可在 CPU 上运行，无需 GPU 与驱动。")
NEEDS_GPU = Text(
    en="It needs an NVIDIA GPU, and this machine has none that can be used.",
    zh="需要 NVIDIA GPU，而本机没有可用的 GPU。",
)
DATA_CENTRE_ONLY = Text(en="Forward compatibility is for data-centre GPUs only.", zh="前向兼容仅适用于数据中心 GPU。")
INFERRED = Text(
    en="Its CUDA version or tag is inferred, not read on a page of this release.",
    zh="其 CUDA 版本或标签为推断，并非取自该版本的页面。",
)


def engine_says(card: Card, words: Text) -> Text:
    """What an engine's data says of a card."""
    return Text(
        en=f"{card.name} is SM {card.capability}: {words.en}.",
        zh=f"{card.name} 为 SM {card.capability}：{words.zh}。",
    )


def jetson(card: Card) -> Text:
    return Text(
        en=f"{card.name} is a Jetson board: it needs the -py3-igpu tags that fit its JetPack.",
        zh=f"{card.name} 属于 Jetson 开发板，需使用与其 JetPack 匹配的 -py3-igpu 镜像。",
    )


def too_old(card: Card, image: Image) -> Text:
    need = f"{image.min_sm // 10}.{image.min_sm % 10}"
    return Text(
        en=f"{image.release} serves SM {need} and later; {card.name} is SM {card.capability}.",
        zh=f"{image.release} 支持 SM {need} 及以上；{card.name} 为 SM {card.capability}。",
    )


def needs_cuda(card: Card, image: Image, cuda: str) -> Text:
    return Text(
        en=f"{card.name} (SM {card.capability}) needs CUDA {cuda}; {image.release} has CUDA {image.cuda_release}.",
        zh=f"{card.name}（SM {card.capability}）需要 CUDA {cuda}；{image.release} 为 CUDA {image.cuda_release}。",
    )


def driver_too_old(card: Card, driver: str, first: int) -> Text:
    return Text(
        en=f"Driver {driver} does not know {card.name} (SM {card.capability}) yet; it needs driver {first} or later.",
        zh=f"驱动 {driver} 尚不支持 {card.name}（SM {card.capability}），需要驱动 {first} 及以上。",
    )


def driver_too_new(card: Card, driver: str, last: int) -> Text:
    return Text(
        en=f"Driver {driver} no longer supports {card.name} (SM {card.capability}): {last} is its last. "
        f"Go back to driver {last}.",
        zh=f"驱动 {driver} 已不再支持 {card.name}（SM {card.capability}），"
        f"{last} 是最后一个支持它的分支，请退回驱动 {last}。",
    )


def needs(image: Image, driver: str) -> Text:
    return Text(
        en=f"CUDA {image.cuda_release} was built for driver {image.branch} or later; this machine has {driver}.",
        zh=f"CUDA {image.cuda_release} 面向驱动 {image.branch} 及以上构建；本机为 {driver}。",
    )


def on_the_list(branch: int, cuda: str, inferred: bool) -> Text:
    en, zh = (" (inferred)", "（推断）") if inferred else ("", "")
    return Text(
        en=f"R{branch} is on the forward-compatibility list of CUDA {cuda}{en}, which counts for data-centre GPUs.",
        zh=f"R{branch} 在 CUDA {cuda} 的前向兼容列表中{zh}，适用于数据中心 GPU。",
    )


def not_on_the_list(branch: int, cuda: str) -> Text:
    return Text(
        en=f"R{branch} is not on the forward-compatibility list of CUDA {cuda}.",
        zh=f"R{branch} 不在 CUDA {cuda} 的前向兼容列表中。",
    )


def list_not_known(branch: int, cuda: str) -> Text:
    return Text(
        en=f"Whether CUDA {cuda} is forward compatible with R{branch} is not known.",
        zh=f"CUDA {cuda} 是否与 R{branch} 前向兼容尚不可知。",
    )


def only_the_page(branch: int, cuda: str) -> Text:
    return Text(
        en=f"The release page promises R{branch}, but the forward-compatibility list of CUDA {cuda} does not have it: "
        "the list on these pages is often stale.",
        zh=f"发行说明列出了 R{branch}，但 CUDA {cuda} 的前向兼容列表中没有它：这些页面上的列表常常过时。",
    )


def page_asks_more(branch: int, first: str) -> Text:
    return Text(
        en=f"The release page asks for {first} or later within R{branch}: update within the branch.",
        zh=f"发行说明要求 R{branch} 分支内 {first} 及以上，请在该分支内升级。",
    )


def minor_holds(major: int, floor: str) -> Text:
    return Text(
        en=f"Minor-version compatibility within CUDA {major} holds (driver {floor} or later), with limits: "
        "kernels that are compiled on the machine may fail.",
        zh=f"符合 CUDA {major} 的次要版本兼容（驱动 {floor} 及以上），但有限制：需在本机编译的内核可能失败。",
    )


def minor_fails(major: int, floor: str | None) -> Text:
    if floor is None:
        return Text(
            en=f"No driver older than that is known to run CUDA {major}.", zh=f"尚不知有更旧的驱动能运行 CUDA {major}。"
        )
    return Text(
        en=f"CUDA {major} asks for driver {floor} even with minor-version compatibility.",
        zh=f"即使按次要版本兼容，CUDA {major} 也需要驱动 {floor}。",
    )


def arm_not_checked(card: Card) -> Text:
    return Text(
        en=f"Whether these images run on {card.name} (SM {card.capability}, an ARM system) was not checked.",
        zh=f"这些镜像能否在 {card.name}（SM {card.capability}，ARM 系统）上运行尚未核实。",
    )


def named_later(card: Card, release: str) -> Text:
    return Text(
        en=f"Release pages name SM {card.capability} from {release} on; here it is inferred.",
        zh=f"发行说明自 {release} 起才列出 SM {card.capability}，此处为推断。",
    )


def sm_not_in_table(card: Card) -> Text:
    return Text(
        en=f"SM {card.capability} is not in the table; only the lowest SM of the image was compared.",
        zh=f"表中没有 SM {card.capability}，只比较了镜像的最低 SM。",
    )


def tensorrt_ended(card: Card, last: str) -> Text:
    return Text(
        en=f"Its TensorRT backend no longer serves SM {card.capability}; {last} is the last that does.",
        zh=f"其 TensorRT 后端不再支持 SM {card.capability}，{last} 是最后一个支持的版本。",
    )


def way_out(branch: int, what: str) -> Text:
    return Text(en=f"Driver {branch} would make {what} native.", zh=f"换用驱动 {branch} 后，{what} 即为原生。")


def no_way_out(card: Card, last: int) -> Text:
    return Text(
        en=f"No driver makes it native: {last} is the last that supports {card.name}.",
        zh=f"没有驱动能使其原生运行：{last} 是最后一个支持 {card.name} 的分支。",
    )
