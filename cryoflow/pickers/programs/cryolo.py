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
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Step
from cryoflow.execution.resources import Resources
from cryoflow.pickers.base import Needs, Picker, rows_writer
from cryoflow.pickers.running.preflight import problems_of_labels
from cryoflow.pickers.training_sets.derived_settings import Settings
from cryoflow.pickers.training_sets.links import link_micrographs, note_conversions
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage import inputs

FOLDERS = {TRAIN: "train", VALIDATION: "valid", TEST: "test"}
CONFIG = "config_cryolo.json"
_CBOX_COLUMNS = (
    *("CoordinateX", "CoordinateY", "CoordinateZ", "Width", "Height", "Depth"),
    *("EstWidth", "EstHeight", "Confidence", "NumBoxes", "Angle"),
)
_CBOX_HEAD = (
    "\ndata_global\n\n_cbox_format_version 1.0\n\n\ndata_cryolo\n\nloop_\n"
    + "".join(f"_{name} #{i}\n" for i, name in enumerate(_CBOX_COLUMNS, 1))
)  # fmt: skip
_CBOX_END = "\n\ndata_cryolo_include\n\nloop_\n_slice_index #1\n\n"


class Cryolo(Picker):
    """crYOLO: a YOLO detector with a general model, trained on boxes."""

    name = "cryolo"
    title = "crYOLO"
    score_kind = "crYOLO confidence"
    default_threshold: ClassVar[float | None] = 0.3
    model_settings = ("architecture", "input_size", "norm", "low_pass_cutoff", "backend_weights")
    needs = Needs(modes=frozenset({0, 1, 2, 6}), ispg=False)  # mode 12: not with the mrcfile that 1.7 pins

    def choose(self, training: TrainingSet, settings: Settings) -> None:
        """The form of the labels, which boxes are left out, and the configuration."""
        form = settings.choose("annotation", "box", "read by every version; cbox needs 1.8 or later")
        if form not in ("box", "cbox"):
            raise BadInput("annotation", f"is {form!r}; it is box or cbox.")
        counts = training.micrographs["n_picks"].to_numpy()
        if settings.choose("drop_partial_boxes", True, "crYOLO itself never gives a box that leaves the micrograph"):
            whole = np.concatenate([_whole_boxes(some) for some in training.in_parts()])
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
        _choose_model(training, settings, crowded=int(counts.max()))
        _choose_training(settings)

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Pictures and boxes, as `cryolo_train.py` wants them."""
        parts = [FOLDERS[split] for split in some.micrographs["split"]]
        stems = some.micrographs["stem"]
        _write_boxes(some, folder, settings)
        link_micrographs(
            some, [folder / f"{part}_image" / f"{stem}.mrc" for part, stem in zip(parts, stems, strict=True)]
        )

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """The configuration."""
        _write_config(folder, settings, _training_sections(training, settings))

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """The two commands of the crYOLO documentation, and ours."""
        return (
            self.train_command(home),
            f"(or, in {home}: cryolo_train.py -c {CONFIG} -w 5 -g 0)",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """One command; fine-tuning where the export was made for it."""
        fine = settings.get("fine_tune") == "yes"
        argv = [
            "cryolo_train.py",
            "-c",
            CONFIG,
            "-w",
            "0" if fine else settings.get("warmup_epochs", "5"),
            *_devices(resources),
        ]
        argv += ["-e", settings.get("early_stop_epochs", "10"), "-nc", str(resources.cpus)]
        argv += ["--fine_tune", "-lft", settings.get("fine_tune_layers", "2")] if fine else []
        return (Step("train crYOLO", tuple(argv), (settings["model_name"],), wants_gpu=True),)

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links, and a configuration with this set's anchor."""
        targets = [folder / "micrographs" / f"{stem}.mrc" for stem in training.micrographs["stem"]]
        link_micrographs(training, targets)
        settings.choose(
            "threshold", 0.1, "crYOLO's own; CBOX holds what is below too, and cryoflow applies its own on reading"
        )
        _choose_model(training, settings, crowded=int(training.micrographs["n_picks"].max()))
        _write_config(folder, settings.values, {})

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """One command for all micrographs."""
        argv: tuple[str, ...] = (
            "cryolo_predict.py",
            "-c",
            CONFIG,
            "-w",
            str(model),
            "-i",
            "micrographs",
            "-o",
            "picks",
        )
        argv += ("-t", settings["threshold"], *_devices(resources), "-nc", str(resources.cpus))
        return (Step("pick with crYOLO", argv, ("picks/CBOX",), wants_gpu=True),)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Pairs that crYOLO would make wrongly or not at all, boxes that are none, and a configuration that is not."""
        found = []
        try:
            json.loads(inputs.read_text(home / CONFIG))
        except (OSError, ValueError, RecursionError) as error:
            found.append(f"{CONFIG} cannot be read ({error})")
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
                    found.append(f"{label.name} has blank lines only; of no particles a file of no bytes tells")
        return found

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """The model under its final name: while it trains, crYOLO writes to `..._tmp.h5`."""
        model = home / settings["model_name"]
        if not model.is_file() or not model.stat().st_size:
            unfinished = model.with_name(model.stem + "_tmp.h5").exists()
            raise BadInput(
                model,
                "was not written by the training.",
                "It stopped before its end; see the log." if unfinished else "See the log.",
            )
        return model

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Loss by epoch, from what Keras prints."""
        from cryoflow.pickers.comparing.curves import keras_curve

        return keras_curve(home / "train.log")

    def pick_files(self, folder: Path) -> list[Path]:
        """CBOX files: the only ones with confidences; else STAR, else EMAN boxes."""
        for name, pattern in (("CBOX", "*.cbox"), ("STAR", "*.star"), ("EMAN", "*.box")):
            if files := sorted(f for f in folder.rglob(f"{name}/{pattern}")):
                return files
        return sorted(f for pattern in ("*.cbox", "*.star", "*.box") for f in folder.rglob(pattern))


def _leaves_micrograph(training: TrainingSet) -> npt.NDArray[np.bool_]:
    half = training.per_pick("box_px") / 2
    leaves = np.zeros(len(training.picks), bool)
    for axis, size in (("x_px", "nx"), ("y_px", "ny")):
        position = training.picks[axis].to_numpy()
        with np.errstate(invalid="ignore"):
            leaves |= (position - half < 0) | (position + half > training.per_pick(size))
    return leaves


def _whole_boxes(some: TrainingSet) -> npt.NDArray[np.int64]:
    """How many of each micrograph's boxes lie wholly on it."""
    row = some.picks["micrograph"].to_numpy()[~_leaves_micrograph(some)]
    return np.asarray(np.bincount(row, minlength=len(some.micrographs)), np.int64)


def _write_boxes(training: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
    form = settings["annotation"]
    if settings["drop_partial_boxes"] == "yes" and (partial := _leaves_micrograph(training)).any():
        training = training.without(partial)
    box = training.per_pick("box_px")
    corner_x, corner_y = training.picks["x_px"].to_numpy() - box / 2, training.picks["y_px"].to_numpy() - box / 2
    if form == "box":
        write, head, end = rows_writer("%.1f\t%.1f\t%d\t%d\n", (corner_x, corner_y, box, box)), b"", b""
    else:
        pattern = "%.1f %.1f <NA> %d %d <NA> %d %d 1.0 1 <NA>\n"
        write, head, end = (
            rows_writer(pattern, (corner_x, corner_y, box, box, box, box)),
            _CBOX_HEAD.encode(),
            _CBOX_END.encode(),
        )
    for split in sorted(set(training.micrographs["split"])):
        (folder / f"{FOLDERS[split]}_annot").mkdir(parents=True, exist_ok=True)
    for stem, split, first, last in training.each():
        content = head + write(first, last) + end if last > first else b""
        (folder / f"{FOLDERS[split]}_annot" / f"{stem}.{form}").write_bytes(content)


def _choose_model(training: TrainingSet, settings: Settings, crowded: int) -> None:
    """What the network is, the same for training and for picking with it."""
    per_entry = training.micrographs.groupby("entry_index")["box_px"].first().dropna()
    mean_box = 2 * round(per_entry.mean() / 2) if len(per_entry) else 0
    settings.choose("anchor", int(mean_box), "mean box of the entries, each in its own pixels")
    size = settings.choose("input_size", 1024, "short side that the network sees; a multiple of 32")
    if size % 32 or size < 32:
        size = max(32, 32 * round(size / 32))
        settings.note("input_size", size, "rounded to a multiple of 32: others shift the picks")
    settings.choose("architecture", "PhosaurusNet", "the vendor's recommendation")
    settings.choose(
        "max_box_per_image",
        max(700, math.ceil(1.2 * crowded)),
        f"at least 700, and 1.2 times the most crowded micrograph's {crowded}",
    )
    settings.choose("norm", "STANDARD", "the vendor's default")
    cutoff = settings.choose(
        "low_pass_cutoff", 0.1, "of the sampling frequency, as the general model for cryo images needs; 0 for none"
    )
    if cutoff > 0.5:
        raise BadInput("low_pass_cutoff", f"is {cutoff:g}, of the sampling frequency; that ends at 0.5.")
    settings.choose_path("backend_weights", "ImageNet weights, which crYOLO downloads; a .h5 file where it cannot")


def _choose_training(settings: Settings) -> None:
    pretrained = settings.choose_path(
        "pretrained_weights", "start from ImageNet weights; name a general model to refine it"
    )
    if settings.choose("fine_tune", False, "train all layers; yes needs pretrained_weights") and not pretrained:
        raise BadInput("fine_tune", "needs pretrained_weights.", "Give --set pretrained_weights=gmodel_phosnet_....h5.")
    settings.choose("fine_tune_layers", 2, "the vendor's default")
    settings.choose("warmup_epochs", 5, "the vendor's default")
    settings.choose("early_stop_epochs", 10, "epochs without progress until it stops")
    name = settings.choose("model_name", "cryolo_model.h5", "in the exported folder")
    if Path(name).name != name or not name.endswith(".h5"):
        raise BadInput("model_name", f"is {name!r}; it is the name of a .h5 file, without folders.")
    settings.choose("train_times", 10, "the vendor's default")
    settings.choose("batch_size", 4, "the vendor's default")
    settings.choose("learning_rate", 1e-4, "the vendor's default")
    settings.choose("epochs", 200, "the vendor's default; it stops early")


def _write_config(folder: Path, settings: Mapping[str, str], training: Mapping[str, object]) -> None:
    anchor, cutoff = int(settings["anchor"]), float(settings["low_pass_cutoff"])
    model: dict[str, object] = {
        "architecture": settings["architecture"],
        "input_size": int(settings["input_size"]),
        "anchors": [anchor, anchor],
        "max_box_per_image": int(settings["max_box_per_image"]),
        "norm": settings["norm"],
    }
    if not anchor:  # a general model at work needs none
        del model["anchors"]
    if cutoff > 0:
        model["filter"] = [cutoff, "filtered/"]
    if weights := settings["backend_weights"]:
        model["backend_weights"] = weights
    config = {"model": model, **training, "other": {"log_path": "logs/"}}
    (folder / CONFIG).write_text(json.dumps(config, indent=4) + "\n")


def _training_sections(training: TrainingSet, settings: Mapping[str, str]) -> dict[str, object]:
    splits = set(training.micrographs["split"])
    return {
        "train": {
            "train_image_folder": "train_image/",
            "train_annot_folder": "train_annot/",
            "train_times": int(settings["train_times"]),
            "pretrained_weights": settings["pretrained_weights"],
            "batch_size": int(settings["batch_size"]),
            "learning_rate": float(settings["learning_rate"]),
            "nb_epoch": int(settings["epochs"]),
            "object_scale": 5.0,
            "no_object_scale": 1.0,
            "coord_scale": 1.0,
            "class_scale": 1.0,
            "saved_weights_name": settings["model_name"],
            "debug": True,
        },
        "valid": {
            "valid_image_folder": "valid_image/" if VALIDATION in splits else "",
            "valid_annot_folder": "valid_annot/" if VALIDATION in splits else "",
            "valid_times": 1,
        },
    }


def _devices(resources: Resources) -> tuple[str, ...]:
    """crYOLO writes what it is given into CUDA_VISIBLE_DEVICES; where a scheduler has set that, it is left alone."""
    if resources.allocated and resources.gpus:
        return ()
    return ("-g", *(map(str, resources.gpus) if resources.gpus else ("-1",)))


PICKER = Cryolo()
