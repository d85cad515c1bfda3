"""Micrographs with dark blobs in known places, and what lies under picks of them."""

from __future__ import annotations

import numpy as np

SHAPE_YX = (384, 576)


def blobs(shape_yx: tuple[int, int], centers_xy: np.ndarray, radius_px: float, rng: np.random.Generator) -> np.ndarray:
    """Noise of sigma 1 with dark discs of depth 3."""
    image = rng.normal(0, 1, shape_yx).astype(np.float32)
    yy, xx = np.ogrid[: shape_yx[0], : shape_yx[1]]
    for x, y in centers_xy:
        image -= 3.0 * np.exp(-((((xx - x) ** 2 + (yy - y) ** 2) / radius_px**2) ** 2))
    return image


def grid_centers(shape_yx: tuple[int, int], spacing: int, margin: int, rng: np.random.Generator) -> np.ndarray:
    """Particles that do not overlap, none symmetric to another under a flip."""
    ys, xs = np.mgrid[margin : shape_yx[0] - margin : spacing, margin : shape_yx[1] - margin : spacing]
    xy = np.column_stack([xs.ravel(), ys.ravel()]).astype(float)
    keep = rng.random(len(xy)) < 0.45
    keep[0] = True
    return xy[keep] + rng.uniform(-spacing / 6, spacing / 6, (int(keep.sum()), 2))


def mean_under(image: np.ndarray, centers_xy: np.ndarray, radius_px: int = 2) -> float:
    """Mean intensity in small squares around centers: far below 0 on the particles of these micrographs."""
    values = []
    for x, y in np.rint(centers_xy).astype(int):
        values.append(
            image[max(0, y - radius_px) : y + radius_px + 1, max(0, x - radius_px) : x + radius_px + 1].mean()
        )
    return float(np.mean(values))
