"""Batches: the same again for the same number, right at the pixel in every orientation, data sets drawn fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cryoflow.detector import targets as t
from cryoflow.detector.examples import POSITIVE, Example
from cryoflow.detector.stream import CropStream, StreamOptions, augmented
from cryoflow.detector.targets import from_output


def example(folder: Path, name: str, n: int, shape_yx: tuple[int, int] = (200, 320), *, junk: bool = False) -> Example:
    """A prepared micrograph that is 8 at the particles and 0 elsewhere."""
    rng = np.random.default_rng(len(name) + n)
    grid = np.stack(np.meshgrid(np.arange(12, shape_yx[1] - 12, 30), np.arange(12, shape_yx[0] - 12, 30)), -1)
    xy = rng.permutation(grid.reshape(-1, 2))[:n].astype(float)
    pixels = np.zeros((*shape_yx, 2), np.float16)
    for x, y in xy.astype(int):
        pixels[y, x] = 8
    np.save(folder / f"{name}.npy", pixels)
    mask = None
    if junk:
        mask = folder / f"{name}.junk.npy"
        made = np.zeros((shape_yx[0] // 4, shape_yx[1] // 4), np.uint8)
        made[:, : made.shape[1] // 2] = 1
        np.save(mask, made)
    return Example(folder / f"{name}.npy", name, xy, np.full(n, POSITIVE, np.int8), np.ones(n, np.float32), junk=mask)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Crops as they are: no noise, no blur."""
    monkeypatch.setattr("cryoflow.detector.stream.augmented", lambda crop, rng: crop)


@pytest.mark.usefixtures("plain")
def test_targets_lie_on_the_particles_in_all_orientations(tmp_path: Path) -> None:
    stream = CropStream([example(tmp_path, "a", 30)], 24.0, seed=1, options=StreamOptions(crop_px=128, batch=16))
    n = 0
    for number in range(3):
        x, y = stream.batch(number)
        for image, maps in zip(x, y, strict=True):
            row, column = np.nonzero(maps[..., t.CENTER] > 0)
            at = from_output(np.stack([column, row], 1) + maps[row, column][:, [t.OFF_X, t.OFF_Y]])
            at = np.rint(at).astype(int)
            inside = ((at >= 0) & (at < 128)).all(axis=1)
            assert (image[at[inside, 1], at[inside, 0], 0] == 8).all()
            n += int(inside.sum())
    assert n > 100


@pytest.mark.usefixtures("plain")
def test_a_micrograph_smaller_than_a_crop_is_padded_and_the_padding_weighs_nothing(tmp_path: Path) -> None:
    options = StreamOptions(crop_px=128, batch=12)
    stream = CropStream([example(tmp_path, "a", 4, (64, 96), junk=True)], 24.0, seed=1, options=options)
    _, y = stream.batch(0)
    weighed = y[..., t.WEIGHT] > 0
    assert weighed.sum(axis=(1, 2)).max() <= 16 * 24
    assert weighed.sum() > 0.9 * 12 * 16 * 24 - 12 * 200
    assert (y[..., t.JUNK_KNOWN].sum(axis=(1, 2)) == 16 * 24).all()
    assert (y[..., t.JUNK_TRUE].sum(axis=(1, 2)) == 16 * 12).all()


def test_a_batch_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    examples = [example(tmp_path, n, 20) for n in ("a", "bb")]
    options = StreamOptions(crop_px=64, batch=4)
    one, two = (CropStream(examples, 24.0, seed=1, options=options) for _ in range(2))
    one.batch(0)
    for got, again in zip(one.batch(5), two.batch(5), strict=True):
        np.testing.assert_array_equal(got, again)
    assert not np.array_equal(one.batch(5)[0], one.batch(6)[0])
    assert not np.array_equal(one.batch(5)[0], CropStream(examples, 24.0, seed=2, options=options).batch(5)[0])


def test_data_sets_are_drawn_by_the_root_of_their_particles(tmp_path: Path) -> None:
    large = [example(tmp_path, f"l{i}", 30) for i in range(8)]  # 16 times the particles of the small one
    large = [Example(e.pixels, "large", e.xy_px, e.kind, e.weight) for e in large]
    small = example(tmp_path, "small", 15)
    stream = CropStream([*large, small], 24.0, seed=1)
    assert stream.probability_of_examples[:8].sum() == pytest.approx(0.8, abs=1e-6)
    assert stream.probability_of_examples[8] == pytest.approx(0.2, abs=1e-6)


def test_augmentation_keeps_shape_and_changes_pixels() -> None:
    crop = np.random.default_rng(0).standard_normal((32, 32, 2)).astype(np.float32)
    changed = augmented(crop, np.random.default_rng(1))
    assert changed.shape == crop.shape
    assert changed.dtype == np.float32
    assert not np.allclose(changed, crop)


class Counted:
    """A memory map that counts the values that are read of it."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.pixels, self.shape, self.read = pixels, pixels.shape, 0

    def __getitem__(self, rows: object) -> np.ndarray:
        part = self.pixels[rows]  # type: ignore[index]
        self.read += part.size
        return part


@pytest.mark.parametrize("n_micrographs", [2, 40])
def test_a_batch_reads_its_crops_only_however_many_and_large_the_micrographs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, n_micrographs: int
) -> None:
    maps: list[Counted] = []
    plain = Example.map_pixels

    def counted(self: Example) -> Counted:
        maps.append(Counted(plain(self)))
        return maps[-1]

    examples = [example(tmp_path, f"{i}", 40, (400, 640)) for i in range(n_micrographs)]
    monkeypatch.setattr(Example, "map_pixels", counted)
    stream = CropStream(examples, 24.0, seed=1, options=StreamOptions(crop_px=64, batch=8))
    for number in range(5):
        stream.batch(number)
    assert sum(m.read for m in maps) == 5 * 8 * 64 * 64 * 2
    assert all(isinstance(plain(e), np.memmap) for e in examples[:2])
