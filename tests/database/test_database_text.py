"""data.txt: aligned columns, files edited by hand, files of the older scripts, damaged files."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cryoflow.database import aligned_columns as text_columns
from cryoflow.database.aligned_columns import NotAligned, column_format, decode, encode
from cryoflow.database.data_reader import read_data_text
from cryoflow.database.data_text import data_text
from cryoflow.database.older_text import read_older_data
from cryoflow.database.values import line, number, parse_number, parse_pairs, parse_word, word
from cryoflow.errors import BadInput, OverBudget
from cryoflow.picks import PickSet

Make = Callable[..., PickSet]
ODD = [np.nan, np.inf, -np.inf, 0.0, -0.0, 9.9995, -0.0004, 0.0005, 1e308, 5e-324]
FLOATS = st.floats(-1e9, 1e9) | st.sampled_from(ODD)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(FLOATS, min_size=1, max_size=30),
    st.integers(0, 6),
    st.data(),
)
def test_any_numbers_come_back_at_their_decimals(values: list[float], decimals: int, data: st.DataObject) -> None:
    n = len(values)
    columns = {
        "x_px": np.array(values),
        "class": data.draw(hnp.arrays(np.int32, n)),
        "uid": data.draw(hnp.arrays(np.uint64, n)),
        "label": data.draw(hnp.arrays(np.int8, n)),
    }
    formats = [column_format(name, v, decimals) for name, v in columns.items()]
    text = encode(columns, formats)
    if formats[0].decimals is None:
        tokens = [row.split()[0] for row in text.tobytes().decode().splitlines()]
        back = np.array([float(t) for t in tokens])
        np.testing.assert_array_equal(back, np.where(np.isfinite(values), values, np.nan))
        return
    x, *integers = decode(text, formats)
    with np.errstate(invalid="ignore"):
        expected = np.rint(np.array(values) * 10.0**decimals) / 10.0**decimals
    np.testing.assert_array_equal(x, np.where(np.isfinite(values), expected, np.nan))
    for got, name in zip(integers, ("class", "uid", "label"), strict=True):
        np.testing.assert_array_equal(got, columns[name])
        assert got.dtype == columns[name].dtype
    for row, value in zip(text.tobytes().decode().splitlines(), x.tolist(), strict=True):
        assert float(row.split()[0]) == value or np.isnan(value)  # any other program reads the same numbers


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_changed_byte_is_never_read_as_something_that_was_not_written(data: st.DataObject) -> None:
    """Whatever the aligned reader accepts, reading it plainly gives the same numbers."""
    columns = {
        "x_px": np.array([1.5, -20.25, np.nan]),
        "class": np.array([3, -1, 12], np.int32),
        "uid": np.array([7, 2**64 - 1, 0], np.uint64),
    }
    formats = [column_format(name, v, 3) for name, v in columns.items()]
    text = encode(columns, formats)
    i = data.draw(st.integers(0, text.size - 1))
    text.reshape(-1)[i] = data.draw(st.sampled_from(list(b" -.0159nae\n\x00\xff+x")))
    try:
        got = decode(text, formats)
    except NotAligned:
        return
    for k, row in enumerate(text.tobytes().decode().splitlines()):
        tokens = row.split()
        assert len(tokens) == 3
        assert float(tokens[0]) == got[0][k] or (tokens[0] == "nan" and np.isnan(got[0][k]))
        assert [int(tokens[1]), int(tokens[2])] == [int(got[1][k]), int(got[2][k])]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet='ab "$\\\n=\u2028\ud800#'))
def test_any_text_comes_back(text: str) -> None:
    assert parse_word(word(text)) == text
    assert "\n" not in word(text)
    assert "\n" not in line(text)
    token, pairs = parse_pairs(f"{word(text)} name={word(text)} x=1")
    assert parse_word(token) == text
    assert parse_word(pairs["name"]) == text
    assert pairs["x"] == "1"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_comes_back(value: float) -> None:
    assert parse_number(number(value)) == value


def written(tmp_path: Path, pickset: PickSet) -> tuple[Path, bytes]:
    path = tmp_path / "data.txt"
    path.write_bytes(b"".join(data_text(pickset, [Path(n).name for n in pickset.micrographs["name"]])))
    return path, path.read_bytes()


def test_a_script_can_parse_it(tmp_path: Path, make_pickset: Make) -> None:
    """The three lines of Python that docs/database.md gives."""
    pickset = make_pickset()
    path, _ = written(tmp_path, pickset)
    found = []
    for row in path.read_text().split("\n$\n", 1)[1].splitlines():
        if not row.startswith(("Micrograph", "$")):
            x, y = map(float, row.split()[:2])
            found.append((x, y))
    np.testing.assert_allclose(found, pickset.centers_xy_px, atol=0.0005001)


def test_a_file_edited_by_hand_is_read(tmp_path: Path, make_pickset: Make) -> None:
    pickset = make_pickset()
    path, text = written(tmp_path, pickset)
    aligned = read_data_text(path)
    rows = text.decode().split("\n")
    edited = [" ".join(r.split()) if r[:1] in " -0123456789" else r for r in rows]  # blanks collapsed
    edited.insert(12, "# looked at by hand")
    edited.insert(14, "")
    for ending in ("\n", "\r\n"):
        path.write_bytes(("\ufeff" + ending.join(edited)).encode())
        loose = read_data_text(path)
        assert loose.links == aligned.links
        assert loose.picks.equals(aligned.picks)
        assert loose.micrographs.equals(aligned.micrographs)


def test_a_row_may_be_deleted_by_hand_where_the_count_goes_with_it(tmp_path: Path, make_pickset: Make) -> None:
    path, text = written(tmp_path, make_pickset())
    lines = text.decode().split("\n")
    at = next(i for i, row in enumerate(lines) if row.startswith("Micrograph "))
    del lines[at + 1]
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"declares 7 picks and has 6"):
        read_data_text(path)
    lines[at] = lines[at].replace(" picks=7", "")
    path.write_text("\n".join(lines))
    assert len(read_data_text(path).picks) == 20


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path: Path, make_pickset: Make) -> None:
    path, text = written(tmp_path, make_pickset(picks_each=2))
    whole = read_data_text(path)
    for end in range(len(text) - 1):
        path.write_bytes(text[:end])
        try:
            found = read_data_text(path)
        except BadInput:
            continue
        assert text[end:].strip(b"$\n") == b"", f"accepted when cut at {end}"
        assert found.picks.equals(whole.picks)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"Columns: x_px y_px", b"Columns: y_px x_px", "its Columns are"),
        (b"Columns: x_px y_px score", b"Columns: x_px y_px price", "its Columns are"),
        (b"Number of Micrographs: 4", b"Number of Micrographs: 9", "declares 9 micrographs and 4"),
        (b"Number of Micrographs: 4", b"Number of Micrographs: many", "its head has"),
        (b" status=found", b" color=found", "unknown attributes"),
        (b" ny=300", b" ny=tall", "invalid literal"),
        (b" pixel_size_A=1.06", b" pixel_size_A=inf", "not a finite number"),
        (b"cryoflow picks 1", b"cryoflow picks 7", "newer cryoflow"),
        (b"cryoflow picks 1", b"cryoflow picks x", "the first line"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, make_pickset: Make, old: bytes, new: bytes, reason: str) -> None:
    path, text = written(tmp_path, make_pickset())
    assert old in text
    path.write_bytes(text.replace(old, new, 1))
    with pytest.raises(BadInput, match=reason):
        read_data_text(path)


def test_a_row_that_is_no_row_is_named(tmp_path: Path, make_pickset: Make) -> None:
    path, text = written(tmp_path, make_pickset())
    lines = text.decode().split("\n")
    lines[9] = lines[9].replace(".", ",", 1)
    path.write_text("\n".join(lines))
    with pytest.raises(BadInput, match=r"near line 10: expected the numbers x_px y_px"):
        read_data_text(path)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300) | st.data())
def test_garbage_is_refused_and_nothing_else_comes_out(
    tmp_path_factory: pytest.TempPathFactory, thing: bytes | st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("garbage") / "data.txt"
    if isinstance(thing, bytes):
        path.write_bytes(thing)
    else:
        text = bytearray(SMALL)
        for _ in range(thing.draw(st.integers(1, 4))):
            text[thing.draw(st.integers(0, len(text) - 1))] = thing.draw(st.integers(0, 255))
        path.write_bytes(bytes(text))
    for reader in (read_data_text, read_older_data):
        try:
            reader(path)
        except BadInput:
            pass


SMALL = b"""cryoflow picks 1
Columns: x_px y_px class
Decimals: 3 3 0
Widths: 6 6 2
Number of Micrographs: 1
Number of Particles: 2
$
Micrograph a.mrc name=a.mrc picks=2 status=found ny=300 nx=400
10.000 20.000  1
11.000 21.500 12
$
"""


def test_a_head_that_claims_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    huge = SMALL.replace(b"Particles: 2", b"Particles: 1000000000000").replace(b"picks=2", b"picks=1000000000000")
    path.write_bytes(huge)
    tracemalloc.start()
    with pytest.raises(BadInput, match="declares 1000000000000 picks and has 2"):
        read_data_text(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000


OLDER = b"""Voltage 300
CS 2.7
AmpContrast 0.1
PixelSize 0
$
Micrograph stack one.mrc
10.500000 20.250000
11.000000 21.500000
$
Micrograph b.mrc
$
Micrograph c.mrc
1.0 2.0 0.5
$
"""


def test_rows_of_a_file_with_holes_take_no_memory(tmp_path: Path) -> None:
    """A sparse file is as large as its head claims, and costs its author nothing."""
    n = 50_000_000
    path = tmp_path / "data.txt"
    head, rows = SMALL.replace(b"Particles: 2", b"Particles: %d" % n).split(b"Micrograph a.mrc", 1)
    path.write_bytes(head + b"Micrograph a.mrc" + rows.replace(b"picks=2", b"picks=%d" % n))
    os.truncate(path, n * 18)
    tracemalloc.start()
    with pytest.raises(BadInput):
        read_data_text(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    claimed = n * (4 + 8 + 8 + 4)  # allocated and never written to
    assert peak < claimed + (100 << 20)


@pytest.mark.parametrize("lines", [b"#\n" * 1001, b"Note: " + b"x" * 100_000 + b"\n", b"#" * 100_000])
def test_a_head_without_an_end_is_refused_early(tmp_path: Path, lines: bytes) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(SMALL.replace(b"Columns", lines + b"Columns", 1))
    with pytest.raises(OverBudget, match="its head is longer"):
        read_data_text(path)


def test_a_head_that_names_a_column_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(SMALL.replace(b"y_px class", b"y_px class class").replace(b" 12\n", b" 12 13\n"))
    with pytest.raises(BadInput, match="its Columns are"):
        read_data_text(path)


@pytest.mark.parametrize("decimals", [b"-3 3 0", b"30 3 0", b"3 3 9999999999", b"5 6 0"])
@pytest.mark.parametrize("widths", [b"6 6 2", b"0 -6 2", b"6 6 99999999999", b"1 1 1"])
def test_rows_are_read_right_whatever_the_head_declares_of_their_form(
    tmp_path: Path, decimals: bytes, widths: bytes
) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(SMALL.replace(b"Decimals: 3 3 0", b"Decimals: " + decimals).replace(b"6 6 2", widths))
    try:
        table = read_data_text(path).picks
    except BadInput:
        return
    assert table[["x_px", "y_px", "class"]].to_numpy().tolist() == [[10.0, 20.0, 1.0], [11.0, 21.5, 12.0]]


def test_a_claim_for_which_there_is_no_memory_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise MemoryError

    path = tmp_path / "data.txt"
    path.write_bytes(SMALL)
    monkeypatch.setattr(np, "empty", none_left)
    with pytest.raises(OverBudget, match="claims 2 picks, more than fit into memory"):
        read_data_text(path)


def test_the_older_scripts_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(OLDER)
    text = read_older_data(path)
    assert text.links == ("stack one.mrc", "b.mrc", "c.mrc")
    assert text.picks["x_px"].tolist() == [10.5, 11.0, 1.0]
    assert text.picks["micrograph"].tolist() == [0, 0, 2]
    assert text.micrographs["voltage_kV"].tolist() == [300.0] * 3
    assert text.micrographs["pixel_size_A"].isna().all()  # 0 was written where nothing was known


def test_x_and_y_alone_are_read(tmp_path: Path) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(b"Micrograph a.mrc\r\n1 2\r\n3\t4\r\nMicrograph b.mrc\r\n5 6\r\n")
    assert read_older_data(path).picks[["x_px", "y_px"]].to_numpy().tolist() == [[1, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize(
    "bad", [b"", b"hello", b"Micrograph a\n1\n", b"Micrograph a\nx y\n", b"1 2\n", b"Voltage high\n"]
)
def test_other_files_are_not_taken_for_older_ones(tmp_path: Path, bad: bytes) -> None:
    path = tmp_path / "data.txt"
    path.write_bytes(bad)
    with pytest.raises(BadInput):
        read_older_data(path)


def test_an_older_database_opens(tmp_path: Path, make_pickset: Make) -> None:
    from cryoflow.database import Database, verify
    from cryoflow.picks import Kind

    folder = tmp_path / "DB" / "P190" / "Particles" / "Refine3D_job035"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_bytes(OLDER)
    (folder / "info.txt").write_text(
        "Number of Micrographs: 3\nNumber of Particles: 3\nVoltage: 300\n$\nMissing Micrographs\nb.mrc\n$\n"
    )
    links = tmp_path / "DB" / "P190" / "Micrographs"
    links.mkdir()
    (tmp_path / "c.mrc").write_bytes(b"MRC")
    (links / "c.mrc").symlink_to(tmp_path / "c.mrc")
    database = Database(tmp_path / "DB")
    (entry,) = database.entries()
    assert (entry.name, entry.kind, entry.job, entry.program) == (
        "P190/Refine3D_job035",
        Kind.REFINE_3D,
        "job035",
        "relion",
    )
    assert (entry.n_picks, entry.n_micrographs, entry.n_missing_micrographs) == (3, 3, 1)
    loaded = database.load(entry.name)
    assert loaded.micrographs["status"].tolist() == ["missing", "found", "missing"]
    assert loaded.picks["x_px"].tolist() == [1.0, 10.5, 11.0] or len(loaded) == 3
    assert [f.severity for f in verify(database)] == ["notice"]
    database.add(make_pickset())  # and takes new entries beside the old
    assert len(database.entries()) == 2
    assert len(Database(tmp_path / "DB").load("P190/Refine3D_job035")) == 3


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The folder of an entry that the older scripts wrote, of a data.txt alone."""
    folder = tmp_path / "DB" / "P190" / "Particles" / "NonUniform_J7"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_bytes(OLDER)
    return folder


def test_an_older_entry_without_info_is_counted_and_loads(older: Path) -> None:
    from cryoflow.database import Database

    (entry,) = Database(older.parents[2]).entries()
    assert (entry.status, entry.n_picks, entry.n_micrographs) == ("current", 3, 3)
    assert len(Database(older.parents[2]).load(entry.name)) == 3


def test_an_older_entry_is_sound_before_and_after_it_was_marked(older: Path) -> None:
    from cryoflow.database import Database, verify

    database = Database(older.parents[2])
    for change in (
        lambda: database.mark("P190/NonUniform_J7", "stale", "its job ran again"),
        lambda: database.unmark("P190/NonUniform_J7"),
    ):
        change()
        assert [f.severity for f in verify(database)] == ["notice"]
    assert database.remove("P190/NonUniform_J7")
    assert verify(database) == []


@pytest.mark.parametrize("lost", [("manifest.json",), ("manifest.json", "data.txt"), ("manifest.json", "info.txt")])
def test_an_entry_of_ours_that_lost_its_manifest_is_not_taken_for_an_older_one(
    tmp_path: Path, make_pickset: Make, lost: tuple[str, ...]
) -> None:
    from cryoflow.database import Database, verify

    database = Database(tmp_path / "DB")
    folder = database.add(make_pickset()).folder
    for name in lost:
        (folder / name).unlink()
    assert f"{folder / 'manifest.json'}: the manifest is missing" in [f"{f.path}: {f.what}" for f in verify(database)]


def test_an_entry_of_ours_that_lost_its_info_is_damaged(tmp_path: Path, make_pickset: Make) -> None:
    from cryoflow.database import Database

    database = Database(tmp_path / "DB")
    entry = database.add(make_pickset())
    (entry.folder / "info.txt").unlink()
    with pytest.raises(BadInput, match="is not there"):
        database.load(entry.name)


def test_blocks_of_rows_meet(tmp_path: Path, make_pickset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Micrographs and blocks of rows begin and end anywhere."""
    from cryoflow.database import data_reader, data_text

    pickset = make_pickset(n_micrographs=9, picks_each=5)
    _, expected = written(tmp_path, pickset)
    for rows in (1, 2, 3, 5, 7, 10, 100):
        for module in (text_columns, data_reader, data_text):
            monkeypatch.setattr(module, "BLOCK_ROWS", rows)
        path, text = written(tmp_path, pickset)
        assert text == expected
        assert read_data_text(path).picks["uid"].equals(pickset.picks["uid"])
