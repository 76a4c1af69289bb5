"""The two places of a Python model that a tokenizer can need changed: found by syntax, never by line. Pure.

1. `from_pretrained(…)`: whether the model's own code may run. 0.5.0's files never allow it, later ones always do; here
   it is the person's word that counts, so the keyword is set either way.
2. `tokenizer.pad_token = tokenizer.eos_token`: where a tokenizer names no end token (Qwen's first generation), the ids
   are known from elsewhere and written in.
"""

from __future__ import annotations

import ast

from backends.errors import BadInput
from backends.text import Text


def edit(source: str, *, trust_remote_code: bool, eos_id: int | None = None, pad_id: int | None = None) -> str:
    """The model's source, changed and still valid Python; the same text where there is nothing to change.

    Raises BadInput where the source cannot be read, or where an end token must be written in and no place is found.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise BadInput(
            "model.py",
            Text(en=f"model.py cannot be read: line {error.lineno}.", zh=f"model.py 无法解析：第 {error.lineno} 行。"),
        ) from None
    changes = [*_trust(source, tree, trust_remote_code)]
    if eos_id is not None:
        changes += _end_token(source, tree, eos_id, eos_id if pad_id is None else pad_id)
    changed = _apply(source, changes)
    ast.parse(changed)
    return changed


def loads_tokenizer(source: str) -> bool:
    """Whether the source loads a tokenizer at all."""
    return "from_pretrained" in source


Change = tuple[int, int, str]  # from, to (offsets in bytes), what stands there instead


def _trust(source: str, tree: ast.AST, allowed: bool) -> list[Change]:
    changes: list[Change] = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        if node.func.attr != "from_pretrained" or not _tokenizes(node.func.value):
            continue
        given = next((word for word in node.keywords if word.arg == "trust_remote_code"), None)
        if given is not None:
            changes.append((*_span(source, given.value), str(allowed)))
        elif allowed:
            end = _span(source, node)[1] - 1  # before the closing bracket
            before = source.encode()[:end].rstrip()
            comma = b"" if before.endswith((b",", b"(")) else b", "
            changes.append((len(before), end, f"{comma.decode()}trust_remote_code=True"))
    return changes


def _tokenizes(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id.endswith("Tokenizer")


def _end_token(source: str, tree: ast.AST, eos_id: int, pad_id: int) -> list[Change]:
    """Before each `X.pad_token = X.eos_token`: both tokens from their ids; the assignment itself goes."""
    changes: list[Change] = []
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute) and len(node.targets) == 1):
            continue
        target = node.targets[0]
        if not (isinstance(target, ast.Attribute) and target.attr == "pad_token" and node.value.attr == "eos_token"):
            continue
        tokenizer = ast.unparse(target.value)
        if tokenizer != ast.unparse(node.value.value):
            continue
        indent = " " * node.col_offset
        lines = (
            f"{tokenizer}.eos_token = {tokenizer}.decode([{eos_id}])",
            f"{indent}{tokenizer}.pad_token = {tokenizer}.decode([{pad_id}])",
        )
        changes.append((*_span(source, node), "\n".join(lines)))
    if not changes:
        raise BadInput(
            "model.py",
            Text(
                en="model.py has no place where the end token is set, and this tokenizer names none.",
                zh="model.py 中没有设置结束符的位置，而该分词器未给出结束符。",
            ),
        )
    return changes


def _span(source: str, node: ast.expr | ast.stmt) -> tuple[int, int]:
    lines = source.encode().splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))
    if node.end_lineno is None or node.end_col_offset is None:
        raise ValueError("a parsed node has an end")
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _apply(source: str, changes: list[Change]) -> str:
    text = source.encode()
    for start, end, new in sorted(changes, reverse=True):
        text = text[:start] + new.encode() + text[end:]
    return text.decode()
