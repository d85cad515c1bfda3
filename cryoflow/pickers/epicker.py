"""EPicker: a CenterNet detector that learns continually.

Labels are STAR files of whole centres: EPicker cuts decimals off, so they are rounded first. Its own .box labels are
read as centres, though they are corners; it gets STAR only. A label's stem must be the micrograph's. It splits by
itself, in percent; the test micrographs are kept out of its sight.

Sources: thuem/EPicker (lib/mrc_utils/star.py, preprocess.py, bin/epicker_train.sh, bin/epicker.sh).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Hardware, Needs, Picker, Settings, Step, rows_writer
from cryoflow.pickers.links import link_micrographs
from cryoflow.pickers.preflight import problems_of_labels
from cryoflow.pickers.split import TEST, VALIDATION
from cryoflow.pickers.training_set import TrainingSet

_HEAD = b"\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
NETWORK_PX = 1024


class EPicker(Picker):
    """EPicker: picks particles with a CenterNet."""

    name = "epicker"
    title = "EPicker"
    score_kind = "EPicker score"
    default_threshold: ClassVar[float | None] = 0.2
    needs = Needs(modes=frozenset({0, 1, 2, 6}), ispg=True)

    def write(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links and labels, those of the test micrographs apart."""
        table = training.micrographs
        test = (table["split"] == TEST).to_numpy()
        targets = [
            folder / ("test_micrographs" if t else "micrographs") / f"{stem}.mrc"
            for stem, t in zip(table["stem"], test, strict=True)
        ]
        link_micrographs(training, self.needs, targets)
        write = rows_writer("%d %d\n", (np.rint(training.picks["x_px"]), np.rint(training.picks["y_px"])))
        for name in ("labels", "test_labels") if test.any() else ("labels",):
            (folder / name).mkdir()
        for (stem, _, first, last), apart in zip(training.each(), test.tolist(), strict=True):
            content = _HEAD + write(first, last)
            (folder / ("test_labels" if apart else "labels") / f"{stem}.star").write_bytes(content)
        share = float((table["split"] == VALIDATION).sum() / max(1, (~test).sum()))
        percent = settings.choose("validation_percent", round(100 * share), "EPicker chooses which by itself")
        settings.note("train_percent", 100 - percent, "the rest; the test micrographs are kept apart")
        across = table["box_px"].to_numpy(np.float64) / np.maximum(
            *(table[c].to_numpy(np.float64) for c in ("ny", "nx"))
        )
        settings.choose(
            "particle_size",
            round(float(np.nanmean(across)) * NETWORK_PX / 4, 2),
            "a quarter of the diameter at 1024 px",
        )
        settings.choose("batch_size", 4, "EPicker's default")
        settings.choose("learning_rate", 1e-4, "EPicker's default")
        settings.choose("epochs", 140, "EPicker's default")
        settings.choose("sparse", False, "labels are taken to be complete; yes where many particles are not labelled")
        settings.choose_path("load_model", "train from nothing; name a .pth model to refine it")

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Ours."""
        return (self.train_command(home),)

    def train_steps(self, home: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """One command; it uses one GPU."""
        argv = [
            "epicker_train.sh",
            "--data",
            "micrographs",
            "--label",
            "labels",
            "--label_type",
            "star",
            "--exp_id",
            "model",
        ]
        argv += [
            "--train_pct",
            settings["train_percent"],
            "--val_pct",
            settings["validation_percent"],
            "--test_pct",
            "0",
        ]
        argv += [
            "--batch_size",
            settings["batch_size"],
            "--lr",
            settings["learning_rate"],
            "--num_epoch",
            settings["epochs"],
        ]
        argv += ["--sparse_anno"] if settings["sparse"] == "yes" else []
        argv += ["--load_model", settings["load_model"]] if settings.get("load_model") else []
        argv += ["--gpus", _device(hardware)]
        return (Step("train EPicker", tuple(argv), ("model/model_last.pth",), wants_gpu=True),)

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links only."""
        link_micrographs(
            training, self.needs, [folder / "micrographs" / f"{s}.mrc" for s in training.micrographs["stem"]]
        )
        settings.choose("min_distance", 0, "EPicker's default, in pixels")

    def pick_steps(self, home: Path, model: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """One command; scores are kept down to 0, cryoflow applies its own threshold on reading."""
        argv: tuple[str, ...] = (
            "epicker.sh",
            "--data",
            "micrographs",
            "--load_model",
            str(model),
            "--output",
            "picks",
            "--output_type",
            "star",
        )
        argv += ("--vis_thresh", "0", "--min_distance", settings["min_distance"], "--gpus", _device(hardware))
        return (Step("pick with EPicker", argv, ("picks",), wants_gpu=True),)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Micrographs without labels of the same stem, and labels beside their micrograph."""
        if not (home / "labels").is_dir():
            return []  # a set to pick
        found: list[str] = []
        for prefix in ("", "test_"):
            pictures = {p.stem for p in (home / f"{prefix}micrographs").glob("*")}
            labels = sorted((home / f"{prefix}labels").glob("*"))
            found += problems_of_labels(pictures, labels, manifest, empty_files=False)
        return found

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """`model_last.pth` in the folder of the experiment."""
        if found := sorted(p for p in home.rglob("model_last.pth") if p.stat().st_size):
            return found[-1]
        raise BadInput(home, "holds no model_last.pth: the training did not succeed.", "See train.log.")

    def pick_files(self, folder: Path) -> list[Path]:
        """STAR, thi, coord or box files, without labels."""
        found = sorted(p for p in folder.rglob("*") if p.suffix in (".star", ".thi", ".coord", ".box") and p.is_file())
        return [p for p in found if not {"labels", "test_labels"} & set(p.relative_to(folder).parts)]


def _device(hardware: Hardware) -> str:
    return str(hardware.gpus[0]) if hardware.gpus else "-1"


PICKER = EPicker()
