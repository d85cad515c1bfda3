"""Pick sets as particle STAR files in RELION's layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.formats.star_write import write_star
from cryoflow.picks import PickSet


def write_particles(picks: PickSet, path: str | Path) -> Path:
    """Write picks as particles and optics in RELION's layout (3.1 and later), complete or not at all.

    Columns whose values are not known for all micrographs are left out. Optics groups are the distinct combinations of
    pixel size, voltage, spherical aberration and amplitude contrast.
    """
    table = picks.micrographs
    labels = {
        "pixel_size_A": "rlnMicrographPixelSize",
        "voltage_kV": "rlnVoltage",
        "cs_mm": "rlnSphericalAberration",
        "amplitude_contrast": "rlnAmplitudeContrast",
    }
    known = [column for column in labels if len(table) and table[column].notna().all()]
    group = table.groupby(known, sort=False).ngroup().to_numpy() if known else np.zeros(len(table), int)
    first = table.iloc[np.unique(group, return_index=True)[1].tolist()]
    optics: dict[str, npt.ArrayLike] = {
        "rlnOpticsGroupName": np.array([f"opticsGroup{i + 1}" for i in range(len(first))], object),
        "rlnOpticsGroup": np.arange(1, len(first) + 1),
    }
    optics |= {labels[column]: first[column].to_numpy(np.float64) for column in known}
    row = picks.picks["micrograph"].to_numpy()
    particles: dict[str, npt.ArrayLike] = {
        "rlnCoordinateX": picks.picks["x_px"].to_numpy(),
        "rlnCoordinateY": picks.picks["y_px"].to_numpy(),
        "rlnMicrographName": table["name"].to_numpy(object)[row],
        "rlnOpticsGroup": group[row] + 1,
    }
    if "score" in picks.picks:
        particles["rlnAutopickFigureOfMerit"] = np.nan_to_num(picks.picks["score"].to_numpy(), nan=-999.0)
    write_star(path, {"optics": optics, "particles": particles}, comment="version 30001", decimals=6)
    return Path(path)
