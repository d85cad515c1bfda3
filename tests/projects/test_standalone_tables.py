"""Tables of picks given by hand: whatever wrote them, told by their content, right at the pixel."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from relion_projects import write_relion_project

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.cs import write_cs
from cryoflow.formats.star import write_star
from cryoflow.micrographs.image import read_micrograph, write_mrc
from cryoflow.projects.tables import read_table_of_picks

BOX = 16


@pytest.fixture
def mic(blots):
    return blots.micrographs[0]


def rows(xy: np.ndarray, *more: float, separator: str = "\t", end: str = "\n") -> str:
    return "".join(separator.join(f"{v:.4f}" for v in (x, y, *more)) + end for x, y in xy)


def star(path: Path, xy: np.ndarray) -> None:
    write_star(path, {"": {"rlnCoordinateX": xy[:, 0], "rlnCoordinateY": xy[:, 1]}})


def box(path: Path, xy: np.ndarray) -> None:
    path.write_text(rows(xy - BOX / 2, BOX, BOX))


def box_crlf(path: Path, xy: np.ndarray) -> None:
    path.write_bytes(rows(xy - BOX / 2, BOX, BOX, end="\r\n").encode())


def repic(path: Path, xy: np.ndarray) -> None:
    path.write_text(rows(xy - BOX / 2, BOX, BOX, 0.75))


def old_cbox(path: Path, xy: np.ndarray) -> None:
    path.write_bytes(rows(xy - BOX / 2, BOX, BOX, 0.75, 15, 17, end="\r\n").encode())


def cbox(path: Path, xy: np.ndarray) -> None:
    n = len(xy)
    columns = {
        "CoordinateX": xy[:, 0] - BOX / 2,
        "CoordinateY": xy[:, 1] - BOX / 2,
        "CoordinateZ": ["<NA>"] * n,
        "Width": np.full(n, float(BOX)),
        "Height": np.full(n, float(BOX)),
        "Depth": ["<NA>"] * n,
        "EstWidth": np.full(n, 15.0),
        "EstHeight": np.full(n, 17.0),
        "Confidence": np.full(n, 0.75),
        "NumBoxes": ["<NA>"] * n,
        "Angle": ["<NA>"] * n,
    }
    blocks = {"global": {"cbox_format_version": "1.0"}, "cryolo": columns, "cryolo_include": {"slice_index": []}}
    write_star(path, blocks)


def centers(path: Path, xy: np.ndarray) -> None:
    path.write_text(rows(xy, separator="  "))


def thi(path: Path, xy: np.ndarray) -> None:
    path.write_text("[Particle Coordinates: X Y Value]\n" + rows(xy, 0.75) + "[End]\n")


def csv(path: Path, xy: np.ndarray) -> None:
    path.write_text("x_px,y_px,score\n" + rows(xy, 0.75, separator=","))


def topaz(path: Path, xy: np.ndarray) -> None:
    lines = "".join(f"mic000\t{x:.4f}\t{y:.4f}\t0.75\n" for x, y in xy)
    path.write_text("image_name\tx_coord\ty_coord\tscore\n" + lines)


def cryoppp(path: Path, xy: np.ndarray) -> None:
    flipped = np.column_stack([xy[:, 0], 190 - 1 - xy[:, 1]])
    path.write_text("X-Coordinate,Y-Coordinate,Diameter\n" + rows(flipped, 16, separator=","))


FORMATS = {
    "RELION STAR": (star, "mic000_autopick.star"),
    "EMAN box": (box, "mic000.box"),
    "EMAN box, CRLF": (box_crlf, "mic000.box"),
    "EMAN box, REPIC": (repic, "mic000.box"),
    "crYOLO cbox (old)": (old_cbox, "mic000.cbox"),
    "crYOLO cbox": (cbox, "mic000.cbox"),
    "text of centers": (centers, "mic000.txt"),
    "EPicker thi": (thi, "mic000.thi"),
    "table": (csv, "mic000.csv"),
    "Topaz table": (topaz, "anything.txt"),
    "CryoPPP CSV": (cryoppp, "mic000.csv"),
}


def assert_on_particles(pickset, micrograph) -> None:
    image = read_micrograph(pickset.micrographs["path"][0])
    x, y = pickset.centers_xy_px.round().astype(int).T
    assert image[y, x].max() < -1.5
    np.testing.assert_allclose(pickset.centers_xy_px, micrograph.true_xy_px, atol=1e-3)


@pytest.mark.parametrize("extension", ["as it should be", ".picks"])
@pytest.mark.parametrize("name", FORMATS)
def test_picks_of_each_format_lie_on_particles(tmp_path: Path, mic, name: str, extension: str) -> None:
    write, file = FORMATS[name]
    path = tmp_path / file
    if extension == ".picks":
        path = path.with_suffix(extension)
    write(path, mic.true_xy_px)
    pickset = read_table_of_picks(path, mic.path.parent)
    assert_on_particles(pickset, mic)
    assert pickset.provenance.job_type == name.split(",")[0]
    assert pickset.micrographs["name"].tolist() == ["mic000.mrc"]
    assert pickset.micrographs["status"].tolist() == ["found"]
    assert pickset.provenance.kind.value == "Import"
    if "box" in name:
        assert pickset.box_px == BOX
    if "score" in pickset.picks:
        assert set(pickset.picks["score"]) == {0.75}


def test_a_table_of_several_micrographs_finds_each(tmp_path: Path, blots) -> None:
    lines = ["image_name\tx_coord\ty_coord"]
    for m in blots.micrographs:
        lines += [f"{m.path.stem}\t{x:.3f}\t{y:.3f}" for x, y in m.true_xy_px]
    lines += ["not_there\t5\t5"]
    (tmp_path / "p.txt").write_text("\n".join(lines) + "\n")
    pickset = read_table_of_picks(tmp_path / "p.txt", blots.micrographs[0].path.parent)
    assert len(pickset) == 49
    status = dict(zip(pickset.micrographs["name"], pickset.micrographs["status"], strict=True))
    assert status == {m.path.name: "found" for m in blots.micrographs} | {"not_there": "missing"}


def test_a_downsampled_topaz_table_is_scaled_up(tmp_path: Path, mic) -> None:
    topaz(tmp_path / "p.txt", mic.true_xy_px / 4)
    pickset = read_table_of_picks(tmp_path / "p.txt", mic.path.parent, scale=4)
    np.testing.assert_allclose(pickset.centers_xy_px, mic.true_xy_px, atol=1e-3)


def test_a_folder_of_files_is_one_set_and_empty_files_are_empty_micrographs(tmp_path: Path, blots) -> None:
    for m in blots.micrographs:
        box(tmp_path / f"{m.path.stem}.box", m.true_xy_px)
    (tmp_path / "mic000.box").write_bytes(b"")
    pickset = read_table_of_picks(tmp_path, blots.micrographs[0].path.parent)
    assert len(pickset) == 40
    assert len(pickset.micrographs) == 6
    assert "mic000.mrc" in set(pickset.micrographs["name"])


def test_y_is_turned_around_only_with_a_known_height(tmp_path: Path, mic) -> None:
    cryoppp(tmp_path / "mic000.csv", mic.true_xy_px)
    with pytest.raises(MissingMetadata, match="--micrographs"):
        read_table_of_picks(tmp_path / "mic000.csv")
    as_it_stands = read_table_of_picks(tmp_path / "mic000.csv", mic.path.parent, flip_y=False)
    assert not np.allclose(as_it_stands.centers_xy_px, mic.true_xy_px, atol=1)


def shifted(path: Path, m, shift_A: float) -> None:
    """A particle table whose positions are off by a refined shift, at 2 A a pixel."""
    n = len(m.true_xy_px)
    columns = {
        "rlnCoordinateX": m.true_xy_px[:, 0] + shift_A / 2,
        "rlnCoordinateY": m.true_xy_px[:, 1] - shift_A / 2,
        "rlnMicrographName": [m.path.name] * n,
        "rlnOriginXAngst": np.full(n, shift_A),
        "rlnOriginYAngst": np.full(n, -shift_A),
        "rlnOpticsGroup": np.ones(n, int),
    }
    optics = {"rlnOpticsGroup": [1], "rlnMicrographPixelSize": [2.0], "rlnImagePixelSize": [4.0], "rlnImageSize": [16]}
    write_star(path, {"optics": optics, "particles": columns})


def test_refined_shifts_are_subtracted_however_a_particle_table_is_named(tmp_path: Path, blots) -> None:
    here = blots.micrographs[0].path.parent
    for m in blots.micrographs[:2]:
        write_mrc(tmp_path / "mics" / m.path.name, read_micrograph(m.path), 2.0)
        shifted(tmp_path / "tables" / f"of_{m.path.stem}.star", m, 12.0)
    true_xy_px = np.concatenate([m.true_xy_px for m in blots.micrographs[:2]])
    shape_yx = read_micrograph(blots.micrographs[0].path).shape
    assert shape_yx[0] != shape_yx[1]
    both = read_table_of_picks(tmp_path / "tables", tmp_path / "mics")
    np.testing.assert_allclose(both.centers_xy_px, true_xy_px, atol=1e-2)
    for row in (0, 1):
        x, y = both.centers_xy_px[both.picks["micrograph"] == row].round().astype(int).T
        assert read_micrograph(both.micrographs["path"][row])[y, x].max() < -1.5
    one = tmp_path / "tables" / f"of_{blots.micrographs[0].path.stem}.star"
    turned = read_table_of_picks(one, tmp_path / "mics", flip_y=True)
    mirrored = [(x, shape_yx[0] - 1 - y) for x, y in blots.micrographs[0].true_xy_px]
    np.testing.assert_allclose(turned.centers_xy_px, mirrored, atol=1e-2)
    with pytest.raises(BadInput, match="has refined shifts, which are not scaled"):
        read_table_of_picks(one, here, scale=2.0)
    shifted(one, blots.micrographs[0], 0.0)
    halved = read_table_of_picks(one, here, scale=0.5)
    np.testing.assert_allclose(halved.centers_xy_px, blots.micrographs[0].true_xy_px / 2, atol=1e-2)


def test_a_tables_own_pixel_size_counts_where_headers_are_unset_and_is_compared_where_they_are_not(
    tmp_path: Path, mic
) -> None:
    n = len(mic.true_xy_px)
    columns = {
        "cisTEMOriginalImageFilename": [f"'{mic.path.name}'"] * n,
        "cisTEMOriginalXPosition": mic.true_xy_px[:, 0] * 1.3,
        "cisTEMOriginalYPosition": mic.true_xy_px[:, 1] * 1.3,
        "cisTEMPixelSize": np.full(n, 1.3),
    }
    write_star(tmp_path / "t.star", {"": columns})
    for in_header_A, size_A, is_noted in ((1.0, 1.3, False), (2.6, 2.6, True), (1.3, 1.3, False)):
        write_mrc(tmp_path / "mics" / mic.path.name, read_micrograph(mic.path), in_header_A)
        pickset = read_table_of_picks(tmp_path / "t.star", tmp_path / "mics")
        assert pickset.micrographs["pixel_size_A"].tolist() == pytest.approx([size_A])
        assert any("--scale 0.5" in note for note in pickset.notes) == is_noted


def test_a_particle_table_of_a_project_knows_what_the_project_knows(tmp_path: Path, blots) -> None:
    folder = write_relion_project(tmp_path / "P1", blots)
    for file, n in (("Refine3D/job011/run_data.star", 48), ("AutoPick/job005/autopick.star", 66)):
        pickset = read_table_of_picks(folder / file)
        assert len(pickset) == n
        assert set(pickset.micrographs["status"]) == {"found"}
        np.testing.assert_allclose(pickset.micrographs["pixel_size_A"], 2.5)
    shutil.move(folder / "Refine3D/job011/run_data.star", tmp_path / "lone.star")
    lone = read_table_of_picks(tmp_path / "lone.star", blots.micrographs[0].path.parent)
    assert lone.provenance.entry_name == "Import_lone"
    assert set(lone.micrographs["status"]) == {"found"}
    truth = np.concatenate([m.true_xy_px for m in sorted(blots.micrographs, key=lambda m: m.path.name)])
    np.testing.assert_allclose(np.sort(lone.centers_xy_px[:, 0]), np.sort(truth[:, 0]), atol=1e-4)


def test_a_cryosparc_dataset_is_read(tmp_path: Path, mic) -> None:
    n = len(mic.true_xy_px)
    columns = {
        "uid": np.arange(1, n + 1, dtype=np.uint64),
        "location/micrograph_uid": np.full(n, 7, np.uint64),
        "location/micrograph_path": np.array([b"J1/imported/mic000.mrc"] * n),
        "location/micrograph_shape": np.tile(np.array([190, 310], np.uint32), (n, 1)),
        "location/center_x_frac": (mic.true_xy_px[:, 0] / 310).astype(np.float32),
        "location/center_y_frac": (mic.true_xy_px[:, 1] / 190).astype(np.float32),
    }
    write_cs(tmp_path / "lone.cs", columns)
    pickset = read_table_of_picks(tmp_path / "lone.cs", mic.path.parent)
    assert_on_particles(pickset, mic)
    (tmp_path / "lone.csg").write_text(
        "created: 2026-01-01\ngroup: {name: particles, type: particle, title: x, description: y}\n"
        "results:\n  location: {metafile: '>lone.cs', num_items: 8, type: particle.location}\nversion: v4.5\n"
    )
    assert_on_particles(read_table_of_picks(tmp_path / "lone.csg", mic.path.parent), mic)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"1 2 3\n4 5\n", "lines of 2 and of 3 words"),
        (b"1 2 3 4 5 6\n", "lines of 6 numbers"),
        (b"[Particle Coordinates: X Y Value]\n12\n[End]\n", "lines of one number"),
        (b"10 10 -5 5\n", "boxes of a size below 0"),
        (b"1 2 3 3 -1\n5 6 3 3 -2\n", "start and end points of helices"),
        (b"apples and pears\n1 2 3\n", "no columns of x and y"),
        (b"x,y\n1,two\n", "text where numbers are expected"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs"),
        (b"<html></html>", "web page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "binary data"),
        ("x,y\n1,2\n".encode("utf-16"), "UTF-16"),
        (b"data_\nloop_\n_rlnFoo\n1\n", "no _rlnCoordinateX"),
        (b"data_\nloop_\n_rlnCoordinateX\n_rlnCoordinateY\n_rlnCoordinateZ\n1 2 3\n", "tomography"),
    ],
)
def test_what_is_no_table_of_picks_is_said(tmp_path: Path, content: bytes, what: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(BadInput, match=what):
        read_table_of_picks(path)


def test_a_file_of_comments_alone_has_no_picks(tmp_path: Path) -> None:
    for name, content in (("a.txt", "# x y\n"), ("b.thi", "[Particle Coordinates: X Y Value]\n[End]\n")):
        (tmp_path / name).write_text(content)
        assert len(read_table_of_picks(tmp_path / name)) == 0


def test_a_missing_file_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        read_table_of_picks(tmp_path / "none.star")
    with pytest.raises(BadInput, match="is not a folder"):
        read_table_of_picks(tmp_path / "none.star", tmp_path / "nowhere")
    with pytest.raises(BadInput, match="holds no table"):
        read_table_of_picks(tmp_path)


def test_the_real_autopick_file_has_45_picks_on_its_micrograph(realdata: Path) -> None:
    folder = realdata / "relion3_micrograph"
    pickset = read_table_of_picks(folder / "Ucsf_stack_1142_DW_autopick.star", folder)
    assert len(pickset) == 45
    assert pickset.micrographs.loc[0, ["ny", "nx"]].tolist() == [927, 959]
    assert pickset.picks["score"].max() == pytest.approx(0.624705)
    assert pickset.centers_xy_px[0].tolist() == [839.125024, 19.979167]


def test_a_real_empty_dataset_and_a_real_pointer(realdata: Path) -> None:
    assert len(read_table_of_picks(realdata / "cryosparc_files" / "4k_dataset.cs")) == 0
    with pytest.raises(BadInput, match="git-lfs"):
        read_table_of_picks(realdata / "cryosparc_files" / "job096_run_data.star")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=60), at=st.floats(0, 1), name=st.sampled_from(sorted(FORMATS)), cut=st.booleans())
def test_nothing_but_our_own_errors_comes_out(
    tmp_path: Path, mic, noise: bytes, at: float, name: str, cut: bool
) -> None:
    write, file = FORMATS[name]
    path = tmp_path / file
    write(path, mic.true_xy_px)
    good = path.read_bytes()
    place = int(at * len(good))
    path.write_bytes(good[:place] + noise + (b"" if cut else good[place:]))
    try:
        read_table_of_picks(path, mic.path.parent)
    except CryoflowError:
        pass
