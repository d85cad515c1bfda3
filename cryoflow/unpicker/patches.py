"""Our preprocessing: from a micrograph and its picks to the boxes that the network sees.

There is one object for it, `Preprocessing`; a model keeps it, and training and use both go through `boxes`, so that
they cannot differ. The micrograph is Fourier-cropped once, so far that a particle's diameter is a fixed number of
pixels whatever the specimen and the pixel size, and all boxes are gathered from it at one go. Two channels:

0. the micrograph less its median, over its median absolute deviation: shows carbon, ice and gold for what they are;
1. the micrograph less its local mean over one diameter, over the typical local deviation: shows the particle.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import fourier_resample, rescale_xy
from cryoflow.micrographs.normalise import normalise, normalise_locally
from cryoflow.unpicker.classic import ClassicPreprocessing
from cryoflow.unpicker.labelled import PickedMicrograph
from cryoflow.unpicker.preprocessing import Boxes, BoxMaker, Image, flipped


@dataclass(frozen=True)
class Preprocessing:
    """Our preprocessing. Lengths are in units of the particle diameter, for it serves several specimens at once.

    Attributes
    ----------
    pixels_per_diameter
        Sampling: at 27 a particle of 160 A is seen at 5.9 A a pixel.
    box_diameters
        Edge of a box; 1.8 diameters hold the neighbourhood that tells overlaps and edges.
    margin_px
        Extra pixels on each side of a box, from which random shifts are taken while training.
    clip_global, clip_local
        Where the two channels are clipped.
    phase_flip
        Whether to turn the phases that the CTF turned back first.
    """

    pixels_per_diameter: float = 27.0
    box_diameters: float = 1.78
    margin_px: int = 2
    clip_global: float = 8.0
    clip_local: float = 6.0
    phase_flip: bool = False

    kind: ClassVar[str] = "two-channel"
    n_channels: ClassVar[int] = 2

    @property
    def input_px(self) -> int:
        """Edge of the network's input, a multiple of 8."""
        return max(8, 8 * round(self.pixels_per_diameter * self.box_diameters / 8))

    def target_pixel_size_A(self, diameter_A: float) -> float:
        """Pixel size that a specimen is seen at."""
        return diameter_A / self.pixels_per_diameter

    def channels(self, image: Image, micrograph: PickedMicrograph) -> npt.NDArray[np.float16]:
        """The two channels of a whole micrograph, (ny, nx, 2) after cropping."""
        target = self.target_pixel_size_A(micrograph.diameter_A)
        small, pixel_size_yx_A = fourier_resample(image, micrograph.pixel_size_A, target, workers=1)
        if self.phase_flip:
            small = flipped(small, pixel_size_yx_A, micrograph)
        small -= np.float32(small.mean())
        pair = np.empty((*small.shape, self.n_channels), np.float16)
        pair[..., 0] = normalise(small, clip=self.clip_global)
        pair[..., 1] = normalise_locally(small, self.pixels_per_diameter, clip=self.clip_local)
        return pair

    def boxes(self, image: Image, micrograph: PickedMicrograph) -> Boxes:
        """All boxes of a micrograph.

        Parameters
        ----------
        image : (ny, nx) float32
            Finite and not constant; or a file that is read here, and never held whole.

        Returns
        -------
        (n, edge, edge, 2) float16
            `edge` is `input_px` and a margin on each side. Beyond the micrograph it is mirrored.
        """
        pair = self.channels(image, micrograph)
        centers = rescale_xy(micrograph.centers_xy_px, image.shape, pair.shape[:2])
        edge = self.input_px + 2 * self.margin_px
        words = cut_boxes(pair.view(np.uint32)[..., 0], centers, edge)  # both channels of a pixel at once
        return words.view(np.float16).reshape(len(centers), edge, edge, self.n_channels)

    def to_json(self) -> dict[str, object]:
        """Kind and fields."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


def preprocessing_from_json(text_or_values: str | dict[str, object]) -> BoxMaker:
    """The preprocessing that `to_json` described.

    Raises
    ------
    ValueError
        For a kind or a field that this version does not know.
    """
    values = json.loads(text_or_values) if isinstance(text_or_values, str) else dict(text_or_values)
    kinds: dict[str, type[Preprocessing] | type[ClassicPreprocessing]] = {
        Preprocessing.kind: Preprocessing,
        ClassicPreprocessing.kind: ClassicPreprocessing,
    }
    kind = values.pop("kind", None)
    if kind not in kinds:
        raise ValueError(f"preprocessing of kind {kind!r}; known are {', '.join(kinds)}")
    fields = {f.name for f in dataclasses.fields(kinds[kind])}
    if set(values) != fields:
        raise ValueError(f"preprocessing with fields {sorted(values)}; expected {sorted(fields)}")
    return kinds[kind](**values)
