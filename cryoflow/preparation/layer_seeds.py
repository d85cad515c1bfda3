"""Seeds of a network's layers, so that other threads of the process cannot change the result of a training.

A Keras layer without a seed draws one from Python's global generator. Threads of Prefect draw from it as well, also
between `keras.utils.set_random_seed` and the creation of the layers.
"""

from __future__ import annotations

import random

_LARGEST = 1_000_000_000
"""Keras draws up to this number. Networks with dropout get the seeds that they got from Keras in earlier versions."""


class LayerSeeds:
    """Seeds in the order of the layers; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311

    def draw(self) -> int:
        """Return the next layer's seed."""
        return self._random.randint(1, _LARGEST)
