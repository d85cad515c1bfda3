"""Promise 7: no name in a file leads out of the output folder."""

from __future__ import annotations

import os
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from promise_tools import DIAMETER_A, make_entry, snapshot, tree

from cryoflow.database import Database
from cryoflow.errors import CryoflowError, UnsafePath
from cryoflow.pickers.training_sets.export import export
from cryoflow.storage import files
from cryoflow.storage.safe_names import inside, safe_name

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
    """A folder with a neighbour beside the output that nothing may touch."""
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


@pytest.mark.parametrize("picker", ["cryolo", "topaz", "warp", "epicker", "cryosegnet", "eman2", "relion", "cryosparc"])
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
    from cryoflow.ingest.memory import Remembered, remember

    try:
        database.add(entry)
        remember(database, yard / "p" / "P1", {"J5": Remembered("k", "read", "", (), 1, 1)})
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
