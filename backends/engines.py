"""Which way to a served model: each engine's ways ranked for this model and machine, with every reason against. Pure.

What each way takes, costs and gives is data in assets/engine_paths.toml; here it is compared with model and machine.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from backends import guide_notes
from backends.fitting import Suggestion, changes_that_fit, shorter_answers
from backends.images import VARIANT, Recommendation
from backends.memory import Estimate, HostNeed, chosen_gpus, estimate
from backends.obstacles import Recommended, Rules, against, crowded, number, since, too_large
from backends.recipe_words import Untold
from backends.recipes import RECIPES
from backends.spec import EngineName, Frozen, Hardware, Model, Spec, TensorRtLlmOptions
from backends.steps import Step, expected
from backends.text import Text
from backends.verdicts import Judgement, Verdict

_TABLE = Path(__file__).resolve().parent.parent / "assets" / "engine_paths.toml"
_MIB_A_SECOND = 40.0  # of a download: some 335 Mbit/s
_LOAD_MIB_A_SECOND = 800.0  # weights from a local disk to where they run


class _Note(Frozen):
    path: str
    text: Text
    source: str
    model_types: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    facts: dict[str, str | int | bool] = {}


class Effort(Frozen):
    """What stands between now and the first answer. Estimates; None: nothing or not known."""

    first_start_s: float | None = None
    later_start_s: float | None = None
    download_mib: int | None = None
    disk_mib: int | None = None
    ram_mib: int | None = None
    stages: tuple[HostNeed, ...] = ()


class Way(Frozen):
    """One way to a served model. `reasons` empty: it can be taken now. `possible`: only Slipway itself lacks it yet.

    `untold`: all that stands against it is what nobody has told yet, such as what a named image holds. `changes`: where
    it does not fit (into memory, into the model's context), the smallest ones after which it does and this way can be
    taken.
    """

    id: str
    engine: EngineName
    title: Text
    gain: Text
    reasons: tuple[Text, ...]
    possible: bool
    notes: tuple[Text, ...]
    image: str | None
    effort: Effort
    memory: Estimate
    spec: Spec  # what to start when this way is chosen
    changes: tuple[Suggestion, ...] = ()
    untold: bool = False


@cache
def _table() -> tuple[dict[str, Rules], tuple[_Note, ...]]:
    data = tomllib.loads(_TABLE.read_text(encoding="utf-8"))
    rules = {name: Rules.model_validate(row) for name, row in data["path"].items()}
    return rules, tuple(_Note.model_validate(row) for row in data["note"])


def ways(
    spec: Spec, hardware: Hardware, model: Model, images: Mapping[str, Recommended] | None = None
) -> tuple[Way, ...]:
    """Every way, best first: can be taken, only Slipway lacks it, not told yet, cannot be taken.

    `images` maps a way's id, or an engine's name, to the image found for it; a way without one is judged without.
    """
    rules, _ = _table()
    found = [_way(name, rule, spec, hardware, model, images or {}) for name, rule in rules.items()]

    def order(way: Way) -> tuple[int, bool, int]:
        group = 0 if not way.reasons else 1 if way.possible else 2 if way.untold else 3
        return group, way.engine not in RECIPES, rules[way.id].rank

    return tuple(sorted(found, key=order))


def way_of(spec: Spec) -> str:
    """The id of the way that the spec goes; of several that it leaves open the first."""
    flow = spec.tensorrt_llm.flow if spec.tensorrt_llm is not None else "auto"
    same = [name for name, rule in _table()[0].items() if rule.engine == spec.engine]
    return next((name for name in same if _table()[0][name].flow == flow), same[0])


def images_of(recommendation: Recommendation, model: Model | None = None) -> dict[str, Recommended]:
    """The image of each engine, and of each way that not every release of its engine has, from what suits the machine.

    With a `model`, releases whose engine does not know its architecture yet are passed over.
    """
    found: dict[str, Recommended] = {}
    for engine, told in recommendation.engines.items():
        judged = None if told.recommended is None else recommendation.judgement(told.recommended)
        version = None if judged is None else judged.image.engine_version
        found[engine] = Recommended(tag=told.recommended, version=version, reason=told.reason, why_not=told.why_not)
    for name, rule in _table()[0].items():
        if rule.tags:
            served = [judged for tag in rule.tags if (judged := recommendation.judgement(tag)) is not None]
        elif rule.versions is not None:
            first = "" if model is None else since(rule, model)
            least, end = max(number(rule.versions[0]), number(first)), number(rule.versions[1])
            many = recommendation.judgements[VARIANT[rule.engine]]
            served = [one for one in many if least <= number(one.image.engine_version or "") < end]
        else:
            continue
        if served:
            found[name] = _best(served, recommendation.engines[rule.engine].recommended)
    return found


def _best(served: list[Judgement], suggested: str | None) -> Recommended:
    """The suggested tag if it is among these (oldest first); else the newest of the best verdict, or why none runs."""
    for judged in served:
        if judged.tag == suggested:
            return Recommended(tag=judged.tag, version=judged.image.engine_version)
    for verdict in (Verdict.NATIVE, Verdict.FORWARD, Verdict.MINOR):
        same = [judged for judged in served if judged.verdict is verdict and judged.advised]
        if same:  # minor-version compatibility: the smallest step up
            pick = same[0] if verdict is Verdict.MINOR else same[-1]
            return Recommended(tag=pick.tag, version=pick.image.engine_version)
    return Recommended(tag=None, why_not=served[-1].reasons)


def _way(
    name: str, rule: Rules, spec: Spec, hardware: Hardware, model: Model, images: Mapping[str, Recommended]
) -> Way:
    local = rule.engine == "transformers"
    others = {"fastertransformer", "tensorrt_llm", "vllm"} - {rule.engine}
    target = "local" if local else "docker"
    chosen = spec.model_copy(update={"engine": rule.engine, "target": target, **dict.fromkeys(others)})
    if local and chosen.gpus is not None and len(chosen.gpus) > 1:
        chosen = chosen.model_copy(update={"gpus": chosen.gpus[:1]})
    if rule.flow is not None and (wanted := chosen.tensorrt_llm or TensorRtLlmOptions()).flow == "auto":
        chosen = chosen.model_copy(update={"tensorrt_llm": wanted.model_copy(update={"flow": rule.flow})})
    if not local and chosen.gpus == ():  # the CPU was chosen, which only the embedded engine can use
        chosen = chosen.model_copy(update={"gpus": None})
    if local:
        chosen = chosen.model_copy(update={"image": None})
    own = chosen.own_image  # what runs in it is its maker's word: the table of releases says nothing against it
    image = None if own else images.get(name) or (None if rule.tags else images.get(rule.engine))
    if not local and image is not None and image.tag is not None:
        chosen = chosen.model_copy(update={"image": image.tag})
    memory = estimate(chosen, hardware, model)
    driven = RECIPES.get(rule.engine)

    def obstacles_of(spec: Spec) -> tuple[Text, ...]:
        refused = () if driven is None else driven.why_not(spec, hardware, model)
        found = () if local else against(rule, spec, hardware, model, image)
        return tuple(dict.fromkeys((*refused, *found)))

    obstacles = obstacles_of(chosen) + (() if rule.elastic else too_large(memory))
    changes = changes_that_fit(chosen, hardware, model) if memory.verdict == "over" and driven is not None else ()
    if obstacles and driven is not None and (shorter := shorter_answers(chosen, model)) is not None:
        changes = (shorter, *changes)
    missing = (
        ()
        if driven is not None
        else (Text(en=f"Slipway cannot drive {rule.title.en} yet.", zh=f"Slipway 暂不能驱动 {rule.title.zh}。"),)
    )
    return Way(
        id=name,
        engine=rule.engine,
        title=rule.title,
        gain=rule.gain,
        reasons=(*missing, *obstacles),
        possible=not obstacles,
        untold=bool(obstacles) and all(isinstance(one, Untold) for one in obstacles),
        notes=(
            *_notes(name, model),
            *_of_guides(rule, chosen, hardware, model, image),
            *(crowded(memory) if rule.elastic and not obstacles else ()),
        ),
        image=own or (None if image is None else image.tag),
        effort=_effort(rule, hardware, model, memory),
        memory=memory,
        spec=chosen,
        changes=tuple(change for change in changes if not obstacles_of(change.spec)),
    )


# --- effort and notes ---------------------------------------------------------------------------------------------


def _effort(rule: Rules, hardware: Hardware, model: Model, memory: Estimate) -> Effort:
    """Time, download, disk and host memory until it answers, from the table and the model's size."""
    billions = (model.parameters or 0) / 1e9
    weights = model.weights_mib or 0
    download = (weights if model.source.kind in ("huggingface", "modelscope") else 0) + rule.pull_mib
    runtime = 0
    if rule.engine == "transformers":
        runtime = 3500 if hardware.gpus else 310
        download += runtime
    load = rule.load_s + weights / _LOAD_MIB_A_SECOND
    first = download / _MIB_A_SECOND + rule.build_s + billions * rule.per_billion_s + load + (60 if runtime else 0)
    rams = [need.ram_mib for need in memory.host if need.ram_mib is not None]
    disks = [need.disk_mib for need in memory.host if need.disk_mib is not None]
    return Effort(
        first_start_s=round(first),
        later_start_s=round(load),
        download_mib=download or None,
        disk_mib=sum(disks) if disks else None,
        ram_mib=max(rams, default=None),
        stages=memory.host,
    )


def effort_left(effort: Effort, to_do: Sequence[Step]) -> Effort:
    """The effort of a way of whose steps only these are still to do. Where no result that serves several runs is among
    them, what comes is one of its later starts."""
    if not any(step.shared for step in to_do):
        return effort.model_copy(update={"first_start_s": None, "download_mib": None})
    left = expected(to_do).download_mib
    saved = 0 if left is None else (effort.download_mib or 0) - left
    if saved <= 0:
        return effort
    first = round((effort.first_start_s or 0) - saved / _MIB_A_SECOND)
    return effort.model_copy(
        update={"first_start_s": max(first, effort.later_start_s or 0) or None, "download_mib": left or None}
    )


def _of_guides(
    rule: Rules, spec: Spec, hardware: Hardware, model: Model, image: Recommended | None
) -> tuple[Text, ...]:
    """Mistakes of guides that whoever goes this way may have read."""
    release = None if image is None or image.tag is None else image.tag[:5]
    sms = [gpu.sm for gpu in chosen_gpus(spec, hardware) if gpu.sm is not None]
    return guide_notes.notes(rule.engine, release, model.model_type, sms)


def _notes(name: str, model: Model) -> tuple[Text, ...]:
    _, notes = _table()
    return tuple(
        note.text
        for note in notes
        if note.path == name
        and (not note.model_types or model.model_type in note.model_types)
        and (not note.dtypes or model.dtype in note.dtypes)
        and all(model.facts.get(fact) == value for fact, value in note.facts.items())
    )


__all__ = ["Effort", "Recommended", "Way", "effort_left", "images_of", "way_of", "ways"]
