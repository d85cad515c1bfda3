"""Which micrographs a picker trains on, which it is validated on, and which it never sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput
from cryoflow.parameters import VALIDATION_SHARE
from cryoflow.storage.safe_names import short_hash

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

TRAIN, VALIDATION, TEST = "train", "validation", "test"
DEFOCUS_STRATA = 4


@dataclass(frozen=True)
class Fractions:
    """Shares of the micrographs; what is left over trains."""

    validation: float = VALIDATION_SHARE
    test: float = 0.0

    def __post_init__(self) -> None:
        if not (self.validation >= 0 and self.test >= 0 and self.validation + self.test < 1):
            raise BadInput(
                "split",
                f"validation {self.validation:g} and test {self.test:g} must be 0 or more and leave some to train on.",
            )


def split_micrographs(
    projects: npt.ArrayLike, names: npt.ArrayLike, defocus_A: npt.ArrayLike, fractions: Fractions, seed: int
) -> npt.NDArray[np.object_]:
    """Assign each micrograph to train, validation or test, the same way for every picker.

    Each project is split by itself, so that another project beside it changes nothing. Its micrographs are sorted into
    equally full strata of defocus (those of unknown defocus are one more), shuffled within a stratum by a hash of
    project, name and `seed`, and dealt out along that order, so that each stratum gives its share.

    Parameters
    ----------
    projects, names : (n,) text
    defocus_A : (n,) float
        NaN where it is not known.

    Returns
    -------
    (n,) text
        A project of two micrographs or more gives at least one to each split whose share is not zero, training first.
    """
    import numpy as np

    project_of = np.asarray(projects, object)
    name_of = np.asarray(names, object)
    defocus = np.asarray(defocus_A, np.float64)
    result = np.full(len(project_of), TRAIN, object)
    for project in sorted(set(project_of)):
        rows = np.flatnonzero(project_of == project)
        order = sorted(rows, key=lambda i: short_hash(f"{seed}\n{project_of[i]}\n{name_of[i]}", 16))
        rank = np.full(len(defocus), -1)
        known = [i for i in sorted(order, key=lambda i: (defocus[i], str(name_of[i]))) if np.isfinite(defocus[i])]
        for place, i in enumerate(known):
            rank[i] = place * DEFOCUS_STRATA // len(known)
        dealt = sorted(order, key=lambda i: rank[i])  # stable: the shuffle stays within a stratum
        for split, places in _places(len(dealt), fractions).items():
            result[[dealt[p] for p in places]] = split
    return result


def _places(n: int, fractions: Fractions) -> dict[str, list[int]]:
    """Return evenly spread places for validation and test among n."""
    free = list(range(n))
    places: dict[str, list[int]] = {}
    for split, share in ((VALIDATION, fractions.validation), (TEST, fractions.test)):
        wanted = round(share * n)
        if share > 0:
            wanted = max(1, wanted)
        wanted = min(wanted, len(free) - 1)  # one is left to train on
        at = {int((k + 0.5) * len(free) / wanted) for k in range(wanted)} if wanted > 0 else set()
        places[split] = [p for k, p in enumerate(free) if k in at]
        free = [p for k, p in enumerate(free) if k not in at]
    return places
