"""Extracted particles against the micrographs that they were cut from, for whole projects."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryosparc_projects import write_cryosparc_project
from relion_projects import write_relion_project

from cryoflow.formats.cs import read_cs
from cryoflow.formats.star import read_table
from cryoflow.ingest.orientation_check import check_entry
from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import resample_to_shape
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.picks import Kind, PickSet
from cryoflow.projects import read_job
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.simulate.simulated_dataset import SimulatedDataset


def boxes_of(image: np.ndarray, xy_px: np.ndarray, box_px: int, edge: int) -> np.ndarray:
    """As the programs cut and scale them, contrast inverted."""
    cut = cut_boxes(image, xy_px, box_px)
    return -np.stack([resample_to_shape(box, (edge, edge)) for box in cut])


def extracted_by_relion(project: Path, dataset: SimulatedDataset) -> None:
    star = next((project / "Extract").glob("job*/particles.star"))
    names = read_table(star, None, ["rlnMicrographName", "rlnImageName"])
    stacks = dict(zip(map(str, names["rlnMicrographName"]), map(str, names["rlnImageName"]), strict=True))
    for name, image in stacks.items():
        (mic,) = (m for m in dataset.micrographs if m.path.name == Path(name).name)
        target = project / image.partition("@")[2]
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mrc(target, boxes_of(read_micrograph(mic.path), mic.picks_xy_px, 24, 12), 5.0)


def extracted_by_cryosparc(project: Path, dataset: SimulatedDataset) -> None:
    found = read_cs(project / "J5" / "extracted_particles.cs", ["blob/path", "blob/shape"])
    edge = int(found["blob/shape"][0, 0])
    for path in sorted(set(found["blob/path"].tolist())):
        target = project / path.decode()
        (mic,) = (m for m in dataset.micrographs if m.path.stem in target.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_mrc(target, boxes_of(read_micrograph(mic.path), mic.picks_xy_px, 2 * edge, edge), 5.0)


def picks_of(project: Path, kind: Kind, flip: AxisConvention = AS_STORED) -> PickSet:
    (job,) = (job for job in jobs_of(crawl(project).projects).jobs if job.kind is kind)
    return read_job(job, flip=flip)[0]


@pytest.fixture(params=["relion", "relion 3.0", "cryosparc"])
def project(request: pytest.FixtureRequest, tmp_path: Path, blots: SimulatedDataset) -> Path:
    if request.param == "cryosparc":
        write_cryosparc_project(tmp_path / "P", blots)
        extracted_by_cryosparc(tmp_path / "P", blots)
    else:
        write_relion_project(tmp_path / "P", blots, version="3.0" if "3.0" in request.param else "5.0")
        extracted_by_relion(tmp_path / "P", blots)
    return tmp_path / "P"


def test_positions_are_confirmed_where_the_boxes_were_cut_although_shifts_were_subtracted(project: Path) -> None:
    refined = picks_of(project, Kind.REFINE_3D if (project / "Refine3D").exists() else Kind.NON_UNIFORM)
    assert refined.extracted is not None
    assert (refined.picks[["shift_x_px", "shift_y_px"]].abs() > 0.5).any(axis=None)
    verdict, pictures = check_entry(refined)
    assert (verdict.verdict, verdict.best) == ("confirmed", "as recorded")
    assert verdict.detail.startswith("extracted particles against their micrographs")
    assert sorted(pictures) == ["overlay_1.jpg", "overlay_2.jpg"]


def test_a_flip_that_is_wrong_is_found_out_by_a_few_particles_of_no_known_size(project: Path) -> None:
    kind = Kind.EXTRACT
    wrong = replace(picks_of(project, kind, AxisConvention(flip_y=True)), diameter_A=None, box_px=None)
    verdict, _ = check_entry(wrong)
    assert (verdict.verdict, verdict.best) == ("contradicted", "--flip-y")


def test_lost_stacks_leave_the_picks_to_be_judged_by_themselves(project: Path) -> None:
    for stack in [*project.rglob("*.mrcs"), *project.rglob("*_particles.mrc")]:
        stack.unlink()
    picks = picks_of(project, Kind.EXTRACT)
    assert picks.extracted is None
    assert "extracted" not in check_entry(picks)[0].detail
    unknown, pictures = check_entry(replace(picks, diameter_A=None, box_px=None))
    assert (unknown.verdict, unknown.best) == ("confirmed", "as recorded")
    assert "diameter is not known" in unknown.detail
    assert len(pictures) == 2


def test_particles_of_no_known_size_tell_a_wrong_convention_too(project: Path) -> None:
    for stack in [*project.rglob("*.mrcs"), *project.rglob("*_particles.mrc")]:
        stack.unlink()
    wrong = replace(picks_of(project, Kind.EXTRACT, AxisConvention(flip_x=True)), diameter_A=None, box_px=None)
    micrographs = wrong.micrographs.assign(pixel_size_A=np.nan)
    for picks in (wrong, replace(wrong, micrographs=micrographs)):
        verdict, _ = check_entry(picks)
        assert (verdict.verdict, verdict.best) == ("contradicted", "--flip-x")


def test_damaged_stacks_are_passed_over(project: Path) -> None:
    for stack in [*project.rglob("*.mrcs"), *project.rglob("*_particles.mrc")]:
        stack.write_bytes(stack.read_bytes()[:1500])
    picks = picks_of(project, Kind.EXTRACT)
    assert "extracted" not in check_entry(picks)[0].detail
