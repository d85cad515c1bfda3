"""Which job to train from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cryoflow.database import Database, OrientationRecord, select_best
from cryoflow.database.select import is_junk, job_number
from cryoflow.picks import Kind, PickSet

Make = Callable[..., PickSet]


def best(tmp_path: Path, make_pickset: Make, *entries: tuple[Kind, str, str, int], program: str = "cryosparc") -> str:
    database = Database(tmp_path / "DB")
    for kind, job, suffix, picks in entries:
        database.add(make_pickset(job=job, kind=kind, suffix=suffix, picks_each=picks, program=program))
    (selection,) = select_best(database)
    return selection.entry.name.partition("/")[2] if selection.entry else ""


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(Kind.REFINE_3D, "job035"), (Kind.SELECT_3D, "job040"), (Kind.SELECT_2D, "job050")], "Refine3D_job035"),
        ([(Kind.SELECT_3D, "job033"), (Kind.SELECT_2D, "job050"), (Kind.MANUAL_PICK, "job060")], "Select3D_job033"),
        ([(Kind.SELECT_2D, "job014"), (Kind.MANUAL_PICK, "job060")], "Select2D_job014"),
        ([(Kind.MANUAL_PICK, "job004"), (Kind.AUTO_PICK, "job060")], "ManualPick_job004"),
        ([(Kind.REFINE_3D, "job999"), (Kind.REFINE_3D, "job1000")], "Refine3D_job1000"),
    ],
)
def test_relion_by_refinement_then_number(
    tmp_path: Path, make_pickset: Make, entries: list[tuple[Kind, str]], expected: str
) -> None:
    assert best(tmp_path, make_pickset, *[(k, j, "", 3) for k, j in entries], program="relion") == expected


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([(Kind.HOMO, "J9", "", 3), (Kind.HOMO, "J51", "", 2)], "Homo_J51"),
        ([(Kind.HOMO, "J51", "", 3), (Kind.NON_UNIFORM, "J60", "", 3)], "NonUniform_J60"),
        ([(Kind.HOMO, "J61", "", 3), (Kind.NON_UNIFORM, "J60", "", 3), (Kind.HETERO, "J70", "class1", 9)], "Homo_J61"),
        ([(Kind.HETERO, "J50", "class0", 2), (Kind.HETERO, "J50", "class1", 5)], "Hetero_J50_class1"),
        ([(Kind.HETERO, "J50", "all_classes", 9), (Kind.HETERO, "J50", "class1", 5)], "Hetero_J50_class1"),
        ([(Kind.SELECT_2D, "J24", "excluded", 9), (Kind.SELECT_2D, "J24", "", 1)], "Select2D_J24"),
        ([(Kind.SELECT_2D, "J24", "excluded", 9), (Kind.MANUAL_PICK, "J20", "", 1)], "ManualPick_J20"),
        ([(Kind.SELECT_2D, "J24", "excluded", 9), (Kind.AUTO_PICK, "J20", "", 1)], ""),
        ([(Kind.LOCAL, "J80", "", 9), (Kind.SELECT_2D, "J24", "", 1)], "Select2D_J24"),
        ([(Kind.HOMO, "J80", "", 0), (Kind.SELECT_2D, "J24", "", 1)], "Select2D_J24"),
    ],
)
def test_cryosparc_by_refinement_then_number(
    tmp_path: Path, make_pickset: Make, entries: list[tuple[Kind, str, str, int]], expected: str
) -> None:
    assert best(tmp_path, make_pickset, *entries) == expected


def test_marked_unfinished_and_contradicted_entries_are_passed_over_and_said(
    tmp_path: Path, make_pickset: Make
) -> None:
    database = Database(tmp_path / "DB")
    database.mark(database.add(make_pickset(job="J1")).name, "deleted", "J1 is gone")
    database.add(make_pickset(job="J2"), job_status="unfinished")
    database.add(make_pickset(job="J3"), orientation=OrientationRecord("contradicted", "flip_y"))
    (nothing,) = select_best(database)
    assert nothing.entry is None
    assert len(nothing.passed_over) == 3
    said = [text.partition(": ")[2] for text in nothing.passed_over]
    assert [text[:12] for text in said] == ["its picks fi", "its job is u", "deleted: J1 "]
    database.add(make_pickset(job="J0"), job_status="usable", orientation=OrientationRecord("undecided"))
    (found,) = select_best(database)
    assert found.entry is not None
    assert found.entry.job == "J0"
    assert len(found.passed_over) == 3


def test_one_selection_a_project_with_its_reason(tmp_path: Path, make_pickset: Make) -> None:
    database = Database(tmp_path / "DB")
    for project in ("B", "A"):
        database.add(make_pickset(project, job="J9"))
        database.add(make_pickset(project, job="J51"))
    selections = select_best(database)
    assert [(s.project, s.reason) for s in selections] == [
        ("A", "Homo J51, the newest of 2 jobs as good"),
        ("B", "Homo J51, the newest of 2 jobs as good"),
    ]


def test_numbers_of_jobs_and_words_for_junk() -> None:
    assert [job_number(j) for j in ("J51", "job035", "job1000", "run1", "manual")] == [51, 35, 1000, 1, -1]
    assert all(
        map(is_junk, ("excluded", "unused", "all_classes", "junk_1", "uncategorized", "notselected", "junkparticles"))
    )
    assert not any(map(is_junk, ("", "class1", "split2", "allosteric", "particles")))
