"""Promise 3: a full, read-only or failing disk is one clear error, and nothing is half-written or lost.

The database's own writes fail at every fault point in tests/database/test_database_faults.py. Here exports, models and
caches fail at every change of a file, and the command line meets disks that are really full.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from killed import at, in_child
from promise_tools import DIAMETER_A, changes_of, has_times, leftovers, make_entry, on_each_change, tree
from test_promise_02_kill_anywhere import PICKERS, SMALL, exporter, small_bundle

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.errors import BadInput, ExitCode, NotWritten
from cryoflow.ingest import IngestOptions, ingest_job, plan_jobs
from cryoflow.preparation.picked_micrograph import picked_micrographs
from cryoflow.storage import files, folders
from cryoflow.unpicker.bundle import ModelBundle
from cryoflow.unpicker.label import label_star_folder
from cryoflow.unpicker.patch_cache import prepare

pytestmark = pytest.mark.forks

ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT)


def fail(number: int) -> Callable[[], None]:
    def raise_it() -> None:
        raise OSError(number, os.strerror(number))

    return raise_it


def at_every_change(work: Callable[[], object], where: Path, log: Path, check: Callable[[int], None]) -> int:
    """Run some work with its n-th change failing (and all later ones: the disk stays full), for every n."""
    n_changes = len(changes_of(work, where, log))
    for number in range(n_changes):
        check(number)
        said = log.with_name("said")

        def failing(number: int = number) -> None:
            on_each_change(where, at(number, fail(ERRORS[number % len(ERRORS)])))
            work()

        assert in_child(failing, stderr=said) == 1, f"change {number}: {said.read_text()}"
        assert "could not be written" in said.read_text()
        assert os.strerror(ERRORS[number % len(ERRORS)]) in said.read_text()
    return n_changes


@pytest.mark.parametrize("name", PICKERS)
def test_an_export_that_cannot_be_written_is_absent_and_says_why(name: str, tmp_path: Path) -> None:
    where = tmp_path / "sets"
    where.mkdir()
    work = exporter(name, [make_entry(tmp_path, n=2)], where / "set")

    def clean(_: int) -> None:
        # What could not be removed, since the disk took no change any more, is hidden, and swept by the next writer.
        assert in_child(work) == 0
        assert [n for n in tree(where) if "/" not in n.rstrip("/")] == ["set/"]
        for path in sorted(where.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()

    assert at_every_change(work, where, tmp_path / "log", clean) >= 8


def test_an_ingest_that_cannot_be_written_leaves_whole_entries_and_the_next_run_ends_it(
    finished_projects: Path, tmp_path: Path
) -> None:
    where = tmp_path / "where"
    where.mkdir()
    options = IngestOptions(check_orientation=False)
    planned = plan_jobs(finished_projects / "CS-demo", Database(where / "none"), options).jobs
    (job,) = (p for p in planned if p.job.job == "J11")
    whole: list[dict[str, str]] = []

    def work() -> None:
        assert ingest_job(job, where / "DB", options).status == "read"

    def check(_: int) -> None:
        """What stands is whole, and the next run ends at the same bytes."""
        for entry in Database(where / "DB").entries():
            assert len(Database(where / "DB").load(entry)) == entry.n_picks > 0
        assert in_child(work) == 0
        whole.append(tree(where / "DB", ignore=has_times))
        shutil.rmtree(where / "DB")

    n_changes = at_every_change(work, where, tmp_path / "log", check)
    assert n_changes >= 15
    assert len(whole) == n_changes
    assert all(one == whole[0] for one in whole)


def test_a_model_that_cannot_be_written_is_no_model_and_says_why(tmp_path: Path) -> None:
    where = tmp_path / "models"

    def check(_: int) -> None:
        small_bundle(1.0).save(where / "m")
        assert ModelBundle.load(where / "m").weights["a/kernel"][0, 0] == 1.0

    def work() -> None:
        small_bundle(2.0).save(where / "m")

    check(0)
    assert at_every_change(work, where, tmp_path / "log", check) >= 9
    try:
        ModelBundle.load(where / "m")
    except BadInput:
        assert not (where / "m/bundle.json").exists()


def test_labels_that_cannot_be_written_end_the_work_with_a_clear_error(tmp_path: Path) -> None:
    head = "data_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n"
    stars = tmp_path / "stars"
    stars.mkdir()
    for stem in "ab":
        (stars / f"{stem}_autopick.star").write_text(head + "1.0 2.0\n30.0 40.0\n")
        (stars / f"{stem}_autopick_correct.star").write_text(head + "1.0 2.0\n")
    where = tmp_path / "labels"
    where.mkdir()

    def clear(_: int) -> None:
        for path in where.iterdir():
            path.unlink()

    def work() -> None:
        assert len(label_star_folder(stars, where)[0]) == 2

    assert at_every_change(work, where, tmp_path / "log", clear) >= 6


def test_a_cache_that_cannot_be_written_ends_the_work_with_a_clear_error(tmp_path: Path) -> None:
    """It must not pass for a micrograph that cannot be read, and be left out of a training."""
    micrographs, _ = picked_micrographs(make_entry(tmp_path, n=2))
    where = tmp_path / "cache"
    where.mkdir()

    def clear(_: int) -> None:
        for path in sorted(where.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()

    n = at_every_change(lambda: prepare(SMALL, micrographs, where, workers=1), where, tmp_path / "log", clear)
    assert n >= 6, n


FULL_DISK = """
import os, sys
from pathlib import Path
from cryoflow.cli.main import launch
disk, line, log = Path(sys.argv[1]), sys.argv[3:], Path(sys.argv[2])
sys.path.insert(0, os.environ["TOOLS"])
from promise_tools import leftovers
for kb in (16, 48, 96, 160, 20000):
    os.system(f"mount -t tmpfs -o size={kb}k none '{disk}'")
    code = launch([w.replace("DISK", str(disk)) for w in line])
    there = [p for p in disk.rglob("*") if p.name in ("info.txt", "data.txt", "manifest.json")]
    print("RESULT", kb, code, len(there), len(leftovers(disk)), flush=True)
    if code == 0:
        break
    os.system(f"umount '{disk}'")
"""


def test_a_disk_that_is_really_full_is_exit_1_and_leaves_whole_entries_only(
    finished_projects: Path, tmp_path: Path
) -> None:
    """File systems of 16 to 160 kB: the kernel refuses the write wherever it happens to be."""
    disk = tmp_path / "disk"
    disk.mkdir()
    argv = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", FULL_DISK, str(disk), str(tmp_path / "log")]
    if subprocess.run([*argv[:3], "mount", "-t", "tmpfs", "none", str(disk)], check=False).returncode != 0:
        pytest.skip("this machine lets no test mount a small file system (unshare --map-root-user --mount)")
    argv += ["ingest", str(finished_projects), "--database", "DISK/DB", "--no-check-orientation"]
    env = dict(os.environ) | {"TOOLS": str(Path(__file__).parent)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=env)
    rows = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert len(rows) >= 3, done.stderr[-2000:]
    *full, last = [tuple(map(int, row)) for row in rows]
    for _, code, n_files, n_left in full:
        assert code == ExitCode.FAILED
        assert n_files % 3 == 0, "an entry is half-written"
        assert n_left == 0
    assert last[1] == 0
    assert last[2] > full[-1][2]
    assert done.stderr.count("could not be written: No space left on device.") == len(full)
    assert "Traceback" not in done.stderr


def test_a_read_only_place_for_any_output_is_exit_1_and_one_line(
    finished_projects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file where a folder should be refuses root as well as anybody."""
    Database(tmp_path / "DB").add(make_entry(tmp_path))
    (tmp_path / "file").write_text("mine")
    bad = str(tmp_path / "file" / "out")
    db = ["--database", str(tmp_path / "DB")]
    for line in (
        ["ingest", str(finished_projects / "relion"), "--database", bad, "--no-check-orientation"],
        ["export", "topaz", "P1/Homo_J5", *db, "--output", bad, "--force"],
        ["export", "cryosparc", "P1/Homo_J5", *db, "--output", bad, "--diameter", str(DIAMETER_A)],
        ["report", *db, "--output", bad],
    ):
        capsys.readouterr()
        assert launch(line) == ExitCode.FAILED, line
        said = capsys.readouterr().err
        assert bad in said or str(tmp_path / "file") in said
        assert "Traceback" not in said
    assert (tmp_path / "file").read_text() == "mine"
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("answer", [errno.EIO, errno.ENOSPC, errno.EINVAL])
def test_a_folder_that_cannot_be_synced_is_an_error_unless_its_file_system_never_can(
    answer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that failed says so when it is synced. Some network file systems refuse (EINVAL), which loses nothing."""
    sync = os.fsync

    def refuse_folders(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode):
            raise OSError(answer, os.strerror(answer))
        sync(number)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    if answer == errno.EINVAL:
        files.write_atomically(tmp_path / "a.txt", "x")
        assert (tmp_path / "a.txt").read_text() == "x"
        return
    for write in (
        lambda: files.write_atomically(tmp_path / "a.txt", "x"),
        lambda: Database(tmp_path / "DB").add(make_entry(tmp_path / "p")),
    ):
        with pytest.raises(NotWritten, match=os.strerror(answer)):
            write()


def test_a_folder_that_cannot_be_made_on_the_way_to_a_file_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel names such a folder by its last name alone."""

    def refuse(name: str, *_: object, dir_fd: int | None = None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), name)

    monkeypatch.setattr(os, "mkdir", refuse)
    with pytest.raises(NotWritten, match="No space left"):
        files.write_atomically(tmp_path / "Particles" / "Homo_J1" / "a.txt", "x", root=tmp_path)


def replace_with_a_path(file: Path) -> None:
    with files.replacing(file) as hidden:
        hidden.write_text("new")


def fill_a_folder(file: Path) -> None:
    with folders.replacing_folder(file.parent) as hidden:
        (hidden / file.name).write_text("new")


def rename_a_file(file: Path) -> None:
    new = file.with_name("new.txt")
    new.write_text("new")
    files.replace_file(file, new)


@pytest.mark.parametrize(
    "write",
    [lambda file: files.write_atomically(file, "new"), replace_with_a_path, fill_a_folder, rename_a_file],
    ids=["write_atomically", "replacing", "replacing_folder", "replace_file"],
)
def test_a_file_whose_content_cannot_be_synced_is_an_error_and_replaces_nothing(
    write: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Renamed before it is on the disk, a file may be empty after a crash of the machine."""
    file = tmp_path / "folder/a.txt"
    files.write_atomically(file, "old")
    sync = os.fsync

    def refuse_files(number: int) -> None:
        if stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        sync(number)

    monkeypatch.setattr(os, "fsync", refuse_files)
    with pytest.raises(NotWritten, match=os.strerror(errno.EIO)):
        write(file)
    assert file.read_text() == "old"
    assert leftovers(tmp_path) == []
