"""The stages of learning, as commands and flows run them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from cryoflow.database.store import Database
from cryoflow.learning.learner import Learner, Say
from cryoflow.learning.parameters import UpdateDetectorParameters, UpdateParameters, UpdateUnpickerParameters
from cryoflow.learning.update import UpdateResult, update
from cryoflow.learning.update_material import UpdateOptions
from cryoflow.models.held_out import known_registries
from cryoflow.models.registry import ModelRegistry

if TYPE_CHECKING:
    from cryoflow.unpicker.train_options import TrainOptions


def update_detector(p: UpdateDetectorParameters, *, say: Say) -> UpdateResult:
    """Let the detector learn what is new; see `cryoflow.learning.update`."""
    from cryoflow.detector.bundle import Detector
    from cryoflow.learning.agreement import unpicker_in_use
    from cryoflow.learning.detector_learner import DetectorLearner, DetectorTraining

    training = DetectorTraining(
        rounds=p.rounds, joint_rounds=p.joint_rounds, steps=p.steps, at_most=p.micrographs, seed=p.seed
    )
    base = Detector.general()
    unpicker = unpicker_in_use(ModelRegistry(p.root), p.unpicker, base.pixels_per_diameter, say)
    learner = DetectorLearner(Database(p.database), training, base=base, diameter_A=p.diameter_A, unpicker=unpicker)
    return _update(p, p.name, learner, say)


def update_unpicker(p: UpdateUnpickerParameters, *, say: Say) -> UpdateResult:
    """Let the unpicker learn what is new; see `cryoflow.learning.update`."""
    from cryoflow.learning.unpicker_learner import UnpickerLearner, UnpickerTraining

    options = unpicker_options(ModelRegistry(p.root), p.name)
    options = replace(options, epochs=p.joint_epochs or options.epochs, seed=p.seed)
    training = UnpickerTraining(options, update_epochs=p.epochs, at_most=p.micrographs)
    return _update(p, p.name, UnpickerLearner(Database(p.database), training, diameter_A=p.diameter_A), say)


def unpicker_options(registry: ModelRegistry, name: str) -> TrainOptions:
    """Return the recipe of the network of the version in use, whose exemplars are what it takes; else the default."""
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.train_options import TrainOptions

    current = registry.current(name) if registry.holds(name) else None
    if current is None:
        return TrainOptions.of("detector")
    bundle = ModelBundle.load(current.model)
    return TrainOptions.of(bundle.architecture.name, preprocessing=bundle.preprocessing)


def _update(p: UpdateParameters, name: str, learner: Learner, say: Say) -> UpdateResult:
    options = UpdateOptions(
        joint_every=p.joint_every,
        projects=p.projects,
        trusted=p.trusted,
        again=p.again,
        registries=known_registries(p.root, database=p.database),
    )
    return update(ModelRegistry(p.root), name, learner, options, say=say)


def described(result: UpdateResult) -> dict[str, object]:
    """Return what an update did, as a record."""
    return {
        "outcome": result.outcome,
        "version": result.version.label if result.version else None,
        "learned_from": list(result.learned),
        "trained_on_all": result.joint,
        # Reasons of a version in use are those of the update that made it.
        "reasons": [] if result.outcome == "nothing new" else list(result.reasons),
        "quarantined": [f"{project}: {why}" for project, why in sorted(result.quarantined.items())],
        "notes": list(result.notes),
    }
