"""Where FasterTransformer comes from: one profile for each branch that a guide follows.

The data is assets/fastertransformer/sources.toml. Pure, but for reading that file once.
"""

from __future__ import annotations

import tomllib
from functools import cache
from typing import Any, Literal

from backends import tables
from backends.spec import Frozen

Family = Literal["llama", "gptj", "t5"]
FAMILIES: tuple[Family, ...] = ("llama", "gptj", "t5")


class Origin(Frozen):
    """A git repository and the revision that is taken of it."""

    repository: str
    revision: str

    @property
    def name(self) -> str:
        """A folder's name for this revision: the repository's owner, its name, and the revision."""
        parts = self.repository.rstrip("/").removesuffix(".git").split("/")
        return "--".join([*parts[-2:], self.revision.replace("/", "-")[:12]])


class Converter(Frozen):
    """A script of the library; `revision` where it is taken from another one; `packages` that the image lacks."""

    script: str
    revision: str | None = None
    packages: tuple[str, ...] = ()


class RepositoryKind(Frozen):
    """One folder under all_models: who of it is asked, and how. `packages`: its Python models' that the image lacks."""

    template: str
    model: str
    ensemble: bool
    decoupled: bool
    seed: Literal["UINT64", "INT32"] = "UINT64"
    all_inputs: bool = False  # its config.pbtxt marks no input as optional
    packages: tuple[str, ...] = ()
    shapes: dict[str, str] = {}


class Profile(Frozen):
    """One branch: which models it takes, in which images, and what its files are called."""

    name: str
    guide: str
    families: tuple[Family, ...]
    releases: tuple[str, ...]
    backend: Origin
    library: Origin
    precision: Literal["data_type", "is_half"]
    precisions: tuple[str, ...]
    gemm_folder: str | None = None
    gemm_half: bool = False
    gated: bool = False
    head_sizes: tuple[int, ...]
    converters: dict[str, Converter]
    repositories: dict[str, RepositoryKind]


@cache
def profiles() -> dict[str, Profile]:
    """The table: name to profile, the first of a family is the one taken where nobody chose."""
    rows: dict[str, dict[str, object]] = _data()["profile"]
    return {name: Profile.model_validate({"name": name, **row}) for name, row in rows.items()}


def final_flag(release: str) -> bool:
    """Whether a server of this release says on a stream which answer is its last one."""
    return tables.version(release) >= tables.version(str(_data()["final_flag_from"]))


@cache
def _data() -> dict[str, Any]:
    path = tables.ASSETS / "fastertransformer" / "sources.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))
