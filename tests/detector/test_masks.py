"""Masks of junk: where carbon is, left out of any picker's picks, drawn in the report, and read from other programs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest

from cryoflow.cli.main import launch
from cryoflow.database import Database
from cryoflow.detector.bundle import Detector
from cryoflow.detector.loading import MicrographToPick
from cryoflow.detector.masks import MaskOptions, exclude, mask_of, read_mask
from cryoflow.detector.pick import PickedResult, pick
from cryoflow.detector.pick_set import write_mask
from cryoflow.errors import BadInput, ExitCode
from cryoflow.micrographs.image import write_mrc
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table
from cryoflow.report.parameters import ReportParameters
from cryoflow.report.stage import report
from cryoflow.simulate.conditions import STANDARD
from cryoflow.simulate.micrograph import simulate_exposure
from cryoflow.simulate.specimens import specimen_named

SHAPE_YX, PIXEL_A = (300, 500), 4.0
XY = [(50.0, 40.0), (450.0, 40.0), (50.0, 260.0), (450.0, 260.0)]


def entry(folder: Path, names: tuple[str, ...] = ("a.mrc", "b.mrc")) -> PickSet:
    """Picks of some other picker near the four corners of each micrograph."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        write_mrc(folder / name, rng.normal(size=SHAPE_YX).astype(np.float32), PIXEL_A)
    n = len(names)
    table = micrograph_table(
        {"name": list(names), "path": [str(folder / x) for x in names], "status": ["found"] * n}
        | {"ny": [SHAPE_YX[0]] * n, "nx": [SHAPE_YX[1]] * n, "pixel_size_A": [PIXEL_A] * n}
    )
    rows = [(i, x, y) for i in range(n) for x, y in XY]
    picks = pd.DataFrame(rows, columns=["micrograph", "x_px", "y_px"]).assign(score=0.9)
    where = Provenance("picker", folder, "P1", "topaz", Kind.AUTO_PICK)
    return PickSet.build(where, table, picks, diameter_A=160.0, score_kind="Topaz log-likelihood ratio")


def corner(shape_yx: tuple[int, int]) -> np.ndarray:
    """A mask of the upper right quarter."""
    mask = np.zeros(shape_yx, np.float32)
    mask[: shape_yx[0] // 2, shape_yx[1] // 2 :] = 1
    return mask


@pytest.mark.parametrize("shape_yx", [SHAPE_YX, (30, 50), (25, 42)])
@pytest.mark.parametrize("suffix", ["_junk", "_mask", ""])
def test_picks_on_a_mask_of_any_grid_are_left_out(tmp_path: Path, shape_yx: tuple[int, int], suffix: str) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    write_mrc(masks / f"a{suffix}.mrc", corner(shape_yx), 9.0)
    result, counts, failed = exclude(entry(tmp_path / "mics"), masks)
    assert result["a.mrc"][["x_px", "y_px"]].to_numpy().tolist() == [list(xy) for xy in XY if xy != (450.0, 40.0)]
    assert len(result["b.mrc"]) == 4
    assert counts == {"on_mask": 1, "no_mask": 1}
    assert not failed
    assert result.score_kind == "Topaz log-likelihood ratio"


def test_masks_that_mark_what_is_good_are_read_the_other_way_round(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", corner((30, 50)), 9.0)
    result, _, _ = exclude(entry(tmp_path / "mics", ("a.mrc",)), tmp_path, MaskOptions(marks_good=True))
    assert result["a.mrc"][["x_px", "y_px"]].to_numpy().tolist() == [[450.0, 40.0]]


def test_a_mask_of_another_shape_is_named_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    write_mrc(masks / "a.mrc", corner((50, 30)), 9.0)
    with pytest.raises(BadInput, match="30 x 50, another shape"):
        exclude(entry(tmp_path / "mics"), masks)
    write_mrc(masks / "b.mrc", corner((30, 50)), 9.0)
    database = Database(tmp_path / "db")
    name = database.add(entry(tmp_path / "mics")).name
    arguments = ["picker", "exclude", name, "--masks", str(masks), "--db", str(tmp_path / "db"), "--json"]
    assert launch(arguments) == ExitCode.PARTLY_FAILED
    captured = capsys.readouterr()
    assert "another shape" in captured.err
    (row,) = json.loads(captured.out)
    assert row["entry"] == "P1/Unpicked_topaz_unmasked"
    assert len(database[row["entry"]]) == 7
    with pytest.raises(BadInput, match="has no mask of these micrographs"):
        exclude(entry(tmp_path / "mics"), tmp_path / "db")


def test_the_report_draws_the_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    from cryoflow.report import example_pictures

    masks = tmp_path / "masks"
    masks.mkdir()
    write_mrc(masks / "a_junk.mrc", corner((30, 50)), 9.0)
    database = Database(tmp_path / "db")
    before = entry(tmp_path / "mics")
    database.add(before)
    database.add(exclude(before, masks)[0])
    drawn: list[tuple[str, np.ndarray | None]] = []
    plain = example_pictures.overlay

    def overlay(image: np.ndarray, marks: object, **options: object) -> Figure:
        drawn.append((str(options["title"]), options["mask"]))  # type: ignore[arg-type]
        return plain(image, marks, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(example_pictures, "overlay", overlay)
    page = report(ReportParameters(database=tmp_path / "db", output=tmp_path / "r.html", masks=masks)).read_text()
    shown = dict(drawn)
    assert shown["b.mrc"] is None
    assert shown["a.mrc"] is not None
    np.testing.assert_array_equal(shown["a.mrc"], corner((30, 50)) > 0)
    assert "25% is masked" in page


def test_the_pixel_size_of_a_mask_is_right_in_both_directions(tmp_path: Path) -> None:
    none = np.zeros(0)
    junk = np.zeros((25, 42), np.float16)
    path = write_mask(tmp_path, PickedResult("m.mrc", SHAPE_YX, PIXEL_A, np.zeros((0, 2)), none, none, junk=junk))
    with mrcfile.open(path) as file:
        assert float(file.voxel_size.x) == pytest.approx(500 * PIXEL_A / 42)
        assert float(file.voxel_size.y) == pytest.approx(300 * PIXEL_A / 25)


def test_the_general_model_masks_carbon(tmp_path: Path) -> None:
    specimen = replace(specimen_named("barrel"), whole_per_um2=150.0)
    conditions = replace(STANDARD, carbon=1.0)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        exposure = simulate_exposure(specimen, (500, 700), 3.0, rng, conditions)
        if 0.1 < exposure.dirty.mean() < 0.6:
            break
    write_mrc(tmp_path / "m.mrc", exposure.image, 3.0)
    item = MicrographToPick("m.mrc", tmp_path / "m.mrc", 3.0)
    (result,) = pick(Detector.general(), [item], specimen.diameter_A, masks=True)
    assert isinstance(result, PickedResult)
    write_mask(tmp_path / "masks", result)
    file = mask_of(tmp_path / "masks", "m.mrc")
    assert file is not None
    mask = read_mask(file, (500, 700), MaskOptions())
    rows, columns = (np.arange(n) * full // n for n, full in zip(mask.shape, (500, 700), strict=True))
    true = exposure.dirty[np.ix_(rows, columns)]
    assert mask[true].mean() > 0.7
    assert mask[~true].mean() < 0.1
