"""Warp and WarpTools: BoxNet's examples, as `fs_boxnet_train` wants; no Linux tool makes them.

One TIFF a micrograph with three slices of floats at 8 A a pixel: the picture, the labels (0 background, 1 particle,
2 masked), and the importance of each pixel: 4 on picks that were found wrong, 0 on those that nobody could judge, 1
elsewhere. A particle is a disc of a quarter of its radius in the labels, the others of a whole one in the importance.
`fs_boxnet_train` wants the third slice and does not look at it; Warp's own window writes it in this way. Written from
Warp's sources and not tried with Warp on a GPU: experimental.

Sources: warpem/warp (BoxNetTrain.xaml.cs, BoxNetTrainFrameseries.cs,
docs/reference/boxnet/fs_training.md).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.execution.executor import Step
from cryoflow.execution.resources import Resources
from cryoflow.micrographs.fourier import resample_to_shape, rescale_xy
from cryoflow.pickers.base import Picker
from cryoflow.pickers.training_sets.derived_settings import Settings
from cryoflow.pickers.training_sets.links import read_any
from cryoflow.pickers.training_sets.negatives import UNKNOWN, WRONG
from cryoflow.pickers.training_sets.side_by_side import each_micrograph
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.picks import FloatArray

FOLDERS = {TRAIN: "examples", VALIDATION: "validation", TEST: "test"}
PIXEL_SIZE_A = 8.0
PARTICLE = 1.0
CERTAIN, WRONG_PICK, UNCERTAIN = 1.0, 4.0, 0.0
SMALLEST_RADIUS_PX = 1.5
_IMPORTANCE = {WRONG: WRONG_PICK, UNKNOWN: UNCERTAIN}
"""Label of a pick -> importance of its pixels, in the order in which they are drawn."""
_PIXELS_AT_ONCE = 4_000_000


class Warp(Picker):
    """Warp's BoxNet: a network that tells particle, junk and background apart, pixel by pixel."""

    name = "warp"
    title = "Warp BoxNet"
    score_kind = "BoxNet probability"
    default_threshold: ClassVar[float | None] = 0.5

    def choose(self, training: TrainingSet, settings: Settings) -> None:
        """Pixel size and sign of the pictures, and the sizes of the discs."""
        pixel_A = settings.choose("pixel_size", PIXEL_SIZE_A, "BoxNet's own, angstrom a pixel")
        if not pixel_A > 0:
            raise BadInput("pixel_size", f"is {pixel_A:g}; it is a number of angstrom above 0.")
        settings.choose("dark_particles", True, "cryo images; no for negative stain, whose sign is turned")
        settings.choose("patch_size", 512, "WarpTools' default")
        settings.choose("batch_size", 8, "WarpTools' default; must be divisible by the number of GPUs")
        settings.choose("epochs", 100, "WarpTools' default")
        settings.choose_path("model_in", "train from nothing; name a .pt model to refine it")
        if training.micrographs["pixel_size_A"].isna().any():
            raise MissingMetadata("warp", "needs the pixel size of each micrograph.", "Ingest its project with one.")
        for entry, rows in training.micrographs.groupby("entry"):
            radius = label_radius_px(float(rows["diameter_A"].iloc[0]), pixel_A)
            settings.note(
                f"label radius of {entry}", radius, "pixels: a quarter of the particle's radius, at least 1.5"
            )
        for label, what in ((WRONG, "wrong"), (UNKNOWN, "not judged")):
            if count := int((training.wrong["label"] == label).sum()):
                settings.note(f"picks {what}", count, f"importance {_IMPORTANCE[label]:g}, in discs of their radius")

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """One TIFF a micrograph."""
        pixel_A, dark = float(settings["pixel_size"]), settings["dark_particles"] == "yes"
        for name in sorted(set(some.micrographs["split"])):
            (folder / FOLDERS[name]).mkdir(exist_ok=True)
        xy = some.picks[["x_px", "y_px"]].to_numpy(np.float64)
        paths, pixels_A, diameters_A = (some.micrographs[c].tolist() for c in ("path", "pixel_size_A", "diameter_A"))
        wrong = some.wrong
        bounds = np.searchsorted(wrong["micrograph"].to_numpy(), np.arange(len(paths) + 1)).tolist()

        def one(row: tuple[int, tuple[str, str, int, int]]) -> None:
            i, (stem, split, first, last) = row
            image = read_any(paths[i])
            if not float(image.max()) > float(image.min()):
                raise BadInput(
                    paths[i],
                    "has one grey value only, at which BoxNet's training would stop.",
                    "Where no picks are on it, --no-negatives leaves it out.",
                )
            slices = boxnet_slices(
                image,
                pixels_A[i],
                xy[first:last],
                diameters_A[i],
                pixel_A,
                dark=dark,
                wrong=wrong.iloc[bounds[i] : bounds[i + 1]],
            )
            _write_tiff(folder / FOLDERS[split] / f"{stem}.tif", slices)

        each_micrograph(one, list(enumerate(some.each())))

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """The command of WarpTools."""
        return (
            self.train_command(home),
            f"(or, in {home}: WarpTools fs_boxnet_train --examples examples --model_out boxnet.pt)",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """One command; BoxNet is trained on GPUs only."""
        if not resources.gpus:
            raise BadInput("warp", "trains BoxNet on GPUs only.")
        argv = ["WarpTools", "fs_boxnet_train", "--examples", "examples", "--model_out", "boxnet.pt"]
        argv += ["--model_in", settings["model_in"]] if settings.get("model_in") else []
        argv += [
            "--patchsize",
            settings["patch_size"],
            "--batchsize",
            settings["batch_size"],
            "--epochs",
            settings["epochs"],
        ]
        argv += ["--devices", *map(str, resources.gpus)]
        return (Step("train BoxNet", tuple(argv), ("boxnet.pt",), wants_gpu=True),)

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """What `--model_out` named."""
        model = home / "boxnet.pt"
        if not model.is_file() or not model.stat().st_size:
            raise BadInput(model, "was not written by the training.", "See train.log.")
        return model

    def pick_files(self, folder: Path) -> list[Path]:
        """`matching/*.star`."""
        return sorted(folder.rglob("*.star"))


def label_radius_px(diameter_A: float, pixel_size_A: float = PIXEL_SIZE_A) -> float:
    """Radius of a particle's disc in the labels."""
    return max(SMALLEST_RADIUS_PX, diameter_A / 2 / pixel_size_A / 4)


def boxnet_slices(
    image: npt.NDArray[np.float32],
    pixel_size_A: float,
    centers_xy_px: FloatArray,
    diameter_A: float,
    to_pixel_size_A: float = PIXEL_SIZE_A,
    *,
    dark: bool = True,
    wrong: pd.DataFrame | None = None,
) -> npt.NDArray[np.float32]:
    """Picture, labels and importance of one micrograph.

    Parameters
    ----------
    centers_xy_px : (n, 2) float, x first
        In pixels of `image`.
    wrong
        `x_px`, `y_px` and `label` of picks that are wrong or not known.

    Returns
    -------
    (3, ny, nx) float32
        Sizes are even, as Warp's own.
    """
    shape = tuple(max(2, int(n * pixel_size_A / to_pixel_size_A + 0.5) // 2 * 2) for n in image.shape)
    small = resample_to_shape(image, (shape[0], shape[1]), workers=1)
    deviation = float(small.std())
    if deviation == 0:
        raise BadInput("pixel_size", f"is {to_pixel_size_A:g}: a micrograph becomes one grey value.")
    small = (small - small.mean()) / np.float32(deviation if dark else -deviation)

    def discs(xy_px: FloatArray, radius_px: float) -> npt.NDArray[np.bool_]:
        xy = rescale_xy(xy_px, (image.shape[0], image.shape[1]), (shape[0], shape[1]))
        return paint_discs((shape[0], shape[1]), xy, radius_px)

    slices = np.full((3, *shape), CERTAIN, np.float32)
    slices[0] = small
    slices[1] = discs(centers_xy_px, label_radius_px(diameter_A, to_pixel_size_A)) * PARTICLE
    if wrong is not None and len(wrong):
        for label, importance in _IMPORTANCE.items():
            xy_px = wrong.loc[wrong["label"] == label, ["x_px", "y_px"]].to_numpy(np.float64)
            slices[2][discs(xy_px, max(1.0, diameter_A / 2 / to_pixel_size_A))] = importance
    return slices


def paint_discs(shape_yx: tuple[int, int], centers_xy: FloatArray, radius_px: float) -> npt.NDArray[np.bool_]:
    """Pixels within `radius_px` of any of the centres, many at one go."""
    painted = np.zeros(shape_yx, bool)
    reach = np.arange(-int(np.ceil(radius_px)) - 1, int(np.ceil(radius_px)) + 2)
    at_once = max(1, _PIXELS_AT_ONCE // len(reach) ** 2)
    for start in range(0, len(centers_xy), at_once):
        cx, cy = centers_xy[start : start + at_once].T[:, :, None, None]
        x = np.rint(cx).astype(np.int64) + reach[None, None, :]
        y = np.rint(cy).astype(np.int64) + reach[None, :, None]
        near = (x - cx) ** 2 + (y - cy) ** 2 <= radius_px**2
        near &= (x >= 0) & (y >= 0) & (x < shape_yx[1]) & (y < shape_yx[0])
        painted[np.broadcast_to(y, near.shape)[near], np.broadcast_to(x, near.shape)[near]] = True
    return painted


def _write_tiff(path: Path, slices: npt.NDArray[np.float32]) -> None:
    """Plain pages of floats: no compression, no description, nothing that changes from run to run."""
    import tifffile

    with tifffile.TiffWriter(path) as file:
        for page in slices:
            file.write(page, photometric="minisblack", metadata=None, software="", contiguous=False)


PICKER = Warp()
