"""Moved micrographs are found, and never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest

from cryoflow.errors import BadInput
from cryoflow.micrographs.find_micrographs import Finder, canonical_name, clean_name
from cryoflow.remaps import parse_remaps

UID = "012951868257382468663"


def touch(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x")
    return file


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a lab's $HOME" / "P12"
    folder.mkdir(parents=True)
    return folder


def test_an_absolute_path_that_exists_is_taken(project: Path, tmp_path: Path) -> None:
    file = touch(tmp_path / "elsewhere" / "a.mrc")
    assert Finder(project).find(str(file)) == file


@pytest.mark.parametrize(
    "name", ["J14/motioncorrected/a.mrc", ">J14/motioncorrected/a.mrc", "000012@J14/motioncorrected/a.mrc"]
)
def test_a_relative_name_is_looked_for_below_the_project(project: Path, name: str) -> None:
    file = touch(project / "J14" / "motioncorrected" / "a.mrc")
    assert Finder(project).find(name) == file


def test_a_name_relative_to_the_projects_parent_is_found(project: Path) -> None:
    file = touch(project / "J14" / "a.mrc")
    assert Finder(project).find("P12/J14/a.mrc") == file


def test_an_absolute_name_of_a_moved_project_is_found_by_its_tail(project: Path) -> None:
    file = touch(project / "J14" / "motioncorrected" / "a.mrc")
    touch(project / "J15" / "motioncorrected" / "a.mrc")
    assert Finder(project).find("/old/server/P12/J14/motioncorrected/a.mrc") == file


@pytest.mark.parametrize("name", ["/old/data/set1/a.mrc", "old/data/set1/a.mrc"])
def test_remaps_replace_whole_folders(project: Path, tmp_path: Path, name: str) -> None:
    file = touch(tmp_path / "new" / "set1" / "a.mrc")
    touch(tmp_path / "new" / "a.mrc")
    old = name.removesuffix("/set1/a.mrc")
    assert Finder(project, {old: str(tmp_path / "new")}).find(name) == file
    assert Finder(project, {old[:-2]: str(tmp_path / "new")}).find(name) is None


def test_the_most_particular_remap_goes_first(project: Path, tmp_path: Path) -> None:
    touch(tmp_path / "x" / "set1" / "a.mrc")
    file = touch(tmp_path / "y" / "a.mrc")
    remaps = {"/old": str(tmp_path / "x"), "/old/set1": str(tmp_path / "y")}
    assert Finder(project, remaps).find("/old/set1/a.mrc") == file


def test_a_unique_base_name_is_found_wherever_it_lies(project: Path) -> None:
    file = touch(project / "rescued" / "deep" / "a.mrc")
    assert Finder(project).find("/gone/a.mrc") == file


def test_an_ambiguous_base_name_is_not_guessed(project: Path) -> None:
    files = [touch(project / folder / "a.mrc") for folder in ("one", "two")]
    finder = Finder(project)
    assert finder.find("/gone/a.mrc") is None
    assert finder.candidates("/gone/a.mrc") == tuple(files)


def test_links_to_one_file_are_one_candidate(project: Path) -> None:
    file = touch(project / "one" / "a.mrc")
    (project / "two").mkdir()
    (project / "two" / "a.mrc").symlink_to(file)
    assert Finder(project).find("/gone/a.mrc") == file


@pytest.mark.parametrize(
    "there", ["foo.mrc", f"{UID}_foo_patch_aligned_doseweighted.mrc", f"{UID}_{UID}_foo.frames_patch_aligned.mrc"]
)
@pytest.mark.parametrize("asked", ["foo.mrc", f"J3/imported/{UID}_foo_patch_aligned.mrc"])
def test_uid_prefixes_and_programs_suffixes_do_not_matter(project: Path, there: str, asked: str) -> None:
    file = touch(project / "S1" / there)
    assert Finder(project).find(asked) == file


def test_the_exact_name_beats_a_similar_one(project: Path) -> None:
    touch(project / "denoised" / "foo_denoised.mrc")
    file = touch(project / "corrected" / "foo_patch_aligned.mrc")
    assert Finder(project).find("/gone/foo_patch_aligned.mrc") == file
    assert Finder(project).find("/gone/foo.mrc") is None  # could be either


def test_a_movie_never_stands_for_a_micrograph(project: Path) -> None:
    touch(project / "movies" / "foo.tif")
    assert Finder(project).find("/gone/foo.mrc") is None


def test_a_background_estimate_never_stands_for_its_micrograph(project: Path) -> None:
    touch(project / "J5" / "foo_background.mrc")
    assert Finder(project).find("/gone/foo.mrc") is None


def test_a_dangling_link_is_missing(project: Path) -> None:
    (project / "J1").mkdir()
    (project / "J1" / "a.mrc").symlink_to("/nowhere/a.mrc")
    assert Finder(project).find("J1/a.mrc") is None


@pytest.mark.parametrize("name", ["", "no.mrc", "a\0b.mrc", "/", "..", "x" * 5000])
def test_senseless_names_are_missing(project: Path, name: str) -> None:
    assert Finder(project).find(name) is None


def test_folders_are_not_micrographs(project: Path) -> None:
    (project / "a.mrc").mkdir()
    assert Finder(project).find("a.mrc") is None


def test_deleted_jobs_are_not_searched(project: Path) -> None:
    touch(project / "Trash" / "a.mrc")
    assert Finder(project).find("/gone/a.mrc") is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{UID}_14sep05c_0001.frames_patch_aligned_doseweighted.mrc", "14sep05c_0001"),
        ("MotionCorr/job003/Movies/x_0007.mrc", "x_0007"),
        ("FoilHole_12_fractions.mrc", "FoilHole_12"),
        ("v1.2_3.mrc", "v1.2_3"),
        ("_DW.mrc", "_DW"),
    ],
)
def test_canonical_names(name: str, expected: str) -> None:
    assert canonical_name(name) == expected


def test_decorations_of_names_are_removed() -> None:
    assert clean_name(">J1/a.mrc") == "J1/a.mrc"
    assert clean_name("000012@Extract/a.mrcs") == "Extract/a.mrcs"


def test_remaps_are_parsed() -> None:
    assert parse_remaps(["/a=/b", "c=d=e"]) == {"/a": "/b", "c": "d=e"}


@pytest.mark.parametrize("text", ["", "/a", "=b", "a="])
def test_a_bad_remap_is_told(text: str) -> None:
    with pytest.raises(BadInput, match="OLD=NEW"):
        parse_remaps([text])
