"""Imports Gradio without the rewriting of its own .pyi files, which is half of its import time.

It also spares the panel from writing into site-packages. Where Gradio has no such function any more, nothing changes.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

_MODULE = "gradio.component_meta"
_FUNCTION = "create_or_modify_pyi"


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module, and makes its function do nothing once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _MODULE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        if hasattr(module, _FUNCTION):
            setattr(module, _FUNCTION, lambda *_: None)


if "gradio" not in sys.modules:
    sys.meta_path.insert(0, _Finder())

import gradio as gr  # noqa: E402  after the finder is in place

sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]

__all__ = ["gr"]
