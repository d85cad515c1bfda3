"""A small dataset of non-square micrographs with pixels: each particle is a dark blot, and the picks are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.micrographs.image import write_mrc
from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph

SHAPE_YX = (190, 310)
PIXEL_SIZE_A = 2.5
DIAMETER_A = 40.0


@pytest.fixture(scope="session")
def blots(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    """Six micrographs of 190 rows and 310 columns; right picks are off by up to 3 pixels, wrong ones lie on noise."""
    folder = tmp_path_factory.mktemp("blots")
    rng = np.random.default_rng(7)
    return SimulatedDataset("blots", tuple(_micrograph(folder, i, rng) for i in range(6)), DIAMETER_A, seed=7)


def _micrograph(folder: Path, i: int, rng: np.random.Generator) -> SimulatedMicrograph:
    ny, nx = SHAPE_YX
    grid = np.stack(np.meshgrid(np.arange(30, nx - 30, 50), np.arange(30, ny - 30, 45)), -1).reshape(-1, 2)
    places = rng.permutation(grid)[:11] + rng.uniform(-6, 6, (11, 2))
    true, empty = places[:8], places[8:]
    y, x = np.mgrid[:ny, :nx]
    image = rng.normal(0, 0.3, SHAPE_YX)
    for cx, cy in true:
        image -= 3 * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * 3.0**2))
    path = folder / f"mic {i:03d}.mrc" if i == 3 else folder / f"mic{i:03d}.mrc"
    write_mrc(path, image.astype(np.float32), PIXEL_SIZE_A)
    picks = np.concatenate([true + rng.uniform(-3, 3, true.shape), empty])
    is_right = np.arange(11) < 8
    return SimulatedMicrograph(
        path=path,
        shape_yx=SHAPE_YX,
        pixel_size_A=PIXEL_SIZE_A,
        defocus_u_A=15_000.0 + 500 * i,
        defocus_v_A=14_500.0 + 500 * i,
        defocus_angle_deg=30.0,
        true_xy_px=true,
        picks_xy_px=picks.round(3),
        pick_scores=rng.uniform(0, 1, 11).round(4),
        pick_is_right=is_right,
        pick_psi_deg=rng.uniform(0, 360, 11).round(3),
        pick_class=np.where(is_right, 1 + np.arange(11) % 2, 0).astype(np.int32),
    )
