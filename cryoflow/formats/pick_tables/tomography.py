"""Which STAR tables are of tomography: picks in three dimensions, which cryoflow does not read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

# Warp's M names a particle's position for each tilt wrpCoordinateX1, wrpCoordinateY1, wrpCoordinateZ1, ...
_LABEL = re.compile(r"rlnTomo\w+|rlnCenteredCoordinate[XYZ]Angst|rlnCoordinateZ|wrpCoordinateZ\d*|rlnTiltIndex")
_NAMES = (".tomostar", ".rec", ".tomo")
"""Endings of micrograph names in tables of Warp's and M's tilt series."""


def tomography_label(columns: Iterable[str]) -> str:
    """Return the first column that only tomography has; empty where there is none."""
    return next((label for label in columns if _LABEL.fullmatch(label)), "")


def tomography_name(micrographs: Collection[str]) -> str:
    """Return the first micrograph name that is a tilt series or a tomogram; empty where there is none."""
    return next((name for name in micrographs if name.lower().endswith(_NAMES)), "")
