"""Small projects for tests of learning: dark particles on noise, in a database with picking jobs and refinements."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.database import Database
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

PIXEL_A, DIAMETER_A = 4.0, 160.0  # 40 pixels a diameter
SHAPE_YX = (300, 460)
Points = npt.NDArray[np.float64]


def add_project(
    database: Database,
    folder: Path,
    project: str,
    *,
    seed: int,
    n: int = 8,
    sigma_px: float = 10.0,
    diameter_A: float = DIAMETER_A,
    labels: Callable[[Points, np.random.Generator], Points] = lambda xy, _: xy,
    names: str = "{:02d}.mrc",
    images_of: Path | None = None,
    n_false: int = 0,
    n_missing: int = 0,
) -> Path:
    """Add a project with `n` micrographs; `labels` turns the true centers into those that its refinement has.

    The files of the first `n_missing` are not known.
    """
    home = folder / project
    home.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    y, x = np.indices(SHAPE_YX)
    kept, seen = [], []
    for i in range(n):
        xy = _places(rng)
        image = rng.normal(50, 5, SHAPE_YX)
        for cx, cy in xy:
            image -= 12 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 2 / sigma_px**2)
        if images_of is None:
            write_mrc(home / names.format(i), image.astype(np.float32), PIXEL_A)
        else:
            (home / names.format(i)).write_bytes((images_of / f"{i:02d}.mrc").read_bytes())
        given = labels(xy, rng)
        kept += [(i, *p) for p in given]
        seen += [(i, *p) for p in given + rng.normal(0, 1, given.shape)]
        seen += [(i, *p) for p in _elsewhere(xy, n_false, rng)]
    for kind, job, rows in ((Kind.REFINE_3D, "job010", kept), (Kind.AUTO_PICK, "job003", seen)):
        database.add(_picks(home, project, kind, job, rows, n, diameter_A, names, n_missing))
    return home


def swapped(xy: Points, _: np.random.Generator) -> Points:
    """Axes swapped, as of an import that takes rows for columns."""
    turned = xy[:, ::-1]
    return turned[(turned < SHAPE_YX[::-1]).all(axis=1)]


def at_random(xy: Points, rng: np.random.Generator) -> Points:
    """Labels that have nothing to do with the pixels."""
    return rng.uniform(20, np.array(SHAPE_YX[::-1]) - 20, xy.shape)


def _places(rng: np.random.Generator) -> Points:
    found: list[Points] = []
    while len(found) < 9:
        place = rng.uniform(30, np.array(SHAPE_YX[::-1]) - 30)
        if all(np.linalg.norm(place - other) > 55 for other in found):
            found.append(place)
    return np.array(found)


def _elsewhere(xy: Points, n: int, rng: np.random.Generator) -> list[Points]:
    """Places without a particle, which a picking job took for some."""
    found: list[Points] = []
    while len(found) < n:
        place = rng.uniform(30, np.array(SHAPE_YX[::-1]) - 30)
        if np.linalg.norm(xy - place, axis=1).min() > 35:
            found.append(place)
    return found


def _picks(
    home: Path,
    project: str,
    kind: Kind,
    job: str,
    rows: list[tuple[float, ...]],
    n: int,
    diameter_A: float,
    names: str,
    n_missing: int,
) -> PickSet:
    files = [names.format(i) for i in range(n)]
    table = micrograph_table(
        {
            "name": files,
            "path": [None] * n_missing + [str(home / f) for f in files[n_missing:]],
            "status": ["missing"] * n_missing + ["found"] * (n - n_missing),
            "ny": [SHAPE_YX[0]] * n,
            "nx": [SHAPE_YX[1]] * n,
            "pixel_size_A": [PIXEL_A] * n,
        }
    )
    where = Provenance("relion", home, project, job, kind)
    found = pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px"])
    return PickSet.build(where, table, found, diameter_A=diameter_A)
