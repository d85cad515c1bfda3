"""A tiny set of real micrographs with dark blobs in known places, on non-square pixels, and the real pickers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from blob_micrographs import SHAPE_YX, blobs, grid_centers

from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table


@pytest.fixture
def make_entry(tmp_path: Path) -> Callable[..., PickSet]:
    """Makes one entry with its micrographs on disk; the last `n_empty` of them have no particles."""

    def make(
        project: str = "P12",
        job: str = "J51",
        n: int = 6,
        *,
        n_empty: int = 1,
        pixel_size_A: float = 4.0,
        diameter_A: float = 100.0,
        shape_yx: tuple[int, int] = SHAPE_YX,
        seed: int = 0,
        suffix: str = ".mrc",
        names: list[str] | None = None,
    ) -> PickSet:
        rng = np.random.default_rng(seed)
        folder = tmp_path / "projects" / project / "mics"
        folder.mkdir(parents=True, exist_ok=True)
        names = names or [f"mic_{i}{suffix}" for i in range(n)]
        rows, picks = [], []
        for i, name in enumerate(names):
            xy = grid_centers(shape_yx, int(2 * diameter_A / pixel_size_A), int(diameter_A / pixel_size_A), rng)
            xy = xy[:0] if i >= len(names) - n_empty else xy
            write_mrc(folder / name, blobs(shape_yx, xy, 0.45 * diameter_A / pixel_size_A, rng), pixel_size_A)
            rows.append(
                {"name": f"mics/{name}", "path": str(folder / name), "status": "found", "defocus_u_A": 1e4 + 1e3 * i}
            )
            picks.append(
                pd.DataFrame({"micrograph": i, "x_px": xy[:, 0], "y_px": xy[:, 1], "score": rng.random(len(xy))})
            )
        table = pd.DataFrame(rows)
        micrographs = micrograph_table(
            {c: table[c].tolist() for c in table}
            | {"defocus_v_A": table["defocus_u_A"].tolist(), "pixel_size_A": [pixel_size_A] * len(names)}
            | {"ny": [shape_yx[0]] * len(names), "nx": [shape_yx[1]] * len(names)}
            | {"uid": [str(10**18 + i) for i in range(len(names))], "voltage_kV": [300.0] * len(names)}
            | {"cs_mm": [2.7] * len(names), "amplitude_contrast": [0.1] * len(names)}
        )
        where = Provenance("cryosparc", tmp_path / "projects" / project, project, job, Kind.HOMO)
        return PickSet.build(where, micrographs, pd.concat(picks, ignore_index=True), diameter_A=diameter_A)

    return make


@pytest.fixture(scope="session")
def real_pickers() -> Path:
    """Folder of the real pickers' commands: `bin` of $PICKERS_DIR, else where `topaz` is on PATH."""
    home = Path(os.environ.get("PICKERS_DIR", "/var/tmp/testbed-pickers")) / "bin"
    if (home / "topaz").exists():
        return home
    found = shutil.which("topaz")
    if found is None:
        pytest.skip(f"the real pickers are not installed in {home} (set PICKERS_DIR)")
    return Path(found).parent
