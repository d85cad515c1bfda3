"""A small simulated dataset without pixels, on non-square micrographs."""

import numpy as np

from cryoflow.simulate.simulated_dataset import SimulatedDataset, SimulatedMicrograph


def apart(rng, n, shape_xy, distance_px=30, margin_px=40):
    """Random places none of which is another's particle."""
    places = np.zeros((0, 2))
    while len(places) < n:
        place = rng.uniform(margin_px, np.array(shape_xy) - margin_px)
        if (np.linalg.norm(places - place, axis=1) > distance_px).all():
            places = np.vstack([places, place])
    return places


def small_dataset(folder, n_micrographs=4, seed=1, shape_yx=(400, 560)):
    """True centers, and picks of which 15 of 25 a micrograph lie a few pixels beside a true center."""
    rng = np.random.default_rng(seed)
    ny, nx = shape_yx
    micrographs = []
    for i in range(n_micrographs):
        places = apart(rng, 30, (nx, ny))
        true, wrong = places[:20], places[20:]
        right = true[:15] + rng.normal(0, 3, (15, 2))
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
