"""Triton's releases and what their images hold: assets/releases.csv and the CUDA and driver tables beside it.

A release has up to three images that matter here (variants), each with its own CUDA: `-py3`, `-trtllm-python-py3` and
`-vllm-python-py3`. Whatever is inferred and not read on a page for that very release says so.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Literal

from backends import tables
from backends.spec import Frozen
from backends.tables import Version

Variant = Literal["py3", "trtllm-python-py3", "vllm-python-py3"]
VARIANTS: tuple[Variant, ...] = ("py3", "trtllm-python-py3", "vllm-python-py3")
REPOSITORY = "nvcr.io/nvidia/tritonserver"

_COLUMNS: dict[Variant, tuple[str, str, str]] = {  # columns of a variant's CUDA, driver and engine version
    "py3": ("cuda_version", "min_driver", ""),
    "trtllm-python-py3": ("trtllm_cuda", "trtllm_driver", "tensorrt_llm_version"),
    "vllm-python-py3": ("vllm_cuda", "vllm_driver", "vllm_version"),
}


class Image(Frozen):
    """One tag. `driver` is the branch that it was built for: that or a newer one runs it natively.

    `inferred`: CUDA, driver or the tag itself was not read on a page for this release. `page_drivers` is what the
    release page promises to data-centre GPUs, kept although it is often stale: (branch, first version) pairs.
    """

    release: str
    variant: Variant
    cuda: str
    driver: str
    inferred: bool
    min_sm: int
    engine_version: str | None = None
    python: str | None = None
    triton: str = ""
    tensorrt: str | None = None
    page_drivers: tuple[str, ...] = ()
    source: str = ""

    @property
    def tag(self) -> str:
        """The tag without the repository: "23.04-py3"."""
        return f"{self.release}-{self.variant}"

    @property
    def branch(self) -> int:
        return tables.version(self.driver)[0]

    @property
    def cuda_minor(self) -> str:
        """CUDA's major and minor version: "12.1"."""
        return ".".join(self.cuda.split(".")[:2])

    @property
    def cuda_release(self) -> str:
        """CUDA's version as people write it, without the build: "12.1.0"."""
        return ".".join(self.cuda.split(".")[:3])

    @property
    def months(self) -> int:
        """The release as a count of months, so that two of them can be subtracted."""
        year, month = self.release.split(".")
        return int(year) * 12 + int(month)


class Forward(Frozen):
    """The driver branches that the forward-compatibility library of one CUDA accepts on data-centre GPUs."""

    branches: frozenset[int]
    inferred: bool


class Support(Frozen):
    """Which drivers know a GPU: the first and the last branch (None: no such limit), and the CUDA that it needs."""

    needs_cuda: str
    first: int | None = None
    last: int | None = None
    named_from: str | None = None  # the first release whose page names the GPU
    inferred: bool = False
    doubtful: bool = False
    igpu: bool = False  # a Jetson board: only the -igpu tags run there


class Table(Frozen):
    """All that is known of images and drivers. Images are in the order of the file, oldest first."""

    images: tuple[Image, ...]
    forward: dict[str, Forward]
    cuda_drivers: dict[str, str]  # CUDA version -> the driver that it ships with
    minor_floors: dict[int, str]  # CUDA major -> the oldest driver for minor-version compatibility
    support: dict[int, Support]  # SM -> drivers
    long_lived: tuple[int, ...]

    def of(self, variant: Variant) -> tuple[Image, ...]:
        """The images of one variant, oldest first."""
        return tuple(image for image in self.images if image.variant == variant)

    def supported(self, sm: int) -> Support | None:
        """What is known of the drivers for a GPU; None for an SM that the table lacks."""
        return self.support.get(sm)

    def cuda_of_branch(self, branch: int) -> str | None:
        """The highest CUDA that a driver branch runs natively, "12.2" for 535. None: older than the table."""
        best: tuple[int, Version] | None = None
        for cuda, driver in self.cuda_drivers.items():
            candidate = (tables.version(driver)[0], tables.version(cuda)[:2])
            if candidate[0] <= branch and (best is None or candidate > best):
                best = candidate
        return None if best is None else ".".join(map(str, best[1]))

    def driver_of_cuda(self, cuda: str) -> str | None:
        """The driver that a CUDA version ships with: of the exact version, else of the first with its major.minor."""
        exact = ".".join(cuda.split(".")[:3])
        minor = ".".join(cuda.split(".")[:2])
        near = (driver for known, driver in self.cuda_drivers.items() if known.split(".")[:2] == minor.split("."))
        return self.cuda_drivers.get(exact) or next(near, None)

    def listed(self, cuda: str, branch: int) -> Literal["yes", "inferred", "no", "not known"]:
        """Whether `branch` is on the list that `cuda` (major.minor) is forward compatible with.

        Where the list of that CUDA is not known, a branch that is on neither neighbour's list is taken as "no":
        branches leave these lists when they grow old, and short-lived ones were never on them.
        """
        entry = self.forward.get(cuda)
        if entry is not None:
            return ("inferred" if entry.inferred else "yes") if branch in entry.branches else "no"
        wanted = tables.version(cuda)
        earlier = [known for known in self.forward if tables.version(known) < wanted]
        later = [known for known in self.forward if tables.version(known) > wanted]
        neighbours = [*sorted(earlier, key=tables.version)[-1:], *sorted(later, key=tables.version)[:1]]
        near = any(branch in self.forward[known].branches for known in neighbours)
        return "not known" if near else "no"


@cache
def load(folder: Path = tables.ASSETS) -> Table:
    """The tables of `folder`. Raises BadInput or ValueError where a file is not well formed: `make check-releases`."""
    drivers = tomllib.loads((folder / "drivers.toml").read_text(encoding="utf-8"))
    support = {
        sm: Support.model_validate({key: value for key, value in entry.items() if key in Support.model_fields})
        for entry in drivers["support"]
        for sm in entry["sm"]
    }
    return Table(
        images=tuple(_images(folder / "releases.csv")),
        forward=_forward(folder / "forward_compatibility.csv"),
        cuda_drivers={
            tables.cell(row, "cuda")[0]: tables.cell(row, "driver")[0]
            for _, row in tables.rows(folder / "cuda_drivers.csv")
        },
        minor_floors={int(major): floor for major, floor in drivers["minor_version"]["floors"].items()},
        support=support,
        long_lived=tuple(drivers["long_lived"]["branches"]),
    )


def _images(path: Path) -> list[Image]:
    images = []
    for _, row in tables.rows(path):
        tags = {tables.plain(item)[0]: tables.plain(item)[1] for item in row["variants"].split(";")}
        capability, _ = tables.cell(row, "min_compute_capability")
        for variant in VARIANTS:
            if variant not in tags:
                continue
            cuda_column, driver_column, engine_column = _COLUMNS[variant]
            cuda, cuda_inferred = tables.cell(row, cuda_column)
            driver, driver_inferred = tables.cell(row, driver_column)
            if not cuda or not driver:  # no page for this variant: the month's py3 image stands in
                cuda, driver = tables.cell(row, "cuda_version")[0], tables.cell(row, "min_driver")[0]
                cuda_inferred = True
            elif variant == "py3":  # the floor follows from the CUDA; only the CUDA itself can be uncertain
                driver_inferred = False
            images.append(
                Image(
                    release=row["release"],
                    variant=variant,
                    cuda=cuda,
                    driver=driver,
                    inferred=cuda_inferred or driver_inferred or tags[variant],
                    min_sm=int(capability.replace(".", "")),
                    engine_version=tables.cell(row, engine_column)[0] or None,
                    python=tables.cell(row, "python_version")[0] or None,
                    triton=tables.cell(row, "triton_version")[0],
                    tensorrt=tables.cell(row, "tensorrt_version")[0] or None,
                    page_drivers=tables.items(row.get("data_center_drivers", "")),
                    source=row.get("source", ""),
                )
            )
    return images


def _forward(path: Path) -> dict[str, Forward]:
    found = {}
    for _, row in tables.rows(path):
        _, inferred = tables.cell(row, "branches")
        branches = frozenset(int(item) for item in tables.items(row["branches"]))
        found[row["cuda"]] = Forward(branches=branches, inferred=inferred)
    return found


def problems(folder: Path = tables.ASSETS) -> list[str]:
    """What is not consistent in the tables of `folder`, one line each, with file and line. Empty: all is well."""
    found: list[str] = []
    lines = list(tables.rows(folder / "releases.csv"))
    for line, row in lines:
        found += [f"releases.csv line {line}: {words}" for words in _row_problems(row)]
    names = [row.get("release", "") for _, row in lines]
    found += [f"releases.csv: {name} is there twice" for name in sorted({n for n in names if names.count(n) > 1})]
    if names != sorted(names):
        found.append("releases.csv: rows are not in the order of their releases")
    if found:
        return found
    table = load(folder)
    cudas = {image.cuda_minor for image in table.images}
    for image in table.images:
        ships_with = table.driver_of_cuda(image.cuda)
        if ships_with is None:
            found.append(f"{image.tag}: cuda_drivers.csv has no CUDA {image.cuda_minor}")
        elif tables.version(ships_with)[0] != image.branch and image.tag not in _KNOWN_SLIPS:
            found.append(f"{image.tag}: CUDA {image.cuda} ships with {ships_with}, the row says {image.driver}")
        if tables.version(image.cuda)[0] not in table.minor_floors:
            found.append(f"{image.tag}: drivers.toml has no minor-version floor for its CUDA {image.cuda}")
    found += [f"forward_compatibility.csv: no release has CUDA {cuda}" for cuda in sorted(set(table.forward) - cudas)]
    for cuda, forward in table.forward.items():
        own = tables.version(table.driver_of_cuda(cuda) or "0")[0]
        late = sorted(branch for branch in forward.branches if branch >= own)
        found += [f"forward_compatibility.csv: CUDA {cuda} ships with R{own} and lists R{branch}" for branch in late]
    return found


_KNOWN_SLIPS = {"24.11-trtllm-python-py3"}  # the published table gives it an R555 driver beside CUDA 12.6.3
_NEEDED = ("release", "triton_version", "cuda_version", "min_driver", "min_compute_capability", "variants", "source")


def _row_problems(row: dict[str, str]) -> list[str]:
    found = [f"{name} is empty" for name in _NEEDED if not row.get(name)]
    if not re.fullmatch(r"2\d\.(0[1-9]|1[0-2])", row.get("release", "")):
        found.append(f"release “{row.get('release', '')}” is not written as YY.MM")
    versions = (
        "cuda_version",
        "min_driver",
        "trtllm_cuda",
        "trtllm_driver",
        "vllm_cuda",
        "vllm_driver",
        "python_version",
    )
    for name in versions:
        cell, _ = tables.cell(row, name)
        if cell and not re.fullmatch(r"\d+(\.\d+)*", cell):
            found.append(f"{name} “{cell}” is not a version")
    for one, other in (("trtllm_cuda", "trtllm_driver"), ("vllm_cuda", "vllm_driver")):
        if bool(row.get(one)) != bool(row.get(other)):
            found.append(f"{one} and {other} go together: one of them is empty")
    if not re.fullmatch(r"\d\.\d~?", row.get("min_compute_capability", "")):
        found.append("min_compute_capability is not written as 7.5")
    if "py3" not in tables.items(row.get("variants", "")):
        found.append("variants does not name py3")
    return found
