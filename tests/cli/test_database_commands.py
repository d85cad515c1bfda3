"""`cryoflow database`: commands that are run twice, closed outputs, entries of the older scripts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database, verify
from cryoflow.errors import ExitCode
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """Three entries of one project, each with one pick."""
    import pandas as pd

    store = Database(tmp_path / "DB")
    for job in ("J1", "J2", "J3"):
        who = Provenance("cryosparc", tmp_path / "P", "P", job, Kind.HOMO)
        micrographs = micrograph_table({"name": ["a.mrc"], "ny": [60], "nx": [80], "pixel_size_A": [2.0]})
        store.add(PickSet.build(who, micrographs, pd.DataFrame({"micrograph": [0], "x_px": [7.0], "y_px": [5.0]})))
    return store


def names(database: Database) -> list[str]:
    return [entry.name for entry in Database(database.root).entries()]


def test_a_removal_that_was_killed_after_the_first_entry_is_finished_by_the_same_command(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["database", "remove", "P/Homo_J1", "P/Homo_J2", "--database", str(database.root)]
    database.remove("P/Homo_J1")
    assert launch(command) == ExitCode.OK
    assert "P/Homo_J1 was removed before" in capsys.readouterr().err
    assert names(database) == ["P/Homo_J3"]
    assert launch(command) == ExitCode.OK
    assert verify(database) == []


def test_a_misspelt_name_costs_no_other_entry_and_is_told(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    at = ["--database", str(database.root)]
    assert launch(["database", "remove", "P/Homo_J9", "P/Homo_J2", *at]) == ExitCode.PARTLY_FAILED
    assert "there is no entry 'P/Homo_J9'" in capsys.readouterr().err
    assert names(database) == ["P/Homo_J1", "P/Homo_J3"]
    assert launch(["database", "remove", "P/Homo_J9", "../P/Homo_J1", *at]) == ExitCode.FAILED
    assert len(names(database)) == 2


@pytest.mark.parametrize(
    ("redirected", "reason"),
    [
        (">&-", "output is closed"),
        (">/dev/full", "disk of standard output is full"),
        (">&- 2>&-", ""),
        ("<&- >&- 2>&-", ""),
    ],
)
def test_output_that_cannot_be_written_is_one_error(database: Database, redirected: str, reason: str) -> None:
    """A closed stdout, or one on a full disk: exit code 1, no traceback, and the database is left alone."""
    command = f"exec {sys.executable} -m cryoflow database list --database {database.root} {redirected}"
    done = subprocess.run(["bash", "-c", command], stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    assert done.returncode == ExitCode.FAILED
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert "defect" not in done.stderr
    assert len(done.stderr.splitlines()) == (reason != "")
    assert reason in done.stderr
    assert verify(database) == []


def test_a_reader_of_the_output_that_had_enough_is_no_error(database: Database) -> None:
    """As `cryoflow database list | head -1`: the reader is gone before anything is written."""
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "cryoflow", "database", "list", "--database", str(database.root)]
    done = subprocess.run(argv, stdout=write, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (ExitCode.OK, "")


def test_an_error_that_a_closed_stderr_cannot_take_does_not_go_to_stdout(database: Database) -> None:
    command = f"exec {sys.executable} -m cryoflow database show P/None --database {database.root} 2>&-"
    done = subprocess.run(["bash", "-c", command], stdout=subprocess.PIPE, text=True, timeout=300, check=False)
    assert (done.returncode, done.stdout) == (ExitCode.FAILED, "")


@pytest.mark.parametrize(("number", "redirected"), [(0, "<&-"), (1, ">&-"), (2, "2>&-")])
def test_no_file_gets_the_number_of_a_closed_standard_stream(number: int, redirected: str, tmp_path: Path) -> None:
    """A program that cryoflow starts would read a database as its input, or write into it."""
    seen = tmp_path / "seen"
    code = f"import os; from cryoflow.cli.main import launch; launch(['--version']); f = open({os.fspath(seen)!r}, 'w')"
    code += f"; f.write(os.readlink('/proc/self/fd/{number}'))"
    subprocess.run(["bash", "-c", f'exec {sys.executable} -c "$0" {redirected}', code], timeout=300, check=False)
    assert seen.read_text() == os.devnull


def test_an_entry_of_the_older_scripts_is_listed_with_its_picks_and_may_be_selected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "DB" / "P190" / "Particles" / "Homo_J51"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_text("Voltage: 300\n$\nMicrograph a.mrc\n1 2\n3 4\n$\nMicrograph b.mrc\n5 6\n$\n")
    (folder / "info.txt").write_text("Project: P190\n")
    assert launch(["database", "list", "--database", str(tmp_path / "DB"), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert (row["n_picks"], row["n_micrographs"]) == (3, 2)
    assert launch(["database", "select", "--database", str(tmp_path / "DB"), "--json"]) == 0
    (selected,) = json.loads(capsys.readouterr().out)
    assert selected["entry"] == "P190/Homo_J51"
    assert selected["n_picks"] == 3


def test_an_entry_of_a_newer_format_is_listed_as_such_and_the_exit_code_says_so(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    info = database.root / "P/Particles/Homo_J2/info.txt"
    info.write_text(info.read_text().replace("cryoflow entry 1", "cryoflow entry 2"))
    assert launch(["database", "list", "--database", str(database.root), "--json"]) == ExitCode.PARTLY_FAILED
    captured = capsys.readouterr()
    assert [row["status"] for row in json.loads(captured.out)] == ["current", "newer", "current"]
    assert "Update cryoflow" in captured.err
    assert os.listdir(database.root / "P/Particles") != []
