"""Weights for inference: batch normalization as part of the convolution before it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

NORM_EPSILON = 1e-3
"""Added to the variance by batch normalization."""


def fold(weights: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """Return weights with each batch normalization folded into the convolution before it, for `build(folded=True)`."""
    folded: dict[str, npt.NDArray[np.generic]] = {}
    norms = set()
    for path, kernel in weights.items():
        layer, _, kind = path.rpartition("/")
        # A residual block of the unpicker has conv1 and norm1; all other layers have their own name and `_norm`.
        norm = f"{layer}_norm"
        if f"{norm}/gamma" not in weights:
            norm = layer.replace("_conv", "_norm")
        if kind == "kernel" and f"{norm}/gamma" in weights:
            gamma, beta, mean, variance = (
                np.asarray(weights[f"{norm}/{name}"], np.float32)
                for name in ("gamma", "beta", "moving_mean", "moving_variance")
            )
            scale = gamma / np.sqrt(variance + np.float32(NORM_EPSILON))
            folded |= {path: kernel * scale, f"{layer}/bias": beta - mean * scale}
            norms.add(norm)
    return {p: w for p, w in weights.items() if p not in folded and p.rpartition("/")[0] not in norms} | folded
