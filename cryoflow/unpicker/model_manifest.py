"""The micrographs that a model was trained on, as a table with one line for each."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryoflow.storage import inputs
from cryoflow.unpicker.patch_cache import CachedMicrograph


@dataclass(frozen=True)
class ManifestRow:
    """One micrograph of the training set."""

    part: str
    data_set: str
    name: str
    n_positive: int
    n_negative: int
    n_unlabeled: int
    defocus_A: float
    pixel_size_A: float
    diameter_A: float
    content: str

    @classmethod
    def of(cls, part: str, cached: CachedMicrograph) -> ManifestRow:
        """Return the row of a prepared micrograph."""
        m = cached.micrograph
        counts = (m.count(1), m.count(-1), m.count(0))
        return cls(part, m.data_set, m.name, *counts, m.defocus_A, m.pixel_size_A, m.diameter_A, cached.content)


_COLUMNS: Sequence[str] = tuple(f.name for f in dataclasses.fields(ManifestRow))


_OLD_COLUMNS = {"n_right": "n_positive", "n_wrong": "n_negative", "n_not_known": "n_unlabeled"}
"""Columns of version 0.1, still read."""


def manifest_text(rows: Sequence[ManifestRow]) -> str:
    """Return the table of micrographs, tab-separated, its head line first."""
    lines = ["\t".join(_COLUMNS)]
    for row in rows:
        cells = (getattr(row, c) for c in _COLUMNS)
        lines.append(
            "\t".join(
                f"{c:.9g}" if isinstance(c, float) else json.dumps(c)[1:-1] if isinstance(c, str) else str(c)
                for c in cells
            )
        )
    return "\n".join(lines) + "\n"


def read_manifest(path: Path) -> tuple[ManifestRow, ...]:
    """Read what `manifest_text` wrote, or version 0.1 of cryoflow.

    Raises
    ------
    OSError, ValueError
        Where the file cannot be read or is no such table.
    """
    lines = inputs.read_text(path).splitlines()
    columns = [_OLD_COLUMNS.get(c, c) for c in lines[0].split("\t")] if lines else []
    if tuple(columns) != tuple(_COLUMNS):
        raise ValueError(f"unexpected head line of {path.name}")
    kinds = {
        "n_positive": int,
        "n_negative": int,
        "n_unlabeled": int,
        "defocus_A": float,
        "pixel_size_A": float,
        "diameter_A": float,
    }
    rows = []
    for line in lines[1:]:
        cells = dict(zip(_COLUMNS, line.split("\t"), strict=True))
        rows.append(ManifestRow(**{k: kinds[k](v) if k in kinds else json.loads(f'"{v}"') for k, v in cells.items()}))
    return tuple(rows)
