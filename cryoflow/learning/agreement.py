"""Agreement of a detector's picks with an un-picker, on prepared micrographs, where labels are incomplete.

Recall of survivors does not fall if a version also picks ice or aggregates. An un-picker that learned what becomes of
such picks scores each of them, from the prepared image that the detector picked: no micrograph is read again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.models.registry import ModelRegistry
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.detector_features import DetectorFeatures


@dataclass(frozen=True)
class PreparedUnpicker:
    """An un-picker for images that are prepared at the sampling of its detector."""

    bundle: ModelBundle
    features: DetectorFeatures

    @classmethod
    def of(cls, bundle: ModelBundle, pixels_per_diameter: float) -> PreparedUnpicker | None:
        """Return a bundle as an un-picker of prepared images; None where its input cannot be made from them."""
        features = bundle.preprocessing
        if not isinstance(features, DetectorFeatures) or features.phase_flip:
            return None
        same = features.backbone.detector.pixels_per_diameter == pixels_per_diameter
        return cls(bundle, features.with_orientations(1)) if same else None

    @property
    def mark(self) -> str:
        """Return a short hash of everything that determines its probabilities."""
        return self.bundle.mark

    def keeps(
        self, pixels: npt.NDArray[np.float16], xy_px: npt.NDArray[np.float64], project: str
    ) -> npt.NDArray[np.bool_]:
        """Return which picks it takes for particles, (n,) bool, at the threshold of the project or of all projects.

        Parameters
        ----------
        pixels : (ny, nx, 2)
            A prepared micrograph.
        xy_px : (n, 2)
            Picks, in its pixels.
        """
        if not len(xy_px):
            return np.zeros(0, bool)
        patches = self.features.features(pixels, xy_px)[:, None, None]
        point = self.bundle.projects.get(project)
        limit = point.threshold if point else self.bundle.threshold
        return np.asarray(self.bundle.probabilities(patches, project=project) >= limit, bool)


def unpicker_in_use(
    registry: ModelRegistry, name: str, pixels_per_diameter: float, say: Callable[[str], None]
) -> PreparedUnpicker | None:
    """Return the version in use of an un-picker; None, with a message, where none can score prepared images."""
    current = registry.current(name) if registry.holds(name) else None
    if current is None:
        say(f"no version of {name} is in use: versions are compared without the agreement with an un-picker")
        return None
    unpicker = PreparedUnpicker.of(ModelBundle.load(current.model), pixels_per_diameter)
    if unpicker is None:
        say(f"{current.label} takes other images than the detector: versions are compared without agreement with it")
    return unpicker
