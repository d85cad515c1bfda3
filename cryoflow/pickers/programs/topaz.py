"""Topaz (topaz-em), 0.2.5 to 0.3.

Topaz trains on downsampled micrographs and on tables in their pixels; both are named by the micrograph's base name
without extension. Its STAR and .box importers lose names and decimals, so it gets its own tables, scaled from full
precision and rounded once. Lists are split at blanks, so paths are relative to the folder the commands run in.

Sources: topaz-em 0.3.20 (utils/files.py, training.py, extract.py) and its README. How its settings are derived is in
`topaz_settings.py`.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.execution.executor import Step
from cryoflow.execution.resources import Resources
from cryoflow.pickers.base import Needs, Picker, rows_writer
from cryoflow.pickers.programs.topaz_settings import derive_extract_radius, derive_training, downsampling
from cryoflow.pickers.training_sets.derived_settings import Settings
from cryoflow.pickers.training_sets.links import link_micrographs, note_conversions
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.pickers.training_sets.training_set import TrainingSet
from cryoflow.storage import inputs

SPLIT_FILES = {TRAIN: "train", VALIDATION: "validation", TEST: "test"}
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

    def choose(self, training: TrainingSet, settings: Settings) -> None:
        """Downsampling, in the column `scale`; the number of particles, and how it trains."""
        training.micrographs["scale"] = downsampling(training, settings)
        note_conversions(training, settings)
        derive_training(training, settings)

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Links, in a folder for each downsampling factor."""
        _link(some, folder)

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Tables of particles and lists of images: of all, and of each part of the split."""
        _write_particles(training, folder)
        _write_lists(training, folder)
        (folder / "models").mkdir()

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Ours runs the whole chain."""
        return (
            self.train_command(home),
            f"(or write a script for it: {self.train_command(home, '--script-only')})",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Preprocess each group of micrographs by its factor, then train."""
        return (*_preprocess_steps(home, resources), _train_step(home, settings, resources))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: Settings) -> None:
        """Links by downsampling factor; the radius within which one particle is picked once."""
        training.micrographs["scale"] = downsampling(training, settings)
        _link(training, folder)
        derive_extract_radius(training, settings)
        settings.choose("threshold", -6.0, "Topaz's own, a probability of 0.0025; cryoflow applies its own on reading")

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Preprocess, then extract group by group; picks stay in downsampled pixels, the manifest scales them back."""
        steps = list(_preprocess_steps(home, resources))
        for group, chunk, names in _chunks(home):
            argv: tuple[str, ...] = (
                "topaz",
                "extract",
                "-d",
                _device(resources),
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
        from cryoflow.pickers.comparing.curves import topaz_curve

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


def _link(some: TrainingSet, folder: Path) -> None:
    columns = (some.micrographs[name] for name in ("stem", "scale"))
    link_micrographs(some, [folder / f"raw_{int(s):02d}" / f"{stem}.mrc" for stem, s in zip(*columns, strict=True)])


def _write_particles(training: TrainingSet, folder: Path) -> None:
    """Each table names its micrographs in the order of the set. Of a large set only a part is formatted at a time."""
    sources = iter(training.micrographs["entry_index"].tolist())
    with ExitStack() as stack:

        def table(name: str) -> BinaryIO:
            file = stack.enter_context((folder / name).open("wb"))
            file.write(b"image_name\tx_coord\ty_coord\tsource\n")
            return file

        of_all = table("particles.txt")
        of = {part: table(f"particles_{SPLIT_FILES[part]}.txt") for part in set(training.micrographs["split"])}
        for some in training.in_parts():
            scale = some.per_pick("scale")
            x, y = (np.rint(some.picks[axis].to_numpy() / scale) for axis in ("x_px", "y_px"))
            rows = rows_writer("\t%d\t%d\t", (x, y))
            for (stem, part, first, last), source in zip(some.each(), sources, strict=False):
                text = rows(first, last, before=stem, after=f"{source}\n")
                of_all.write(text)
                of[part].write(text)


def _write_lists(training: TrainingSet, folder: Path) -> None:
    for part, rows in training.micrographs.groupby("split"):
        images = "".join(
            f"{stem}\tproc/{stem}.mrc\t{source}\n"
            for stem, source in zip(rows["stem"], rows["entry_index"], strict=True)
        )
        (folder / f"image_list_{SPLIT_FILES[str(part)]}.txt").write_text("image_name\tpath\tsource\n" + images)


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


def _preprocess_steps(home: Path, resources: Resources) -> tuple[Step, ...]:
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
            _device(resources),
        )
        argv += ("-t", str(resources.cpus), *(f"{group}/{name}" for name in names))
        made = tuple(f"proc/{name}" for name in names)
        steps.append(Step(f"downsample and normalise ({group}, part {chunk + 1})", argv, made, wants_gpu=True))
    return tuple(steps)


def _train_step(home: Path, settings: Mapping[str, str], resources: Resources) -> Step:
    argv = ["topaz", "train", "-d", _device(resources), "-n", settings["number_for_topaz"], "-r", settings["radius"]]
    argv += ["--train-images", "image_list_train.txt", "--train-targets", "particles_train.txt"]
    if (home / "image_list_validation.txt").exists():
        argv += ["--test-images", "image_list_validation.txt", "--test-targets", "particles_validation.txt"]
    argv += ["--model", settings["model"], "--method", settings["method"]]
    argv += [
        "--num-workers",
        str(resources.cpus if resources.gpus else 0),
    ]  # on a CPU they would compete with the network
    for option in ("units", "minibatch_size", "epoch_size", "learning_rate"):
        argv += [f"--{option.replace('_', '-')}", settings[option]]
    argv += ["--num-epochs", settings["epochs"]]
    argv += [] if settings["pretrained"] == "yes" else ["--no-pretrained"]
    argv += ["--save-prefix", "models/topaz", "-o", "models/training.txt"]
    return Step("train Topaz", tuple(argv), ("models/training.txt",), wants_gpu=True)


def _device(resources: Resources) -> str:
    """Topaz uses one device."""
    return str(resources.gpus[0]) if resources.gpus else "-1"


PICKER = Topaz()
