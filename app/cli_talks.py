"""`slipway conversations`: what was said in the Chat page, on the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Literal

from app import terminal
from app.arguments import Parser
from app.control import Control
from backends.conversations import UNNAMED, ConversationSummary
from backends.errors import BadInput
from backends.text import Language, Text

_NONE = Text(en="No conversations yet.", zh="还没有对话。")
_DELETED = Text(en="Deleted.", zh="已删除。")


def arguments(parser: Parser, limit: Callable[[str], int]) -> None:
    """What `slipway conversations` takes; `limit` reads how many rows."""
    acts, usual = ("list", "show", "export", "delete"), Text(en="list is the default", zh="默认 list（列出）")
    parser.takes("act", nargs="?", choices=acts, default="list", words=usual)
    parser.takes("which", nargs="?", metavar="ID", words=Text(en="a conversation of the list", zh="列表中的对话 ID"))
    words = Text(en="list: part of a name, a model or anything said", zh="list：名称、模型或对话内容的一部分")
    parser.takes("--query", default="", words=words)
    words = Text(en="list: so many at most (50)", zh="list：最多显示条数（50）")
    parser.takes("--limit", type=limit, default=50, words=words)
    words = Text(en="export: markdown or json", zh="export：导出为 markdown 或 json")
    parser.takes("--format", choices=("markdown", "json"), default="markdown", words=words)


def conversations(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Lists, shows, exports, deletes. What is exported goes to standard output as it is."""
    if given.act == "list":
        rows = control.conversations(given.query, given.limit)
        if given.json:
            terminal.print_json([row.model_dump(mode="json") for row in rows])
        else:
            print("\n".join(_line(row, language) for row in rows) or _NONE.of(language))
        return 0
    if not given.which:
        raise BadInput(
            "conversations",
            Text(en=f"conversations {given.act}: an id is missing.", zh=f"conversations {given.act}：缺少 ID。"),
            Text(
                en=f"Write: slipway conversations {given.act} ID.", zh=f"写法：slipway conversations {given.act} ID。"
            ),
        )
    if given.act == "delete":
        control.delete_conversation(given.which)
        if given.json:
            terminal.print_json({"deleted": given.which})
        else:
            print(_DELETED.of(language))
        return 0
    kind: Literal["json", "markdown"] = "json" if given.json or given.format == "json" else "markdown"
    print(control.export_conversation(given.which, kind, language), end="")
    return 0


def _line(row: ConversationSummary, language: Language) -> str:
    at = f"{row.updated_at.astimezone():%Y-%m-%d %H:%M}"
    return f"{row.id}  {at}  {row.engine:<16} {row.name or UNNAMED.of(language)}"
