"""Topaz (topaz-em), 0.2.5 to 0.3.

Topaz trains on downsampled micrographs and on tables in their pixels; both are named by the micrograph's base name
without extension. Its STAR and .box importers lose names and decimals, so it gets its own tables, scaled from full
precision and rounded once. Lists are split at blanks, so paths are relative to the folder the commands run in.

Sources: topaz-em 0.3.20 (utils/files.py, training.py, extract.py) and its README.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from cryoflow.errors import BadInput
from cryoflow.pickers.base import Picker, Resources, Step

if TYPE_CHECKING:
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet

_FILES_PER_COMMAND = 500


class Topaz(Picker):
    """Topaz: positive-unlabeled learning on downsampled micrographs."""

    name = "topaz"
    title = "Topaz"
    help = "Topaz: tables of particles in downsampled pixels, lists of images."
    formats = ("Topaz table", "RELION STAR", "EMAN .box")
    suffixes = (".txt", ".star", ".box", ".csv")
    score_kind = "Topaz log-likelihood ratio"
    default_threshold: ClassVar[float | None] = 0.0
    model_settings = ("target_pixel_size",)
    model_names = tuple(f"{name}{units}" for name in ("resnet8", "resnet16") for units in ("", "_u32", "_u64"))
    # The needs are those of Picker: no MRC mode 12, which Topaz does not read before 0.3.

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive the downsampling (column `scale`), the number of particles, and how it trains."""
        from cryoflow.pickers.programs.topaz.derive import derive_training, downsampling
        from cryoflow.pickers.training_sets.links import note_conversions

        training.micrographs["scale"] = downsampling(training, settings)
        note_conversions(training, settings)
        derive_training(training, settings)

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write links, in one folder per downsampling factor."""
        from cryoflow.pickers.training_sets.links import link_micrographs

        columns = (some.micrographs[name] for name in ("stem", "scale"))
        link_micrographs(some, [folder / f"raw_{int(s):02d}" / f"{stem}.mrc" for stem, s in zip(*columns, strict=True)])

    def write_tables(self, training: TrainingSet, folder: Path, home: Path, settings: Mapping[str, str]) -> None:
        """Write tables of particles and lists of images: of all, and of each split."""
        from cryoflow.pickers.programs.topaz.training_tables import write_lists, write_particles

        write_particles(training, folder)
        write_lists(training, folder)
        (folder / "models").mkdir()

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command, which runs all of Topaz's."""
        return (
            self.train_command(home),
            f"(or write a script for it: {self.train_command(home, '--script-only')})",
        )

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return the steps: preprocess the micrographs of each downsampling factor, then train."""
        return (*_preprocess_steps(home, resources), _train_step(home, settings, resources))

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: DerivedSettings) -> None:
        """Write links by downsampling factor; derive the radius within which one particle is picked once."""
        from cryoflow.pickers.programs.topaz.derive import derive_extract_radius, downsampling

        training.micrographs["scale"] = downsampling(training, settings)
        self.write_micrographs(training, folder, {})
        derive_extract_radius(training, settings)
        settings.derive("threshold", -6.0, "Topaz's own, a probability of 0.0025; cryoflow applies its own on reading")

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Return the steps: preprocess, then extract; the manifest scales the picks back to whole pixels."""
        steps = list(_preprocess_steps(home, resources))
        for group, shard, names in _shards(home):
            made = f"picks/{group}_{shard}.txt"
            argv = ["topaz", "extract", "-d", _device(resources), "-m", str(model), "-r", settings["extract_radius"]]
            argv += ["-t", settings["threshold"], "-o", made, *(f"proc/{name}" for name in names)]
            steps.append(Step(f"pick with Topaz ({group}, part {shard + 1})", tuple(argv), (made,), wants_gpu=True))
        return tuple(steps)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return names that one table has and another lacks, and particles outside their micrograph."""
        from cryoflow.pickers.programs.topaz.training_tables import problems_of_tables

        return problems_of_tables(home, manifest)

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the epoch of the best area under the precision-recall curve on validation, else the last.

        Raises
        ------
        BadInput
            Where there is no model, or the training was stopped before its end.
        """
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
        """Return the curve in the table that `topaz train -o` writes."""
        from cryoflow.pickers.comparing.curves import topaz_curve

        return topaz_curve(home / "models" / "training.txt")

    def pick_files(self, folder: Path) -> list[Path]:
        """Return tables, STAR files and boxes of picks, without the files of the training set."""
        from cryoflow.pickers.programs.topaz.training_tables import FILES_OF_TRAINING

        found = sorted(p for p in folder.rglob("*") if p.suffix in self.suffixes and p.is_file())
        return [p for p in found if p.name not in FILES_OF_TRAINING]


def _shards(home: Path) -> list[tuple[str, int, list[str]]]:
    """Return the micrographs of each factor in shards that fit a command line: folder, number, file names."""
    found = []
    for folder in sorted(home.glob("raw_*")):
        names = sorted(p.name for p in folder.iterdir())
        starts = range(0, len(names), _FILES_PER_COMMAND)
        found += [(folder.name, k, names[start : start + _FILES_PER_COMMAND]) for k, start in enumerate(starts)]
    if not found:
        raise BadInput(home, "has no micrographs (raw_*).", "Export it again.")
    return found


def _preprocess_steps(home: Path, resources: Resources) -> list[Step]:
    steps = []
    for group, shard, names in _shards(home):
        factor = str(int(group.removeprefix("raw_")))
        argv = ["topaz", "preprocess", "-v", "-s", factor, "-o", "proc/", "-d", _device(resources)]
        argv += ["-t", str(resources.cpus), *(f"{group}/{name}" for name in names)]
        made = tuple(f"proc/{name}" for name in names)
        steps.append(Step(f"downsample and normalize ({group}, part {shard + 1})", tuple(argv), made, wants_gpu=True))
    return steps


def _train_step(home: Path, settings: Mapping[str, str], resources: Resources) -> Step:
    argv = ["topaz", "train", "-d", _device(resources), "-n", settings["number_for_topaz"], "-r", settings["radius"]]
    argv += ["--train-images", "image_list_train.txt", "--train-targets", "particles_train.txt"]
    if (home / "image_list_validation.txt").exists():
        argv += ["--test-images", "image_list_validation.txt", "--test-targets", "particles_validation.txt"]
    argv += ["--model", settings["model"], "--method", settings["method"]]
    # On a CPU workers would compete with the network.
    argv += ["--num-workers", str(resources.cpus if resources.gpus else 0)]
    for option in ("units", "minibatch_size", "epoch_size", "learning_rate"):
        argv += [f"--{option.replace('_', '-')}", settings[option]]
    argv += ["--num-epochs", settings["epochs"]]
    argv += [] if settings["pretrained"] == "yes" else ["--no-pretrained"]
    argv += ["--save-prefix", "models/topaz", "-o", "models/training.txt"]
    return Step("train Topaz", tuple(argv), ("models/training.txt",), wants_gpu=True)


def _device(resources: Resources) -> str:
    """Return the one device that Topaz uses."""
    return str(resources.gpus[0]) if resources.gpus else "-1"


PICKER = Topaz()
