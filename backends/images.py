"""Which image for which engine on this machine, and why. Pure: a `Hardware` and the tables in, a `Recommendation` out.

How one is picked among those that run (each rule can be seen at work in tests/test_images.py):
  1. the newest native tag;
  2. a tag that runs by forward and by minor-version compatibility alike, where there is no native one or it is more
     than a year and a half newer;
  3. a tag that runs by forward compatibility alone, on the same terms against the pick so far;
  4. else, of the tags that run by minor-version compatibility alone, the newest of those with the smallest step up.
FasterTransformer has fixed tags: they are only checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, get_args

from backends import guide_notes, limits, releases, tables
from backends import image_words as words
from backends.errors import BadInput
from backends.gpus import Card, cards
from backends.inside import corrected, differences, source, tag_of
from backends.releases import VARIANTS, Image, Table, Variant
from backends.spec import EngineName, Frozen, Hardware, Inside, Model
from backends.text import Language, Text
from backends.verdicts import (
    Host,
    Judgement,
    Verdict,
    driver_refusals,
    judge,
    last_branch,
    native_with,
    on_cpu,
)

ENGINES: tuple[EngineName, ...] = get_args(EngineName)
VARIANT: dict[EngineName, Variant] = {
    "transformers": "py3",
    "fastertransformer": "py3",
    "tensorrt_llm": "trtllm-python-py3",
    "vllm": "vllm-python-py3",
}
_STALE_MONTHS = 18
_RUNS = (Verdict.NATIVE, Verdict.FORWARD, Verdict.MINOR)


class Suggestion(Frozen):
    """The tag for one engine, and why; or None, and why not. `cautions` are worth reading either way."""

    engine: EngineName
    recommended: str | None
    reason: Text
    why_not: tuple[Text, ...] = ()
    cautions: tuple[Text, ...] = ()
    notes: tuple[Text, ...] = ()  # mistakes of guides that are in circulation, where they apply


class Recommendation(Frozen):
    """Every tag's verdict, and one suggestion an engine. `judgements` are oldest first."""

    driver_version: str | None
    driver_cuda: str | None
    cards: tuple[Card, ...]
    judgements: dict[Variant, tuple[Judgement, ...]]
    engines: dict[EngineName, Suggestion]
    notes: tuple[Text, ...] = ()

    def judgement(self, tag: str) -> Judgement | None:
        """The verdict on one tag ("23.04-py3"); None for a tag that the table lacks."""
        return next((found for many in self.judgements.values() for found in many if found.tag == tag), None)

    def counts(self, variant: Variant) -> dict[Verdict, int]:
        """How many tags of a variant have each verdict."""
        return {verdict: sum(one.verdict is verdict for one in self.judgements[variant]) for verdict in Verdict}

    def as_json(self, language: Language = "en") -> dict[str, Any]:
        """Plain data for JSON: `variants` and `engines`, sentences in one language, tags without the repository."""
        return {
            "variants": {
                variant: [
                    {
                        "tag": one.tag,
                        "verdict": one.verdict.value,
                        "reasons": [reason.of(language) for reason in one.reasons],
                    }
                    for one in many
                ]
                for variant, many in self.judgements.items()
            },
            "engines": {
                name: {
                    "recommended": engine.recommended,
                    "reason": sum(engine.cautions, start=engine.reason).of(language),
                    "why_not": [reason.of(language) for reason in engine.why_not],
                }
                for name, engine in self.engines.items()
            },
        }


def recommend(
    hardware: Hardware,
    table: Table | None = None,
    model: Model | None = None,
    *,
    gpus: Sequence[int] | None = None,
    inside: Mapping[str, Inside] | None = None,
) -> Recommendation:
    """Classes every tag for this machine and picks one an engine.

    `gpus`: only these indices, () for the CPU alone; None: all. `inside`: what was found in pulled images, by tag;
    None: what `hardware` says of them. It wins over the table. Raises BadInput where a GPU's SM (`gpus.N.sm`) or the
    driver (`driver_version`) is needed and not known.
    """
    table = table or releases.load()
    chosen = cards(hardware, gpus)
    found = hardware.images if inside is None else inside
    images = {
        image.tag: corrected(image, found[image.tag], table) if image.tag in found else image for image in table.images
    }
    said = {image.tag: differences(image, found[image.tag]) for image in table.images if image.tag in found}
    host = _host(hardware, chosen) if chosen else None
    judgements = {
        variant: tuple(
            _told(judge(images[image.tag], host, table) if host else on_cpu(images[image.tag]), said.get(image.tag, ()))
            for image in table.of(variant)
        )
        for variant in VARIANTS
    }
    family = model.model_type if model else None
    engines = {
        engine: _sourced(_suggest(engine, judgements, host, table, family, hardware), found) for engine in ENGINES
    }
    return Recommendation(
        driver_version=hardware.driver_version,
        driver_cuda=hardware.driver_cuda or (table.cuda_of_branch(host.branch) if host else None),
        cards=chosen,
        judgements=judgements,
        engines=engines,
        notes=_machine_notes(hardware, host, table),
    )


def found_inside(names: Iterable[str], hardware: Hardware, table: Table | None = None) -> tuple[Text, ...]:
    """What was found inside these images (names with the repository) that were looked into: where they are not as the
    table says, and where the facts come from."""
    table, said = table or releases.load(), list[Text]()
    images = {image.tag: image for image in table.images}
    for tag in dict.fromkeys(tag for name in names if (tag := tag_of(name)) in hardware.images):
        inside = hardware.images[str(tag)]
        said += differences(images[str(tag)], inside) if tag in images else ()
        said.append(source(str(tag), inside))
    return tuple(said)


def _sourced(suggestion: Suggestion, found: Mapping[str, Inside]) -> Suggestion:
    """With a word on where the tag's facts come from, where its image was looked into."""
    tag = suggestion.recommended
    if tag is None or tag not in found:
        return suggestion
    return suggestion.model_copy(update={"cautions": (*suggestion.cautions, source(tag, found[tag]))})


def _host(hardware: Hardware, chosen: tuple[Card, ...]) -> Host:
    if not hardware.driver_version:
        raise BadInput("driver_version", words.DRIVER_NEEDED, words.DRIVER_HINT)
    driver = tables.version(hardware.driver_version, "driver_version")
    return Host(words=hardware.driver_version, driver=driver, cards=chosen)


def _told(judgement: Judgement, differences: tuple[Text, ...]) -> Judgement:
    return judgement.model_copy(update={"remarks": (*differences, *judgement.remarks)}) if differences else judgement


# --- one engine ---------------------------------------------------------------------------------------------------


def _suggest(
    engine: EngineName,
    judgements: Mapping[Variant, Sequence[Judgement]],
    host: Host | None,
    table: Table,
    family: str | None,
    hardware: Hardware,
) -> Suggestion:
    many = judgements[VARIANT[engine]]
    if host is None:
        return _without_gpu(engine, many, hardware)
    if engine == "fastertransformer":
        return _fastertransformer(many, host, table, family)
    runs = [one for one in many if one.verdict in _RUNS and one.advised]
    pick = _pick(runs)
    notes = guide_notes.notes(engine, pick.image.release if pick else None, family, _sms(host))
    embedded = (words.EMBEDDED,) if engine == "transformers" else ()
    if pick is None:
        images = [one.image for one in many if one.advised]
        why_not = (
            *_why_none(many),
            *_upgrades(images, host, table, None),
            *_alone(images, host, table, None),
        )
        reason = words.no_tag(limits.LABEL[engine])
        return Suggestion(
            engine=engine, recommended=None, reason=reason, why_not=why_not, cautions=embedded, notes=notes
        )
    return Suggestion(
        engine=engine,
        recommended=pick.tag,
        reason=_why(pick, many, host),
        cautions=(
            *embedded,
            *_cautions(engine, pick, host),
            *_newer_python(engine, pick, runs),
            *_upgrades([one.image for one in many], host, table, pick.image),
        ),
        notes=notes,
    )


def _sms(host: Host) -> list[int]:
    return [card.sm for card in host.cards]


def _pick(candidates: Sequence[Judgement]) -> Judgement | None:
    """The one to take, by the rules at the head of this file. `candidates` run, oldest first."""
    pick = _newest([one for one in candidates if one.verdict is Verdict.NATIVE])
    steady = [one for one in candidates if one.steady]
    forward = [one for one in candidates if one.verdict is Verdict.FORWARD and one.sure]
    for tier in (steady, forward):
        newer = _newest(tier)
        if newer and (pick is None or newer.image.months - pick.image.months > _STALE_MONTHS):
            pick = newer
    if pick is None and candidates:
        minor = [one for one in candidates if one.verdict is Verdict.MINOR] or list(candidates)
        step = min(one.image.branch for one in minor)
        pick = _newest([one for one in minor if one.image.branch == step])
    return pick


def _newest(many: Sequence[Judgement]) -> Judgement | None:
    return many[-1] if many else None


def _fastertransformer(many: Sequence[Judgement], host: Host, table: Table, family: str | None) -> Suggestion:
    """The fixed tags of FasterTransformer's flows, in order: the first that runs and whose build knows every SM."""
    flows = limits.flows(family)
    named = {one.tag: one for one in many}
    found = [(flow, named[flow.tag]) for flow in flows if flow.tag in named]
    notes = guide_notes.notes("fastertransformer", flows[0].release if flows else None, family, _sms(host))
    why_not: list[Text] = []
    if not flows:
        why_not.append(words.no_flow(family or "", limits.families()))
    for flow, one in found:
        strange = [card for card in host.cards if card.sm not in flow.sm]
        if one.verdict in _RUNS and not strange:
            better = [other.image for _, other in found if other.verdict is not Verdict.NATIVE]
            return Suggestion(
                engine="fastertransformer",
                recommended=one.tag,
                reason=words.flow_runs(one.tag, one.verdict, flow.why),
                cautions=(
                    words.build_for(host.cards),
                    *_cautions("fastertransformer", one, host),
                    *words.other_flow(family),
                    *(_upgrades(better, host, table, None) if one.verdict is not Verdict.NATIVE else ()),
                ),
                notes=notes,
            )
        why_not += [words.build_lacks(card) for card in strange[:1]]
        why_not += [] if strange else [reason if one.blocked else words.about(one.tag, reason) for reason in one.why]
    images = [one.image for flow, one in found if all(card.sm in flow.sm for card in host.cards)]
    return Suggestion(
        engine="fastertransformer",
        recommended=None,
        reason=words.no_tag("FasterTransformer"),
        why_not=(*dict.fromkeys(why_not), *_upgrades(images, host, table, None)),
        notes=notes,
    )


def _without_gpu(engine: EngineName, many: Sequence[Judgement], hardware: Hardware) -> Suggestion:
    """A CPU-only host: the embedded engine needs no image; the py3 image runs on the CPU; the rest needs a GPU."""
    hidden = hardware.unknown.get("gpus")
    if engine == "transformers":
        newest = many[-1].tag
        return Suggestion(
            engine=engine, recommended=newest, reason=words.on_cpu(newest), cautions=(hidden,) if hidden else ()
        )
    why_not = (words.needs_gpu(limits.LABEL[engine]), *((hidden,) if hidden else ()))
    return Suggestion(engine=engine, recommended=None, reason=words.no_tag(limits.LABEL[engine]), why_not=why_not)


# --- why ----------------------------------------------------------------------------------------------------------


def _why(pick: Judgement, many: Sequence[Judgement], host: Host) -> Text:
    if pick.verdict is Verdict.NATIVE:
        return words.newest_native(pick.tag, host.words)
    natives = [one for one in many if one.verdict is Verdict.NATIVE and one.advised]
    passed = natives[-1].tag if natives else None
    if pick.steady:
        return words.both_ways(pick.tag, host.branch, passed)
    if pick.verdict is Verdict.FORWARD:
        steady = next((one.tag for one in reversed(many) if one.steady), None)
        return words.forward_only(pick.tag, host.branch, passed, steady)
    return words.minor_only(pick.tag, host.words)


def _why_none(many: Sequence[Judgement]) -> tuple[Text, ...]:
    """Reasons for no tag at all: what every tag has in common, else those of the newest that the GPUs allow."""
    runs = [one for one in many if one.verdict in _RUNS]  # none of them advised: the engine's own remarks say why
    if runs:
        return tuple(remark for remark in runs[-1].remarks if all(remark in one.remarks for one in runs))
    if all(one.blocked for one in many):
        common = tuple(reason for reason in many[-1].why if all(reason in one.why for one in many))
        return common or many[-1].why
    nearest = min((one for one in many if not one.blocked), key=lambda one: one.image.branch)
    return tuple(words.about(nearest.tag, reason) for reason in nearest.why)


def _cautions(engine: EngineName, pick: Judgement, host: Host) -> list[Text]:
    """Remarks on the picked tag: untested GPUs, precisions that it lacks, an old Python, MIG."""
    image = pick.image
    found = []
    for card in {card.sm: card for card in host.cards}.values():
        standing, said = limits.standing(engine, card.sm, image.engine_version)
        if standing == "untested" and said is not None:
            found.append(words.untested(card, said))
    for precision in ("bf16", "int8"):
        said = limits.precision(engine, precision, host.cards)
        if said is not None:
            found.append(said)
    last = max(filter(None, (limits.tensorrt_ends(card.sm) for card in host.cards)), default=None)
    if engine == "transformers" and last is not None and image.release > last:
        found.append(words.tensorrt_until(last))
    if image.inferred:
        found.append(words.inferred(pick.tag))
    return found


def _newer_python(engine: EngineName, pick: Judgement, runs: Sequence[Judgement]) -> tuple[Text, ...]:
    """Where the picked image's Python is too old for the transformers engine: the tag that has a new enough one."""
    oldest = limits.transformers_python()

    def enough(one: Judgement) -> bool:
        return one.image.python is not None and tables.version(one.image.python) >= tables.version(oldest)

    if engine != "transformers" or enough(pick):
        return ()
    other = _pick([one for one in runs if enough(one)])
    return (words.old_python(pick.tag, pick.image.python or "?", oldest, other.tag if other else None),)


def _upgrades(images: Sequence[Image], host: Host, table: Table, pick: Image | None) -> tuple[Text, ...]:
    """What other drivers would make native: the newest long-lived branch, and the newest that the table knows.

    Only what is newer than `pick` counts. A driver that is too new for a GPU is answered with an older one.
    """
    last = last_branch(host.cards, table)
    newest = max(image.branch for image in images) if images else 0
    kept = [branch for branch in table.long_lived if branch <= last]
    found: dict[str, Text] = {}
    for branch in [*kept[-1:], min(newest, last)]:
        if host.branch <= last and branch <= host.branch:
            continue
        native = [image for image in images if native_with(image, host.cards, branch, table)]
        best = max(native, key=lambda image: image.months, default=None)
        if best and (pick is None or best.months > pick.months):
            found.setdefault(best.tag, words.upgrade(branch, best.tag, branch == last))
    return tuple(found.values())


def _alone(images: Sequence[Image], host: Host, table: Table, pick: Image | None) -> tuple[Text, ...]:
    """Of GPUs that differ: what each kind would run natively by itself, where that is newer than `pick`."""
    kinds = {(card.name, card.sm): card for card in host.cards}
    if len(kinds) < 2:
        return ()
    found = []
    for card in kinds.values():
        native = [image for image in images if native_with(image, [card], host.branch, table)]
        best = max(native, key=lambda image: image.months, default=None)
        if best and (pick is None or best.months > pick.months):
            found.append(words.alone(card, best.tag))
    return tuple(found)


def _machine_notes(hardware: Hardware, host: Host | None, table: Table) -> tuple[Text, ...]:
    """What holds for all engines: GPUs that differ, MIG, an ARM processor, drivers that do not fit the GPUs."""
    notes: list[Text] = [
        words.lost(gpu.name, hardware.unknown[f"gpus.{place}.name"])
        for place, gpu in enumerate(hardware.gpus)
        if f"gpus.{place}.name" in hardware.unknown
    ]
    if host is None:
        return (*notes, *((hardware.unknown["gpus"],) if "gpus" in hardware.unknown else ()))
    notes += driver_refusals(host, table)
    kinds = {(card.name, card.sm): card for card in host.cards}
    if len(kinds) > 1:
        notes.append(words.mixed(list(kinds.values())))
        together = [image for image in table.of("py3") if native_with(image, host.cards, host.branch, table)]
        notes += _alone(table.of("py3"), host, table, together[-1] if together else None)
    if any(card.mig for card in host.cards):
        notes.append(words.MIG)
    unclassed = next((card for card in host.cards if card.kind is None and not card.data_centre), None)
    if unclassed is not None:
        notes.append(words.class_not_known(unclassed))
    if hardware.architecture in ("aarch64", "arm64"):
        notes.append(words.ARM)
    return tuple(notes)
