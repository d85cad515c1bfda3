"""Promise 5: folders that may not be read, files from the future, and files that change while they are read."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from promise_tools import has_times, tree

from cryoflow.cli.main import launch
from cryoflow.database import Database, verify
from cryoflow.errors import ExitCode
from cryoflow.storage import inputs

IN_2100_NS = 4_102_444_800 * 10**9
OBEYS_MODES = [] if os.geteuid() else ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
"""The administrator may read what has no permission; without these two capabilities he may not."""


@pytest.fixture
def relion(finished_projects: Path, tmp_path: Path) -> Path:
    """A root with a RELION project alone."""
    shutil.copytree(finished_projects / "relion", tmp_path / "root/relion", symlinks=True)
    return tmp_path / "root"


def refined(root: Path) -> Path:
    return next(root.glob("relion/Refine3D/job*/run_data.star"))


def n_picks(database: Path) -> dict[str, int | None]:
    return {entry.name: entry.n_picks for entry in Database(database).entries()} if database.is_dir() else {}


# ---- permissions --------------------------------------------------------------------------------------------------


@pytest.fixture
def closed() -> Iterator[Callable[[Path, int], None]]:
    """A function that takes permissions from a path until the test ends."""
    modes: list[tuple[Path, int]] = []

    def close(path: Path, mode: int) -> None:
        modes.append((path, path.stat().st_mode))
        path.chmod(mode)

    yield close
    for path, mode in reversed(modes):
        path.chmod(mode)


def as_a_user(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command that obeys the modes of files."""
    if OBEYS_MODES and not shutil.which("setpriv"):
        pytest.skip("no setpriv: the administrator may read what has no permission")
    argv = [*OBEYS_MODES, sys.executable, "-m", "cryoflow", *map(str, words)]
    env = dict(os.environ) | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env, timeout=400)
    assert "Traceback" not in done.stderr
    assert "defect" not in done.stderr
    return done


def test_what_may_not_be_read_is_named_and_the_rest_is_ingested(
    finished_projects: Path, tmp_path: Path, closed: Callable[[Path, int], None]
) -> None:
    root, database = tmp_path / "root", tmp_path / "DB"
    shutil.copytree(finished_projects, root, symlinks=True)
    closed(refined(root), 0)
    closed(root / "CS-demo/J11", 0)
    done = as_a_user("ingest", root, "--database", database, "--no-check-orientation")
    assert done.returncode == ExitCode.PARTLY_FAILED, done.stdout + done.stderr
    failed = [line for line in done.stdout.splitlines() if "\tfailed\t" in line]
    assert any("run_data.star cannot be read: Permission denied" in line for line in failed)
    assert any("J11" in line and "its folder cannot be read: Permission denied" in line for line in failed)
    found = n_picks(database)
    assert any(name.startswith("relion/") for name in found)
    assert any(name.startswith("CS-demo/") for name in found)
    assert not any("J11" in name for name in found)


def test_a_folder_that_may_not_be_written_is_one_clear_error(
    relion: Path, tmp_path: Path, closed: Callable[[Path, int], None]
) -> None:
    database = tmp_path / "DB"
    assert launch(["ingest", str(relion), "--database", str(database), "--no-check-orientation"]) == ExitCode.OK
    before = tree(database)
    for folder in (database, *(path for path in database.rglob("*") if path.is_dir() and not path.is_symlink())):
        closed(folder, 0o555)
    entry = next(iter(n_picks(database)))
    (tmp_path / "out").mkdir()
    closed(tmp_path / "out", 0o555)
    at = ("--database", database)
    for words in (
        ("ingest", relion, *at, "--again", "--no-check-orientation"),
        ("database", "remove", entry, *at),
        ("export", "topaz", entry, *at, "--diameter", "150", "--output", tmp_path / "out/set"),
        ("report", *at, "--output", tmp_path / "out/report.html"),
    ):
        done = as_a_user(*words)
        assert done.returncode == ExitCode.FAILED, words
        assert len([line for line in done.stderr.splitlines() if "could not be written" in line]) == 1, done.stderr
        assert "Choose a folder that you may write." in done.stderr
    assert tree(database) == before
    assert as_a_user("database", "verify", *at).returncode == ExitCode.OK


# ---- clocks -------------------------------------------------------------------------------------------------------


def test_files_from_the_future_are_read_and_a_change_that_is_dated_back_is_seen(relion: Path, tmp_path: Path) -> None:
    plain, skewed = tmp_path / "plain/DB", tmp_path / "skewed/DB"

    def ingested(database: Path) -> None:
        assert launch(["ingest", str(relion), "--database", str(database), "--no-check-orientation"]) == ExitCode.OK

    ingested(plain)
    for path in relion.rglob("*"):
        os.utime(path, ns=(IN_2100_NS, IN_2100_NS), follow_symlinks=False)
    ingested(skewed)
    for path in skewed.rglob("*"):
        os.utime(path, ns=(IN_2100_NS, IN_2100_NS), follow_symlinks=False)
    without_times = [
        tree(folder, ignore=lambda name: has_times(name) or name.endswith(("info.txt", "entries.json")))
        for folder in (plain, skewed)
    ]
    assert without_times[0] == without_times[1]
    before = tree(skewed)
    ingested(skewed)
    assert tree(skewed) == before, "an unchanged job was read again"

    star = refined(relion)
    name = next(name for name in n_picks(skewed) if star.parent.name in name)
    n_before = n_picks(skewed)[name]
    star.write_bytes(b"\n".join(star.read_bytes().rstrip(b"\n").split(b"\n")[:-5]) + b"\n")
    os.utime(star, ns=(0, 0))  # from a machine whose clock stands at 1970
    ingested(skewed)
    assert n_picks(skewed)[name] == (n_before or 0) - 5
    assert verify(skewed) == []


# ---- files that change while they are read ------------------------------------------------------------------------


def cut(path: Path, _: bytes) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replaced(path: Path, new: bytes) -> None:
    path.with_name("new").write_bytes(new)
    path.with_name("new").replace(path)


def rewritten(path: Path, new: bytes) -> None:
    path.write_bytes(new)


def removed(path: Path, _: bytes) -> None:
    path.unlink()


@pytest.mark.parametrize("act", [cut, replaced, rewritten, removed])
def test_a_file_that_changes_while_it_is_read_is_an_error_or_whole_and_the_next_run_reads_what_is_there(
    act: Callable[[Path, bytes], None],
    relion: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """At each opening of the file: just after it, so that the change meets an open file."""
    star = refined(relion)
    old = star.read_bytes()
    new = b"\n".join(old.rstrip(b"\n").split(b"\n")[:-5]) + b"\n"
    opened = inputs.opened
    left = [0]

    def changing(path: str | Path):
        file = opened(path)
        if Path(path) == star:
            if left[0] == 0:
                act(star, new)
            left[0] -= 1
        return file

    monkeypatch.setattr(inputs, "opened", changing)

    def run(database: Path, number: int) -> int:
        left[0] = number
        code = launch(["ingest", str(relion), "--database", str(database), "--no-check-orientation"])
        printed = capsys.readouterr()
        assert "defect" not in printed.err
        assert "Traceback" not in printed.err
        return code

    run(tmp_path / "sound", 10**6)
    n_opened = 10**6 - left[0]
    sound = n_picks(tmp_path / "sound")
    name = next(name for name in sound if star.parent.name in name)
    whole = {sound[name], (sound[name] or 0) - 5}
    assert n_opened > 0
    for number in range(n_opened):
        star.write_bytes(old)
        database = tmp_path / f"DB{number}"
        assert run(database, number) in (ExitCode.OK, ExitCode.FAILED, ExitCode.PARTLY_FAILED)
        found = n_picks(database)
        assert found.get(name, sound[name]) in whole, f"half a file was taken for a whole one (opening {number})"
        assert found.keys() | {name} == sound.keys(), "another job was lost"

        star.write_bytes(new)
        assert run(database, 10**6) == ExitCode.OK
        assert n_picks(database)[name] == (sound[name] or 0) - 5, f"what is there was not read (opening {number})"
        assert verify(database) == []
