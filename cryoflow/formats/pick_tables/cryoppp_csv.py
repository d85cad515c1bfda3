"""CryoPPP's and CryoSegNet's labels: CSV with `X-Coordinate,Y-Coordinate,Diameter`, one file a micrograph.

y counts from the last row of the MRC file: its authors turn images upside-down when they load them.

Source: cryoppp (README, issue 3), cryosegnet (utils/denoise.py).
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.text import column_of_numbers, median, read_frame, required_column


def read(path: Path) -> FilePicks:
    """Read the labels of one micrograph."""
    frame = read_frame(path)
    return FilePicks(
        FORMAT.name,
        column_of_numbers(path, "x-coordinate", required_column(path, frame, "x-coordinate")),
        column_of_numbers(path, "y-coordinate", required_column(path, frame, "y-coordinate")),
        diameter_px=median(column_of_numbers(path, "diameter", frame["diameter"])) if "diameter" in frame else None,
        y_is_flipped=True,
    )


def _sniff(head: Head) -> bool:
    return {"x-coordinate", "y-coordinate"} <= set(head.labels)


FORMAT = PickFormat(
    name="CryoPPP CSV",
    programs=("CryoPPP", "CryoSegNet"),
    suffixes=(".csv",),
    recognized_by="a first line with `X-Coordinate` and `Y-Coordinate`",
    sniff=_sniff,
    read=read,
    position="center",
    y_counts_from="last row",
    kept="center, median diameter",
    not_kept="angles, origins, defocus",
    marks="files in `false_positives`, or named so, are kept apart and labeled -1",
    priority=10,
)
