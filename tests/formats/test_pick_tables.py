"""Files of picks, told apart by content: each form, each quirk."""

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.formats.cs import write_cs
from cryoflow.formats.pick_tables import read_file

CBOX = """
data_global

_cbox_format_version 1.0

data_cryolo

loop_
_CoordinateX #1
_CoordinateY #2
_CoordinateZ #3
_Width #4
_Height #5
_Depth #6
_EstWidth #7
_EstHeight #8
_Confidence #9
_NumBoxes #10
_Angle #11
90.5 190 <NA> 20 20 <NA> 18 18 0.75 1 <NA>
10 20 <NA> 20 20 <NA> 18 18 0.25 1 <NA>

data_cryolo_include

loop_
_slice_index #1

"""
RELION = """
# version 30001

data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnAutopickFigureOfMerit #3
_rlnClassNumber #4
_rlnAnglePsi #5
  100.5 200.0 0.75 0 0
   20   30.0  0.25 0 0
"""
TOPAZ_STAR = """
data_images

loop_
_rlnAutopickFigureOfMerit #1
_rlnMicrographName #2
_rlnCoordinateX #3
_rlnCoordinateY #4
0.75 a.mrc 100.5 200
0.25 b.mrc 20 30
"""
NEW_CRYOLO_STAR = "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n100.5 200.0\n20 30\n"
OLD_CRYOLO_STAR = (
    "\ndata_\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnClassNumber #3\n_rlnAnglePsi #4\n"
    "_rlnAutopickFigureOfMerit #5\n100.5 200 -999 -999 -999\n20 30 -999 -999 -999\n"
)
CRYOSEGNET = (
    "\n\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnDiameter #4\n"
    "a.mrc 100.5 200 40\na.mrc 20 30 40\n"
)


TEXTS = {
    "CBOX of 1.8": (CBOX, "crYOLO cbox", True),
    "CBOX of 1.7": ("90.5\t190\t20\t20\t0.75\t18\t18\r\n10\t20\t20\t20\t0.25\t18\t18\r\n", "crYOLO cbox (old)", True),
    "EMAN box with CRLF": ("90.5\t190.0\t20\t20\r\n10.0\t20.0\t20\t20\r\n", "EMAN box", False),
    "REPIC box": ("90.5 190 20 20 0.75\n10 20 20 20 0.25\n", "EMAN box", True),
    "RELION autopick": (RELION, "RELION STAR", True),
    "Topaz STAR": (TOPAZ_STAR, "RELION STAR", True),
    "crYOLO STAR of 1.8": (NEW_CRYOLO_STAR, "RELION STAR", False),
    "crYOLO STAR of 1.7": (OLD_CRYOLO_STAR, "RELION STAR", False),
    "CryoSegNet": (CRYOSEGNET, "RELION STAR", False),
    "Topaz table": (
        "image_name\tx_coord\ty_coord\tscore\n001\t100.5\t200\t0.75\n001\t20\t30\t0.25\n",
        "Topaz table",
        True,
    ),
    "Topaz table without scores": (
        "image_name\tx_coord\ty_coord\n001\t100.5\t200\n001\t20\t30\n",
        "Topaz table",
        False,
    ),
    "EPicker thi": ("[Particle Coordinates: X Y Value]\n100.5\t200\t0.75\n20\t30\t0.25\n[End]\n", "EPicker thi", True),
    "CryoPPP": ("X-Coordinate,Y-Coordinate,Diameter,Angle-Psi\n100.5,200,40,1\n20,30,40,2\n", "CryoPPP CSV", False),
    "EMAN2 JSON": ('{"boxes": [[100.5, 200, "manual"], [20, 30, "manual"]]}', "EMAN2 JSON", False),
    "Xmipp with names": (
        "# XMIPP_STAR_1 *\ndata_particles\nloop_\n _micrograph\n _xcoor\n _ycoor\nmic1.mrc 100.5 200\nmic1.mrc 20 30\n",
        "Xmipp pos",
        False,
    ),
    "plain text": ("100.5 200\n20 30\n", "text of centers", False),
}


@pytest.mark.parametrize("what", TEXTS)
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_every_form_is_told_by_its_content_and_gives_centers(what, ending, tmp_path):
    text, form, scored = TEXTS[what]
    path = tmp_path / "picks.anything"
    path.write_bytes(text.replace("\r\n", "\n").replace("\n", ending).encode())
    found = read_file(path)
    assert found.format == form
    np.testing.assert_allclose(found.frame()[["x_px", "y_px"]], [[100.5, 200], [20, 30]])
    assert ("score" in found.frame()) == scored
    if scored:
        assert found.frame()["score"].tolist() == [0.75, 0.25]


def test_names_stay_as_the_file_has_them(tmp_path):
    path = tmp_path / "a"
    path.write_text(TOPAZ_STAR)
    assert read_file(path).frame()["name"].tolist() == ["a.mrc", "b.mrc"]
    path.write_text(TEXTS["Topaz table"][0])
    assert read_file(path).frame()["name"].tolist() == ["001", "001"]


def test_cryosparc_fractions_are_of_columns_and_rows(tmp_path):
    columns = {
        "uid": np.array([7, 9], np.uint64),
        "location/micrograph_path": np.array([b"J2/a.mrc", b"J2/a.mrc"]),
        "location/micrograph_shape": np.array([[400, 800]] * 2, np.uint32),
        "location/center_x_frac": np.array([0.25, 0.5], np.float32),
        "location/center_y_frac": np.array([0.25, 0.5], np.float32),
        "pick_stats/ncc_score": np.array([0.75, 0.25], np.float32),
    }
    for container in ("npy", "csdat"):
        write_cs(tmp_path / "p.cs", columns, container=container)
        found = read_file(tmp_path / "p.cs")
        assert found.format == "CryoSPARC dataset"
        np.testing.assert_allclose(found.frame()[["x_px", "y_px"]], [[200, 100], [400, 200]])
        assert found.frame()["uid"].tolist() == [7, 9]
        assert found.frame()["name"].tolist() == ["J2/a.mrc"] * 2


def test_an_empty_file_is_a_micrograph_without_picks(tmp_path):
    for content in (b"", b"\n", b"\r\n"):
        (tmp_path / "e.box").write_bytes(content)
        assert len(read_file(tmp_path / "e.box")) == 0
    (tmp_path / "e.cbox").write_text(CBOX[: CBOX.index("90.5")] + CBOX[CBOX.index("\ndata_cryolo_include") :])
    assert len(read_file(tmp_path / "e.cbox")) == 0


def test_epickers_coord_is_a_center_with_a_size(tmp_path):
    path = tmp_path / "a.coord"
    path.write_text("100 200 40 1\n20 30 40 0\n")
    table = read_file(path).frame()
    assert table[["x_px", "y_px"]].to_numpy().tolist() == [[100, 200], [20, 30]]


def test_filaments_prose_and_damage_are_refused(tmp_path):
    path = tmp_path / "a.box"
    path.write_text("10 10 20 20 -1\n50 50 20 20 -2\n")
    with pytest.raises(BadInput, match="helices"):
        read_file(path)
    path.write_text("Dear Colleague,\nthe picks are in the other file.\n")
    with pytest.raises(BadInput, match="columns"):
        read_file(path)
    path.write_text('{"boxes": [[100.5, 200, "man')
    with pytest.raises(BadInput, match="cut short"):
        read_file(path)
