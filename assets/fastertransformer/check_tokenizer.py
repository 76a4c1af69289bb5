"""Loads each tokenizer that a model repository's Python models name: check_tokenizer.py REPOSITORY

What they load is read out of model.py as it stands, class and path; nothing of it is run. Runs with the image's Python
(3.8 and later) and its transformers.
"""

import ast
import importlib
import sys
from pathlib import Path


def main(repository):
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
