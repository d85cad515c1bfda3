"""The options of a training follow from the parameters that a user gave."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.preparation.calibration import Goal
from cryoflow.unpicker.parameters import TrainUnpickerParameters
from cryoflow.unpicker.train_options import TrainOptions


def options(**given: object) -> TrainOptions:
    return TrainOptions.from_parameters(TrainUnpickerParameters(model=Path("m"), database=Path("d"), **given))  # type: ignore[arg-type]


def test_without_values_the_options_are_the_defaults_of_the_architecture() -> None:
    assert options() == TrainOptions.of("detector")
    assert options(architecture="residual") == TrainOptions() == TrainOptions.of("residual")
    assert options(architecture="classic") == options(architecture="emunpicker") == TrainOptions.emunpicker()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 3),
        ("patience", 2),
        ("batch", 7),
        ("learning_rate", 0.5),
        ("class_prior", 0.1),
        ("max_positives", 9),
        ("validation", 0.3),
        ("test", 0.1),
        ("seed", 4),
        ("start_from", Path("old")),
        ("workers", 2),
    ],
)
def test_a_value_that_is_given_is_the_option_of_the_same_name(name: str, value: object) -> None:
    assert getattr(options(**{name: value}), name) == value
    assert getattr(options(**{name: value}, architecture="emunpicker"), name) == value


def test_the_goal_and_the_cache_come_from_their_parameters() -> None:
    assert options(precision=0.9).goal == Goal(0.9, None)
    assert options(recall=0.8).goal == Goal(None, 0.8)
    assert options(cache=Path("c")).cache_dir == Path("c")
