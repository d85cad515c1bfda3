"""Flips, what a job's key depends on, and the sentence at the end."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cryoflow.errors import BadInput, ExitCode, MissingMetadata
from cryoflow.ingest import AxisConvention, IngestLine, IngestOptions, IngestReport
from cryoflow.ingest.options import flips_by_project
from cryoflow.ingest.state import job_key
from cryoflow.micrographs.orientation import Orientation
from cryoflow.picks import Kind, micrograph_table
from cryoflow.projects.axis_convention import apply
from cryoflow.projects.found import Job, JobStatus, Output

SHAPE_YX = (300, 400)


def tables(shape_yx: tuple[int, int] | None = SHAPE_YX) -> tuple[dict[str, np.ndarray], pd.DataFrame]:
    rng = np.random.default_rng(0)
    ny, nx = shape_yx or (pd.NA, pd.NA)
    table = micrograph_table({"name": ["a.mrc"], "ny": pd.array([ny], dtype="Int32"), "nx": pd.array([nx], "Int32")})
    picks = {
        "micrograph": np.zeros(20, int),
        "x_px": rng.uniform(0, 400, 20),  # beyond the last row, where x and y are exchanged
        "y_px": rng.uniform(0, 290, 20),
        "shift_x_px": rng.normal(0, 2, 20),
        "shift_y_px": rng.normal(0, 2, 20),
        "psi_deg": np.zeros(20),
    }
    return picks, table


def places(picks: dict[str, np.ndarray], prefix: str = "") -> np.ndarray:
    return np.stack([picks[f"{prefix}x_px"], picks[f"{prefix}y_px"]], axis=1)


@pytest.mark.parametrize("swap_xy", [False, True])
@pytest.mark.parametrize("flip_x", [False, True])
@pytest.mark.parametrize("flip_y", [False, True])
def test_a_flip_is_the_one_that_the_orientation_check_names(flip_x: bool, flip_y: bool, swap_xy: bool) -> None:
    flip, convention = AxisConvention(flip_x, flip_y, swap_xy), Orientation(swap_xy, flip_x, flip_y)
    original, table = tables()
    result = dict(original)
    notes = apply(result, table, flip, Path("/p"))
    np.testing.assert_allclose(places(result), convention.apply(places(original), SHAPE_YX))
    before = places(original) + places(original, "shift_")
    after = places(result) + places(result, "shift_")
    np.testing.assert_allclose(after, convention.apply(before, SHAPE_YX))  # the unshifted positions go along
    if flip != AxisConvention():
        assert str(flip) == str(convention)
        assert "psi_deg" not in result
        assert notes == (f"set right on the user's word: {flip}",)


def test_nothing_is_mirrored_on_a_micrograph_of_unknown_shape() -> None:
    with pytest.raises(MissingMetadata, match=r"the shape of a\.mrc is not known"):
        apply(*tables(None), AxisConvention(flip_y=True), Path("/p"))


def test_flips_are_given_by_project() -> None:
    flips = flips_by_project(flip_x=("A",), flip_y=("A", "/data/B"), swap_xy=())
    options = IngestOptions(flips=flips)
    assert options.flip_of("A", Path("/data/A")) == AxisConvention(flip_x=True, flip_y=True)
    assert options.flip_of("B", Path("/data/B")) == AxisConvention(flip_y=True)
    assert options.flip_of("B", Path("/other/B")) == AxisConvention()
    assert options.unused_flips({"A": Path("/data/A")}) == ["/data/B"]


def test_a_key_changes_with_all_that_decides_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.star"
    file.write_text("1")
    os.utime(file, ns=(1, 1))
    job = Job(
        "relion",
        tmp_path,
        "p",
        "job001",
        tmp_path,
        Kind.HOMO,
        "relion.refine3d",
        JobStatus.USABLE,
        outputs=(Output("run_data.star", "", (file,)),),
    )
    options = IngestOptions()
    keys = {
        job_key(job, options),
        job_key(job, replace(options, remaps={"/a": "/b"})),
        job_key(job, replace(options, flips={"p": AxisConvention(flip_y=True)})),
        job_key(job, replace(options, check_orientation=False)),
        job_key(replace(job, job_type="relion.refine3d.x"), options),
        job_key(replace(job, outputs=(*job.outputs, Output("other"))), options),
    }
    assert len(keys) == 6
    assert job_key(job, options) in keys
    assert job_key(job, replace(options, flips={"q": AxisConvention(flip_y=True)}, reread=True)) in keys
    os.utime(file, ns=(1, 2))
    assert job_key(job, options) not in keys
    os.utime(file, ns=(1, 1))
    file.write_text("12")
    os.utime(file, ns=(1, 1))
    assert job_key(job, options) not in keys
    file.unlink()
    assert job_key(job, options) not in keys


def line(status: str, reason: str = "") -> IngestLine:
    return IngestLine("P", "J1", "Homo", status, reason, 0, 0, ())


@pytest.mark.parametrize(
    ("lines", "summary", "code"),
    [
        (["read"] * 121 + ["skipped"] * 5 + ["failed"] * 2, "128 jobs: 121 read, 5 skipped (unfinished), 2 failed", 3),
        (["read"], "1 job: 1 read", 0),
        (["unchanged", "deleted"], "1 job: 1 unchanged; 1 entry marked as deleted", 0),
        (["failed"], "1 job: 1 failed", 1),
        ([], "0 jobs: nothing to do", 0),
    ],
)
def test_the_last_sentence_and_the_exit_code(lines: list[str], summary: str, code: int) -> None:
    report = IngestReport(tuple(line(s, "unfinished: it runs" if s == "skipped" else "") for s in lines))
    assert report.summary == summary
    assert report.exit_code == code


def test_reasons_of_skipping_are_counted_and_unreadable_folders_told() -> None:
    report = IngestReport(
        (
            line("read"),
            line("skipped", "unfinished: runs"),
            line("skipped", "cleared (dropped: 2 nan)"),
            line("skipped", "cleared"),
        ),
        (BadInput("/x", "cannot be read."),),
    )
    assert report.summary == ("4 jobs: 1 read, 3 skipped (2 cleared, 1 unfinished); 1 folder could not be looked into")
    assert report.exit_code is ExitCode.PARTLY_FAILED
