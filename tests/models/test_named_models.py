"""A command takes a folder, `NAME` or `NAME@VERSION` for a model."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.detector.bundle import GENERAL_FOLDER
from cryoflow.errors import BadInput
from cryoflow.models.find_model import find_model, with_model
from cryoflow.models.registry import ModelRegistry
from cryoflow.pickers.registry import picker
from cryoflow.pickers.running.run_picker import model_file
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.unpicker.parameters import UnpickParameters


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    made = ModelRegistry(tmp_path / "models")
    for _ in range(2):
        made.add("found", "detector", GENERAL_FOLDER)
    made.promote("found", 1, "first")
    return made


def test_a_name_is_looked_up_beside_the_database(registry: ModelRegistry, tmp_path: Path) -> None:
    database = tmp_path / "picks"
    assert find_model("found", database=database) == registry.version("found", 1).model
    assert find_model("found@v0002", database=database) == registry.version("found", 2).model
    assert find_model(Path("found@2"), database=database) == registry.version("found", 2).model


def test_a_path_names_a_version_of_any_registry(registry: ModelRegistry) -> None:
    home = registry.root / "found"
    assert find_model(home) == registry.version("found", 1).model
    assert find_model(registry.root / "found@2") == registry.version("found", 2).model
    assert find_model(registry.version("found", 2).model) == registry.version("found", 2).model


def test_without_a_database_names_are_those_of_the_current_folder(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_model("found") == registry.version("found", 1).model


def test_a_folder_stays_what_it_is(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert find_model(tmp_path / "mine", database=tmp_path / "picks") == tmp_path / "mine"
    assert find_model("general", database=tmp_path / "picks") == Path("general")
    assert find_model(tmp_path / "absent") == tmp_path / "absent"


def test_a_version_that_is_not_there_is_refused_with_those_that_are(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="v0001, v0002"):
        find_model("found@9", database=tmp_path / "picks")


def test_scores_are_kept_beside_the_versions_and_not_in_one(registry: ModelRegistry, tmp_path: Path) -> None:
    given = UnpickParameters(model=Path("found@2"), database=tmp_path / "picks")
    resolved = with_model(given)
    assert resolved.model == registry.version("found", 2).model
    assert resolved.work_folder == registry.root / "found" / "work"
    assert registry.names() == ["found"]


def test_a_command_takes_a_name(
    registry: ModelRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch(["detector", "info", "found@1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["folder"] == str(registry.version("found", 1).model)


def test_the_unpickers_training_and_pickers_take_names(
    registry: ModelRegistry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = ["--database", str(tmp_path / "picks")]
    Database(tmp_path / "picks").add(_picks(tmp_path))
    assert launch(
        ["unpicker", "train", "P/AutoPick_job1", "-o", str(tmp_path / "m"), "--start-from", "found@9", *database]
    )
    assert "v0001, v0002" in capsys.readouterr().err
    output = ["--output", str(tmp_path / "o")]
    assert launch(["picker", "pick", "topaz", "P/AutoPick_job1", "--model", "found@9", *output, *database])
    assert "v0001, v0002" in capsys.readouterr().err


def test_a_version_of_another_picker_is_its_one_file_beside_the_settings_of_its_training(tmp_path: Path) -> None:
    trained = tmp_path / "trained"
    trained.mkdir()
    for name in ("topaz_epoch1.sav", "manifest.tsv", "settings.tsv"):
        (trained / name).write_text(name)
    registry = ModelRegistry(tmp_path / "models")
    registry.add("topaz-P1", "topaz", trained)
    model = model_file(picker("topaz"), str(find_model(registry.root / "topaz-P1@1")))
    assert model == registry.version("topaz-P1", 1).model / "topaz_epoch1.sav"


def _picks(folder: Path) -> PickSet:
    columns = {"name": ["a.mrc"], "path": [None], "status": ["missing"], "pixel_size_A": [1.0]}
    where = Provenance("relion", folder, "P", "job1", Kind.AUTO_PICK)
    picks = pd.DataFrame({"micrograph": [0], "x_px": [1.0], "y_px": [1.0]})
    return PickSet.build(where, micrograph_table(columns), picks, diameter_A=100.0)
