"""Files of learning material: what cannot be an item of a network is one clear error."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from cryoflow.errors import BadInput
from cryoflow.learning import detector_items, unpicker_learner
from cryoflow.learning.item_rules import ItemRule
from cryoflow.learning.items import Item, Piece, read_pieces, write_pieces

Arrays = Mapping[str, npt.NDArray[np.generic]]
IMAGE, PATCHES = np.zeros((8, 6, 2), np.float16), np.zeros((3, 4, 1, 5), np.float16)
POINTS: Arrays = {
    "xy": np.zeros((3, 2), np.float32),
    "kind": np.array([1, 0, -1], np.int8),
    "weight": np.ones(3, np.float32),
    "log_size": np.array(np.nan, np.float32),
    "background": np.array(True),
    "class_prior": np.array(0.5, np.float32),
}
LABELS: Arrays = {"label": np.array([1, 0, -1], np.int8)}


def read(
    folder: Path, rule: ItemRule, labels: Arrays, pixels: npt.NDArray[np.float16], *, diameter_A: float = 160.0
) -> Item:
    write_pieces(folder / "P.npz", "P", [Piece("c0", pixels, labels, 1e4, diameter_A)])
    (item,) = read_pieces(folder / "P.npz", folder / "unpacked", rule)
    return item


def test_items_of_both_networks_are_read(tmp_path: Path) -> None:
    none = {name: a[:0] if a.ndim else a for name, a in POINTS.items()}
    for name, rule, labels, pixels in (
        ("detector", detector_items.RULE, POINTS, IMAGE),
        ("empty", detector_items.RULE, none, IMAGE),
        ("unpicker", unpicker_learner.RULE, LABELS, PATCHES),
    ):
        item = read(tmp_path / name, rule, labels, pixels)
        assert (item.project, item.content, item.diameter_A) == ("P", "c0", 160.0)
        np.testing.assert_equal(dict(item.labels), dict(labels))
        np.testing.assert_equal(np.asarray(item.map_pixels()), pixels)


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"kind": np.array([1, 0, 7], np.int8)}, "kind has the value 7, which is none of 1, 0, -1"),
        ({"kind": np.array([1, 0], np.int8)}, "different lengths"),
        ({"kind": np.array([1.0, 0, 0], np.float32)}, "kind is of float32, not of signed integers"),
        ({"xy": np.zeros((3, 3), np.float32)}, r"xy has the shape \(3, 3\)"),
        ({"xy": np.full((3, 2), np.inf, np.float32)}, "xy has values that are not finite"),
        ({"weight": np.full(3, -1, np.float32)}, "weight has values"),
        ({"class_prior": np.array(2, np.float32)}, "class_prior has values that are not finite, or outside 0 to 1"),
        ({"background": np.array(["yes"])}, "background is of <U3, not of truth values"),
        ({"more": np.zeros(3)}, "it has the labels background, class_prior, kind, log_size, more"),
    ],
)
def test_labels_that_the_detector_cannot_have_are_refused(tmp_path: Path, labels: Arrays, why: str) -> None:
    with pytest.raises(BadInput, match=rf"P\.npz: .*piece 0, {why}|P\.npz: .*piece 0, .*{why}"):
        read(tmp_path, detector_items.RULE, {**POINTS, **labels}, IMAGE)
    assert not list((tmp_path / "unpacked").iterdir())


@pytest.mark.parametrize(
    ("labels", "why"),
    [
        ({"label": np.array([1, 0, 7], np.int8)}, "label has the value 7"),
        ({"label": np.array([1, 0], np.int8)}, r"different lengths \(label 2, pixels 3\)"),
        ({}, "it has the labels none, not label"),
        (POINTS, "it has the labels background"),
    ],
)
def test_labels_that_the_unpicker_cannot_have_are_refused(tmp_path: Path, labels: Arrays, why: str) -> None:
    with pytest.raises(BadInput, match=why):
        read(tmp_path, unpicker_learner.RULE, labels, PATCHES)


@pytest.mark.parametrize("content", ["../../other", "a" * 300, "", "a\0"])
def test_a_micrograph_whose_name_could_lead_elsewhere_is_refused(tmp_path: Path, content: str) -> None:
    write_pieces(tmp_path / "P.npz", "P", [Piece(content, PATCHES, LABELS, 1e4, 160.0)])
    with pytest.raises(BadInput, match=r"P\.npz: pieces\.0\.0: "):
        read_pieces(tmp_path / "P.npz", tmp_path / "unpacked")


def test_an_array_whose_header_is_no_python_is_one_clear_error(tmp_path: Path) -> None:
    write_pieces(tmp_path / "P.npz", "P", [Piece("c0", PATCHES, LABELS, 1e4, 160.0)])
    header = b"{'fortran_order': " + b"(" * 90
    with zipfile.ZipFile(tmp_path / "P.npz", "a") as archive:
        archive.writestr("more.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(BadInput, match="cannot be read as learning material"):
        read_pieces(tmp_path / "P.npz", tmp_path / "unpacked")


def test_pixels_and_diameters_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for pixels, why in ((IMAGE[..., 0], "2 dimensions, not 3"), (IMAGE + np.float16(np.nan), "not finite")):
        with pytest.raises(BadInput, match=why):
            read(tmp_path, detector_items.RULE, POINTS, pixels)
    for diameter_A in (0.0, -5.0):
        with pytest.raises(BadInput, match=r"pieces\.0\.2: .*greater than 0"):
            read(tmp_path, detector_items.RULE, POINTS, IMAGE, diameter_A=diameter_A)
