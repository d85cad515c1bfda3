"""Entries written, listed and loaded."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.database import Database, OrientationRecord, verify
from cryoflow.errors import BadInput, UnsafePath
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet
from cryoflow.storage import stale_files

Make = Callable[..., PickSet]
Same = Callable[[PickSet, PickSet], None]


def tree(root: Path, *, times: bool = False) -> dict[str, bytes | str]:
    """Everything below a folder: bytes of files, targets of links; without the files that hold times unless asked."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file() and (times or (path.name != "manifest.json" and ".jobs/" not in name)):
            found[name] = path.read_bytes()
        elif path.is_dir():
            found[name + "/"] = ""
    return found


def test_an_entry_loads_back_complete(tmp_path: Path, make_pickset: Make, assert_same: Same) -> None:
    database = Database(tmp_path / "DB")
    original = make_pickset()
    entry = database.add(original)
    assert entry.name == "P1/Homo_J51"
    assert_same(database.load(entry.name), original)
    assert_same(Database(tmp_path / "DB").load(entry), original)


def test_loading_and_writing_again_gives_the_same_bytes(tmp_path: Path, make_pickset: Make) -> None:
    a, b = Database(tmp_path / "A"), Database(tmp_path / "B")
    name = a.add(make_pickset()).name
    b.add(a.load(name))
    assert tree(a.root) == tree(b.root)


def test_the_same_picks_give_the_same_bytes(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset())
    before = tree(database.root)
    database.add(make_pickset())
    assert tree(database.root) == before
    assert not list(database.root.rglob(f".*{stale_files.ASIDE}"))
    assert not list(database.root.rglob("*.tmp-*"))


def test_links_point_to_the_micrographs_and_missing_ones_have_none(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    original = make_pickset()
    database.add(original)
    links = {p.name: str(p.readlink()) for p in (database.root / "P1" / "Micrographs").iterdir()}
    found = original.micrographs.dropna(subset=["path"])
    assert links == {Path(p).name: p for p in found["path"]}
    assert "Missing Micrograph: J1/imported/mic_1.mrc" in (database.root / "P1/Particles/Homo_J51/info.txt").read_text()


def test_a_link_that_is_set_right_by_hand_is_followed(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    entry = database.add(make_pickset())
    moved = tmp_path / "moved.mrc"
    moved.write_bytes(b"MRC")
    link = database.root / "P1/Micrographs/mic_0.mrc"
    link.unlink()
    link.symlink_to(moved)
    (database.root / "P1/Micrographs/mic_1.mrc").symlink_to(moved)
    (database.root / "P1/Micrographs/mic_2.mrc").unlink()
    table = database.load(entry.name).micrographs
    assert table["path"].tolist()[:3] == [str(moved), str(moved), None]
    assert table["status"].tolist()[:3] == ["found", "found", "missing"]


def test_unknown_values_say_unknown_and_come_back_unknown(
    tmp_path: Path, make_pickset: Make, assert_same: Same
) -> None:
    original = make_pickset(box_px=None, diameter_A=None, score_kind="", counts={}, notes=())
    bare = replace(
        original,
        provenance=replace(original.provenance, program_version="", title="", output_group="", job_type="", sources=()),
        micrographs=original.micrographs.assign(pixel_size_A=np.nan, voltage_kV=np.nan),
    )
    database = Database(tmp_path / "DB")
    entry = database.add(bare)
    text = (entry.folder / "info.txt").read_text()
    for name in ("Box (px)", "Diameter (A)", "Pixel Size (A)", "Voltage (kV)", "Program Version", "Cs (mm)"):
        assert f"{name}: unknown\n" in text
    assert entry.pixel_size_A is None
    assert entry.box_px is None
    assert_same(database.load(entry.name), bare)


def test_the_entry_says_what_its_info_says(tmp_path: Path, make_pickset: Make) -> None:
    verdict = OrientationRecord("contradicted", "flip_y", "4.1 against 1.2")
    entry = Database(tmp_path / "DB").add(make_pickset(suffix="class1"), job_status="usable", orientation=verdict)
    assert (entry.name, entry.kind, entry.job, entry.suffix) == ("P1/Homo_J51_class1", Kind.HOMO, "J51", "class1")
    assert (entry.n_picks, entry.n_micrographs, entry.n_missing_micrographs) == (21, 4, 1)
    assert (entry.pixel_size_A, entry.box_px, entry.diameter_A) == (1.06, 256.0, 150.5)
    assert (entry.program, entry.program_version, entry.job_status) == ("cryosparc", "4.5.3", "usable")
    assert entry.orientation == verdict
    assert entry.status == "current"


def test_entries_are_in_order_of_project_and_number(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    for project, job in (("P2", "J5"), ("P1", "J51"), ("P1", "J9")):
        database.add(make_pickset(project, job=job))
    assert [e.name for e in database.entries()] == ["P1/Homo_J9", "P1/Homo_J51", "P2/Homo_J5"]


def test_two_projects_of_one_name_stay_apart(tmp_path: Path, make_pickset: Make, assert_same: Same) -> None:
    database = Database(tmp_path / "DB")
    sets = [make_pickset("relion", folder=tmp_path / who / "relion", seed=i) for i, who in enumerate(("ann", "bob"))]
    assert [database.add(s).name for s in sets] == ["relion/Homo_J51", "relion-bob/Homo_J51"]
    assert [database.add(s).name for s in sets] == ["relion/Homo_J51", "relion-bob/Homo_J51"]
    third = make_pickset("relion", folder=tmp_path / "x" / "bob" / "relion")
    name = database.add(third).name
    assert name.startswith("relion-")
    assert name not in ("relion/Homo_J51", "relion-bob/Homo_J51")
    for entry, original in zip(("relion/Homo_J51", "relion-bob/Homo_J51", name), (*sets, third), strict=True):
        assert_same(database.load(entry), original)


def test_entries_that_differ_by_case_alone_stay_apart_however_often_they_are_added(
    tmp_path: Path, make_pickset: Make, assert_same: Same
) -> None:
    database = Database(tmp_path / "DB")
    sets = [make_pickset(suffix=suffix, seed=i) for i, suffix in enumerate("xX")]
    names = [database.add(s).name for s in sets]
    assert names[0] == "P1/Homo_J51_x"
    assert names[1].startswith("P1/Homo_J51_X-")
    assert [database.add(s).name for s in sets] == names
    assert {e.name for e in database.entries()} == set(names)
    for name, original in zip(names, sets, strict=True):
        assert_same(database.load(name), original)


def test_two_micrographs_of_one_base_name_stay_apart(tmp_path: Path, make_pickset: Make, assert_same: Same) -> None:
    names = [f"MotionCorr/job00{i}/Movies/{n}.mrc" for i in (2, 3) for n in ("x", "X")] + ["a/x.mrc", "b/a/x.mrc"]
    database = Database(tmp_path / "DB")
    original = make_pickset(names=names)
    database.add(original)
    assert_same(database.load("P1/Homo_J51"), original)
    links = sorted(p.name for p in (database.root / "P1/Micrographs").iterdir())
    assert len({name.casefold() for name in links}) == len(names) - 1  # one is missing
    assert {"x-job002.mrc", "X-job003.mrc"} <= set(links)
    # Another job with the same micrographs and one more keeps the links that were given.
    more = make_pickset(job="J60", names=["0/x.mrc", *names])
    before = {p.name: str(p.readlink()) for p in (database.root / "P1/Micrographs").iterdir()}
    database.add(more)
    after = {p.name: str(p.readlink()) for p in (database.root / "P1/Micrographs").iterdir()}
    assert before.items() <= after.items()
    assert sorted(after.values()) == sorted(str(tmp_path / "projects/P1" / name) for name in ["0/x.mrc", *names])


def test_a_link_follows_its_micrograph_and_never_to_a_file_of_another_shape(
    tmp_path: Path, make_pickset: Make, assert_same: Same
) -> None:
    def picked(job: str, folder: str, shape_yx: tuple[int, int]) -> PickSet:
        picks = make_pickset(job=job, n_micrographs=3)
        path = tmp_path / folder / "mic_0.mrc"
        path.parent.mkdir(exist_ok=True)
        write_mrc(path, np.zeros(shape_yx, np.float32), 1.0)
        table = picks.micrographs.copy()
        table.loc[0, ["path", "ny", "nx"]] = [str(path), *shape_yx]
        centers = picks.picks.assign(x_px=picks.picks["x_px"] / 4, y_px=picks.picks["y_px"] / 4)
        return replace(picks, micrographs=table, picks=centers)

    database = Database(tmp_path / "DB")
    full, small = picked("J51", "full", (300, 400)), picked("J60", "binned", (150, 200))
    for _ in range(2):  # reading them again changes nothing
        for picks in (full, small):
            database.add(picks)
        assert_same(database.load("P1/Homo_J51"), full)
        assert_same(database.load("P1/Homo_J60"), small)
    assert verify(database) == []
    links = {p.name: str(p.readlink().parent.name) for p in (database.root / "P1/Micrographs").glob("mic_0*")}
    assert links == {"mic_0.mrc": "full", "mic_0-binned.mrc": "binned"}
    # Copied elsewhere: all entries follow, each to the file of its shape.
    copied, small_too = picked("J70", "fast", (300, 400)), picked("J71", "fast2", (150, 200))
    for picks in (copied, small_too):
        database.add(picks)
    where = {e.job: Path(database.load(e.name).micrographs["path"][0]).parent.name for e in database.entries()}
    assert where == {"J51": "fast", "J60": "fast2", "J70": "fast", "J71": "fast2"}
    # Moved: the earlier file is gone.
    (tmp_path / "fast/mic_0.mrc").unlink()
    database.add(picked("J72", "archive", (300, 400)))
    assert Path(database.load("P1/Homo_J51").micrographs["path"][0]).parent.name == "archive"
    assert len(list((database.root / "P1/Micrographs").glob("mic_0*"))) == 2


def test_names_of_any_kind_stay_inside_and_come_back(
    tmp_path: Path, make_pickset: Make, assert_same: Same, hostile_name: str
) -> None:
    names = [
        f"{hostile_name}/a.mrc",
        f"J1/{hostile_name}.mrc",
        "../../etc/passwd",
        "/tmp/x y.mrc",
        "$",
        "unknown",
        "n" * 200,
    ]
    original = make_pickset("P", job="J1", names=["ok.mrc"])
    table = pd.DataFrame({"name": names})
    from cryoflow.picks import micrograph_table

    mics = micrograph_table({"name": table["name"].astype(object)})
    picks = pd.DataFrame({"micrograph": range(len(names)), "x_px": 1.0, "y_px": 2.0})
    who = replace(
        original.provenance, project_name=hostile_name, title=hostile_name, job=f"J1{hostile_name}", suffix="../.."
    )
    hostile = PickSet.build(who, mics, picks, notes=(hostile_name, "unknown", "", '"'))
    database = Database(tmp_path / "DB")
    entry = database.add(hostile)
    assert_same(database.load(entry.name), hostile)
    assert {p.name for p in tmp_path.iterdir()} <= {"DB", "projects"}
    assert entry.folder.parent.parent.parent == database.root


def test_names_that_are_not_utf8_come_back(tmp_path: Path, make_pickset: Make, assert_same: Same) -> None:
    original = make_pickset(names=["J1/ok.mrc", "J1/gone.mrc", os.fsdecode(b"J1/\xff\xfe.mrc"), "J1/z.mrc"])
    database = Database(tmp_path / "DB")
    assert_same(database.load(database.add(original)), original)


def test_a_planted_link_is_not_followed(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset(job="J1"))
    outside = tmp_path / "outside"
    outside.mkdir()
    (database.root / "P1/Particles/Homo_J51").symlink_to(outside)
    with pytest.raises(UnsafePath, match="a link stands"):
        database.add(make_pickset())
    assert not list(outside.iterdir())


def test_a_pick_at_the_edge_is_not_rounded_out(tmp_path: Path, make_pickset: Make) -> None:
    original = make_pickset()
    picks = original.picks.copy()
    picks.loc[0, ["x_px", "y_px"]] = (399.49999, 299.49999)
    edge = replace(original, picks=picks)
    database = Database(tmp_path / "DB")
    loaded = database.load(database.add(edge))
    assert len(loaded) == len(edge)
    assert loaded.counts == edge.counts
    assert loaded.picks.loc[0, "x_px"] == 399.499


def test_scores_beyond_fixed_point_come_back_exactly(tmp_path: Path, make_pickset: Make) -> None:
    original = make_pickset()
    scores = original.picks["score"].to_numpy().copy()
    scores[:4] = [1e308, -1e-300, np.inf, 1.5]
    extreme = replace(original, picks=original.picks.assign(score=scores))
    database = Database(tmp_path / "DB")
    loaded = database.load(database.add(extreme)).picks["score"].to_numpy()
    assert loaded[:2].tolist() == [1e308, -1e-300]
    assert np.isnan(loaded[2])
    assert loaded[3] == 1.5


def test_an_entry_without_picks_or_micrographs_is_kept(tmp_path: Path, make_pickset: Make, assert_same: Same) -> None:
    database = Database(tmp_path / "DB")
    original = make_pickset()
    empty = original.where(np.zeros(len(original), bool))
    assert_same(database.load(database.add(empty)), empty)
    none = replace(empty, micrographs=empty.micrographs.iloc[:0])
    assert_same(database.load(database.add(none)), none)


def test_an_unknown_entry_is_refused_with_names_that_come_near(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    with pytest.raises(BadInput, match="no database here"):
        database.load("P1/Homo_J51")
    database.add(make_pickset())
    with pytest.raises(BadInput, match="P1/Homo_J51"):
        database.load("P1/Homo_J52")
    for name in ("../P1/Homo_J51", "P1", "/", "", "P1/../P1/Homo_J51", ".quarantine/x"):
        with pytest.raises(BadInput):
            database.entry(name)


def test_a_folder_of_other_things_is_not_made_a_database(tmp_path: Path, make_pickset: Make) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(BadInput, match="not a database, and not empty"):
        Database(tmp_path).add(make_pickset(folder=tmp_path.parent / f"{tmp_path.name}-p"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]


def test_a_newer_database_is_refused(tmp_path: Path, make_pickset: Make) -> None:
    from cryoflow.storage.sealing import sealed

    database = Database(tmp_path / "DB")
    database.add(make_pickset())
    (database.root / "cryoflow-database.json").write_text(sealed({"format": 3}))
    with pytest.raises(BadInput, match=r"newer cryoflow.*Update"):
        Database(database.root)


@pytest.mark.parametrize("file", ["data.txt", "info.txt"])
def test_a_newer_entry_is_refused(tmp_path: Path, make_pickset: Make, file: str) -> None:
    database = Database(tmp_path / "DB")
    path = database.add(make_pickset()).folder / file
    first, _, rest = path.read_text().partition("\n")
    path.write_text(first.replace(" 1", " 2") + "\n" + rest)
    with pytest.raises(BadInput, match="newer cryoflow"):
        database.load("P1/Homo_J51")


def test_a_mark_is_seen_until_the_entry_is_written_again(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    name = database.add(make_pickset()).name
    database.mark(name, "deleted", "J51 is gone")
    assert (database.entry(name).status, database.entry(name).reason) == ("deleted", "J51 is gone")
    database.unmark(name)
    assert database.entry(name).status == "current"
    database.mark(name, "stale", "x")
    assert database.add(make_pickset()).status == "current"


def test_removing_moves_out_of_sight_and_deletes_nothing(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    name = database.add(make_pickset()).name
    first = database.remove(name)
    assert (first / "data.txt").exists()
    assert database.entries() == []
    database.add(make_pickset())
    assert database.remove(name) != first
    assert first.exists()


@pytest.mark.parametrize("name", ["P1//etc", "../P1/Homo_J51", "P1/../P1/Homo_J51", "P1/", "/", "", "P1/*"])
def test_a_name_that_no_entry_can_have_was_not_removed_either(tmp_path: Path, make_pickset: Make, name: str) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset())
    database.remove("P1/Homo_J51")
    with pytest.raises(BadInput, match="there is no entry"):
        database.remove(name)


def test_one_damaged_entry_does_not_hide_the_others(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset(job="J1"))
    bad = database.add(make_pickset(job="J2"))
    (bad.folder / "info.txt").write_bytes(b"\xff\xfe")
    assert [(e.job, e.status) for e in database.entries()] == [("J1", "current"), ("J2", "damaged")]
    with pytest.raises(BadInput, match="not UTF-8"):
        database.load(bad.name)


def test_one_damaged_project_does_not_keep_others_from_being_written(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    database.add(make_pickset("P1"))
    (database.root / "P1/micrographs.txt").write_text("damaged")
    database.add(make_pickset("P2"))
    with pytest.raises(BadInput, match="checksum"):
        database.add(make_pickset("P1"))


def test_patterns_become_the_entries_that_they_match_in_the_order_of_the_database(
    tmp_path: Path, make_pickset: Make
) -> None:
    database = Database(tmp_path / "DB")
    for project, job in (("P2", "J7"), ("P1", "J51"), ("P1", "J9")):
        database.add(make_pickset(project, job=job))
    database.add(make_pickset("P1", job="J3", kind=Kind.AUTO_PICK))
    everything = ("P1/AutoPick_J3", "P1/Homo_J9", "P1/Homo_J51", "P2/Homo_J7")
    assert database.matching(["*"]) == everything
    assert database.matching(["*/Homo_*"]) == everything[1:]
    assert database.matching(["P1/Homo_J5?", "P1/*"]) == ("P1/Homo_J51", "P1/AutoPick_J3", "P1/Homo_J9")
    assert database.matching(["P2/Homo_J7", "P9/None_J1", "*J7"]) == ("P2/Homo_J7", "P9/None_J1")  # looked up later
    assert database.matching([]) == ()
    with pytest.raises(BadInput, match=r"DB: nothing matches 'p1/\*'.* P1/AutoPick_J3"):
        database.matching(["P1/*", "p1/*"])
    with pytest.raises(BadInput, match="EMPTY: nothing matches"):
        Database(tmp_path / "EMPTY").matching(["*"])
