"""CryoSPARC's datasets (`.cs`): positions as fractions of width and height; `micrograph_shape` is (ny, nx).

y counts from the first row of the file that `micrograph_path` names. A group file (`.csg`) names the datasets of one
output; both, and pairs of a dataset with its passthrough, are read with what the project knows.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cryoflow.formats.cs import read_cs, read_cs_header
from cryoflow.formats.cs_csdat import CSDAT_MAGIC
from cryoflow.formats.cs_npy import NPY_MAGIC
from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat

_LOCATION = ("micrograph_path", "micrograph_shape", "center_x_frac", "center_y_frac")
_SCORES = ("pick_stats/ncc_score", "pick_stats/power")
OLD_CSDAT_MAGIC = b"\x94CSDAT"


def read(path: Path) -> FilePicks:
    """Read the picks of a dataset by itself, as pickers write it: no shifts, no other datasets.

    Raises
    ------
    BadInput
        Where it is damaged.
    MissingMetadata
        Where it has no positions.
    """
    wanted = [f"location/{name}" for name in _LOCATION]
    known = read_cs_header(path).dtype.names or ()
    scores = [name for name in _SCORES if name in known][:1]
    columns = read_cs(path, ["uid", *wanted, *scores])
    shape, x_fraction, y_fraction = (np.asarray(columns[name], np.float64) for name in wanted[1:])
    names = columns[wanted[0]].tolist()
    return FilePicks(
        FORMAT.name,
        x_fraction * shape[:, 1],
        y_fraction * shape[:, 0],
        columns[scores[0]].astype(np.float64) if scores else None,
        scores[0] if scores else "",
        uid=columns["uid"].astype(np.uint64),
        micrographs=np.array(
            [n.decode(errors="surrogateescape") if isinstance(n, bytes) else str(n) for n in names], object
        ),
    )


def _sniff(head: Head) -> bool:
    magic = head.start.startswith((NPY_MAGIC, CSDAT_MAGIC, OLD_CSDAT_MAGIC))
    return magic or head.path.suffix.lower() in (".cs", ".csg")


FORMAT = PickFormat(
    name="CryoSPARC dataset",
    programs=("CryoSPARC", "cryosparc-tools"),
    suffixes=(".cs", ".csg"),
    recognized_by="the first bytes of NumPy's or CSDAT's container; `.csg` by its suffix",
    sniff=_sniff,
    read=read,
    position="center",
    units="fraction of the micrograph",
    score="`pick_stats/ncc_score`",
    kept="position minus refined shift, score, class and its posterior, uid, psi of 2D classes, exposure group, CTF",
    not_kept="3D angles; datasets without `location`",
    rounding_px=0.001,
    is_lines=False,
    priority=20,
    project_reader="cryosparc",
)
