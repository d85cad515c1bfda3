"""CryoSegNet, and the layout of the CryoPPP data set.

CryoPPP keeps one CSV of centers and diameters beside each micrograph. CryoSegNet turns every micrograph upside-down
when it loads it and draws the labels on that picture as they are, so the y of CryoPPP's tables counts from the last
row of the MRC file: `ny - 1 - y`. `flip_y` says so, and can be switched off for tools that read such tables without
turning the picture. We draw the masks that fine-tuning reads, and so leave out its `generate_masks.py`, which asks for
a diameter on the keyboard and writes to another folder than `finetune.py` reads.

Sources: jianlin-cheng/CryoSegNet (utils/generate_masks.py, utils/denoise.py, dataset/dataset.py, finetune.py); the
direction of y is issue 3 of BioinfoMachineLearning/cryoppp.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.base import Picker, Resources, Step, rows_writer
from cryoflow.pickers.training_sets.split import TEST

if TYPE_CHECKING:
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet
    from cryoflow.picks import FloatArray

_STAR_HEAD = "\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n"


class CryoSegNet(Picker):
    """CryoSegNet: a U-Net and Segment Anything."""

    name = "cryosegnet"
    title = "CryoSegNet"
    help = "CryoSegNet and CryoPPP: CSV coordinates and masks."
    formats = ("RELION STAR", "CryoPPP CSV")
    suffixes = (".star", ".csv")

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the direction of y, and how it is fine-tuned."""
        settings.derive("flip_y", True, "CryoSegNet and CryoPPP count y from the last row of the MRC file")
        settings.derive("masks", True, "white discs on black, as finetune.py reads them")
        if training.micrographs["ny"].isna().any():
            raise MissingMetadata(
                "cryosegnet", "needs the shape of each micrograph.", "Link its micrographs on ingest."
            )
        settings.derive_path("code", "for training: CryoSegNet's own folder, with finetune.py and pretrained_models")
        settings.derive("epochs", 20, "for fine-tuning")
        settings.derive("batch_size", 4, "fits a GPU of 16 GB")

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write tables as in CryoPPP's `ground_truth`, and the masks that `finetune.py` reads."""
        import numpy as np

        from cryoflow.pickers.training_sets.each_micrograph import each_micrograph
        from cryoflow.pickers.training_sets.links import link_micrographs

        table = some.micrographs
        with_masks = settings["masks"] == "yes"
        x, y = _whole_xy(some, settings)
        csv = rows_writer("%d,%d,%d\n", (x, y, some.per_pick("box_px")))
        for split in sorted(set(table["split"])):
            for name in ("csv_files", "masks", "images") if with_masks else ("csv_files", "images"):
                (_home_of(split, folder) / name).mkdir(exist_ok=True, parents=True)
        shapes = table[["ny", "nx"]].to_numpy(np.int64)
        boxes = table["box_px"].to_numpy(np.float64)
        masks: list[tuple[Path, tuple[int, int], FloatArray, float]] = []
        for i, (stem, split, first, last) in enumerate(some.each()):
            at = _home_of(split, folder)
            (at / "csv_files" / f"{stem}.csv").write_bytes(b"X-Coordinate,Y-Coordinate,Diameter\n" + csv(first, last))
            if with_masks:
                xy = np.column_stack([x[first:last], y[first:last]])
                shape_yx = (int(shapes[i, 0]), int(shapes[i, 1]))
                masks.append((at / "masks" / f"{stem}_mask.jpg", shape_yx, xy, boxes[i] / 2))
        each_micrograph(lambda mask: _write_mask(*mask), masks)
        link_micrographs(
            some,
            [
                _home_of(split, folder) / "mrc_files" / f"{stem}.mrc"
                for stem, split in zip(table["stem"], table["split"], strict=True)
            ],
        )

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write one table of all picks but those of the test, and the folder that `finetune.py` does not make."""
        with (folder / "finetune_dataset" / "sample.star").open("wb") as file:
            file.write(_STAR_HEAD.encode())
            for some in training.in_shards():
                rows = rows_writer("%d %d\n", _whole_xy(some, settings))
                for stem, split, first, last in some.each():
                    if split != TEST:
                        file.write(rows(first, last, before=f"{stem}.mrc "))
        (folder / "output" / "models").mkdir(parents=True)

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command, and what it needs."""
        return (
            self.train_command(home),
            "(that needs CryoSegNet's own folder, which holds its scripts: export with --set code=FOLDER)",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Make pictures of the micrographs with its own filter, then fine-tune the model that comes with it.

        Raises
        ------
        BadInput
            Where the export does not name the folder of CryoSegNet's scripts.
        """
        if not (code := settings.get("code")):
            raise BadInput(home, "does not say where CryoSegNet's scripts are.", "Export with --set code=FOLDER.")
        names = sorted(p.stem for p in (home / "finetune_dataset" / "mrc_files").iterdir())
        gpu = f"cuda:{resources.gpus[0]}" if resources.gpus else "cpu"
        argv: tuple[str, ...] = ("python", f"{code}/finetune.py", "--num_epochs", settings["epochs"])
        argv += ("--cryosegnet_checkpoint", f"{code}/pretrained_models/cryosegnet.pth")
        argv += ("--train_dataset_path", "finetune_dataset/")
        argv += ("--batch_size", settings["batch_size"], "--device", gpu)
        return (
            Step(
                "filter pictures",
                ("python", f"{code}/utils/generate_jpg.py"),
                tuple(f"finetune_dataset/images/{name}.jpg" for name in names),
            ),
            Step(
                "fine-tune CryoSegNet", argv, ("output/models/finetuned_cryosegnet_best_val_loss.pth",), wants_gpu=True
            ),
        )

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return micrographs without a mask: fine-tuning reads masks only."""
        at = home / "finetune_dataset"
        masks = {p.name.removesuffix("_mask.jpg") for p in (at / "masks").glob("*_mask.jpg")}
        return [f"{p.stem} has no mask" for p in sorted((at / "mrc_files").iterdir()) if p.stem not in masks]

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the model of the lowest validation loss.

        Raises
        ------
        BadInput
            Where there is none.
        """
        if found := sorted(home.rglob("finetuned_cryosegnet_best_val_loss.pth")):
            return found[-1]
        raise BadInput(home, "holds no fine-tuned model of CryoSegNet.", "See train.log.")

    def pick_files(self, folder: Path) -> list[Path]:
        """Return its STAR files, or CSV files of CryoPPP."""
        return [p for p in super().pick_files(folder) if p.name != "sample.star"] or sorted(folder.rglob("*.csv"))


def _whole_xy(some: TrainingSet, settings: Mapping[str, str]) -> tuple[FloatArray, FloatArray]:
    """Return whole pixels, y in CryoSegNet's direction."""
    x, y = (some.picks[axis].round().to_numpy() for axis in ("x_px", "y_px"))
    return x, some.per_pick("ny") - 1 - y if settings["flip_y"] == "yes" else y


def _home_of(split: str, folder: Path) -> Path:
    return folder / ("test_dataset" if split == TEST else "finetune_dataset")


def _write_mask(path: Path, shape_yx: tuple[int, int], centers_xy: FloatArray, radius_px: float) -> None:
    from PIL import Image

    from cryoflow.pickers.training_sets.discs import paint_discs

    Image.fromarray(paint_discs(shape_yx, centers_xy, radius_px).astype("u1") * 255).save(
        path, format="JPEG", quality=95
    )


PICKER = CryoSegNet()
