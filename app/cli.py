"""The command line: the second front end on the same control. Does not import gradio.

Exit status: 0 well, 1 an unexpected error, 2 bad input, 3 cannot be done here, 4 not found, 5 held by somebody else,
6 a step or the server failed, 7 unreachable, 8 stopped as asked, 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from app import cli_kept, cli_keys, cli_shelf, cli_talks, terminal
from app.asking import in_step
from app.control import DEMO, Control
from app.listening import listening
from backends.errors import BadInput, SlipwayError, StepFailed
from backends.events import Kind
from backends.reading import read, read_json
from backends.runs import State
from backends.spec import Chat, Hardware, Message, ModelSource, Sampling, Spec
from backends.text import Language, Text

MakeControl = Callable[[Mapping[str, object]], Control]


def main(argv: Sequence[str], make_control: MakeControl) -> int:
    """Reads the command line and does what it says. Errors go to standard error, in words."""
    arguments = _parser().parse_args(argv)
    language = _language(arguments)
    try:
        return int(arguments.do(arguments, make_control, language))
    except SlipwayError as error:
        if getattr(arguments, "json", False):
            terminal.print_json(terminal.error_json(error, language))
        print(f"slipway: {error.of(language)}", file=sys.stderr)
        if isinstance(error, StepFailed):
            print("\n".join(error.last_lines[-20:]), file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


# --- the commands -----------------------------------------------------------------------------------------------------


def _panel(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    flags = {name: getattr(arguments, name) for name in ("home", "host", "port", "names")}
    control = make_control(flags)
    with listening(control.settings) as sockets:
        from app.web import serve  # late: only the panel needs gradio

        control.recover()
        if arguments.demo:
            started = control.start(DEMO)
            print((terminal.DEMO_STARTED if started.created else terminal.DEMO_THERE).of(language), flush=True)
            if started.created:
                print(terminal.downloads(control, started.run.plan, language), flush=True)
        return serve(control, control.settings, sockets)


def _setup(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
    plan = control.setup_plan()
    print(terminal.downloads(control, plan, language), flush=True)
    started = control.start_plan(plan)
    return _follow_run(control, started.run.id, language, as_json=arguments.json)


def _detect(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    hardware = make_control({"home": arguments.home}).detect(refresh=True)
    if arguments.json:
        terminal.print_json(hardware)
    else:
        print(terminal.hardware_lines(hardware, language))
    return 0


def _recommend(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
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


def _inspect(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
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


def _plan(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
    plan = control.plan(_spec(arguments), _hardware(arguments))
    if arguments.sh:
        print(control.script(plan), end="")
    elif arguments.json:
        terminal.print_json(plan)
    else:
        print(terminal.plan_lines(control, plan, language))
    return 0


def _deploy(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
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


def _resume(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
    run = control.resume(control.find(arguments.run).id)
    if arguments.follow:
        return _follow_run(control, run.id, language, as_json=arguments.json)
    if arguments.json:
        terminal.print_json({"run": run.id, "state": run.state.value})
    else:
        print(terminal.STARTED.of(language).format(run=run.id))
    return 0


def _follow(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
    control.recover()
    return _follow_run(control, control.find(arguments.run).id, language, as_json=arguments.json)


def _logs(arguments: argparse.Namespace, make_control: MakeControl, _language: Language) -> int:
    control = make_control({"home": arguments.home})
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


def _list(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    control = make_control({"home": arguments.home})
    control.recover()
    runs = control.open_runs()
    if arguments.json:
        terminal.print_json([terminal.run_json(run) for run in runs])
    else:
        for run in runs:
            where = run.endpoint.http if run.endpoint and run.state is State.SERVING else "–"
            print(f"{run.id:<28} {run.state:<10} {run.spec.engine:<16} {where:<26} {run.spec.model.id}")
        if not runs:
            print(terminal.NOTHING_OPEN.of(language))
    return 0


def _stop(arguments: argparse.Namespace, make_control: MakeControl, _language: Language) -> int:
    control = make_control({"home": arguments.home})
    run = control.stop(control.find(arguments.run).id)
    while run.state.is_open():
        run = control.wait(run.id, timeout_s=60)
        if run.state is State.SERVING:
            run = control.run(run.id)
    if arguments.json:
        terminal.print_json({"run": run.id, "state": run.state.value})
    else:
        print(f"{run.id}: {run.state}")
    return 0


def _chat(arguments: argparse.Namespace, make_control: MakeControl, _language: Language) -> int:
    control = make_control({"home": arguments.home})
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


def _history(arguments: argparse.Namespace, make_control: MakeControl, _language: Language) -> int:
    control = make_control({"home": arguments.home})
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
            print(f"{row.created_at:%Y-%m-%d %H:%M}  {row.id:<28} {row.state:<10} {row.engine:<16} {row.model}")
    return 0


def _clean(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    """Shows what Slipway left in Docker; removes it only with --yes."""
    control = make_control({"home": arguments.home})
    left = control.reclaimable()
    freed = control.reclaim(left) if arguments.yes else None
    if arguments.json:
        terminal.print_json({"left": [_plain(one) for one in left], "freed_bytes": freed})
    else:
        print(terminal.leftover_lines(left, freed, language))
    return 0


def _kept(act: Callable[[argparse.Namespace, Control, Language], int]) -> Callable[..., int]:
    def do(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
        return act(arguments, make_control({"home": arguments.home}), language)

    return do


def _keys(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    return cli_keys.keys(arguments, make_control({"home": arguments.home}), language)


def _conversations(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    return cli_talks.conversations(arguments, make_control({"home": arguments.home}), language)


def _lint(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    return cli_shelf.lint(arguments, make_control({"home": arguments.home}), language)


def _engines(arguments: argparse.Namespace, make_control: MakeControl, language: Language) -> int:
    return cli_shelf.engines(arguments, make_control({"home": arguments.home}), language)


# --- following --------------------------------------------------------------------------------------------------------


def _follow_run(control: Control, run_id: str, language: Language, *, as_json: bool) -> int:
    """Prints what happens until the run serves or is over. An interrupt ends the following, not the run."""
    import time

    seq = 0
    titles = {step.id: step.title.of(language) for step in control.run(run_id).plan.steps}
    while True:
        run = control.run(run_id)
        for event in control.events(run_id, seq):
            seq = event.seq
            if as_json:
                terminal.print_json(event)
            elif event.kind is not Kind.PROGRESS or event.text is not None:
                at = event.at.astimezone() if event.at else None
                words = "" if event.text is None else f": {event.text.of(language)}"
                print(f"{at:%H:%M:%S}  {event.kind:<8} {titles.get(event.step or '', '')}{words}", flush=True)
        if run.state is State.SERVING or not run.state.is_open():
            break
        time.sleep(0.1)
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


# --- the words of the command line itself ---------------------------------------------------------------------------


def _language(arguments: argparse.Namespace) -> Language:
    told = (
        arguments.language or os.environ.get("SLIPWAY_LANGUAGE") or os.environ.get("LC_ALL") or os.environ.get("LANG")
    )
    return "zh" if (told or "").lower().startswith("zh") else "en"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="slipway", description="Launches language models on NVIDIA Triton.")
    parser.add_argument("--home", help="data folder (SLIPWAY_HOME)")
    parser.add_argument("--language", choices=("en", "zh"), help="language of the words (SLIPWAY_LANGUAGE)")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, do: Any, text: str | None) -> argparse.ArgumentParser:
        one = commands.add_parser(name, help=text, description=text) if text else commands.add_parser(name)
        one.add_argument("--json", action="store_true", help="print JSON")
        one.set_defaults(do=do)
        return one

    def what(one: argparse.ArgumentParser) -> None:
        one.add_argument("spec", nargs="?", metavar="SPEC.json", help="a spec file; - for standard input")
        one.add_argument("--demo", action="store_true", help="the demo model on the embedded engine")
        one.add_argument("--model", help="a model folder or hub id, everything else by default")
        one.add_argument("--name", help="name of the deployment")

    panel = command("panel", _panel, "start the panel")
    panel.add_argument("--host", help="address to listen on (127.0.0.1)")
    panel.add_argument("--port", help="port to listen on (7860)")
    panel.add_argument("--names", help="host names of a reverse proxy, parted by commas (SLIPWAY_NAMES)")
    panel.add_argument("--demo", action="store_true", help="launch the demo deployment too")
    command("setup", _setup, "install the embedded runtime without starting anything")
    command("detect", _detect, "show what this machine has")
    recommend = command("recommend", _recommend, "say which Triton image suits a machine, and why")
    what(recommend)
    recommend.add_argument("--hardware", metavar="FILE", help="judge for the machine of that JSON")
    recommend.add_argument("--engine", help="only this engine")
    inspect = command("inspect", _inspect, "show a model's facts, its memory, and the ways to serve it")
    what(inspect)
    inspect.add_argument("--hardware", metavar="FILE", help="judge for the machine of that JSON")
    plan = command("plan", _plan, "show what a deployment would do")
    what(plan)
    plan.add_argument("--hardware", metavar="FILE", help="plan for the machine of that JSON (of `detect --json`)")
    plan.add_argument("--sh", action="store_true", help="print a script that does the same by hand")
    deploy = command("deploy", _deploy, "start a deployment")
    what(deploy)
    deploy.add_argument("--follow", action="store_true", help="show what happens until it serves")
    resume = command("resume", _resume, "go on with a deployment that failed, was stopped or lost")
    resume.add_argument("run", metavar="RUN")
    resume.add_argument("--follow", action="store_true", help="show what happens until it serves")
    follow = command("follow", _follow, "show what happens in a run until it serves or is over")
    follow.add_argument("run", metavar="RUN", help="id or name of a run")
    logs = command("logs", _logs, "print the logs of a run")
    logs.add_argument("run", metavar="RUN")
    logs.add_argument("--step", help="only this step")
    command("list", _list, "list what runs")
    stop = command("stop", _stop, "stop a run")
    stop.add_argument("run", metavar="RUN")
    chat = command("chat", _chat, "ask a running server")
    chat.add_argument("run", metavar="RUN")
    chat.add_argument("--message", required=True)
    chat.add_argument("--system", help="system prompt")
    chat.add_argument("--raw", action="store_true", help="send the message as a raw prompt")
    chat.add_argument("--max-tokens", type=int)
    chat.add_argument("--temperature", type=float)
    chat.add_argument("--top-p", type=float)
    chat.add_argument("--top-k", type=int)
    chat.add_argument("--repetition-penalty", type=float)
    chat.add_argument("--seed", type=int)
    chat.add_argument("--stop", action="append", help="end the answer before this text; may be repeated")
    chat.add_argument("--bad-word", action="append", dest="bad_words", metavar="WORD",
                      help="a word that the answer may not hold; may be repeated")  # fmt: skip
    history = command("history", _history, "list what was deployed")
    history.add_argument("run", metavar="RUN", nargs="?", help="show one run whole, as JSON")
    history.add_argument("--query", default="", help="part of a name, model or engine")
    history.add_argument("--engine", default="", help="only this engine")
    history.add_argument("--limit", type=int, default=50)
    clean = command("clean", _clean, "show what Slipway left in Docker and nothing uses; remove it with --yes")
    clean.add_argument("--yes", action="store_true", help="remove it")
    cli_kept.add_commands(command, _kept)
    cli_keys.arguments(command("keys", _keys, "list, make and revoke keys of the OpenAI-compatible API"))
    words = "list, show, export and delete the conversations of the Chat page"
    cli_talks.arguments(command("conversations", _conversations, words))
    cli_shelf.lint_arguments(command("lint", _lint, "say what is wrong in a model repository, and how to mend it"))
    cli_shelf.engines_arguments(command("engines", _engines, "list, check, remove and register TensorRT-LLM engines"))
    return parser
