"""One writer at a time; a dead writer's lock is taken over, another host's never."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from killed import fork

from cryoflow.database import Database, verify
from cryoflow.database import lock as locking
from cryoflow.database.entry_lookup import read_consistent
from cryoflow.errors import DatabaseBusy
from cryoflow.picks import PickSet
from cryoflow.storage import folders, open_folder, stale_files

pytestmark = pytest.mark.forks

Make = Callable[..., PickSet]


def held(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / ".lock"
    path.write_text(json.dumps(asdict(replace(locking.this_process(), **changes))))  # type: ignore[arg-type]
    return path


def test_what_a_writer_left_goes_with_its_lock_though_the_next_one_swept_there_before_and_nobody_has_asked_for_the_dead(
    tmp_path: Path, make_pickset: Make
) -> None:
    """The dead writer is a zombie here: its parent has not waited for it."""
    database = Database(tmp_path / "DB")
    entry = database.add(make_pickset("P", folder=tmp_path / "P", job="J1"))
    with open_folder.held(entry.folder) as (descriptor, _):
        stale_files.remove_stale_files(descriptor)
    told, tell = os.pipe()
    victim = fork()
    if victim == 0:
        with database.writing(), folders.replacing_folder(entry.folder.parent / "Homo_J2") as hidden:
            (hidden / "data.txt").write_text("half")
            os.write(tell, os.fsencode(hidden.name))
            os.kill(os.getpid(), signal.SIGKILL)
    left = entry.folder.parent / os.fsdecode(os.read(told, 1000))
    while Path(f"/proc/{victim}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.01)
    try:
        assert left.is_dir()
        assert [finding.severity for finding in verify(database)] == ["leftover"]
        database.add(make_pickset("Q", folder=tmp_path / "Q", job="J1"))
        assert not left.exists()
        assert verify(database) == []
    finally:
        os.waitpid(victim, 0)


def test_eight_processes_write_at_once_and_one_of_them_is_killed(tmp_path: Path, make_pickset: Make) -> None:
    sets = [make_pickset("P", folder=tmp_path / f"p{i % 3}" / "P", job=f"J{i}", seed=i) for i in range(8)]
    running = []
    for i in range(8):
        pid = fork()
        if pid == 0:
            status = 1
            try:
                for _ in range(4):
                    for pickset in (sets[i], sets[(i + 1) % 8]):
                        Database(tmp_path / "DB").add(pickset)
                status = 0
            finally:
                os._exit(status)
        running.append(pid)
    victim = running.pop()
    lock = tmp_path / "DB" / ".lock"
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if json.loads(lock.read_text())["pid"] == victim:
                os.kill(victim, signal.SIGKILL)
                break
        except (OSError, ValueError):
            pass
    assert os.WIFSIGNALED(os.waitpid(victim, 0)[1]), "it was done before it could be killed"
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in running)
    database = Database(tmp_path / "DB")
    assert len(database.entries()) == 8
    assert len({(e.project, e.job) for e in database.entries()}) == 8
    assert [f for f in verify(database) if f.severity == "damage"] == []
    for entry in database.entries():
        assert len(database.load(entry)) == entry.n_picks


@pytest.mark.parametrize(
    "dead",
    [
        {"pid": 2**22 + 12345},
        {"pid": 10**30},
        {"boot": "another-boot"},
        {"started": "1"},
    ],
    ids=[
        "no such process",
        "no number of a process",
        "the machine was started again",
        "the number is another process's now",
    ],
)
def test_a_dead_owners_lock_is_taken_over(
    tmp_path: Path, make_pickset: Make, dead: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locking, "pid_space", lambda: locking.FIRST_PID_SPACE)  # wherever the tests run
    held(tmp_path / "DB", **dead)
    Database(tmp_path / "DB", lock_timeout_s=5).add(make_pickset())
    assert not (tmp_path / "DB/.lock").exists()


@pytest.mark.parametrize(
    "alive",
    [
        {},
        {"host": "node17"},
        {"host": "node17", "pid": 2**22 + 12345},
        {"machine": "another", "boot": "another", "pid": 2**22 + 12345},
        {"pid_space": "pid:[1]", "pid": 2**22 + 12345},
    ],
    ids=["living", "other host", "other host, no such process here", "two machines of one name", "another container"],
)
def test_a_living_or_unknowable_owners_lock_is_not_stolen(
    tmp_path: Path, make_pickset: Make, alive: dict[str, object]
) -> None:
    path = held(tmp_path / "DB", **alive)
    before = path.read_text()
    with pytest.raises(DatabaseBusy) as caught:
        Database(tmp_path / "DB", lock_timeout_s=0.2).add(make_pickset())
    assert path.read_text() == before
    owner = json.loads(before)
    for told in (str(owner["pid"]), owner["host"], f"unlock --database {tmp_path / 'DB'}"):
        assert told in str(caught.value)


def test_a_lock_that_was_removed_by_hand_and_taken_by_another_is_not_removed(tmp_path: Path) -> None:
    with locking.locked(tmp_path):
        other = held(tmp_path, host="node17")
    assert other.exists()


def test_two_that_find_a_dead_owner_do_not_both_get_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen processes meet a dead owner's lock at once; each counts up a number that only a lock keeps right."""
    held(tmp_path, pid=2**22 + 12345)
    clear = locking.clear_lock

    def late(path: Path, owner: locking.Owner) -> bool:
        time.sleep(0.01 * (os.getpid() % 16))  # each has seen the dead owner before any of them removes its lock
        return clear(path, owner)

    monkeypatch.setattr(locking, "clear_lock", late)
    start = time.monotonic() + 1.0
    counter = tmp_path / "counter"
    counter.write_text("0")
    children = []
    for _ in range(16):
        pid = fork()
        if pid == 0:
            status = 1
            try:
                time.sleep(max(0.0, start - time.monotonic()))  # all at once
                with locking.locked(tmp_path, timeout_s=60):
                    number = int(counter.read_text())
                    time.sleep(0.02)
                    counter.write_text(str(number + 1))
                status = 0
            finally:
                os._exit(status)
        children.append(pid)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in children)
    assert counter.read_text() == "16"


def test_a_dead_owners_lock_is_compared_again_once_others_that_clear_it_are_done(tmp_path: Path) -> None:
    path = held(tmp_path, pid=2**22 + 12345)
    dead = locking.Owner(**json.loads(path.read_text()))
    removed: list[bool] = []
    clearing = threading.Thread(target=lambda: removed.append(locking.clear_lock(path, dead)))
    with (tmp_path / f".lock-recovery-{socket.gethostname()}").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        clearing.start()
        clearing.join(0.5)  # it waits; without the guard it would have removed the lock by now
        held(tmp_path)
    clearing.join(60)
    assert removed == [False]
    assert path.exists()


def test_on_a_file_system_without_locks_a_dead_owners_lock_is_left_to_a_person(
    tmp_path: Path, make_pickset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    path = held(tmp_path / "DB", pid=2**22 + 12345)
    monkeypatch.setattr(locking.fcntl, "flock", refuse)
    with pytest.raises(DatabaseBusy, match="cryoflow database unlock"):
        Database(tmp_path / "DB", lock_timeout_s=0.2).add(make_pickset())
    assert path.exists()


def test_a_lock_is_ours_though_the_answer_to_its_link_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS repeats a request whose answer was lost, and then says that the link exists."""
    make = Path.hardlink_to

    def repeated(self: Path, target: Path) -> None:
        make(self, target)
        raise FileExistsError

    monkeypatch.setattr(Path, "hardlink_to", repeated)
    with locking.locked(tmp_path, timeout_s=5) as taken_over:
        assert not taken_over
    assert list(tmp_path.iterdir()) == []


def test_the_owner_of_a_lock_is_on_the_disk_before_the_lock_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a loss of power, a lock without an owner could not be taken over."""
    synced: list[bool] = []
    sync = os.fsync

    def watched(number: int) -> None:
        sync(number)
        if ".lock" in Path(f"/proc/self/fd/{number}").readlink().name:
            synced.append((tmp_path / ".lock").exists())

    monkeypatch.setattr(os, "fsync", watched)
    with locking.locked(tmp_path):
        assert synced == [False]


def test_an_unlock_leaves_the_lock_that_another_took_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = held(tmp_path, pid=2**22 + 12345)
    clear_errors = locking.write_errors.clear_errors

    @contextmanager
    def meanwhile(about: Path) -> Iterator[None]:
        held(tmp_path)
        with clear_errors(about):
            yield

    monkeypatch.setattr(locking.write_errors, "clear_errors", meanwhile)
    owner = locking.unlock(tmp_path)
    assert owner is not None
    assert owner.pid == 2**22 + 12345
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_no_link_of_the_lock_is_left(tmp_path: Path) -> None:
    with locking.locked(tmp_path):
        assert [p.name for p in tmp_path.iterdir()] == [".lock"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", ["..lock.tmp-{ours}-{pid}-0123abcd", ".lock-{host}-{pid}-0123abcd"])
@pytest.mark.parametrize("is_empty", [True, False])
def test_the_owners_file_of_a_killed_process_is_told_and_goes_with_the_next_write(
    form: str, is_empty: bool, tmp_path: Path, make_pickset: Make
) -> None:
    """It is empty where the process was killed at once. The second form is that of earlier versions."""
    database = Database(tmp_path / "DB")
    database.add(make_pickset("P", folder=tmp_path / "P", job="J1"))
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    files_of = {}
    for pid in (dead, os.getpid()):
        name = form.format(ours=stale_files.host_name(), host=socket.gethostname(), pid=pid)
        files_of[pid] = database.root / name
        changes = {} if pid == os.getpid() else {"pid": dead, "started": "1"}
        owner = json.dumps(asdict(replace(locking.this_process(), **changes)))  # type: ignore[arg-type]
        files_of[pid].write_text("" if is_empty else owner)
    assert [f.path for f in verify(database) if f.severity == "leftover"] == [files_of[dead]]
    Database(database.root).add(make_pickset("Q", folder=tmp_path / "Q", job="J1"))
    assert not files_of[dead].exists()
    assert files_of[os.getpid()].exists()


def test_a_read_needs_no_lock_and_an_entry_is_never_seen_half(tmp_path: Path, make_pickset: Make) -> None:
    """A reader beside a writer that replaces the entry all the time meets one whole state or the other."""
    root = tmp_path / "DB"
    sets = [make_pickset(seed=1, picks_each=400), make_pickset(seed=2, picks_each=300)]
    Database(root).add(sets[0])
    pid = fork()
    if pid == 0:
        status = 1
        try:
            for turn in range(60):
                Database(root).add(sets[turn % 2])
            status = 0
        finally:
            os._exit(status)
    seen = set()
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        seen.add(len(Database(root).load("P1/Homo_J51")))
        assert len(Database(root).entries()) == 1
    assert seen <= {1200, 900}


def test_an_entry_that_was_aside_is_looked_for_in_its_place_when_it_is_gone_from_there(
    tmp_path: Path, make_pickset: Make
) -> None:
    """The reader found it between the two renames of a writer, and comes too late to read it there."""
    database = Database(tmp_path / "DB")
    entry = database.add(make_pickset())
    aside = stale_files.aside_of(entry.folder)
    entry.folder.rename(aside)
    seen = []

    def read(folder: Path) -> bytes:
        seen.append(folder)
        if folder == aside:
            aside.rename(entry.folder)
        return (folder / "info.txt").read_bytes()

    assert read_consistent(read, aside).startswith(b"cryoflow entry")
    assert seen == [aside, entry.folder]


def test_two_machines_of_one_name_are_not_confused_inside_containers(
    tmp_path: Path, make_pickset: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All that is the same there: the name, the image's machine-id, the number of the space of processes."""
    monkeypatch.setattr(locking, "pid_space", lambda: "pid:[4026532000]")
    path = held(tmp_path / "DB", boot="another", pid=2**22 + 12345)
    with pytest.raises(DatabaseBusy):
        Database(tmp_path / "DB", lock_timeout_s=0.2).add(make_pickset())
    assert path.exists()


def test_a_lock_is_removed_by_hand_where_its_owner_may_be_gone_never_where_it_lives(
    tmp_path: Path, make_pickset: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoflow.cli.main import launch

    root = tmp_path / "DB"
    unlock = ["database", "unlock", "--database", str(root)]
    assert launch(unlock) == 1  # there is no database: a misspelt name
    Database(root).add(make_pickset())
    assert launch(unlock) == 0
    assert "is not locked" in capsys.readouterr().err
    path = held(root)
    assert launch([*unlock, "--force"]) == 1, "the lock of a living process was removed"
    assert "is at work here" in capsys.readouterr().err
    held(root, host="node17", slurm_job="4711")
    assert launch(unlock) == 1
    said = capsys.readouterr().err
    assert "node17" in said
    assert "squeue -j 4711" in said
    assert path.exists()
    entry = root / "P1/Particles/Homo_J51"
    entry.rename(entry.with_name(f".Homo_J51{stale_files.ASIDE}"))  # where its owner was killed
    assert launch([*unlock, "--force"]) == 0
    assert not path.exists()
    assert entry.is_dir()
    path.write_bytes(b"")  # as a machine that lost power may leave it
    assert launch(unlock) == 1
    assert launch([*unlock, "--force"]) == 0
    Database(root, lock_timeout_s=1).add(make_pickset())


def test_a_writer_that_waits_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locking, "TELL_AFTER_S", 0.1)
    held(tmp_path, host="node17")
    with pytest.raises(DatabaseBusy), locking.locked(tmp_path, timeout_s=0.5):
        pass
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "node17" in caplog.text
