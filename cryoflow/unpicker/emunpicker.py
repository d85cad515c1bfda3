"""The older emUnpicker's network and preprocessing, for users who know them and for comparison.

A micrograph is filtered, its contrast clipped at so many standard deviations, and divided by its own
range; each box is cut at full size and resized to 32 pixels; two 5 x 5 convolutions of 32 and 64 and a dense layer of
512 decide.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import numpy.typing as npt

from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.image import MicrographFile, check_pixels
from cryoflow.preparation.layer_seeds import LayerSeeds
from cryoflow.preparation.patches import Image, ImagePatches, Patches, flip_phases
from cryoflow.preparation.picked_micrograph import PickedMicrograph

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class EmUnpickerPreprocessing(ImagePatches):
    """The older preprocessing; a value of 0 leaves a step out.

    Attributes
    ----------
    boxsize_A
        Edge of a box in angstrom.
    resized_box_px
        What every box is resized to.
    sigma_contrast
        Gray values are clipped at so many standard deviations from the mean.
    lowpass_A, highpass_A
        Resolution limits: what is finer than the one and coarser than the other is removed.
    gaussian_sigma_px
        Width of a Gaussian blur, in pixels of the micrograph.
    phase_flip
        Whether to turn the phases that the CTF turned back first.
    """

    boxsize_A: float
    resized_box_px: int = 32
    sigma_contrast: float = 5.0
    lowpass_A: float = 0.0
    highpass_A: float = 0.0
    gaussian_sigma_px: float = 0.0
    phase_flip: bool = False

    kind: ClassVar[str] = "emunpicker"
    n_channels: ClassVar[int] = 1
    margin_px: ClassVar[int] = 0

    @property
    def input_px(self) -> int:
        """Return the edge of the network's input."""
        return self.resized_box_px

    def filtered(self, image: npt.NDArray[np.float32], micrograph: PickedMicrograph) -> npt.NDArray[np.float32]:
        """Return the whole micrograph, ready for cutting, within -0.5..0.5."""
        from scipy.ndimage import gaussian_filter

        if self.phase_flip:
            image = flip_phases(image, (micrograph.pixel_size_A,) * 2, micrograph)
        if self.lowpass_A or self.highpass_A:
            image = _band_pass(image, micrograph.pixel_size_A, self.lowpass_A, self.highpass_A)
        if self.gaussian_sigma_px:
            image = gaussian_filter(image, self.gaussian_sigma_px)
        if self.sigma_contrast:
            mean, reach = image.mean(), self.sigma_contrast * image.std()
            image = np.clip(image, mean - reach, mean + reach)
        low, high = image.min(), image.max()
        scaled: npt.NDArray[np.float32] = (image - low) / np.float32((high - low) or 1.0) - np.float32(0.5)
        return scaled

    def patches(self, image: Image, micrograph: PickedMicrograph) -> Patches:
        """Return all boxes of a micrograph, (n, resized_box_px, resized_box_px, 1) float16."""
        from skimage.transform import resize

        if isinstance(image, MicrographFile):
            image = image.whole()
            check_pixels(image, micrograph.path)

        edge = max(2, round(self.boxsize_A / micrograph.pixel_size_A))
        ready = self.filtered(image, micrograph)
        small = np.empty((len(micrograph.centers_xy_px), self.resized_box_px, self.resized_box_px, 1), np.float16)
        for start in range(0, len(small), 64):  # full boxes are large: 64 at a time
            boxes = cut_boxes(ready, micrograph.centers_xy_px[start : start + 64], edge)
            shape = (len(boxes), self.resized_box_px, self.resized_box_px)
            small[start : start + 64, ..., 0] = resize(boxes, shape, anti_aliasing=True)  # type: ignore[no-untyped-call]
        return small

    def to_json(self) -> dict[str, object]:
        """Return kind and fields."""
        return {"kind": self.kind, **dataclasses.asdict(self)}


def build_emunpicker(
    input_px: int, n_channels: int, *, dropout: float, dtype: object, seeds: LayerSeeds
) -> keras.Model:
    """Return two 5 x 5 convolutions of 32 and 64, each with pooling, a dense layer of 512 with L2, one output (a
    logit)."""
    import keras
    from keras import layers

    def kernel() -> keras.Initializer:
        return keras.initializers.GlorotUniform(seed=seeds.draw())

    l2 = keras.regularizers.L2(5e-4)
    inputs = keras.Input((input_px, input_px, n_channels), name="boxes")
    x = inputs
    for i, width in enumerate((32, 64), start=1):
        x = layers.Conv2D(
            width,
            5,
            padding="same",
            activation="relu",
            kernel_initializer=kernel(),
            dtype=dtype,
            name=f"convolution_{i}",
        )(x)
        x = layers.MaxPooling2D(2, dtype=dtype, name=f"pooling_{i}")(x)
    x = layers.Flatten(dtype=dtype, name="flat")(x)
    x = layers.Dense(
        512, activation="relu", kernel_initializer=kernel(), kernel_regularizer=l2, dtype=dtype, name="dense"
    )(x)
    x = layers.Dropout(dropout, seed=seeds.draw(), dtype=dtype, name="dropout")(x)
    logit = layers.Dense(1, kernel_initializer=kernel(), kernel_regularizer=l2, dtype="float32", name="logit")(x)
    return keras.Model(inputs, logit, name="emunpicker")


def _band_pass(
    image: npt.NDArray[np.float32], pixel_size_A: float, lowpass_A: float, highpass_A: float
) -> npt.NDArray[np.float32]:
    """Filter images; both edges are raised cosines, a tenth of the limit wide."""
    from scipy import fft

    ny, nx = image.shape
    frequency = np.hypot(np.fft.fftfreq(ny)[:, None], np.fft.rfftfreq(nx)[None, :]).astype(np.float32) / pixel_size_A
    mean = image.mean()
    spectrum = fft.rfft2(image - mean, workers=-1)
    if lowpass_A:
        spectrum *= _edge(frequency, 1 / lowpass_A)
    if highpass_A:
        spectrum *= 1 - _edge(frequency, 1 / highpass_A)
    filtered: npt.NDArray[np.float32] = fft.irfft2(spectrum, s=image.shape, workers=-1)
    return np.asarray(filtered + mean, np.float32)


def _edge(frequency: npt.NDArray[np.float32], limit: float) -> npt.NDArray[np.float32]:
    """Return 1 below the limit and 0 above."""
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * np.clip((frequency / limit - 0.95) / 0.1, 0, 1)), np.float32)
