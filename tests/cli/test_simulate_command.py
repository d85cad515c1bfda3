"""`cryoflow simulate` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cryoflow.cli.main import launch
from cryoflow.errors import ExitCode
from cryoflow.projects.crawl import crawl
from cryoflow.simulate import load_dataset

SMALL = ["--specimen", "small", "--micrographs", "6", "--size", "240", "320", "--pixel-size", "4"]


def test_it_writes_micrographs_truth_and_two_projects(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "made here"
    assert launch(["simulate", str(folder), *SMALL, "--json"]) == ExitCode.OK
    printed = json.loads(capsys.readouterr().out)
    dataset = load_dataset(folder)
    assert printed["micrographs"] == len(dataset.micrographs) == 6
    assert printed["right_picks"] == sum(int(m.pick_is_right.sum()) for m in dataset.micrographs)
    assert {Path(p).name for p in printed["projects"]} == {"relion-5.0-small", "cryosparc-4.5-small"}
    assert {(p.program, p.path) for p in crawl([folder]).projects} == {
        ("relion", folder / "relion-5.0-small"),
        ("cryosparc", folder / "cryosparc-4.5-small"),
    }

    times = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}
    assert launch(["simulate", str(folder), *SMALL]) == ExitCode.OK
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()} == times


def test_projects_can_be_left_out(tmp_path: Path) -> None:
    no_projects = ["--relion-version", "none", "--cryosparc-version", "none"]
    assert launch(["simulate", str(tmp_path), *SMALL, *no_projects]) == ExitCode.OK
    assert sorted(p.name for p in tmp_path.iterdir()) == ["Micrographs", "truth.json"]


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--micrographs", "0", ExitCode.USAGE),
        ("--specimen", "virus", ExitCode.USAGE),
        ("--size", "10", ExitCode.USAGE),
        ("--relion-version", "../../9", ExitCode.FAILED),
    ],
)
def test_senseless_requests_end_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, code: ExitCode
) -> None:
    options = {"--specimen": ["small"], "--micrographs": ["1"], "--size": ["240", "320"], "--pixel-size": ["4"]}
    options[option] = [value] * len(options.get(option, [""]))
    words = [word for name, values in options.items() for word in (name, *values)]
    try:
        ended = launch(["simulate", str(tmp_path / "d"), *words])
    except SystemExit as error:  # as cyclopts ends where a value is not one of those to choose from
        ended = int(error.code or 0)
    assert ended == code
    assert "Traceback" not in capsys.readouterr().err
    assert not (tmp_path / "9").exists()
