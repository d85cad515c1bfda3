"""Boxes are centered where they should be, also at the edges."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.micrographs.boxes import cut_boxes

IMAGE = np.arange(9 * 13, dtype=np.float32).reshape(9, 13)


@pytest.mark.parametrize("box_px", [1, 4, 5])
def test_the_center_pixel_is_at_half_the_box(box_px: int) -> None:
    (box,) = cut_boxes(IMAGE, [[6, 4]], box_px)
    assert box[box_px // 2, box_px // 2] == IMAGE[4, 6]


def test_x_comes_first() -> None:
    (box,) = cut_boxes(IMAGE, [[10, 3]], 1)
    assert box[0, 0] == IMAGE[3, 10]


@pytest.mark.parametrize(("x", "column"), [(6.49, 6), (6.5, 7), (5.5, 6), (-0.5, 0)])
def test_halves_are_rounded_up(x: float, column: int) -> None:
    assert cut_boxes(IMAGE, [[x, 4]], 1)[0, 0, 0] == IMAGE[4, column]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 7),
    st.lists(st.tuples(st.integers(-8, 20), st.integers(-8, 16)), min_size=1, max_size=6),
)
def test_boxes_are_those_of_a_padded_image(box_px: int, centers: list[tuple[int, int]]) -> None:
    padded = np.pad(IMAGE, 16, mode="reflect")
    boxes = cut_boxes(IMAGE, centers, box_px)
    for (x, y), box in zip(centers, boxes, strict=True):
        top, left = y + 16 - box_px // 2, x + 16 - box_px // 2
        np.testing.assert_array_equal(box, padded[top : top + box_px, left : left + box_px])


def test_a_box_larger_than_the_image_is_mirrored_again_and_again() -> None:
    (box,) = cut_boxes(IMAGE, [[6, 4]], 60)
    assert np.isfinite(box).all()
    assert set(np.unique(box)) == set(IMAGE.ravel())


def test_no_centers_give_no_boxes() -> None:
    assert cut_boxes(IMAGE, np.zeros((0, 2)), 8).shape == (0, 8, 8)


def test_the_image_is_not_shared() -> None:
    boxes = cut_boxes(IMAGE, [[6, 4]], 3)
    boxes[:] = -1
    assert IMAGE.min() == 0


@pytest.mark.parametrize(("centers", "box_px"), [([[np.nan, 1]], 4), ([[1, 1]], 0)])
def test_senseless_requests_are_refused(centers: list[list[float]], box_px: int) -> None:
    with pytest.raises(ValueError, match=r"box of 0|NaN"):
        cut_boxes(IMAGE, centers, box_px)
