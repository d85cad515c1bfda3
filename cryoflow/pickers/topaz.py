"""Topaz (topaz-em), 0.2.5 to 0.3.

Topaz trains on downsampled micrographs and on tables in their pixels; both are named by the micrograph's base name
without extension. Its STAR and .box importers lose names and decimals, so it gets its own tables, scaled from full
precision and rounded once. Lists are split at blanks, so paths are relative to the folder the commands run in.

Sources: topaz-em 0.3.20 (utils/files.py, training.py, stats.py, extract.py), its README, and for the derived settings
RELION's wrapper (src/autopicker.cpp).
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow import inputs
from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.pickers.base import Hardware, Needs, Picker, Settings, Step
from cryoflow.pickers.links import link_micrographs
from cryoflow.pickers.split import TEST, TRAIN, VALIDATION
from cryoflow.pickers.training_set import TrainingSet
from cryoflow.picks import FloatArray

log = logging.getLogger(__name__)

RECEPTIVE_FIELD_PX = {"resnet8": 71, "resnet16": 91, "conv31": 31, "conv63": 63, "conv127": 127}
SPLIT_FILES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
SMALLEST_TARGET_A = 4.0
_FILES_A_COMMAND = 500


class Topaz(Picker):
    """Topaz: positive-unlabelled learning on downsampled micrographs."""

    name = "topaz"
    title = "Topaz"
    score_kind = "Topaz log-likelihood ratio"
    default_threshold: ClassVar[float | None] = 0.0
    model_settings = ("target_pixel_size",)
    model_names = tuple(f"{name}{units}" for name in ("resnet8", "resnet16") for units in ("", "_u32", "_u64"))
    needs = Needs(modes=frozenset({0, 1, 2, 6}))  # mode 12: not before 0.3

    def write(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links by downsampling factor, tables of particles, lists of images."""
        factor = _downsampling(training, settings)
        training.micrographs["scale"] = factor
        for reason, count in _link(training, folder, self.needs).items():
            settings.note(f"converted ({reason})", count, "copied as MRC mode 2; the others are links")
        _derive_training(training, settings)
        x_px, y_px = training.picks["x_px"].to_numpy(), training.picks["y_px"].to_numpy()
        scale = factor[training.picks["micrograph"].to_numpy()]
        _write_tables(training, folder, x_px / scale, y_px / scale)
        (folder / "models").mkdir()

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Ours runs the whole chain."""
        return (
            self.train_command(home),
            f"(or write a script for it: {self.train_command(home, '--script-only')})",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """Preprocess each group of micrographs by its factor, then train."""
        return (*_preprocess_steps(home, hardware), _train_step(home, settings, hardware))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links by downsampling factor; the radius within which one particle is picked once."""
        factor = _downsampling(training, settings)
        training.micrographs["scale"] = factor
        _link(training, folder, self.needs)
        _extract_radius(training, settings)
        settings.choose("threshold", -6.0, "Topaz's own, a probability of 0.0025; cryoflow applies its own on reading")

    def pick_steps(self, home: Path, model: Path, settings: Mapping[str, str], hardware: Hardware) -> tuple[Step, ...]:
        """Preprocess, then extract group by group; picks stay in downsampled pixels, the manifest scales them back."""
        steps = list(_preprocess_steps(home, hardware))
        for group, chunk, names in _chunks(home):
            argv: tuple[str, ...] = (
                "topaz",
                "extract",
                "-d",
                _device(hardware),
                "-m",
                str(model),
                "-r",
                settings["extract_radius"],
            )
            argv += (
                "-t",
                settings["threshold"],
                "-o",
                f"picks/{group}_{chunk}.txt",
                *(f"proc/{name}" for name in names),
            )
            steps.append(
                Step(
                    f"pick with Topaz ({group}, part {chunk + 1})",
                    argv,
                    (f"picks/{group}_{chunk}.txt",),
                    wants_gpu=True,
                )
            )
        return tuple(steps)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Names that one table has and another lacks, so that Topaz finds no particles; particles that lie outside."""
        found = []
        linked = {p.stem for p in home.glob("raw_*/*.mrc")}
        row = manifest.set_index("stem")[["nx", "ny", "scale"]].astype("float64")
        for split, part in SPLIT_FILES.items():
            if not (manifest["split"] == split).any():
                continue
            table, images = home / f"particles_{part}.txt", home / f"image_list_{part}.txt"
            particles = _table(table, ["image_name", "x_coord", "y_coord"])
            listed = set(_table(images, ["image_name"])["image_name"])
            named = particles["image_name"]
            found += [f"{name} of {table.name} is not in {images.name}" for name in sorted(set(named) - listed)]
            found += [f"{name} of {images.name} has no picture" for name in sorted(listed - linked)]
            of = row.reindex(named)
            xy_px = particles[["x_coord", "y_coord"]].to_numpy(np.float64) * of[["scale"]].to_numpy()
            outside = (xy_px < 0) | (xy_px > of[["nx", "ny"]].to_numpy() + of[["scale"]].to_numpy())
            if outside.any():
                found.append(f"{table.name} has particles outside {named[outside.any(axis=1)].iloc[0]}")
        return found

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """The epoch of the best area under the precision-recall curve on the validation micrographs, else the last."""
        by_epoch = {
            int(p.stem.rsplit("_epoch", 1)[1]): p for p in (home / "models").glob("*_epoch*.sav") if p.stat().st_size
        }
        if not by_epoch:
            raise BadInput(home / "models", "holds no model: the training did not succeed.", "See train.log.")
        if (reached := max(by_epoch)) < int(settings["epochs"]):
            raise BadInput(
                by_epoch[reached],
                f"is of epoch {reached} of {settings['epochs']}: the training was stopped.",
                "Train again; `cryoflow picker pick --model` takes it as it is.",
            )
        curve = self.training_curve(home)
        scores = curve[(curve["metric"] == "auprc") & (curve["split"] == "validation")].dropna()
        scores = scores[scores["epoch"].isin(by_epoch)]
        best = int(scores["epoch"].to_numpy()[scores["value"].to_numpy().argmax()]) if len(scores) else max(by_epoch)
        return by_epoch[best]

    def training_curve(self, home: Path) -> pd.DataFrame:
        """From the table that `topaz train -o` writes."""
        from cryoflow.pickers.curves import topaz_curve

        return topaz_curve(home / "models" / "training.txt")

    def pick_files(self, folder: Path) -> list[Path]:
        """Tables, STAR files or boxes, none of what the training left."""
        ours = {
            "particles.txt",
            *(f"{kind}_{s}.txt" for kind in ("particles", "image_list") for s in SPLIT_FILES.values()),
            "training.txt",
        }
        return [f for f in super().pick_files(folder) if f.name not in ours]


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Some columns of one of our tables; the first is text.

    Raises
    ------
    BadInput
        Where it cannot be read.
    """
    try:
        with inputs.opened_table(path) as file:
            kinds = dict.fromkeys(columns, "float64") | {columns[0]: "object"}
            return pd.read_csv(file, sep="\t", usecols=columns, dtype=kinds)
    except (OSError, ValueError) as error:
        raise BadInput(path, f"cannot be read: {error}.", "Export the set again, with --overwrite.") from error


def _downsampling(training: TrainingSet, settings: Settings) -> npt.NDArray[np.int64]:
    """Whole factor of each micrograph, such that all end near one pixel size in which a particle fits the network."""
    pixel_A = training.micrographs["pixel_size_A"].to_numpy(np.float64)
    diameter_A = training.micrographs["diameter_A"].to_numpy(np.float64)
    why = "Topaz's default; a .sav file goes on from it"
    model = settings.choose("model", "resnet8", why)
    if model not in RECEPTIVE_FIELD_PX:
        if not Path(model).expanduser().is_file():
            raise BadInput("model", f"is {model}: no file, and none of {', '.join(RECEPTIVE_FIELD_PX)}.")
        model = settings.choose_path("model", why)
    field_px = RECEPTIVE_FIELD_PX.get(model, RECEPTIVE_FIELD_PX["resnet8"])
    given = settings.choose("downsampling", "auto", "each entry's own whole number, to about the target_pixel_size")
    if given != "auto" and not (given.isdecimal() and int(given) > 0):
        raise BadInput("downsampling", f"is {given}; it is a whole number, 1 or more, or auto.")
    target_A = max(SMALLEST_TARGET_A, 2 * float(np.nanmax(diameter_A, initial=0.0)) / field_px)
    why = f"angstrom: a particle fills about half of {field_px} px, {model}'s view; at least 4"
    factor = np.full(len(pixel_A), int(given) if given != "auto" else 1)
    if not np.isnan(pixel_A).any():
        if given == "auto":
            target_A, factor = _common_size(pixel_A, target_A)
        else:
            target_A, why = float(np.exp(np.log(pixel_A * factor).mean())), "angstrom, from the downsampling"
    elif given == "auto":
        raise MissingMetadata(
            "downsampling",
            "cannot be derived: a pixel size is not known.",
            "Give --set downsampling=4, or the pixel size on ingest.",
        )
    wanted_A = settings.choose("target_pixel_size", target_A, why)
    if not wanted_A > 0:
        raise BadInput("target_pixel_size", f"is {wanted_A:g}; it is a number of angstrom above 0.")
    if given == "auto" and wanted_A != target_A:
        factor = _factors(pixel_A, wanted_A)
    for entry, rows in training.micrographs.groupby("entry").indices.items():
        for value in np.unique(factor[rows]):
            at = pixel_A[rows][factor[rows] == value][0]
            settings.note(f"downsampling of {entry}", int(value), f"{at:.4g} A a pixel become {at * value:.4g}")
    return factor


def _factors(pixel_A: FloatArray, target_A: float) -> npt.NDArray[np.int64]:
    return np.maximum(1, np.round(target_A / pixel_A).astype(np.int64))


def _common_size(pixel_A: FloatArray, target_A: float) -> tuple[float, npt.NDArray[np.int64]]:
    """The pixel size near the wanted one to which whole factors bring all micrographs best, and the factors."""
    sizes = np.unique(pixel_A)
    tries = target_A * np.append(1.0, np.geomspace(0.8, 1.25, 91))
    tries = tries[tries >= SMALLEST_TARGET_A]
    ends = sizes * np.stack([_factors(sizes, t) for t in tries])
    unlike = ends.max(axis=1) / ends.min(axis=1)
    good = tries[unlike <= 1.02 * unlike.min()]
    near_A = float(good[np.abs(np.log(good / target_A)).argmin()])
    factor = _factors(pixel_A, near_A)
    reached_A = float(np.exp(np.log(pixel_A * factor).mean()))  # what a model should see again, to the digit
    reached_A = float(f"{reached_A:.6g}")  # as it is kept
    return (reached_A if (_factors(pixel_A, reached_A) == factor).all() else near_A), factor


def _pixels_across(training: TrainingSet) -> float:
    """Mean particle diameter in downsampled pixels."""
    micrographs = training.micrographs
    across = micrographs["box_px"].to_numpy(np.float64) / micrographs["scale"].to_numpy(np.float64)
    return float(np.nanmean(across)) if np.isfinite(across).any() else float("nan")


def _derive_training(training: TrainingSet, settings: Settings) -> None:
    across_px = _pixels_across(training)
    radius = settings.choose(
        "radius",
        max(1, round(across_px / 8)),
        f"a quarter of the particle's radius, {across_px:.3g} px across when downsampled",
    )
    _extract_radius(training, settings)
    train = training.micrographs["split"].to_numpy() == TRAIN
    labelled = float(training.micrographs["n_picks"].to_numpy()[train].mean())
    expected = settings.choose(
        "expected_particles",
        float(math.ceil(1.25 * labelled)),
        f"1.25 times the {labelled:.4g} labelled per training micrograph: some are not labelled",
    )
    if expected <= labelled:
        raise BadInput(
            "expected_particles",
            f"is {expected:g}, not more than the {labelled:.4g} labelled per training micrograph.",
            "Topaz would silently change its method; give the true number, unlabelled ones included.",
        )
    corrects = settings.choose(
        "correct_expected", True, "Topaz 0.3.0 and later count too many pixels a particle; set no for 0.2"
    )
    number = corrected_expected(expected, labelled, radius) if corrects else expected
    why = (
        f"passed as -n: L + (N - L)/(2r + 1) with N={expected:g}, L={labelled:.4g}, r={radius}; since 0.3.0 it takes "
        f"{2 * radius + 1} times too many pixels a particle, and would look for that many more unlabelled ones"
        if corrects
        else "passed as -n, not corrected"
    )
    settings.note("number_for_topaz", round(number, 4), why)
    if corrects:
        log.info("Topaz -n %.4g: %s", number, why)
    for name, derived in (("units", 32), ("epochs", 10), ("epoch_size", 1000), ("minibatch_size", 256)):
        settings.choose(name, derived, "Topaz's default")
    settings.choose("learning_rate", 2e-4, "Topaz's default")
    settings.choose("method", "GE-binomial", "Topaz's default")
    settings.choose("pretrained", True, "start from the detector that Topaz brings for this architecture")


def _extract_radius(training: TrainingSet, settings: Settings) -> None:
    across_px = _pixels_across(training)
    if np.isnan(across_px):
        radius = settings.choose("extract_radius", 0, "must be given: no diameter is known")
        if radius < 1:
            raise MissingMetadata(
                "extract_radius",
                "cannot be derived: no diameter is known.",
                "Give --diameter, or --set extract_radius=...",
            )
        return
    settings.choose("extract_radius", max(1, round(across_px / 2)), "the particle's radius in downsampled pixels")


def corrected_expected(expected: float, labelled: float, radius: int) -> float:
    """The number to pass as `-n` to Topaz 0.3.0 and later, so that it works with the true one.

    Its `stats.pixels_given_radius` makes a cube of 2r+1 layers where it should make one: the share of positive pixels
    and the share labelled come out 2r+1 times too large, and with them the unlabelled particles it looks for.

    >>> corrected_expected(100, 80, 3)
    82.85714285714286
    """
    return labelled + (expected - labelled) / (2 * radius + 1)


def _link(training: TrainingSet, folder: Path, needs: Needs) -> dict[str, int]:
    table = training.micrographs
    targets = [
        folder / f"raw_{int(s):02d}" / f"{stem}.mrc" for stem, s in zip(table["stem"], table["scale"], strict=True)
    ]
    return link_micrographs(training, needs, targets)


def _write_tables(training: TrainingSet, folder: Path, x: FloatArray, y: FloatArray) -> None:
    stem = training.micrographs["stem"].to_numpy()
    source = training.micrographs["entry_index"].to_numpy()
    split = training.micrographs["split"].to_numpy()
    xy = np.rint(np.column_stack([x, y])).astype(np.int64)
    tables: dict[str, list[str]] = {s: [] for s in SPLIT_FILES}
    everything = []
    for i, (name, part, first, last) in enumerate(training.each()):
        rows = (f"{name}\t%d\t%d\t{source[i]}\n" * (last - first)) % tuple(xy[first:last].ravel().tolist())
        tables[part].append(rows)
        everything.append(rows)
    head = "image_name\tx_coord\ty_coord\tsource\n"
    (folder / "particles.txt").write_text(head + "".join(everything))
    for part, file_name in SPLIT_FILES.items():
        rows_of = np.flatnonzero(split == part)
        if len(rows_of) == 0:
            continue
        (folder / f"particles_{file_name}.txt").write_text(head + "".join(tables[part]))
        images = "".join(f"{stem[i]}\tproc/{stem[i]}.mrc\t{source[i]}\n" for i in rows_of)
        (folder / f"image_list_{file_name}.txt").write_text("image_name\tpath\tsource\n" + images)


def _chunks(home: Path) -> list[tuple[str, int, list[str]]]:
    """Groups of micrographs of one factor, in parts that fit a command line."""
    found = []
    for folder in sorted(home.glob("raw_*")):
        names = sorted(p.name for p in folder.iterdir())
        found += [
            (folder.name, k // _FILES_A_COMMAND, names[k : k + _FILES_A_COMMAND])
            for k in range(0, len(names), _FILES_A_COMMAND)
        ]
    if not found:
        raise BadInput(home, "has no micrographs (raw_*).", "Export it again.")
    return found


def _preprocess_steps(home: Path, hardware: Hardware) -> tuple[Step, ...]:
    steps = []
    for group, chunk, names in _chunks(home):
        argv: tuple[str, ...] = (
            "topaz",
            "preprocess",
            "-v",
            "-s",
            str(int(group.removeprefix("raw_"))),
            "-o",
            "proc/",
            "-d",
            _device(hardware),
        )
        argv += ("-t", str(hardware.cpus), *(f"{group}/{name}" for name in names))
        made = tuple(f"proc/{name}" for name in names)
        steps.append(Step(f"downsample and normalise ({group}, part {chunk + 1})", argv, made, wants_gpu=True))
    return tuple(steps)


def _train_step(home: Path, settings: Mapping[str, str], hardware: Hardware) -> Step:
    argv = ["topaz", "train", "-d", _device(hardware), "-n", settings["number_for_topaz"], "-r", settings["radius"]]
    argv += ["--train-images", "image_list_train.txt", "--train-targets", "particles_train.txt"]
    if (home / "image_list_validation.txt").exists():
        argv += ["--test-images", "image_list_validation.txt", "--test-targets", "particles_validation.txt"]
    argv += ["--model", settings["model"], "--method", settings["method"]]
    argv += [
        "--num-workers",
        str(hardware.cpus if hardware.gpus else 0),
    ]  # on a CPU they would compete with the network
    for option in ("units", "minibatch_size", "epoch_size", "learning_rate"):
        argv += [f"--{option.replace('_', '-')}", settings[option]]
    argv += ["--num-epochs", settings["epochs"]]
    argv += [] if settings["pretrained"] == "yes" else ["--no-pretrained"]
    argv += ["--save-prefix", "models/topaz", "-o", "models/training.txt"]
    return Step("train Topaz", tuple(argv), ("models/training.txt",), wants_gpu=True)


def _device(hardware: Hardware) -> str:
    """Topaz uses one device."""
    return str(hardware.gpus[0]) if hardware.gpus else "-1"


PICKER = Topaz()
