"""Logits of patches from a network, in batches of few sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.preparation.patches import Patches, PatchExtractor

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from cryoflow.unpicker.patch_cache import CachedMicrograph


def logits_of(
    model: keras.Model, patches: Patches, extractor: PatchExtractor, *, orientations: int = 1, batch: int | None = None
) -> npt.NDArray[np.float64]:
    """Return the mean logit over `orientations` (1, 2, 4 or 8) of each patch."""
    # Of a GPU; of vectors, whose network is small; of images in a CPU's cache.
    size = batch or (512 if model.jit_compile or extractor.input_px == 1 else 160)
    total = np.zeros(len(patches))
    for number in range(orientations):
        total += _predict(model, extractor.view(patches, number), size)
    return total / orientations


def _predict(model: keras.Model, views: npt.NDArray[np.generic], batch: int) -> npt.NDArray[np.float64]:
    """Predict in batches of few sizes, the last one filled up: XLA compiles each size anew."""
    number = len(views)
    if not number:
        return np.zeros(0)
    step = batch if model.jit_compile else 32
    filled = -(-number // step) * step
    if filled > number:
        views = np.concatenate((views, np.zeros((filled - number, *views.shape[1:]), views.dtype)))
    out = [np.asarray(model.predict_on_batch(views[i : i + batch])) for i in range(0, filled, batch)]
    return np.concatenate(out)[:number, 0].astype(np.float64)


def logits_of_all(
    model: keras.Model, micrographs: Sequence[CachedMicrograph], extractor: PatchExtractor
) -> npt.NDArray[np.float64]:
    """Return the logits of the patches of many micrographs, a few thousand at a time."""
    logits: list[npt.NDArray[np.float64]] = []
    held: list[npt.NDArray[np.float16]] = []
    for i, m in enumerate(micrographs):
        held.append(m.load())
        if sum(map(len, held)) >= 4096 or i == len(micrographs) - 1:
            logits.append(logits_of(model, np.concatenate(held), extractor))
            held = []
    return np.concatenate(logits) if logits else np.zeros(0)
