"""RELION projects whose micrographs are found at another size than they were picked at, and what says the diameter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from relion_projects import write_relion_project

from cryoflow.formats.star import read_blocks, read_table, write_star
from cryoflow.micrographs.fourier import resample_to_shape
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.picks import Kind, PickSet
from cryoflow.projects import read_job
from cryoflow.projects.axis_convention import AS_STORED, AxisConvention
from cryoflow.projects.crawl import crawl, jobs_of
from cryoflow.simulate.simulated_dataset import SimulatedDataset

PIXEL_SIZE_A = 2.5
BINNED = "6 micrographs are binned copies"


def written(folder: Path, dataset: SimulatedDataset) -> Path:
    return write_relion_project(folder, dataset, micrographs="copy", keeps_micrograph_pixel_size=True)


def micrographs_of(project: Path) -> list[Path]:
    return sorted((project / "MotionCorr").rglob("*.mrc"))


def resized(paths: Sequence[Path], factor: float, header_A: float | None = None) -> None:
    for path in paths:
        image = read_micrograph(path)
        shape_yx = (round(image.shape[0] / factor / 2) * 2, round(image.shape[1] / factor / 2) * 2)
        write_mrc(path, resample_to_shape(image, shape_yx), header_A or PIXEL_SIZE_A * factor)


def read(project: Path, kind: Kind = Kind.REFINE_3D, flip: AxisConvention = AS_STORED) -> PickSet:
    (job,) = (job for job in jobs_of(crawl(project).projects).jobs if job.kind is kind)
    return read_job(job, flip=flip)[0]


def darkness(picks: PickSet) -> float:
    """Of the pixels under the picks, in deviations: blots are dark."""
    values = []
    for row, its in picks.by_micrograph():
        image = read_micrograph(str(picks.micrographs["path"][row]))
        image = (image - image.mean()) / image.std()
        x, y = its[["x_px", "y_px"]].to_numpy().round().astype(int).T
        values.append(image[np.clip(y, 0, image.shape[0] - 1), np.clip(x, 0, image.shape[1] - 1)])
    return float(np.concatenate(values).mean())


def record_movies(project: Path, shape_yx: tuple[int, int]) -> None:
    """Motion correction's own files, which say how large the movies were."""
    for star in (project / "MotionCorr").glob("job*/corrected_micrographs.star"):
        blocks = {name: dict(block) for name, block in read_blocks(star).items()}
        names = read_table(star, "micrographs", ["rlnMicrographName"])["rlnMicrographName"]
        blocks["micrographs"]["rlnMicrographMetadata"] = [str(Path(str(n)).with_suffix(".star")) for n in names]
        write_star(star, blocks, comment="version 50001")
        for name in blocks["micrographs"]["rlnMicrographMetadata"]:
            sizes = f"_rlnImageSizeX {2 * shape_yx[1]}\n_rlnImageSizeY {2 * shape_yx[0]}\n_rlnImageSizeZ 40\n"
            (project / name).write_text(f"# version 50001\n\ndata_general\n\n{sizes}_rlnMicrographBinning 2.000000\n\n")


@pytest.mark.parametrize("factor", [2.0, 1.5])
@pytest.mark.parametrize("kind", [Kind.REFINE_3D, Kind.AUTO_PICK])
def test_picks_are_scaled_onto_binned_copies(
    tmp_path: Path, blots: SimulatedDataset, factor: float, kind: Kind
) -> None:
    project = written(tmp_path / "relion", blots)
    full = read(project, kind)
    resized(micrographs_of(project), factor)
    binned = read(project, kind)
    assert len(binned) == len(full)
    assert np.allclose(binned.centers_xy_px * factor, full.centers_xy_px, rtol=0.02)
    assert binned.micrographs["pixel_size_A"].to_numpy() == pytest.approx(PIXEL_SIZE_A * factor, rel=0.01)
    assert any(note.startswith(BINNED) for note in binned.notes)
    assert binned.box_px is None or binned.box_px == pytest.approx((full.box_px or 0) / factor, abs=0.2)
    if kind is Kind.REFINE_3D:
        assert darkness(binned) < -1.5


def test_a_set_of_binned_and_whole_micrographs_is_scaled_where_it_has_to_be(
    tmp_path: Path, blots: SimulatedDataset
) -> None:
    project = written(tmp_path / "relion", blots)
    full = read(project)
    resized(micrographs_of(project)[::2], 2.0)
    mixed = read(project)
    assert len(mixed) == len(full)
    sizes = mixed.micrographs["pixel_size_A"].to_numpy()
    assert sorted(set(np.round(sizes, 2))) == [2.5, 5.0]
    factor = sizes[mixed.picks["micrograph"]][:, None] / PIXEL_SIZE_A
    assert np.allclose(mixed.centers_xy_px * factor, full.centers_xy_px, rtol=0.02)
    assert mixed.box_px is None  # there is no one box in pixels of both
    assert any(note.startswith("3 micrographs are binned copies") for note in mixed.notes)


def test_an_old_pixel_size_in_the_headers_scales_nothing(tmp_path: Path, blots: SimulatedDataset) -> None:
    project = written(tmp_path / "relion", blots)
    full = read(project)
    resized(micrographs_of(project), 1.0, header_A=1.25)
    believed = read(project)
    assert np.array_equal(believed.centers_xy_px, full.centers_xy_px)
    assert believed.micrographs["pixel_size_A"].to_numpy() == pytest.approx(PIXEL_SIZE_A)
    assert any("another pixel size in their headers" in note for note in believed.notes)


def test_a_size_that_fits_in_no_way_rejects_the_micrographs_and_keeps_the_picks(
    tmp_path: Path, blots: SimulatedDataset
) -> None:
    project = written(tmp_path / "relion", blots)
    full = read(project)
    resized(micrographs_of(project), 4.0, header_A=5.0)
    odd = read(project)
    assert set(odd.micrographs["status"]) == {"unreadable"}
    assert np.array_equal(odd.centers_xy_px, full.centers_xy_px)
    assert any("a size that does not fit the picks" in note for note in odd.notes)


@pytest.mark.parametrize("factor", [2.0, 0.5])
def test_motion_corrections_record_of_the_movie_decides_where_picks_are_few(
    tmp_path: Path, blots: SimulatedDataset, factor: float
) -> None:
    project = written(tmp_path / "relion", blots)
    record_movies(project, blots.micrographs[0].shape_yx)
    full = read(project, Kind.MANUAL_PICK)
    resized(micrographs_of(project), factor)
    scaled = read(project, Kind.MANUAL_PICK)
    assert len(scaled) == len(full) > 0
    assert np.allclose(scaled.centers_xy_px * factor, full.centers_xy_px, rtol=0.02)


def test_exchanged_axes_are_told_from_binning(tmp_path: Path, blots: SimulatedDataset) -> None:
    project = written(tmp_path / "relion", blots)
    full = read(project)
    star = next((project / "Refine3D").glob("job*/run_data.star"))
    text = star.read_text().replace("rlnCoordinateX", "?").replace("rlnCoordinateY", "rlnCoordinateX")
    text = text.replace("?", "rlnCoordinateY").replace("OriginXAngst", "?").replace("OriginYAngst", "OriginXAngst")
    star.write_text(text.replace("?", "OriginYAngst"))
    assert read(project).counts["outside"] > 0
    assert "outside" not in read(project, flip=AxisConvention(swap_xy=True)).counts
    assert np.array_equal(read(project, flip=AxisConvention(swap_xy=True)).centers_xy_px, full.centers_xy_px)
    resized(micrographs_of(project), 2.0)
    binned = read(project, flip=AxisConvention(swap_xy=True))
    assert np.allclose(binned.centers_xy_px * 2, full.centers_xy_px, rtol=0.02)


def options(project: Path, folder: str, **values: str) -> None:
    path = next((project / folder).glob("job*/job.star"))
    blocks = read_blocks(path)
    table = blocks["joboptions_values"]
    table = {
        "rlnJobOptionVariable": [*(v for v in table["rlnJobOptionVariable"] if v not in values), *values],
        "rlnJobOptionValue": [
            *(o for v, o in table.itertuples(index=False) if v not in values),  # type: ignore[union-attr]
            *values.values(),
        ],
    }
    write_star(path, {"job": blocks["job"], "joboptions_values": table}, comment="version 50001")


def test_the_diameter_is_the_pickers_else_the_masks(tmp_path: Path, blots: SimulatedDataset) -> None:
    project = written(tmp_path / "relion", blots)
    options(project, "ManualPick", diameter="100")  # what it draws where nobody said anything
    assert read(project).diameter_A is None
    options(project, "Class2D", particle_diameter="170")
    for kind in (Kind.AUTO_PICK, Kind.EXTRACT, Kind.REFINE_3D):  # before the mask and behind it
        assert read(project, kind).diameter_A == 170
        assert "diameter is that of a mask, so the particle may be smaller" in read(project, kind).notes
    options(project, "AutoPick", do_log="Yes", log_diam_min="120", log_diam_max="160")
    assert read(project).diameter_A == 140
    assert not any("mask" in note for note in read(project).notes)
    options(project, "AutoPick", topaz_particle_diameter="130")
    assert read(project).diameter_A == 130
