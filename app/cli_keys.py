"""`slipway keys`: the keys of the API on the command line."""

from __future__ import annotations

import argparse

from app import terminal
from app.arguments import Parser
from app.control import Control
from backends.errors import BadInput
from backends.keys import Key
from backends.text import Language, Text

_NEW = Text(
    en="The key “{name}” ({id}). Keep it now, it is not shown again:",
    zh="密钥“{name}”（{id}）。请立即保存，之后不再显示：",
)
_REVOKED = Text(en="The key “{name}” ({id}) is revoked.", zh="密钥“{name}”（{id}）已吊销。")
_NONE = Text(
    en="There are no keys. `slipway keys make NAME` makes one.", zh="没有密钥，可用 `slipway keys make 名称` 新建。"
)
_IN_USE = Text(en="in use", zh="有效")
_ENDED = Text(en="revoked", zh="已吊销")


def arguments(parser: Parser) -> None:
    """What `slipway keys` takes."""
    acts, usual = ("list", "make", "revoke"), Text(en="list is the default", zh="默认 list（列出）")
    parser.takes("act", nargs="?", choices=acts, default="list", words=usual)
    words = Text(en="make: a name; revoke: the id of a key", zh="make：名称；revoke：密钥 ID")
    parser.takes("which", nargs="?", metavar="NAME|ID", words=words)


def keys(given: argparse.Namespace, control: Control, language: Language) -> int:
    """Lists, makes, revokes. A token goes to standard output, alone on its line, and nowhere else."""
    if given.act == "list":
        found = control.keys()
        if given.json:
            terminal.print_json([key.model_dump(mode="json") for key in found])
        else:
            print("\n".join(_line(key, language) for key in found) or _NONE.of(language))
        return 0
    if not given.which:
        raise BadInput(
            "keys",
            Text(en=f"keys {given.act}: a word is missing.", zh=f"keys {given.act}：缺少一个参数。"),
            Text(en="Write: slipway keys make NAME, or slipway keys revoke ID.",
                 zh="写法：slipway keys make 名称，或 slipway keys revoke ID。"),
        )  # fmt: skip
    if given.act == "make":
        made = control.make_key(given.which)
        if given.json:
            terminal.print_json(made.key.model_dump(mode="json") | {"token": made.token})
        else:
            print(_NEW.of(language).format(name=made.key.name, id=made.key.id))
            print(made.token)
        return 0
    key = control.revoke_key(given.which)
    if given.json:
        terminal.print_json(key)
    else:
        print(_REVOKED.of(language).format(name=key.name, id=key.id))
    return 0


def _line(key: Key, language: Language) -> str:
    used = "–" if key.last_used_at is None else f"{key.last_used_at.astimezone():%Y-%m-%d %H:%M}"
    state = (_IN_USE if key.revoked_at is None else _ENDED).of(language)
    return f"{key.id}  {state:<8} {key.created_at.astimezone():%Y-%m-%d %H:%M}  {used:<16}  {key.name}"
