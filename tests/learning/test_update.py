"""An update: it learns what is new, keeps what is held out apart, survives being killed, and refuses poison."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning_stub import StubLearner, StubProject
from written_files import written_files

from cryoflow.errors import BadInput, DatabaseBusy, NotWritten
from cryoflow.learning import update as module
from cryoflow.learning import update_material
from cryoflow.learning.exemplars import EXEMPLARS, exemplar_file
from cryoflow.learning.held_out_scores import COUNTS, HeldOutScores
from cryoflow.learning.items import Piece, piece_of, read_learned, read_pieces, write_pieces
from cryoflow.learning.learned_elsewhere import learned_elsewhere
from cryoflow.learning.learner import LabelFit
from cryoflow.learning.update import WORK, UpdateResult, update
from cryoflow.learning.update_material import UpdateOptions
from cryoflow.learning.update_records import read_counts
from cryoflow.models.card import TrainedOn
from cryoflow.models.held_out import FILES, HeldOut
from cryoflow.models.registry import ModelRegistry
from cryoflow.models.version import sums_of
from cryoflow.storage.fingerprints import checksum

NAME = "detector"


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(tmp_path / "models", lock_timeout_s=0.5)


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., StubProject]:
    def make(name: str, *, of: str = "", **values: Any) -> StubProject:
        return StubProject(name, tmp_path / name, **values).write(of)

    return make


def run(registry: ModelRegistry, learner: StubLearner, **options: Any) -> UpdateResult:
    return update(registry, NAME, learner, UpdateOptions(**options), say=lambda _: None)


def in_use(registry: ModelRegistry) -> int:
    current = registry.current(NAME)
    assert current is not None
    return current.number


def add_by_hand(registry: ModelRegistry, folder: Path, *learned: TrainedOn) -> None:
    """Add a model without any skill, exemplar or count, as one that no update made."""
    (folder / "by_hand").mkdir()
    (folder / "by_hand" / "skills.json").write_text("{}")
    registry.add(NAME, "detector", folder / "by_hand", trained_on=learned)


def test_what_is_new_is_learned_once(registry: ModelRegistry, project: Callable[..., StubProject]) -> None:
    learner = StubLearner([project("A")])
    first = run(registry, learner)
    assert (first.outcome, first.learned, in_use(registry)) == ("promoted", ("A",), 1)
    before = written_files(registry.root)
    assert run(registry, learner).outcome == "nothing new"
    assert written_files(registry.root) == before

    learner.projects.append(project("B"))
    second = run(registry, learner)
    assert (second.outcome, second.learned, second.joint) == ("promoted", ("B",), False)
    card = registry.version(NAME, 2).card
    assert (card.parent, [t.project for t in card.trained_on]) == (1, ["A", "B"])
    assert card.metrics["A"]["f1"] == pytest.approx(0.9)

    learner.projects[0].version = 2
    assert run(registry, learner).learned == ("A",)


def test_exemplars_of_all_projects_stay_in_the_model_after_their_micrographs_are_gone(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects = [project("B")]  # A is archived
    run(registry, learner)
    current = registry.current(NAME)
    assert current is not None
    kept = current.model / EXEMPLARS
    assert sorted(p.name for p in kept.iterdir()) == ["A.npz", "B.npz"]
    assert current.problems() == []
    contents = {i.content for i in read_pieces(kept / "A.npz", tmp_path / "unpacked")}
    assert contents <= read_learned(kept / "A.npz")
    assert contents <= set(learner.learned)


def test_a_changed_project_keeps_each_micrograph_once_and_with_its_new_labels(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    [changed] = learner.projects
    names = {checksum(changed.folder / name): name for name in changed.names}

    def kept(number: int) -> dict[str, int]:
        file = registry.version(NAME, number).model / exemplar_file("A")
        items = read_pieces(file, tmp_path / f"{number}")
        labels = {i.content: int(i.labels["label"][0]) for i in items}
        assert len(labels) == len(items) == 4
        return labels

    first = list(kept(1))
    changed.version = 2  # other labels on all micrographs
    learner.learned.clear()
    run(registry, learner)
    assert kept(2) == dict.fromkeys(first, 2)
    assert len(learner.learned) == len(set(learner.learned))  # no micrograph with old and new labels

    changed.version, changed.names = 3, [n for c, n in names.items() if c not in first[2:]]
    run(registry, learner)
    assert kept(3) == {first[0]: 3, first[1]: 3, first[2]: 2, first[3]: 2}  # two that have no labels any more

    HeldOut(registry.root / "unpicker").draw({"X": first})
    drawn = HeldOut(registry.root / "unpicker").all_fingerprints()
    changed.version = 4
    run(registry, learner)
    assert len(drawn) == 2
    assert not drawn & kept(4).keys()


def test_a_held_out_micrograph_is_never_learned_from_under_any_name(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    held = HeldOut(registry.root / NAME).read()["A"]
    assert len(held) >= 2
    learner.projects.append(project("copy", of="A", names=[f"renamed_{i}.mrc" for i in range(12)]))
    run(registry, learner)
    learner.projects[0].version = 2
    learner.projects[0].names = (*learner.projects[0].names, *(f"new{i}.mrc" for i in range(20)))
    learner.projects[0].write()
    run(registry, learner)
    assert not set(learner.learned) & HeldOut(registry.root / NAME).all_fingerprints()
    assert HeldOut(registry.root / NAME).read()["A"] >= held


def test_what_another_model_holds_out_is_not_learned_from_nor_replayed(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    taught = sorted(set(learner.learned))[:2]
    learner.projects.append(project("B"))
    new = sorted(checksum(p) for p in learner.projects[-1].folder.iterdir())[-2:]  # a project's own are the first
    HeldOut(registry.root / "unpicker").draw({"X": taught, "Y": new})
    drawn = HeldOut(registry.root / "unpicker").all_fingerprints()
    assert drawn & set(taught)
    assert drawn & set(new)
    learner.learned.clear()
    result = run(registry, learner)
    assert learner.learned
    assert not set(learner.learned) & drawn
    assert not HeldOut(registry.root / NAME).all_fingerprints() & set(new)
    kept = {i.content for i in read_pieces(registry.version(NAME, 1).model / exemplar_file("A"), tmp_path / "unpacked")}
    n_own = len(HeldOut(registry.root / NAME).read()["B"])
    n_other = len(drawn & set(new))
    of_b = f"B: {n_own + n_other} of 12 micrographs are held out ({n_other} of these by another model or project), not"
    assert [n for n in result.notes if n.startswith(of_b)]
    assert kept & drawn
    assert f"A: {len(kept & drawn)} of {len(kept)} exemplars are held out by now, not learned from" in result.notes


def test_a_micrograph_under_two_names_is_used_once_and_the_copies_are_counted(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    twice = project("A")
    twice.names = (*(f"z{name}" for name in twice.names), *twice.names)
    for name in twice.names[:12]:
        (twice.folder / name).write_bytes((twice.folder / name[1:]).read_bytes())
    learner = StubLearner([twice])
    result = run(registry, learner)
    assert any("A: 12 micrographs are copies of others" in note for note in result.notes)
    assert len(learner.learned) == len(set(learner.learned))
    assert update_material.one_name_each({"z": "1", "a": "1", "b": "2"}) == ({"a": "1", "b": "2"}, 1)


@pytest.mark.parametrize("n", range(12))
def test_what_another_model_in_use_learned_is_not_held_out_later(
    registry: ModelRegistry, project: Callable[..., StubProject], n: int
) -> None:
    few = project(f"P{n}", names=[f"{i}.mrc" for i in range(3)])
    detector = StubLearner([few])
    assert run(registry, detector).outcome == "promoted"
    few.names = [f"{i}.mrc" for i in range(6)]
    few.write()
    unpicker = StubLearner([few], kind="unpicker")
    update(registry, "unpicker", unpicker, UpdateOptions(), say=lambda _: None)
    drawn = HeldOut(registry.root / "unpicker").all_fingerprints()
    assert len(drawn) >= 2
    assert not drawn & set(detector.learned)
    assert not HeldOut(registry.root / NAME).all_fingerprints() & set(unpicker.learned)


def test_a_model_is_told_from_others_where_the_folder_of_models_is_relative(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    monkeypatch.chdir(registry.root.parent)
    root = Path(registry.root.name)
    assert learned_elsewhere([root], root / NAME) == (frozenset(), [])
    assert set(learner.learned) <= learned_elsewhere([root], root / "unpicker")[0]


def test_a_model_whose_record_cannot_be_read_is_noted(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    (registry.root / NAME / "current.json").write_text("{")
    result = update(registry, "unpicker", learner, UpdateOptions(), say=lambda _: None)
    assert result.outcome == "promoted"
    assert any("detector" in note and "may be held out now" in note for note in result.notes)


def test_what_a_model_learned_before_it_was_added_to_the_registry_is_not_held_out(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    add_by_hand(registry, tmp_path)
    registry.promote(NAME, 1, "by hand")
    contents = {checksum(p) for p in learner.projects[0].folder.iterdir()}
    least_held = HeldOut(tmp_path / "elsewhere").draw({"A": contents})["A"]
    learner.by_hand = least_held | set(sorted(contents)[:4])
    assert run(registry, learner).outcome == "promoted"
    drawn = HeldOut(registry.root / NAME).all_fingerprints()
    assert len(drawn) >= 2
    assert not drawn & learner.by_hand


def test_an_update_replays_some_projects_and_a_joint_training_all(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(update_material, "REPLAYED_PROJECTS", 1)
    learner = StubLearner([project(name) for name in "ABC"])
    run(registry, learner)
    owner = {checksum(p): s.name for s in learner.projects for p in s.folder.iterdir()}
    learner.learned.clear()
    learner.projects.append(project("D"))
    assert not run(registry, learner, joint_every=3).joint
    assert len({owner[c] for c in learner.learned if c in owner}) == 1
    learner.learned.clear()
    learner.projects.append(project("E"))
    assert run(registry, learner, joint_every=2).joint
    assert {owner[c] for c in learner.learned if c in owner} == {"A", "B", "C"}


def test_a_candidate_that_forgets_is_followed_by_a_joint_training(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.forgets = 0.05
    learner.projects.append(project("B"))
    result = run(registry, learner)
    assert (result.outcome, result.joint, learner.trainings) == ("promoted", True, [True, False, True])
    assert registry.version(NAME, 2).card.parent is None


def test_every_so_many_updates_all_projects_are_learned_together(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([])
    for name in "ABCDE":
        learner.projects.append(project(name))
        run(registry, learner, joint_every=3)
    assert learner.trainings == [True, False, False, True, False]


def test_a_candidate_that_the_gate_refused_is_kept_with_its_reason_and_not_trained_again(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B", skill=0.3))  # below the 0.4 that it had without learning
    result = run(registry, learner)
    assert result.outcome == "candidate"
    assert in_use(registry) == 1
    card = registry.version(NAME, 2).card
    assert card.status == "candidate"
    assert "do not gain: B 0.400 -> 0.300" in card.reasons[0]
    trainings = len(learner.trainings)
    assert run(registry, learner).outcome == "refused before"
    assert len(learner.trainings) == trainings
    assert run(registry, learner, again=True).outcome == "candidate"
    assert len(learner.trainings) > trainings


def test_what_was_rolled_back_does_not_come_back_by_itself(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B"))
    run(registry, learner)
    registry.rollback(NAME)
    assert run(registry, learner).outcome == "refused before"
    assert in_use(registry) == 1


def test_labels_that_mean_nothing_are_quarantined_and_the_other_projects_are_learned(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A"), project("bad", fits=False)])
    result = run(registry, learner)
    assert (result.outcome, result.learned) == ("promoted", ("A",))
    assert "match labels that mean nothing" in result.quarantined["bad"]
    assert "bad" not in {t.project for t in registry.version(NAME, 1).card.trained_on}
    trainings = len(learner.trainings)
    again = run(registry, learner)
    assert (again.outcome, list(again.quarantined)) == ("nothing new", ["bad"])
    assert len(learner.trainings) == trainings
    learner.projects[1].version, learner.projects[1].fits = 2, True  # mended
    assert run(registry, learner).learned == ("bad",)


def test_few_particles_on_held_out_micrographs_do_not_quarantine_labels_that_the_base_model_confirms(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five particles a micrograph, three of which a turned label matches, too: two micrographs leave it open."""
    monkeypatch.setattr(StubLearner, "fit_of", lambda _, __, items: LabelFit(5 * len(items), 3 * len(items)))
    base = tmp_path / "base"
    base.mkdir()
    (base / "skills.json").write_text("{}")
    without = run(registry, StubLearner([project("A")]))
    assert "match labels that mean nothing" in without.quarantined["A"]
    assert run(registry, StubLearner([project("A")], start=base), again=True).learned == ("A",)


def test_another_particle_under_the_same_name_is_quarantined_unless_it_is_trusted(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A"), project("B")])
    run(registry, learner)
    a = learner.projects[0]
    a.version, a.diameter_A = 2, 110.0
    result = run(registry, learner)
    assert (result.outcome, in_use(registry)) == ("nothing new", 1)
    assert "had a diameter of 160 A, and has 110 A now" in result.quarantined["A"]
    assert run(registry, learner, trusted=("A",), again=True).learned == ("A",)


def test_a_known_project_whose_new_micrographs_are_hardly_found_is_quarantined(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    known = {checksum(p) for p in learner.projects[0].folder.iterdir()}
    count = learner.count

    def poor_on_new(model: Path, items: Any) -> Any:
        return [
            c if c.micrograph in known else module.replace(c, n_matched=20)  # type: ignore[attr-defined]
            for c in count(model, items)
        ]

    monkeypatch.setattr(learner, "count", poor_on_new)
    learner.projects[0].write(of="another specimen")
    learner.projects[0].version = 2
    result = run(registry, learner)
    assert (result.outcome, in_use(registry)) == ("nothing new", 1)
    assert "F1 0.90 on its earlier micrographs and 0.20 on its new ones" in result.quarantined["A"]


def test_a_known_project_whose_labels_became_others_is_quarantined_however_small_the_steps_were(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The version in use may have learned from earlier wrong labels: those of the first day are the measure."""
    learner = StubLearner([project("A")])
    run(registry, learner)
    count, matched_today = learner.count, [0]

    def poor_by_the_labels_of_today(model: Path, items: Any) -> Any:
        counted = count(model, items)
        found = [
            c.n_picks if "scored" in i.pixels.parts else matched_today[-1] for i, c in zip(items, counted, strict=True)
        ]
        return [module.replace(c, n_matched=min(c.n_matched, n)) for c, n in zip(counted, found, strict=True)]  # type: ignore[attr-defined]

    monkeypatch.setattr(learner, "count", poor_by_the_labels_of_today)
    for version, n_matched, outcome in ((2, 70, "promoted"), (3, 40, "nothing new")):
        matched_today.append(n_matched)
        learner.projects[0].version = version
        result = run(registry, learner)
        assert result.outcome == outcome, result
    assert "F1 0.90 by the labels of their first day and 0.40 by those of today" in result.quarantined["A"]
    assert run(registry, learner, trusted=("A",), again=True).learned == ("A",)


@pytest.mark.parametrize(
    "step", ["HeldOut.draw", "prepare", "train", "exemplars", "add", "HeldOutScores.keep", "promote", "clear_work"]
)
def test_an_update_that_is_killed_at_any_step_goes_on_to_the_same_versions(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B"))
    owner: object
    owner, name = {
        "HeldOut.draw": (HeldOut, "draw"),
        "prepare": (StubLearner, "prepare"),
        "train": (StubLearner, "train"),
        "exemplars": (StubLearner, "exemplars"),
        "add": (ModelRegistry, "add"),
        "HeldOutScores.keep": (HeldOutScores, "keep"),
        "promote": (ModelRegistry, "promote"),
        "clear_work": (module.OneUpdate, "clear_work"),
    }[step]
    for before in (True, False):  # killed just before the step, and just after it
        whole = getattr(owner, name)

        def killed(*args: Any, _whole: Any = whole, _before: bool = before, **values: Any) -> Any:
            if not _before:
                _whole(*args, **values)
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            patched.setattr(owner, name, killed)
            with pytest.raises(KeyboardInterrupt):
                run(registry, learner)
    run(registry, learner)
    assert [v.number for v in registry.versions(NAME)] == [1, 2]
    assert in_use(registry) == 2
    assert {t.project for t in registry.version(NAME, 2).card.trained_on} == {"A", "B"}
    assert run(registry, learner).outcome == "nothing new"
    assert [p.name for p in (registry.root / NAME / WORK).iterdir()] == []
    held = {p.name.split("-")[0] for p in (registry.root / NAME / "held_out").iterdir()}
    assert held == {"A", "B"}


class ResumingLearner(StubLearner):
    """Refuses to go on with a training of other micrographs, and keeps a finished one, as the networks do."""

    on_trained: Callable[[], None] = staticmethod(lambda: None)

    def train(self, start: Any, new: Any, kept: Any, work: Path, **options: Any) -> Path:
        contents = json.dumps(sorted(i.content for i in (*new, *kept)))
        record = work / "contents.json"
        if record.exists() and record.read_text() != contents:
            raise BadInput(work, "holds another training.")
        model = super().train(start, new, kept, work, **options)
        record.write_text(contents)
        self.on_trained()
        return model


def test_a_killed_update_does_not_go_on_with_micrographs_that_are_held_out_since(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = ResumingLearner([project("A")])

    def die() -> None:
        raise KeyboardInterrupt

    learner.on_trained = die
    with pytest.raises(KeyboardInterrupt):
        run(registry, learner)
    HeldOut(registry.root / "unpicker").draw({"X": learner.learned[:2]})
    drawn = HeldOut(registry.root / "unpicker").all_fingerprints()
    assert drawn & set(learner.learned)
    learner.on_trained = lambda: None
    assert run(registry, learner).outcome == "promoted"
    assert not read_learned(registry.version(NAME, 1).model / EXEMPLARS / "A.npz") & drawn


def test_what_another_model_holds_out_during_the_training_is_not_put_into_use(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = ResumingLearner([project("A")])
    learner.on_trained = lambda: HeldOut(registry.root / "unpicker").draw({"X": learner.learned[:2]}) and None
    assert run(registry, learner).outcome == "promoted"
    drawn = HeldOut(registry.root / "unpicker").all_fingerprints()
    assert len(learner.trainings) == 2
    assert not read_learned(registry.version(NAME, 1).model / EXEMPLARS / "A.npz") & drawn


def test_a_rollback_during_the_training_stays_and_its_version_is_not_put_into_use_later_either(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = ResumingLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B"))
    run(registry, learner)
    learner.projects.append(project("C"))
    learner.on_trained = lambda: registry.rollback(NAME) and None
    result = run(registry, learner)
    assert (result.outcome, result.version and result.version.number, in_use(registry)) == ("candidate", 3, 1)
    assert any("v0001 was put into use meanwhile (rolled back)" in note for note in result.notes)
    learner.on_trained = lambda: None
    again = run(registry, learner)  # it is compared with what is in use now
    assert (again.outcome, in_use(registry), registry.version(NAME, 4).card.parent) == ("promoted", 4, 1)
    assert run(registry, learner).outcome == "nothing new"
    assert [v.card.compared_with for v in registry.versions(NAME)] == [None, 1, 2, 1]


def test_a_version_put_into_use_during_the_first_training_stays(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = ResumingLearner([project("A")])
    add_by_hand(registry, tmp_path)
    learner.on_trained = lambda: registry.promote(NAME, 1, "by hand") and None
    assert run(registry, learner).outcome == "candidate"
    assert in_use(registry) == 1


def test_labels_that_were_mended_after_a_rollback_are_those_of_the_first_day(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B"))
    run(registry, learner)
    registry.rollback(NAME)
    for version in (2, 3):  # the labels of a known project stay
        learner.projects[1].version = version
        assert run(registry, learner).outcome == "promoted"
        files = sorted((registry.root / NAME / FILES).glob("B-*.npz"))
        items = [i for f in files for i in read_pieces(f, tmp_path / f"{version}" / f.stem)]
        assert {int(i.labels["label"][0]) for i in items} == {2}


def held_out_labels(registry: ModelRegistry, project: str, folder: Path) -> dict[str, int]:
    """Return content -> label of the held-out micrographs that are kept of a project."""
    files = sorted((registry.root / NAME / FILES).glob(f"{project}-*.npz"))
    items = [i for f in files for i in read_pieces(f, folder / f.stem)]
    return {i.content: int(i.labels["label"][0]) for i in items}


def test_held_out_micrographs_of_a_version_rolled_back_are_scored_by_the_mended_labels(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    first = held_out_labels(registry, "A", tmp_path / "1")
    a = learner.projects[0]
    a.version, a.names = 2, [f"{i}.mrc" for i in range(40)]
    a.write()
    assert run(registry, learner).outcome == "promoted"
    more = held_out_labels(registry, "A", tmp_path / "2").keys() - first.keys()
    assert more
    registry.rollback(NAME)
    a.version = 3
    scored: dict[str, int] = {}
    again: dict[str, int] = {}
    count = learner.count

    def counting(model: Path, items: Any) -> Any:
        if model == registry.version(NAME, 2).model:
            again.update({i.content: int(i.labels["label"][0]) for i in items if i.project == "A"})
        if (
            not scored and registry.version(NAME, 1).model != model
        ):  # the gate's, before labels are compared with pixels
            scored.update({i.content: int(i.labels["label"][0]) for i in items})
        return count(model, items)

    monkeypatch.setattr(learner, "count", counting)
    assert run(registry, learner).outcome == "promoted"
    mended = first | dict.fromkeys(more, 3)
    assert scored == mended
    assert held_out_labels(registry, "A", tmp_path / "3") == mended
    registry.promote(NAME, 2, "by hand")  # none of its files is missing
    again.clear()
    a.version = 2
    learner.projects.append(project("B"))
    result = run(registry, learner)
    assert result.outcome == "promoted"
    # Its counts are by labels of before they were mended.
    assert again == dict.fromkeys(more, 3)
    note = f"A: {len(more)} held-out micrographs have other labels now, the version in use is scored again"
    assert note in result.notes


def test_a_held_out_micrograph_of_a_version_rolled_back_that_has_no_labels_now_is_not_scored(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    b = project("B", names=[f"{i}.mrc" for i in range(40)])
    learner.projects.append(b)
    run(registry, learner)
    registry.rollback(NAME)
    held = {n for n in b.names if checksum(b.folder / n) in held_out_labels(registry, "B", tmp_path / "2")}
    lost = min(held)
    b.version, b.names = 2, [n for n in b.names if n != lost]
    assert run(registry, learner).outcome == "promoted"
    learner.projects.append(project("C"))
    assert run(registry, learner).outcome == "promoted"
    scored = {content for name, content in read_counts(registry.version(NAME, 4).model / COUNTS).counts if name == "B"}
    assert scored == {checksum(b.folder / n) for n in held - {lost}}
    registry.promote(NAME, 2, "by hand")
    learner.projects.append(project("D"))
    assert run(registry, learner).outcome == "promoted"


def foreign_exemplars(file: Path, project: str) -> str:
    """Write exemplars that no training left, and return the content of their micrograph."""
    content = "f0" * 16
    piece = Piece(content, np.zeros((2, 2, 1), np.float16), {"label": np.ones(1, np.int8)}, 1e4, 160.0)
    write_pieces(file, project, [piece], [content])
    return content


def test_exemplars_that_the_card_does_not_list_are_not_learned_from(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    content = foreign_exemplars(registry.version(NAME, 1).model / exemplar_file("X"), "X")
    learner.projects.append(project("B"))
    assert run(registry, learner, joint_every=1).joint
    assert content not in learner.learned
    assert exemplar_file("X") not in registry.version(NAME, 2).card.files
    assert learned_elsewhere([registry.root], registry.root / "unpicker")[0] == set(learner.learned)
    foreign_exemplars(registry.version(NAME, 2).model / exemplar_file("X"), "X")
    assert content not in learned_elsewhere([registry.root], registry.root / "unpicker")[0]


@pytest.mark.parametrize("name", [exemplar_file("A"), COUNTS])
def test_a_changed_file_of_the_version_in_use_is_one_clear_error(
    registry: ModelRegistry, project: Callable[..., StubProject], name: str
) -> None:
    learner = StubLearner([project("A"), project("B")])
    run(registry, learner)
    changed = registry.version(NAME, 1).model / name
    if name == COUNTS:
        changed.write_text(changed.read_text().replace("90", "10"))
    else:
        foreign_exemplars(changed, "A")
    learner.projects.append(project("C"))
    with pytest.raises(BadInput, match=rf"{name}: was changed: {NAME}@v0001 cannot be used"):
        run(registry, learner)
    if name != COUNTS:
        found, notes = learned_elsewhere([registry.root], registry.root / "unpicker")
        assert {checksum(p) for p in learner.projects[1].folder.iterdir()} & found  # of B it is known
        assert len(notes) == 1
        assert name in notes[0]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (["A", "a", 10, 10, 11], "more matches than picks on micrograph a of A"),
        (["A", "a", 10, 5, 6], "more matches than picks"),
        (["A", "a", 10, 10, 5, 3, 4], "more matches than picks"),
        (["A", "a", 10, 10, -1], "greater than or equal to 0"),
        (["A", "b", 10, 10, 5], "has micrograph b of A twice"),
        (["A", "c", 10, 10, 5], "has labels of 1 of 2 micrographs"),
    ],
)
def test_counts_that_cannot_be_are_refused(tmp_path: Path, row: list[object], why: str) -> None:
    values = {"measure": "", "counts": [["A", "b", 10, 8, 8], row], "labels": ["ab"] if row[1] == "c" else ["ab", "cd"]}
    (tmp_path / COUNTS).write_text(json.dumps(values))
    with pytest.raises(BadInput, match=why):
        read_counts(tmp_path / COUNTS)
    if row[1] == "c":
        (tmp_path / COUNTS).write_text(json.dumps({**values, "labels": []}))
        assert read_counts(tmp_path / COUNTS).labels == {}  # as versions of before have it


def test_a_version_of_a_killed_update_that_was_changed_since_is_made_again(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ModelRegistry, "promote", killed)
        with pytest.raises(KeyboardInterrupt):
            run(registry, learner)
    foreign_exemplars(registry.version(NAME, 1).model / exemplar_file("A"), "A")
    assert run(registry, learner).outcome == "promoted"
    assert in_use(registry) == 2


@pytest.mark.parametrize("every", [True, False])
def test_a_known_project_without_its_held_out_micrographs_is_an_error_before_the_training(
    registry: ModelRegistry, project: Callable[..., StubProject], *, every: bool
) -> None:
    learner = StubLearner([project("A"), project("B")])
    run(registry, learner)
    files = sorted((registry.root / NAME / FILES).glob("B-*.npz"))
    for file in files if every else files[:1]:
        file.unlink()
    learner.projects.append(project("C"))
    trainings = len(learner.trainings)
    with pytest.raises(BadInput, match=rf"{files[0].name}: is missing.*held-out micrographs of B.*Restore "):
        run(registry, learner)
    assert len(learner.trainings) == trainings


def test_an_update_without_the_record_of_held_out_micrographs_is_an_error(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    HeldOut(registry.root / NAME).path.unlink()
    learner.projects[0].version = 2
    with pytest.raises(BadInput, match=r"held_out\.json: is missing, although .* Restore it from a copy"):
        run(registry, learner)


def test_a_candidate_that_a_user_puts_into_use_is_compared_on_its_new_projects(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    learner.projects.append(project("B", skill=0.3))
    assert run(registry, learner).outcome == "candidate"
    registry.promote(NAME, 2, "by hand")
    learner.projects.append(project("C"))
    result = run(registry, learner)
    assert result.outcome == "promoted"
    assert result.verdict is not None
    assert {c.project for c in result.verdict.changes} == {"A", "B", "C"}


def test_a_known_project_that_was_never_compared_is_noted(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    add_by_hand(registry, tmp_path, TrainedOn("P", (), "1", 1, 1))
    registry.promote(NAME, 1, "improved")
    result = run(registry, StubLearner([project("A")]))
    assert result.outcome == "promoted"
    assert any(note.startswith("P: no held-out micrographs are kept") for note in result.notes)


def test_an_old_version_that_cannot_be_read_is_noted_and_the_update_goes_on(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = StubLearner([])
    for name in "AB":
        learner.projects.append(project(name))
        run(registry, learner, joint_every=1)
    (registry.root / NAME / "v0001" / "card.json").write_text("{")
    learner.projects.append(project("C"))
    result = run(registry, learner)
    assert (result.outcome, in_use(registry)) == ("promoted", 3)
    assert [n for n in result.notes if "card.json" in n and n.startswith(f"{NAME}@v0001")] == list(result.notes)[:1]
    learner.projects.append(project("D", skill=0.3))
    assert run(registry, learner).outcome == "candidate"
    again = run(registry, learner)
    assert (again.outcome, again.version and again.version.number) == ("refused before", 4)


@pytest.mark.parametrize("place", ["exemplars", "held out"])
@pytest.mark.parametrize("wrong", ["label", "project"])
def test_learning_material_that_cannot_be_is_an_error_before_the_training(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path, place: str, wrong: str
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    folder = registry.version(NAME, 1).model / EXEMPLARS if place == "exemplars" else registry.root / NAME / FILES
    file = sorted(folder.glob("A*.npz"))[0]
    items = read_pieces(file, tmp_path / "unpacked")
    pieces = [replace(piece_of(i), labels={"label": np.array([7 if wrong == "label" else 1], np.int8)}) for i in items]
    write_pieces(file, "A" if wrong == "label" else "X", pieces, read_learned(file))
    if place == "exemplars":  # with a card that fits
        version = registry.version(NAME, 1)
        sums = sums_of(version.model, {})
        (version.folder / "card.json").write_text(replace(version.card, files=sums).text())
    learner.projects.append(project("B"))
    trainings = len(learner.trainings)
    why = "label has the value 7, which is none of 1, 2, 3" if wrong == "label" else r"of X, whose file is X.*\.npz"
    with pytest.raises(BadInput, match=rf"{file.name}: .*{why}.* Restore it"):
        run(registry, learner)
    assert len(learner.trainings) == trainings


def test_an_update_that_other_models_draws_interrupt_again_and_again_ends_with_an_error(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    learner = ResumingLearner([project("A", names=[f"{i}.mrc" for i in range(30)])])
    latest: list[int] = [0]

    def draw() -> None:
        HeldOut(registry.root / "unpicker").draw({f"X{len(learner.trainings)}": learner.learned[latest[-1] :][-2:]})
        latest.append(len(learner.learned))

    learner.on_trained = draw
    with pytest.raises(BadInput, match=r"held out micrographs of this update during 4 trainings in a row\. Give"):
        run(registry, learner)
    assert len(learner.trainings) == 4
    assert registry.names() == []


def test_a_project_that_the_version_in_use_learned_whole_is_quarantined_with_that_reason(
    registry: ModelRegistry, project: Callable[..., StubProject], tmp_path: Path
) -> None:
    learner = StubLearner([project("A"), project("B")])
    add_by_hand(registry, tmp_path)
    registry.promote(NAME, 1, "by hand")
    learner.by_hand = frozenset(checksum(p) for p in learner.projects[0].folder.iterdir())
    HeldOut(registry.root / "unpicker").draw({"X": sorted(learner.by_hand)[:2]})  # by another model: no matter
    assert HeldOut(registry.root / "unpicker").all_fingerprints()
    result = run(registry, learner)
    assert result.learned == ("B",)
    assert "12 of its 12 micrographs were learned from before by the version in use" in result.quarantined["A"]


def test_a_project_whose_micrographs_cannot_be_read_or_are_all_held_out_is_quarantined_with_that_reason(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    gone, held = project("gone"), project("held")
    for path in gone.folder.iterdir():
        path.unlink()
    contents = sorted(checksum(p) for p in held.folder.iterdir())
    for content in contents:  # one after the other, each by a project of its own
        HeldOut(registry.root / "unpicker").draw({content: [content, f"{'f' * 31}{contents.index(content):x}"]})
    result = run(registry, StubLearner([gone, held]))
    assert result.quarantined["gone"] == "none of its micrographs can be read"
    assert result.quarantined["held"].startswith("all of its 12 micrographs are held out")


def test_two_updates_of_one_model_wait_for_each_other(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])
    entered, go_on = threading.Event(), threading.Event()
    train = learner.train

    def slow(*args: Any, **values: Any) -> Path:
        entered.set()
        assert go_on.wait(60)
        return train(*args, **values)

    monkeypatch.setattr(learner, "train", slow)
    first = threading.Thread(target=run, args=(registry, learner))
    first.start()
    assert entered.wait(60)
    with pytest.raises(DatabaseBusy):
        run(registry, StubLearner([project("A")]))
    go_on.set()
    first.join()
    assert run(registry, StubLearner([project("A")])).outcome == "nothing new"
    assert [v.number for v in registry.versions(NAME)] == [1]


def test_too_few_micrographs_are_told(registry: ModelRegistry, project: Callable[..., StubProject]) -> None:
    result = run(registry, StubLearner([project("A", names=["0.mrc"])]))
    assert result.outcome == "nothing new"
    assert "too few micrographs" in result.quarantined["A"]
    assert registry.names() == []


@pytest.mark.parametrize("name", ["../elsewhere", "/elsewhere", "a/b"])
def test_the_name_of_a_model_never_leads_elsewhere(
    registry: ModelRegistry, project: Callable[..., StubProject], name: str
) -> None:
    learner = StubLearner([project("A")])
    name = str(registry.root.parent) + name if name.startswith("/") else name
    before = written_files(registry.root.parent)
    with pytest.raises(BadInput, match="cannot be the name of a model"):
        update(registry, name, learner, say=lambda _: None)
    assert written_files(registry.root.parent) == before
    assert [p.name for p in registry.root.parent.iterdir()] == ["A"]
    registry.root.write_text("no folder")
    with pytest.raises(NotWritten):
        run(registry, learner)


def test_a_project_that_is_not_there_is_an_error(registry: ModelRegistry, project: Callable[..., StubProject]) -> None:
    with pytest.raises(BadInput, match="P999"):
        run(registry, StubLearner([project("A")]), projects=("P999",))


def test_projects_to_learn_from_may_be_patterns(registry: ModelRegistry, project: Callable[..., StubProject]) -> None:
    learner = StubLearner([project(name) for name in ("P1", "P2", "Q1")])
    assert run(registry, learner, projects=("P?",)).learned == ("P1", "P2")
    with pytest.raises(BadInput, match=r"projects with labels: nothing matches 'R\*'\. There are: P1, P2, Q1"):
        run(registry, learner, projects=("R*",))
    assert run(registry, learner, projects=("*",)).learned == ("Q1",)


def test_a_damaged_list_of_projects_quarantined_is_one_clear_error(
    registry: ModelRegistry, project: Callable[..., StubProject]
) -> None:
    (registry.root / NAME).mkdir(parents=True)
    (registry.root / NAME / module.QUARANTINE).write_text(json.dumps([1]))
    with pytest.raises(BadInput, match=module.QUARANTINE):
        run(registry, StubLearner([project("A")]))


def test_the_version_in_use_is_scored_anew_when_scores_would_mean_something_else(
    registry: ModelRegistry, project: Callable[..., StubProject], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = StubLearner([project("A")])
    run(registry, learner)
    current = registry.current(NAME)
    assert current is not None
    scored: list[str] = []
    count = StubLearner.count

    def counting(self: StubLearner, model: Path, items: Any) -> Any:
        scored.extend(i.project for i in items if model == current.model)
        return count(self, model, items)

    monkeypatch.setattr(StubLearner, "count", counting)
    learner.projects.append(project("B", skill=0.3))
    assert run(registry, learner).outcome == "candidate"
    assert set(scored) == {"B"}  # those of A are known from the day of its update
    learner.measure = "with another un-picker"
    assert run(registry, learner, again=True).outcome == "candidate"
    assert set(scored) == {"A", "B"}
