"""Promises 5, 6 and 13: the inputs that once got through (../shared/cases/hostile), each through today's commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cryoflow.cli.main import launch
from cryoflow.errors import ExitCode

Run = Callable[..., tuple[int, str, str]]
ALIASES = "bomb.csg: its aliases repeat more than 2290 values."
WIDE = "wide.csv: has a row of 20001 values where its first line names 2 columns."


@pytest.fixture(scope="session")
def hostile(cases: Path) -> Path:
    return cases / "hostile"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """A function that runs a command and returns its exit code, results and messages."""

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = launch([str(word) for word in words])
        printed = capsys.readouterr()
        assert "defect" not in printed.err
        return code, printed.out, printed.err

    return call


def test_every_hostile_input_has_a_test(hostile: Path) -> None:
    tested = {name.removeprefix("test_case_") for name in globals() if name.startswith("test_case_")}
    assert tested == {path.name.replace(".", "_") for path in hostile.iterdir()}


def test_case_bomb_csg(hostile: Path, finished_projects: Path, tmp_path: Path, run: Run) -> None:
    code, out, _ = run("ingest", hostile / "bomb.csg", "--database", tmp_path / "DB")
    assert (code, out.count(ALIASES)) == (ExitCode.FAILED, 1)

    root = tmp_path / "root"
    shutil.copytree(finished_projects, root, symlinks=True)
    (root / "CS-demo/J900").mkdir()
    shutil.copyfile(hostile / "bomb.csg", root / "CS-demo/J900/J900_particles.csg")
    for words in (["crawl", root], ["ingest", root, "--database", tmp_path / "DB", "--no-check-orientation"]):
        _, out, err = run(*words)
        assert (out + err).count("J900_particles.csg: its aliases repeat") == 1
    entries = run("database", "list", "--database", tmp_path / "DB")[1]
    assert "CS-demo/" in entries
    assert "relion/" in entries


def test_case_wide_csv(hostile: Path, finished_projects: Path, tmp_path: Path, run: Run) -> None:
    good = next((finished_projects / "relion/Refine3D").glob("job*/run_data.star"))
    code, out, _ = run("ingest", hostile / "wide.csv", good, "--database", tmp_path / "DB", "--no-check-orientation")
    assert (code, out.count(WIDE)) == (ExitCode.PARTLY_FAILED, 1)
    assert len(run("database", "list", "--database", tmp_path / "DB", "--json")[1]) > 2


def test_case_toml_in_project(hostile: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither its server, nor its lines of a shell, nor its database is used; one line names it."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.chdir(hostile / "toml_in_project")
    code, out, err = run("settings", "--json")
    values = {row["setting"]: row["value"] for row in json.loads(out)}
    assert code == ExitCode.OK
    assert values["database"] is None
    assert "attackers" not in out
    assert "PWNED" not in out
    assert [line for line in err.splitlines() if "cryoflow.toml" in line] == [
        line for line in err.splitlines() if line.startswith("warning:") and "not used" in line
    ]
    assert err.count("warning:") == 1

    code, _, err = run("crawl", ".")
    assert code == ExitCode.OK
    assert err.count("warning:") == 1
    assert "it lies in a folder that is being crawled" in err
    with pytest.raises(SystemExit, match="2"):  # there is no database: that of the file is not used
        launch(["ingest", "."])
