"""Scores of picks: the probability of each pick of many micrographs, in their order.

Threads read micrographs and cut patches while the network scores the ones before; a few are in memory at a time, so
that neither memory nor the time of one grows with their number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.micrographs.scratch import local_copy
from cryoflow.preparation.patches import Patches, load_patches
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.decision import is_doubtful


@dataclass(frozen=True)
class ScoredMicrograph:
    """A micrograph whose picks have probabilities.

    Attributes
    ----------
    probabilities : (n,) float
        That each pick is a particle, in the order of the picks.
    kept : (n,) bool
        Picks of at least the threshold.
    """

    micrograph: PickedMicrograph
    probabilities: npt.NDArray[np.float64]
    kept: npt.NDArray[np.bool_]

    @property
    def doubtful(self) -> npt.NDArray[np.bool_]:
        """Return which picks have a probability in the doubtful band, kept or not."""
        return is_doubtful(self.probabilities)

    def __str__(self) -> str:
        n, all_ = int(self.kept.sum()), len(self.kept)
        return f"{self.micrograph.name}: kept {n}/{all_} ({n / max(all_, 1):.1%})".replace("%)", " %)")


Result = ScoredMicrograph | BadInput


OnScored = Callable[[Result], None]


def score(
    bundle: ModelBundle,
    micrographs: Iterable[PickedMicrograph],
    *,
    orientations: int = 1,
    workers: int | None = None,
) -> Iterator[Result]:
    """Score the picks of micrographs one by one, in their order.

    Parameters
    ----------
    orientations
        1, 2, 4 or 8: the mean over so many orientations of each patch, a little better and as many times slower.
    workers
        Micrographs prepared at a time; None takes as many as there are cores, at most 8.

    Yields
    ------
    The scored micrograph, kept by the threshold of its project or else the pooled one; or why it could not be scored.
    """
    from cryoflow.system.cpus import available_cpus

    network = bundle.network  # built before the threads start
    assert network is not None
    n_workers = workers or min(8, available_cpus())
    extractor = bundle.preprocessing.with_orientations(orientations)

    def patches_of(micrograph: PickedMicrograph) -> Patches | BadInput:
        try:
            with local_copy(micrograph.path) as path:
                return load_patches(extractor, replace(micrograph, path=path))
        except BadInput as error:
            return error
        except OSError as error:
            return BadInput(micrograph.path, f"cannot be read: {error.strerror or error}.")

    def finished(micrograph: PickedMicrograph, patches: Patches | BadInput) -> Result:
        if isinstance(patches, BadInput):
            return patches
        project = micrograph.data_set
        probabilities = bundle.probabilities(patches, project=project, orientations=orientations)
        point = bundle.projects.get(project)
        return ScoredMicrograph(
            micrograph, probabilities, probabilities >= (point.threshold if point else bundle.threshold)
        )

    with ThreadPoolExecutor(n_workers) as pool:
        waiting: deque[tuple[PickedMicrograph, Future[Patches | BadInput]]] = deque()
        for micrograph in micrographs:
            waiting.append((micrograph, pool.submit(patches_of, micrograph)))
            if len(waiting) > n_workers:
                ready, future = waiting.popleft()
                yield finished(ready, future.result())
        while waiting:
            ready, future = waiting.popleft()
            yield finished(ready, future.result())
