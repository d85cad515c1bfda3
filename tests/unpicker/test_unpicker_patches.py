from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from unpicker_rings import make_set

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.micrographs.ctf import Ctf
from cryoflow.micrographs.image import write_mrc
from cryoflow.preparation.patches import load_patches
from cryoflow.preparation.picked_micrograph import PickedMicrograph
from cryoflow.preparation.two_channel import TwoChannelPreprocessing
from cryoflow.unpicker.bundle import preprocessing_from_json
from cryoflow.unpicker.emunpicker import EmUnpickerPreprocessing
from cryoflow.unpicker.patch_cache import prepare

SMALL = TwoChannelPreprocessing(pixels_per_diameter=12, margin_px=1)


def picked(path: Path, centers, *, pixel_size_A=4.0, diameter_A=96.0, ctf=None):
    centers = np.asarray(centers, float).reshape(-1, 2)
    return PickedMicrograph(
        path.stem, path, pixel_size_A, diameter_A, centers, np.zeros(len(centers), np.int8), "", ctf
    )


def with_bump(path: Path, center_xy, shape_yx=(256, 384), pixel_size_A=4.0, sigma_px=4.0):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: shape_yx[0], : shape_yx[1]]
    bump = np.exp(-((x - center_xy[0]) ** 2 + (y - center_xy[1]) ** 2) / (2 * sigma_px**2))
    write_mrc(path, (rng.normal(50, 0.02, shape_yx) - bump).astype(np.float32), pixel_size_A)
    return path


def centroid(box):
    """Where the darkest spot is, in pixels of the box."""
    dark = np.clip(-box.astype(float) - 1.5, 0, None)
    y, x = np.mgrid[: box.shape[0], : box.shape[1]]
    return (dark * x).sum() / dark.sum(), (dark * y).sum() / dark.sum()


@pytest.mark.parametrize("center", [(100, 60), (300, 200), (120, 180)])
def test_the_particle_under_a_pick_is_in_the_middle_of_its_box(tmp_path, center):
    micrograph = picked(with_bump(tmp_path / "m.mrc", center), [center])
    boxes = load_patches(SMALL, micrograph)
    edge = SMALL.input_px + 2 * SMALL.margin_px
    assert boxes.shape == (1, edge, edge, 2)
    assert boxes.dtype == np.float16
    for channel in (0, 1):
        x, y = centroid(boxes[0, :, :, channel])
        assert abs(x - edge // 2) <= 0.75  # half a pixel of rounding, on either axis
        assert abs(y - edge // 2) <= 0.75


def test_boxes_of_one_particle_are_alike_at_another_pixel_size(tmp_path):
    fine = picked(with_bump(tmp_path / "a.mrc", (200, 120), (512, 768), 2.0, 8.0), [(200, 120)], pixel_size_A=2.0)
    coarse = picked(with_bump(tmp_path / "b.mrc", (100, 60)), [(100, 60)])
    a, b = (load_patches(SMALL, m).astype(float)[0, :, :, 0] for m in (fine, coarse))
    assert np.corrcoef((a / a.min()).ravel(), (b / b.min()).ravel())[0, 1] > 0.8


def test_boxes_at_the_edge_and_in_the_corner_are_whole(tmp_path):
    micrograph = picked(with_bump(tmp_path / "m.mrc", (100, 60)), [(0, 0), (383, 255), (-0.4, 100), (200, 255.3)])
    boxes = load_patches(SMALL, micrograph)
    assert np.isfinite(boxes.astype(float)).all()
    assert (boxes.astype(float).std(axis=(1, 2)) > 0).all()


def test_a_micrograph_without_picks_gives_no_boxes(tmp_path):
    boxes = load_patches(SMALL, picked(with_bump(tmp_path / "m.mrc", (100, 60)), []))
    assert boxes.shape[0] == 0
    assert boxes.ndim == 4


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda image: np.full_like(image, 7), "blank"),
        (lambda image: np.where(image > 50, np.nan, image), "NaN"),
    ],
)
def test_pixels_that_show_nothing_are_refused(tmp_path, spoil, says):
    path = tmp_path / "m.mrc"
    write_mrc(path, spoil(np.random.default_rng(0).normal(50, 1, (64, 64)).astype(np.float32)), 4.0)
    with pytest.raises(BadInput, match=says):
        load_patches(SMALL, picked(path, [(10, 10)]))


def test_another_pixel_size_than_the_header_says_is_refused(tmp_path):
    path = with_bump(tmp_path / "m.mrc", (100, 60))
    with pytest.raises(BadInput, match="4 A a pixel, but 2 was given"):
        load_patches(SMALL, picked(path, [(10, 10)], pixel_size_A=2.0))


def test_picks_outside_the_micrograph_are_refused(tmp_path):
    path = with_bump(tmp_path / "m.mrc", (100, 60))
    with pytest.raises(BadInput, match="1 of 2 picks lie outside its 384 x 256 pixels"):
        load_patches(SMALL, picked(path, [(10, 10), (100, 300)]))


def test_a_missing_micrograph_is_left_out_and_the_rest_goes_on(tmp_path):
    good = picked(with_bump(tmp_path / "m.mrc", (100, 60)), [(100, 60)])
    gone = picked(tmp_path / "gone.mrc", [(1, 1)])
    steps = []
    result = prepare(SMALL, [gone, good], tmp_path / "cache", on_done=lambda done, total: steps.append((done, total)))
    assert [m.micrograph.name for m in result.micrographs] == ["m"]
    assert len(result.failed) == 1
    assert "gone.mrc" in str(result.failed[0])
    assert steps == [(1, 2), (2, 2)]


def test_preprocessing_is_what_its_json_says():
    for one in (SMALL, TwoChannelPreprocessing(phase_flip=True), EmUnpickerPreprocessing(240.0, lowpass_A=20)):
        assert preprocessing_from_json(dict(one.to_json())) == one
    with pytest.raises(ValueError, match="unknown"):
        preprocessing_from_json({"kind": "unknown"})
    with pytest.raises(ValueError, match="fields"):
        preprocessing_from_json({**SMALL.to_json(), "more": 1})


def test_phase_flipping_needs_the_ctf_and_changes_the_boxes(tmp_path):
    path = with_bump(tmp_path / "m.mrc", (100, 60))
    flipping = replace(SMALL, phase_flip=True)
    with pytest.raises(MissingMetadata, match="--ctf"):
        load_patches(flipping, picked(path, [(100, 60)]))
    flipped = load_patches(flipping, picked(path, [(100, 60)], ctf=Ctf(30_000, 30_000)))
    assert not np.array_equal(flipped, load_patches(SMALL, picked(path, [(100, 60)])))


def test_the_cache_is_keyed_on_pixels_picks_scale_and_preprocessing(tmp_path):
    path = with_bump(tmp_path / "m.mrc", (100, 60))
    cache = tmp_path / "cache"

    def file_of(preprocessing, micrograph):
        return prepare(preprocessing, [micrograph], cache).micrographs[0].patches_file

    base = picked(path, [(100, 60)])
    first = file_of(SMALL, base)
    written = first.stat().st_mtime_ns
    assert file_of(SMALL, base) == first
    assert first.stat().st_mtime_ns == written  # not made again
    others = {
        file_of(replace(SMALL, clip_local=5.0), base),
        file_of(SMALL, picked(path, [(101, 60)])),
        file_of(SMALL, replace(base, diameter_A=100.0)),
    }
    with_bump(path, (101, 60))
    others.add(file_of(SMALL, base))
    assert len(others | {first}) == 5
    np.testing.assert_array_equal(np.load(file_of(SMALL, base)), load_patches(SMALL, base))


def test_boxes_in_the_cache_are_compact(tmp_path):
    rings = make_set(tmp_path, n_micrographs=1)
    cached = prepare(SMALL, rings.micrographs, tmp_path / "cache").micrographs[0]
    edge = SMALL.input_px + 2 * SMALL.margin_px
    assert cached.patches_file.stat().st_size < len(cached.labels) * edge * edge * 2 * 2 + 256


def test_classic_boxes_are_of_the_micrographs_own_range(tmp_path):
    micrograph = picked(with_bump(tmp_path / "m.mrc", (100, 60)), [(100, 60), (300, 200), (0, 0)])
    boxes = load_patches(EmUnpickerPreprocessing(96.0, resized_box_px=16), micrograph).astype(float)
    assert boxes.shape == (3, 16, 16, 1)
    assert boxes.min() >= -0.5
    assert boxes.max() <= 0.5
    x, y = centroid((boxes[0, :, :, 0] - np.median(boxes[0])) / boxes[1].std())
    assert abs(x - 7.5) < 1
    assert abs(y - 7.5) < 1


def test_classic_filters_remove_what_they_should(tmp_path):
    shape = (128, 192)
    x = np.arange(shape[1])
    coarse, fine = np.sin(2 * np.pi * x / 64), np.sin(2 * np.pi * x / 6)  # 256 A and 24 A at 4 A a pixel
    image = np.broadcast_to(coarse + fine, shape).astype(np.float32)
    micrograph = picked(tmp_path / "m.mrc", [(10, 10)])

    def left(preprocessing):
        row = preprocessing.filtered(image, micrograph)[0].astype(float)
        spectrum = np.abs(np.fft.rfft(row - row.mean()))
        return spectrum[3] / spectrum.max(), spectrum[32] / spectrum.max()

    assert left(EmUnpickerPreprocessing(96.0, lowpass_A=100))[1] < 0.01
    assert left(EmUnpickerPreprocessing(96.0, highpass_A=100))[0] < 0.01
    assert min(left(EmUnpickerPreprocessing(96.0))) > 0.9
    assert left(EmUnpickerPreprocessing(96.0, gaussian_sigma_px=3))[1] < 0.05
