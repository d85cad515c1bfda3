"""Headers of the micrographs of a training set, and which micrographs cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.micrographs.header import MicrographHeader, read_header
from cryoflow.pickers.training_sets.training_set import TIFF_SUFFIXES
from cryoflow.system.threads import on_each_file


def read_headers_of(micrographs: pd.DataFrame) -> tuple[list[MicrographHeader | None], list[str]]:
    """Return header and problem of each micrograph's file, many at once: on a cluster's file system an open takes a
    while."""

    def look(row: tuple[str | None, str | None, float, float]) -> tuple[MicrographHeader | None, str]:
        path, status, ny, nx = row
        if path is None or pd.isna(path):
            return None, f"is {status or 'missing'}."
        if path.lower().endswith(TIFF_SUFFIXES):
            return None, "" if Path(path).exists() else f"is missing: {path}."
        try:
            header = read_header(Path(path))
        except (BadInput, OSError) as error:
            return None, f"cannot be read: {error}"
        if header.n_sections != 1:
            return None, f"is a movie of {header.n_sections} frames: {path}."
        if np.isfinite(ny) and np.isfinite(nx) and header.shape_yx != (int(ny), int(nx)):
            return (
                None,
                f"is of {header.shape_yx[0]} x {header.shape_yx[1]} px, its picks of {int(ny)} x {int(nx)}: {path}.",
            )
        return header, ""

    shapes = (micrographs[c].to_numpy(np.float64, na_value=np.nan).tolist() for c in ("ny", "nx"))
    rows = zip(micrographs["path"], micrographs["status"], *shapes, strict=True)
    found = on_each_file(look, rows)
    return [h for h, _ in found], [p for _, p in found]


def fill_from_headers(micrographs: pd.DataFrame, headers: Sequence[MicrographHeader | None]) -> pd.DataFrame:
    """Return shapes that the entry did not know; a pixel size is taken from a header only where the entry has none."""
    no_shape = micrographs["ny"].isna().to_numpy()
    no_pixel_size = micrographs["pixel_size_A"].isna().to_numpy()
    for i in np.flatnonzero(no_shape | no_pixel_size).tolist():
        header = headers[i]
        if header is not None and no_shape[i]:
            micrographs.loc[i, ["ny", "nx"]] = header.shape_yx
        if header is not None and no_pixel_size[i] and header.pixel_size_A not in (None, 1.0):
            micrographs.loc[i, "pixel_size_A"] = header.pixel_size_A
    return micrographs
