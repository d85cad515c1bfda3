"""verify finds what is not as it was written, and repair makes it whole without deleting."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.database import Database, verify
from cryoflow.database.values import line, word
from cryoflow.errors import BadInput, NewerFormat
from cryoflow.ingest.state import JobState, read_states, write_states
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import PickSet
from cryoflow.storage import fault_points
from cryoflow.storage.fingerprints import checksum, fingerprint_of
from cryoflow.storage.sealing import sealed, unsealed

Make = Callable[..., PickSet]


@pytest.fixture
def small(tmp_path: Path, make_pickset: Make) -> Database:
    """A database with everything in it: two entries, a mark, a memory of ingest."""
    database = Database(tmp_path / "DB")
    database.add(make_pickset(picks_each=1, n_micrographs=3))
    database.add(make_pickset(job="J60", picks_each=1, n_micrographs=2))
    database.mark("P1/Homo_J60", "deleted", "gone")
    write_states(database, tmp_path / "P1", {"J51": JobState("k", "read", "", ("P1/Homo_J51",), 3, 3)})
    return database


def serious(root: Path) -> list[str]:
    return [f"{f.path.name}: {f.what}" for f in verify(root) if f.severity != "notice"]


def test_nothing_is_found_where_all_is_well(small: Database) -> None:
    assert verify(small) == []


@pytest.mark.slow
def test_every_flipped_bit_is_found(small: Database, make_pickset: Make) -> None:
    """Every byte of every file, one of its bits each, and each bit of the byte for the first of them."""
    small.remove("P1/Homo_J51")
    small.add(make_pickset(job="J60", picks_each=1, n_micrographs=2))
    small.mark("P1/Homo_J60", "deleted", "gone")
    shutil.rmtree(small.root / ".quarantine")
    n = 0
    for path in sorted(p for p in small.root.rglob("*") if p.is_file() and not p.is_symlink()):
        if path.name.startswith(".lock"):
            continue
        sound = path.read_bytes()
        for i in range(len(sound)):
            for bit in range(8) if i < 4 else [i % 8]:
                damaged = bytearray(sound)
                damaged[i] ^= 1 << bit
                path.write_bytes(bytes(damaged))
                assert serious(small.root), f"{path} byte {i} bit {bit}"
                n += 1
        path.write_bytes(sound)
    assert n > 2500
    assert verify(small) == []


def test_every_bit_of_a_sealed_record_is_noticed(tmp_path: Path) -> None:
    """All eight bits of every byte. In `\\u00e9` a flipped bit makes another capital of a digit: the same text."""
    whole = sealed({"format": 1, "name": "é\udcff/\u7c92\u5b50", "n": 17, "x": 1.5, "parts": [True, None, {}]}).encode()
    assert b"\\u00e9" in whole
    assert unsealed(tmp_path, whole, 1)["n"] == 17
    for i in range(len(whole)):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[i] ^= 1 << bit
            with pytest.raises(BadInput, match="damaged"):
                unsealed(tmp_path, bytes(damaged), 1)


def test_every_changed_link_is_found(small: Database) -> None:
    for link in sorted((small.root / "P1/Micrographs").iterdir()):
        target = str(link.readlink())
        for other in (target[:-1] + "x", None):
            link.unlink()
            if other:
                link.symlink_to(other)
            assert serious(small.root), link
        verify(small, repair=True)
        assert str(link.readlink()) == target


def test_every_missing_file_is_found(small: Database) -> None:
    for path in sorted(p for p in small.root.rglob("*") if p.is_file() and not p.is_symlink()):
        if path.parent.name == ".jobs" or path.name == "mark.json" or path.name.startswith(".lock"):
            continue  # may be removed by hand: the job is read again, the mark is put on again
        sound = path.read_bytes()
        path.unlink()
        assert serious(small.root), path
        path.write_bytes(sound)


@pytest.mark.parametrize(
    "name",
    ["info.txt", "data.txt", "manifest.json", "mark.json", "../../micrographs.txt", "../../../cryoflow-database.json"],
)
def test_a_pipe_in_the_place_of_a_file_is_found_and_costs_no_other_entry(small: Database, name: str) -> None:
    """Nobody waits for it; so it is with what the disk refuses to read."""
    path = small.root / "P1/Particles/Homo_J60" / name
    path.unlink()
    os.mkfifo(path)
    assert any("named pipe" in what or "bytes, recorded are" in what for what in serious(small.root))
    database = Database(small.root, check=False)
    assert [e.name for e in database.entries()] == ["P1/Homo_J51", "P1/Homo_J60"]
    assert len(database.load("P1/Homo_J51")) == database.entry("P1/Homo_J51").n_picks > 0
    if name == "data.txt":
        with pytest.raises(BadInput, match="named pipe"):
            database.load("P1/Homo_J60")
    verify(small.root, repair=True)
    assert serious(small.root) == []


def test_a_renamed_entry_is_found(small: Database) -> None:
    (small.root / "P1/Particles/Homo_J51").rename(small.root / "P1/Particles/Homo_J52")
    assert any("was renamed" in what for what in serious(small.root))


@pytest.fixture
def two_projects(tmp_path: Path, make_pickset: Make) -> Database:
    """Two projects with entries of the same names, one of them marked."""
    database = Database(tmp_path / "DB")
    for project in ("P1", "P2"):
        database.add(make_pickset(project, seed=len(project), picks_each=2 + int(project[1])))
        database.add(make_pickset(project, job="J60", picks_each=1 + int(project[1])))
    database.mark("P1/Homo_J60", "deleted", "gone")
    return database


def exchange(a: Path, b: Path) -> None:
    a.rename(a.with_name("x"))
    b.rename(a)
    a.with_name("x").rename(b)


P1, P2 = "P1/Particles/Homo_J51", "P2/Particles/Homo_J51"
MARK = "P1/Particles/Homo_J60/mark.json"
REARRANGEMENTS: dict[str, Callable[[Path], object]] = {
    "entries exchanged": lambda db: exchange(db / P1, db / P2),
    "entry copied over another": lambda db: (shutil.rmtree(db / P1), shutil.copytree(db / P2, db / P1)),
    "entry copied to a project without it": lambda db: shutil.copytree(db / P1, db / "P2/Particles/Homo_J52"),
    "entry deleted": lambda db: shutil.rmtree(db / P1),
    "project folders exchanged": lambda db: exchange(db / "P1", db / "P2"),
    "project copied": lambda db: shutil.copytree(db / "P1", db / "P3", symlinks=True),
    "project renamed": lambda db: (db / "P1").rename(db / "P3"),
    "project deleted": lambda db: shutil.rmtree(db / "P2"),
    "project emptied": lambda db: (shutil.rmtree(db / "P2"), (db / "P2").mkdir()),
    "mark deleted": lambda db: (db / MARK).unlink(),
    "mark copied to another entry": lambda db: shutil.copy(db / MARK, db / P1),
    "mark of another entry": lambda db: (db / MARK).write_text(
        sealed({"format": 1, "status": "stale", "reason": "another"})
    ),
    "list of entries deleted": lambda db: (db / "P1/entries.json").unlink(),
    "list of entries copied": lambda db: shutil.copy(db / "P1/entries.json", db / "P2"),
    "records of links exchanged": lambda db: exchange(db / "P1/micrographs.txt", db / "P2/micrographs.txt"),
    "list of projects of before": lambda db: list_projects(db, ["P1"]),
    "list of another database's projects": lambda db: list_projects(db, ["P1", "P2"], of="/elsewhere"),
}


def list_projects(db: Path, names: list[str], of: str = "") -> None:
    """Write a sealed list of some projects, with their own paths or those of another database."""
    marker = db / "cryoflow-database.json"
    fields = json.loads(marker.read_text())
    del fields["checksum"]
    listed = {name: of or path for name, path in fields["projects"].items() if name in names}
    marker.write_text(sealed(fields | {"projects": listed}))


def test_records_of_links_that_were_exchanged_are_found_where_no_link_differs(
    tmp_path: Path, make_pickset: Make
) -> None:
    """Micrographs that are missing have no links, so that the record's project alone tells."""
    database = Database(tmp_path / "DB")
    for project in ("P1", "P2"):
        picks = make_pickset(project, folder=tmp_path / project)
        missing = picks.micrographs.assign(status="missing", path=None)
        database.add(replace(picks, micrographs=missing))
    assert serious(database.root) == []
    exchange(database.root / "P1/micrographs.txt", database.root / "P2/micrographs.txt")
    assert [f.path.parent.name for f in verify(database.root) if f.severity == "damage"] == ["P1", "P2"]


@pytest.mark.parametrize("what", REARRANGEMENTS)
def test_whole_files_that_were_moved_copied_or_deleted_are_found_and_repaired(
    two_projects: Database, what: str, make_pickset: Make
) -> None:
    """Each file is as it was written, and its own checksum fits; the database as a whole does not."""
    root = two_projects.root
    assert verify(root) == []
    REARRANGEMENTS[what](root)
    found = verify(root)
    assert [f for f in found if f.severity == "damage"], what
    for _ in range(2):
        verify(root, repair=True)
    assert serious(root) == []
    for project in ("P1", "P2"):
        Database(root).add(make_pickset(project, seed=len(project), picks_each=2 + int(project[1])))
    assert serious(root) == []
    for entry in Database(root).entries():
        assert len(Database(root).load(entry)) == entry.n_picks


def test_a_list_of_entries_of_another_project_is_put_aside_and_no_project_is_moved(two_projects: Database) -> None:
    root = two_projects.root
    REARRANGEMENTS["list of entries copied"](root)
    assert "entries.json: the list of entries is that of P1" in serious(root)
    verify(root, repair=True)
    assert (root / "P2/micrographs.txt").is_file()
    assert list((root / ".quarantine/P2").glob("entries.json*"))


@pytest.mark.parametrize("what", REARRANGEMENTS)
def test_what_was_moved_copied_or_deleted_is_found_after_a_write_to_another_project(
    two_projects: Database, what: str, make_pickset: Make
) -> None:
    """A writer confirms what killed writers announced; it must not take damage for a change of its own."""
    root = two_projects.root
    REARRANGEMENTS[what](root)
    before = serious(root)
    assert before
    Database(root).add(make_pickset("P9", picks_each=1))
    assert serious(root) == before


def test_an_announced_change_does_not_hide_that_the_project_was_renamed(
    two_projects: Database, make_pickset: Make
) -> None:
    root = two_projects.root
    two_projects.records.announce(root / P1, None)
    (root / "P1").rename(root / "P3")
    Database(root).add(make_pickset("P9", picks_each=1))
    (found,) = [f for f in verify(root) if f.severity == "damage" and f.path == root / "P3"]
    assert "this folder was P1" in found.what
    assert "P3" not in (Database(root).projects() or {})


def test_an_entry_that_was_exchanged_during_a_write_is_not_taken_for_what_was_written(
    two_projects: Database, make_pickset: Make
) -> None:
    root = two_projects.root
    with two_projects.writing():
        two_projects.add(make_pickset("P1", seed=9, picks_each=6))
        shutil.rmtree(root / P1)
        shutil.copytree(root / P2, root / P1)
    assert any("exchanged or copied" in text for text in serious(root))


def test_a_database_of_the_first_format_with_some_lists_gets_all_with_the_next_write(
    two_projects: Database, make_pickset: Make
) -> None:
    """A writer that was killed on the way to the current format has written the lists of some projects."""
    root = two_projects.root
    (root / "cryoflow-database.json").write_text(sealed({"format": 1}))
    (root / "P2/entries.json").unlink()
    Database(root).add(make_pickset("P9", picks_each=1))
    assert verify(root) == []
    assert set(Database(root).projects() or {}) == {"P1", "P2", "P9"}


def test_a_project_that_was_renamed_has_its_new_name_once_it_is_written_to(
    two_projects: Database, make_pickset: Make
) -> None:
    root = two_projects.root
    (root / "P2").rename(root / "P3")
    Database(root).add(make_pickset("P2", job="J70", picks_each=1))
    assert [f.path for f in verify(root) if f.severity == "damage"] == [root / "cryoflow-database.json"]
    verify(root, repair=True)
    assert verify(root) == []
    assert sorted(e.name for e in Database(root).entries())[-3:] == ["P3/Homo_J51", "P3/Homo_J60", "P3/Homo_J70"]


def test_a_database_of_the_first_format_is_read_and_gets_its_lists_with_the_next_write(
    two_projects: Database, make_pickset: Make
) -> None:
    root = two_projects.root
    (root / "cryoflow-database.json").write_text(sealed({"format": 1}))
    for project in ("P1", "P2"):
        (root / project / "entries.json").unlink()
    before = [(e.name, e.n_picks, e.status) for e in Database(root).entries()]
    assert len(before) == 4
    assert [f.severity for f in verify(root)] == ["notice"]
    Database(root).add(make_pickset("P2", job="J70", picks_each=1))
    assert verify(root) == []
    assert [(e.name, e.n_picks, e.status) for e in Database(root).entries()][:4] == before
    shutil.rmtree(root / P1)
    assert serious(root)


@pytest.mark.parametrize("moment", ["folder.written", "folder.synced", "folder.renamed", "lock.released"])
def test_a_verify_beside_a_writer_finds_no_damage(two_projects: Database, moment: str, make_pickset: Make) -> None:
    """At every moment of a write the announced state and the recorded one are both sound."""
    seen: list[str] = []

    def look(name: str) -> None:
        if name == moment:
            seen.extend(f.what for f in verify(two_projects.root) if f.severity == "damage")
            seen.append("looked")

    fault_points.on_fault_point = look
    try:
        two_projects.add(make_pickset("P1", seed=9, picks_each=6))
        two_projects.add(make_pickset("P1", job="J90", picks_each=6))
    finally:
        fault_points.on_fault_point = None
    assert set(seen) == {"looked"}


NEWER: dict[str, Callable[[Path], object]] = {
    "info.txt": lambda entry: replaced(entry / "info.txt", "cryoflow entry 1", "cryoflow entry 2"),
    "data.txt": lambda entry: replaced(entry / "data.txt", "cryoflow picks 1", "cryoflow picks 2"),
    "manifest.json": lambda entry: resealed(entry / "manifest.json", 2),
    "mark.json": lambda entry: resealed(entry / "mark.json", 2),
}


def replaced(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def resealed(path: Path, version: int) -> None:
    path.write_text(sealed(unsealed(path, path.read_bytes(), 1) | {"format": version}))


@pytest.mark.parametrize("name", NEWER)
def test_an_entry_of_a_newer_format_is_neither_read_nor_replaced(
    two_projects: Database, name: str, make_pickset: Make
) -> None:
    database = two_projects
    folder = database.root / "P1/Particles/Homo_J60"
    NEWER[name](folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    if name != "data.txt":  # a listing does not open it
        assert database.entry("P1/Homo_J60").status == "newer"
    attempts: list[Callable[[], object]] = [
        lambda: database.load("P1/Homo_J60"),
        lambda: database.add(make_pickset("P1", job="J60")),
        lambda: database.mark("P1/Homo_J60", "stale", "x"),
        lambda: database.unmark("P1/Homo_J60"),
        lambda: database.remove("P1/Homo_J60"),
    ]
    for attempt in attempts:
        with pytest.raises(NewerFormat, match=r"newer cryoflow .*Update cryoflow"):
            attempt()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert database.load("P1/Homo_J51") is not None
    if name.endswith("json"):
        with pytest.raises(NewerFormat):
            verify(database)


@pytest.mark.parametrize("name", ["P1/entries.json", "P1/micrographs.txt", "cryoflow-database.json"])
def test_a_record_of_a_newer_format_is_refused(two_projects: Database, name: str, make_pickset: Make) -> None:
    path = two_projects.root / name
    if name.endswith("txt"):
        body = path.read_text().rpartition("Checksum: ")[0].replace("micrographs 1", "micrographs 2")
        path.write_text(f"{body}Checksum: {fingerprint_of(body)}\n")
    else:
        path.write_text(sealed(unsealed(path, path.read_bytes(), 2) | {"format": 3}))
    before = path.read_bytes()
    for attempt in (lambda: Database(two_projects.root).add(make_pickset("P1")), lambda: verify(two_projects.root)):
        with pytest.raises(NewerFormat):
            attempt()
    assert path.read_bytes() == before


def test_a_state_of_ingest_of_a_newer_format_is_refused(small: Database, tmp_path: Path) -> None:
    (path,) = (small.root / ".jobs").iterdir()
    resealed(path, 2)
    before = path.read_bytes()
    for attempt in (
        lambda: read_states(small, tmp_path / "P1"),
        lambda: write_states(small, tmp_path / "P1", {"J1": JobState("k", "read", "", (), 1, 1)}),
    ):
        with pytest.raises(NewerFormat):
            attempt()
    assert path.read_bytes() == before


@pytest.mark.parametrize("name", ["nul\0.txt", "\udcff.txt", "../../micrographs.txt", "/etc/passwd", "", "."])
@pytest.mark.parametrize("where", ["manifest", "record", "marker", "data.txt", "info.txt"])
def test_names_that_no_disk_can_hold_end_nothing_and_are_told(two_projects: Database, where: str, name: str) -> None:
    """In a database that somebody sent, with fitting checksums: the entries of the other project are still checked."""
    root, entry = two_projects.root, two_projects.root / P1
    if where == "manifest":
        fields = unsealed(entry, (entry / "manifest.json").read_bytes(), 1)
        files_of = {name: {"bytes": 1, "blake2b": "0"}}
        (entry / "manifest.json").write_text(sealed(fields | {"files": fields["files"] | files_of}))
    elif where == "record":
        fields = unsealed(entry, (root / "P1/entries.json").read_bytes(), 1)
        entries = fields["entries"] | {name: {"files": "0", "mark": None}}
        (root / "P1/entries.json").write_text(sealed(fields | {"entries": entries}))
    elif where == "marker":
        fields = unsealed(entry, (root / "cryoflow-database.json").read_bytes(), 2)
        projects = fields["projects"] | {name: name}
        (root / "cryoflow-database.json").write_text(sealed(fields | {"projects": projects}))
    elif where == "data.txt":
        replaced(entry / "data.txt", "Micrograph mic_0.mrc", f"Micrograph {word(name)}")
    else:
        replaced(entry / "info.txt", "Project Path: ", f"Project Path: {line(name)}\nOther: ")
    (root / "P2/Particles/Homo_J60/info.txt").write_text("damaged")
    found = verify(root)
    assert any("P2/Particles/Homo_J60" in str(f.path) for f in found if f.severity == "damage")
    assert any("P2" not in str(f.path) for f in found if f.severity == "damage"), "the forged name was not told"
    for _ in range(2):
        verify(root, repair=True)
    assert serious(root) == []
    assert Database(root).load("P2/Homo_J51") is not None


FORGED = {
    "a name in pieces": ("data.txt", "name=", 'name="a" b'),
    "a word for a number": ("data.txt", "picks=", "picks=x"),
    "another number of micrographs": ("data.txt", "Number of Micrographs: ", "Number of Micrographs: 9"),
    "another frame": ("data.txt", "Columns: x_px", "Columns: u_px"),
    "a kind that is not there": ("info.txt", "Kind: ", "Kind: No"),
    "no text": ("info.txt", "Project: ", "Project: \udcff"),
    "no info.txt": ("info.txt", "", None),
}


@pytest.mark.parametrize("what", FORGED)
def test_content_that_cannot_be_read_is_damage_whatever_its_checksums(two_projects: Database, what: str) -> None:
    """In a database that somebody sent, with fitting checksums: the entries of the other project are still checked."""
    root, entry = two_projects.root, two_projects.root / P1
    name, old, new = FORGED[what]
    sums = unsealed(entry, (entry / "manifest.json").read_bytes(), 1)
    files = dict(sums["files"])
    if new is None:
        (entry / name).unlink()
        del files[name]
    else:
        raw = (entry / name).read_text().replace(old, new, 1).encode(errors="surrogateescape")
        (entry / name).write_bytes(raw)
        files[name] = {"bytes": len(raw), "blake2b": checksum(entry / name)}
    (entry / "manifest.json").write_text(sealed(sums | {"files": files}))
    (root / "P2/Particles/Homo_J60/info.txt").write_text("damaged")
    found = [f for f in verify(root) if f.severity == "damage"]
    assert any("P2/Particles/Homo_J60" in str(f.path) for f in found)
    assert any(f.path == entry / name for f in found), "what cannot be read was not told"
    for _ in range(2):
        verify(root, repair=True)
    assert serious(root) == []
    assert Database(root).load("P2/Homo_J51") is not None


def test_a_truncated_or_longer_file_is_found(small: Database) -> None:
    path = small.root / "P1/Particles/Homo_J51/data.txt"
    sound = path.read_bytes()
    for wrong in (sound[:-1], sound + b"\n", b""):
        path.write_bytes(wrong)
        assert any("bytes, recorded are" in what for what in serious(small.root))


def test_repair_puts_aside_and_keeps_every_byte(small: Database, make_pickset: Make) -> None:
    damaged = {}
    for name in ("P1/Particles/Homo_J51/info.txt", "P1/micrographs.txt", "cryoflow-database.json"):
        path = small.root / name
        content = bytearray(path.read_bytes())
        content[10] ^= 4
        path.write_bytes(bytes(content))
        damaged[name] = bytes(content)
    findings = verify(small.root, repair=True)
    assert all(f.repaired for f in findings if f.severity == "damage")
    kept = {p.read_bytes() for p in (small.root / ".quarantine").rglob("*") if p.is_file()}
    assert set(damaged.values()) <= kept
    assert serious(small.root) == []
    database = Database(small.root)
    assert [e.name for e in database.entries()] == ["P1/Homo_J60"]
    loaded = database.load("P1/Homo_J60")
    assert loaded.micrographs["path"].notna().tolist() == [True, False]
    database.add(make_pickset(picks_each=1, n_micrographs=3))
    assert serious(small.root) == []


def test_a_record_that_is_gone_is_made_again_to_the_same_bytes(small: Database) -> None:
    path = small.root / "P1/micrographs.txt"
    sound = path.read_bytes()
    path.unlink()
    verify(small, repair=True)
    assert path.read_bytes() == sound


def test_a_micrograph_that_is_gone_is_a_notice(small: Database) -> None:
    target = next((small.root / "P1/Micrographs").iterdir()).readlink()
    target.unlink()
    (finding,) = verify(small)
    assert finding.severity == "notice"
    assert "lead nowhere" in finding.what


def test_a_micrograph_of_another_shape_than_the_picks_were_made_on_is_a_notice(small: Database) -> None:
    link = small.root / "P1/Micrographs/mic_0.mrc"
    write_mrc(link.readlink(), np.zeros((300, 400), np.float32), 1.0)
    assert verify(small) == []
    write_mrc(link.readlink(), np.zeros((150, 200), np.float32), 2.0)
    found = verify(small)
    assert {f.severity for f in found} == {"notice"}
    assert [f.path.parent.name for f in found] == ["Homo_J51", "Homo_J60"]
    assert all("1 of its micrographs lead to files of another shape, 'J1/imported/mic_0.mrc'" in f.what for f in found)


def test_a_file_of_the_user_is_told_and_left_alone(small: Database) -> None:
    note = small.root / "P1/Particles/Homo_J51/notes.txt"
    note.write_text("mine")
    (finding,) = verify(small, repair=True)
    assert finding.severity == "notice"
    assert note.read_text() == "mine"


def test_what_is_no_database_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(BadInput, match="no database"):
            verify(path)
