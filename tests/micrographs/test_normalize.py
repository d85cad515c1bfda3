"""Normalized gray values mean the same whatever the scale, the ground and the contamination."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from cryoflow.micrographs.normalize import median_and_deviation, normalize, normalize_locally


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(3).normal(50, 7, (300, 420)).astype(np.float32)


def test_median_and_deviation_are_those_of_the_noise(image: np.ndarray) -> None:
    image[:60] = -4000  # a fifth of it is ice
    median, deviation = median_and_deviation(image)
    assert median == pytest.approx(50, abs=4)
    assert deviation == pytest.approx(7, rel=0.5)
    assert image.std() > 1000


def test_scale_and_offset_do_not_matter(image: np.ndarray) -> None:
    np.testing.assert_allclose(normalize(image * 30 - 900), normalize(image), atol=1e-3)
    np.testing.assert_allclose(normalize_locally(image * 30 - 900, 40), normalize_locally(image, 40), atol=1e-3)


def test_outliers_are_clipped(image: np.ndarray) -> None:
    image[0, 0], image[0, 1] = 1e6, -1e6
    assert normalize(image)[0, :2].tolist() == [8, -8]
    assert normalize(image, clip=3).max() == 3


def test_a_slope_is_removed_and_a_spot_is_kept(image: np.ndarray) -> None:
    slope = np.linspace(0, 400, 420, dtype=np.float32)
    image[150:156, 200:206] -= 25
    local = normalize_locally(image + slope, 60)
    assert local.std() == pytest.approx(1, abs=0.1)
    assert local[150:156, 200:206].mean() < -2.5
    columns = local.mean(axis=0)[40:-40]
    assert abs(columns).max() < 0.3


def test_the_input_is_left_alone(image: np.ndarray) -> None:
    before = image.copy()
    normalize(image)
    normalize_locally(image, 30)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("value", [0.0, 5.0])
def test_a_blank_image_becomes_zeros(value: float) -> None:
    blank = np.full((40, 50), value, np.float32)
    assert not normalize(blank).any()
    assert not normalize_locally(blank, 9).any()


def test_integers_with_few_levels_still_have_a_deviation() -> None:
    image = np.zeros((100, 100), np.float32)
    image[::3] = 1  # more than half of the pixels are equal
    assert normalize(image).std() == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize("size", [1, 2, 7, 100, 4_001])
def test_the_median_is_the_one_of_numpy(size: int) -> None:
    image = np.random.default_rng(size).normal(10, 3, (1, size)).astype(np.float32)
    median, deviation = median_and_deviation(image)
    assert median == float(np.median(image))
    if size > 1:
        assert deviation == 1.4826 * float(np.median(np.abs(image - median)))


def test_the_local_deviation_is_the_median_of_the_local_ones() -> None:
    image = np.random.default_rng(1).normal(10, 3, (90, 130)).astype(np.float32)
    image[:, 60:] *= 4
    flat = image - ndimage.uniform_filter(image, 13)
    local = np.sqrt(np.median(ndimage.uniform_filter(flat * flat, 13)[::3, ::3]))
    np.testing.assert_array_equal(normalize_locally(image, 13, clip=6), np.clip(flat * np.float32(1 / local), -6, 6))
