"""The detector on folders that `cryoflow export cryoflow` and `cryoflow picker pick` wrote: training, and picking.

manifest.tsv, settings.tsv     of any export: micrographs with pixel sizes, diameters and splits; how to train
    micrographs/STEM.mrc           links
    labels/STEM.tsv                x_px, y_px, label (1 particle, 0 unlabeled, -1 no particle), of training sets only
    model/                         the trained detector
    picks/STEM.star                picks with probabilities; picks/not_picked.tsv: micrographs that cannot be picked
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast, get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.detector.bundle import Detector
from cryoflow.detector.labels import LabeledProject, MicrographLabels
from cryoflow.detector.loading import MicrographToPick, none_usable
from cryoflow.detector.parameters import UnlabeledRule
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.detector.pick_set import notes_on_headers, notes_on_unset_headers
from cryoflow.detector.train import HISTORY, precision_on, train_on
from cryoflow.detector.training_data import PreparedProjects, TrainingOptions
from cryoflow.errors import BadInput
from cryoflow.formats.star_labels import FOM, X, Y
from cryoflow.formats.star_write import write_star
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.split import TEST, VALIDATION
from cryoflow.storage import inputs
from cryoflow.storage.files import write_atomically
from cryoflow.storage.parsing import read_record

log = logging.getLogger(__name__)
NOT_PICKED = "not_picked.tsv"


def train_exported(
    folder: Path, *, say: Callable[[str], None] = print, devices: Sequence[str] = ()
) -> tuple[Detector, PreparedProjects]:
    """Train on an exported set, with its settings; resume a call that was stopped.

    Raises
    ------
    BadInput
        Where the folder is no export for the detector, or holds too few labels.
    """
    settings = manifest.read_settings(folder)
    try:
        options = TrainingOptions(
            rounds=int(settings["rounds"]),
            steps=int(settings["steps"]),
            learning_rate=float(settings["learning_rate"]),
            from_scratch=settings["from_scratch"] == "yes",
            unlabeled=_rule(settings["unlabeled"]),
            seed=int(settings["seed"]),
            at_most=1 << 30,  # an export holds what its user chose
            mixed_precision=precision_on(devices),
        )
        start = settings["start"]
    except (KeyError, ValueError) as error:
        raise BadInput(folder / manifest.SETTINGS, f"is damaged: {error!r}.", "Export it again.") from error
    return train_on(
        list(read_labels(folder)), folder / "model", options, start=Detector.load(start), say=say, devices=devices
    )


def _rule(text: str) -> UnlabeledRule:
    for rule in get_args(UnlabeledRule):
        if rule == text:
            return cast(UnlabeledRule, rule)
    raise ValueError(f"unlabeled is {text!r}")


def read_labels(folder: Path) -> Iterator[LabeledProject]:
    """Yield the labels of each entry of an exported set; micrographs of the test split are left out.

    Raises
    ------
    BadInput
        Where a table of labels is missing or damaged.
    """
    table = manifest.read_manifest(folder)
    for entry, rows in table[table["split"] != TEST].groupby("entry", sort=True):
        micrographs = []
        for stem, pixel_size_A in zip(rows["stem"], rows["pixel_size_A"], strict=True):
            xy, label = _read_table(folder / "labels" / f"{stem}.tsv")
            micrographs.append(
                MicrographLabels(
                    str(stem),
                    str(folder / "micrographs" / f"{stem}.mrc"),
                    float(pixel_size_A),
                    xy,
                    label,
                    np.ones(len(label), np.float32),
                    background=not (label == 1).any(),  # an export's micrographs without picks hold no particle
                )
            )
        held = frozenset(str(s) for s in rows["stem"][rows["split"] == VALIDATION])
        diameters = rows["diameter_A"].to_numpy(np.float64)
        yield LabeledProject(str(entry), float(np.median(diameters)), tuple(micrographs), str(entry), held or None)


def _read_table(path: Path) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int8]]:
    """Return positions and labels of one micrograph."""
    try:
        lines = inputs.read_text(path).splitlines()[1:]
        rows = np.array([line.split("\t") for line in lines], np.float64).reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise BadInput(path, f"is no table of labels ({error}).", "Export it again.") from error
    if not np.isfinite(rows).all() or not np.isin(rows[:, 2], (-1, 0, 1)).all():
        raise BadInput(path, "has labels other than 1, 0 and -1, or positions that are no numbers.", "Export it again.")
    return rows[:, :2].astype(np.float64), rows[:, 2].astype(np.int8)


def problems_of_labels(folder: Path, table: pd.DataFrame) -> list[str]:
    """Return what is wrong with the tables of labels: missing, damaged, or outside the micrograph."""
    found = []
    for stem, ny, nx in zip(table["stem"], table["ny"], table["nx"], strict=True):
        try:
            xy, _ = _read_table(folder / "labels" / f"{stem}.tsv")
        except BadInput as error:
            found.append(str(error))
            continue
        if not pd.isna(ny) and len(xy) and not ((xy >= -0.5) & (xy <= (float(nx), float(ny)))).all():
            found.append(f"{stem}.tsv has labels outside its micrograph")
    return found


def pick_exported(
    folder: Path,
    model: str,
    *,
    workers: int = 2,
    on_picked: Callable[[PickedResult | BadInput], None] | None = None,
    say: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Pick the micrographs of a folder; return how many were picked, and how many could not be.

    Parameters
    ----------
    say
        Called with each note on pixel sizes: in the headers of micrographs, and in the manifest.

    Raises
    ------
    BadInput
        Where none can be picked.
    """
    detector = Detector.load(model)
    table = manifest.read_manifest(folder)
    unknown = table["stem"][table["diameter_A"].isna()]
    failed = [(str(stem), BadInput(str(stem), "has no particle diameter.")) for stem in unknown]
    sizes_A: list[tuple[float | None, float]] = []
    from_headers_A: list[float] = []
    for diameter_A in np.unique(table["diameter_A"].dropna().to_numpy(np.float64)).tolist():
        rows = table[table["diameter_A"] == diameter_A]
        items = [
            MicrographToPick(str(stem), folder / "micrographs" / f"{stem}.mrc", float(size) if size > 0 else None)
            for stem, size in zip(rows["stem"], rows["pixel_size_A"], strict=True)
        ]
        for item, result in zip(items, pick(detector, items, diameter_A, workers=workers), strict=True):
            if isinstance(result, BadInput):
                failed.append((item.name, result))
            else:
                sizes_A.append((result.header_pixel_size_A, result.pixel_size_A))
                if item.pixel_size_A is None:
                    from_headers_A.append(result.pixel_size_A)
                x_px, y_px = result.xy_px.T
                write_star(folder / "picks" / f"{item.name}.star", {"": {X: x_px, Y: y_px, FOM: result.probability}})
            if on_picked:
                on_picked(result)
    picked = len(sizes_A)
    if not picked:
        raise none_usable([error for _, error in failed]) if failed else BadInput(folder, "holds no micrograph.")
    of_headers = notes_on_headers(sizes_A, f"recorded in {manifest.NAME}")
    for note in (*of_headers, *notes_on_unset_headers(from_headers_A, picked)):
        say(f"warning: {note}")
    if failed:
        rows_of_failed = "".join(f"{stem}\t{' '.join(str(error).split())}\n" for stem, error in failed)
        write_atomically(folder / "picks" / NOT_PICKED, "stem\treason\n" + rows_of_failed)
    return picked, len(failed)


def read_not_picked(folder: Path) -> Mapping[str, str]:
    """Return the stems of micrographs that could not be picked, with the reasons."""
    try:
        lines = inputs.read_text(folder / NOT_PICKED).splitlines()[1:]
    except FileNotFoundError:
        return {}
    return {stem: reason for stem, _, reason in (line.partition("\t") for line in lines) if stem}


@dataclass(frozen=True)
class _Round:
    """Record of a round in the history; pydantic ignores other fields."""

    round: int
    loss: float
    validation_loss: float


def training_curve(model: Path) -> pd.DataFrame:
    """Return the losses of a training by round, as `Picker.training_curve` does."""
    rows: list[tuple[int, str, str, float]] = []
    try:
        for record in read_record(model / HISTORY, list[_Round]) if (model / HISTORY).exists() else []:
            rows.append((record.round, "train", "loss", record.loss))
            rows.append((record.round, "validation", "loss", record.validation_loss))
    except BadInput as error:  # a training is not lost for want of its curve
        log.warning("no training curve: %s", error)
    return pd.DataFrame(rows, columns=["epoch", "split", "metric", "value"])
