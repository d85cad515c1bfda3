"""The process killed, and the disk failing, at every write, rename, link, sync and removal."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from killed import KILLED, at, die, fault_hook, in_child, points_of

from cryoflow.database import Database, verify
from cryoflow.errors import NotWritten
from cryoflow.ingest.state import JobState, read_states, write_states
from cryoflow.picks import PickSet
from cryoflow.storage import fault_points, files, folders, open_folder, stale_files

pytestmark = pytest.mark.forks

SHARED_MEMORY = Path("/dev/shm")
Make = Callable[..., PickSet]
Work = Callable[[Path], None]


@pytest.fixture
def tmp_path(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, if there is one: thousands of syncs are steps of a write here, and no disk has to do them."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(prefix="cryoflow-test-", dir=SHARED_MEMORY) as folder:
        yield Path(folder)


def tree(root: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_dir():
            found[name + "/"] = ""
        elif path.name != "manifest.json" and ".jobs" not in name and not name.startswith(".lock-recovery"):
            found[name] = path.read_bytes()
        else:
            found[name] = "holds times"
    found.pop(next((n for n in found if n.startswith(".lock-recovery")), ""), None)
    return found


def copy(start: Path, root: Path) -> None:
    shutil.copytree(start, root, symlinks=True)


@pytest.fixture
def work(make_pickset: Make, tmp_path: Path) -> tuple[Work, Work]:
    """What stands in the database before, and what is then done to it: replace, add, link again, mark, remember."""
    old, new = make_pickset(seed=1), make_pickset(seed=2)
    moved = new.micrographs.copy()
    (tmp_path / "moved.mrc").write_bytes(b"MRC")
    moved.loc[0, "path"] = str(tmp_path / "moved.mrc")
    new = replace(new, micrographs=moved)
    other = make_pickset("P2", job="J7", n_micrographs=2)
    third = make_pickset(job="J60")
    project = old.provenance.project

    def before(root: Path) -> None:
        Database(root).add(old)
        Database(root).add(third)

    def change(root: Path) -> None:
        database = Database(root)
        database.add(new)
        database.add(other)
        database.mark("P1/Homo_J60", "deleted", "gone")
        database.mark("P2/Homo_J7", "stale", "x")
        database.unmark("P2/Homo_J7")
        write_states(database, project, {"J51": JobState("key", "read", "", ("P1/Homo_J51",), 21, 4)})

    return before, change


def whole_entries(root: Path) -> None:
    """Every entry that is listed loads, and no damage is found: what stands there is complete."""
    database = Database(root)
    for entry in database.entries():
        loaded = database.load(entry)
        assert len(loaded) == entry.n_picks
        assert len(loaded.micrographs) == entry.n_micrographs
    assert {e.name for e in database.entries()} >= {"P1/Homo_J51", "P1/Homo_J60"}, "an entry was lost"
    damage = [f for f in verify(root) if f.severity == "damage"]
    assert [f for f in damage if f.path.parent.name != "Micrographs"] == []
    # A link may be newer than the record of it, which the next run writes.
    assert all("points to" in f.what for f in damage)


def test_killed_at_every_step_the_second_run_gives_the_same_bytes(tmp_path: Path, work: tuple[Work, Work]) -> None:
    before, change = work
    plain, start = tmp_path / "plain", tmp_path / "start"
    before(start)
    copy(start, plain)
    points = points_of(lambda: change(plain), tmp_path / "points")
    expected = tree(plain)
    assert set(points) >= fault_points.FAULT_POINTS - {"moved"}, "a fault point has no case"
    for number, name in enumerate(points):
        root = tmp_path / f"killed-{number}"
        copy(start, root)

        def killed(root: Path = root, number: int = number) -> None:
            with fault_hook(at(number, die)):
                change(root)

        assert in_child(killed) == KILLED
        whole_entries(root)
        assert in_child(lambda root=root: change(root)) == 0  # type: ignore[misc]
        assert tree(root) == expected, f"killed at {name} ({number})"
        assert [f for f in verify(root) if f.severity != "notice"] == []


def test_an_entry_that_a_killed_writer_left_aside_is_moved_back_by_the_next_writer_of_another(
    tmp_path: Path, make_pickset: Make
) -> None:
    root = tmp_path / "DB"
    Database(root).add(make_pickset(seed=1))
    before = tree(root / "P1")

    def killed() -> None:
        with fault_hook(lambda name: die() if name == "folder.moved_aside" else None):
            Database(root).add(make_pickset(seed=2))

    assert in_child(killed) == KILLED
    assert not (root / "P1/Particles/Homo_J51").exists()
    assert in_child(lambda: Database(root).add(make_pickset("P2", job="J7")) and None) == 0
    assert {k: v for k, v in tree(root / "P1").items() if ".tmp-" not in k} == before
    assert [f for f in verify(root) if f.path.name.endswith(stale_files.ASIDE)] == []


def test_a_failing_disk_gives_a_clear_error_and_loses_nothing(tmp_path: Path, work: tuple[Work, Work]) -> None:
    before, change = work
    plain, start = tmp_path / "plain", tmp_path / "start"
    before(start)
    copy(start, plain)
    n_points = len(points_of(lambda: change(plain), tmp_path / "points"))
    expected = tree(plain)

    for i in range(n_points):
        number = (errno.ENOSPC, errno.EIO, errno.EROFS)[i % 3]

        def fail(number: int = number) -> None:
            raise OSError(number, os.strerror(number))

        root = tmp_path / f"failed-{i}"
        copy(start, root)
        with fault_hook(at(i, fail)), pytest.raises(NotWritten, match="could not be written"):
            change(root)
        assert not list(root.rglob(".*.tmp-*"))
        assert not list(root.rglob(f".*{stale_files.ASIDE}"))
        assert not (root / ".lock").exists()
        whole_entries(root)
        change(root)
        assert tree(root) == expected, f"failed at {i}"


def test_a_real_limit_on_file_size_gives_a_clear_error(tmp_path: Path, make_pickset: Make) -> None:
    """The operating system itself refuses a write in the middle of data.txt."""
    root = tmp_path / "DB"
    Database(root).add(make_pickset(seed=1))
    before = tree(root)
    large = make_pickset(seed=2, picks_each=3000)

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        Database(root).add(large)

    assert in_child(limited) == 1
    assert tree(root) == before


def test_a_folder_that_cannot_be_written_gives_a_clear_error(tmp_path: Path, make_pickset: Make) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotWritten, match="could not be written"):
        Database(tmp_path / "file" / "DB").add(make_pickset())


def damaged_database(root: Path, make_pickset: Make) -> None:
    database = Database(root)
    for job in ("J1", "J2", "J3"):
        database.add(make_pickset(job=job))
    database.mark("P1/Homo_J3", "deleted", "gone")
    for name in ("P1/Particles/Homo_J1/data.txt", "P1/Particles/Homo_J3/mark.json", "P1/micrographs.txt"):
        content = bytearray((root / name).read_bytes())
        content[-30] ^= 1
        (root / name).write_bytes(bytes(content))
    (root / "P1/Micrographs/mic_0.mrc").unlink()
    (root / "P1/Micrographs/mic_0.mrc").symlink_to("/elsewhere")
    marker = root / "cryoflow-database.json"
    marker.write_text(marker.read_text().replace("1", "0"))


def test_repair_killed_at_every_step_loses_nothing(tmp_path: Path, make_pickset: Make) -> None:
    plain, start = tmp_path / "plain", tmp_path / "start"
    damaged_database(start, make_pickset)
    copy(start, plain)
    n_files = sum(p.is_file() or p.is_symlink() for p in plain.rglob("*"))
    points = points_of(lambda: verify(plain, repair=True), tmp_path / "points")
    assert "moved" in points, "a fault point has no case"
    for number in range(len(points)):
        root = tmp_path / f"killed-{number}"
        copy(start, root)

        def killed(root: Path = root, number: int = number) -> None:
            with fault_hook(at(number, die)):
                verify(root, repair=True)

        assert in_child(killed) == KILLED
        assert in_child(lambda root=root: verify(root, repair=True) and None) == 0  # type: ignore[misc]
        verify(root, repair=True)
        assert [f for f in verify(root) if f.severity != "notice"] == []
        assert {e.name for e in Database(root).entries()} == {"P1/Homo_J2", "P1/Homo_J3"}
        assert Database(root).entry("P1/Homo_J3").status == "stale"
        assert Database(root).load("P1/Homo_J2").micrographs["path"].notna().sum() == 3
        assert sum(p.is_file() or p.is_symlink() for p in root.rglob("*")) >= n_files, "something was deleted"


def test_a_damaged_memory_is_forgotten(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset())
    project = tmp_path / "P1"
    write_states(database, project, {"J1": JobState("k", "read", "", (), 1, 1)})
    assert set(read_states(database, project)) == {"J1"}
    (path,) = (database.root / ".jobs").iterdir()
    path.write_text(path.read_text().replace('"k"', '"q"'))
    assert read_states(database, project) == {}


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    with files.replacing(tmp_path / "a.txt") as hidden:
        sweep_once(tmp_path)
        stale_files.swept_folders.clear()
        sweep_once(tmp_path)
        hidden.write_text("x")
    assert (tmp_path / "a.txt").read_text() == "x"
    dead = tmp_path / f".a.txt.tmp-{stale_files.host_name()}-{in_child_pid()}-0123abcd"
    dead.write_text("x")
    mine = tmp_path / ".notes.tmp-backup"
    mine.write_text("a user's own")
    os.utime(mine, (0, 0))
    stale_files.swept_folders.clear()
    files.write_atomically(tmp_path / "b.txt", "y")
    assert not dead.exists()
    assert mine.exists()


def test_a_forked_process_sweeps_folders_that_its_parent_has_swept(tmp_path: Path) -> None:
    """The parent's may be gone since: a new folder gets the inode of a deleted one."""
    sweep_once(tmp_path)
    dead = tmp_path / f".a.txt.tmp-{stale_files.host_name()}-{in_child_pid()}-0123abcd"
    dead.write_text("x")
    assert in_child(lambda: sweep_once(tmp_path)) == 0
    assert not dead.exists()


def test_a_file_in_the_place_of_a_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("mine")
    with (
        pytest.raises(NotWritten, match="a file stands where a folder is to be"),
        folders.replacing_folder(tmp_path / "set"),
    ):
        pass
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"set": "mine"}


def test_a_name_of_the_greatest_length_can_be_written_in_any_script(tmp_path: Path) -> None:
    files.write_atomically(tmp_path / ("粒" * 85), "x")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["x"]


def sweep_once(folder: Path) -> None:
    with open_folder.held(folder / "any") as (descriptor, _):
        stale_files.remove_stale_files(descriptor)


def in_child_pid() -> int:
    """The number of a process that is gone."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid
