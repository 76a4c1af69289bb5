"""`slipway pin`, `compare`, `export`, `import`, `delete`, `watch`: what is kept, on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app import terminal
from app.arguments import Parser
from app.control import Control
from backends.errors import BadInput, NotFound
from backends.reading import read
from backends.text import Language, Text
from backends.watched import Watched, WatchedServer

RUN = Text(en="id or name of a deployment", zh="部署的 ID 或名称")
_PINNED = Text(en="{run} is pinned.", zh="{run} 已置顶。")
_UNPINNED = Text(en="{run} is not pinned any more.", zh="{run} 已取消置顶。")
_ALIKE = Text(en="They do not differ.", zh="两者没有不同。")
_DELETED = Text(
    en="{run} is deleted. Weights, engines, images and conversations stay.",
    zh="{run} 已删除。权重、引擎、镜像和对话会保留。",
)
_NONE = Text(
    en="No server is watched. `slipway watch add NAME` watches one.", zh="没有监控服务，可用 `slipway watch add 名称`。"
)
_GONE = Text(en="It is no longer watched.", zh="已停止监控。")


def arguments(command: Callable[[str, Text], Parser]) -> None:
    """Adds the commands and what they take."""
    for name, words in (
        ("pin", Text(en="put a deployment at the head of the history", zh="在历史中置顶部署")),
        ("unpin", Text(en="let go of a pinned one", zh="取消置顶")),
        ("export", Text(en="print a deployment as one JSON file", zh="将部署输出为一个 JSON 文件")),
        ("delete", Text(en="forget a deployment that is over, with its logs", zh="删除已结束的部署及其日志")),
    ):
        command(name, words).takes("run", metavar="RUN", words=RUN)
    compared = command("compare", Text(en="say in what two deployments differ", zh="对比两个部署的不同"))
    compared.takes("run", metavar="RUN", words=RUN)
    compared.takes("other", metavar="RUN", words=RUN)
    words = Text(
        en="print the spec of an exported deployment, for `slipway deploy -`",
        zh="输出所导出部署的 spec，供 slipway deploy - 使用",
    )
    taken = command("import", words)
    words = Text(en="what `export` printed; - for standard input", zh="export 输出的文件，- 表示标准输入")
    taken.takes("file", metavar="FILE", words=words)
    words = Text(
        en="list, add and remove Triton servers that Slipway did not start",
        zh="列出、添加、移除并非由 Slipway 启动的 Triton 服务",
    )
    watched = command("watch", words)
    words = Text(en="list is the default", zh="默认 list（列出）")
    watched.takes("act", nargs="?", choices=("list", "add", "remove"), default="list", words=words)
    words = Text(en="add: a name; remove: a name or id", zh="add：名称；remove：名称或 ID")
    watched.takes("which", nargs="?", metavar="NAME|ID", words=words)
    words = Text(en="where it runs (127.0.0.1)", zh="服务所在主机（127.0.0.1）")
    watched.takes("--host", default="127.0.0.1", words=words)
    for port, usual in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        words = Text(en=f"its port for {port} ({usual})", zh=f"{port} 端口（{usual}）")
        watched.takes(f"--{port}-port", default=usual, words=words)
    watched.takes("--model", default="", words=Text(en="the model to talk to", zh="要对话的模型"))


def pin(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Pins a run."""
    run = control.find(given.run)
    control.pin(run.id)
    return _say(given, {"run": run.id, "pinned": True}, _PINNED.of(language).format(run=run.id))


def unpin(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Lets go of it."""
    run = control.find(given.run)
    control.unpin(run.id)
    return _say(given, {"run": run.id, "pinned": False}, _UNPINNED.of(language).format(run=run.id))


def export(given: argparse.Namespace, control: Control, _language: Language) -> int:
    """The file to standard output."""
    print(control.export_deployment(control.find(given.run).id), end="")
    return 0


def delete(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Forgets a run that is over."""
    run = control.find(given.run)
    control.delete(run.id)
    return _say(given, {"deleted": run.id}, _DELETED.of(language).format(run=run.id))


def compare(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Each field in which they differ, a line each."""
    found = control.compare(control.find(given.run).id, control.find(given.other).id)
    if given.json:
        terminal.print_json([pair.model_dump(mode="json") for pair in found])
        return 0
    lines = [f"{pair.group:<9} {pair.field}: {_shown(pair.one)} | {_shown(pair.other)}" for pair in found]
    print("\n".join(lines) or _ALIKE.of(language))
    return 0


def take_in(given: argparse.Namespace, control: Control, language: Language) -> int:
    """The file's spec to standard output, what to look at to standard error. Nothing is started or kept."""
    try:
        data = sys.stdin.buffer.read() if given.file == "-" else Path(given.file).read_bytes()
    except OSError as error:
        why = error.strerror
        words = Text(en=f"file: {given.file} cannot be read: {why}.", zh=f"file：无法读取 {given.file}：{why}。")
        raise BadInput("file", words) from None
    got = control.import_deployment(data)
    for note in got.notes:
        print(f"slipway: {note.of(language)}", file=sys.stderr)
    print(got.spec.model_dump_json(indent=2, exclude_defaults=True))
    return 0


def watch(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Lists, adds, removes servers watched by address."""
    if given.act == "list":
        found = control.watched()
        if given.json:
            terminal.print_json([one.model_dump(mode="json") for one in found])
        else:
            print("\n".join(_line(one) for one in found) or _NONE.of(language))
        return 0
    if given.act == "add":
        fields = ("host", "http_port", "grpc_port", "metrics_port", "model")
        server = read(WatchedServer, {"name": given.which or ""} | {name: getattr(given, name) for name in fields})
        added = control.add_watched(server)
        return _say(given, added.model_dump(mode="json"), _line(added))
    one = next((one for one in control.watched() if given.which in (one.id, one.server.name)), None)
    if one is None:
        words = Text(en=f"No server “{given.which}” is watched.", zh=f"没有监控中的服务“{given.which}”。")
        raise NotFound(words, Text(en="`slipway watch` lists them.", zh="用 `slipway watch` 查看。"), "server")
    control.remove_watched(one.id)
    return _say(given, {"removed": one.id}, _GONE.of(language))


def _say(given: argparse.Namespace, told: dict[str, Any], words: str) -> int:
    if given.json:
        terminal.print_json(told)
    else:
        print(words)
    return 0


def _shown(value: object) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 60 and "\n" not in text else f"{text.splitlines()[0][:59]}…"


def _line(one: Watched) -> str:
    told = one.server
    ports = f"{told.http_port} {told.grpc_port} {told.metrics_port}"
    return f"{one.id}  {told.name:<20} {told.host:<24} {ports}  {told.model}".rstrip()
