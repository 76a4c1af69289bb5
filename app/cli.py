"""The command line: the second front end on the same control. Does not import gradio.

Exit status: 0 well, 1 an unexpected error (also: `lint` or `engines check` found one), 2 bad input, 3 cannot be done
here, 4 not found, 5 held by somebody else, 6 a step or the server failed, 7 unreachable, 8 stopped as asked, 9 refused
by the server, 10 not kept (disk full, database held or damaged), 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app import cli_kept, cli_keys, cli_shelf, cli_talks, terminal
from app.arguments import Misused, language_of
from app.asking import in_step
from app.cli_parser import parser
from app.control import DEMO, Control
from app.faults import in_words
from app.listening import listening
from backends.errors import BadInput, SlipwayError, StepFailed
from backends.events import Kind
from backends.reading import read, read_json
from backends.runs import State
from backends.spec import Chat, Hardware, Message, ModelSource, Sampling, Spec
from backends.text import Language, Text

MakeControl = Callable[[Mapping[str, object]], Control]
Do = Callable[[argparse.Namespace, Control, Language], int]


def main(argv: Sequence[str], make_control: MakeControl) -> int:
    """Reads the command line and does what it says. Errors go to standard error, in words, whatever they are."""
    language = language_of(argv, os.environ)
    try:
        arguments = parser(language).parse_args(argv)
    except Misused as misused:
        print(misused.usage, end="", file=sys.stderr)
        return _failed(misused.error, language, as_json="--json" in argv)
    own = ("home", "host", "port", "names") if arguments.command == "panel" else ("home",)
    try:
        control = make_control({name: getattr(arguments, name) for name in own})
        return COMMANDS[arguments.command](arguments, control, language)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # nobody is shown a traceback
        failed = in_words(error, arguments.home)
        return _failed(failed, language, as_json=getattr(arguments, "json", False))


def _failed(error: SlipwayError, language: Language, *, as_json: bool) -> int:
    if as_json:
        terminal.print_json(terminal.error_json(error, language))
    print(f"slipway: {error.of(language)}", file=sys.stderr)
    if isinstance(error, StepFailed):
        print("\n".join(error.last_lines[-20:]), file=sys.stderr)
    return error.exit_code


# --- the commands -----------------------------------------------------------------------------------------------------


def _panel(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    with listening(control.settings) as sockets:
        from app.web import serve  # late: only the panel needs gradio

        control.recover()
        if arguments.demo:
            started = control.start(DEMO)
            print((terminal.DEMO_STARTED if started.created else terminal.DEMO_THERE).of(language), flush=True)
            if started.created:
                print(terminal.downloads(control, started.run.plan, language), flush=True)
        return serve(control, control.settings, sockets)


def _setup(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    plan = control.setup_plan()
    if not arguments.json:
        print(terminal.downloads(control, plan, language), flush=True)
    started = control.start_plan(plan)
    return _follow_run(control, started.run.id, language, as_json=arguments.json)


def _detect(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    hardware = control.detect(refresh=True)
    if arguments.json:
        terminal.print_json(hardware)
    else:
        print(terminal.hardware_lines(hardware, language))
    return 0


def _recommend(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    hardware = _hardware(arguments) or control.detect()
    model = control.inspect(_spec(arguments).model) if arguments.model or arguments.demo or arguments.spec else None
    found = control.recommend(hardware, model)
    told = found.as_json(language)
    if arguments.engine:
        if arguments.engine not in told["engines"]:
            raise BadInput(
                "engine",
                Text(en=f"engine: there is no “{arguments.engine}”.", zh=f"engine：没有“{arguments.engine}”。"),
                Text(en=f"Choose one of: {', '.join(told['engines'])}.", zh=f"可选：{'、'.join(told['engines'])}。"),
            )
        told["engines"] = {arguments.engine: told["engines"][arguments.engine]}
    if arguments.json:
        terminal.print_json(told)
    else:
        print(terminal.recommendation_lines(told, found, language))
    return 0


def _inspect(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    spec, hardware = _spec(arguments), _hardware(arguments)
    model, forecast = control.inspect(spec.model), control.forecast(spec, hardware)
    ways, changes = control.ways(spec, hardware), control.changes_that_fit(spec, hardware)
    if arguments.json:
        told = {"model": model, "memory": forecast, "ways": ways, "changes": changes}
        terminal.print_json({name: _plain(value) for name, value in told.items()})
    else:
        print(terminal.model_lines(model, forecast, ways, changes, language))
    return 0


def _plain(value: Any) -> Any:
    return [_plain(one) for one in value] if isinstance(value, tuple) else value.model_dump(mode="json")


def _plan(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    plan = control.plan(_spec(arguments), _hardware(arguments))
    if arguments.sh:
        print(control.script(plan, language), end="")
    elif arguments.json:
        terminal.print_json(plan)
    else:
        print(terminal.plan_lines(control, plan, language))
    return 0


def _deploy(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    started = control.start(_spec(arguments))
    run = started.run
    if not arguments.follow:
        if arguments.json:
            terminal.print_json({"run": run.id, "created": started.created, "state": run.state.value})
        else:
            words = terminal.STARTED if started.created else terminal.ALREADY
            print(words.of(language).format(run=run.id))
        return 0
    if started.created and not arguments.json:
        print(terminal.downloads(control, run.plan, language), flush=True)
    return _follow_run(control, run.id, language, as_json=arguments.json)


def _resume(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    run = control.resume(control.find(arguments.run).id)
    if arguments.follow:
        return _follow_run(control, run.id, language, as_json=arguments.json)
    if arguments.json:
        terminal.print_json({"run": run.id, "state": run.state.value})
    else:
        print(terminal.STARTED.of(language).format(run=run.id))
    return 0


def _follow(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    control.recover()
    return _follow_run(control, control.find(arguments.run).id, language, as_json=arguments.json)


def _logs(arguments: argparse.Namespace, control: Control, _language: Language) -> int:
    run = control.find(arguments.run)
    for step in run.plan.steps:
        if arguments.step not in (None, step.id):
            continue
        cursor = 0
        while True:
            page = control.log(run.id, step.id, cursor)
            if page.lines and arguments.json:
                terminal.print_json({"step": step.id, "lines": page.lines, "cursor": page.cursor})
            elif page.lines:
                print("\n".join(page.lines))
            if page.cursor == cursor:
                break
            cursor = page.cursor
    if arguments.step is not None:
        control.log_path(run.id, arguments.step)  # refuses a step that is not there
    return 0


def _list(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    control.recover()
    runs = control.open_runs()
    if arguments.json:
        terminal.print_json([terminal.run_json(run) for run in runs])
    else:
        for run in runs:
            where = run.endpoint.http if run.endpoint and run.state is State.SERVING else "–"
            state = terminal.term(run.state, language, 10)
            print(f"{run.id:<28} {state} {run.spec.engine:<16} {where:<26} {run.spec.model.id}")
        if not runs:
            print(terminal.NOTHING_OPEN.of(language))
    return 0


def _stop(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    run = control.stop(control.find(arguments.run).id)
    *_, run = control.looks(run.id)  # until it is over
    if arguments.json:
        terminal.print_json({"run": run.id, "state": run.state.value})
    else:
        print(f"{run.id}: {terminal.term(run.state, language)}")
    return 0


def _chat(arguments: argparse.Namespace, control: Control, _language: Language) -> int:
    run = control.find(arguments.run)
    sampling = {
        name: value
        for name in ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")
        if (value := getattr(arguments, name)) is not None
    }
    texts = {"stop": arguments.stop or [], "bad_words": arguments.bad_words or []}
    drawn = read(Sampling, sampling | texts, "chat")
    if not arguments.message.strip():
        raise BadInput(
            "message",
            Text(en="message: there is nothing to answer.", zh="message：没有内容可回答。"),
            Text(en="Write a question after --message.", zh="请在 --message 之后写上问题。"),
        )
    if arguments.raw:
        chat = Chat(prompt=arguments.message, sampling=drawn)
    else:
        system = [Message(role="system", content=arguments.system)] if arguments.system else []
        chat = Chat(messages=(*system, Message(role="user", content=arguments.message)), sampling=drawn)
    for piece in in_step(control.chat(run.id, chat)):
        if arguments.json:
            terminal.print_json(piece)
        else:
            print(piece.text, end="", flush=True)
    if not arguments.json:
        print()
    return 0


def _history(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    control.recover()
    if arguments.run:
        run = control.find(arguments.run)
        told = terminal.run_json(run) | {
            "spec": run.spec.model_dump(mode="json"),
            "plan": run.plan.model_dump(mode="json"),
            "steps": [view.model_dump(mode="json") for view in control.steps(run.id)],
        }
        terminal.print_json(told)
        return 0
    rows = control.pinned_first(arguments.query, limit=arguments.limit, engine=arguments.engine)
    if arguments.json:
        terminal.print_json([row.model_dump(mode="json") for row in rows])
    else:
        for row in rows:
            state = terminal.term(row.state, language, 10)
            print(f"{row.created_at:%Y-%m-%d %H:%M}  {row.id:<28} {state} {row.engine:<16} {row.model}")
    return 0


def _clean(arguments: argparse.Namespace, control: Control, language: Language) -> int:
    """Shows what Slipway left in Docker; removes it only with --yes."""
    left = control.reclaimable()
    freed = control.reclaim(left) if arguments.yes else None
    if arguments.json:
        terminal.print_json({"left": [_plain(one) for one in left], "freed_bytes": freed})
    else:
        print(terminal.leftover_lines(left, freed, language))
    return 0


COMMANDS: Mapping[str, Do] = {
    "panel": _panel,
    "setup": _setup,
    "detect": _detect,
    "recommend": _recommend,
    "inspect": _inspect,
    "plan": _plan,
    "deploy": _deploy,
    "resume": _resume,
    "follow": _follow,
    "logs": _logs,
    "list": _list,
    "stop": _stop,
    "chat": _chat,
    "history": _history,
    "clean": _clean,
    "pin": cli_kept.pin,
    "unpin": cli_kept.unpin,
    "export": cli_kept.export,
    "delete": cli_kept.delete,
    "compare": cli_kept.compare,
    "import": cli_kept.take_in,
    "watch": cli_kept.watch,
    "keys": cli_keys.keys,
    "conversations": cli_talks.conversations,
    "lint": cli_shelf.lint,
    "engines": cli_shelf.engines,
}


# --- following --------------------------------------------------------------------------------------------------------


def _follow_run(control: Control, run_id: str, language: Language, *, as_json: bool) -> int:
    """Prints what happens until the run serves or is over. An interrupt ends the following, not the run."""
    seq = 0
    titles = {step.id: step.title.of(language) for step in control.run(run_id).plan.steps}
    for run in control.looks(run_id):
        for event in control.events(run_id, seq):
            seq = event.seq
            if as_json:
                terminal.print_json(event)
            elif event.kind is not Kind.PROGRESS or event.text is not None:
                at = event.at.astimezone() if event.at else None
                words = "" if event.text is None else f": {event.text.of(language)}"
                kind = terminal.term(event.kind, language, 8)
                print(f"{at:%H:%M:%S}  {kind} {titles.get(event.step or '', '')}{words}", flush=True)
        if run.state is State.SERVING:
            break
    if as_json:
        terminal.print_json(terminal.run_json(run))
    elif run.state is State.SERVING and run.endpoint:
        print(terminal.SERVING.of(language).format(run=run.id, http=run.endpoint.http, answer=run.answer or ""))
    if run.trouble is not None:
        failed = StepFailed(run.trouble.message, run.trouble.hint, last_lines=run.trouble.last_lines)
        print(f"slipway: {failed.of(language)}", file=sys.stderr)
        print("\n".join(failed.last_lines[-20:]), file=sys.stderr)
    return {State.SERVING: 0, State.DONE: 0, State.STOPPED: 8}.get(run.state, StepFailed.exit_code)


# --- what is given ----------------------------------------------------------------------------------------------------


def _spec(arguments: argparse.Namespace) -> Spec:
    """The spec that the command line names: the demo, a file, or a model with defaults."""
    given = [bool(arguments.demo), arguments.spec is not None, arguments.model is not None]
    if sum(given) != 1:
        raise BadInput(
            "spec",
            Text(en="Name one thing to deploy.", zh="请指定一个部署对象。"),
            Text(
                en="Give --demo, a spec file (SPEC.json), or --model with a folder or hub id.",
                zh="可用 --demo、spec 文件（SPEC.json），或 --model 加目录或模型 ID。",
            ),
        )
    if arguments.spec is not None:
        spec = read_json(Spec, _file(arguments.spec, "spec"), "spec")
    elif arguments.demo:
        spec = DEMO
    else:
        folder = Path(arguments.model).expanduser()
        kind = "folder" if folder.is_dir() or arguments.model.startswith((".", "/", "~")) else "huggingface"
        source = read(
            ModelSource, {"kind": kind, "id": str(folder.absolute()) if kind == "folder" else arguments.model}
        )
        spec = Spec(model=source, name=_name_of(arguments.model))
    changes = {"name": arguments.name} if arguments.name else {}
    return read(Spec, spec.model_dump() | changes, "spec")


def _name_of(model: str) -> str:
    letters = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in Path(model).name.lower())
    return "-".join(part for part in letters.split("-") if part)[:48].strip("-") or "model"


def _hardware(arguments: argparse.Namespace) -> Hardware | None:
    if arguments.hardware is None:
        return None
    return read_json(Hardware, _file(arguments.hardware, "hardware"), "hardware")


def _file(path: str, field: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        why = error.strerror
        raise BadInput(
            field,
            Text(en=f"{field}: {path} cannot be read: {why}.", zh=f"{field}：无法读取 {path}：{why}。"),
        ) from None
