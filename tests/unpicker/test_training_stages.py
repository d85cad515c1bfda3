"""Class priors of the stages of a training, without a network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.preparation.picked_micrograph import POSITIVE, UNLABELED, PickedMicrograph
from cryoflow.unpicker import training_stages
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.detector_features import DetectorFeatures
from cryoflow.unpicker.model_manifest import ManifestRow
from cryoflow.unpicker.patch_cache import CachedMicrograph
from cryoflow.unpicker.prepared_split import PreparedSplit
from cryoflow.unpicker.train_options import TrainOptions
from cryoflow.unpicker.training_stages import PRIOR_OF, UNKNOWN_CLASS_PRIOR, Stages


def micrograph(project: str, number: int, n_unlabeled: int = 20) -> CachedMicrograph:
    labels = np.array([POSITIVE] * 20 + [UNLABELED] * n_unlabeled, np.int8)
    name = f"{project}{number}"
    picked = PickedMicrograph(name, Path(name), 1.0, 160.0, np.zeros((len(labels), 2)), labels, project)
    return CachedMicrograph(picked, Path(f"{name}.npy"), name)


def earlier_model(*rows: CachedMicrograph) -> ModelBundle:
    features = DetectorFeatures()
    manifest = tuple(ManifestRow.of("train", row) for row in rows)
    return ModelBundle(TrainOptions.of("detector").network(features), features, {}, 160.0, manifest=manifest)


PARTS = PreparedSplit(
    (
        micrograph("known", 1),
        micrograph("grown", 1),
        micrograph("grown", 2),
        micrograph("new", 1),
        micrograph("alone", 1),
    ),
    (micrograph("known", 3), micrograph("grown", 3), micrograph("new", 3), micrograph("alone", 3, n_unlabeled=0)),
    (),
    (),
)
UPDATE = TrainOptions.of("detector", epochs=6, frozen_norm=True)


def test_in_an_update_only_new_projects_begin_without_hidden_positives(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"known": 0.3, "grown": 0.4, "new": 0.6, "alone": 0.0}
    monkeypatch.setattr(training_stages, "priors_of", lambda *_: found)
    start = earlier_model(micrograph("known", 1), micrograph("grown", 1))
    (first, begin), (last, then) = Stages.of(PARTS, UPDATE, start).plan
    assert (first, last, then) == (2, 6, None)
    assert begin == {"known": 0.3, "grown": 0.4, "new": 0.0, "alone": 0.0}


def test_an_update_too_short_for_two_stages_takes_a_small_prior_for_new_projects(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_stages, "priors_of", lambda *_: {"known": 0.3, "grown": 0.4, "new": 0.6})
    start = earlier_model(micrograph("known", 1), micrograph("grown", 1))
    options = TrainOptions.of("detector", epochs=2, frozen_norm=True)
    ((last, begin),) = Stages.of(PARTS, options, start).plan
    assert last == 2
    assert begin == {"known": 0.3, "grown": 0.4, "new": UNKNOWN_CLASS_PRIOR, "alone": UNKNOWN_CLASS_PRIOR}


def test_projects_without_unlabeled_validation_picks_have_the_mean_prior_of_the_others() -> None:
    stages = Stages.of(PARTS, TrainOptions.of("detector", epochs=6), None)
    assert set(dict(stages.plan[0][1] or {}).values()) == {0.0}
    record = {f"{PRIOR_OF}known": 0.2, f"{PRIOR_OF}grown": 0.3, f"{PRIOR_OF}new": 0.4, f"{PRIOR_OF}alone": 0.0}
    assert stages.estimated(record)["alone"] == pytest.approx(0.3)
    nothing = PreparedSplit(PARTS.train, (micrograph("alone", 3, n_unlabeled=0),), (), ())
    ((_, begin),) = Stages.of(nothing, TrainOptions.of("detector", epochs=6), None).plan
    assert set(dict(begin or {}).values()) == {UNKNOWN_CLASS_PRIOR}
