"""A plan as a POSIX shell script that does the same by hand, without Slipway. Pure.

Places become variables at the top, which a person may set; every other word is quoted.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping

from backends import docker_words
from backends.spec import Chat
from backends.steps import (
    Ask,
    BuildImage,
    Container,
    FetchSource,
    Forecast,
    Plan,
    PullImage,
    Service,
    Step,
    Task,
    WriteFiles,
    digest,
)
from backends.text import Language, Text, same

_PLACE = re.compile(r"\{(person|home|runtime|models|run|assets|python|bind|lock|port\.http|port\.grpc|port\.metrics)\}")
_VARIABLES = {
    "home": "HOME_DIR", "runtime": "RUNTIME", "models": "MODELS", "run": "RUN", "assets": "ASSETS", "python": "PYTHON",
    "person": "PERSON",
    "bind": "BIND", "lock": "LOCK", "port.http": "HTTP_PORT", "port.grpc": "GRPC_PORT", "port.metrics": "METRICS_PORT",
}  # fmt: skip

_WHAT = Text(
    en="{name}: served by hand, as Slipway would. Every step of the plan, in its order.",
    zh="{name}：与 Slipway 相同的手动部署，按顺序执行方案的每一步。",
)
_HOW = Text(
    en="Set HOME_DIR, PYTHON, HTTP_PORT, GRPC_PORT, METRICS_PORT before the call to change them. "
    "Ctrl-C stops the server.",
    zh="可在运行前设置 HOME_DIR、PYTHON、HTTP_PORT、GRPC_PORT、METRICS_PORT。按 Ctrl-C 停止服务。",
)
_WHY_LOCK = Text(en="closes endpoints that nobody needs; nobody keeps it", zh="用于关闭不需要的接口，随机生成且不保存")
_NO_PYTHON = Text(
    en="There is no Python at ${PYTHON}. Set PYTHON to the one that runs Slipway.",
    zh="找不到 ${PYTHON}，请将 PYTHON 设为运行 Slipway 的 Python。",
)
_WHY_ASK = Text(
    en="Prints what an address of this machine answers, as it comes; a second word is sent there. No proxy, no curl.",
    zh="逐行输出本机某地址的应答，第二个参数作为请求内容发送。不经代理，也不需要 curl。",
)
_WAITING = Text(en="waiting for the server", zh="正在等待服务就绪")
_ENDED = Text(en="the server ended; its last lines:", zh="服务已退出，最后几行日志：")
_SERVING = Text(
    en="serving on http://127.0.0.1:${HTTP_PORT} (Ctrl-C stops it)",
    zh="服务地址：http://127.0.0.1:${HTTP_PORT}（按 Ctrl-C 停止）",
)

_HEAD = """#!/bin/sh
# {what}
# {how}
set -eu
HOME_DIR=${{HOME_DIR:-{home}}}
PYTHON=${{PYTHON:-{python}}}
ASSETS=${{ASSETS:-{assets}}}
RUNTIME=$HOME_DIR/runtime
MODELS=$HOME_DIR/models
RUN=$HOME_DIR/runs/{name}
PERSON=$(id -u):$(id -g)
BIND={bind}
HTTP_PORT=${{HTTP_PORT:-{http}}}
GRPC_PORT=${{GRPC_PORT:-{grpc}}}
METRICS_PORT=${{METRICS_PORT:-{metrics}}}
LOCK=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \\n')  # {why_lock}
command -v "$PYTHON" > /dev/null || {{ echo "{no_python}" >&2; exit 1; }}
mkdir -p "$RUN" "$MODELS" "$HOME_DIR/done"
"""

_ASK = """# {why_ask}
ask() {{
  "$PYTHON" -I -c '
import os, sys, urllib.request
try:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({{}}))
    for line in direct.open(sys.argv[1], *map(os.fsencode, sys.argv[2:])):
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
except OSError as error:
    sys.exit(f"{{sys.argv[1]}}: {{error}}")
' "$@"
}}
"""

_WAIT = """echo "{waiting}"
until ask "http://127.0.0.1:$HTTP_PORT{health}" > /dev/null 2>&1; do
  if ! kill -0 "$SERVER" 2>/dev/null; then
    echo "{ended}" >&2
    tail -n 30 "$RUN/{id}.log" >&2
    exit 1
  fi
  sleep 0.2
done
"""


def script(plan: Plan, places: Mapping[str, str], asset_text: Callable[[str], str], language: Language = "en") -> str:
    """The script. `places` gives home, assets, python as defaults; `asset_text` the content of an asset by name;
    `language` is that of its comments and of what it says.

    Steps of the Docker target become `docker` commands.
    """
    ports = plan.spec.ports
    parts = [
        _HEAD.format(
            name=plan.spec.name,
            what=_WHAT.of(language).format(name=plan.spec.name),
            how=_HOW.of(language),
            why_lock=_WHY_LOCK.of(language),
            no_python=_NO_PYTHON.of(language),
            home=_default(places["home"]),
            python=_default(places["python"]),
            assets=_default(places["assets"]),
            bind=plan.spec.bind,
            http=ports.http or 8000,
            grpc=ports.grpc or 8001,
            metrics=ports.metrics or 8002,
        )
    ]
    if any(isinstance(step, Service | Ask) for step in plan.steps):
        parts.append(_ASK.format(why_ask=_WHY_ASK.of(language)))
    for number, step in enumerate(plan.steps, 1):
        parts.append(f"# {number}. {step.title.of(language)}\n{_step(step, asset_text, language)}")
    if plan.service is not None:
        parts.append(f'echo "{_SERVING.of(language)}"\nwait "$SERVER"\n')
    return "\n".join(parts)


def word(text: str) -> str:
    """One word of a shell command: places as variables in double quotes, the rest quoted as needed."""
    out, last = "", 0
    for match in _PLACE.finditer(text):
        if match.start() > last:
            out += shlex.quote(text[last : match.start()])
        out += (
            f'"${_VARIABLES[match.group(1)]}"' if match.end() == len(text) else f'"${{{_VARIABLES[match.group(1)]}}}"'
        )
        last = match.end()
    if last < len(text) or not text:
        out += shlex.quote(text[last:])
    return out


def command(argv: tuple[str, ...]) -> str:
    """One command as a shell would read it, a long one with an option a line."""
    words = [word(part) for part in argv]
    line = " ".join(words)
    if len(line) <= 110:
        return line
    program = words[:2] if words[0] == "docker" else words[:1]
    return " \\\n  ".join((" ".join(program), *words[len(program) :]))


def by_hand(step: Step) -> str | None:
    """The step's own commands, without what a script puts around them; None for one that is no command."""
    if isinstance(step, PullImage):
        return "\n".join(command(one) for one in docker_words.pull(step))
    if isinstance(step, BuildImage):
        taking = docker_words.dockerfile(step)
        return f"{f'{command(taking)} | ' if taking else ''}{command(docker_words.build(step))}"
    if isinstance(step, Task | Service) and step.container is not None:
        return command(docker_words.run(step))
    if isinstance(step, Task | FetchSource | Service):
        variables = step.sources | getattr(step, "env", {})
        env = "".join(f"{name}={word(value)} \\\n  " for name, value in variables.items())
        cwd = getattr(step, "cwd", None)
        return f"(cd {word(cwd)} && {env}{command(step.argv)})" if cwd else f"{env}{command(step.argv)}"
    return None


def _default(value: str) -> str:
    """A value inside ${NAME:-…}: quoted so that the shell takes it as it is."""
    return shlex.quote(value)


def _step(step: Step, asset_text: Callable[[str], str], language: Language) -> str:
    if isinstance(step, WriteFiles):
        return "\n".join(_file(step.folder, file.path, file.text, file.asset, asset_text) for file in step.files)
    if isinstance(step, PullImage):
        return f"docker image inspect {word(step.image)} > /dev/null 2>&1 || {{\n{by_hand(step)}\n}}\n"
    if isinstance(step, BuildImage):
        return f"{by_hand(step)}\n"
    if isinstance(step, Task | FetchSource):
        container = step.container if isinstance(step, Task) else None
        return _once(step, f"{_mounted(container) if container else ''}{by_hand(step)}")
    if isinstance(step, Service):
        if step.container is not None:
            env, argv = _mounted(step.container), docker_words.run(step)
        else:
            env = "".join(f"export {name}={word(value)}\n" for name, value in (step.sources | step.env).items())
            argv = step.argv
        said = {"waiting": _WAITING.of(language), "ended": _ENDED.of(language)}
        wait = _WAIT.format(health=step.health, id=step.id, **said)
        trap = 'trap \'kill "$SERVER" 2>/dev/null || true; wait "$SERVER" 2>/dev/null || true\' EXIT INT TERM\n'
        cwd = word(step.cwd) if step.cwd and step.container is None else '"$RUN"'
        start = f'(cd {cwd} && exec {command(argv)}) > "$RUN/{step.id}.log" 2>&1 &\nSERVER=$!\n'
        return f"{env}{start}{trap}{wait}"
    if isinstance(step, Ask):
        url = f'"http://127.0.0.1:$HTTP_PORT/v2/models/{step.model}/generate_stream"'
        return f"ask {url} \\\n  {shlex.quote(_request(step.chat))}\n"
    raise TypeError(f"no words for a step of kind {step.kind}")


def _once(step: Task | FetchSource, body: str) -> str:
    """A step whose result serves other runs too is not done again while that is there."""
    if not step.shared:
        return f"{body}\n"
    # The name tells the step apart from that of another model, which has the same id.
    told = step.model_copy(update={"title": same("-"), "why": None, "forecast": Forecast(), "sources": {}})
    mark = f'"$HOME_DIR"/done/{step.id}-{digest(told)[:12]}'
    gone = "".join(f" \\\n  || ! ls -dL {_any_name(output)} > /dev/null 2>&1" for output in step.outputs)
    return f"if [ ! -e {mark} ]{gone}; then\nrm -f {mark}\n{body}\n: > {mark}\nfi\n"


def _any_name(output: str) -> str:
    """An output as a word in which the shell puts names for each `*`."""
    return "*".join(word(part) if part else "" for part in output.split("*"))


def _mounted(container: Container) -> str:
    """Folders that Docker would refuse to mount because they are not there yet."""
    return "".join(f"[ -e {word(one.source)} ] || mkdir -p {word(one.source)}\n" for one in container.mounts)


def _request(chat: Chat) -> str:
    body: dict[str, object] = chat.sampling.model_dump(exclude_none=True, exclude={"stop", "bad_words"})
    if chat.prompt is not None:
        body["text_input"] = chat.prompt
    else:
        body["messages"] = json.dumps([message.model_dump() for message in chat.messages], ensure_ascii=False)
    body |= {name: list(texts) for name in ("stop", "bad_words") if (texts := getattr(chat.sampling, name))}
    return json.dumps(body, ensure_ascii=False)


def _file(folder: str, path: str, text: str | None, asset: str | None, asset_text: Callable[[str], str]) -> str:
    content = asset_text(asset) if asset is not None else text or ""
    whole = f"{folder}/{path}"
    parent = whole.rsplit("/", 1)[0]
    end = "END_OF_FILE"
    while end in content:
        end += "_"
    if asset is None and _PLACE.search(content):
        # Places inside a file: an unquoted here-document, so what else a shell would read is escaped.
        escaped = re.sub(r"([\\`$])", r"\\\1", content)
        content = _PLACE.sub(lambda match: f"${{{_VARIABLES[match.group(1)]}}}", escaped)
        quote = ""
    else:
        quote = "'"
    ending = "" if content.endswith("\n") else "\n"
    return f"mkdir -p {word(parent)}\ncat > {word(whole)} <<{quote}{end}{quote}\n{content}{ending}{end}"
