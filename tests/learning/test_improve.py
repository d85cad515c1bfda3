"""Rounds of an improvement: each from the base, compared on held-out micrographs, resumed after a kill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import learning_projects as small
import numpy as np
import pandas as pd
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.errors import BadInput, ExitCode
from cryoflow.execution.executor import Executor
from cryoflow.learning import improve_steps
from cryoflow.learning.improve import ImproveResult, improve
from cryoflow.learning.improve_record import NAME as RECORD
from cryoflow.learning.picks_scorer import PicksScorer, best_picks, on_micrographs
from cryoflow.models.registry import ModelRegistry
from cryoflow.pickers.running.run_picker import Picked
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

HOLD, LEARN = ("a.mrc", "b.mrc"), ("c.mrc", "d.mrc", "e.mrc")
N = 20


def picks_of(skill: float, name: str = "round", folder: Path = Path("/nowhere")) -> PickSet:
    """Picks on five micrographs: a share of `skill` on particles, the others 50 px beside."""
    rows = []
    for i in range(5):
        for j in range(N):
            off = 0.0 if j < skill * N else 50.0
            rows.append((i, 20.0 + 100 * j, 30.0 + off, 1 - j / N))
    names = [*HOLD, *LEARN]
    table = micrograph_table(
        {
            "name": names,
            "path": [str(folder / n) for n in names],
            "status": ["found"] * 5,
            "ny": [200] * 5,
            "nx": [2100] * 5,
            "pixel_size_A": [4.0] * 5,
        }
    )
    where = Provenance("picker", folder, "P", name, Kind.AUTO_PICK)
    return PickSet.build(
        where, table, pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px", "score"]), diameter_A=160.0
    )


def clean(picks: PickSet) -> PickSet:
    return picks.where(picks.picks["y_px"].to_numpy() == 30.0)


@dataclass
class StubSteps:
    """A picker whose model finds the share of particles that `skills` has for its round."""

    skills: Mapping[str, float]
    folder: Path
    dies_in: str = ""
    calls: list[str] = field(default_factory=list)
    learned: set[str] = field(default_factory=set)

    def first(self, folder: Path) -> tuple[str, PickSet]:
        return "base", self.pick("base", folder, "round0")

    def pick(self, model: str, folder: Path, name: str) -> PickSet:
        self.calls.append(f"pick {model}")
        return picks_of(self.skills[model], name, self.folder)

    def labels(self, number: int, picks: PickSet, folder: Path) -> PickSet:
        kept = clean(picks)
        self.calls.append(f"labels from {len(kept)}")
        self.learned |= {str(n) for n in picks.micrographs["name"]}
        return replace(kept, picks=kept.picks.assign(label=np.int8(1)))

    def train(self, labels: PickSet, folder: Path) -> str:
        self.calls.append(f"train {folder.name}")
        if folder.name == self.dies_in:
            self.dies_in = ""
            raise KeyboardInterrupt
        return folder.name


def run(steps: StubSteps, folder: Path, *, rounds: int = 5, reference: PickSet | None = None) -> ImproveResult:
    scorer = PicksScorer("P", {n: n for n in HOLD}, clean, reference, 160.0)
    return improve(
        steps, scorer, LEARN, folder / "work", key="k", rounds=rounds, least_gain=0.005, say=lambda _: None
    )  # fmt: skip


def test_rounds_end_when_nothing_is_gained_and_the_best_model_is_kept(tmp_path: Path) -> None:
    steps = StubSteps({"base": 0.5, "round1": 0.7, "round2": 0.9, "round3": 0.8}, tmp_path)
    result = run(steps, tmp_path, reference=picks_of(1.0))
    assert [(r.model, r.better, round(r.score, 2)) for r in result.rounds] == [
        ("base", True, 0.5), ("round1", True, 0.7), ("round2", True, 0.9), ("round3", False, 0.8)
    ]  # fmt: skip
    assert (result.best.model, result.ended) == ("round2", "the last round gained nothing")
    # Each round learns from the picks of the best model before it, never from held-out micrographs.
    assert [c for c in steps.calls if c.startswith("labels")] == ["labels from 30", "labels from 42", "labels from 54"]
    assert steps.learned == set(LEARN)


def test_a_killed_run_goes_on_behind_the_last_round_that_was_done(tmp_path: Path) -> None:
    skills = {"base": 0.5, "round1": 0.7, "round2": 0.6}
    dying = StubSteps(skills, tmp_path, dies_in="round2")
    with pytest.raises(KeyboardInterrupt):
        run(dying, tmp_path, reference=picks_of(1.0))
    again = StubSteps(skills, tmp_path)
    result = run(again, tmp_path, reference=picks_of(1.0))
    assert again.calls == ["labels from 42", "train round2", "pick round2"]
    whole = run(StubSteps(skills, tmp_path), tmp_path / "whole", reference=picks_of(1.0))
    assert result.rounds == whole.rounds
    assert run(again, tmp_path, reference=picks_of(1.0)).rounds == whole.rounds
    assert len(again.calls) == 3  # nothing was left to do


def test_without_a_reference_the_agreement_with_the_unpicker_counts_at_a_fixed_number_of_picks(tmp_path: Path) -> None:
    result = run(StubSteps({"base": 0.5, "round1": 0.7, "round2": 0.7}, tmp_path), tmp_path)
    # Ten picks of each micrograph count, as many as the un-picker kept at first: all of both models' best ten are good.
    assert [r.score for r in result.rounds] == [1.0, 1.0]
    assert result.best.model == "base"


def test_a_folder_of_another_improvement_and_a_changed_record_are_refused(tmp_path: Path) -> None:
    steps = StubSteps({"base": 0.5, "round1": 0.5}, tmp_path)
    run(steps, tmp_path)
    scorer = PicksScorer("P", {n: n for n in HOLD}, clean, None, 160.0)
    with pytest.raises(BadInput, match="other micrographs, models or settings"):
        improve(steps, scorer, LEARN, tmp_path / "work", key="other", rounds=1, least_gain=0, say=lambda _: None)
    record = tmp_path / "work" / RECORD
    record.write_text(record.read_text().replace('"better": false', '"better": true'))
    with pytest.raises(BadInput, match="checksum"):
        run(steps, tmp_path)


def test_a_micrograph_that_is_held_out_is_never_learned_from(tmp_path: Path) -> None:
    scorer = PicksScorer("P", {n: n for n in HOLD}, clean, None, 160.0)
    steps = StubSteps({"base": 0.5}, tmp_path)
    with pytest.raises(ValueError, match=r"b\.mrc is held out"):
        improve(steps, scorer, [*LEARN, "b.mrc"], tmp_path / "w", key="", rounds=1, least_gain=0, say=lambda _: None)


def test_picks_of_some_micrographs_keep_their_places_and_the_best_are_those_of_the_highest_scores() -> None:
    picks = picks_of(0.5)
    some = on_micrographs(picks, ["d.mrc", "b.mrc"])
    assert list(some.micrographs["name"]) == ["b.mrc", "d.mrc"]
    assert len(some) == 2 * N
    pd.testing.assert_frame_equal(some["d.mrc"], picks["d.mrc"])
    best = best_picks(some, {"d.mrc": 3})
    assert best["d.mrc"]["score"].tolist() == [1.0, 0.95, 0.9]
    assert len(best["b.mrc"]) == 0


def steps_of(folder: Path, **changes: object) -> improve_steps.PickerSteps:
    source = picks_of(0.5, folder=folder)
    steps = improve_steps.PickerSteps("topaz", source, 160.0, Executor(), clean)
    return replace(steps, **changes)  # type: ignore[arg-type]


def test_what_the_unpicker_removes_is_unlabeled_and_picks_below_the_pickers_threshold_have_no_label(
    tmp_path: Path,
) -> None:
    picks = picks_of(0.5)
    below = picks.picks.assign(score=picks.picks["score"] - 0.5)  # Topaz keeps scores of 0 and above
    labels = steps_of(tmp_path).labels(1, replace(picks, picks=below), tmp_path)
    assert len(labels) == 5 * 11
    assert labels.picks["label"].tolist() == (labels.picks["y_px"] == 30).astype(int).tolist()
    first = steps_of(tmp_path, entry=picks).labels(1, replace(picks, picks=below), tmp_path)
    assert len(first) == len(picks)  # the first picks are an entry's: their scores are another picker's


def test_a_round_learns_from_the_2d_selection_of_its_number_and_then_from_the_unpicker(tmp_path: Path) -> None:
    selected = picks_of(0.25)
    steps = steps_of(tmp_path, selected=[selected])
    picks = on_micrographs(picks_of(1.0), LEARN)
    labels = steps.labels(1, picks, tmp_path)
    assert (len(labels), set(labels.micrographs["name"])) == (len(LEARN) * N, set(LEARN))
    assert (labels.picks["label"] == 1).all()
    assert (steps.labels(2, picks, tmp_path).picks["label"] == 1).sum() == len(LEARN) * N
    with pytest.raises(BadInput, match="has no picks on the micrographs"):
        steps_of(tmp_path, selected=[selected.where(np.zeros(len(selected), bool))]).labels(1, picks, tmp_path)


def test_the_first_round_learns_where_pickers_agree_and_never_from_held_out_micrographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def pick(picker: str, model: str, sets: list[PickSet], *_: object, **options: object) -> object:
        asked.append((picker, model, options["keep_all"]))
        return Picked(tmp_path, tmp_path / "log", (picks_of(0.5, str(options["name"])),))

    monkeypatch.setattr(improve_steps, "pick", pick)
    steps = steps_of(tmp_path, agreeing={"cryoflow": "general"})
    mine = on_micrographs(picks_of(1.0, "mine"), LEARN)  # all on particles, where the other picker has half of them
    labels = steps.labels(1, mine, tmp_path)
    assert asked == [("cryoflow", "general", False)]
    assert set(labels.micrographs["name"]) == set(LEARN)
    positive = labels.picks[labels.picks["label"] == 1]
    assert set(positive["y_px"]) == {30.0}
    assert 0.4 * N * len(LEARN) <= len(positive) <= 0.5 * N * len(LEARN)
    assert (labels.picks["label"] == 0).sum() == N * len(LEARN)  # each picker's lone picks are unlabeled


@pytest.mark.slow
def test_the_detector_improves_on_bad_picks_and_is_put_into_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    database = Database(tmp_path / "database")
    small.add_project(database, tmp_path, "A", seed=1, n=6, n_false=9)
    candidates = database.load("A/AutoPick_job003")
    shuffled = candidates.picks.sample(frac=1, random_state=0)
    database.add(
        PickSet.build(
            replace(candidates.provenance, job="job004"), candidates.micrographs, shuffled, diameter_A=small.DIAMETER_A
        )
    )
    words = ["improve", "cryoflow", "A/AutoPick_job004", "--first", "A/AutoPick_job004", "--database"]
    words += [str(database.root), "--output", str(tmp_path / "work"), "--rounds", "1", "--gpus", "none", "--cpus", "1"]
    words += ["--set", "rounds=1", "--set", "steps=2", "--json"]
    trainings = []
    pick, train = improve_steps.pick, improve_steps.export_and_train

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def counted(*arguments: object, **options: object) -> object:
        done = train(*arguments, **options)  # type: ignore[arg-type]
        trainings.append(done[1].reused)
        return done

    monkeypatch.setattr(improve_steps, "export_and_train", counted)
    monkeypatch.setattr(improve_steps, "pick", dies)
    assert launch(words) == 130
    monkeypatch.setattr(improve_steps, "pick", pick)
    capsys.readouterr()
    assert launch(words) == ExitCode.OK
    assert trainings == [False, True]  # the second call found the model of the first
    record = json.loads(capsys.readouterr().out)
    assert (record["better"], record["version"], record["status"]) == (True, "cryoflow-A@v0001", "accepted")
    assert record["score"] > record["first_score"] + 0.2
    registry = ModelRegistry(tmp_path / "models")
    assert registry.current("cryoflow-A") is not None
    found = database.load(record["entry"])
    true = database.load("A/Refine3D_job010")
    matched = PicksScorer("A", {str(n): "" for n in true.micrographs["name"]}, clean, true, small.DIAMETER_A)
    counts = matched.counts(found, {str(n): 100 for n in true.micrographs["name"]})
    assert sum(c.n_matched for c in counts) > 0.8 * sum(c.n_reference for c in counts)
    # A second call changes nothing.
    assert launch(words) == ExitCode.OK
    assert len(registry.versions("cryoflow-A")) == 1
