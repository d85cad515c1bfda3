"""Seeds of a network's layers, so that a training does not depend on who else draws random numbers.

A layer without a seed draws one from Python's own generator, from which other threads of the process draw meanwhile,
Prefect's for one. To seed that generator first, as `keras.utils.set_random_seed` does, is no help then.
"""

from __future__ import annotations

import random

_LARGEST = 1_000_000_000
"""With dropout, the same seeds as Keras draws after `set_random_seed`: trainings of before come to the same result."""


class LayerSeeds:
    """Seeds in the order of the layers; the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311

    def draw(self) -> int:
        """Return the next layer's seed."""
        return self._random.randint(1, _LARGEST)
