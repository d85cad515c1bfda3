"""How a model is trained."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.preparation.calibration import Goal
from cryoflow.preparation.model_folder import DESCRIPTION
from cryoflow.preparation.patches import PatchExtractor
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.detector_features import DetectorFeatures
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
from cryoflow.unpicker.network import Architecture, ArchitectureName
from cryoflow.unpicker.parameters import RECIPES, TrainUnpickerParameters


@dataclass(frozen=True)
class TrainOptions:
    """Options of a training. Those that change its result are part of its fingerprint.

    Attributes
    ----------
    architecture
        See `Architecture`. `TrainOptions.of(architecture)` has the recipe of each; the defaults here are those of
        `residual`.
    preprocessing
        None takes the one that belongs to the architecture.
    epochs, patience
        At most so many epochs; ended earlier when the validation loss has not fallen for `patience` of them.
    batch, learning_rate, weight_decay, label_smoothing, dropout
        As everywhere.
    least_steps
        Batches of an epoch at least, where the training set is small.
    class_prior
        Upper limit of the share of positives among unlabeled picks, which validation micrographs give.
    max_positives
        Learn from at most so many positives, drawn evenly over the defocus.
    validation, test
        Shares of the micrographs.
    goal
        What the threshold is chosen for.
    seed
        Of the split, the weights, the order and the random views.
    start_from
        Folder of an earlier model whose weights (and preprocessing) to start from.
    cache_dir
        Where boxes are kept; None takes `unpicker_cache` beside the output.
    workers
        Micrographs prepared at a time; None takes as many as there are cores.
    memory_MB
        What boxes may take in memory.
    mixed_precision
        None turns it on where a GPU is.
    tensorboard
        Whether to write logs that TensorBoard shows, and the learning curves.
    frozen_norm
        Keep the statistics and scales of the normalization of the model that it starts from.
    distill, replayed
        Weight of the distance from the answers of that model, on the patches of these files.
    interpolation
        Weight of what was learned in the mean with that model's weights; 1 takes the learned weights.
    """

    architecture: ArchitectureName = "residual"
    preprocessing: PatchExtractor | None = None
    epochs: int = RECIPES["residual"].epochs
    patience: int = RECIPES["residual"].patience
    batch: int = RECIPES["residual"].batch
    least_steps: int = RECIPES["residual"].least_steps
    learning_rate: float = RECIPES["residual"].learning_rate
    weight_decay: float = RECIPES["residual"].weight_decay
    label_smoothing: float = RECIPES["residual"].label_smoothing
    dropout: float = RECIPES["residual"].dropout
    widths: tuple[int, ...] = RECIPES["residual"].widths
    blocks: tuple[int, ...] = (1, 1, 1)
    class_prior: float = TrainUnpickerParameters.class_prior
    max_positives: int | None = None
    validation: float = TrainUnpickerParameters.validation
    test: float = TrainUnpickerParameters.test
    goal: Goal = field(default_factory=Goal)
    seed: int = 0
    start_from: Path | None = None
    cache_dir: Path | None = None
    workers: int | None = None
    memory_MB: int = 2000
    mixed_precision: bool | None = None
    tensorboard: bool = True
    frozen_norm: bool = False
    distill: float = 0.0
    replayed: frozenset[Path] = frozenset()
    interpolation: float = 1.0

    @classmethod
    def from_parameters(
        cls, parameters: TrainUnpickerParameters, preprocessing: PatchExtractor | None = None
    ) -> TrainOptions:
        """Return the parameters of the same names, and the architecture's own values where a user gave none."""
        p, names = parameters, {f.name for f in dataclasses.fields(cls)} - {"architecture"}
        given = {f.name: getattr(p, f.name) for f in dataclasses.fields(p) if f.name in names}
        architecture: ArchitectureName = "emunpicker" if p.architecture == "classic" else p.architecture
        if p.start_from is not None and (p.start_from / DESCRIPTION).is_file():
            architecture = ModelBundle.load(p.start_from).architecture.name
        return cls.of(
            architecture,
            **{name: value for name, value in given.items() if value is not None},
            preprocessing=preprocessing,
            goal=Goal(p.precision, p.recall),
            cache_dir=p.cache,
        )

    @classmethod
    def of(cls, architecture: ArchitectureName, **changes: object) -> TrainOptions:
        """Return the recipe of an architecture, with changes."""
        return cls(**{"architecture": architecture, **vars(RECIPES[architecture]), **changes})

    @classmethod
    def emunpicker(cls, **changes: object) -> TrainOptions:
        """Return what the older program did: its network, momentum, L2, quarter turns, no smoothing."""
        return cls.of("emunpicker", **changes)

    def network(self, preprocessing: PatchExtractor) -> Architecture:
        """Return the network for these boxes."""
        return Architecture(
            self.architecture,
            preprocessing.input_px,
            preprocessing.n_channels,
            widths=self.widths,
            blocks=self.blocks,
            dropout=self.dropout,
        )

    def preprocessing_for(self, diameter_A: float) -> PatchExtractor:
        """Return the one given, or the one that belongs to the architecture."""
        if self.preprocessing is not None:
            return self.preprocessing
        if self.architecture == "detector":
            return DetectorFeatures()
        if self.architecture == "emunpicker":
            return EmUnpickerPreprocessing(1.5 * diameter_A)
        return TwoChannelPreprocessing()

    def deciding(self) -> dict[str, object]:
        """Return the options that change the result, as plain values."""
        left_out = {"preprocessing", "start_from", "cache_dir", "workers", "tensorboard", "memory_MB", "replayed"}
        # Older fingerprints do not include these options, so their defaults are left out.
        newer = ("frozen_norm", "distill", "interpolation")
        left_out |= {f.name for f in dataclasses.fields(self) if f.name in newer and getattr(self, f.name) == f.default}
        kept = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in left_out}
        return {**kept, "goal": dataclasses.asdict(self.goal)}
