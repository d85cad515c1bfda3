"""Promise 5: pixel sizes and diameters that no microscope has are taken for unknown, and cost nothing else.

A number such as 1e-300 is by the letter of each format a pixel size. Taken as one, it folds all picks into one, draws
circles of 10^300 pixels, and enlarges micrographs beyond any memory.
"""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from promise_tools import make_entry

from cryoflow.database import Database
from cryoflow.drawing.figures import Marks, jpeg, overlay
from cryoflow.errors import BadInput
from cryoflow.ingest import ingest
from cryoflow.micrographs.header import is_pixel_size
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import PickSet
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.projects.duplicates import distance_px

SIZES = ["0", "-1.5", "nan", "inf", "1e-300", "1e300", "<NA>"]


def with_pixel_size(root: Path, size: str) -> int:
    """Put a pixel size into every optics block and every dataset of two projects; returns how many values changed."""
    changed = 0
    for file in (root / "relion").rglob("*.star"):
        names: list[str] = []
        lines = []
        for line in file.read_text().split("\n"):
            if line.startswith("data_"):
                names = []
            elif label := re.match(r"_(rln\w+)", line):
                names.append(label[1])
            elif len(words := line.split()) == len(names) > 0:
                at = [i for i, name in enumerate(names) if name.endswith("PixelSize")]
                words = [size if i in at else word for i, word in enumerate(words)]
                line = " ".join(words) if at else line
                changed += len(at)
            lines.append(line)
        file.write_text("\n".join(lines))
    try:
        value = float(size)
    except ValueError:
        return changed
    for file in (root / "CS-demo").rglob("*.cs"):
        table = np.load(file)
        for name in [n for n in table.dtype.names if n.endswith("psize_A")]:
            table[name] = np.clip(value, -3e38, 3e38) if math.isfinite(value) else value
            changed += 1
        with file.open("wb") as out:
            np.save(out, table)
    return changed


@pytest.fixture(scope="module")
def n_picks(finished_projects: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Number of picks of each entry, with sound pixel sizes."""
    database = Database(tmp_path_factory.mktemp("sound") / "DB")
    assert ingest(finished_projects, database, check_orientation=False).exit_code == 0
    return {entry.name: entry.n_picks or 0 for entry in database}


@pytest.mark.parametrize("size", SIZES)
def test_a_pixel_size_that_cannot_be_one_is_taken_for_unknown(
    size: str, finished_projects: Path, n_picks: dict[str, int], tmp_path: Path
) -> None:
    root = tmp_path / "projects"
    shutil.copytree(finished_projects, root, symlinks=True)
    assert with_pixel_size(root, size) >= 24
    database = Database(tmp_path / "DB")
    assert ingest(root, database, check_orientation=False).exit_code == 0
    assert {entry.name: entry.n_picks for entry in database} == n_picks
    for entry in database:
        sizes = database.load(entry).micrographs["pixel_size_A"].dropna()
        assert all(map(is_pixel_size, sizes)), f"{entry.name}: {sizes.tolist()}"


def test_a_diameter_that_cannot_be_one_is_unknown_and_told(tmp_path: Path) -> None:
    entry = make_entry(tmp_path)
    for value in (0.0, -5.0, math.nan, math.inf, 1e300, 1e-9):
        built = PickSet.build(entry.provenance, entry.micrographs, entry.picks, diameter_A=value)
        assert built.diameter_A is None
        assert any("cannot be that of a particle" in note for note in built.notes)
    assert distance_px(1e300, np.array([1.0]), None, is_helical=False) == distance_px(
        None, np.array([1.0]), None, is_helical=False
    )


def test_a_circle_larger_than_its_micrograph_takes_no_longer_to_draw() -> None:
    """At 10^302 pixels the drawing did not end."""
    image = np.zeros((60, 80), np.float32)
    drawn = jpeg(overlay(image, [Marks(np.array([[40.0, 30.0]]), "one", "red")], diameter_px=1e302))
    assert drawn.startswith(b"\xff\xd8")


def test_a_micrograph_that_would_be_enlarged_beyond_memory_is_one_error_that_names_it(tmp_path: Path) -> None:
    """A pixel size 1000 times too large, which may be one."""
    image = np.random.default_rng(0).normal(size=(400, 600)).astype(np.float32)
    write_mrc(tmp_path / "a.mrc", image, 900.0)
    centers = np.array([[30.0, 40.0]])
    micrograph = PickedMicrograph("a.mrc", tmp_path / "a.mrc", 900.0, 150.0, centers, np.zeros(1, np.int8))
    with pytest.raises(BadInput, match=r"a\.mrc: at 900 A a pixel .* enlarged to 97200 pixels"):
        TwoChannelPreprocessing().patches(image, micrograph)
