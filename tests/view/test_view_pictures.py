"""Tiles and patches: what lies at a position of the micrograph lies there in its pictures."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from view_fixtures import put_pixels

from cryoflow.errors import BadInput
from cryoflow.micrographs.image import write_mrc
from cryoflow.view.bounded_cache import BoundedCache
from cryoflow.view.pictures import PATCH_PX, patch, tile
from cryoflow.view.pyramid import TILE_PX, open_micrograph, read_pyramid


def _disks(shape_yx: tuple[int, int], centers: list[tuple[int, int]], radius: float) -> np.ndarray:
    y, x = np.indices(shape_yx)
    image = np.random.default_rng(1).normal(0, 0.05, shape_yx)
    for cx, cy in centers:
        image[np.hypot(x - cx, y - cy) <= radius] -= 1
    return image.astype(np.float32)


def _gray(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content))).astype(float)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("lowpass_A", [0.0, 20.0])
def test_a_particle_lies_at_its_position_in_every_tile(tmp_path: Path, level: int, lowpass_A: float) -> None:
    center = (941, 700)
    write_mrc(tmp_path / "a.mrc", _disks((901, 1403), [center], 60), 2.0)
    pyramid = read_pyramid(tmp_path / "a.mrc")
    block = 1 << level
    row, column = int(center[1] / block) // TILE_PX, int(center[0] / block) // TILE_PX
    gray = _gray(tile(pyramid, level, row, column, lowpass_A, 2.0))
    objects, _ = ndimage.label(ndimage.median_filter(gray, 5) < 60)
    dark = np.argwhere(objects == np.argmax(np.bincount(objects.ravel())[1:]) + 1)
    y, x = (dark.mean(axis=0) + np.array([row, column]) * TILE_PX + 0.5) * block - 0.5
    assert abs(x - center[0]) < 0.6
    assert abs(y - center[1]) < 0.6


def test_neighboring_tiles_of_a_low_passed_micrograph_have_no_seam(tmp_path: Path) -> None:
    image = np.cumsum(np.ones((600, 1100), np.float32), axis=1)
    write_mrc(tmp_path / "a.mrc", image, 1.0)
    pyramid = read_pyramid(tmp_path / "a.mrc")
    left, right = (_gray(tile(pyramid, 0, 0, column, 40.0, 1.0)) for column in (0, 1))
    assert abs(left[100, -1] - right[100, 0]) <= 2


def test_pixels_that_are_no_numbers_leave_the_rest_to_be_seen(tmp_path: Path) -> None:
    image = _disks((300, 400), [(200, 150)], 30)
    write_mrc(tmp_path / "a.mrc", image, 1.0)
    image[:20] = np.nan
    image[50, 50] = np.inf
    put_pixels(tmp_path / "a.mrc", image)
    gray = _gray(tile(read_pyramid(tmp_path / "a.mrc"), 0, 0, 0, 0.0, 1.0))
    assert gray[150, 200] < 60 < gray[250, 50]


def test_a_patch_has_its_pick_in_the_middle_also_at_the_edge_of_the_micrograph(tmp_path: Path) -> None:
    for center in ((300, 150), (5, 150), (395, 295)):
        write_mrc(tmp_path / "a.mrc", _disks((300, 400), [center], 12), 1.0)
        gray = patch(open_micrograph(tmp_path / "a.mrc"), center, 40, 0.0, 1.0).astype(float)
        assert gray.shape == (PATCH_PX, PATCH_PX)
        middle = gray[PATCH_PX // 2 - 4 : PATCH_PX // 2 + 4, PATCH_PX // 2 - 4 : PATCH_PX // 2 + 4]
        assert middle.mean() < gray.mean() - 40


def test_a_file_that_shrinks_under_the_server_is_an_error(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", _disks((300, 400), [(200, 150)], 30), 1.0)
    micrograph = open_micrograph(tmp_path / "a.mrc")
    with (tmp_path / "a.mrc").open("r+b") as file:
        file.truncate(20_000)
    with pytest.raises(BadInput, match="shorter"):
        micrograph.region(0, (200, 300), (0, 100))


def test_a_tile_that_is_not_there_is_refused(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", _disks((300, 400), [(200, 150)], 30), 1.0)
    pyramid = read_pyramid(tmp_path / "a.mrc")
    for level, row, column in ((0, 1, 0), (0, 0, -1), (9, 0, 0), (-1, 0, 0)):
        with pytest.raises(IndexError):
            tile(pyramid, level, row, column, 0.0, 1.0)


def test_a_cache_makes_a_value_once_for_many_threads_and_drops_the_least_used() -> None:
    cache: BoundedCache[bytes] = BoundedCache(100, len)
    made: list[str] = []
    waiting = threading.Barrier(4)

    def ask() -> None:
        waiting.wait()
        cache.get("a", lambda: made.append("a") or bytes(60))  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == ["a"]
    cache.get("b", lambda: bytes(60))
    cache.get("a", lambda: made.append("again") or bytes(60))  # type: ignore[func-returns-value]
    assert made == ["a", "again"]


def test_a_cache_keeps_no_error() -> None:
    cache: BoundedCache[bytes] = BoundedCache(100, len)
    with pytest.raises(BadInput):
        cache.get("a", lambda: (_ for _ in ()).throw(BadInput("a.mrc", "is missing.")))
    assert cache.get("a", lambda: b"there now") == b"there now"
