"""Micrographs with several names in one set of picks that are one file: imported twice, or linked."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.picks import ExtractedSample

_UID_DIGITS = 21


def merge_names(
    columns: dict[str, npt.NDArray[np.generic]], micrographs: pd.DataFrame, extracted: ExtractedSample | None
) -> tuple[pd.DataFrame, ExtractedSample | None, tuple[str, ...]]:
    """Return one row for each file: the first of its names stays, and gets the picks of all.

    Only names that are alike without folders and CryoSPARC's prefixes are looked at, since a link is rarely renamed,
    and each look costs a question to the disk. Copies are files of their own, and stay apart.

    Parameters
    ----------
    columns
        Of a pick table; its `micrograph` is changed in place.
    micrographs
        The table that it points into, sorted by name.
    extracted
        Some of the picks as they were extracted, by the names of their micrographs.

    Returns
    -------
    micrographs, extracted
        With the names that are left.
    notes
        On what was merged.
    """
    names = micrographs["name"].to_numpy()
    there = (micrographs["status"] == "found").to_numpy() & micrographs["path"].notna().to_numpy()
    alike: dict[str, list[int]] = {}
    for row in np.flatnonzero(there).tolist():
        alike.setdefault(_plain(str(names[row])), []).append(row)
    becomes = np.arange(len(names))
    for rows in alike.values():
        first: dict[tuple[int, int], int] = {}
        for row in rows if len(rows) > 1 else ():
            try:
                status = os.stat(micrographs["path"].iloc[row])
            except OSError:
                continue
            becomes[row] = first.setdefault((status.st_dev, status.st_ino), row)
    stays = becomes == np.arange(len(names))
    if stays.all():
        return micrographs, extracted, ()
    place = np.cumsum(stays) - 1
    columns["micrograph"] = place[becomes][columns["micrograph"].astype(np.intp)].astype(np.int32)
    if extracted is not None:
        called = {str(name): str(names[to]) for name, to in zip(names, becomes, strict=True)}
        extracted = replace(extracted, micrographs=tuple(called[name] for name in extracted.micrographs))
    n = len({int(to) for to in becomes[~stays]})
    which = "1 micrograph is" if n == 1 else f"{n} micrographs are"
    note = f"{which} known under two names or more ({names[~stays][0]}, ...); each file counts once"
    return micrographs[stays].reset_index(drop=True), extracted, (note,)


def _plain(name: str) -> str:
    """Return a name without folders and CryoSPARC's uids, at the speed of tens of thousands."""
    name = name.rpartition("/")[2]
    while len(name) > _UID_DIGITS and name[_UID_DIGITS] == "_" and name[:_UID_DIGITS].isdigit():
        name = name[_UID_DIGITS + 1 :]
    return name
