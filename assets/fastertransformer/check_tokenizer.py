"""Loads each tokenizer that a model repository's Python models name: check_tokenizer.py REPOSITORY

What they load is read out of model.py as it stands, class and path; nothing of it is run. What they import must be in
the image or beside them. Runs with the image's Python (3.8 and later) and its transformers.
"""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

TRITON = "triton_python_backend_utils"  # the server brings it


def main(repository):
    lacking = [(path, name) for path in sorted(Path(repository).glob("*/*/model.py")) for name in missing(path.parent)]
    for path, name in lacking:
        print(f"slipway: {path.parent.parent.name} imports {name}, which this image has not")
    if lacking:
        return 1
    named = {}
    for path in sorted(Path(repository).glob("*/*/model.py")):
        for kind, folder in tokenizers(ast.parse(path.read_text())):
            named.setdefault((kind, folder), []).append(path.parent.parent.name)
    if not named:
        print("no model.py loads a tokenizer of transformers")
        return 0
    status = 0
    for (kind, folder), models in named.items():
        try:
            loaded = getattr(importlib.import_module("transformers"), kind).from_pretrained(folder)
            words = loaded.decode(loaded.encode("Hello"))
        except Exception as error:  # whatever it is, the server's model would fail with the same
            print(f"slipway: {kind} does not load {folder}: {type(error).__name__}: {error}")
            status = 1
            continue
        print(f"{', '.join(models)}: {kind} from {folder}: {len(loaded)} tokens, “Hello” comes back as “{words}”")
    return status


def missing(folder):
    """Modules that the Python files of a version's folder import, and that are neither there nor in the image."""
    names = set()
    for path in folder.rglob("*.py"):
        names.update(imports(ast.parse(path.read_text(encoding="utf-8"))))
    beside = {path.stem for path in folder.iterdir()}
    return sorted(name for name in names - beside - {TRITON} if importlib.util.find_spec(name) is None)


def imports(tree):
    """Top-level names of what is imported, but for what a try looks after."""
    tried = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Try) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in tried:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            yield node.module.split(".")[0]


def tokenizers(tree):
    """(class, folder) of each `X.from_pretrained("...")`."""
    for node in ast.walk(tree):
        call = node.func if isinstance(node, ast.Call) else None
        if isinstance(call, ast.Attribute) and call.attr == "from_pretrained" and isinstance(call.value, ast.Name):
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield call.value.id, first.value


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
