"""crYOLO (SPHIRE), 1.7 to 1.9.

Labels are boxes around the particle: corner, width and height in micrograph pixels, rows counted as MRC files store
them. crYOLO flips MRC images when it reads them and the boxes with them, but not TIFF or PNG: it gets MRC only. It
finds a picture for a label by substring and the best likeness; our stems leave it one choice. A label file of no bytes
makes its micrograph an example of no particles.

Sources: crYOLO 1.7.7.1 (preprocessing.py, config_tools.py, CoordsIO.py), the documentation at
https://cryolo.readthedocs.io, and the CBOX examples in MPI-Dortmund/cbox_utils.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Needs, Picker, Resources, Step
from cryoflow.pickers.programs.cryolo import config
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.storage import inputs

if TYPE_CHECKING:
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

FOLDERS = {TRAIN: "train", VALIDATION: "valid", TEST: "test"}


class Cryolo(Picker):
    """crYOLO: a YOLO detector with a general model, trained on boxes."""

    name = "cryolo"
    title = "crYOLO"
    help = "crYOLO 1.7 to 1.9: pictures, boxes (.box or .cbox) and its configuration."
    formats = ("CBOX", "RELION STAR", "EMAN .box")
    suffixes = (".cbox", ".star", ".box")
    score_kind = "crYOLO confidence"
    default_threshold: ClassVar[float | None] = 0.3
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"annotation": ("box", "cbox")}
    model_settings = ("architecture", "input_size", "norm", "low_pass_cutoff", "backend_weights")
    needs = Needs(modes=frozenset({0, 1, 2, 6}), ispg=False)  # mode 12: not with the mrcfile that 1.7 pins

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the format of the labels, which boxes are left out, and the configuration.

        Raises
        ------
        BadInput
            Where each box leaves its micrograph, or a setting has a value that it must not have.
        """
        import numpy as np

        from cryoflow.pickers.programs.cryolo.label_files import whole_boxes
        from cryoflow.pickers.training_sets.links import note_conversions

        settings.derive("annotation", "box", "read by every version; cbox needs 1.8 or later")
        counts = training.micrographs["n_picks"].to_numpy()
        if settings.derive("drop_partial_boxes", True, "crYOLO itself never gives a box that leaves the micrograph"):
            whole = np.concatenate([whole_boxes(some) for some in training.in_shards()])
            if not whole.any():
                raise BadInput(
                    "cryolo",
                    f"gets no box: each of the {counts.sum()} leaves its micrograph.",
                    "Is the diameter (or the box) right? With --set drop_partial_boxes=no they stay.",
                )
            if dropped := int((counts - whole).sum()):
                settings.note("dropped_boxes", dropped, "not wholly on their micrograph")
            counts = whole
        note_conversions(training, settings)
        config.derive_model(training, settings, crowded=int(counts.max()))
        config.derive_training(settings)

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write pictures and boxes, as `cryolo_train.py` reads them."""
        from cryoflow.pickers.programs.cryolo.label_files import write_boxes
        from cryoflow.pickers.training_sets.links import link_micrographs

        table = some.micrographs
        write_boxes(some, {split: folder / f"{part}_annot" for split, part in FOLDERS.items()}, settings)
        targets = [
            folder / f"{FOLDERS[split]}_image" / f"{stem}.mrc"
            for split, stem in zip(table["split"], table["stem"], strict=True)
        ]
        link_micrographs(some, targets)

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write the configuration."""
        validates = VALIDATION in set(training.micrographs["split"])
        config.write(folder, settings, config.training_sections(settings, validates=validates))

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command, and the one of crYOLO's documentation."""
        return self.train_command(home), f"(or, in {home}: cryolo_train.py -c {config.NAME} -w 5 -g 0)"

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return one command; it fine-tunes if the export was made for that."""
        fine = settings.get("fine_tune") == "yes"
        warmup = "0" if fine else settings.get("warmup_epochs", "5")
        argv = ["cryolo_train.py", "-c", config.NAME, "-w", warmup, *_devices(resources)]
        argv += ["-e", settings.get("early_stop_epochs", "10"), "-nc", str(resources.cpus)]
        argv += ["--fine_tune", "-lft", settings.get("fine_tune_layers", "2")] if fine else []
        return (Step("train crYOLO", tuple(argv), (settings["model_name"],), wants_gpu=True),)

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: DerivedSettings) -> None:
        """Write links, and a configuration with this set's anchor."""
        from cryoflow.pickers.training_sets.links import link_micrographs

        link_micrographs(training, [folder / "micrographs" / f"{stem}.mrc" for stem in training.micrographs["stem"]])
        settings.derive(
            "threshold", 0.1, "crYOLO's own; CBOX holds what is below too, and cryoflow applies its own on reading"
        )
        config.derive_model(training, settings, crowded=int(training.micrographs["n_picks"].max()))
        config.write(folder, settings.values, {})

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Return one command for all micrographs."""
        argv = ["cryolo_predict.py", "-c", config.NAME, "-w", str(model), "-i", "micrographs", "-o", "picks"]
        argv += ["-t", settings["threshold"], *_devices(resources), "-nc", str(resources.cpus)]
        return (Step("pick with crYOLO", tuple(argv), ("picks/CBOX",), wants_gpu=True),)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return pairs that crYOLO would not make, invalid boxes, and an unreadable configuration."""
        from cryoflow.pickers.running.preflight import problems_of_labels

        found = []
        try:
            json.loads(inputs.read_text(home / config.NAME))
        except (OSError, ValueError, RecursionError) as error:
            found.append(f"{config.NAME} cannot be read ({error})")
        for part in FOLDERS.values():
            images = {p.stem for p in (home / f"{part}_image").glob("*")}
            labels = sorted((home / f"{part}_annot").glob("*"))
            found += problems_of_labels(images, labels, manifest, empty_files=True)
            names = "\n".join(images)
            found += [
                f"{label.name} fits {count} pictures of {part}_image, which crYOLO finds by a part of their names"
                for label in labels
                if (count := names.count(label.stem)) > 1
            ]
            for label in labels:
                if label.suffix == ".box" and label.stat().st_size and not inputs.read_bytes(label).strip():
                    found.append(f"{label.name} has blank lines only; a micrograph without particles has an empty file")
        return found

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the model under its final name: while it trains, crYOLO writes to `..._tmp.h5`.

        Raises
        ------
        BadInput
            Where the training was stopped before its end.
        """
        model = home / settings["model_name"]
        if not model.is_file() and model.with_name(model.stem + "_tmp.h5").exists():
            raise BadInput(model, "was not written by the training: it stopped before its end.", "See train.log.")
        return model

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Return the loss by epoch, from Keras' output."""
        from cryoflow.pickers.comparing.curves import keras_curve

        return keras_curve(home / "train.log")

    def pick_files(self, folder: Path) -> list[Path]:
        """Return CBOX files, the only ones with confidences; else STAR, else EMAN boxes."""
        for name, pattern in (("CBOX", "*.cbox"), ("STAR", "*.star"), ("EMAN", "*.box")):
            if files := sorted(folder.rglob(f"{name}/{pattern}")):
                return files
        return sorted(f for suffix in self.suffixes for f in folder.rglob(f"*{suffix}"))


def _devices(resources: Resources) -> tuple[str, ...]:
    """Return `-g`: crYOLO copies it into CUDA_VISIBLE_DEVICES, so it is left out if a scheduler has set that."""
    if resources.allocated and resources.gpus:
        return ()
    return ("-g", *(map(str, resources.gpus) if resources.gpus else ("-1",)))


PICKER = Cryolo()
