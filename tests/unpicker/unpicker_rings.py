"""Small micrographs with rings (right) and discs (wrong), easy enough to be learned in a few steps."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.micrographs.ctf import Ctf
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.train_options import TrainOptions

DIAMETER_A, PIXEL_SIZE_A, SHAPE_YX = 160.0, 8.0, (240, 320)


def draw(shape_yx, centers_xy_px, labels, rng, *, radius_px=10.0, noise=0.3):
    """Dark rings and discs on noise, on non-square images."""
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    image = rng.normal(100, noise, shape_yx)
    for (cx, cy), label in zip(centers_xy_px, labels, strict=True):
        r = np.hypot(x - cx, y - cy)
        shape = np.abs(r - 0.7 * radius_px) < 2.5 if label == 1 else r < 0.8 * radius_px
        image -= shape
    return image.astype(np.float32)


def places(shape_yx, rng, *, step=30):
    """Points of a jittered grid, some near the edge."""
    ys, xs = np.meshgrid(np.arange(4, shape_yx[0], step), np.arange(4, shape_yx[1], step), indexing="ij")
    points = np.stack((xs.ravel(), ys.ravel()), axis=1) + rng.uniform(-3, 3, (xs.size, 2))
    return np.clip(points, 0, np.array(shape_yx[::-1]) - 1)


def make_set(folder: Path, *, n_micrographs=8, seed=0, pixel_size_A=PIXEL_SIZE_A, data_set="rings", shape_yx=SHAPE_YX):
    """A labeled data set on disk."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    scale = PIXEL_SIZE_A / pixel_size_A
    micrographs = []
    for i in range(n_micrographs):
        centers = places(shape_yx, rng, step=round(30 * scale))
        labels = np.where(rng.random(len(centers)) < 0.5, 1, -1).astype(np.int8)
        path = folder / f"mic_{i}.mrc"
        write_mrc(path, draw(shape_yx, centers, labels, rng, radius_px=10 * scale), pixel_size_A)
        defocus = 10_000 + 2_000 * i
        micrographs.append(
            PickedMicrograph(
                path.stem, path, pixel_size_A, DIAMETER_A, centers, labels, data_set, Ctf(defocus, defocus)
            )
        )
    return LabeledSet(tuple(micrographs))


def small_options(tmp: Path, **changes) -> TrainOptions:
    """A small network on small boxes: seconds on two cores."""
    values = {
        "preprocessing": TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1),
        "widths": (12,),
        "blocks": (1,),
        "epochs": 3,
        "batch": 32,
        "least_steps": 15,
        "validation": 0.25,
        "test": 0.25,
        "cache_dir": tmp / "cache",
        "workers": 2,
    }
    return TrainOptions(**{**values, **changes})


def as_pickset(rings, **changes) -> PickSet:
    """The same picks as a database has them."""
    table = micrograph_table(
        {
            "name": [m.name for m in rings.micrographs],
            "path": [str(m.path) for m in rings.micrographs],
            "pixel_size_A": [m.pixel_size_A for m in rings.micrographs],
            "defocus_u_A": [m.defocus_A for m in rings.micrographs],
            "defocus_v_A": [m.defocus_A for m in rings.micrographs],
        }
    )
    picks = pd.DataFrame(
        {
            "micrograph": np.repeat(np.arange(len(rings.micrographs)), [len(m.labels) for m in rings.micrographs]),
            "x_px": np.concatenate([m.centers_xy_px[:, 0] for m in rings.micrographs]),
            "y_px": np.concatenate([m.centers_xy_px[:, 1] for m in rings.micrographs]),
            "label": np.concatenate([m.labels for m in rings.micrographs]),
        }
    )
    picks["uid"] = np.arange(1, len(picks) + 1, dtype=np.uint64)
    provenance = Provenance("relion", Path("/p/P1"), "P1", "job012", Kind.AUTO_PICK)
    return replace(PickSet.build(provenance, table, picks, diameter_A=DIAMETER_A), **changes)
