"""Evaluation on CryoPPP (Dhakal et al. 2023, Scientific Data 10, 392): expert labels of 34 EMPIAR sets.

    TREE/<EMPIAR id>/micrographs/*.mrc
    TREE/<EMPIAR id>/ground_truth/particle_coordinates/<stem>.csv     columns X-Coordinate, Y-Coordinate, Diameter
    TREE/<EMPIAR id>/ground_truth/false_positives/<stem>.csv          the same, of picks that experts refused

Positions count y from the last row, in pixels. A micrograph without a table has no particle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.detector.bundle import Detector
from cryoflow.detector.estimate_diameter import estimate_diameter
from cryoflow.detector.evaluate import figures_of
from cryoflow.detector.loading import MicrographToPick
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.detector.pick_metrics import ScoredDetections
from cryoflow.errors import BadInput
from cryoflow.formats.pick_tables import read_file
from cryoflow.micrographs.image import MicrographFile


def evaluate_tree(
    detector: Detector, tree: Path, diameters_A: Mapping[str, float] | None = None
) -> Iterator[dict[str, object]]:
    """Pick each set of a tree; yield one record of figures a set.

    Parameters
    ----------
    diameters_A
        By EMPIAR id. Sets without one take the diameter of their tables, and where these have none, an estimate.

    Raises
    ------
    BadInput
        Where the folder holds no set of CryoPPP's layout.
    """
    sets = sorted(p for p in tree.iterdir() if (p / "micrographs").is_dir()) if tree.is_dir() else []
    if not sets:
        raise BadInput(tree, "holds no set of CryoPPP's layout.", "Name the folder that holds <EMPIAR id>/micrographs.")
    for folder in sets:
        yield _evaluate_set(detector, folder, (diameters_A or {}).get(folder.name))


def _evaluate_set(detector: Detector, folder: Path, diameter_A: float | None) -> dict[str, object]:
    paths = sorted((folder / "micrographs").glob("*.mrc"))
    items = [MicrographToPick(p.name, p) for p in paths]
    if not items:
        raise BadInput(folder / "micrographs", "holds no micrograph (.mrc).")
    origin = "given"
    if diameter_A is None:
        diameter_A, origin = _tabulated(folder, paths), "tables"
    if diameter_A is None:
        diameter_A, origin = estimate_diameter(detector, items).diameter_A, "estimated"
    scored: list[ScoredDetections] = []
    failed = 0
    for path, result in zip(paths, pick(detector, items, diameter_A), strict=True):
        if not isinstance(result, PickedResult):
            failed += 1
            continue
        truth = _labels(folder / "ground_truth" / "particle_coordinates" / f"{path.stem}.csv", result.shape_yx[0])
        diameter_px = diameter_A / result.pixel_size_A
        scored.append(
            ScoredDetections(result.xy_px, result.probability, truth, np.zeros((0, 2)), diameter_px, folder.name)
        )
    if not scored:
        raise BadInput(folder / "micrographs", "holds no micrograph that can be picked.")
    return {
        "set": folder.name,
        "micrographs": len(scored),
        "not_picked": failed,
        "diameter_A": round(diameter_A, 1),
        "diameter_from": origin,
        **figures_of(scored),
    }


def _labels(file: Path, n_rows: int) -> npt.NDArray[np.float64]:
    """Return positions in our frame; none where there is no table."""
    if not file.is_file():
        return np.zeros((0, 2))
    found = read_file(file)
    xy = np.stack([found.x_px, found.y_px], axis=1)
    if found.y_is_flipped:
        xy[:, 1] = n_rows - 1 - xy[:, 1]
    return xy


def _tabulated(folder: Path, paths: list[Path]) -> float | None:
    """Return the diameter in angstrom that the tables state, None where they do not."""
    for path in paths:
        file = folder / "ground_truth" / "particle_coordinates" / f"{path.stem}.csv"
        if file.is_file():
            found = read_file(file)
            pixel_size_A = MicrographFile.open(path).header.pixel_size_A
            if found.diameter_px and pixel_size_A:
                return float(found.diameter_px) * pixel_size_A
    return None
