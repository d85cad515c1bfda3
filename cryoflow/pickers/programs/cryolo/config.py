"""crYOLO's configuration file, and the settings in it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.errors import BadInput

if TYPE_CHECKING:
    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

NAME = "config_cryolo.json"


def derive_model(training: TrainingSet, settings: DerivedSettings, crowded: int) -> None:
    """Derive the network's settings, the same for training and for picking with it.

    Raises
    ------
    BadInput
        Where a setting has a value that it must not have.
    """
    per_entry = training.micrographs.groupby("entry_index")["box_px"].first().dropna()
    mean_box = 2 * round(per_entry.mean() / 2) if len(per_entry) else 0
    settings.derive("anchor", int(mean_box), "mean box of the entries, each in its own pixels")
    size = settings.derive("input_size", 1024, "short side that the network sees; a multiple of 32")
    if size % 32 or size < 32:
        size = max(32, 32 * round(size / 32))
        settings.note("input_size", size, "rounded to a multiple of 32: others shift the picks")
    settings.derive("architecture", "PhosaurusNet", "the vendor's recommendation")
    settings.derive(
        "max_box_per_image",
        max(700, math.ceil(1.2 * crowded)),
        f"at least 700, and 1.2 times the most crowded micrograph's {crowded}",
    )
    settings.derive("norm", "STANDARD", "the vendor's default")
    cutoff = settings.derive(
        "low_pass_cutoff", 0.1, "of the sampling frequency, as the general model for cryo images needs; 0 for none"
    )
    if cutoff > 0.5:
        raise BadInput("low_pass_cutoff", f"is {cutoff:g}, of the sampling frequency; that ends at 0.5.")
    settings.derive_path("backend_weights", "ImageNet weights, which crYOLO downloads; a .h5 file where it cannot")


def derive_training(settings: DerivedSettings) -> None:
    """Derive how it is trained.

    Raises
    ------
    BadInput
        Where a setting has a value that it must not have.
    """
    pretrained = settings.derive_path(
        "pretrained_weights", "start from ImageNet weights; name a general model to refine it"
    )
    if settings.derive("fine_tune", False, "train all layers; yes needs pretrained_weights") and not pretrained:
        raise BadInput("fine_tune", "needs pretrained_weights.", "Give --set pretrained_weights=gmodel_phosnet_....h5.")
    settings.derive("fine_tune_layers", 2, "the vendor's default")
    settings.derive("warmup_epochs", 5, "the vendor's default")
    settings.derive("early_stop_epochs", 10, "epochs without progress until it stops")
    name = settings.derive("model_name", "cryolo_model.h5", "in the exported folder")
    if Path(name).name != name or not name.endswith(".h5"):
        raise BadInput("model_name", f"is {name!r}; it is the name of a .h5 file, without folders.")
    settings.derive("train_times", 10, "the vendor's default")
    settings.derive("batch_size", 4, "the vendor's default")
    settings.derive("learning_rate", 1e-4, "the vendor's default")
    settings.derive("epochs", 200, "the vendor's default; it stops early")


def write(folder: Path, settings: Mapping[str, str], training: Mapping[str, object]) -> None:
    """Write the configuration; `training` are the sections that only training needs."""
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
    (folder / NAME).write_text(json.dumps(config, indent=4) + "\n")


def training_sections(settings: Mapping[str, str], *, validates: bool) -> dict[str, object]:
    """Return the sections `train` and `valid`."""
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
            "valid_image_folder": "valid_image/" if validates else "",
            "valid_annot_folder": "valid_annot/" if validates else "",
            "valid_times": 1,
        },
    }
