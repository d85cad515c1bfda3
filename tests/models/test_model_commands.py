"""`cryoflow model`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cryoflow.cli.main import launch
from cryoflow.models.registry import ModelRegistry


@pytest.fixture
def models(tmp_path: Path) -> Path:
    trained = tmp_path / "trained"
    trained.mkdir()
    (trained / "weights").write_text("1")
    registry = ModelRegistry(tmp_path / "models")
    for f1 in (0.8, 0.9):
        registry.add("unpicker", "unpicker", trained, metrics={"P1": {"f1": f1}, "P2": {"f1": f1 - 0.1}})
    registry.promote("unpicker", 1, "first")
    return tmp_path / "models"


def printed(capsys: pytest.CaptureFixture[str], *command: str) -> object:
    assert launch([*command, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_list_names_the_version_in_use(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "model", "list", "--models", str(models))
    assert [(r["version"], r["in_use"], r["f1"]) for r in rows] == [  # type: ignore[attr-defined]
        ("unpicker@v0001", True, pytest.approx(0.75)),
        ("unpicker@v0002", False, pytest.approx(0.85)),
    ]


def test_models_lie_beside_the_database(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models.parent / "picks").mkdir()
    assert printed(capsys, "model", "list", "--database", str(models.parent / "picks"))
    assert launch(["model", "list", "--database", str(models.parent / "misspelt")]) == 1
    assert "misspelt: is no database: there is no such folder." in capsys.readouterr().err


def test_a_version_is_promoted_and_rolled_back(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--models", str(models))
    done = printed(capsys, "model", "promote", "unpicker@v0002", "--reason", "better", *where)
    assert done["in_use"] == "unpicker@v0002"  # type: ignore[index]
    assert printed(capsys, "model", "rollback", "unpicker", *where)["in_use"] == "unpicker@v0001"  # type: ignore[index]
    assert [s.reason for s in ModelRegistry(models).history("unpicker")] == ["first", "better", "rolled back"]


def test_the_only_version_that_was_in_use_cannot_be_rolled_back(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(["model", "rollback", "unpicker", "--models", str(models)]) == 1
    told = capsys.readouterr().err
    assert "no other version than unpicker@v0001 was ever in use. It stays in use." in told
    assert "cryoflow model promote unpicker@v0002" in told


@pytest.mark.parametrize("command", ["prune", "rollback", "show"])
def test_a_name_of_no_model_is_told_in_one_style(
    command: str, models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert launch(["model", command, "nope", "--models", str(models)]) == 1
    told = capsys.readouterr().err
    assert told.startswith("cryoflow: nope: is n")
    assert told.endswith(f" model. Models of {models}: unpicker.\n")


def test_versions_are_named_where_none_is_in_use(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ModelRegistry(models).add("other", "unpicker", models.parent / "trained")
    for command in (["show", "other"], ["compare", "unpicker", "other"]):
        assert launch(["model", *command, "--models", str(models)]) == 1
        assert "other: has no version in use. Name one of its versions: other@v0001." in capsys.readouterr().err


def test_two_versions_are_compared_project_by_project(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "model", "compare", "unpicker@1", "unpicker@2", "--models", str(models))
    assert [(r["project"], round(r["change"], 6)) for r in rows] == [("P1", 0.1), ("P2", 0.1)]  # type: ignore[attr-defined]
    assert {r["measure"] for r in rows} == {"f1"}  # type: ignore[attr-defined]
    assert launch(["model", "compare", "unpicker@1", "unpicker@2", "--models", str(models)]) == 0
    assert "P1\tF1\t" in capsys.readouterr().out


def test_a_project_that_one_version_was_measured_on_is_named_with_its_figure(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = models.parent / "trained"
    ModelRegistry(models).add("unpicker", "unpicker", trained, metrics={"P1": {"f1": 0.9}, "P3": {"f1": 0.7}})
    rows = printed(capsys, "model", "compare", "unpicker@2", "unpicker@3", "--models", str(models))
    shown = {r["project"]: (r["before"], r["after"], r["note"]) for r in rows}  # type: ignore[attr-defined]
    assert shown["P1"] == (0.9, 0.9, "")
    assert shown["P2"] == (pytest.approx(0.8), None, "measured on unpicker@2 only")
    assert shown["P3"] == (None, 0.7, "measured on unpicker@3 only")


def test_a_damaged_version_is_shown_as_such_and_fails(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (models / "unpicker" / "v0002" / "model" / "weights").write_text("2")
    assert launch(["model", "show", "unpicker@2", "--models", str(models), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["files"] == ["weights was changed"]


def test_a_model_is_added_and_put_into_use(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ("--models", str(models))
    added = printed(capsys, "model", "add", "topaz", str(tmp_path / "trained"), "--kind", "topaz", "--promote", *where)
    assert added["version"] == "topaz@v0001"  # type: ignore[index]
    assert ModelRegistry(models).current("topaz") is not None


def test_a_version_that_cannot_be_read_is_listed_and_kept(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["unpicker", "--models", str(models)]
    (models / "unpicker" / "v0001" / "card.json").write_text("{")
    assert launch(["model", "list", *where[1:], "--json"]) == 3
    printed = capsys.readouterr()
    rows = [(r["version"], r["in_use"], r["status"], r["projects"]) for r in json.loads(printed.out)]
    assert rows == [("unpicker@v0001", True, "unreadable", None), ("unpicker@v0002", False, "accepted", 0)]
    assert "card.json: damaged: it does not end with its checksum." in printed.err
    assert launch(["model", "prune", *where, "--keep", "1"]) == 3
    assert "unpicker@v0001 is kept, because it cannot be read" in capsys.readouterr().err
    assert launch(["model", "rollback", *where]) == 1
    assert "no other version than unpicker@v0001 was ever in use" in capsys.readouterr().err
    (models / "unpicker" / "current.json").write_text("{")
    (models / "a copy" / "v0001").mkdir(parents=True)
    assert launch(["model", "list", *where[1:], "--json"]) == 3
    printed = capsys.readouterr()
    assert {r["in_use"] for r in json.loads(printed.out)} == {None}
    assert "current.json: damaged" in printed.err
    assert "'a copy' cannot be the name of a model" in printed.err


def test_pruning_says_what_it_removed(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "model", "prune", "unpicker", "--keep", "1", "--models", str(models))
    assert rows == []
    ModelRegistry(models).promote("unpicker", 2, "better")
    ModelRegistry(models).add("unpicker", "unpicker", models / "unpicker" / "v0001" / "model")
    assert printed(capsys, "model", "prune", "unpicker", "--keep", "1", "--models", str(models)) == []


def test_without_a_place_the_command_asks_for_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    assert launch(["model", "list"]) == 2
    assert "--models" in capsys.readouterr().err
