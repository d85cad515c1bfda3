"""Promise 10: positions come back from every format within its bound, on non-square micrographs of any shape."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.database import Database
from cryoflow.micrographs.image import write_mrc
from cryoflow.pickers.importing.import_picks import import_picks
from cryoflow.pickers.registry import picker
from cryoflow.pickers.training_sets.build import build_training_set
from cryoflow.pickers.training_sets.export import write_set
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

BOUND_PX = {
    "database": 0.0005,
    "relion": 0.001,
    "cryosparc": 0.001,
    "cryolo": 0.0501,
    "eman2": 0.0501,
    "topaz": 0.51,
    "cryosegnet": 0.51,
}
"""Largest error of x and of y, in micrograph pixels: what the format itself rounds to (Topaz and CSV: whole pixels)."""

PARTS = {"relion": "AutoPick", "topaz": "particles.txt", "cryosegnet": "finetune_dataset/csv_files", "eman2": "info"}
SETTINGS: dict[str, dict[str, object]] = {"topaz": {"downsampling": 1}, "cryolo": {"drop_partial_boxes": "no"}}

shapes = st.tuples(st.integers(60, 140), st.integers(150, 260)) | st.tuples(st.integers(150, 260), st.integers(60, 140))
fractions = st.lists(st.tuples(st.floats(0.05, 0.95), st.floats(0.05, 0.95)), min_size=1, max_size=8)


def one_entry(folder: Path, shape_yx: tuple[int, int], xy_frac: list[tuple[float, float]]) -> PickSet:
    write_mrc(folder / "m.mrc", np.random.default_rng(0).normal(size=shape_yx).astype(np.float32), 4.0)
    ny, nx = shape_yx
    micrographs = micrograph_table(
        {"name": ["m.mrc"], "path": [str(folder / "m.mrc")], "status": ["found"], "uid": ["7"], "ny": [ny], "nx": [nx]}
        | {"pixel_size_A": [4.0], "voltage_kV": [300.0], "cs_mm": [2.7], "amplitude_contrast": [0.1]}
        | {"defocus_u_A": [1e4], "defocus_v_A": [1e4]}
    )
    xy = np.array(xy_frac) * (nx - 1, ny - 1)
    picks = pd.DataFrame({"micrograph": 0, "x_px": xy[:, 0], "y_px": xy[:, 1]})
    who = Provenance("cryosparc", folder, "P1", "J5", Kind.HOMO)
    return PickSet.build(who, micrographs, picks, diameter_A=40.0)


@pytest.mark.parametrize("name", BOUND_PX)
@settings(max_examples=12, deadline=None)
@given(shape_yx=shapes, xy_frac=fractions)
def test_positions_come_back_within_the_bound(
    name: str, shape_yx: tuple[int, int], xy_frac: list[tuple[float, float]]
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        entry = one_entry(folder, shape_yx, xy_frac)
        if name == "database":
            database = Database(folder / "DB")
            back = database.load(database.add(entry))
        else:
            training = build_training_set([entry], link=picker(name).links_micrographs)
            result = write_set(picker(name), training, folder / "set", SETTINGS.get(name, {}), "test")
            (back,) = import_picks(name, result.folder / PARTS.get(name, ""), result.manifest)
            if name == "relion":  # the same positions once more, for the job Extract
                (particles,) = import_picks(name, result.folder / "particles.star", result.manifest)
                np.testing.assert_allclose(particles.centers_xy_px, back.centers_xy_px, rtol=0, atol=BOUND_PX[name])
        assert len(back) == len(entry)
        np.testing.assert_allclose(back.centers_xy_px, entry.centers_xy_px, rtol=0, atol=BOUND_PX[name])
