"""EPicker: a CenterNet detector that learns continually.

Labels are STAR files of whole centers: EPicker cuts decimals off, so they are rounded first. Its own .box labels are
read as centers, though they are corners; it gets STAR only. A label's stem must be the micrograph's. It would split by
itself, in percent of the sorted names, and validates nothing; it sees the micrographs that train and no others.

Sources: thuem/EPicker (main.py, lib/opts.py, lib/logger.py, lib/mrc_utils/star.py, mrc.py, preprocess.py,
bin/epicker_train.sh, bin/epicker.sh).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.base import Picker, Resources, Step, rows_writer
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION

if TYPE_CHECKING:
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

_HEAD = b"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
NETWORK_PX = 1024
FOLDERS = {TRAIN: "", VALIDATION: "validation_", TEST: "test_"}


class EPicker(Picker):
    """EPicker: picks particles with a CenterNet."""

    name = "epicker"
    title = "EPicker"
    help = "EPicker: pictures and STAR labels."
    formats = ("RELION STAR", "thi", "coord", "EMAN .box")
    suffixes = (".star", ".thi", ".coord", ".box")
    score_kind = "EPicker score"
    default_threshold: ClassVar[float | None] = 0.2

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the particle's size in the network's picture, and how it trains."""
        import numpy as np

        table = training.micrographs
        across = table["box_px"].to_numpy(np.float64) / table["nx"].to_numpy(np.float64, na_value=np.nan)
        if np.isnan(across).all():
            raise MissingMetadata("epicker", "needs the width of the micrographs.", "Link them on ingest.")
        settings.derive(
            "particle_size",
            round(float(np.nanmean(across)) * NETWORK_PX / 4, 2),
            "a quarter of the diameter, in pixels of a picture that is 1024 wide",
        )
        settings.derive("batch_size", 4, "EPicker's default")
        settings.derive("learning_rate", 1e-4, "EPicker's default")
        settings.derive("epochs", 140, "EPicker's default")
        settings.derive("sparse", False, "labels are taken to be complete; yes where many particles are not labeled")
        _refuse_blanks(settings.derive_path("load_model", "train from nothing; name a .pth model to refine it"))

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write links and labels of the training micrographs, and of the other splits in folders of their own."""
        from cryoflow.pickers.training_sets.links import link_micrographs

        table = some.micrographs
        prefix = [FOLDERS[split] for split in table["split"]]
        write = rows_writer("%d %d\n", (some.picks["x_px"].round(), some.picks["y_px"].round()))
        for before in sorted(set(prefix)):
            (folder / f"{before}labels").mkdir(exist_ok=True)
        for stem, split, first, last in some.each():
            (folder / f"{FOLDERS[split]}labels" / f"{stem}.star").write_bytes(_HEAD + write(first, last))
        targets = [
            folder / f"{before}micrographs" / f"{stem}.mrc" for stem, before in zip(table["stem"], prefix, strict=True)
        ]
        link_micrographs(some, targets)

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command."""
        return (self.train_command(home),)

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return one command; it uses one GPU."""
        argv = ["epicker_train.sh", "--data", "micrographs", "--label", "labels", "--label_type", "star"]
        argv += ["--exp_id", "model", "--train_pct", "100", "--val_pct", "0", "--test_pct", "0"]
        argv += ["--particle_size", settings["particle_size"], "--batch_size", settings["batch_size"]]
        argv += ["--lr", settings["learning_rate"], "--num_epoch", settings["epochs"]]
        argv += ["--sparse_anno"] if settings["sparse"] == "yes" else []
        argv += ["--load_model", settings["load_model"]] if settings.get("load_model") else []
        argv += ["--gpus", _device(resources)]
        return (Step("train EPicker", tuple(argv), ("model/model_last.pth",), wants_gpu=True),)

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: DerivedSettings) -> None:
        """Write links only."""
        from cryoflow.pickers.training_sets.links import link_micrographs

        link_micrographs(training, [folder / "micrographs" / f"{s}.mrc" for s in training.micrographs["stem"]])
        settings.derive("min_distance", 0, "EPicker's default, in pixels")

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Return one command; scores are kept down to 0, cryoflow applies its own threshold on reading."""
        _refuse_blanks(str(model))
        argv: tuple[str, ...] = ("epicker.sh", "--data", "micrographs", "--load_model", str(model))
        argv += ("--output", "picks", "--output_type", "star")
        argv += ("--vis_thresh", "0", "--min_distance", settings["min_distance"], "--gpus", _device(resources))
        return (Step("pick with EPicker", argv, ("picks",), wants_gpu=True),)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return micrographs without labels of the same stem, and labels outside their micrograph."""
        from cryoflow.pickers.running.preflight import problems_of_labels

        if not (home / "labels").is_dir():
            return []  # a set to pick
        found: list[str] = []
        for prefix in FOLDERS.values():
            pictures = {p.stem for p in (home / f"{prefix}micrographs").glob("*")}
            labels = sorted((home / f"{prefix}labels").glob("*"))
            found += problems_of_labels(pictures, labels, manifest, empty_files=False)
        return found

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return `model_last.pth`; it is written after each epoch, so the log is checked for the last one.

        Raises
        ------
        BadInput
            Where there is no model, or the training was stopped before its end.
        """
        found = sorted(p for p in home.rglob("model_last.pth") if p.stat().st_size)
        if not found:
            raise BadInput(home, "holds no model_last.pth: the training did not succeed.", "See train.log.")
        curve, wanted = self.training_curve(home), int(settings["epochs"])
        if len(curve) and curve["epoch"].max() < wanted:
            raise BadInput(
                found[-1],
                f"is of epoch {curve['epoch'].max()} of {wanted}: the training was stopped.",
                "See train.log.",
            )
        return found[-1]

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Return the loss by epoch, from the log of the experiment."""
        from cryoflow.pickers.comparing.curves import centernet_curve

        return centernet_curve(home / "model" / "logs" / "log.txt")

    def pick_files(self, folder: Path) -> list[Path]:
        """Return STAR, thi, coord and box files, without labels."""
        found = sorted(p for p in folder.rglob("*") if p.suffix in self.suffixes and p.is_file())
        return [
            p
            for p in found
            if not {f"{before}labels" for before in FOLDERS.values()} & set(p.relative_to(folder).parts)
        ]


def _refuse_blanks(path: str) -> None:
    if len(path.split()) > 1:
        raise BadInput(path, "has blanks in its name, at which EPicker's scripts cut it.", "Link it by another name.")


def _device(resources: Resources) -> str:
    return str(resources.gpus[0]) if resources.gpus else "-1"


PICKER = EPicker()
