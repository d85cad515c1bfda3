"""Variants of tables of picks: other orders of columns, other names, line ends, quotes, marks and units."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.projects.tables import read_tables


class Case(NamedTuple):
    """A file and what is right: centers, and where they matter counts, words of the notes, scores and the label."""

    name: str
    content: str | bytes
    centers: list[list[float]]
    counts: dict[str, int] = {}
    note: str = ""
    score: list[float | None] | None = None
    label: int | None = None


def star(block: str, columns: str, rows: str) -> str:
    labels = "".join(f"_{name} #{i}\n" for i, name in enumerate(columns.split(), 1))
    return f"\ndata_{block}\n\nloop_\n{labels}{rows}\n\n"


CISTEM = "cisTEMPixelSize cisTEMOriginalImageFilename cisTEMOriginalXPosition cisTEMOriginalYPosition"
CBOX = "Confidence Width Height CoordinateY CoordinateX"
RELION = "rlnMicrographName rlnCoordinateX rlnCoordinateY"
VIA = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
PIK = "#filename x y mean stdev corr_coeff peak_size templ_num angle moment"
PLAIN = star("particles", RELION, "mic_a.mrc 10 20")
DYNAMO = ["0"] * 23 + ["10", "20", "0"]

CASES = {
    "cisTEM: CRLF, pixel sizes that differ, a folder with a blank": Case(
        "a.star",
        star("", CISTEM, "1.25 '/old disk/mic_a.mrc' 125 250\n2.5 'mic_b.mrc' 25 50").replace("\n", "\r\n"),
        [[100, 200], [10, 20]],
    ),
    "EMAN2: a mark of byte order": Case(
        "mic_a_info.json", b"\xef\xbb\xbf" + b'{"boxes": [[10, 20, "manual"]]}', [[10, 20]]
    ),
    "EMAN2: boxes behind a large CTF, scores of some": Case(
        "mic_a_info.json",
        json.dumps({"ctf": "x" * 70_000, "boxes": [[10, 20, "manual"], [30, 40, "auto", 0.5]]}, indent=1),
        [[10, 20], [30, 40]],
        score=[None, 0.5],
    ),
    "EMAN2: boxes of a tomogram beside them are noted": Case(
        "mic_a_info.json",
        json.dumps({"boxes": [[10, 20, "manual"]], "boxes_3d": [[1, 2, 3]]}),
        [[10, 20]],
        note="boxes_3d was not read (1 boxes",
    ),
    "EMAN2: no boxes": Case("mic_a_info.json", json.dumps({"quality": 5}), []),
    "Xmipp: y before x, CRLF": Case(
        "mic_a.pos", "# XMIPP_STAR_1 *\n#\ndata_particles\nloop_\n _ycoor\n _xcoor\n 20 10\n".replace("\n", "\r\n"),
        [[10, 20]],
    ),
    "Xmipp: one row without a loop": Case("mic_a.pos", "data_particles\n _xcoor 10\n _ycoor 20\n", [[10, 20]]),
    "cbox: other order of columns, CRLF, boxes that are not square": Case(
        "mic_a.cbox", star("cryolo", CBOX, "0.5 20 40 50 100").replace("\n", "\r\n"), [[110, 70]], score=[0.5]
    ),
    "cbox: size 0, as napari-boxmanager writes centers": Case(
        "mic_a.cbox", star("cryolo", CBOX, "0.5 0 0 50 100"), [[100, 50]]
    ),
    "box: corners outside the micrograph, and Appion's marks": Case(
        "mic_a.box", "-10 -10 40 40 -3\n30 40 40 40 -3\n", [[10, 10], [50, 60]]
    ),
    "box: commas between the numbers": Case("mic_a.box", "100,50,20,20\n30,40,20,40\n", [[110, 60], [40, 60]]),
    "box: some of size 0": Case("mic_a.box", "100 50 0 0\n30 40 20 20\n", [[100, 50], [40, 50]], note="size 0"),
    "box: a mark among scores": Case(
        "mic_a.box", "100 50 20 20 -3\n30 40 20 20 0.5\n", [[110, 60], [40, 50]], score=[None, 0.5]
    ),
    "box: exponents": Case("mic_a.box", "1e2 5e1 2e1 2e1\n", [[110, 60]]),
    "box: a line of names": Case("mic_a.box", "x y w h\n100 50 20 20\n", [[110, 60]], note="corners of boxes"),
    "box: ends of helices among boxes": Case(
        "mic_a.box", "100 50 20 20 -1\n30 40 20 20 -2\n50 60 20 20 -3\n", [[60, 70]], {"helix_end": 2}
    ),
    "boxx: outside, and not selected": Case(
        "mic_a.boxx", "100 50 20 20 1 1\n30 40 20 20 0 1\n50 60 20 20 1 0\n", [[110, 60]], {"switched_off": 2}
    ),
    "table: y before x, names first": Case("a.csv", "filename,ycoord,xcoord\nmic_a.mrc,20,10\n", [[10, 20]]),
    "table: quotes": Case("a.csv", '"filename","xcoord","ycoord"\n"mic_a.mrc","10","20"\n', [[10, 20]]),
    "table: an index as pandas writes it": Case("a.csv", ",xcoord,ycoord,filename\n0,10,20,mic_a.mrc\n", [[10, 20]]),
    "table: comments before the names": Case(
        "a.csv", "# made by a script\n\nxcoord,ycoord,filename\n10,20,mic_a.mrc\n", [[10, 20]]
    ),
    "table: semicolons, CRLF, a mark of byte order": Case(
        "a.csv", "\ufeffxcoord;ycoord;filename\r\n10.5;20;mic_a.mrc\r\n", [[10.5, 20]]
    ),
    "table: corners with sizes": Case(
        "a.csv", "x,y,w,h,filename\n10,20,20,40,mic_a.mrc\n", [[20, 40]], note="corners of boxes"
    ),
    "table: two corners": Case(
        "a.csv", "filename,xmin,ymin,xmax,ymax\nmic_a.mrc,10,20,30,60\n", [[20, 40]], note="read as boxes"
    ),
    "table: centers with sizes": Case(
        "a.csv", "center_x,center_y,width,height,filename\n10,20,8,8,mic_a.mrc\n", [[10, 20]]
    ),
    "table: outside, empty and nan": Case(
        "a.csv", "x,y,filename\n-3,2,mic_a.mrc\n600,2,mic_a.mrc\nnan,3,mic_a.mrc\n,4,mic_a.mrc\n", [],
        {"outside": 2, "nan": 2},
    ),
    "table: rows cut before the name": Case(
        "a.csv", "x,y,filename\r\n10,20,mic_a.mrc\r\n1,2\r\n3,4,\r\n", [[10, 20]], {"no_micrograph": 2}
    ),
    "table: a path of a share, CRLF": Case(
        "a.csv", "x,y,filename\r\n10,20,\\\\host\\disk\\mic_a.mrc\r\n", [[10, 20]]
    ),
    "table: another extension in capitals": Case(
        "a.csv", "x,y,filename\n10,20,mic_a.MRC\n", [[10, 20]], note="another name"
    ),
    "table: names of Windows": Case("a.csv", "x,y,filename\n10,20,C:\\data\\mic_a.mrc\n", [[10, 20]]),
    "VIA: the older line of names, a polygon": Case(
        "a.csv",
        f'#{VIA}mic_a.jpg,1,"{{}}",1,0,"{{""name"":""polygon"",""all_points_x"":[10,30],""all_points_y"":[20,40]}}",""\n',
        [[20, 30]],
    ),
    "VIA: a shape that is not known is counted": Case(
        "a.csv", VIA + 'mic_a.png,1,"{}",1,0,"{""name"":""line"",""x"":100}","{}"\n', [], {"unknown_shape": 1}
    ),
    "CryoPPP: y before x, semicolons": Case("mic_a.csv", "Y-Coordinate;X-Coordinate\n20;10\n", [[10, 279]]),
    "Appion: with diameters": Case(
        "mic_a.a.pik", PIK + " diam\nmic_a.mrc 10 20 0.5 0.1 1.0 20 1 0 0.5 150.00\n", [[10, 20]], score=[0.5]
    ),
    "Topaz: other order, another column": Case(
        "a.txt", "x_coord\tsource\ty_coord\timage_name\n10\tgrid\t20\tmic_a\n", [[10, 20]]
    ),
    "Dynamo: 26 columns, a shift, z of 1": Case(
        "mic_a.tbl", " ".join([*DYNAMO[:3], "1", "-1", *DYNAMO[5:25], "1"]) + "\n", [[11, 19]]
    ),
    "STAR: comments and blank lines between rows, tabs": Case(
        "a.star", star("particles", RELION, "mic_a.mrc 10 20 \t\n\n# more\n mic_b.mrc\t30\t40"), [[10, 20], [30, 40]]
    ),
    "STAR: names in quotes of both kinds": Case(
        "a.star", star("particles", RELION, "'mic_a.mrc' 10 20\n\"mic_b.mrc\" 30 40"), [[10, 20], [30, 40]]
    ),
    "STAR: one row without a loop": Case(
        "a.star", "data_particles\n_rlnMicrographName mic_a.mrc\n_rlnCoordinateX 10\n_rlnCoordinateY 20\n", [[10, 20]]
    ),
    "STAR: two blocks of one name": Case(
        "a.star", PLAIN + star("particles", RELION, "mic_b.mrc 30 40"), [[10, 20], [30, 40]], note="2 blocks"
    ),
    "STAR: blocks with other orders of columns": Case(
        "a.star", PLAIN + star("x", "rlnCoordinateY rlnMicrographName rlnCoordinateX", "40 mic_b.mrc 30"),
        [[10, 20], [30, 40]],
    ),
    "STAR: micrographs before particles": Case(
        "a.star", star("micrographs", "rlnMicrographName rlnDefocusU", "mic_a.mrc 10000") + PLAIN, [[10, 20]]
    ),
    "STAR: rejected beside particles": Case(
        "a.star", PLAIN + star("particles_junk", RELION, "mic_a.mrc 1 2"), [[10, 20]],
        note="data_particles_junk was not read (1 row)",
    ),
    "STAR: nothing but rejected": Case("a.star", star("rejected", RELION, "mic_a.mrc 10 20"), [[10, 20]], label=-1),
    "STAR: nothing but rejected, of one micrograph": Case(
        "mic_a.star", star("not_selected", "rlnCoordinateX rlnCoordinateY", "10 20"), [[10, 20]], label=-1
    ),
    "STAR: switched off": Case(
        "a.star", star("particles", RELION + " rlnEnabled", "mic_a.mrc 10 20 1\nmic_a.mrc 1 2 0\nmic_a.mrc 3 4 -1"),
        [[10, 20]], {"switched_off": 2},
    ),
    "STAR: RELION 1.4, shifts in pixels, pixel size by magnification": Case(
        "a.star",
        star("", RELION + " rlnOriginX rlnOriginY rlnDetectorPixelSize rlnMagnification",
             "mic_a.mrc 100 50 2 -2 5 40000"),
        [[98, 52]],
    ),
    "STAR: RELION 5, shifts in angstrom, two pixel sizes": Case(
        "a.star",
        "# version 50001\n"
        + star("optics", "rlnOpticsGroup rlnMicrographPixelSize", "1 1.0\n2 2.0")
        + star("particles", RELION + " rlnOpticsGroup rlnOriginXAngst rlnOriginYAngst",
               "mic_a.mrc 100 50 1 10 0\nmic_b.mrc 100 50 2 10 0"),
        [[90, 50], [95, 50]],
    ),
    "STAR: no names of micrographs, two stacks": Case(
        "a.star",
        star("particles", "rlnCoordinateX rlnCoordinateY rlnImageName",
             "10 20 000001@Extract/job1/mic_a.mrcs\n30 40 000001@Extract/job1/mic_b.mrcs"),
        [[10, 20], [30, 40]], note="names of its stacks",
    ),
    "STAR: a line of names and no rows": Case("a.star", star("particles", RELION, ""), []),
}  # fmt: skip


@pytest.fixture
def micrographs(tmp_path: Path) -> Path:
    folder = tmp_path / "mics"
    folder.mkdir()
    for name in ("mic_a.mrc", "mic_b.mrc"):
        write_mrc(folder / name, np.zeros((300, 500), np.float32), 1.25)
    return folder


@pytest.mark.parametrize("what", CASES)
def test_each_variant_gives_the_right_centers(tmp_path: Path, micrographs: Path, what: str) -> None:
    case = CASES[what]
    path = tmp_path / case.name
    path.write_bytes(case.content if isinstance(case.content, bytes) else case.content.encode())
    reading = read_tables(path, micrographs)
    (pickset,) = reading.picksets
    assert pickset.centers_xy_px.round(3).tolist() == case.centers
    assert set(pickset.micrographs["status"]) <= {"found"}
    assert not reading.failures
    assert dict(pickset.counts) == case.counts
    assert case.note in " ".join(pickset.notes)
    if case.score is not None:
        np.testing.assert_equal(pickset.picks["score"].tolist(), [np.nan if s is None else s for s in case.score])
    assert set(pickset.picks.get("label", [])) == (set() if case.label is None else {case.label})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "xcoord;ycoord;filename\n10,5;20,5;mic_a.mrc\n", "numbers with commas: '10,5'"),
        ("mic_a.txt", "10,5;20,5\n30,5;40,5\n", "numbers with commas"),
        ("mic_a.txt", "10,5 20,5\n30,5 40,5\n", "numbers with commas"),
        ("mic_a.box", "100 50 -20 -20\n", "size below 0"),
        ("a.star", star("", CISTEM.replace("cisTEMPixelSize ", ""), "'mic_a.mrc' 1 2"), "no _cisTEMPixelSize"),
        ("a.star", star("particles", RELION + " rlnTomoName", "mic_a.mrc 1 2 ts1"), "tomography"),
        ("mic_c.csv", "X-Coordinate,Y-Coordinate\n10,20\n", "height of mic_c is not known"),
        ("mic_a.json", "[[1, 2], [3, 4]]", "is JSON, and none that is known"),
        ("mic_a.tbl", " ".join([*DYNAMO[:25], "7"]) + "\n", "tomography"),
    ],
)
def test_what_cannot_be_read_is_one_error_that_names_the_cause(
    tmp_path: Path, micrographs: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        read_tables(tmp_path / name, micrographs)


def test_of_appions_files_the_one_of_all_templates_is_read(tmp_path: Path, micrographs: Path) -> None:
    folder = tmp_path / "pikfiles"
    folder.mkdir()
    rows = {
        "mic_a.1.pik": "mic_a.mrc 11 20 0.4 0.1 1.0 20 1 0 0.5\n",
        "mic_a.a.pik": "mic_a.mrc 10 20 0.5 0.1 1.0 20 1 0 0\n",
    }
    for name, row in (*rows.items(), ("mic_b.a.pik", "")):
        (folder / name).write_text(f"{PIK}\n{row}")
    (pickset,) = read_tables(folder, micrographs).picksets
    assert pickset.centers_xy_px.tolist() == [[10, 20]]
    assert pickset.micrographs["name"].tolist() == ["mic_a.mrc", "mic_b.mrc"]
    assert any("near repeats left out (mic_a.1.pik" in note for note in pickset.notes)
