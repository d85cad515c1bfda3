"""Writers of every format of tables of picks, independent of the readers: they are the other side of round trips.

Each writes the picks of one micrograph of the given shape and returns nothing. Names are those of the registry.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cryoflow.formats.cs import write_cs

MICROGRAPH = "mic_001.mrc"
BOX = 64.0
DIAMETER = 50.0
PIXEL_SIZE_A = 1.25
Points = np.ndarray
Writer = Callable[[Path, Points, Points, tuple[int, int]], None]


def _lines(path: Path, rows: list[str], head: str = "") -> None:
    path.write_text(head + "".join(row + "\n" for row in rows))


def _star(path: Path, block: str, columns: dict[str, list[object]]) -> None:
    head = f"\ndata_{block}\n\nloop_\n" + "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
    _lines(path, [" ".join(map(str, row)) for row in zip(*columns.values(), strict=True)], head)


def relion_star(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    columns = {"rlnMicrographName": [MICROGRAPH] * len(xy), "rlnCoordinateX": [f"{x:.6f}" for x in xy[:, 0]]}
    columns |= {"rlnCoordinateY": [f"{y:.6f}" for y in xy[:, 1]], "rlnAutopickFigureOfMerit": list(score)}
    _star(path, "particles", columns)


def cbox(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    columns: dict[str, list[object]] = {
        "CoordinateX": [f"{x - BOX / 2:.6f}" for x in xy[:, 0]],
        "CoordinateY": [f"{y - BOX / 2:.6f}" for y in xy[:, 1]],
        "CoordinateZ": ["<NA>"] * len(xy),
        "Width": [BOX] * len(xy),
        "Height": [BOX] * len(xy),
        "Depth": ["<NA>"] * len(xy),
        "EstWidth": [DIAMETER] * len(xy),
        "EstHeight": [DIAMETER] * len(xy),
        "Confidence": list(score),
        "NumBoxes": [1] * len(xy),
        "Angle": ["<NA>"] * len(xy),
    }
    _star(path, "cryolo", columns)
    path.write_text("\ndata_global\n\n_cbox_format_version 1.0\n" + path.read_text())


def cbox_old(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"{x - BOX / 2!r}\t{y - BOX / 2!r}\t{BOX}\t{BOX}\t{s}\t50\t50\r" for (x, y), s in _rows(xy, score)]
    _lines(path, rows)


def eman_box(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    _lines(path, [f"{x - BOX / 2!r}\t{y - BOX / 2!r}\t{BOX:g}\t{BOX:g}\t{s}" for (x, y), s in _rows(xy, score)])


def eman2_json(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    path.write_text(json.dumps({"boxes": [[x, y, "auto", s] for (x, y), s in _rows(xy, score)], "boxsize": BOX}))


def xmipp_pos(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    head = "# XMIPP_STAR_1 *\n#\ndata_header\nloop_\n _pickingMicrographState\nAuto\ndata_particles_auto\nloop_\n"
    head += " _itemId\n _enabled\n _xcoor\n _ycoor\n _cost\n"
    _lines(path, [f"{i} 1 {round(x)} {round(y)} {s}" for i, ((x, y), s) in enumerate(_rows(xy, score))], head)


def cistem_star(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    columns: dict[str, list[object]] = {
        "cisTEMPositionInStack": list(range(1, len(xy) + 1)),
        "cisTEMScore": list(score),
        "cisTEMPixelSize": [PIXEL_SIZE_A] * len(xy),
        "cisTEMOriginalImageFilename": [f"'{MICROGRAPH}'"] * len(xy),
        "cisTEMOriginalXPosition": [f"{x * PIXEL_SIZE_A:.2f}" for x in xy[:, 0]],
        "cisTEMOriginalYPosition": [f"{y * PIXEL_SIZE_A:.2f}" for y in xy[:, 1]],
    }
    _star(path, "", columns)


def topaz_table(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"mic_001\t{x!r}\t{y!r}\t{s}" for (x, y), s in _rows(xy, score)]
    _lines(path, rows, "image_name\tx_coord\ty_coord\tscore\n")


def appion_pik(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"{MICROGRAPH} {int(x)} {int(y)} {s} 0.1 1.0 20 1 0 0.5 150.00" for (x, y), s in _rows(xy, score)]
    head = "#filename x y mean stdev corr_coeff peak_size templ_num angle moment diam\n"
    _lines(path, rows, head)


def cryoppp_csv(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"{x!r},{shape_yx[0] - 1 - y!r},{DIAMETER}" for (x, y), _ in _rows(xy, score)]
    _lines(path, rows, "X-Coordinate,Y-Coordinate,Diameter\n")


def via_csv(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    head = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    rows = []
    for i, ((x, y), _) in enumerate(_rows(xy, score)):
        shapes = ({"name": "circle", "cx": x, "cy": y, "r": 25}, {"name": "point", "cx": x, "cy": y})
        rect = {"name": "rect", "x": x - 10, "y": y - 10, "width": 20, "height": 20}
        shape = json.dumps([*shapes, rect][i % 3]).replace('"', '""')
        rows.append(f'mic_001.png,100,"{{}}",{len(xy)},{i},"{shape}","{{}}"')
    _lines(path, rows, head)


def named_table(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"{x!r},{y!r},{MICROGRAPH},{s}" for (x, y), s in _rows(xy, score)]
    _lines(path, rows, "xcoord,ycoord,filename,score\n")


def plain_centers(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    _lines(path, [f"{x!r} {y!r} {s}" for (x, y), s in _rows(xy, score)])


def thi(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = [f"{x!r}\t{y!r}\t{s}" for (x, y), s in _rows(xy, score)]
    _lines(path, [*rows, "[End]"], "[Particle Coordinates: X Y Value]\n")


def epicker_coord(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    _lines(path, [f"{round(x)} {round(y)} {BOX:g} {s}" for (x, y), s in _rows(xy, score)])


def boxx(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    _lines(path, [f"{x - BOX / 2!r} {y - BOX / 2!r} {BOX} {BOX} 1 1" for (x, y), _ in _rows(xy, score)])


def dynamo(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    rows = []
    for i, ((x, y), s) in enumerate(_rows(xy, score)):
        row: list[object] = [0] * 35
        row[0], row[1], row[3], row[9], row[19], row[23], row[24] = i + 1, 1, 0.5, s, 1, f"{x - 0.5!r}", f"{y!r}"
        rows.append(" ".join(map(str, row)))
    _lines(path, rows)


def cryosparc_cs(path: Path, xy: Points, score: Points, shape_yx: tuple[int, int]) -> None:
    n, (ny, nx) = len(xy), shape_yx
    columns = {
        "uid": np.arange(1, n + 1, dtype=np.uint64),
        "location/micrograph_path": np.full(n, MICROGRAPH.encode(), "S20"),
        "location/micrograph_shape": np.tile(np.array([ny, nx], np.uint32), (n, 1)),
        "location/center_x_frac": (xy[:, 0] / nx).astype(np.float32),
        "location/center_y_frac": (xy[:, 1] / ny).astype(np.float32),
        "pick_stats/ncc_score": score.astype(np.float32),
    }
    write_cs(path, columns)


def _rows(xy: Points, score: Points) -> list[tuple[tuple[float, float], float]]:
    return [((float(x), float(y)), float(s)) for (x, y), s in zip(xy, score, strict=True)]


WRITERS: dict[str, Writer] = {
    "Appion pik": appion_pik,
    "RELION STAR": relion_star,
    "crYOLO cbox": cbox,
    "crYOLO cbox (old)": cbox_old,
    "EMAN box": eman_box,
    "EMAN2 JSON": eman2_json,
    "Xmipp pos": xmipp_pos,
    "cisTEM STAR": cistem_star,
    "Topaz table": topaz_table,
    "CryoPPP CSV": cryoppp_csv,
    "VIA CSV": via_csv,
    "table": named_table,
    "text of centers": plain_centers,
    "EPicker thi": thi,
    "EPicker coord": epicker_coord,
    "nextPYP boxx": boxx,
    "Dynamo table": dynamo,
    "CryoSPARC dataset": cryosparc_cs,
}
