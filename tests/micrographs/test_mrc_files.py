"""MRC headers and pixels, there and back, with mrcfile as the judge."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.errors import BadInput
from cryoflow.micrographs.header import micrograph_status, parse_header, read_header
from cryoflow.micrographs.image import (
    MicrographFile,
    check_pixels,
    read_micrograph,
    read_stack,
    write_mrc,
)

RAMP = np.arange(5 * 7).reshape(5, 7)


def raw_mrc(
    pixels: np.ndarray,
    mode: int,
    order: str = "<",
    *,
    extended: bytes = b"",
    stamp: bytes | None = None,
    pixel_size_A: float = 1.5,
) -> bytes:
    """An MRC file put together by hand, for what mrcfile would not write."""
    ny, nx = pixels.shape[-2:]
    nz = pixels.size // (ny * nx)
    header = bytearray(1024)
    struct.pack_into(f"{order}10i", header, 0, nx, ny, nz, mode, 0, 0, 0, nx, ny, nz)
    struct.pack_into(f"{order}3f", header, 40, nx * pixel_size_A, ny * pixel_size_A, nz * pixel_size_A)
    struct.pack_into(f"{order}i", header, 92, len(extended))
    if stamp is None:
        stamp = b"MAP " + (b"\x44\x44\0\0" if order == "<" else b"\x11\x11\0\0")
    header[208 : 208 + len(stamp)] = stamp
    return bytes(header) + extended + pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(("mode", "dtype"), [(0, "i1"), (1, "i2"), (2, "f4"), (6, "u2"), (12, "f2")])
def test_every_mode_and_byte_order_is_read_as_it_was_stored(tmp_path: Path, mode: int, dtype: str, order: str) -> None:
    file = tmp_path / "a.mrc"
    file.write_bytes(raw_mrc(RAMP.astype(dtype), mode, order, extended=b"x" * 80))
    header = read_header(file)
    assert (header.shape_yx, header.mode, header.n_sections) == ((5, 7), mode, 1)
    assert header.little_endian == (order == "<")
    assert header.pixel_size_A == pytest.approx(1.5)
    image = read_micrograph(file)
    assert image.dtype == np.dtype("f4")
    assert image.dtype.isnative
    np.testing.assert_array_equal(image, RAMP)
    blocks = [block.copy() for block in MicrographFile.open(file).blocks(2)]
    assert [block.shape for block in blocks] == [(2, 7), (2, 7), (1, 7)]
    np.testing.assert_array_equal(np.concatenate(blocks), RAMP)
    image[0, 0] = 9  # the caller's own


@pytest.mark.parametrize("stamp", [b"", b"MAP \x11\x11\0\0", b"MAP \0\0\0\0"])
def test_a_missing_or_wrong_machine_stamp_does_not_matter(tmp_path: Path, stamp: bytes) -> None:
    file = tmp_path / "a.mrc"
    file.write_bytes(raw_mrc(RAMP.astype("f4"), 2, "<", stamp=stamp))
    np.testing.assert_array_equal(read_micrograph(file), RAMP)


def test_old_imod_bytes_are_unsigned_unless_flagged(tmp_path: Path) -> None:
    pixels = np.array([[1, 200]], np.uint8)
    content = bytearray(raw_mrc(pixels, 0))
    struct.pack_into("<2i", content, 152, 1146047817, 0)
    (tmp_path / "unsigned.mrc").write_bytes(content)
    struct.pack_into("<2i", content, 152, 1146047817, 1)
    (tmp_path / "signed.mrc").write_bytes(content)
    assert read_micrograph(tmp_path / "unsigned.mrc").tolist() == [[1, 200]]
    assert read_micrograph(tmp_path / "signed.mrc").tolist() == [[1, -56]]


@pytest.mark.parametrize("dtype", ["i1", "i2", "f4", "u2", "f2", "f8"])
def test_what_we_write_is_valid_and_reads_back(tmp_path: Path, dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "made here" / "a.mrc"
    write_mrc(file, RAMP.astype(dtype), 1.37)
    assert mrcfile.validate(file), capsys.readouterr().out
    with mrcfile.open(file) as mrc:
        np.testing.assert_array_equal(mrc.data, RAMP)
        assert mrc.header.ispg == 0
        assert float(mrc.voxel_size.x) == pytest.approx(1.37)
        assert float(mrc.header.dmax) == 34
    assert read_header(file).pixel_size_A == pytest.approx(1.37)
    np.testing.assert_array_equal(read_micrograph(file), RAMP)


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_mrc(tmp_path / name, RAMP.astype("f4"), 1.0)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_not_finite_are_written_as_they_are(tmp_path: Path, bad: float) -> None:
    image = RAMP.astype("f4")
    image[1, 2] = bad
    write_mrc(tmp_path / "a.mrc", image, 1.5)
    with mrcfile.open(tmp_path / "a.mrc") as mrc:
        np.testing.assert_array_equal(mrc.data, image)
        assert float(mrc.voxel_size.x) == 1.5
        assert float(mrc.header.rms) == -1  # unknown


def test_chosen_images_of_a_stack_are_read_in_order(tmp_path: Path) -> None:
    stack = np.arange(3 * 4 * 6, dtype="f4").reshape(3, 4, 6)
    write_mrc(tmp_path / "s.mrcs", stack, 2.0)
    assert mrcfile.validate(tmp_path / "s.mrcs")
    np.testing.assert_array_equal(read_stack(tmp_path / "s.mrcs", [2, 0]), stack[[2, 0]])
    np.testing.assert_array_equal(read_stack(tmp_path / "s.mrcs"), stack)
    with pytest.raises(BadInput, match="has 3 images; number 4"):
        read_stack(tmp_path / "s.mrcs", [3])


def test_a_movie_is_told_from_a_micrograph(tmp_path: Path) -> None:
    write_mrc(tmp_path / "movie.mrc", np.zeros((3, 4, 6), "f4"), 1.0)
    write_mrc(tmp_path / "image.mrc", np.zeros((4, 6), "f4"), 1.0)
    (tmp_path / "movie.tif").write_bytes(b"II*\0" + bytes(2000))
    (tmp_path / "broken.mrc").write_bytes(b"nothing")
    (tmp_path / "dangling.mrc").symlink_to(tmp_path / "gone.mrc")
    with pytest.raises(BadInput, match="holds 3 images"):
        read_micrograph(tmp_path / "movie.mrc")
    status = {
        name: micrograph_status(tmp_path / name)[0]
        for name in ("movie.mrc", "image.mrc", "movie.tif", "broken.mrc", "dangling.mrc")
    }
    assert status == {
        "movie.mrc": "movie",
        "image.mrc": "found",
        "movie.tif": "movie",
        "broken.mrc": "unreadable",
        "dangling.mrc": "missing",
    }
    assert micrograph_status(None) == ("missing", None)
    assert micrograph_status(tmp_path / ("x" * 5000)) == ("missing", None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes long"),
        (b"\0" * 500, "500 bytes long"),
        (b"\0" * 5000, "makes no sense"),
        (b"II*\0" + bytes(2000), "TIFF"),
        (b"\x1f\x8b" + bytes(2000), "gunzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        (raw_mrc(RAMP.astype("f4"), 2)[:-1], "cut short"),
        (raw_mrc(RAMP.astype("c8"), 4), "mode 4"),
        (raw_mrc(RAMP.astype("u1"), 101), "4-bit"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "bad.mrc"
    file.write_bytes(content)
    with pytest.raises(BadInput, match=message) as caught:
        read_micrograph(file)
    assert caught.value.path == file


@pytest.mark.parametrize("nx", [60, 3900, 0x4D4D, 0x213C, 0x683C])
def test_a_width_whose_bytes_begin_like_another_format_is_read(tmp_path: Path, nx: int) -> None:
    """3900 is stored as `<`, 0x0F, 0, 0: the start of a web page to a hasty reader."""
    file = tmp_path / "wide.mrc"
    file.write_bytes(raw_mrc(np.zeros((2, nx), "f4"), 2))
    assert read_header(file).shape_yx == (2, nx)


def test_a_missing_file_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="No such file"):
        read_header(tmp_path / "no.mrc")


def test_unknown_pixel_size_is_none_not_zero(tmp_path: Path) -> None:
    (tmp_path / "a.mrc").write_bytes(raw_mrc(RAMP.astype("f4"), 2, pixel_size_A=0.0))
    assert read_header(tmp_path / "a.mrc").pixel_size_A is None


@pytest.mark.parametrize(("value", "message"), [(np.nan, "1 pixels"), (np.inf, "NaN or infinite"), (0.0, "blank")])
def test_images_that_show_nothing_are_refused(value: float, message: str) -> None:
    image = np.zeros((4, 4), "f4")
    image[1, 2] = value
    with pytest.raises(BadInput, match=message):
        check_pixels(image, "a.mrc")


@pytest.mark.parametrize(
    ("value", "row", "message"),
    [(np.nan, 9, r"1 pixels \(1.7%\)"), (np.inf, 0, "NaN or infinite"), (-np.inf, 5, "1 pixels"), (0, 4, "blank")],
)
def test_a_file_read_in_blocks_is_refused_wherever_it_shows_nothing(
    tmp_path: Path, value: float, row: int, message: str
) -> None:
    image = np.zeros((10, 6), "f4")
    image[row, 2] = value
    (tmp_path / "a.mrc").write_bytes(raw_mrc(image, 2))
    with pytest.raises(BadInput, match=message):
        list(MicrographFile.open(tmp_path / "a.mrc").blocks(4))


def test_a_file_that_becomes_shorter_while_it_is_read_is_bad_input(tmp_path: Path) -> None:
    write_mrc(tmp_path / "a.mrc", RAMP.astype("f4"), 1.0)
    blocks = MicrographFile.open(tmp_path / "a.mrc").blocks(2)
    next(blocks)
    with (tmp_path / "a.mrc").open("rb+") as file:
        file.truncate(1024 + 3 * 7 * 4)
    with pytest.raises(BadInput, match="became shorter"):
        list(blocks)


def test_an_ordinary_image_passes_the_check() -> None:
    check_pixels(RAMP.astype("f4"), "a.mrc")


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=1400), st.integers(0, 3000))
def test_no_bytes_raise_anything_but_bad_input(content: bytes, size: int) -> None:
    try:
        parse_header(Path("a.mrc"), content, size)
    except BadInput:
        pass


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 255)), max_size=8))
def test_a_damaged_header_raises_nothing_but_bad_input(changes: list[tuple[int, int]]) -> None:
    content = bytearray(raw_mrc(RAMP.astype("f4"), 2))
    for place, value in changes:
        content[place] = value
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "a.mrc")
        file.write_bytes(content)
        try:
            assert read_micrograph(file).ndim == 2
        except BadInput:
            pass


def test_the_real_micrograph_reads_like_mrcfile_reads_it(realdata: Path) -> None:
    file = realdata / "relion3_micrograph" / "Ucsf_stack_1142_DW.mrc"
    with mrcfile.open(file, permissive=True) as mrc:
        expected, pixel_size_A = np.array(mrc.data, "f4"), float(mrc.voxel_size.x)
    image = read_micrograph(file)
    check_pixels(image, file)
    np.testing.assert_array_equal(image, expected)
    assert (read_header(file).pixel_size_A or 0.0) == pytest.approx(pixel_size_A)
