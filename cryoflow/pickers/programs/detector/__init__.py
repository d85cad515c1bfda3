"""cryoflow's own detector as a picker: it runs in the environment that cryoflow runs in, and needs no other program.

A training set has links to the micrographs and one table of labels for each. Micrographs are downsampled while they are
read, so positions are in micrograph pixels throughout.
"""

# ruff: noqa: ARG002 - pickers share signatures, and not every picker needs every argument
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, get_args

from cryoflow.detector.parameters import TrainDetectorParameters, UnlabeledRule
from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.models.parameters import GENERAL
from cryoflow.parameters import CALIBRATED
from cryoflow.pickers.base import Needs, Picker, Resources, Step, rows_writer

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd

    from cryoflow.pickers.training_sets.derived_settings import DerivedSettings
    from cryoflow.pickers.training_sets.training_set import TrainingSet


class CryoflowDetector(Picker):
    """The detector of `cryoflow pick`, trained on the labels of an export."""

    name = "cryoflow"
    title = "cryoflow's detector"
    help = "cryoflow's own detector: links and a table of labels for each micrograph. No other program is needed."
    formats = ("RELION STAR",)
    suffixes = (".star",)
    score_kind = CALIBRATED
    needs: ClassVar[Needs] = Needs(modes=frozenset({0, 1, 2, 6, 12}))
    choices: ClassVar[Mapping[str, tuple[str, ...]]] = {"unlabeled": get_args(UnlabeledRule)}
    model_names = (GENERAL,)
    model_file = "bundle.json"

    def derive(self, training: TrainingSet, settings: DerivedSettings) -> None:
        """Derive how it trains; the diameter of each entry must be known."""
        from cryoflow.pickers.training_sets.links import note_conversions

        _require_diameters(training)
        usual = TrainDetectorParameters
        settings.derive("rounds", usual.rounds, "rounds of training; a checkpoint is written after each")
        settings.derive("steps", usual.steps, "batches of a round")
        settings.derive("learning_rate", 5e-4, "a quarter of the general model's, which training starts from")
        start = settings.derive("start", GENERAL, "the model that ships; name a folder to start from another")
        if start != GENERAL:
            settings.derive_path("start", "a model of your own")
        settings.derive("from_scratch", False, "starting from a model needs fewer labels")
        settings.derive("unlabeled", usual.unlabeled, "picks that no label decides may be particles")
        settings.derive("seed", usual.seed, "of the order of the batches")
        note_conversions(training, settings)

    def write_micrographs(self, some: TrainingSet, folder: Path, settings: Mapping[str, str]) -> None:
        """Write links, and a table of labels beside each: 1 particle, 0 unlabeled, -1 no particle."""
        import numpy as np

        from cryoflow.pickers.training_sets.links import link_micrographs

        (folder / "labels").mkdir(exist_ok=True)
        write = rows_writer("%.3f\t%.3f\t1\n", (some.picks["x_px"], some.picks["y_px"]))
        others = some.not_positive
        write_others = rows_writer("%.3f\t%.3f\t%d\n", (others["x_px"], others["y_px"], others["label"]))
        bounds = np.searchsorted(others["micrograph"].to_numpy(), np.arange(len(some.micrographs) + 1)).tolist()
        for row, (stem, _, first, last) in enumerate(some.each()):
            text = b"x_px\ty_px\tlabel\n" + write(first, last) + write_others(bounds[row], bounds[row + 1])
            (folder / "labels" / f"{stem}.tsv").write_bytes(text)
        link_micrographs(some, [folder / "micrographs" / f"{stem}.mrc" for stem in some.micrographs["stem"]])

    def next_commands(self, home: Path) -> tuple[str, ...]:
        """Return our command."""
        return (self.train_command(home),)

    def train_steps(self, home: Path, settings: Mapping[str, str], resources: Resources) -> tuple[Step, ...]:
        """Return one command, which goes on where it was stopped."""
        argv = ("cryoflow", "detector", "train-exported", ".")
        return (Step("train cryoflow's detector", argv, (f"model/{self.model_file}",), wants_gpu=True),)

    def prepare_picking(self, training: TrainingSet, folder: Path, home: Path, settings: DerivedSettings) -> None:
        """Write links; the diameter must be known, as shards must not estimate different ones."""
        from cryoflow.pickers.training_sets.links import link_micrographs

        _require_diameters(training)
        link_micrographs(training, [folder / "micrographs" / f"{s}.mrc" for s in training.micrographs["stem"]])

    def pick_steps(
        self, home: Path, model: Path, settings: Mapping[str, str], resources: Resources
    ) -> tuple[Step, ...]:
        """Return one command; all picks are listed, cryoflow applies the threshold on reading."""
        named = model.parent if model.name == self.model_file else model
        argv = ("cryoflow", "detector", "pick-exported", ".", "--model", str(named), "--workers", str(resources.cpus))
        return (Step("pick with cryoflow's detector", argv, ("picks",), wants_gpu=True),)

    def threshold_of(self, scores: npt.NDArray[np.float64]) -> float:
        """Return the probability at which the best F1 is expected; no label is needed.

        Parameters
        ----------
        scores : (n,) float
            Calibrated probabilities.
        """
        from cryoflow.detector.calibrate import best_threshold

        return best_threshold(scores)[0]

    def not_picked(self, folder: Path) -> Mapping[str, str]:
        """Return the micrographs that could not be read, with the reasons."""
        from cryoflow.pickers.programs.detector.exported import read_not_picked

        return read_not_picked(folder)

    def problems(self, home: Path, manifest: pd.DataFrame) -> list[str]:
        """Return tables of labels that are missing, damaged, or have labels outside their micrograph."""
        from cryoflow.pickers.programs.detector.exported import problems_of_labels

        return problems_of_labels(home, manifest) if (home / "labels").is_dir() else []

    def trained_model(self, home: Path, settings: Mapping[str, str]) -> Path:
        """Return the model's description, which is written last.

        Raises
        ------
        BadInput
            Where there is none: the training did not end.
        """
        path = home / "model" / self.model_file
        if not path.is_file():
            raise BadInput(home / "model", "holds no model: the training did not end.", "Train again: it goes on.")
        return path

    def training_curve(self, home: Path) -> pd.DataFrame:
        """Return the losses by round."""
        from cryoflow.pickers.programs.detector.exported import training_curve

        return training_curve(home / "model")


def _require_diameters(training: TrainingSet) -> None:
    unknown = training.micrographs[training.micrographs["diameter_A"].isna()]
    if len(unknown):
        raise MissingMetadata(
            str(unknown["entry"].iloc[0]),
            "has no particle diameter.",
            "Give it in angstrom (--diameter). `cryoflow pick` estimates it.",
        )


PICKER = CryoflowDetector()
