"""Whole projects into a database: what is read, what is not read again, what is marked, what fails."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database, select_best, verify
from cryoflow.database.record import read_record
from cryoflow.database.record_keeper import RecordKeeper
from cryoflow.errors import BadInput, ExitCode, NotWritten
from cryoflow.ingest import IngestReport, ingest, ingest_tables, plan_jobs
from cryoflow.ingest import read_jobs as running
from cryoflow.projects.tables import read_table_of_picks
from cryoflow.simulate.simulated_dataset import SimulatedDataset


def tree(root: Path) -> dict[str, bytes | str]:
    """Files and links of a database, but for those that hold times."""
    return {
        str(p.relative_to(root)): str(p.readlink()) if p.is_symlink() else p.read_bytes()
        for p in sorted(root.rglob("*"))
        if (p.is_symlink() or p.is_file()) and p.name != "manifest.json" and ".jobs" not in p.parts
    }


def of(report: IngestReport, job: str) -> tuple[str, str]:
    (line,) = (line for line in report.lines if line.job == job)
    return line.status, line.reason


def quick(projects: Path, database: Path | Database, **options: object) -> IngestReport:
    return ingest(projects, database, check_orientation=False, **options)  # type: ignore[arg-type]


def refined_star(projects: Path) -> Path:
    return next((projects / "relion/Refine3D").glob("job*/run_data.star"))


def test_every_job_of_interest_becomes_entries_on_the_particles(
    projects: Path, tmp_path: Path, simulated: SimulatedDataset
) -> None:
    report = ingest(projects, tmp_path / "DB")
    assert report.exit_code is ExitCode.OK
    database = Database(tmp_path / "DB")
    best = {s.project: s.entry for s in select_best(database)}
    assert {p: e.kind.value for p, e in best.items() if e} == {"CS-demo": "NonUniform", "relion": "Refine3D"}
    truth = {m.path.stem: m.true_xy_px for m in simulated.micrographs}
    for entry in best.values():
        assert entry is not None
        assert entry.orientation.verdict in ("confirmed", "undecided")
        assert (entry.folder / "overlay_1.jpg").read_bytes().startswith(b"\xff\xd8")
        picks = database.load(entry)
        for i, rows in picks.by_micrograph():
            stem = Path(str(picks.micrographs["path"][i])).resolve().stem
            true = truth[next(s for s in truth if stem.endswith(s))]
            near = np.linalg.norm(rows[["x_px", "y_px"]].to_numpy()[:, None] - true[None], axis=2).min(axis=1)
            assert (near < 0.25 * simulated.diameter_A / 1.5).all()
    assert verify(database) == []


def test_a_second_run_opens_no_dataset_and_writes_nothing(
    projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = quick(projects, tmp_path / "DB")
    stamps = {p: p.lstat().st_mtime_ns for p in (tmp_path / "DB").rglob("*") if p.is_file()}

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a dataset was read again")

    monkeypatch.setattr(running, "read_job", refuse)
    second = quick(projects, tmp_path / "DB")
    assert {line.status for line in second.lines} == {"unchanged", "skipped"}
    assert [line.entries for line in second.lines] == [line.entries for line in first.lines]
    assert {p: p.lstat().st_mtime_ns for p in (tmp_path / "DB").rglob("*") if p.is_file()} == stamps


def test_only_a_changed_job_is_read_again_and_its_entry_replaced(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "DB")
    star = refined_star(projects)
    lines = star.read_text().rstrip().split("\n")
    star.write_text("\n".join(lines[:-1]) + "\n")
    before = Database(tmp_path / "DB").entry(f"relion/Refine3D_{star.parent.name}").n_picks
    report = quick(projects, tmp_path / "DB")
    assert [(line.job, line.reason) for line in report.lines if line.status == "read"] == [
        (star.parent.name, "changed")
    ]
    assert Database(tmp_path / "DB").entry(f"relion/Refine3D_{star.parent.name}").n_picks == before - 1


def test_the_database_is_the_same_bytes_whatever_the_number_of_workers(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "one")
    quick(projects, tmp_path / "three", workers=2)
    assert tree(tmp_path / "one") == tree(tmp_path / "three")
    assert Database(tmp_path / "one").entries() != []


def test_a_deleted_job_is_marked_and_unmarked_when_it_is_back(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "DB")
    job, away = projects / "CS-demo/J10", tmp_path / "J10"
    shutil.move(job, away)
    report = quick(projects, tmp_path / "DB")
    entry = Database(tmp_path / "DB").entry("CS-demo/Homo_J10")
    assert entry.status in ("deleted", "cleared")
    assert "J10" in {line.job for line in report.lines if line.status in ("deleted", "skipped")}
    shutil.move(away, job)
    quick(projects, tmp_path / "DB")
    assert Database(tmp_path / "DB").entry("CS-demo/Homo_J10").status == "current"


def test_what_a_killed_ingest_announced_is_confirmed_although_nothing_is_left_to_read(
    projects: Path, tmp_path: Path
) -> None:
    quick(projects, tmp_path / "DB")
    expected = tree(tmp_path / "DB")
    folder = tmp_path / "DB/relion"
    record = read_record(folder)
    assert record is not None
    entries = dict(record.entries)
    name, state = entries.popitem()  # killed between the last write of an entry and the end of the turn
    RecordKeeper(tmp_path / "DB").write_record(folder, replace(record, entries=entries, pending={name: state}))
    assert tree(tmp_path / "DB") != expected
    assert {line.status for line in quick(projects, tmp_path / "DB").lines} == {"skipped", "unchanged"}
    assert tree(tmp_path / "DB") == expected


def test_a_project_that_is_gone_is_marked_and_others_are_not(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "DB")
    shutil.rmtree(projects / "relion")
    report = quick(projects, tmp_path / "DB")
    assert "marked as deleted" in report.summary
    statuses = {e.project: e.status for e in Database(tmp_path / "DB").entries()}
    assert statuses == {"CS-demo": "current", "relion": "deleted"}
    assert quick(projects, tmp_path / "DB").summary.count("marked") == 0  # and told once


def test_entries_outside_the_roots_are_left_alone(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "DB")
    quick(projects / "relion", tmp_path / "DB")
    assert {e.status for e in Database(tmp_path / "DB").entries()} == {"current"}


def test_a_job_that_cannot_be_read_is_told_and_the_rest_goes_on(projects: Path, tmp_path: Path) -> None:
    quick(projects, tmp_path / "DB")
    star = refined_star(projects)
    star.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n")
    n_before = len(Database(tmp_path / "DB").entries())
    report = quick(projects, tmp_path / "DB")
    line = next(line for line in report.lines if line.job == star.parent.name)
    assert line.status == "failed"
    assert "run_data.star" in line.reason
    entry = Database(tmp_path / "DB").entry(f"relion/Refine3D_{star.parent.name}")
    assert entry.status == "stale"
    assert len(Database(tmp_path / "DB").entries()) == n_before
    assert report.exit_code is ExitCode.PARTLY_FAILED


def test_whatever_a_reader_raises_is_an_error_of_its_job_alone(
    projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = running.read_job

    def failing(job: object, **options: object) -> object:
        name = job.job  # type: ignore[attr-defined]
        if name == "J10":
            raise ValueError("boom")
        if name == "J11":
            raise BadInput("x.cs", "is broken.")
        if name == "J6":
            raise MemoryError
        if name == "J5":
            raise PermissionError(13, "Permission denied", "/x")
        return read(job, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "read_job", failing)
    report = quick(projects, tmp_path / "DB")
    assert "defect of cryoflow (ValueError: boom)" in of(report, "J10")[1]
    assert of(report, "J11") == ("failed", "x.cs: is broken.")
    assert "more memory" in of(report, "J6")[1]
    assert "Permission denied" in of(report, "J5")[1]
    assert report.exit_code is ExitCode.PARTLY_FAILED
    assert ", 4 failed" in report.summary
    monkeypatch.undo()
    assert quick(projects, tmp_path / "DB").summary.count("4 read") == 1  # failed ones are tried again, others not


@pytest.mark.forks
def test_a_reader_that_dies_takes_one_job_down(projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = running.read_job

    def dying(job: object, **options: object) -> object:
        if job.job == "J10":  # type: ignore[attr-defined]
            os._exit(9)
        return read(job, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(running, "read_job", dying)
    monkeypatch.setattr(running, "get_context", lambda _: multiprocessing.get_context("fork"))
    report = quick(projects / "CS-demo", tmp_path / "DB", workers=2)
    assert of(report, "J10")[0] == "failed"
    assert "was killed" in of(report, "J10")[1]
    assert [line.job for line in report.lines if line.status == "failed"] == ["J10"]


def test_a_database_that_cannot_be_written_ends_the_run(
    projects: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cryoflow.storage import fault_points

    quick(projects / "CS-demo", tmp_path / "DB")
    passed = []

    def full(name: str) -> None:
        passed.append(name)
        if len(passed) == 40:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(fault_points, "on_fault_point", full)
    with pytest.raises(NotWritten, match="No space left"):
        quick(projects, tmp_path / "DB")
    monkeypatch.undo()
    quick(projects, tmp_path / "DB")
    quick(projects, tmp_path / "other")
    assert tree(tmp_path / "DB") == tree(tmp_path / "other")


def test_projects_are_not_touched(projects: Path, tmp_path: Path) -> None:
    def snapshot() -> dict[str, tuple[int, int, int]]:
        stats = {str(p): p.lstat() for p in sorted(projects.rglob("*"))}
        return {p: (s.st_mtime_ns, s.st_ctime_ns, s.st_size) for p, s in stats.items()}

    before = snapshot()
    quick(projects, tmp_path / "DB")
    ingest(projects / "relion", tmp_path / "DB2")
    assert snapshot() == before


def test_a_project_recorded_upside_down_is_found_out_and_set_right(
    projects: Path, tmp_path: Path, simulated: SimulatedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from cryoflow.ingest import AxisConvention

    read = running.read_job

    def upside_down(job: object, **options: object) -> object:
        sets = []
        for p in read(job, **options):  # type: ignore[arg-type]
            ny = p.micrographs["ny"].to_numpy(float)[p.picks["micrograph"]]
            sets.append(replace(p, picks=p.picks.assign(y_px=ny - 1 - p.picks["y_px"])))
        return sets

    monkeypatch.setattr(running, "read_job", upside_down)
    report = ingest(projects / "relion", tmp_path / "DB")
    database = Database(tmp_path / "DB")
    name = next(e.name for e in database.entries() if e.kind.value == "Refine3D")
    entry = database.entry(name)
    assert (entry.orientation.verdict, entry.orientation.best) == ("contradicted", "--flip-y")
    assert any("overlay" in line.warning for line in report.lines)
    (selected,) = select_best(database)
    assert selected.entry is None or selected.entry.orientation.verdict != "contradicted"
    report = ingest(projects / "relion", tmp_path / "DB", flips={"relion": AxisConvention(flip_y=True)})
    assert all(line.reason == "changed" for line in report.lines if line.status == "read")
    entry = database.entry(name)
    assert entry.orientation.verdict == "confirmed"
    assert any("on the user's word: --flip-y" in note for note in entry.notes)


def test_a_flip_that_was_not_needed_is_found_out_as_the_users_own(
    tmp_path: Path, simulated: SimulatedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "picks.star"
    from cryoflow.formats.star import write_star

    names = np.repeat([m.path.name for m in simulated.micrographs], [len(m.true_xy_px) for m in simulated.micrographs])
    xy = np.concatenate([m.true_xy_px for m in simulated.micrographs])
    optics = {"rlnOpticsGroup": [1], "rlnImagePixelSize": [1.5], "rlnImageSize": [168]}
    columns = {"rlnMicrographName": names, "rlnCoordinateX": xy[:, 0], "rlnCoordinateY": xy[:, 1]}
    columns["rlnOpticsGroup"] = np.ones(len(xy), int)
    write_star(table, {"optics": optics, "particles": columns}, comment="")
    command = ["ingest", str(table), "--micrographs", str(simulated.micrographs[0].path.parent)]
    assert launch([*command, "--database", str(tmp_path / "DB"), "--flip-y", "any"]) == 0
    assert "turned by --flip-y as asked, and now --flip-y fits better" in capsys.readouterr().err


def test_a_flip_of_a_project_that_is_not_there_is_refused(projects: Path, tmp_path: Path) -> None:
    from cryoflow.ingest import AxisConvention

    with pytest.raises(BadInput, match="a flip names this project"):
        quick(projects, tmp_path / "DB", flips={"P1l2": AxisConvention(flip_y=True)})


def test_a_plan_says_what_would_be_done_and_does_nothing(projects: Path, tmp_path: Path) -> None:
    plan = plan_jobs(projects, Database(tmp_path / "DB"))
    assert {p.action for p in plan.jobs} == {"read", "skip"}
    assert not (tmp_path / "DB").exists()


def test_the_command_line_tells_a_person_and_a_script(
    projects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    db = str(tmp_path / "DB")
    assert launch(["crawl", str(projects)]) == 0
    assert "Refine3D\tusable" in capsys.readouterr().out
    assert launch(["ingest", str(projects), "--database", db, "--no-check-orientation", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["summary"].startswith(f"{len(said['jobs'])} jobs: ")
    assert launch(["database", "list", "--database", db, "--json"]) == 0
    names = [e["name"] for e in json.loads(capsys.readouterr().out)]
    assert "CS-demo/Homo_J10" in names
    assert launch(["database", "show", "CS-demo/Homo_J10", "--database", db]) == 0
    assert "program: cryosparc" in capsys.readouterr().out
    assert launch(["database", "select", "--database", db, "--json"]) == 0
    assert {s["entry"] for s in json.loads(capsys.readouterr().out)} >= {"CS-demo/NonUniform_J11"}
    assert launch(["database", "verify", "--database", db]) == 0
    (tmp_path / "DB/CS-demo/Particles/Homo_J10/info.txt").write_text("x")
    assert launch(["database", "verify", "--database", db]) == 1
    assert launch(["database", "verify", "--database", db, "--repair"]) == 3
    assert launch(["database", "verify", "--database", db]) == 0
    assert launch(["database", "remove", "CS-demo/Hetero_J9_class1", "--database", db]) == 0
    assert launch(["ingest", str(projects), "--database", db, "--no-check-orientation"]) == 0
    capsys.readouterr()
    assert launch(["database", "list", "--database", db, "--json"]) == 0
    assert [e["name"] for e in json.loads(capsys.readouterr().out)] == names
    assert launch(["database", "list", "--database", str(tmp_path / "none")]) == 1
    assert launch(["ingest", str(tmp_path / "none"), "--database", db]) == 1


def test_real_files_are_read_for_what_they_are(
    realdata: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = realdata / "relion3_micrograph"
    db = tmp_path / "DB"
    star = str(folder / "Ucsf_stack_1142_DW_autopick.star")
    assert launch(["ingest", star, "--micrographs", str(folder), "--name", "ucsf", "--database", str(db)]) == 0
    (entry,) = Database(db).entries()
    assert (entry.project, entry.n_picks, entry.n_micrographs) == ("ucsf", 45, 1)
    assert Database(db).load(entry).micrographs["path"].tolist() == [str(folder / "Ucsf_stack_1142_DW.mrc")]
    capsys.readouterr()
    pointer = realdata / "cryosparc_files" / "job096_run_data.star"
    empty = realdata / "cryosparc_files" / "4k_dataset.cs"
    assert launch(["ingest", str(pointer), str(empty), "--database", str(db)]) in (1, 3)
    assert "git-lfs" in capsys.readouterr().out.lower()
    assert launch(["ingest", str(realdata / "relion31_pipeline"), "--database", str(db)]) in (0, 1, 3)
    assert "31 jobs" in capsys.readouterr().err


def test_an_entry_is_read_again_when_its_missing_micrographs_turn_up(projects: Path, tmp_path: Path) -> None:
    folder = next((projects / "relion/MotionCorr").glob("job*/Movies"))
    folder.rename(tmp_path / "archived")
    quick(projects, tmp_path / "DB")
    assert {line.status for line in quick(projects, tmp_path / "DB").lines} == {"unchanged", "skipped"}
    (tmp_path / "archived").rename(folder)
    report = quick(projects, tmp_path / "DB")
    read = [line for line in report.lines if line.status == "read"]
    assert {line.project for line in read} == {"relion"}
    assert {line.reason for line in read} == {"micrographs that were missing are there now"}
    (best,) = (s.entry for s in select_best(Database(tmp_path / "DB")) if s.project == "relion")
    assert best is not None
    assert set(Database(tmp_path / "DB").load(best).micrographs["status"]) == {"found"}
    assert {line.status for line in quick(projects, tmp_path / "DB").lines} == {"unchanged", "skipped"}


def test_a_changed_file_of_picks_of_one_micrograph_is_noticed(projects: Path, tmp_path: Path) -> None:
    from cryoflow.formats.star import read_table, write_star

    quick(projects, tmp_path / "DB")
    file = next((projects / "relion/ManualPick").rglob("*_manualpick.star"))
    table = read_table(file, None)
    write_star(file, {"": {name: values[:-1] for name, values in table.items()}}, comment="")
    (line,) = (line for line in quick(projects, tmp_path / "DB").lines if line.status == "read")
    assert (line.kind, line.reason) == ("ManualPick", "changed")


def test_a_file_of_picks_that_is_rewritten_in_place_is_noticed(projects: Path, tmp_path: Path) -> None:
    """As an editor or a script does: the times of its folder and of the list that names it stay as they are."""
    quick(projects, tmp_path / "DB")
    file = next((projects / "relion/AutoPick").rglob("*_autopick.star"))
    before = file.parent.stat()
    with file.open("r+b") as stream:
        content = stream.read().rstrip().rpartition(b"\n")[0] + b"\n"
        stream.seek(0)
        stream.write(content)
        stream.truncate()
    assert file.parent.stat().st_mtime_ns == before.st_mtime_ns
    (line,) = (line for line in quick(projects, tmp_path / "DB").lines if line.status == "read")
    assert (line.kind, line.reason) == ("AutoPick", "changed")
    file.unlink()
    (line,) = (line for line in quick(projects, tmp_path / "DB").lines if line.status == "read")
    assert (line.kind, line.reason) == ("AutoPick", "changed")


def test_jobs_that_may_have_finished_are_read_where_that_is_asked_for(projects: Path, tmp_path: Path) -> None:
    pipeline = projects / "relion/default_pipeline.star"
    text = pipeline.read_text()
    (row,) = (line for line in text.splitlines() if line.startswith("Refine3D/") and "relion.refine3d" in line)
    pipeline.write_text(text.replace(row, row.replace("Succeeded", "Running")))
    next((projects / "relion/Refine3D").rglob("RELION_JOB_EXIT_SUCCESS")).unlink()
    (line,) = (line for line in quick(projects, tmp_path / "DB").lines if line.kind == "Refine3D")
    assert line.status == "skipped"
    assert line.reason.startswith("stale: default_pipeline.star says Running")
    report = quick(projects, tmp_path / "DB", include_unfinished=True)
    assert "read" in {line.status for line in report.lines if line.kind == "Refine3D"}


def test_a_folder_of_relion_1_with_a_file_a_micrograph_is_read_by_hand(
    tmp_path: Path, simulated: SimulatedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    from relion_projects import write_relion_project

    write_relion_project(tmp_path / "old", simulated, version="1", micrographs="copy")
    micrographs = next((tmp_path / "old").rglob("*_autopick.star")).parent
    arguments = ["ingest", str(micrographs), "--micrographs", str(micrographs), "--name", "old", "--json"]
    assert launch([*arguments, "--database", str(tmp_path / "DB"), "--no-check-orientation"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["jobs"]
    assert line["n_picks"] == sum(len(m.picks_xy_px) for m in simulated.micrographs)
    entry = Database(tmp_path / "DB").load(line["entries"][0])
    assert set(entry.micrographs["status"]) == {"found"}
    for row, picks in entry.by_micrograph():
        (mic,) = (m for m in simulated.micrographs if m.path.name == Path(entry.micrographs["name"][row]).name)
        assert len(picks) == len(mic.picks_xy_px)


def test_lone_tables_of_one_folder_never_replace_each_other(tmp_path: Path, simulated: SimulatedDataset) -> None:
    micrograph = simulated.micrographs[0]
    box, csv = (tmp_path / f"{micrograph.path.stem}.{ending}" for ending in ("box", "csv"))
    box.write_text("".join(f"{x - 20:.0f}\t{y - 20:.0f}\t40\t40\n" for x, y in micrograph.true_xy_px))
    csv.write_text("x,y\n" + "".join(f"{x},{y}\n" for x, y in micrograph.true_xy_px[:3]))
    command = ["--micrographs", str(micrograph.path.parent), "--database", str(tmp_path / "DB")]
    for _ in range(2):  # the same tables again are the same entries
        for name in ("ours", "theirs"):
            assert launch(["ingest", str(box), str(csv), *command, "--name", name, "--no-check-orientation"]) == 0
    stem = micrograph.path.stem.replace("_", "-")
    entries = {e.name: e.n_picks for e in Database(tmp_path / "DB").entries()}
    n = len(micrograph.true_xy_px)
    assert entries == {
        f"{name}/Import_{stem}{ending}": number
        for name in ("ours", "theirs")
        for ending, number in (("", n), ("-csv", 3))
    }


def test_tables_whose_names_become_one_are_entries_of_their_own(tmp_path: Path) -> None:
    names = ("a-b_c", "a_b-c", "a_b_c", "A_b_c")
    tables = [tmp_path / "tables" / f"{name}.csv" for name in names]
    tables[0].parent.mkdir()
    for i, table in enumerate(tables):
        table.write_text("micrograph,x,y\n" + "".join(f"mic.mrc,{20 + 10 * j},{30 + i}\n" for j in range(i + 1)))
    database = Database(tmp_path / "DB")
    of_table = [ingest_tables([table], database, check_orientation=False).lines[0].entries for table in tables]
    assert of_table[:2] == [("tables/Import_a-b-c",), ("tables/Import_a-b-c-csv",)]  # as an earlier version called them
    assert len({name.casefold() for (name,) in of_table}) == 4
    for order in (1, -1):  # the same tables again are the same entries, in any order
        again = ingest_tables(tables[::order], database, check_orientation=False)
        assert [line.entries for line in again.lines] == of_table[::order]
    database.remove(of_table[0][0])
    ingest_tables([tables[1]], database, check_orientation=False)  # keeps its name, also where a better one is free
    found = {(e.name, e.output_group): e.n_picks for e in database.entries()}
    assert found == {(of_table[i][0], tables[i].name): i + 1 for i in (1, 2, 3)}


def test_tables_of_one_name_in_folders_of_a_relion_project_are_entries_of_their_own(
    projects: Path, tmp_path: Path
) -> None:
    """Their project is the same; that of other lone tables is the folder that they lie in."""
    of_job = next((projects / "relion").glob("Refine3D/job*/run_data.star"))
    tables = [
        projects / "relion" / place / "picks.star"
        for place in ("v1", "run_1", "run_2", "old/v2", "Refine3D/job099", "old/job099", ".")
    ]
    for table in tables:
        table.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(of_job, table)
    database = Database(tmp_path / "DB")
    report = ingest_tables(tables, database, check_orientation=False)
    names = [name for line in report.lines for name in line.entries]
    assert [name.partition("/")[2] for name in names] == [
        "Import_picks",
        "Import_picks-run-1",
        "Import_picks-run-2",
        "Import_picks-v2",
        "Import_job099-picks",
        "Import_job099-picks-job099",
        "Import_picks-star",
    ]
    again = ingest_tables(tables[::-1], database, check_orientation=False)
    assert [name for line in again.lines for name in line.entries] == names[::-1]
    assert len(database.entries()) == len(tables)
    for name in names:  # what is made of an entry is named after it
        assert database.load(name).provenance.entry_name == name.partition("/")[2]


def test_an_entry_of_an_earlier_version_whose_table_was_named_without_its_folder_is_replaced(
    projects: Path, tmp_path: Path
) -> None:
    table = projects / "relion" / "v1" / "picks.star"
    table.parent.mkdir()
    shutil.copy(next((projects / "relion").glob("Refine3D/job*/run_data.star")), table)
    database = Database(tmp_path / "DB")
    pickset = read_table_of_picks(table)
    assert pickset.provenance.output_group == "v1/picks.star"
    before = database.add(replace(pickset, provenance=replace(pickset.provenance, output_group="picks.star")))
    at_the_root = shutil.copy(table, projects / "relion" / "picks.star")
    for tables in ([at_the_root, table], [table, at_the_root]):
        other, line = sorted(ingest_tables(tables, database, check_orientation=False).lines, key=lambda x: x.entries)
        assert [line.entries, other.entries] == [(f"{before.project}/Import_picks-star",), (before.name,)]
    assert database.load(before.name).provenance.output_group == "v1/picks.star"


def test_crawl_tells_how_many_picks_and_micrographs_each_job_has(
    projects: Path, simulated: SimulatedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    import json

    assert launch(["crawl", str(projects), "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    n_picks = sum(len(m.picks_xy_px) for m in simulated.micrographs)
    usable = [job for job in jobs if job["status"] == "usable"]
    assert all(job["picks"] > 0 and 0 < job["micrographs"] <= 3 for job in usable)
    picked = {job["project"]: (job["picks"], job["micrographs"]) for job in usable if job["kind"] == "AutoPick"}
    assert picked == {"CS-demo": (n_picks, 3), "relion": (n_picks, 3)}
    assert launch(["crawl", str(projects), "--json", "--quick"]) == 0
    quickly = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["job"] for job in quickly] == [job["job"] for job in jobs]
    assert any(job["micrographs"] is None for job in quickly if job["status"] == "usable")


def test_crawl_tells_a_table_that_is_cut_off_in_its_middle(projects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import json

    star = next((projects / "relion" / "Select").glob("job*/particles.star"))
    star.write_bytes(star.read_bytes()[:-60])
    assert launch(["crawl", str(projects / "relion"), "--json"]) == 0
    (job,) = (job for job in json.loads(capsys.readouterr().out)["jobs"] if job["path"] == str(star.parent))
    assert job["status"] == "unreadable"
    assert "was cut short" in job["reason"]


def test_crawl_tells_projects_of_one_name_apart(projects: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for lab in ("ann", "bob"):
        shutil.copytree(projects / "relion", projects / lab / "2024" / "relion", symlinks=True)
    assert launch(["crawl", str(projects / "ann"), str(projects / "bob"), str(projects / "CS-demo"), "--quick"]) == 0
    named = {line.split("\t")[0] for line in capsys.readouterr().out.splitlines()[1:]}
    assert named == {"ann/2024/relion", "bob/2024/relion", "CS-demo"}


def test_a_table_of_downsampled_micrographs_is_noticed_and_scaled_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], simulated: SimulatedDataset
) -> None:
    import json

    table, folder = tmp_path / "topaz.txt", simulated.micrographs[0].path.parent
    rows = [(m.path.stem, *(xy / 8).round(2)) for m in simulated.micrographs for xy in m.picks_xy_px]
    table.write_text("image_name\tx_coord\ty_coord\n" + "".join(f"{n}\t{x}\t{y}\n" for n, x, y in rows))
    arguments = ["ingest", str(table), "--micrographs", str(folder), "--database", str(tmp_path / "DB"), "--json"]
    assert launch(arguments) == 0
    (line,) = json.loads(capsys.readouterr().out)["jobs"]
    assert "with --scale, of at most" in line["warning"]
    assert Database(tmp_path / "DB").entry(line["entries"][0]).notes[-1] in line["warning"]
    assert launch([*arguments, "--scale", "8"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["jobs"]
    assert (line["warning"], line["dropped"]) == ("", {})
    read = Database(tmp_path / "DB").load(line["entries"][0])
    expected = {m.path.name: m.picks_xy_px for m in simulated.micrographs}
    for i, picks in read.by_micrograph():
        np.testing.assert_allclose(picks[["x_px", "y_px"]], expected[read.micrographs["name"][i]], atol=0.05)
    assert launch(["ingest", str(folder), "--scale", "8", "--database", str(tmp_path / "DB")]) == 2


def test_what_was_left_out_is_told_in_the_line_of_its_job(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], simulated: SimulatedDataset
) -> None:
    import json

    mic, table = simulated.micrographs[0], tmp_path / "mine.csv"
    rows = [*mic.true_xy_px.tolist(), mic.true_xy_px[0].tolist(), [-50, 10], ["nan", 10]]
    table.write_text("micrograph,x,y\n" + "".join(f"{mic.path.name},{x},{y}\n" for x, y in rows))
    arguments = ["ingest", str(table), "--micrographs", str(mic.path.parent), "--database", str(tmp_path / "DB")]
    assert launch([*arguments, "--no-check-orientation", "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)["jobs"]
    assert line["n_picks"] == len(mic.true_xy_px)
    assert line["dropped"] == {"duplicate": 1, "nan": 1, "outside": 1}
    assert line["reason"] == "(dropped: 1 duplicate, 1 nan, 1 outside)"


def test_a_table_without_picks_is_told_and_makes_no_entry(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], simulated: SimulatedDataset
) -> None:
    import json

    folder = simulated.micrographs[0].path.parent
    empty, outside = tmp_path / "a_1.csv", tmp_path / "b_2.csv"
    empty.write_text("micrograph,x,y\n")
    outside.write_text(f"micrograph,x,y\n{simulated.micrographs[0].path.name},99999,5\n")
    arguments = ["ingest", str(empty), str(outside), "--micrographs", str(folder), "--database", str(tmp_path / "DB")]
    assert launch([*arguments, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)["jobs"]
    assert [(line["job"], line["status"], line["reason"]) for line in lines] == [
        ("a-1", "skipped", "no picks"),
        ("b-2", "skipped", "no picks (dropped: 1 outside)"),
    ]
    assert Database(tmp_path / "DB").entries() == []
