"""The wizard's stages as HTML: what a stage shows of the facts, and nothing that decides anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from app.ui import options as own_options
from app.ui import units
from app.ui.draft import Draft, draft_of, suggested_name
from app.ui.render import forecast, page
from app.ui.words import ENGINES
from backends import script as scripts
from backends.fitting import Suggestion
from backends.memory import Estimate
from backends.spec import Hardware, Limits, Model, Spec
from backends.steps import Ask, Plan, Step, WriteFiles, expected
from backends.text import Language, Text, same


class Check(NamedTuple):
    """One line of the checks: a fact that is known, or why it is not."""

    name: str
    value: str
    known: bool


class Option(NamedTuple):
    """An engine's card. `key` is what the form sends back, `verdict` a key of words.VERDICTS or empty."""

    key: str
    name: str
    usable: bool
    chosen: bool = False
    suggested: bool = False
    later: bool = False  # only Slipway lacks it yet
    untold: bool = False  # what a named image holds is not known, so nobody can judge it
    verdict: str = ""
    image: str | None = None
    reasons: Sequence[Text] = ()
    facts: Sequence[tuple[str, str]] = ()
    changes: Sequence[Change] = ()
    gain: Text | None = None
    image_from: Text | None = None
    stages: Sequence[tuple[str, str]] = ()  # each stage before the start, with what it takes of the host


class Change(NamedTuple):
    """A change after which it fits: its words, and the fields of the form that it sets."""

    words: Text
    fields: Mapping[str, Any]


def changes(before: Spec, suggestions: Sequence[Suggestion], choice: str = "") -> list[Change]:
    """Suggestions as changes of the form that means `before`, `choice` being the card that they are about."""
    now = draft_of(before)
    found = []
    for one in suggestions:
        then = draft_of(one.spec)
        fields = {name: value for name, value in then.items() if value != now[name]}
        found.append(Change(one.text, fields | ({"choice": choice} if choice else {})))
    return found


def machine_words(hardware: Hardware, language: Language) -> list[str]:
    """The machine at a glance: “2 × RTX 3090”, “driver 535.54.03”; without a GPU its CPU."""
    names: dict[str, int] = {}
    for gpu in hardware.gpus:
        name = gpu.name.removeprefix("NVIDIA ").removeprefix("GeForce ")
        names[name] = names.get(name, 0) + 1
    words = [f"{count} × {name}" if count > 1 else name for name, count in names.items()]
    if not words:
        cores = Text(en=f"{hardware.cpu_cores} CPU cores", zh=f"{hardware.cpu_cores} 个 CPU 核")
        words = [cores.of(language)] if hardware.cpu_cores else []
    if hardware.driver_version:
        words.append(f"{Text(en='driver', zh='驱动').of(language)} {hardware.driver_version}")
    return words


def header(hardware: Hardware | None, running: int, launching: int, language: Language) -> str:
    """Logo, machine at a glance, language, theme."""
    machine = [] if hardware is None else machine_words(hardware, language)
    return page("header", language, machine=machine, running=running, launching=launching)


def stepper(language: Language) -> str:
    """The five stages as buttons; the page's script says which is the present one."""
    return page("stepper", language)


def detect(hardware: Hardware, strip: object | None, against: Sequence[Text], language: Language) -> str:
    """What was found on the machine. `against` says why not even the demo can run here; empty: it can."""
    return page("detect", language, hardware=hardware, checks=checks(hardware, language), strip=strip, against=against)


def checks(hardware: Hardware, language: Language) -> list[Check]:
    """Each fact about the machine beside the GPUs, or why it is not known."""
    rows: list[Check] = []

    def row(name: Text, value: str | None, field: str) -> None:
        why = hardware.unknown.get(field)
        fallback = Text(en="not found", zh="未发现") if why is None else why
        rows.append(Check(name.of(language), value or fallback.of(language), value is not None))

    driver = hardware.driver_version
    cuda = f" · CUDA ≤ {hardware.driver_cuda}" if hardware.driver_cuda else ""
    row(Text(en="NVIDIA driver", zh="NVIDIA 驱动"), f"{driver}{cuda}" if driver else None, "driver_version")
    docker = hardware.docker
    reached = docker.version if docker is not None and docker.reachable else None
    if docker is not None and docker.why is not None and reached is None:
        rows.append(Check("Docker", docker.why.of(language), False))
    else:
        row(same("Docker"), reached, "docker")
    cores = Text(en=f"{hardware.cpu_cores} cores", zh=f"{hardware.cpu_cores} 核").of(language)
    row(same("CPU"), " · ".join(filter(None, [hardware.cpu_name, cores])) if hardware.cpu_cores else None, "cpu_cores")
    free = Text(en="free of", zh="可用，共").of(language)
    memory = f"{units.gib(hardware.ram_free_mib)} {free} {units.gib(hardware.ram_total_mib)}"
    row(Text(en="Memory", zh="内存"), memory if hardware.ram_total_mib else None, "ram_total_mib")
    for index, disk in enumerate(hardware.disks):
        name = {
            "data": Text(en="Disk for models", zh="模型磁盘"),
            "images": Text(en="Disk for images", zh="镜像磁盘"),
            "temporary": Text(en="Disk for temporary files", zh="临时文件磁盘"),
        }[disk.purpose]
        on = Text(en="free on", zh="可用，位于").of(language)
        value = None if disk.free_mib is None else f"{units.gib(disk.free_mib)} {on} {disk.path}"
        row(name, value, f"disks.{index}.free_mib")
    system = " · ".join(filter(None, [hardware.os, hardware.architecture]))
    row(Text(en="System", zh="系统"), system or None, "os")
    libraries = [f"glibc {hardware.glibc}" if hardware.glibc else "", f"Python {hardware.python}"]
    row(Text(en="Libraries", zh="运行库"), " · ".join(filter(None, libraries)) if hardware.python else None, "python")
    return rows


def facts(model: Model | None, trouble: Text | None, language: Language) -> str:
    """What the model's configuration says, or why it could not be read; empty while none is named."""
    return page("facts", language, model=model, trouble=None if trouble is None else trouble.of(language))


def model(draft: Draft, hardware: Hardware, found: str, language: Language) -> str:
    """The form of the model: source, precision, request sizes, advanced. `found` is the part made by `facts`."""
    name = suggested_name(draft)
    return page("model", language, draft=draft, hardware=hardware, facts=Markup(found), suggested_name=name)  # noqa: S704


class Row(NamedTuple):
    """A line of what has been decided: a name, the value in lines, and where it comes from (a key of words.ORIGINS)."""

    name: Text
    lines: Sequence[str]
    origin: str


def rail(
    hardware: Hardware,
    spec: Spec | None,
    fit: object | None,
    chosen: bool,
    language: Language,
    changes: Sequence[Change] = (),
    estimate: Estimate | None = None,
    by_person: bool = False,
) -> str:
    """What has been decided so far, and whether it fits; where it does not, what would make it fit.

    `by_person`: the engine is not the one that was recommended.
    """
    rows = [Row(Text(en="Machine", zh="机器"), _machine_lines(hardware, language), "detected")]
    if spec is not None:
        rows += _model_rows(spec, estimate, language)
    if spec is not None and chosen:
        rows += _engine_rows(spec, by_person, language)
    return page("rail", language, rows=rows, spec=spec, fit=fit, changes=changes, engine_chosen=chosen)


def _machine_lines(hardware: Hardware, language: Language) -> list[str]:
    name = hardware.hostname or Text(en="this machine", zh="本机").of(language)
    return [name, " · ".join(machine_words(hardware, language))]


def _model_rows(spec: Spec, estimate: Estimate | None, language: Language) -> list[Row]:
    demo = spec.model.kind == "demo"
    model = Text(en="Demo model", zh="演示模型").of(language) if demo else spec.model.id
    asked = spec.precision != "auto"
    precision = estimate.precision if estimate is not None else spec.precision
    usual, limits = Limits(), spec.limits
    context = limits.context or (estimate.context if estimate is not None else None)
    new = min(limits.new_tokens, context or limits.new_tokens)
    size = Text(
        en=f"{limits.concurrent} at once, {units.grouped(context)} tokens each, {new:,} of them new",
        zh=f"{limits.concurrent} 路并发，每路 {units.grouped(context)} token，其中输出 {new:,}",
    )
    return [
        Row(Text(en="Model", zh="模型"), [model], "recommended" if demo else "yours"),
        Row(Text(en="Precision", zh="精度"), [precision], "yours" if asked else "recommended"),
        Row(Text(en="Requests", zh="请求"), [size.of(language)], "recommended" if limits == usual else "yours"),
    ]


def _engine_rows(spec: Spec, by_person: bool, language: Language) -> list[Row]:
    where = (
        Text(en="in a container", zh="在容器中运行")
        if spec.target == "docker"
        else Text(en="embedded, on this machine", zh="内嵌，在本机运行")
    )
    engine = [ENGINES[spec.engine].of(language), *([spec.image] if spec.image else []), where.of(language)]
    free = Text(en="free ones, chosen at launch", zh="启动时自动选择空闲端口").of(language)
    ports = [spec.ports.http, spec.ports.grpc, spec.ports.metrics]
    own = any(ports)
    one = Text(en="free", zh="自动").of(language)
    return [
        Row(Text(en="Engine", zh="引擎"), engine, "yours" if by_person else "recommended"),
        Row(
            Text(en="Ports", zh="端口"),
            [" · ".join(str(port or one) for port in ports) if own else free],
            "yours" if own else "recommended",
        ),
    ]


def engine_cards(options: Sequence[Option], language: Language) -> str:
    """The engines' cards, best first."""
    return page("engine_cards", language, options=options)


def commands(steps: Sequence[tuple[Text, str]], language: Language) -> str:
    """Titles and commands as text for a terminal."""
    return "\n\n".join(f"# {title.of(language)}\n{command}" for title, command in steps)


def engine(draft: Draft, options: Sequence[Option], gpus: bool, language: Language) -> str:
    """The engines' cards, each engine's own settings (where there is a GPU for them), and the network."""
    own = [(name, own_options.fields(name)) for name in own_options.OPTIONS] if gpus else []
    cards = Markup(engine_cards(options, language))  # noqa: S704  made by Jinja, escaped there
    return page("engine", language, draft=draft, cards=cards, own=own)


def review(plan: Plan, to_do: Sequence[Step], script: str, language: Language) -> str:
    """The plan as it will be carried out: steps, commands, files, plan file, script. What is not `to_do` is there."""
    left = {step.id for step in to_do}
    done = {step.id for step in plan.steps if step.id not in left}
    commands = [
        {"number": number, "title": step.title, "command": by_hand(step, language), "done": step.id in done}
        for number, step in enumerate(plan.steps, 1)
    ]
    files = [
        {"path": f"{step.folder}/{file.path}", "text": file.text if file.text is not None else f"= {file.asset}"}
        for step in plan.steps
        if isinstance(step, WriteFiles)
        for file in step.files
    ]
    return page(
        "review",
        language,
        plan=plan,
        done=done,
        total=total(plan, to_do, language),
        commands=commands,
        files=files,
        plan_json=plan.model_dump_json(indent=2, exclude_defaults=True),
        script=script,
    )


def by_hand(step: Step, language: Language) -> str:
    """The commands of a step, or what it does where it is none."""
    typed = scripts.by_hand(step)
    if typed is not None:
        return typed
    if isinstance(step, WriteFiles):
        return Text(
            en=f"# {len(step.files)} files below {step.folder}", zh=f"# 写入 {step.folder} 下 {len(step.files)} 个文件"
        ).of(language)
    if isinstance(step, Ask):
        said = step.chat.prompt or (step.chat.messages[-1].content if step.chat.messages else "")
        return Text(en=f"# asks “{said}”", zh=f"# 提问“{said}”").of(language)
    raise TypeError(f"no words for a step of kind {step.kind}")


def total(plan: Plan, to_do: Sequence[Step], language: Language) -> str:
    """What is still to do: “8 steps · 6.4 GiB · ~46 min”, “3 of 8 steps to do · nothing to download · ~17 s”."""
    many, left = len(plan.steps), len(to_do)
    if not left:
        return Text(en="Nothing left to do", zh="没有待执行的步骤").of(language)
    count = (
        Text(en=f"{many} steps", zh=f"{many} 步")
        if left == many
        else Text(en=f"{left} of {many} steps to do", zh=f"{many} 步中待执行 {left} 步")
    )
    whole = expected(to_do)
    nothing = Text(en="nothing to download", zh="无需下载").of(language) if whole.download_mib == 0 else ""
    return " · ".join(filter(None, [count.of(language), nothing, forecast(whole, language)]))


def empty_stage(language: Language, **_: Any) -> str:
    """What stands in a stage that has not been reached."""
    wait = Text(en="Finish the stages before this one first.", zh="请先完成前面的步骤。").of(language)
    return str(Markup('<p class="muted">{}</p>').format(wait))
