"""STAR files: every quirk that programs write comes out as it stands, and everything else is one clear error."""

from __future__ import annotations

import codecs
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import BadInput
from cryoflow.formats import star_blocks
from cryoflow.formats.star import count_rows, list_blocks, read_blocks, read_table, write_star
from cryoflow.formats.star_rows import Wanted, Words, parse_rows

TWO_BLOCKS = """
# version 30001

data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
opticsGroup1 1 300.0


# version 30001

data_particles

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnMicrographName #3
_rlnClassNumber #4
  1572.444  1084.500 a/b.mrc 1
    -7.5       +0.25 a/b.mrc 12
     3        1e3    c/d.mrc -999
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes, name: str = "a.star") -> Path:
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_columns_are_read_by_name_from_the_named_block(write) -> None:
    table = read_table(
        write(TWO_BLOCKS), "particles", ["rlnCoordinateY", "rlnMicrographName"], optional=["rlnNotThere"]
    )
    assert list(table) == ["rlnCoordinateY", "rlnMicrographName"]
    np.testing.assert_array_equal(table["rlnCoordinateY"], [1084.5, 0.25, 1000.0])
    assert list(table["rlnMicrographName"]) == ["a/b.mrc", "a/b.mrc", "c/d.mrc"]
    assert table["rlnCoordinateY"].dtype == np.float64


def test_a_block_is_found_by_its_columns_where_it_is_not_named(write) -> None:
    table = read_table(write(TWO_BLOCKS.replace("data_particles", "data_")), None, ["rlnCoordinateX"])
    np.testing.assert_array_equal(table["rlnCoordinateX"], [1572.444, -7.5, 3.0])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("  ", "\t"),
        lambda t: t.replace(" 12\n", " 12   \n\n"),
        lambda t: t.rstrip("\n"),
        lambda t: t.replace("data_particles\n\nloop_", "data_particles\nloop_"),
        lambda t: t.replace("#1", "#0").replace("#4", "#77"),
        lambda t: t.replace(" a/b.mrc 1\n", ' "a/b.mrc" 1 # by hand\n'),
        lambda t: t.replace(" a/b.mrc 1\n", " 'a/b.mrc' 1\n# a line of comment\n"),
        lambda t: codecs.BOM_UTF8.decode() + t,
        lambda t: t + "\n\ndata_more\n\n_a 1\n",
    ],
)
def test_spelling_does_not_matter(write, change) -> None:
    table = read_table(write(change(TWO_BLOCKS)), "particles")
    np.testing.assert_array_equal(table["rlnCoordinateX"], [1572.444, -7.5, 3.0])
    np.testing.assert_array_equal(table["rlnClassNumber"], [1, 12, -999])
    assert list(table["rlnMicrographName"]) == ["a/b.mrc", "a/b.mrc", "c/d.mrc"]


def test_a_name_that_begins_like_a_block_is_a_row(write) -> None:
    path = write("data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\ndata_1/a.mrc 1\nloop_b.mrc 2\n'it''s.mrc' 3\n")
    table = read_table(path, "")
    assert list(table["rlnMicrographName"]) == ["data_1/a.mrc", "loop_b.mrc", "it''s.mrc"]


def test_names_of_digits_stay_text(write) -> None:
    path = write("data_\nloop_\n_rlnMicrographName\n_rlnCoordinateX\n001 1\n010 2\n")
    assert list(read_table(path, "")["rlnMicrographName"]) == ["001", "010"]


def test_words_for_no_number_are_nan(write) -> None:
    path = write(
        "data_\nloop_\n_rlnCoordinateX\n_rlnMicrographName\n nan a\n 1.5 a\n <NA> a\n None a\n -nan a\n inf a\n"
    )
    x = read_table(path, "")["rlnCoordinateX"]
    np.testing.assert_array_equal(x, [np.nan, 1.5, np.nan, np.nan, np.nan, np.inf])


def test_numbers_are_the_nearest_float_to_their_text(write) -> None:
    rng = np.random.default_rng(1)
    texts = [f"{v:12.6f}" for v in rng.normal(0, 5000, 3000)] + ["0.000000", "-0.000001", "123456789012.123456"]
    path = write("data_\nloop_\n_a\n_b\n" + "".join(f" {t} 1\n" for t in texts))
    np.testing.assert_array_equal(read_table(path, "")["a"], [float(t) for t in texts])


def test_tables_larger_than_a_piece_are_whole_and_in_order(write, monkeypatch) -> None:
    monkeypatch.setattr(star_blocks, "PIECE_BYTES", 1000)
    n = 2000
    names = [f"data_x/mic{i // 7:04d}.mrc" for i in range(n)]
    rows = "".join(f"{name} {i / 8:.3f} {i}\n" for i, name in enumerate(names))
    path = write(f"data_first\n_a 1\n\ndata_p\nloop_\n_rlnMicrographName\n_x\n_i\n{rows}\ndata_last\n_b 2\n")
    table = read_table(path, "p")
    np.testing.assert_array_equal(table["i"], np.arange(n))
    np.testing.assert_array_equal(table["x"], np.arange(n) / 8)
    assert list(table["rlnMicrographName"]) == names
    assert [(name, rows) for name, _, rows in list_blocks(path)] == [("first", 1), ("p", n), ("last", 1)]
    assert count_rows(path, "x") == n
    assert read_table(path, "last")["b"].tolist() == [2.0]


def test_pairs_read_as_a_table_of_one_row(write) -> None:
    path = write('data_optics\n\n_rlnOpticsGroupName "optics group 1"\n_rlnVoltage 300\n')
    table = read_table(path, "optics")
    assert list(table["rlnOpticsGroupName"]) == ["optics group 1"]
    assert table["rlnVoltage"].tolist() == [300.0]


def test_narrow_columns_are_float32(write) -> None:
    table = read_table(write(TWO_BLOCKS), "particles", narrow=["rlnClassNumber"])
    assert table["rlnClassNumber"].dtype == np.float32
    assert table["rlnCoordinateX"].dtype == np.float64


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "empty"),
        (b"  \n\n", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (TWO_BLOCKS.encode("utf-16"), "UTF-16"),
        (b"\x1f\x8b\x08\x00", "compressed"),
        (b"\x00\x01\x02", "binary"),
        (b"x,y\n1,2\n", "not a STAR file"),
        (b"# only a comment\n", "no `data_` block"),
        (b"data_x\nloop_\n 1 2\n", "names no columns"),
        (b"data_x\n\n 1 2\n", "where a label is expected"),
    ],
)
def test_what_is_no_star_file_is_said(write, content: bytes, what: str) -> None:
    with pytest.raises(BadInput, match=what):
        read_table(write(content), None, ["rlnCoordinateX"])


def test_a_missing_file_and_a_folder_are_said(tmp_path: Path) -> None:
    for path in (tmp_path / "none.star", tmp_path):
        with pytest.raises(BadInput, match="cannot be read"):
            list_blocks(path)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda t: t[:-8], "row of 3 words where its header names 4 columns"),
        (lambda t: t.replace("a/b.mrc 12", "a b.mrc 12"), "row of 5 words"),
        (lambda t: t.replace("-7.5", "seven"), "'seven'"),
        (lambda t: t.replace("_rlnCoordinateX #1", "_rlnFoo #1"), "no _rlnCoordinateX"),
        (lambda t: t.replace("data_particles", "data_other"), r"no block data_particles .*data_optics"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_damaged_tables_are_said(write, change, what: str, many: bool) -> None:
    content = TWO_BLOCKS
    if many:
        content = content.replace("   -7.5", "   1.0  2.0 e/f.mrc 3\n" * 20_000 + "   -7.5")
    with pytest.raises(BadInput, match=what):
        read_table(write(change(content)), "particles", ["rlnCoordinateX"], optional=["rlnClassNumber"])


@pytest.mark.parametrize("many", [False, True])
def test_rows_that_are_all_too_long_lack_a_label_or_hold_a_name_with_blanks(write, many: bool) -> None:
    path = write("data_optics\n_x 1\n\ndata_p\nloop_\n_a #1\n_b #2\n" + " 1 2 3\n" * (200_000 if many else 2))
    with pytest.raises(BadInput) as caught:
        read_table(path, "p")
    message = str(caught.value)
    assert str(path) in message
    assert "row of 3 words where its header names 2 columns, in line 8: '1 2 3'" in message
    assert "a label is missing in the header" in message
    assert "a name with blanks" in message


def test_the_line_of_a_wrong_row_is_given(write) -> None:
    with pytest.raises(BadInput, match=r"in line 9: 'a b 3'.*A name with blanks") as caught:
        read_table(write("data_o\n_x 1\n\ndata_p\nloop_\n_a #1\n_b #2\n c 2\n a b 3\n d 4\n"), "p")
    assert "label" not in str(caught.value)


def test_text_in_the_first_row_of_a_column_of_numbers_is_said(write) -> None:
    path = write("data_\nloop_\n_x\n_y\n a 2\n 3 4\n")
    with pytest.raises(BadInput, match="_x has 'a'"):
        read_table(path, "", ["x"])
    assert list(read_table(path, "", ["x"], text_columns=["x"])["x"]) == ["a", "3"]
    assert list(read_table(path, "")["x"]) == ["a", "3"]  # nobody said that it holds numbers


def test_two_short_rows_do_not_make_a_long_one(write) -> None:
    with pytest.raises(BadInput, match="row of 1 words"):
        read_table(write("data_\nloop_\n_a\n_b\n 1 2\n 3\n 4\n 5 6\n"), "")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "w.star"
    names = ["plain.mrc", "with space.mrc", "", "'quoted'", 'in"side', "#hash", "_label", "data_x", "it's a\"b"]
    table = {"rlnMicrographName": names, "x": np.linspace(-1, 1, 9), "n": np.arange(9)}
    write_star(path, {"general": {"rlnCount": 3, "rlnNote": "two words"}, "rows": table}, comment="version 50001")
    back = read_table(path, "rows")
    assert list(back["rlnMicrographName"]) == names
    np.testing.assert_allclose(back["x"], table["x"], atol=1e-6)
    assert read_blocks(path)["general"] == {"rlnCount": "3", "rlnNote": "two words"}
    first = path.read_bytes()
    write_star(path, {"general": {"rlnCount": 3, "rlnNote": "two words"}, "rows": table}, comment="version 50001")
    assert path.read_bytes() == first


def test_a_line_break_in_a_name_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="line break"):
        write_star(tmp_path / "w.star", {"": {"a": ["x\ny"]}})
    assert list(tmp_path.iterdir()) == []


def test_starfile_reads_what_is_written(tmp_path: Path) -> None:
    path = tmp_path / "w.star"
    write_star(path, {"particles": pd.DataFrame({"rlnCoordinateX": [1.5, 2.25], "rlnMicrographName": ["a", "b"]})})
    theirs = starfile.read(path)
    assert theirs["rlnCoordinateX"].tolist() == [1.5, 2.25]
    assert theirs["rlnMicrographName"].tolist() == ["a", "b"]


def test_real_files_of_every_quirk(realdata: Path) -> None:
    folder = realdata / "star_syntax"
    for path in sorted(folder.rglob("*.star")):
        ours, theirs = read_blocks(path), starfile.read(path, always_dict=True)
        assert [n for n, _, _ in list_blocks(path)] == list(theirs), path
        for name, block in theirs.items():
            if isinstance(block, dict):
                assert list(ours[name]) == list(block), path
            else:
                assert ours[name].shape == block.shape, path
    assert read_blocks(folder / "basic_double_quote.star")[""] == {
        "no_quote_string": "noquote",
        "quote_string": "quote string",
        "whitespace_string": " ",
        "empty_string": "",
    }
    assert len(read_table(folder / "empty_loop.star", "", ["rlnCoordinateX"])["rlnCoordinateX"]) == 0
    tomo = read_table(folder / "one_loop.star", "", ["rlnCoordinateX", "rlnMicrographName"])
    assert tomo["rlnCoordinateX"][0] == 1572.444


def test_a_real_git_lfs_pointer_is_said(realdata: Path) -> None:
    with pytest.raises(BadInput, match="git lfs pull"):
        list_blocks(realdata / "cryosparc_files" / "job096_run_data.star")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=300), st.integers(0, 400), st.booleans())
def test_nothing_but_bad_input_comes_out_of_damaged_files(write, noise: bytes, at: int, replace: bool) -> None:
    good = TWO_BLOCKS.encode()
    path = write(good[:at] + noise + good[at + (len(noise) if replace else 0) :])
    for read in (
        list_blocks,
        read_blocks,
        lambda p: read_table(p, None, ["rlnCoordinateX"]),
        lambda p: read_table(p, "particles"),
    ):
        try:
            read(path)
        except BadInput:
            pass


_WORDS = st.text(
    st.characters(codec="utf-8", exclude_characters="\n\r\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"), max_size=12
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(_WORDS, st.floats(-1e9, 1e9), st.integers(-(10**9), 10**9)), max_size=20))
def test_any_table_survives_writing_and_reading(tmp_path: Path, rows) -> None:
    path = tmp_path / "any.star"
    table = {
        "rlnMicrographName": [r[0] for r in rows],
        "x": np.array([r[1] for r in rows], float),
        "n": np.array([r[2] for r in rows], int),
    }
    try:
        write_star(path, {"t": table})
    except ValueError:
        return  # both kinds of quotes before white space: STAR cannot say it
    back = read_table(path, "t")
    assert list(back["rlnMicrographName"]) == table["rlnMicrographName"]
    np.testing.assert_allclose(back["x"], table["x"], atol=1e-6)
    np.testing.assert_array_equal(back["n"], table["n"])


@given(
    st.lists(st.decimals(-(10**9), 10**9, allow_nan=False), min_size=1, max_size=12),
    st.integers(0, 9),
    st.sampled_from(["", "+"]),
    st.integers(0, 14),
)
def test_fixed_decimals_of_any_length_are_the_nearest_float(values, n_decimals: int, sign: str, width: int) -> None:
    words = [f"{value:{sign}{width}.{n_decimals}f}" for value in values]
    piece = "\n".join(f" a{word}".replace("a", "name ", 1) for word in words).encode()
    (read,) = parse_rows(Path("x.star"), "particles", 2, [Wanted("x", 1, False)], piece)
    assert isinstance(read, np.ndarray)
    assert read.tolist() == [float(word) for word in words]


@given(
    st.lists(
        st.sampled_from(["a", "ab", "b", "x" * 7, "x" * 8, "x" * 9, "y" + "x" * 8, "x" * 8 + "y", "x" * 1200]),
        min_size=1,
        max_size=30,
    )
)
def test_words_of_a_column_are_those_of_the_file_whatever_their_lengths(words: list[str]) -> None:
    piece = "\n".join(f"{word} {i}" for i, word in enumerate(words)).encode()
    (read,) = parse_rows(Path("x.star"), "particles", 2, [Wanted("name", 0, True)], piece)
    assert isinstance(read, Words)
    assert [read.distinct[code].decode() for code in read.codes] == words
