"""What a GPU's name says: compute capability and class. The data is assets/gpus.csv; unknown names are asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Literal, get_args

from backends import releases, tables
from backends.errors import BadInput
from backends.spec import Frozen, Gpu, Hardware
from backends.text import Text

Kind = Literal["data_centre", "workstation", "geforce", "jetson"]

_FILE = tables.ASSETS / "gpus.csv"
_MAKERS = {"nvidia", "tesla", "geforce", "grid", "gpu", "graphics", "laptop", "generation", "nvgpu", "developer", "kit"}
_FORMS = {"pcie", "nvl", "sxm", "with", "max", "q", "design", "mobile", "hbm2", "hbm2e", "hbm3", "hbm3e"}
_SIZE = re.compile(r"\d+(g|gb|gib|q|c)|sxm\d")  # 80GB, SXM4, and the profile of a virtual GPU (A10-24Q)


class Known(Frozen):
    """One row of the name table. `sm` as in Gpu; `inferred`: general knowledge, not read on a page."""

    name: str
    sm: int
    kind: Kind
    inferred: bool
    source: str


class Card(Frozen):
    """One GPU as decisions need it: everything known. `kind` None: not known, which counts as no data centre."""

    index: int
    name: str
    sm: int
    kind: Kind | None = None
    data_centre: bool = False
    mig: bool = False

    @property
    def capability(self) -> str:
        """The compute capability as people write it: "8.6"."""
        return f"{self.sm // 10}.{self.sm % 10}"


def known(name: str) -> Known | None:
    """The row for a GPU as a driver or a person names it: memory size, form factor and maker's name do not matter."""
    return _table().get(_key(name))


def cards(hardware: Hardware, gpus: Sequence[int] | None = None) -> tuple[Card, ...]:
    """The machine's GPUs (or those of the given indices), each with SM and class from its facts, else from its name.

    Raises BadInput with field `gpus.N.sm` where neither tells, `gpus` where an index is not there.
    """
    found = [_card(place, gpu) for place, gpu in _chosen(hardware, gpus)]
    return tuple(found)


def _chosen(hardware: Hardware, gpus: Sequence[int] | None) -> list[tuple[int, Gpu]]:
    places = {gpu.index if gpu.index is not None else place: (place, gpu) for place, gpu in enumerate(hardware.gpus)}
    if gpus is None:  # a GPU that fell off the bus has no name; the others are still good
        return [(place, gpu) for place, gpu in enumerate(hardware.gpus) if f"gpus.{place}.name" not in hardware.unknown]
    missing = [index for index in gpus if index not in places]
    if missing:
        there = ", ".join(map(str, places)) or "–"
        raise BadInput(
            "gpus",
            Text(
                en=f"gpus: this machine has no GPU {missing[0]}. There are: {there}.",
                zh=f"gpus：本机没有 GPU {missing[0]}，现有：{there}。",
            ),
        )
    return [places[index] for index in gpus]


def _card(place: int, gpu: Gpu) -> Card:
    row = known(gpu.name)
    sm = gpu.sm if gpu.sm is not None else row.sm if row else None
    if sm is None:
        field = f"gpus.{place}.sm"
        raise BadInput(
            field,
            Text(
                en=f"{field}: the compute capability of “{gpu.name}” is not known.",
                zh=f"{field}：“{gpu.name}”的计算能力未知。",
            ),
            Text(
                en="Give it as one number: 86 for 8.6. nvidia-smi --query-gpu=compute_cap --format=csv shows it.",
                zh="请以一个整数给出，8.6 写作 86。可用 nvidia-smi --query-gpu=compute_cap --format=csv 查看。",
            ),
        )
    kind = row.kind if row else None
    data_centre = gpu.data_centre if gpu.data_centre is not None else kind == "data_centre"
    index = gpu.index if gpu.index is not None else place
    return Card(index=index, name=gpu.name, sm=sm, kind=kind, data_centre=data_centre, mig=bool(gpu.mig))


def _key(name: str) -> str:
    words = re.sub(r"\bmig\b.*|[()]", " ", name.lower()).replace("®", " ").replace("™", " ")
    tokens = [token for token in re.split(r"[\s,_-]+", words) if token]
    return " ".join(token for token in tokens if token not in _MAKERS | _FORMS and not _SIZE.fullmatch(token))


@cache
def _table() -> dict[str, Known]:
    found: dict[str, Known] = {}
    for line, row in tables.rows(_FILE):
        sm, inferred = tables.plain(row["sm"])
        entry = Known.model_validate(
            {"name": row["name"], "sm": int(sm), "kind": row["kind"], "inferred": inferred, "source": row["source"]}
        )
        key = _key(entry.name)
        if key in found and (found[key].sm, found[key].kind) != (entry.sm, entry.kind):
            raise ValueError(f"{_FILE.name} line {line}: {entry.name} is read like {found[key].name}")
        found.setdefault(key, entry)
    return found


def problems() -> list[str]:
    """What is not consistent in the name table, one line each."""
    found = []
    support = releases.load().support
    for line, row in tables.rows(_FILE):
        sm, _ = tables.plain(row["sm"])
        if not sm.isdigit() or int(sm) not in support:
            found.append(f"gpus.csv line {line}: drivers.toml does not know SM “{sm}” of {row['name']}")
        if row["kind"] not in get_args(Kind):
            found.append(f"gpus.csv line {line}: {row['kind']} is not one of {', '.join(get_args(Kind))}")
        if not row["source"]:
            found.append(f"gpus.csv line {line}: {row['name']} has no source")
    return found
