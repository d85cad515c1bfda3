"""No training of cryoflow learns from a micrograph that a model holds out, whatever its name or its project."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import pytest
from learning_projects import add_project

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.detector.labels import LabeledProject
from cryoflow.errors import BadInput
from cryoflow.models.held_out import HeldOut
from cryoflow.pickers.parameters import ExportParameters, TrainAndPickParameters
from cryoflow.pickers.stages import picks_to_train_on
from cryoflow.pickers.training_sets.manifest import read_manifest
from cryoflow.storage.fingerprints import checksum
from cryoflow.unpicker.labeled import LabeledSet
from cryoflow.unpicker.parameters import TrainUnpickerParameters

N = 6
Learned = Callable[[Sequence[Path]], None]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A project whose micrographs are copies, under other names, of those of a project that a model learned from."""
    home = add_project(Database(tmp_path / "elsewhere"), tmp_path, "First", seed=1, n=N)
    add_project(Database(tmp_path / "picks"), tmp_path, "Copy", seed=1, n=N, names="other{}.mrc", images_of=home)
    return tmp_path / "picks"


@pytest.fixture
def held_out(database: Path, tmp_path: Path) -> frozenset[str]:
    """Draw what a model beside the database holds out, in the name of the first project."""
    contents = {checksum(path): path for path in sorted((tmp_path / "First").iterdir())}
    drawn = HeldOut(tmp_path / "models" / "detector").draw({"First": contents}, paths=contents)["First"]
    assert 2 <= len(drawn) < N
    return drawn


@pytest.fixture
def check(held_out: frozenset[str], capsys: pytest.CaptureFixture[str]) -> Learned:
    """Check which micrographs a training was given, and that the number of the others was printed."""

    def check_learned(paths: Sequence[Path | str | None]) -> None:
        contents = [checksum(path) for path in paths if path is not None]
        assert len(set(contents)) == N - len(held_out)
        assert not set(contents) & held_out
        assert f"{len(held_out)} micrographs held out by " in capsys.readouterr().err

    return check_learned


def test_detector_train(database: Path, check: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[LabeledProject] = []

    def train_on(projects: Sequence[LabeledProject], *_: object, **__: object) -> None:
        given.extend(projects)
        raise BadInput("here", "ends the test.")

    monkeypatch.setattr("cryoflow.detector.train.train_on", train_on)
    launch(["detector", "train", "--best", "--database", str(database), "-o", str(tmp_path / "model")])
    check([m.path for project in given for m in project.micrographs])


LABEL = ["unpicker", "label", "--positives", "Copy/Refine3D_job010", "--candidates", "Copy/AutoPick_job003"]


def test_unpicker_train_as_command_and_as_flow(
    database: Path, check: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.unpicker import train_model

    given: list[LabeledSet] = []

    def train(training_set: LabeledSet, *_: object, **__: object) -> None:
        given.append(training_set)
        raise BadInput("here", "ends the test.")

    monkeypatch.setattr("cryoflow.unpicker.train.train", train)
    monkeypatch.setattr("flows.unpicker.shown_progress", lambda *_: nullcontext())  # needs no server
    assert launch([*LABEL, "--database", str(database)]) == 0
    entry = next(e.name for e in Database(database).entries() if "label" in e.name)
    launch(["unpicker", "train", entry, "--database", str(database), "-o", str(tmp_path / "model")])
    check([m.path for m in given[0].micrographs])
    with pytest.raises(BadInput, match="ends the test"):
        train_model.fn(TrainUnpickerParameters(database=database, model=tmp_path / "model"), (entry,))
    assert [m.name for m in given[1].micrographs] == [m.name for m in given[0].micrographs]


def test_export_for_a_picker_but_not_for_a_program_that_goes_on_with_the_picks(
    database: Path, check: Learned, tmp_path: Path
) -> None:
    for target in ("cryolo", "relion"):
        words = ["export", target, "Copy/Refine3D_job010", "--database", str(database), "-o", str(tmp_path / target)]
        assert launch(words) == 0
    check(read_manifest(tmp_path / "cryolo")["path"].tolist())
    assert len(read_manifest(tmp_path / "relion")) == N


def test_train_and_pick_also_where_its_stages_are_jobs(
    database: Path, check: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.picking_shards import training_set_of

    given: list[str | None] = []

    def export_and_train(_: str, training: Sequence[object], *__: object, **___: object) -> None:
        given.extend(path for picks in training for path in picks.micrographs["path"])  # type: ignore[attr-defined]
        raise BadInput("here", "ends the test.")

    monkeypatch.setattr("cryoflow.pickers.stages.export_and_train", export_and_train)
    words = ["picker", "train-and-pick", "topaz", "Copy/Refine3D_job010", "--database", str(database)]
    launch([*words, "--micrographs", str(tmp_path / "Copy"), "-o", str(tmp_path / "out")])
    check(given)
    parameters = TrainAndPickParameters(
        picker="topaz",
        entries=("Copy/Refine3D_job010",),
        database=database,
        output=tmp_path,
        models=tmp_path / "m",
        to_pick=("*",),
    )
    assert training_set_of(parameters).models == tmp_path / "m"


def test_picker_train_refuses_a_set_that_was_exported_before_the_draw(
    database: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "set"
    assert launch(["export", "cryolo", "Copy/Refine3D_job010", "--database", str(database), "-o", str(folder)]) == 0
    contents = [checksum(path) for path in (tmp_path / "First").iterdir()]
    n = len(HeldOut(tmp_path / "models" / "unpicker").draw({"First": contents})["First"])
    assert launch(["picker", "train", "cryolo", str(folder), "--models", str(tmp_path / "models")]) != 0
    assert f"has {n} micrographs that must not be learned from" in capsys.readouterr().err


def test_nothing_is_held_out_without_a_registry(database: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = ExportParameters(
        picker="cryolo", entries=("Copy/Refine3D_job010",), database=database, output=Path("unused")
    )
    with caplog.at_level(logging.WARNING):
        [picks] = picks_to_train_on(parameters)
    assert len(picks.micrographs) == N
    assert not caplog.messages


def test_picks_stay_on_their_micrographs_when_others_are_left_out(database: Path, held_out: frozenset[str]) -> None:
    parameters = ExportParameters(
        picker="cryolo", entries=("Copy/Refine3D_job010",), database=database, output=Path("unused")
    )
    whole = Database(database).load("Copy/Refine3D_job010")
    [left] = picks_to_train_on(parameters)
    assert 0 < len(left.micrographs) == N - len(held_out)
    for name in left.micrographs["name"]:
        assert left[name][["x_px", "y_px"]].to_numpy().tolist() == whole[name][["x_px", "y_px"]].to_numpy().tolist()
        assert len(left[name])
