"""Does this image run on these GPUs with this driver? One verdict a tag, with every reason. Pure.

The rules are NVIDIA's: a driver as new as the image's branch runs it natively; on data-centre GPUs an older one may be
on the image's forward-compatibility list; within one CUDA major version an older one runs it with limits.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from backends import limits, tables
from backends import verdict_words as words
from backends.gpus import Card
from backends.releases import Image, Table
from backends.spec import Frozen
from backends.tables import Version
from backends.text import Text


class Verdict(StrEnum):
    """Best first. `forward` before `minor`: where both hold, it is called forward."""

    NATIVE = "native"
    FORWARD = "forward"
    MINOR = "minor"
    DOUBTFUL = "doubtful"
    IMPOSSIBLE = "impossible"


LABELS = {
    Verdict.NATIVE: Text(en="Native", zh="原生"),
    Verdict.FORWARD: Text(en="Forward", zh="前向兼容"),
    Verdict.MINOR: Text(en="Minor", zh="次要版本"),
    Verdict.DOUBTFUL: Text(en="Doubtful", zh="存疑"),
    Verdict.IMPOSSIBLE: Text(en="Impossible", zh="不可运行"),
}

_ENGINE = {"py3": "", "trtllm-python-py3": "tensorrt_llm", "vllm-python-py3": "vllm"}


class Judgement(Frozen):
    """The verdict on one tag.

    `why` decided it, `remarks` are worth knowing, `out` is what would change it. `way_out`: the driver branch that
    would make it native, None where none does or none is needed. `refused`: by a GPU, whatever the driver. `blocked`:
    by a GPU or by a driver that does not fit the GPU. `steady`: forward and minor-version compatibility both hold.
    `sure`: not by an inferred list. `advised` False: it may start, but its engine is not suggested for these GPUs.
    """

    image: Image
    verdict: Verdict
    why: tuple[Text, ...]
    remarks: tuple[Text, ...] = ()
    out: Text | None = None
    way_out: int | None = None
    refused: bool = False
    blocked: bool = False
    steady: bool = False
    sure: bool = True
    advised: bool = True

    @property
    def tag(self) -> str:
        return self.image.tag

    @property
    def reasons(self) -> tuple[Text, ...]:
        """Everything that there is to say: what decided, what is worth knowing, the way out."""
        return (*self.why, *self.remarks, *((self.out,) if self.out else ()))


class Host(Frozen):
    """Driver and GPUs of a machine that has both. `words` is the driver's version as it was given."""

    words: str
    driver: Version
    cards: tuple[Card, ...]

    @property
    def branch(self) -> int:
        return self.driver[0]

    @property
    def data_centre(self) -> bool:
        """Whether forward compatibility may be counted on: every GPU is known to be made for data centres."""
        return all(card.data_centre for card in self.cards)


def on_cpu(image: Image) -> Judgement:
    """The verdict where there is no GPU: the py3 image runs its CPU backends, the others are built around CUDA."""
    if image.variant == "py3":
        return Judgement(image=image, verdict=Verdict.NATIVE, why=(words.RUNS_ON_CPU,))
    return Judgement(image=image, verdict=Verdict.IMPOSSIBLE, why=(words.NEEDS_GPU,), refused=True, blocked=True)


def judge(image: Image, host: Host, table: Table) -> Judgement:
    """The verdict on one image for a machine with GPUs, and why."""
    refused = refusals(image, host.cards, table)
    blocked = [*refused, *driver_refusals(host, table)]
    way_out = None if refused else _way_out(image, host, table)
    if blocked:
        return Judgement(
            image=image,
            verdict=Verdict.IMPOSSIBLE,
            why=tuple(blocked),
            out=words.way_out(way_out, image.release) if way_out else None,
            way_out=way_out,
            refused=bool(refused),
            blocked=True,
        )
    verdict, why, minor, sure = _by_driver(image, host, table)
    advised, doubts, remarks = _by_engine(image, host.cards)
    doubts += [
        words.arm_not_checked(card)
        for card in _distinct(host.cards)
        if (support := table.supported(card.sm)) and support.doubtful
    ]
    if doubts and verdict is not Verdict.IMPOSSIBLE:
        verdict = Verdict.DOUBTFUL
    out = None
    if way_out is not None:
        out = words.way_out(way_out, image.release)
    elif host.branch < image.branch:
        out = words.no_way_out(_oldest(host.cards, table), last_branch(host.cards, table))
    return Judgement(
        image=image,
        verdict=verdict,
        why=(*why, *doubts),
        remarks=(*remarks, *_remarks(image, host.cards, table)),
        out=out,
        way_out=way_out,
        steady=verdict is Verdict.FORWARD and minor and sure,
        sure=verdict is not Verdict.FORWARD or sure,
        advised=advised,
    )


def _way_out(image: Image, host: Host, table: Table) -> int | None:
    """The driver branch to take: the next that runs the image natively; the last where the host's is too new."""
    known = [support for card in host.cards if (support := table.supported(card.sm))]
    lowest = max([image.branch, *(support.first or 0 for support in known)])
    last = last_branch(host.cards, table)
    if lowest > last or lowest <= host.branch <= last:
        return None
    return lowest if host.branch < lowest else last


def native_with(image: Image, cards: Sequence[Card], branch: int, table: Table) -> bool:
    """Whether a driver of `branch` would run the image natively on these GPUs."""
    for card in cards:
        support = table.supported(card.sm)
        if support and (branch < (support.first or 0) or branch > (support.last or branch) or support.doubtful):
            return False
    return branch >= image.branch and not refusals(image, cards, table)


def last_branch(cards: Sequence[Card], table: Table) -> int:
    """The newest driver branch that supports every one of these GPUs; a huge number where there is no end yet."""
    ends = [support.last for card in cards if (support := table.supported(card.sm)) and support.last is not None]
    return min(ends, default=10**6)


def refusals(image: Image, cards: Sequence[Card], table: Table) -> list[Text]:
    """Why these GPUs cannot run the image, whatever the driver. Empty: they can."""
    found: list[Text] = []
    for card in _distinct(cards):
        support = table.supported(card.sm)
        if support and support.igpu:
            found.append(words.jetson(card))
        standing, said = limits.standing(_ENGINE[image.variant], card.sm, image.engine_version)
        if standing == "refused" and said is not None:
            found.append(words.engine_says(card, said))
        if card.sm < image.min_sm:
            found.append(words.too_old(card, image))
        if support and tables.version(image.cuda_minor) < tables.version(support.needs_cuda):
            found.append(words.needs_cuda(card, image, support.needs_cuda))
    return found


def driver_refusals(host: Host, table: Table) -> list[Text]:
    """GPUs that this driver does not know yet, or no longer."""
    found = []
    for card in _distinct(host.cards):
        support = table.supported(card.sm)
        if support and support.first is not None and host.branch < support.first:
            found.append(words.driver_too_old(card, host.words, support.first))
        if support and support.last is not None and host.branch > support.last:
            found.append(words.driver_too_new(card, host.words, support.last))
    return found


def _by_driver(image: Image, host: Host, table: Table) -> tuple[Verdict, list[Text], bool, bool]:
    """Verdict by driver alone, its reasons, whether the minor-version rule holds, whether the list is sure."""
    reasons = [words.needs(image, host.words)]
    if host.branch >= image.branch:
        return Verdict.NATIVE, reasons, False, False
    major = tables.version(image.cuda)[0]
    floor = table.minor_floors.get(major)
    minor = floor is not None and tables.at_least(host.driver, tables.version(floor))
    listed = table.listed(image.cuda_minor, host.branch)
    if host.data_centre and listed in ("yes", "inferred"):
        reasons.append(words.on_the_list(host.branch, image.cuda_minor, listed == "inferred"))
        reasons += _page_asks_more(image, host)
        reasons += [words.minor_holds(major, floor)] if minor and floor else []
        return Verdict.FORWARD, reasons, minor, listed == "yes"
    if minor and floor:
        reasons.append(words.minor_holds(major, floor))
        return Verdict.MINOR, reasons, True, False
    reasons.append(words.minor_fails(major, floor))
    if not host.data_centre:
        return Verdict.IMPOSSIBLE, [*reasons, words.DATA_CENTRE_ONLY], False, False
    if str(host.branch) in {entry.split(".")[0] for entry in image.page_drivers}:
        return Verdict.DOUBTFUL, [*reasons, words.only_the_page(host.branch, image.cuda_minor)], False, False
    if listed == "not known":
        return Verdict.DOUBTFUL, [*reasons, words.list_not_known(host.branch, image.cuda_minor)], False, False
    return Verdict.IMPOSSIBLE, [*reasons, words.not_on_the_list(host.branch, image.cuda_minor)], False, False


def _page_asks_more(image: Image, host: Host) -> list[Text]:
    """The container compares branches only, but the page names a first version within the branch."""
    firsts = [entry for entry in image.page_drivers if tables.version(entry)[0] == host.branch]
    return [
        words.page_asks_more(host.branch, first)
        for first in firsts
        if not tables.at_least(host.driver, tables.version(first))
    ]


def _by_engine(image: Image, cards: Sequence[Card]) -> tuple[bool, list[Text], list[Text]]:
    """Whether the engine inside is advised for these GPUs, doubts, and remarks."""
    advised = True
    doubts: list[Text] = []
    remarks: list[Text] = []
    for card in _distinct(cards):
        standing, said = limits.standing(_ENGINE[image.variant], card.sm, image.engine_version)
        if said is not None:
            advised = advised and standing != "not_advised"
            (doubts if standing == "doubtful" else remarks).append(words.engine_says(card, said))
    return advised, doubts, remarks


def _remarks(image: Image, cards: Sequence[Card], table: Table) -> list[Text]:
    """What is worth knowing whatever the verdict."""
    found = []
    for card in _distinct(cards):
        support = table.supported(card.sm)
        if support is None:
            found.append(words.sm_not_in_table(card))
        elif support.named_from and image.release < support.named_from:
            found.append(words.named_later(card, support.named_from))
        last = limits.tensorrt_ends(card.sm) if image.variant == "py3" else None
        if last is not None and image.release > last:
            found.append(words.tensorrt_ended(card, last))
    return [*found, words.INFERRED] if image.inferred else found


def _oldest(cards: Sequence[Card], table: Table) -> Card:
    """The GPU whose support ends first."""
    return min(cards, key=lambda card: last_branch([card], table))


def _distinct(cards: Sequence[Card]) -> list[Card]:
    """One card of each name and SM."""
    return list({(card.name, card.sm): card for card in cards}.values())
