"""Checks of Python models: that they can be read, stream as their config says, and find their tokenizer. Pure."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from backends.lint.finding import Finding, error, warning
from backends.lint.reading import ModelFolder, PythonFile, Repository

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)
_VOCABULARY = {"gpt2-vocab.json": "vocab.json", "gpt2-merges.txt": "merges.txt"}
_MOUNT = (
    "Correct the path. If the server runs in a container, say what it sees: --mount FOLDER:PATH.",
    "修正路径。若服务在容器中运行，用 --mount 文件夹:路径 说明挂载。",
)


def check(repository: Repository) -> Iterator[Finding]:
    """Findings of every model whose backend is Python."""
    for model in repository.models.values():
        if model.config is None or model.config.backend != "python":
            continue
        for file in model.python:
            try:
                tree = ast.parse(file.text)
            except (SyntaxError, ValueError) as trouble:
                line = trouble.lineno if isinstance(trouble, SyntaxError) else None
                yield error(
                    file.path,
                    None,
                    (f"It is not valid Python: {trouble.args[0]}.", f"不是有效的 Python：{trouble.args[0]}。"),
                    ("Mend that line.", "修正该行。"),
                    line,
                )
                continue
            if file.path.endswith("/model.py"):
                yield from _class(file, tree)
                yield from _streams(model, file, tree)
                yield from _vocabulary(model, file, tree)
            yield from _tokenizers(repository, file, tree)


def tokenizer_paths(tree: ast.AST) -> Iterator[ast.Constant]:
    """The first argument of each `X.from_pretrained("…")` that is written out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield first


def _class(file: PythonFile, tree: ast.Module) -> Iterator[Finding]:
    if not any(isinstance(node, ast.ClassDef) and node.name == "TritonPythonModel" for node in tree.body):
        imported = any(
            isinstance(node, ast.ImportFrom) and any(name.name in ("TritonPythonModel", "*") for name in node.names)
            for node in tree.body
        )
        if not imported:
            yield error(
                file.path,
                None,
                ("It has no class TritonPythonModel.", "缺少 TritonPythonModel 类。"),
                ("Name the model's class so.", "模型类必须使用此名称。"),
            )


def _streams(model: ModelFolder, file: PythonFile, tree: ast.Module) -> Iterator[Finding]:
    # Models that serve both ways ask their own config and do either.
    asks = "decoupled" in file.text
    sends = any(isinstance(node, ast.Attribute) and node.attr == "get_response_sender" for node in ast.walk(tree))
    decoupled = model.config is not None and model.config.model_transaction_policy.decoupled
    if sends and not decoupled and not asks:
        yield error(
            model.file,
            "model_transaction_policy.decoupled",
            (
                f"{file.path} streams its answers, but the model is not decoupled: every request fails.",
                f"{file.path} 以流式返回，但模型未设为 decoupled，每个请求都会失败。",
            ),
            (
                "Set model_transaction_policy { decoupled: true }.",
                "设置 model_transaction_policy { decoupled: true }。",
            ),
        )
    if decoupled and not sends and len(model.python) == 1:
        yield error(
            model.file,
            "model_transaction_policy.decoupled",
            (
                f"The model is decoupled, but {file.path} never takes a response sender: every request fails.",
                f"模型设为 decoupled，但 {file.path} 从未取得 response sender，每个请求都会失败。",
            ),
            (
                "Remove decoupled, or send the answers with request.get_response_sender().",
                "去掉 decoupled，或用 request.get_response_sender() 发送响应。",
            ),
        )


def _vocabulary(model: ModelFolder, file: PythonFile, tree: ast.Module) -> Iterator[Finding]:
    """FasterTransformer's older GPT models read GPT-2's vocabulary out of the folder that model.py lies in."""
    there = model.versions.get(file.path.split("/")[1], ())
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        name = node.value
        if name in _VOCABULARY and name not in there:
            own = _VOCABULARY[name]
            yield error(
                file.path,
                None,
                (
                    f"It reads {name} out of its own folder, where that is not.",
                    f"它从所在文件夹读取 {name}，但该文件不存在。",
                ),
                (f"Copy the model's {own} there, under that name.", f"将模型的 {own} 以该文件名复制到此处。"),
                node.lineno,
            )


def _tokenizers(repository: Repository, file: PythonFile, tree: ast.AST) -> Iterator[Finding]:
    for constant in tokenizer_paths(tree):
        path = str(constant.value)
        if not path.startswith("/"):
            kind = path.startswith((".", "~"))
            yield warning(
                file.path,
                "from_pretrained",
                (
                    f"“{path}” is relative to wherever the server is started."
                    if kind
                    else f"“{path}” is looked up on a hub each time the server starts.",
                    f"“{path}”相对于启动服务时的目录。" if kind else f"每次启动服务都会从模型站查找“{path}”。",
                ),
                ("Name a folder by its whole path.", "请填写文件夹的绝对路径。"),
                constant.lineno,
            )
            continue
        entries = repository.entries(path)
        if entries is None:
            yield error(
                file.path,
                "from_pretrained",
                (f"The tokenizer's folder {path} is not there.", f"分词器文件夹 {path} 不存在。"),
                _MOUNT,
                constant.lineno,
            )
        elif not any(name in entries for name in _TOKENIZER_FILES):
            yield error(
                file.path,
                "from_pretrained",
                (f"{path} holds no tokenizer.", f"{path} 中没有分词器。"),
                (
                    "Name the folder of the original model, which holds tokenizer.json or tokenizer.model.",
                    "请填写原模型的文件夹，其中含有 tokenizer.json 或 tokenizer.model。",
                ),
                constant.lineno,
            )
