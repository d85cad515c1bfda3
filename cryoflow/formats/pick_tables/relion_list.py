"""RELION's lists of coordinate files: `autopick.star`, `manualpick.star` and, up to 3.1, files `coords_suffix*`.

From RELION 4 on, a STAR file names a coordinate file for each micrograph. Up to 3.1 a file such as
`coords_suffix_autopick.star` says by its name and place where these files are. Both need the project around them.
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat

COLUMN = "rlnMicrographCoordinates"
SUFFIX_FILE = "coords_suffix"


def read(path: Path) -> FilePicks:
    """Refuse: the files are named relative to a project, which the reader of RELION projects knows.

    Raises
    ------
    BadInput
        Always.
    """
    raise BadInput(
        path, "is a list of coordinate files, not a table of picks.", "Name one of the files, or the list's job."
    )


def _sniff(head: Head) -> bool:
    return head.path.name.startswith(SUFFIX_FILE) or head.has_block(COLUMN)


FORMAT = PickFormat(
    name="RELION list of coordinate files",
    programs=("RELION",),
    suffixes=(".star",),
    recognized_by="a STAR block with `_rlnMicrographCoordinates`, or a file name that begins with `coords_suffix`",
    sniff=_sniff,
    read=read,
    position="center",
    score="that of its files",
    kept="the picks of all files that it leads to, in any of these formats",
    priority=15,
    project_reader="relion",
)
