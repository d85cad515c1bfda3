"""Xmipp's and Scipion's `.pos`: a metadata file with the centers of one micrograph.

The block `data_particles` holds picks by hand, `data_particles_auto` those of the program; both are read. `_enabled`
-1 marks what was switched off.

Source: Xmipp and Scipion (readPosCoordinates, openMd in scipion-em-xmipp's convert module).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.star_text import drop_disabled, read_position_blocks
from cryoflow.formats.star import Table

_LABELS = (("xcoor", "ycoor"), ("Xcoor", "Ycoor"), ("x", "y"))


def _labels(head: Head) -> tuple[str, str] | None:
    return next((labels for labels in _LABELS if head.has_block(*labels)), None)


def read(path: Path) -> FilePicks:
    """Read the centers of one micrograph."""
    x, y = _labels(Head.of(path)) or _LABELS[0]
    table, notes, _, is_negative = read_position_blocks(path, (x, y), optional=("cost", "enabled"))
    counts: dict[str, int] = {}
    drop_disabled(table, "enabled", counts)
    cost = _cost(table)
    return FilePicks(
        FORMAT.name,
        np.asarray(table[x], np.float64),
        np.asarray(table[y], np.float64),
        cost,
        "Xmipp cost" if cost is not None else "",
        label=-1 if is_negative else None,
        notes=tuple(notes),
        counts=counts,
    )


def _cost(table: Table) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """Return the score of picks that the program made; picks by hand have a cost of 0 or -1."""
    if "cost" not in table:
        return None
    cost = np.asarray(table["cost"], np.float64).copy()
    cost[cost <= 0] = np.nan
    return cost if np.isfinite(cost).any() else None


def _sniff(head: Head) -> bool:
    return _labels(head) is not None


FORMAT = PickFormat(
    name="Xmipp pos",
    programs=("Xmipp", "Scipion"),
    suffixes=(".pos",),
    recognized_by="a STAR block with `_xcoor` and `_ycoor`",
    sniff=_sniff,
    read=read,
    position="center",
    score="`_cost` of picks that the program made",
    marks="`_enabled` -1: left out and counted as `switched_off`",
    blocks="`data_particles` and `data_particles_auto`",
    kept="center, cost",
    not_kept="state of the micrograph, ids",
    rounding_px=0.5,
)
