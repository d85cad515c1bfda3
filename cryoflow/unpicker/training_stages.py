"""Stages of a training: from which epoch on unlabeled picks count as what, by the class prior of their project.

Only an upper limit of the class prior is known, and a network that is trained with a prior finds as many positives,
true or not. So unlabeled picks count as negative for a third of the epochs; the scores of validation micrographs then
give the prior of each project for the rest.

An update has those of earlier projects from the model that it starts from: to count their unlabeled picks as negative
would undo what that model has learned. It knows nothing of new projects, which begin as in a training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cryoflow.preparation.picked_micrograph import UNLABELED
from cryoflow.unpicker.inference import logits_of_all
from cryoflow.unpicker.operating_point import class_priors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.patch_cache import CachedMicrograph
    from cryoflow.unpicker.prepared_split import PreparedSplit
    from cryoflow.unpicker.train_options import TrainOptions
    from cryoflow.unpicker.training_state import Record

PRIOR_OF = "class_prior of "
"""Start of the names of each project's estimated class prior in the history."""
UNKNOWN_CLASS_PRIOR = 0.2
"""Class prior where it cannot be estimated: a small one does least harm either way."""

Priors = dict[str, float]


@dataclass(frozen=True)
class Stages:
    """The stages of a training.

    Attributes
    ----------
    plan
        Last epoch of each stage, and the class prior of each project; None where the stage before gives it.
    parts
        Micrographs of the training.
    known
        Class priors by the model that an update starts from.
    unknown
        Class prior where it cannot be estimated.
    """

    plan: tuple[tuple[int, Mapping[str, float] | None], ...]
    parts: PreparedSplit
    known: Mapping[str, float]
    unknown: float

    @classmethod
    def of(cls, parts: PreparedSplit, options: TrainOptions, start: ModelBundle | None) -> Stages:
        """Return the stages of a training, or of an update that starts from a model."""
        unknown = min(options.class_prior, UNKNOWN_CLASS_PRIOR)
        unlabeled = [any(m.micrograph.count(UNLABELED) for m in part) for part in (parts.train, parts.validation)]
        first = options.epochs // 3
        names = {m.data_set for m in parts.train}
        known: Priors = {}
        if not all(unlabeled) or not options.class_prior:
            return cls(((options.epochs, dict.fromkeys(names, unknown)),), parts, known, unknown)
        begin = dict.fromkeys(names, 0.0 if first else unknown)
        if options.frozen_norm and start is not None:
            known = {name: point.class_prior for name, point in start.projects.items()}
            earlier = {row.data_set for row in start.manifest if row.part != "test"}
            estimated = _for_all(priors_of(start, parts.validation, options), parts, known, unknown)
            begin |= {name: estimated[name] for name in names & earlier}
        if not first:
            return cls(((options.epochs, begin),), parts, known, unknown)
        return cls(((first, begin), (options.epochs, None)), parts, known, unknown)

    def estimated(self, record: Record) -> Priors:
        """Return the class prior of each project after an epoch."""
        found = {name.removeprefix(PRIOR_OF): p for name, p in record.items() if name.startswith(PRIOR_OF)}
        return _for_all(found, self.parts, self.known, self.unknown)


def _for_all(found: Mapping[str, float], parts: PreparedSplit, known: Mapping[str, float], unknown: float) -> Priors:
    """Return a class prior of every project: those without unlabeled validation picks have none that was estimated.

    They have that of the earlier model, else the mean of the others.
    """
    seen = {m.data_set for m in parts.validation if m.micrograph.count(UNLABELED)}
    estimated = {name: prior for name, prior in found.items() if name in seen}
    mean = float(np.mean(list(estimated.values()))) if estimated else unknown
    names = {m.data_set for m in (*parts.train, *parts.validation)}
    return {name: estimated.get(name, known.get(name, mean)) for name in sorted(names)}


def priors_of(start: ModelBundle, validation: Sequence[CachedMicrograph], options: TrainOptions) -> Priors:
    """Estimate the class prior of each project from the scores that a model gives to validation micrographs."""
    logits = logits_of_all(start.network, validation, start.preprocessing)
    n_picks = [len(m.labels) for m in validation]
    priors = class_priors(
        logits,
        np.concatenate([m.labels for m in validation]),
        np.repeat(np.array([m.data_set for m in validation], dtype=str), n_picks),
        np.repeat(np.arange(len(validation)), n_picks),
        at_most=options.class_prior,
    )
    return {name: prior.value for name, prior in priors.items()}
