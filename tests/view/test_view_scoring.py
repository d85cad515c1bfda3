"""Scores by a model, computed behind the page."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from view_fixtures import SCORED, UNPICKED, make_database

from cryoflow.errors import BadInput
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.unpicker.scoring import ScoredMicrograph
from cryoflow.view import background_scoring
from cryoflow.view.opened_entries import Library, Opened


class Model:
    """Gives a pick the probability x / 420, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.unreadable = {"mic_1.mrc"}
        self.bundle = SimpleNamespace(mark="m1", fingerprint="m1", diameter_A=80.0, threshold=0.4, manifest=())

    def score(self, _bundle: object, micrographs: Iterable[PickedMicrograph]) -> Iterator[ScoredMicrograph | BadInput]:
        self.asked += 1
        for m in micrographs:
            p = m.centers_xy_px[:, 0] / 420
            yield BadInput(m.path, "is unreadable.") if m.name in self.unreadable else ScoredMicrograph(m, p, p >= 0.4)


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Model:
    model = Model()
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(background_scoring, "score", model.score)
    monkeypatch.setattr(background_scoring.ModelBundle, "load", lambda _folder: model.bundle)
    return model


def finished(library: Library, name: str = SCORED) -> Opened:
    end = time.monotonic() + 60
    while (opened := library.opened(name)).scoring is None or not opened.scoring.finished:
        assert time.monotonic() < end
        time.sleep(0.02)
    return library.opened(name)


def test_picks_without_probabilities_get_those_of_the_model(tmp_path: Path, model: Model) -> None:
    database = make_database(tmp_path, calibrated=False)
    opened = finished(Library(database, model=tmp_path / "model"))
    c = opened.candidates
    expected = c.centers_xy_px[:, 0] / 420
    unreadable = c.micrograph == list(c.picks.micrographs["name"]).index("mic_1.mrc")
    assert np.allclose(c.scores[~unreadable], expected[~unreadable])
    assert np.isnan(c.scores[unreadable]).all()
    assert (c.calibrated, c.threshold) == (True, 0.4)
    assert any("1 of 4 micrographs could not be scored" in n and "is unreadable" in n for n in c.notes)
    assert opened.review.kept(0.4)[unreadable].all()  # nothing is known against them
    assert opened.scoring is not None
    assert sorted(r for r in opened.scoring.suggested if r) == [1, 2, 3]


def test_what_unpicking_removed_gets_scores_and_stays_removed_where_it_gets_none(tmp_path: Path, model: Model) -> None:
    database = make_database(tmp_path)
    before = Library(database).opened(UNPICKED).candidates
    c = finished(Library(database, model=tmp_path / "model"), UNPICKED).candidates
    unreadable = c.micrograph == list(c.picks.micrographs["name"]).index("mic_1.mrc")
    assert before.removed_without_score[~unreadable].any()
    assert before.removed_without_score[unreadable].any()
    assert np.isfinite(c.scores[~unreadable]).all()
    assert np.array_equal(c.scores[unreadable], before.scores[unreadable], equal_nan=True)  # what was known stays
    assert np.isfinite(c.scores[unreadable]).any()
    assert np.array_equal(c.removed_without_score, before.removed_without_score & unreadable)


def test_scores_are_computed_once_for_a_model_and_an_entry(tmp_path: Path, model: Model) -> None:
    database = make_database(tmp_path, calibrated=False)
    model.unreadable = set()
    first = finished(Library(database, model=tmp_path / "model")).candidates.scores
    again = finished(Library(database, model=tmp_path / "model")).candidates.scores
    assert np.array_equal(first, again, equal_nan=True)
    assert model.asked == 1
    model.bundle.mark = model.bundle.fingerprint = "m2"
    finished(Library(database, model=tmp_path / "model"))
    assert model.asked == 2


def test_micrographs_that_could_not_be_scored_are_scored_at_the_next_start(tmp_path: Path, model: Model) -> None:
    database = make_database(tmp_path, calibrated=False)
    assert np.isnan(finished(Library(database, model=tmp_path / "model")).candidates.scores).any()
    model.unreadable = set()
    assert np.isfinite(finished(Library(database, model=tmp_path / "model")).candidates.scores).all()


def test_a_model_that_cannot_be_read_is_told_and_the_picks_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    opened = finished(Library(make_database(tmp_path, calibrated=False), model=tmp_path / "no model"))
    assert opened.scoring is not None
    assert "no model" in opened.scoring.problem
    assert len(opened.candidates) == 48
