"""The pixels tell which of the eight conventions coordinates were recorded in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.micrographs.boxes import cut_boxes
from cryoflow.micrographs.fourier import resample_to_shape
from cryoflow.micrographs.image import read_micrograph
from cryoflow.micrographs.orientation import (
    AS_RECORDED,
    ORIENTATIONS,
    Orientation,
    check_against_stack,
    check_orientation,
)
from cryoflow.micrographs.orientation_sizes import SIZES_A, check_at_sizes
from cryoflow.simulate.blob_picker import pick_blobs
from cryoflow.simulate.density import find_specimen
from cryoflow.simulate.micrograph import Exposure, simulate_exposure

SHAPE_YX = (600, 900)
PIXEL_SIZE_A = 3.0
LETTER_F = [(0, 0), (1, 0), (2, 0), (0, 1), (0, 2), (1, 2), (0, 3), (0, 4), (0, 5)]  # x, y


def recorded_so_that(orientation: Orientation, xy: np.ndarray, shape_yx: tuple[int, int]) -> np.ndarray:
    """Coordinates that `orientation` sets right, by undoing its steps in reverse."""
    x, y = np.array(xy, float).T
    if orientation.flip_y:
        y = shape_yx[0] - 1 - y
    if orientation.flip_x:
        x = shape_yx[1] - 1 - x
    return np.stack([y, x] if orientation.swap_xy else [x, y], axis=1)


@pytest.fixture(scope="module")
def exposures() -> list[Exposure]:
    barrel = find_specimen("barrel")
    return [simulate_exposure(barrel, SHAPE_YX, PIXEL_SIZE_A, np.random.default_rng([4, n])) for n in range(3)]


@pytest.fixture(scope="module")
def picks(exposures: list[Exposure]) -> list[np.ndarray]:
    return [pick_blobs(e.image, PIXEL_SIZE_A, 160, threshold=2.0)[0] for e in exposures]


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_applying_an_orientation_undoes_what_was_done(orientation: Orientation) -> None:
    xy = np.array([[0.0, 0.0], [899.0, 599.0], [20.25, 70.5]])
    np.testing.assert_allclose(orientation.apply(recorded_so_that(orientation, xy, SHAPE_YX), SHAPE_YX), xy)


@pytest.mark.parametrize("contrast", [1, -1], ids=["dark particles", "bright particles"])
@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_every_convention_is_recognized_on_non_square_micrographs(
    exposures: list[Exposure], picks: list[np.ndarray], orientation: Orientation, contrast: int
) -> None:
    recorded = [recorded_so_that(orientation, xy, SHAPE_YX) for xy in picks]
    found = check_orientation((contrast * e.image for e in exposures), recorded, 160 / PIXEL_SIZE_A)
    assert found.best == orientation
    assert found.verdict == ("confirmed" if orientation == AS_RECORDED else "contradicted")
    assert found.scores[orientation] > 3 * max(z for o, z in found.scores.items() if o != orientation)
    if orientation != AS_RECORDED:
        assert str(found).startswith(f"contradicted: {orientation} fits better")


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("shape_yx", [(400, 640), (500, 500)])
def test_a_letter_f_of_blobs_is_read_in_every_convention(orientation: Orientation, shape_yx: tuple[int, int]) -> None:
    """F has no symmetry: eight conventions, eight different letters."""
    rng = np.random.default_rng(8)
    xy = np.concatenate([np.array(LETTER_F, float) * 40 + (90, 60), np.array(LETTER_F, float)[:3] * 40 + (90, 300)])
    y, x = np.indices(shape_yx)
    image = rng.normal(0, 1, shape_yx)
    for x0, y0 in xy:
        image += 0.8 * (np.hypot(x - x0, y - y0) < 10)
    found = check_orientation([image.astype("f4")], [recorded_so_that(orientation, xy, shape_yx)], 20)
    assert found.best == orientation
    assert found.verdict != "undecided"


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
def test_one_real_micrograph_with_45_picks_is_enough(realdata: Path, orientation: Orientation) -> None:
    stem = realdata / "relion3_micrograph" / "Ucsf_stack_1142_DW"
    image = read_micrograph(stem.with_suffix(".mrc"))
    rows = [line.split() for line in stem.with_name(f"{stem.name}_autopick.star").read_text().splitlines()]
    xy = np.array([[float(row[0]), float(row[1])] for row in rows if len(row) == 5])
    assert len(xy) == 45
    found = check_orientation([image], [recorded_so_that(orientation, xy, image.shape)], 70)
    assert found.best == orientation
    assert found.verdict == ("confirmed" if orientation == AS_RECORDED else "contradicted")


@pytest.mark.parametrize("specimen", ["small", "barrel", "large"])
def test_every_convention_is_recognized_on_particles_of_any_size(specimen: str) -> None:
    found = find_specimen(specimen)
    seen = [simulate_exposure(found, (900, 1200), 2.0, np.random.default_rng([9, n])) for n in range(3)]
    images = [e.image for e in seen]
    for orientation in ORIENTATIONS[::3]:
        recorded = [recorded_so_that(orientation, e.true_xy_px, (900, 1200)) for e in seen]
        verdict, diameter_px = check_at_sizes(images, recorded, [size / 2.0 for size in SIZES_A])
        assert verdict.best == orientation
        assert verdict.verdict == ("confirmed" if orientation == AS_RECORDED else "contradicted")
        assert 0.6 < diameter_px * 2.0 / found.diameter_A < 1.6


def test_nothing_stands_out_at_any_size_where_picks_lie_on_nothing(exposures: list[Exposure]) -> None:
    for seed in range(6):
        rng = np.random.default_rng([13, seed])
        random = [rng.uniform((0, 0), SHAPE_YX[::-1], (60, 2)) for _ in exposures]
        verdict, _ = check_at_sizes((e.image for e in exposures), random, [s / PIXEL_SIZE_A for s in SIZES_A])
        assert verdict.verdict == "undecided"
    gone = [np.full(SHAPE_YX, np.nan, np.float32)]
    assert check_at_sizes(gone, [[[5, 5]]], [10.0])[0].verdict == "undecided"


def test_random_picks_are_undecided(exposures: list[Exposure]) -> None:
    rng = np.random.default_rng(2)
    random = [rng.uniform((0, 0), SHAPE_YX[::-1], (100, 2)) for _ in exposures]
    found = check_orientation((e.image for e in exposures), random, 160 / PIXEL_SIZE_A)
    assert found.verdict == "undecided"


def test_noise_is_undecided() -> None:
    rng = np.random.default_rng(5)
    images = [rng.normal(size=(300, 500)).astype("f4") for _ in range(3)]
    found = check_orientation(images, [rng.uniform(0, 300, (80, 2)) for _ in images], 40)
    assert found.verdict == "undecided"


def test_a_symmetric_pattern_is_undecided() -> None:
    y, x = np.indices((400, 400))
    places = [(i, j) for i in (60.0, 339.0) for j in (60.0, 200.0, 339.0)]
    places += [(j, i) for i, j in places if j == 200]
    image = np.random.default_rng(0).normal(0, 1, (400, 400))
    xy = np.array([*places, (199.5, 199.5), (199.5, 199.5), (150, 150), (249, 249), (150, 249), (249, 150)])
    for x0, y0 in xy:
        image -= np.hypot(x - x0, y - y0) < 14
    assert check_orientation([image.astype("f4")], [xy], 28).verdict == "undecided"


def test_corners_of_boxes_are_not_confirmed_and_the_offset_is_told(
    exposures: list[Exposure], picks: list[np.ndarray]
) -> None:
    diameter_px = 160 / PIXEL_SIZE_A
    found = check_orientation((e.image for e in exposures), [xy - 40 for xy in picks], diameter_px)
    assert found.verdict == "undecided"
    assert found.offset_xy_px == pytest.approx((40, 40), abs=diameter_px / 8)
    assert "from the picks" in str(found)


@pytest.mark.parametrize("n_picks", [0, 4])
def test_too_few_picks_decide_nothing(exposures: list[Exposure], n_picks: int) -> None:
    e = exposures[0]
    found = check_orientation([e.image], [e.true_xy_px[:n_picks]], 160 / PIXEL_SIZE_A)
    assert (found.verdict, found.n_picks) == ("undecided", n_picks)


def test_no_micrographs_decide_nothing() -> None:
    assert check_orientation([], [], 50).verdict == "undecided"


def test_a_blank_micrograph_decides_nothing() -> None:
    blank = np.zeros((300, 400), np.float32)
    assert check_orientation([blank], [np.full((20, 2), 100.0)], 50).verdict == "undecided"


def test_a_micrograph_of_nan_does_not_spoil_the_others(exposures: list[Exposure], picks: list[np.ndarray]) -> None:
    images = [exposures[0].image, np.full(SHAPE_YX, np.nan, np.float32), exposures[2].image]
    found = check_orientation(images, picks, 160 / PIXEL_SIZE_A)
    assert (found.verdict, found.n_micrographs) == ("confirmed", 2)


def test_senseless_diameters_are_refused() -> None:
    with pytest.raises(ValueError, match="diameter"):
        check_orientation([], [], 0)


def extracted_from(image: np.ndarray, xy: np.ndarray) -> np.ndarray:
    """Particles as programs extract them: cut with rounded centers, binned by two, contrast inverted, normalized."""
    boxes = cut_boxes(image, xy, 80)
    small = np.stack([resample_to_shape(b, (40, 40)) for b in boxes])
    return (small.mean() - small) / small.std()


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=str)
@pytest.mark.parametrize("also_turned", [False, True], ids=["boxes as stored", "boxes turned too"])
def test_a_few_extracted_particles_tell_the_convention(
    exposures: list[Exposure], orientation: Orientation, also_turned: bool
) -> None:
    """Either only coordinates were recorded otherwise, or the program read the whole image the other way round."""
    images = [e.image for e in exposures[:2]]
    centers = [e.true_xy_px[:6] for e in exposures[:2]]
    stacks = [extracted_from(image, xy) for image, xy in zip(images, centers, strict=True)]
    if also_turned:
        stacks = [orientation.turn_boxes(s) for s in stacks]
    recorded = [recorded_so_that(orientation, xy + 0.4, SHAPE_YX) for xy in centers]
    found = check_against_stack(images, recorded, stacks, 80)
    assert found.best == orientation
    assert found.verdict == ("confirmed" if orientation == AS_RECORDED else "contradicted")


def test_other_particles_than_those_extracted_are_undecided(exposures: list[Exposure]) -> None:
    e = exposures[0]
    stack = extracted_from(e.image, e.true_xy_px[:6])
    assert check_against_stack([e.image], [e.true_xy_px[6:12]], [stack], 80).verdict == "undecided"
    assert check_against_stack([], [], [], 80).verdict == "undecided"
