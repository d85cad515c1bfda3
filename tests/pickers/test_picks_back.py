"""Picks as each program writes them, brought back through a manifest: on the particles of non-square micrographs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from blob_micrographs import mean_under

from cryoflow.database import Database
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export
from cryoflow.picks import PickSet

BOX = 26
DECOY = np.array([[4.0, 4.0, 0.0]])
"""x, y and rank of a pick on nothing but noise, that each picker's own threshold must remove."""

Write = Callable[[Path, str, np.ndarray], None]
"""Writes the (n, 3) picks of a micrograph of some stem into a folder: x, y, and a score of 1, or of 0 for the decoy."""


def star(*columns: str, ending: str, block: str = "", skip_empty: bool = False, low: float = 0.01) -> Write:
    """STAR of one nameless block; `ending` makes a file's name of a stem; the columns are those of `values`."""

    def write(folder: Path, stem: str, picks: np.ndarray) -> None:
        if skip_empty and len(picks) == 0:
            return
        values = {"rlnMicrographName": lambda _: f"{stem}.mrc", "rlnCoordinateX": lambda p: f"{p[0]:.2f}"}
        values |= {"rlnCoordinateY": lambda p: f"{p[1]:.2f}", "rlnClassNumber": lambda _: "0"}
        values |= {"rlnAnglePsi": lambda _: "0", "rlnAutopickFigureOfMerit": lambda p: f"{p[2] * 0.9 or low:g}"}
        lines = ["", f"data_{block}", "", "loop_", *(f"_{c} #{i + 1}" for i, c in enumerate(columns))]
        lines += ["\t".join(values[c](p) for c in columns) for p in picks]
        path = folder / ending.format(stem=stem)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([*lines, ""]))

    return write


def new_cbox(folder: Path, stem: str, picks: np.ndarray) -> None:
    head = [
        "CoordinateX",
        "CoordinateY",
        "CoordinateZ",
        "Width",
        "Height",
        "Depth",
        "EstWidth",
        "EstHeight",
        "Confidence",
        "NumBoxes",
        "Angle",
    ]
    rows = [f"{x - BOX / 2} {y - BOX / 2} <NA> {BOX} {BOX} <NA> 20 20 {max(0.1, 0.9 * s)} 1 <NA>" for x, y, s in picks]
    lines = ["", "data_global", "", "_cbox_format_version 1.0", "", "data_cryolo", "", "loop_"]
    lines += [*(f"_{c} #{i + 1}" for i, c in enumerate(head)), *rows]
    lines += ["", "data_cryolo_include", "", "loop_", "_slice_index #1", "", ""]
    (folder / "CBOX").mkdir(exist_ok=True)
    (folder / "CBOX" / f"{stem}.cbox").write_text("\n".join(lines))


def old_cbox(folder: Path, stem: str, picks: np.ndarray) -> None:
    rows = [f"{x - BOX / 2}\t{y - BOX / 2}\t{BOX}\t{BOX}\t{max(0.1, 0.9 * s)}\t20\t20\r\n" for x, y, s in picks]
    (folder / "CBOX").mkdir(exist_ok=True)
    (folder / "CBOX" / f"{stem}.cbox").write_bytes("".join(rows).encode())
    (folder / "EMAN").mkdir(exist_ok=True)  # without confidence, and so not to be taken
    (folder / "EMAN" / f"{stem}.box").write_text("1\t1\t26\t26\n")


def topaz_table(folder: Path, stem: str, picks: np.ndarray) -> None:
    """In downsampled pixels, whole ones, all micrographs in one table."""
    path = folder / "raw_04_0.txt"
    text = path.read_text() if path.exists() else "image_name\tx_coord\ty_coord\tscore\n"
    rows = [f"{stem}\t{round(x / 4)}\t{round(y / 4)}\t{6 * s - 4}\n" for x, y, s in picks]
    path.write_text(text + "".join(rows))


def topaz_star(folder: Path, stem: str, picks: np.ndarray) -> None:
    columns = ("rlnAutopickFigureOfMerit", "rlnMicrographName", "rlnCoordinateX", "rlnCoordinateY")
    scaled = np.column_stack([picks[:, :2] / 4, picks[:, 2]])
    star(*columns, ending="{stem}_topaz.star", block="images", low=-3)(folder, stem, scaled)


def thi(folder: Path, stem: str, picks: np.ndarray) -> None:
    rows = [f"{int(x)}\t{int(y)}\t{max(0.05, 0.8 * s)}" for x, y, s in picks]
    (folder / f"{stem}.thi").write_text("\n".join(["[Particle Coordinates: X Y Value]", *rows, "[End]", ""]))


def cryosegnet(folder: Path, stem: str, picks: np.ndarray) -> None:
    """One file for all, no score, and sure picks repeated with a jitter."""
    path = folder / "predictions.star"
    head = "\n\ndata_\n\nloop_\n_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnDiameter #4\n"
    text = path.read_text() if path.exists() else head
    rows = [f"{stem}.mrc {round(x)} {round(y)} {BOX}\n" for x, y, s in picks if s]
    rows += [f"{stem}.mrc {round(x) + 1} {round(y) - 1} {BOX}\n" for x, y, s in picks[::3] if s]
    path.write_text(text + "".join(rows))


RELION = ("rlnCoordinateX", "rlnCoordinateY", "rlnAutopickFigureOfMerit", "rlnClassNumber", "rlnAnglePsi")
WARP = ("rlnCoordinateX", "rlnCoordinateY", "rlnMicrographName", "rlnAutopickFigureOfMerit")
EPICKER = ("rlnCoordinateX", "rlnCoordinateY", "rlnClassNumber", "rlnAnglePsi", "rlnAutopickFigureOfMerit")
PROGRAMS: dict[str, tuple[str, Write, bool]] = {
    "Warp": ("warp", star(*WARP, ending="matching/{stem}_BoxNet2Mask_20180918.star", skip_empty=True), True),
    "EPicker STAR": ("epicker", star(*EPICKER, ending="{stem}.star"), True),
    "EPicker thi": ("epicker", thi, True),
    "CryoSegNet": ("cryosegnet", cryosegnet, False),
    "RELION autopick": ("relion", star(*RELION, ending="Movies/{stem}_autopick.star"), True),
    "RELION manualpick": ("relion", star(*RELION[:2], ending="Movies/{stem}_manualpick.star"), False),
    "crYOLO 1.8": ("cryolo", new_cbox, True),
    "crYOLO 1.7": ("cryolo", old_cbox, True),
    "crYOLO STAR": ("cryolo", star(*RELION[:2], ending="STAR/{stem}.star"), False),
    "Topaz table": ("topaz", topaz_table, True),
    "Topaz STAR": ("topaz", topaz_star, True),
}
"""What -> picker, who writes it, and whether it has scores."""


@pytest.mark.parametrize("named_by", ["our stem", "the project's name"])
@pytest.mark.parametrize("what", PROGRAMS)
def test_picks_of_each_program_lie_on_particles(make_entry, tmp_path, what, named_by):
    name, write, scored = PROGRAMS[what]
    entry = make_entry(n=4, n_empty=1)
    picked = export("topaz", [entry], tmp_path / "set", settings={"downsampling": 4})
    if name != "topaz":
        picked = export("epicker", [entry], tmp_path / "other set")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    offsets = entry.offsets
    for row in manifest.read_manifest(picked.folder).itertuples():
        i = entry.micrographs["name"].tolist().index(row.name)
        xy = entry.centers_xy_px[offsets[i] : offsets[i + 1]]
        picks = np.column_stack([xy, np.ones(len(xy))])
        if scored and len(picks):
            picks = np.vstack([DECOY, picks])
        write(theirs, row.stem if named_by == "our stem" else Path(row.name).stem, picks)
    threshold = 0.5 if scored and name == "relion" else None  # RELION's own has none
    (back,) = import_picks(name, theirs, picked.folder, name="run", threshold=threshold)
    assert back.micrographs["name"].tolist() == entry.micrographs["name"].tolist()
    assert np.diff(back.offsets).tolist() == np.diff(offsets).tolist()
    assert back.counts.get("below_threshold", 0) == (3 if scored else 0)
    assert_on_particles(back, entry)
    assert (back.score_kind != "") == scored
    database = Database(tmp_path / "DB")
    database.add(back)
    assert_on_particles(database.load("P12/AutoPick_run"), entry)


def assert_on_particles(picks: PickSet, entry: PickSet) -> None:
    bounds = picks.offsets
    for i, path in enumerate(entry.micrographs["path"]):
        xy = picks.centers_xy_px[bounds[i] : bounds[i + 1]]
        if len(xy):
            image = mrcfile.read(path)
            assert mean_under(image, xy) < -2
            assert mean_under(image, np.column_stack([xy[:, 0], image.shape[0] - 1 - xy[:, 1]])) > -1.5
