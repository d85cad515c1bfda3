"""Promise 7: no name in a file leads out of the output folder."""

from __future__ import annotations

import os
import socket
import unicodedata
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from killed import fault_hook, fork, points_of
from promise_tools import DIAMETER_A, make_entry, snapshot, tree

from cryoflow.database import Database, verify
from cryoflow.database.micrograph_links import read_links
from cryoflow.database.values import word
from cryoflow.errors import CryoflowError, UnsafePath
from cryoflow.pickers.registry import pickers
from cryoflow.pickers.training_sets.export import export
from cryoflow.storage import files
from cryoflow.storage.safe_names import inside, safe_name, short_hash

pytestmark = pytest.mark.forks

NAMES = [
    "../../outside/evil.mrc",
    "/tmp/absolute_evil.mrc",
    "a/../../../evil.mrc",
    "nul\0byte.mrc",
    "new\nline.mrc",
    "x" * 300 + ".mrc",
    "-rf.mrc",
    ".hidden.mrc",
    "..",
    "CASE.mrc",
    "case.mrc",
    "Case.mrc",
    "caf\u00e9.mrc",
    "cafe\u0301.mrc",
    "\udcff.mrc",
    "$(touch hacked).mrc",
    "a\tb.mrc",
    "con.mrc",
    "",
]


@pytest.fixture
def yard(tmp_path: Path) -> Path:
    """A folder with a neighbor beside the output that nothing may touch."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine.txt").write_text("mine")
    return tmp_path


def folded(name: str) -> str:
    """What a file system that ignores case and composition takes a name for; not by the function that is tested."""
    return unicodedata.normalize("NFC", name).casefold()


def outside(yard: Path) -> dict[str, object]:
    return dict(snapshot(yard / "outside"))


def test_a_database_of_hostile_names_stays_inside_and_apart_where_case_does_not_count(yard: Path) -> None:
    """Names of micrographs, projects, jobs and suffixes."""
    before = outside(yard)
    entry = make_entry(yard / "p", names=NAMES)
    database = Database(yard / "DB")
    database.add(entry)
    names = [*NAMES, "P1", "p1"]
    for number, name in enumerate(names):
        who = replace(entry.provenance, project_name=name, project=yard / "p" / f"{number}", job=name, suffix=name)
        database.add(replace(entry, provenance=who))
    assert outside(yard) == before
    assert sorted(p.name for p in yard.iterdir()) == ["DB", "outside", "p"]
    assert not Path("/tmp/absolute_evil.mrc").is_symlink()
    for folder, folders, found in os.walk(yard / "DB"):
        both = [n for n in (*folders, *found) if not n.startswith(".jobs")]
        assert len({folded(n) for n in both}) == len(both), folder
        assert all(len(os.fsencode(n)) <= 255 for n in both)
        assert not [n for n in both if any(c in n for c in "\n\t\0/$()")]
    assert len(database.entries()) == len(names) + 1
    (first,) = (e for e in database.entries() if e.project == "P1" and e.job == "J5")
    assert database.load(first).micrographs["name"].tolist() == sorted(NAMES)


@pytest.mark.parametrize("picker", sorted(pickers()))
def test_an_export_of_hostile_names_stays_inside_or_is_refused_whole(picker: str, yard: Path) -> None:
    before = outside(yard)
    written = 0
    for number, name in enumerate(NAMES):
        entry = make_entry(yard / f"p{number}", names=[name, "plain.mrc"])
        entry = replace(entry, provenance=replace(entry.provenance, project_name="../../evil"))
        out = yard / f"out{number}" / "set"
        try:
            export(picker, [entry], out, diameter_A=DIAMETER_A, force=True)
            written += 1
        except CryoflowError:
            assert not out.exists()
        for path in out.rglob("*"):
            assert not any(c in path.name for c in "\n\t\0")
            if path.is_symlink():
                assert os.path.realpath(path).startswith(str(yard / f"p{number}"))
            else:
                assert os.path.realpath(path).startswith(str(out))
    assert written >= len(NAMES) // 2
    assert outside(yard) == before
    assert not (yard.parent / "evil.mrc").exists()


def test_names_that_differ_by_case_alone_stay_apart_in_an_export(yard: Path) -> None:
    entry = make_entry(yard / "p", names=["CASE.mrc", "case.mrc", "d/case.mrc"])
    for picker in ("topaz", "cryosegnet", "cryolo"):  # RELION finds files by its own names, which must stay
        folder = export(picker, [entry], yard / picker, diameter_A=DIAMETER_A, force=True).folder
        for where, folders, found in os.walk(folder):
            both = [*folders, *found]
            assert len({folded(n) for n in both}) == len(both), where


@pytest.mark.parametrize(
    "planted", ["P1/Particles", "P1/Micrographs", "P1/Particles/Homo_J5", "P1", ".jobs", ".quarantine"]
)
def test_a_link_planted_in_a_database_is_not_followed(planted: str, yard: Path) -> None:
    entry = make_entry(yard / "p")
    database = Database(yard / "DB")
    database.add(make_entry(yard / "p", "P0"))
    place = yard / "DB" / planted
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(yard / "outside")
    before = outside(yard)
    from cryoflow.ingest.state import JobState, write_states

    try:
        database.add(entry)
        write_states(database, yard / "p" / "P1", {"J5": JobState("k", "read", "", (), 1, 1)})
        database.remove("P0/Homo_J5")
    except UnsafePath:
        pass
    assert outside(yard) == before


@pytest.mark.parametrize("planted", ["Particles", "Micrographs", "Particles/Homo_J5"])
def test_a_link_planted_in_the_place_of_a_projects_folder_is_not_followed(planted: str, yard: Path) -> None:
    entry = make_entry(yard / "p")
    database = Database(yard / "DB")
    database.add(entry)
    place = yard / "DB" / "P1" / planted
    place.rename(yard / "away")
    place.symlink_to(yard / "outside")
    before = outside(yard)
    with pytest.raises(UnsafePath, match="a link stands where"):
        database.add(entry)
    assert outside(yard) == before


def test_a_link_planted_where_a_file_is_to_be_written_is_replaced_not_followed(yard: Path) -> None:
    before = outside(yard)
    (yard / "report.html").symlink_to(yard / "outside" / "mine.txt")
    files.write_atomically(yard / "report.html", "new")
    assert not (yard / "report.html").is_symlink()
    assert outside(yard) == before


@pytest.mark.parametrize("name", ["a/../../out", "../out", "..", "a/..", ".", "a\0b", "/out"])
def test_a_write_below_a_root_is_refused_where_its_path_leads_out(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    with pytest.raises(UnsafePath, match="does not lie inside"):
        files.write_atomically(root / name, "text", root=root)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "root"]


def test_an_output_folder_that_is_the_users_own_link_is_written_through(yard: Path) -> None:
    """Results often lie on another disk, behind a link that the user made."""
    (yard / "disk").mkdir()
    (yard / "set").symlink_to(yard / "disk")
    entry = make_entry(yard / "p")
    for _ in range(2):
        export("topaz", [entry], yard / "set", diameter_A=DIAMETER_A, force=True, overwrite=True)
    export("topaz", [entry], yard / "set", diameter_A=DIAMETER_A, force=True, overwrite=True, seed=5)
    assert (yard / "set").is_symlink()
    assert (yard / "disk" / "manifest.tsv").is_file()
    assert [n for n in tree(yard) if "/" not in n.rstrip("/") and n.startswith(".")] == []


BAD_LINKS = ["../../../outside/mine.txt", "ABSOLUTE", "..", ".", "", "a/b.mrc", "nul\0.mrc", "\udcff.mrc", ".hidden"]


def forged_record(yard: Path, name: str) -> str:
    """A micrographs.txt with a fitting checksum, as somebody may send it, in which one link has another name."""
    name = str(yard / "outside" / "mine.txt") if name == "ABSOLUTE" else name
    body = (yard / "DB/P1/micrographs.txt").read_text().rpartition("Checksum: ")[0]
    body += f"Micrograph {word(name)} name=evil.mrc target={word('/etc/passwd')}\n"
    return f"{body}Checksum: {short_hash(body, 32)}\n"


@pytest.mark.parametrize("name", BAD_LINKS)
def test_link_names_in_a_record_that_somebody_sent_are_held_to_their_folder(name: str, yard: Path) -> None:
    """By a write into the database, by verify, and by its repair; the rest of the database is as it was."""
    entry = make_entry(yard / "p")
    database = Database(yard / "DB")
    database.add(entry)
    before = outside(yard)
    record = yard / "DB/P1/micrographs.txt"
    forged = forged_record(yard, name)
    record.write_text(forged)
    with pytest.raises(UnsafePath, match="cannot be"):
        database.add(entry)
    assert [f.severity for f in verify(database) if f.path == record] == ["damage"]
    assert outside(yard) == before
    verify(database, repair=True)
    assert verify(database) == []
    assert "evil" not in record.read_text()
    assert outside(yard) == before
    assert len(database.load("P1/Homo_J5")) == len(entry)


@pytest.mark.parametrize("name", ["../../../outside/mine.txt", "ABSOLUTE", "nul\0.mrc", "\udcff.mrc"])
def test_link_names_in_a_data_txt_make_no_link_when_the_record_is_made_again(name: str, yard: Path) -> None:
    database = Database(yard / "DB")
    database.add(make_entry(yard / "p"))
    database.add(make_entry(yard / "p", job="J6"))
    before = outside(yard)
    name = str(yard / "outside" / "mine.txt") if name == "ABSOLUTE" else name
    data = yard / "DB/P1/Particles/Homo_J5/data.txt"
    data.write_text(data.read_text().replace("Micrograph mic_0.mrc", f"Micrograph {word(name)}"))
    (yard / "DB/P1/micrographs.txt").unlink()
    for _ in range(2):
        verify(database, repair=True)
    assert outside(yard) == before
    assert len(read_links(yard / "DB/P1").links) == 3
    assert verify(database) == []
    assert len(database.load("P1/Homo_J6"))


@pytest.mark.parametrize("swapped", ["P1", "P1/Particles", "P1/Micrographs"])
def test_a_folder_that_is_swapped_for_a_link_at_any_moment_leads_nothing_outside(swapped: str, yard: Path) -> None:
    """The link is planted at each step of a write in turn, after the folder was looked at."""
    entry, other = make_entry(yard / "p"), make_entry(yard / "p", seed=1, n=4)
    Database(yard / "start").add(entry)
    before = outside(yard)
    steps = points_of(lambda: Database(yard / "start").add(other) and None, yard / "points")
    for number in range(len(steps)):
        root = yard / f"DB{number}"
        Database(root).add(entry)
        place = root / swapped
        left = [number]

        def swap(_: str, place: Path = place, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                place.rename(place.with_name(place.name + "-away"))
                place.symlink_to(yard / "outside")

        with fault_hook(swap), suppress(CryoflowError, FileNotFoundError):
            Database(root).add(other)
        assert outside(yard) == before, f"{steps[number]} ({number})"
        assert place.is_symlink()


def test_a_link_planted_under_a_name_of_the_lock_is_not_written_through(yard: Path) -> None:
    entry = make_entry(yard / "p")
    database = Database(yard / "DB")
    database.add(entry)
    before = outside(yard)
    (yard / f"DB/.lock-recovery-{socket.gethostname()}").symlink_to(yard / "outside" / "made.txt")
    dead = fork()
    if dead == 0:
        with database.writing():
            os._exit(0)
    os.waitpid(dead, 0)
    with suppress(CryoflowError):
        Database(yard / "DB", lock_timeout_s=0.5).add(entry)
    assert outside(yard) == before


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=400))
def test_any_text_makes_one_plain_file_name(text: str) -> None:
    name = safe_name(text)
    assert 0 < len(name.encode()) <= 120
    assert name not in (".", "..")
    assert not name.startswith((".", "-"))
    assert not set(name) & set("/\\\0\n\r\t $`\"'*?")
    assert inside(Path("/x"), name) == Path("/x", name)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.sampled_from(NAMES))
def test_a_path_that_is_not_refused_stays_below_its_folder(name: str) -> None:
    try:
        path = inside(Path("/x/y"), name)
    except UnsafePath:
        return
    assert os.path.normpath(path).startswith("/x/y/")


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.text(max_size=20))
def test_two_texts_give_two_names(a: str, b: str) -> None:
    if a != b:
        assert safe_name(a) != safe_name(b)
