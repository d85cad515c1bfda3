"""Points stay where they are when a micrograph is Fourier-cropped or padded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.micrographs.decimation import RowDecimation
from cryoflow.micrographs.fourier import fourier_resample, resample_to_shape, resampled_shape, rescale_xy
from cryoflow.micrographs.image import MicrographFile, write_mrc


def peak_xy(image: np.ndarray) -> np.ndarray:
    """Sub-pixel position of the one blob of an image: its centroid."""
    y, x = np.indices(image.shape)
    return np.array([(image * x).sum(), (image * y).sum()]) / image.sum()


def blob(shape_yx: tuple[int, int], x: float, y: float, sigma_px: float) -> np.ndarray:
    rows, columns = np.indices(shape_yx)
    return np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * sigma_px**2)).astype(np.float32)


def phase_xy(image: np.ndarray) -> np.ndarray:
    """Position of a delta from the phase of the lowest frequencies: exact for whatever is symmetric about it."""
    spectrum = np.fft.fft2(image)
    ny, nx = image.shape
    x = -np.angle(spectrum[0, 1]) * nx / (2 * np.pi) % nx
    y = -np.angle(spectrum[1, 0]) * ny / (2 * np.pi) % ny
    return np.array([x, y])


@pytest.mark.parametrize("to_pixel_size_A", [0.8, 1.7, 2.0, 4.0, 6.3, 8.0])
@pytest.mark.parametrize("shape_yx", [(240, 330), (241, 333), (256, 129)])
@pytest.mark.parametrize("point", [(70, 101), (0, 0), (128, 239)])
def test_a_delta_comes_to_where_rescale_xy_says(
    shape_yx: tuple[int, int], to_pixel_size_A: float, point: tuple[int, int]
) -> None:
    image = np.zeros(shape_yx, np.float32)
    x, y = point[0] % shape_yx[1], point[1] % shape_yx[0]
    image[y, x] = 1
    small, _ = fourier_resample(image, 1.0, to_pixel_size_A)
    (expected,) = rescale_xy([[x, y]], image.shape, small.shape)
    off = np.abs(phase_xy(small) - expected)
    off = np.minimum(off, np.array(small.shape[::-1]) - off)  # the transform is periodic
    assert off.max() < 0.05
    assert small.sum() / small.size == pytest.approx(1 / image.size, rel=1e-4)


def test_the_peak_of_a_blob_stays_to_a_twentieth_of_a_pixel() -> None:
    image = blob((400, 610), 333.0, 120.0, 12.0)
    small, _ = fourier_resample(image, 1.1, 8.1)
    (expected,) = rescale_xy([[333.0, 120.0]], image.shape, small.shape)
    assert np.abs(peak_xy(small) - expected).max() < 0.05
    assert small.max() == pytest.approx(1, abs=0.05)


def test_the_exact_pixel_size_is_reported() -> None:
    image = np.zeros((4092, 5760), np.float32)[::8, ::8]
    small, (size_y, size_x) = fourier_resample(image, 1.05, 7.0)
    assert small.shape[0] % 2 == 0
    assert small.shape[1] % 2 == 0
    assert size_y * small.shape[0] == pytest.approx(1.05 * image.shape[0])
    assert size_x * small.shape[1] == pytest.approx(1.05 * image.shape[1])
    assert size_y == pytest.approx(7.0, rel=0.015)
    assert resampled_shape((4092, 5760), 1.05, 7.0)[0] == (614, 864)


def test_coarse_detail_survives_and_fine_detail_does_not_alias() -> None:
    x = np.arange(256)
    coarse = np.cos(2 * np.pi * x * 8 / 256)
    fine = np.cos(2 * np.pi * x * 100 / 256)
    image = np.tile(coarse + fine, (128, 1)).astype(np.float32)
    small = resample_to_shape(image, (64, 64))
    np.testing.assert_allclose(small, np.tile(np.cos(2 * np.pi * np.arange(64) * 8 / 64), (64, 1)), atol=1e-4)


def cropped_exactly(image: np.ndarray, shape_yx: tuple[int, int]) -> np.ndarray:
    """The frequencies below those of the smaller size, in float64."""
    spectrum = np.fft.fft2(image.astype(np.float64))
    for axis, (n, new) in enumerate(zip(image.shape, shape_yx, strict=True)):
        frequency = np.fft.fftfreq(n) * n
        spectrum = np.compress(np.abs(frequency) < new / 2, spectrum, axis=axis)
        spectrum = np.insert(spectrum, new // 2, 0, axis=axis)  # the highest one is dropped
    return np.fft.ifft2(spectrum).real * (np.prod(shape_yx) / image.size)


@pytest.mark.parametrize(
    ("shape_yx", "new_yx", "factor"),
    [
        ((512, 60), (76, 20), 4),  # several blocks of rows
        ((300, 50), (48, 14), 4),  # the last block is not full
        ((16, 12), (2, 4), 4),  # the filter is longer than the image
        ((418, 40), (150, 16), 2),  # rows are no multiple of four
        ((400, 40), (156, 16), 2),
    ],
)
def test_thinned_rows_give_the_low_frequencies_that_exact_cropping_gives(
    shape_yx: tuple[int, int], new_yx: tuple[int, int], factor: int, tmp_path: Path
) -> None:
    decimation = RowDecimation.of(shape_yx[0], new_yx[0])
    assert decimation is not None
    assert decimation.factor == factor
    image = np.random.default_rng(3).normal(20, 3, shape_yx).astype(np.float32)
    exact = cropped_exactly(image, new_yx)
    np.testing.assert_allclose(resample_to_shape(image, new_yx), exact, atol=1e-3 * 3)
    write_mrc(tmp_path / "m.mrc", image, 1.0)
    np.testing.assert_array_equal(
        resample_to_shape(MicrographFile.open(tmp_path / "m.mrc"), new_yx), resample_to_shape(image, new_yx)
    )


@pytest.mark.parametrize(("ny", "new_ny"), [(4096, 2048), (4095, 600), (4096, 4500), (4094, 1700)])
def test_rows_are_thinned_only_where_the_filter_can_be_short(ny: int, new_ny: int) -> None:
    assert RowDecimation.of(ny, new_ny) is None


def test_padding_and_cropping_again_gives_the_image_back() -> None:
    image = np.random.default_rng(1).normal(size=(33, 45)).astype(np.float32)  # odd: no Nyquist frequency to lose
    back = resample_to_shape(resample_to_shape(image, (80, 94)), (33, 45))
    np.testing.assert_allclose(back, image, atol=1e-5)


def test_the_same_pixel_size_leaves_the_image_alone_but_copies_it() -> None:
    image = np.random.default_rng(1).normal(size=(31, 40)).astype(np.float32)
    same, size = fourier_resample(image, 1.5, 1.5)
    np.testing.assert_array_equal(same, image)
    assert size == (1.5, 1.5)
    same[:] = 0
    assert image.any()


@pytest.mark.parametrize("to_pixel_size_A", [1.5, 4.0, 1.0])
def test_a_file_gives_what_its_pixels_give(tmp_path: Path, to_pixel_size_A: float) -> None:
    image = np.random.default_rng(2).normal(size=(300, 41)).astype(np.float32)
    write_mrc(tmp_path / "a.mrc", image, 1.5)
    expected, size = fourier_resample(image, 1.5, to_pixel_size_A)
    found, same_size = fourier_resample(MicrographFile.open(tmp_path / "a.mrc"), 1.5, to_pixel_size_A)
    np.testing.assert_array_equal(found, expected)
    assert same_size == size


def test_one_axis_alone_can_change() -> None:
    image = blob((64, 100), 40.0, 30.0, 4.0)
    assert np.abs(peak_xy(resample_to_shape(image, (64, 50))) - [20, 30]).max() < 0.05
    assert np.abs(peak_xy(resample_to_shape(image, (32, 100))) - [40, 15]).max() < 0.05


@pytest.mark.parametrize(("have", "want"), [(0.0, 1.0), (1.0, -2.0), (float("nan"), 1.0)])
def test_senseless_pixel_sizes_are_refused(have: float, want: float) -> None:
    with pytest.raises(ValueError, match="positive"):
        fourier_resample(np.zeros((8, 8), np.float32), have, want)
