"""Warp and WarpTools: BoxNet's examples, as `fs_boxnet_train` wants; no Linux tool makes them.

One TIFF a micrograph with three slices of floats at 8 A a pixel: the picture, the labels (0 background, 1 particle,
2 masked), and the importance of each pixel: 4 on picks that were found wrong, 0 on unlabeled picks, 1
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
from typing import TYPE_CHECKING, ClassVar

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.base import Picker, Resources, Step
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

FOLDERS = {TRAIN: "examples", VALIDATION: "validation", TEST: "test"}
PIXEL_SIZE_A = 8.0


class Warp(Picker):
    """Warp's BoxNet: a network that classifies each pixel as particle, junk or background."""

    name = "warp"
    title = "Warp BoxNet"
    help = "Warp's BoxNet: pictures of three slices at 8 A, for fs_boxnet_train."
    formats = ("RELION STAR",)
    suffixes = (".star",)
    makes_links: ClassVar[bool] = False
    score_kind = "BoxNet probability"
    default_threshold: ClassVar[float | None] = 0.5

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive pixel size and sign of the pictures, and the sizes of the discs.

        Raises
        ------
        BadInput
            Where a setting has a value that it must not have.
        MissingMetadata
            Where a micrograph has no pixel size.
        """
        from cryoflow.pickers.programs.warp.slices import IMPORTANCE, label_radius_px

        pixel_A = settings.derive("pixel_size", PIXEL_SIZE_A, "BoxNet's own, angstrom a pixel")
        if not pixel_A > 0:
            raise BadInput("pixel_size", f"is {pixel_A:g}; it is a number of angstrom above 0.")
        settings.derive("dark_particles", True, "cryo images; no for negative stain, whose sign is turned")
        settings.derive("patch_size", 512, "WarpTools' default")
        settings.derive("batch_size", 8, "WarpTools' default; must be divisible by the number of GPUs")
        settings.derive("epochs", 100, "WarpTools' default")
        settings.derive_path("model_in", "train from nothing; name a .pt model to refine it")
        if training.micrographs["pixel_size_A"].isna().any():
            raise MissingMetadata("warp", "needs the pixel size of each micrograph.", "Ingest its project with one.")
        for entry, rows in training.micrographs.groupby("entry"):
            radius = label_radius_px(float(rows["diameter_A"].iloc[0]), pixel_A)
            settings.note(
                f"label radius of {entry}", radius, "pixels: a quarter of the particle's radius, at least 1.5"
            )
        for label, (what, importance) in IMPORTANCE.items():
            if count := int((training.not_positive["label"] == label).sum()):
                settings.note(f"picks {what}", count, f"importance {importance:g}, in discs of their radius")

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write one TIFF per micrograph.

        Raises
        ------
        BadInput
            Where micrographs cannot be read or have one gray value only; the others are written then.
        """
        import numpy as np

        from cryoflow.pickers.programs.warp.slices import boxnet_slices, write_tiff
        from cryoflow.pickers.training_sets.each_micrograph import each_micrograph
        from cryoflow.pickers.training_sets.links import read_any

        pixel_A, dark = float(settings["pixel_size"]), settings["dark_particles"] == "yes"
        for name in sorted(set(some.micrographs["split"])):
            (folder / FOLDERS[name]).mkdir(exist_ok=True)
        xy = some.picks[["x_px", "y_px"]].to_numpy(np.float64)
        paths, pixels_A, diameters_A = (some.micrographs[c].tolist() for c in ("path", "pixel_size_A", "diameter_A"))
        bounds = np.searchsorted(some.not_positive["micrograph"].to_numpy(), np.arange(len(paths) + 1)).tolist()

        def one(row: tuple[int, tuple[str, str, int, int]]) -> None:
            i, (stem, split, first, last) = row
            image = read_any(paths[i])
            if not float(image.max()) > float(image.min()):
                raise BadInput(
                    paths[i],
                    "has one gray value only, at which BoxNet's training would stop.",
                    "Where no picks are on it, --no-negatives leaves it out.",
                )
            slices = boxnet_slices(
                image,
                pixels_A[i],
                xy[first:last],
                diameters_A[i],
                pixel_A,
                dark=dark,
                not_positive=some.not_positive.iloc[bounds[i] : bounds[i + 1]],
            )
            write_tiff(folder / FOLDERS[split] / f"{stem}.tif", slices)

        each_micrograph(one, list(enumerate(some.each())))

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command, and the one of WarpTools."""
        return (
            self.train_command(home),
            f"(or, in {home}: WarpTools fs_boxnet_train --examples examples --model_out boxnet.pt)",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return one command; BoxNet is trained on GPUs only.

        Raises
        ------
        BadInput
            Where there is no GPU.
        """
        if not resources.gpus:
            raise BadInput("warp", "trains BoxNet on GPUs only.")
        argv = ["WarpTools", "fs_boxnet_train", "--examples", "examples", "--model_out", "boxnet.pt"]
        argv += ["--model_in", settings["model_in"]] if settings.get("model_in") else []
        argv += ["--patchsize", settings["patch_size"], "--batchsize", settings["batch_size"]]
        argv += ["--epochs", settings["epochs"]]
        argv += ["--devices", *map(str, resources.gpus)]
        return (Step("train BoxNet", tuple(argv), ("boxnet.pt",), wants_gpu=True),)

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the file that `--model_out` named."""
        return home / "boxnet.pt"


PICKER = Warp()
