"""`import cryoflow as cf`: the functions and classes that a Python user meets first."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cryoflow as cf
from cryoflow.errors import BadInput
from cryoflow.formats.star import read_table
from cryoflow.ingest import ingest
from cryoflow.simulate.simulated_dataset import SimulatedDataset

SHAPE_YX = (640, 896)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> SimulatedDataset:
    from cryoflow.simulate.simulation import simulate_dataset

    folder = tmp_path_factory.mktemp("front-door")
    return simulate_dataset(folder / "raw", n_micrographs=2, shape_yx=SHAPE_YX, seed=3, workers=1)


@pytest.fixture(scope="module")
def projects(simulated: SimulatedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from cryosparc_projects import write_cryosparc_project
    from relion_projects import write_relion_project

    root = tmp_path_factory.mktemp("projects")
    write_cryosparc_project(root / "CS-demo", simulated)
    write_relion_project(root / "relion", simulated)
    return root


@pytest.fixture(scope="module")
def database(projects: Path, tmp_path_factory: pytest.TempPathFactory) -> cf.Database:
    root = tmp_path_factory.mktemp("database") / "picks"
    ingest(projects, root, check_orientation=False)
    return cf.Database(root)


def test_the_import_alone_loads_nothing_heavy():
    code = (
        "import sys; import cryoflow as cf; assert 'read' in dir(cf);"
        "print([m for m in ('numpy', 'pandas', 'tensorflow', 'prefect', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", cf.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(cf, name) is not None
    assert name in dir(cf)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="raed"):
        cf.raed  # type: ignore[attr-defined]  # noqa: B018


def test_a_project_is_read_as_the_job_to_train_from(projects: Path):
    picks = cf.read(projects / "relion")
    assert picks.provenance.kind == "Refine3D"
    assert any("read from Refine3D_" in note for note in picks.notes)


def test_a_job_folder_is_read_as_its_main_output(projects: Path):
    every = cf.read_all(projects / "CS-demo")
    folders = {s.provenance.job: s for s in every.values() if not s.provenance.suffix}
    for job, expected in folders.items():
        picks = cf.read(projects / "CS-demo" / job)
        assert len(picks) == len(expected)
        assert picks.provenance.entry_name == expected.provenance.entry_name


def test_a_database_entry_is_the_same_by_its_folder_and_by_its_name(database: cf.Database):
    entry = next(iter(database))
    by_name, by_folder = database[entry.name], cf.read(database.root / entry.folder)
    assert np.array_equal(by_name.centers_xy_px, by_folder.centers_xy_px)
    assert set(cf.read_all(database.root)) == {e.name for e in database}


def test_picks_of_one_micrograph_by_full_name_file_name_and_stem(projects: Path):
    picks = cf.read(projects / "relion")
    for i, some in picks.by_micrograph():
        name = picks.micrographs["name"][i]
        for called in (name, Path(name).name, Path(name).stem):
            assert np.array_equal(picks[called][["x_px", "y_px"]], some[["x_px", "y_px"]])
    assert "micrograph" not in picks[picks.micrographs["name"][0]]


def test_an_unknown_micrograph_names_similar_ones(projects: Path):
    picks = cf.read(projects / "relion")
    stem = Path(picks.micrographs["name"][0]).stem
    with pytest.raises(KeyError, match=f"similar: .*{stem}"):
        picks[stem[:-1]]


def test_a_stem_that_two_micrographs_share_must_be_named_in_full(projects: Path):
    picks = cf.read(projects / "relion")
    table = picks.micrographs.assign(name=["a/mic.mrc", "b/mic.mrc"])
    twins = cf.PickSet.build(picks.provenance, table, picks.picks)
    with pytest.raises(KeyError, match="2 micrographs"):
        twins["mic"]
    assert len(twins["a/mic.mrc"]) + len(twins["b/mic.mrc"]) == len(picks)


def test_a_star_file_written_and_read_again_has_the_same_positions(projects: Path, tmp_path: Path):
    picks = cf.read(projects / "relion")
    again = cf.read(picks.to_star(tmp_path / "out.star"), projects / "relion")
    assert np.allclose(again.centers_xy_px, picks.centers_xy_px, atol=1e-6)
    assert (again.micrographs["status"] == "found").all()
    optics = read_table(tmp_path / "out.star", "optics", ["rlnMicrographPixelSize"])
    assert optics["rlnMicrographPixelSize"][0] == pytest.approx(picks.micrographs["pixel_size_A"][0])


def test_two_pixel_sizes_are_two_optics_groups(projects: Path, tmp_path: Path):
    picks = cf.read(projects / "relion")
    table = picks.micrographs.assign(pixel_size_A=[1.0, 2.0])
    mixed = cf.PickSet.build(picks.provenance, table, picks.picks)
    groups = read_table(mixed.to_star(tmp_path / "out.star"), "particles", ["rlnOpticsGroup"])["rlnOpticsGroup"]
    assert np.array_equal(groups, picks.picks["micrograph"] + 1)


def test_a_plot_has_a_circle_of_the_diameter_around_each_pick(projects: Path, tmp_path: Path):
    from matplotlib.collections import EllipseCollection

    picks = replace(cf.read(projects / "relion"), diameter_A=160.0)
    stem = Path(picks.micrographs["name"][0]).stem
    figure = picks.plot(stem, tmp_path / "picks.png")
    (circles,) = [c for c in figure.axes[0].collections if isinstance(c, EllipseCollection)]
    assert np.allclose(circles.get_offsets(), picks[stem][["x_px", "y_px"]])
    assert np.allclose(circles.get_widths(), 160.0 / picks.micrographs["pixel_size_A"][0])
    assert (tmp_path / "picks.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_micrograph_cannot_be_drawn(projects: Path):
    picks = cf.read(projects / "relion")
    lost = cf.PickSet.build(picks.provenance, picks.micrographs.assign(path=None, status="missing"), picks.picks)
    with pytest.raises(BadInput, match="missing"):
        lost.plot(Path(picks.micrographs["name"][0]).stem)


def test_representations_state_the_numbers(projects: Path, database: cf.Database):
    picks = cf.read(projects / "relion")
    assert f"{len(picks)} picks on 2 micrographs" in repr(picks)
    assert f"{len(list(database))} entries of 2 projects" in repr(database)


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_what_holds_no_picks_is_one_clear_error(path: str, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput):
        cf.read(tmp_path / path)
    with pytest.raises(BadInput):
        cf.read_all(tmp_path / path)


def test_crawl_finds_both_projects(projects: Path):
    assert {p.program for p in cf.crawl(projects).projects} == {"relion", "cryosparc"}
