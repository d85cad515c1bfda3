"""Appion's `.pik`: the peaks that its template correlator and its DoG picker find in one of Leginon's images.

A line of names, then one row a peak: the image, x and y of the center in whole pixels of the full image, and statistics
of the peak. `X.a.pik` holds the best peak of all templates at each place, `X.1.pik`, `X.2.pik`, ... those of a single
template.

Source: Leginon (appion/appionlib/apPeaks.py).
"""

from __future__ import annotations

import re
from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import column_of_names, column_of_numbers, read_frame, required_column

SUFFIX = ".pik"
_LABELS = ("filename", "x", "y", "mean", "stdev", "corr_coeff")
_RUN = re.compile(r"\.(a|\d+)$")


def read(path: Path) -> FilePicks:
    """Read the peaks of one image."""
    frame = read_frame(path)
    numbers = (column_of_numbers(path, name, required_column(path, frame, name)) for name in ("x", "y", "mean"))
    x_px, y_px, score = numbers
    names = column_of_names(required_column(path, frame, "filename"))
    return FilePicks(
        FORMAT.name,
        x_px,
        y_px,
        score,
        "Appion correlation",
        micrographs=names if len(names) else None,
        micrograph="" if len(names) else _RUN.sub("", path.name.removesuffix(SUFFIX)),
    )


def _sniff(head: Head) -> bool:
    return set(_LABELS) <= set(head.labels)


FORMAT = PickFormat(
    name="Appion pik",
    programs=("Appion", "Leginon (through Appion)"),
    suffixes=(SUFFIX,),
    recognized_by="a first line with `filename`, `x`, `y`, `mean`, `stdev` and `corr_coeff`",
    sniff=_sniff,
    read=read,
    position="center",
    score="`mean`, the mean correlation of the peak",
    marks="of a folder, `X.a.pik` is read and the files of single templates (`X.1.pik`) are left out",
    kept="center, score, image",
    not_kept="diameter (in angstrom), template, size and moment of the peak",
    rounding_px=1.0,
    priority=10,
)
