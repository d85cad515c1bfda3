"""verify finds what is not as it was written, and repair makes it whole without deleting."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cryoflow.database import Database, verify
from cryoflow.errors import BadInput
from cryoflow.ingest.memory import Remembered, remember
from cryoflow.picks import PickSet
from cryoflow.storage.sealing import sealed, unsealed

Make = Callable[..., PickSet]


@pytest.fixture
def small(tmp_path: Path, make_pickset: Make) -> Database:
    """A database with everything in it: two entries, a mark, a memory of ingest."""
    database = Database(tmp_path / "DB")
    database.add(make_pickset(picks_each=1, n_micrographs=3))
    database.add(make_pickset(job="J60", picks_each=1, n_micrographs=2))
    database.mark("P1/Homo_J60", "deleted", "gone")
    remember(database, tmp_path / "P1", {"J51": Remembered("k", "read", "", ("P1/Homo_J51",), 3, 3)})
    return database


def serious(root: Path) -> list[str]:
    return [f"{f.path.name}: {f.what}" for f in verify(root) if f.severity != "notice"]


def test_nothing_is_found_where_all_is_well(small: Database) -> None:
    assert verify(small) == []


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
