"""What each picker is given, read by nothing of ours: on the particles, of sets of two pixel sizes and two shapes.

Each reader below does what the program does: takes the label's numbers, and the picture as the program sees it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import tifffile
from blob_micrographs import mean_under
from scipy import ndimage

from cryoflow.pickers.training_sets import manifest
from cryoflow.pickers.training_sets.export import export

Seen = Iterator[tuple[str, np.ndarray, np.ndarray]]
"""Exported name or the micrograph's own, the picture, and (n, 2) centers in its pixels."""


def numbers(lines: list[str], columns: int) -> np.ndarray:
    words = [line.replace(",", " ").split()[:columns] for line in lines if line.lstrip("-")[:1].isdigit()]
    return np.array(words, float).reshape(-1, columns)


def star_rows(path: Path) -> list[dict[str, str]]:
    """The last table of a STAR file; a row is a mapping."""
    lines = path.read_text().rpartition("loop_")[2].splitlines()
    names = [line.split()[0] for line in lines if line.startswith("_")]
    return [dict(zip(names, line.split(), strict=True)) for line in lines if line.strip() and line[0] not in "_#"]


def xy_of(rows: list[dict[str, str]]) -> np.ndarray:
    return np.array([[float(r["_rlnCoordinateX"]), float(r["_rlnCoordinateY"])] for r in rows]).reshape(-1, 2)


def corners(folder: Path, labels: str, pictures: str) -> Seen:
    for label in sorted(folder.glob(labels)):
        boxes = numbers(label.read_text().splitlines(), 4)
        (picture,) = folder.glob(f"{pictures}/{label.stem}.mrc")
        yield label.stem, mrcfile.read(picture), boxes[:, :2] + boxes[:, 2:] / 2


def cbox(folder: Path) -> Seen:
    for label in sorted(folder.glob("*_annot/*.cbox")):
        table = label.read_text().partition("data_cryolo\n")[2].partition("data_cryolo_include")[0]
        rows = [line.split() for line in table.splitlines() if line.lstrip("-")[:1].isdigit()]
        boxes = np.array([[float(w) for w in (*r[:2], *r[3:5])] for r in rows]).reshape(-1, 4)
        (picture,) = folder.glob(f"*_image/{label.stem}.mrc")
        yield label.stem, mrcfile.read(picture), boxes[:, :2] + boxes[:, 2:] / 2


def topaz(folder: Path) -> Seen:
    rows = [line.split("\t") for line in (folder / "particles.txt").read_text().splitlines()[1:]]
    for picture in sorted(folder.glob("raw_*/*.mrc")):
        factor = int(picture.parent.name[4:])
        pixels = mrcfile.read(picture)
        pixels = pixels[: pixels.shape[0] // factor * factor, : pixels.shape[1] // factor * factor]
        small = pixels.reshape(pixels.shape[0] // factor, factor, -1, factor).mean(axis=(1, 3))
        xy = np.array([[float(r[1]), float(r[2])] for r in rows if r[0] == picture.stem]).reshape(-1, 2)
        yield picture.stem, small, xy


def warp(folder: Path) -> Seen:
    """The middles of the discs."""
    for path in sorted(folder.glob("*/*.tif")):
        image, labels, _ = (page.asarray() for page in tifffile.TiffFile(path).pages)
        found, count = ndimage.label(labels == 1)
        yx = np.array(ndimage.center_of_mass(labels, found, range(1, count + 1))).reshape(-1, 2)
        yield path.stem, image, yx[:, ::-1]


def epicker(folder: Path) -> Seen:
    for label in sorted(folder.glob("*labels/*.star")):
        (picture,) = folder.glob(f"{label.parent.name.removesuffix('labels')}micrographs/{label.stem}.mrc")
        yield label.stem, mrcfile.read(picture), xy_of(star_rows(label))


def cryosegnet(folder: Path) -> Seen:
    """It turns the picture upside-down, and the labels count in that."""
    for path in sorted(folder.glob("finetune_dataset/csv_files/*.csv")):
        with path.open() as file:
            rows = [[float(r["X-Coordinate"]), float(r["Y-Coordinate"])] for r in csv.DictReader(file)]
        picture = mrcfile.read(folder / "finetune_dataset/mrc_files" / f"{path.stem}.mrc")[::-1]
        yield path.stem, picture, np.array(rows).reshape(-1, 2)


def detector_tables(folder: Path) -> Seen:
    """The whole micrograph: it downsamples by itself."""
    for path in sorted(folder.glob("labels/*.tsv")):
        xy = numbers(path.read_text().splitlines(), 2)
        yield path.stem, mrcfile.read(folder / "micrographs" / f"{path.stem}.mrc"), xy


def eman2_json(folder: Path) -> Seen:
    for path in sorted(folder.glob("info/*_info.json")):
        stem = path.name.removesuffix("_info.json")
        boxes = [b[:2] for b in json.loads(path.read_text())["boxes"]]
        yield stem, mrcfile.read(folder / "micrographs" / f"{stem}.mrc"), np.array(boxes, float).reshape(-1, 2)


def by_name(folder: Path) -> dict[str, np.ndarray]:
    """Pictures of a set that gets no links: entry and micrograph's own name -> pixels."""
    table = manifest.read_manifest(folder)
    return {name: mrcfile.read(path) for name, path in zip(table["name"], table["path"], strict=True)}


def relion_list(folder: Path) -> Seen:
    pictures = by_name(folder)
    for job in sorted(folder.glob("AutoPick/*/autopick.star")):
        for row in star_rows(job):
            name = row["_rlnMicrographName"]
            yield name, pictures[name], xy_of(star_rows(Path(row["_rlnMicrographCoordinates"])))


def relion_suffix(folder: Path) -> Seen:
    """RELION 3.1 goes by the place of the file: the micrograph's path below the folder of `coords_suffix_...`."""
    for job in sorted(folder.glob("AutoPick/*/coords_suffix_autopick.star")):
        for name, picture in by_name(folder).items():
            path = job.parent / (name.removesuffix(".mrc") + "_autopick.star")
            if path.exists():
                yield name, picture, xy_of(star_rows(path))


def of_one_table(folder: Path, rows: list[dict[str, str]]) -> Seen:
    for name, picture in by_name(folder).items():
        wanted = (name, name.rpartition("/")[2])
        yield name, picture, xy_of([r for r in rows if r["_rlnMicrographName"] in wanted])


def cs(folder: Path) -> Seen:
    data = np.load(folder / "picked_particles.cs")
    for name, picture in by_name(folder).items():
        mine = data[data["location/micrograph_path"] == name.encode()]
        frac = np.column_stack([mine["location/center_x_frac"], mine["location/center_y_frac"]])
        yield name, picture, frac * picture.shape[::-1]


FORMATS: dict[str, tuple[str, dict[str, object], Callable[[Path], Seen], float]] = {
    "crYOLO box": (
        "cryolo",
        {"drop_partial_boxes": "no"},
        lambda f: corners(f, "*_annot/*.box", "*_image"),
        0.06,
    ),
    "crYOLO cbox": ("cryolo", {"annotation": "cbox", "drop_partial_boxes": "no"}, cbox, 0.06),
    "Topaz": ("topaz", {"target_pixel_size": 10.0}, topaz, 0.51),
    "Warp": ("warp", {"pixel_size": 10.0}, warp, 0.51),
    "EPicker": ("epicker", {}, epicker, 0.51),
    "CryoSegNet": ("cryosegnet", {}, cryosegnet, 0.51),
    "cryoflow's detector": ("cryoflow", {}, detector_tables, 0.001),
    "EMAN2 JSON": ("eman2", {}, eman2_json, 0.06),
    "EMAN1 box": ("eman2", {}, lambda f: corners(f, "boxfiles/*.box", "micrographs"), 0.51),
    "RELION list": ("relion", {}, relion_list, 0.001),
    "RELION suffix": ("relion", {}, relion_suffix, 0.001),
    "RELION particles": ("relion", {}, lambda f: of_one_table(f, star_rows(f / "particles.star")), 0.001),
    "CryoSPARC STAR": (
        "cryosparc",
        {},
        lambda f: of_one_table(f, star_rows(f / "import_particles.star")),
        0.001,
    ),
    "CryoSPARC dataset": ("cryosparc", {}, cs, 0.001),
}
"""What -> picker, settings by hand, who reads it, and how far a center may be off, in pixels of the picture."""


@pytest.mark.parametrize("what", FORMATS)
def test_centers_lie_on_particles_and_come_back_to_where_they_were(make_entry, tmp_path, what):
    name, settings, seen, tolerance_px = FORMATS[what]
    entries = [
        make_entry("P1", n=4, names=[f"a_{i}.mrc" for i in range(4)]),
        make_entry("P2", n=4, pixel_size_A=5.0, shape_yx=(600, 400), seed=1, names=[f"b_{i}.mrc" for i in range(4)]),
    ]
    result = export(name, entries, tmp_path / "set", settings=settings)
    true = {}
    for entry in entries:
        bounds = entry.offsets
        for i, own in enumerate(entry.micrographs["name"]):
            true[own] = entry.centers_xy_px[bounds[i] : bounds[i + 1]]
    table = manifest.read_manifest(result.folder)
    own_name, table = table.set_index("stem")["name"], table.set_index("name")
    found = set()
    for exported, picture, xy in seen(result.folder):
        own = own_name.get(exported, exported)
        found.add(own)
        assert len(xy) == len(true[own]) == table.loc[own, "n_picks"]
        if len(xy) == 0:
            continue
        height = picture.shape[0]
        dark = mean_under(picture, xy, 1)
        assert dark < mean_under(picture, np.column_stack([xy[:, 0], height - 1 - xy[:, 1]]), 1) - 1
        assert dark < picture.mean() - 1.5 * picture.std()
        expected = true[own] / table.loc[own, "scale"]
        if name == "warp":  # it goes by the size of the picture, which is even
            expected = true[own] * picture.shape[::-1] / table.loc[own, ["nx", "ny"]].to_numpy(float)
        if name == "cryosegnet":
            expected[:, 1] = height - 1 - expected[:, 1]
        assert np.abs(nearest(expected, xy)).max() <= tolerance_px
    assert found == set(true)


def nearest(expected: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """From each expected center to the nearest that was read."""
    apart = xy[None] - expected[:, None]
    return apart[np.arange(len(expected)), np.abs(apart).sum(axis=2).argmin(axis=1)]
