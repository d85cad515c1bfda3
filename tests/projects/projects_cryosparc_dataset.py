"""A small simulated dataset without pixels, on non-square micrographs."""

import numpy as np

from cryoflow.simulate.dataset import SimulatedDataset, SimulatedMicrograph


def small_dataset(folder, n_micrographs=4, seed=1, shape_yx=(400, 560)):
    """True centres, and picks of which 15 of 25 a micrograph lie a few pixels beside a true centre."""
    rng = np.random.default_rng(seed)
    ny, nx = shape_yx
    micrographs = []
    for i in range(n_micrographs):
        true = np.stack([rng.uniform(40, nx - 40, 20), rng.uniform(40, ny - 40, 20)], 1)
        right = true[:15] + rng.normal(0, 3, (15, 2))
        wrong = np.stack([rng.uniform(5, nx - 5, 10), rng.uniform(5, ny - 5, 10)], 1)
        is_right = np.r_[np.ones(15, bool), np.zeros(10, bool)]
        micrographs.append(
            SimulatedMicrograph(
                path=folder / f"mic{i:03d}.mrc",
                shape_yx=shape_yx,
                pixel_size_A=1.5,
                defocus_u_A=10000.0 + i,
                defocus_v_A=9800.0,
                defocus_angle_deg=30.0,
                true_xy_px=true,
                picks_xy_px=np.concatenate([right, wrong]),
                pick_scores=rng.random(25),
                pick_is_right=is_right,
                pick_psi_deg=rng.uniform(0, 360, 25),
                pick_class=np.where(is_right, rng.integers(1, 4, 25), 0).astype(np.int32),
            )
        )
    return SimulatedDataset("sim", tuple(micrographs), 120.0, seed=seed)
