"""Checks a Triton model repository, with no GPU and no server: what is wrong, where, and how to mend it.

`lint(folder)` reads; the checks themselves are pure and lie in rooms beside this one, one for each matter. A new check
is a function from a Repository to findings, named in CHECKS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from backends.lint import configs, ensembles, fastertransformer, python_models, tensorrt_llm
from backends.lint.finding import Finding
from backends.lint.reading import Repository, read_repository

__all__ = ["CHECKS", "Finding", "lint", "look"]

Check = Callable[[Repository], Iterator[Finding]]
CHECKS: tuple[Check, ...] = (
    configs.check,
    python_models.check,
    ensembles.check,
    fastertransformer.check,
    tensorrt_llm.check,
)


def lint(folder: Path, mounts: Mapping[str, str] | None = None) -> tuple[Finding, ...]:
    """Every finding in the model repository of `folder`, errors first.

    `mounts`: where the server runs in a container, which folders of this machine (values) it sees as what (keys).
    Raises BadInput where there is no such folder.
    """
    return look(read_repository(folder, mounts))


def look(repository: Repository) -> tuple[Finding, ...]:
    """Every finding in a repository that was read already, errors first, then by file."""
    found = [finding for check in CHECKS for finding in check(repository)]
    return tuple(sorted(found, key=lambda one: (one.severity != "error", one.file, one.line or 0)))
