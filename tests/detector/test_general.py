"""The recipe of the general model: stages are added to a finished training without repeating it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.detector.bundle import Detector
from cryoflow.detector.examples import UNKNOWN, Example
from cryoflow.detector.general import GeneralRecipe, TrainingStage, calibrated, train_general
from cryoflow.preparation.devices import load_keras

FIRST = TrainingStage("first", 2, 1, 1, 1e-3, ("globular",))
MORE = TrainingStage("more", 2, 1, 1, 1e-3, ("barrel",))
RECIPE = GeneralRecipe(
    (FIRST,), steps=10, crop_px=64, batch=1, widths=(4, 6, 8, 8), blocks=(0, 1, 1, 1), mixed_precision=None
)


def test_a_detector_keeps_its_calibration_where_no_micrograph_has_a_particle(tmp_path: Path) -> None:
    general = Detector.general()
    nothing = Example(
        tmp_path / "none.npy", "A", np.zeros((1, 2)), np.array([UNKNOWN], np.int8), np.ones(1, np.float32), 0.0, True
    )
    kept = calibrated(general, [nothing])
    assert (kept.calibration, kept.threshold) == (general.calibration, general.threshold)


@pytest.mark.slow
def test_a_stage_is_added_to_a_finished_training(tmp_path: Path) -> None:
    load_keras()
    work = tmp_path / "work"
    first = train_general(tmp_path / "first", work, RECIPE, workers=1, say=lambda _: None)
    state = (work / "first" / "state.npz").read_bytes()
    for file in (work / "train").iterdir():
        file.unlink()
    only_new = replace(RECIPE, stages=(FIRST, replace(MORE, only_new=True)))
    more = train_general(tmp_path / "more", work, only_new, workers=1, say=lambda _: None)
    assert (work / "first" / "state.npz").read_bytes() == state
    assert {p.name.split("-")[0] for p in (work / "train").iterdir()} == {"barrel"}
    assert any(not np.array_equal(more.weights[k], first.weights[k]) for k in first.weights)
    assert more.orientations == 2
    assert "more: 2 specimens" in Detector.load(tmp_path / "more").card


@pytest.mark.slow
def test_a_stage_that_includes_earlier_specimens_simulates_them_again(tmp_path: Path) -> None:
    load_keras()
    work = tmp_path / "work"
    train_general(tmp_path / "first", work, RECIPE, workers=1, say=lambda _: None)
    for file in (work / "train").iterdir():
        file.unlink()
    train_general(tmp_path / "all", work, replace(RECIPE, stages=(FIRST, MORE)), workers=1, say=lambda _: None)
    assert {p.name.split("-")[0] for p in (work / "train").iterdir()} == {"globular", "barrel"}
