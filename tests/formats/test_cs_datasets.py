"""CryoSPARC datasets as files: both containers, whatever the size of the header, and nothing believed blindly."""

import json
import struct
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cryoflow.errors import BadInput, CryoflowError, MissingMetadata
from cryoflow.formats.cs import read_cs, read_cs_distinct, read_cs_header, read_cs_rows, write_cs

CONTAINERS = ("npy", "csdat")


def columns(n=3000, seed=0, n_micrographs=37):
    rng = np.random.default_rng(seed)
    paths = np.array([f"J2/imported/{i:021d}_mic ä{i}.mrc".encode() for i in range(n_micrographs)])
    which = rng.integers(0, n_micrographs, n)
    return {
        "uid": rng.integers(0, 2**64, n, dtype=np.uint64),
        "location/micrograph_path": paths[which],
        "location/micrograph_shape": np.tile(np.array([4092, 5760], np.uint32), (n, 1)),
        "location/center_x_frac": rng.random(n).astype(np.float32),
        "alignments2D/shift": rng.normal(size=(n, 2)).astype(np.float32),
    }


def as_bytes(values):
    return np.array([v.encode() for v in values]) if values.dtype == object else values


@pytest.mark.parametrize("container", CONTAINERS)
def test_what_was_written_is_read(tmp_path, container):
    written = columns()
    write_cs(tmp_path / "a.cs", written, container=container)
    found = read_cs(tmp_path / "a.cs")
    assert list(found) == list(written)
    for name, values in written.items():
        np.testing.assert_array_equal(as_bytes(found[name]), values)


@pytest.mark.parametrize("container", CONTAINERS)
def test_empty_datasets_are_legal(tmp_path, container):
    write_cs(tmp_path / "a.cs", {k: v[:0] for k, v in columns().items()}, container=container)
    assert read_cs_header(tmp_path / "a.cs").n_rows == 0
    assert read_cs(tmp_path / "a.cs")["alignments2D/shift"].shape == (0, 2)


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("is_grouped", [True, False])
def test_distinct_rows_give_back_every_row(tmp_path, container, is_grouped):
    written = columns(70_000, n_micrographs=900)
    if is_grouped:
        order = np.argsort(written["location/micrograph_path"], kind="stable")
        written = {name: values[order] for name, values in written.items()}
    write_cs(tmp_path / "a.cs", written, container=container)
    names = ["location/micrograph_path", "location/micrograph_shape"]
    found, distinct = read_cs_distinct(tmp_path / "a.cs", ["uid"], names)
    assert len(distinct.first_row) == 900
    np.testing.assert_array_equal(as_bytes(distinct.columns[names[0]])[distinct.codes], written[names[0]])
    np.testing.assert_array_equal(distinct.columns[names[1]][distinct.codes], written[names[1]])
    np.testing.assert_array_equal(written[names[0]][distinct.first_row], as_bytes(distinct.columns[names[0]]))
    np.testing.assert_array_equal(found["uid"], written["uid"])


@pytest.mark.parametrize("container", CONTAINERS)
def test_single_rows_are_read_in_the_order_asked_for(tmp_path, container):
    written = columns()
    write_cs(tmp_path / "a.cs", written, container=container)
    rows = np.array([7, 2999, 0, 7])
    found = read_cs_rows(tmp_path / "a.cs", list(written), rows)
    for name, values in written.items():
        np.testing.assert_array_equal(as_bytes(found[name]), values[rows])


def test_a_header_larger_than_numpy_accepts_is_read(tmp_path):
    wide = {"uid": np.arange(5, dtype=np.uint64)}
    wide |= {f"alignments_class3D_{k}/field_{i}": np.full(5, k, np.float32) for k in range(120) for i in range(20)}
    write_cs(tmp_path / "a.cs", wide)
    assert read_cs(tmp_path / "a.cs", ["alignments_class3D_119/field_3"])["alignments_class3D_119/field_3"][4] == 119
    with pytest.raises(ValueError, match="max_header_size"):
        np.load(tmp_path / "a.cs")


@pytest.mark.parametrize("container", CONTAINERS)
def test_cryosparc_tools_reads_what_we_write_and_we_read_what_it_writes(tmp_path, container):
    dataset = pytest.importorskip("cryosparc.dataset", reason="cryosparc-tools is not installed")
    written = columns()
    write_cs(tmp_path / "a.cs", written, container=container)
    theirs = dataset.Dataset.load(tmp_path / "a.cs")
    np.testing.assert_array_equal(theirs["uid"], written["uid"])
    assert theirs["location/micrograph_path"][5] == written["location/micrograph_path"][5].decode()
    theirs.save(tmp_path / "b.cs", format=2 if container == "csdat" else 1)
    ours = read_cs(tmp_path / "b.cs")
    for name, values in written.items():
        np.testing.assert_array_equal(as_bytes(ours[name]), values)


def test_pickled_objects_are_refused_and_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("it was unpickled",))

    np.save(tmp_path / "a.npy", np.array([(1, Bomb())], [("uid", "u8"), ("x", "O")]), allow_pickle=True)
    with pytest.raises(BadInput, match="pickled"):
        read_cs(tmp_path / "a.npy")


def npy(header, body=b""):
    text = repr(header).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def csdat(header, body=b""):
    text = json.dumps(header).encode()
    return b"\x95CSDAT" + struct.pack("<I", len(text)) + text + body


PLAIN = {"descr": [("uid", "<u8")], "fortran_order": False, "shape": (2,)}
BAD_FILES = {
    "empty": (b"", "is empty"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs pointer"),
    "web_page": (b"<!DOCTYPE html><html>", "web page"),
    "raw_records": (bytes(range(105)) * 4, "not a CryoSPARC dataset"),
    "old_csdat": (b"\x94CSDAT1234", "first CSDAT format"),
    "truncated_magic": (b"\x93NU", "truncated"),
    "truncated_header": (b"\x93NUMPY\x01\x00\xff\xff{", "truncated"),
    "truncated_rows": (npy(PLAIN, b"\0" * 15), "truncated"),
    "too_long": (npy(PLAIN, b"\0" * 17), "longer than its header"),
    "not_python": (npy("shape"), "cannot be understood"),
    "no_columns": (npy(PLAIN | {"descr": []}), "no columns"),
    "no_size": (npy({"descr": [("uid", "<u8", (0,))], "fortran_order": False, "shape": (10**12,)}), "without size"),
    "million_millions": (npy(PLAIN | {"shape": (10**12,)}), "truncated"),
    "negative": (npy(PLAIN | {"shape": (-1,)}), "-1 rows"),
    "csdat_million_millions": (csdat({"length": 10**12, "dtype": [["uid", "<u8"]], "compression": None}), "truncated"),
    "csdat_inflated": (
        csdat(
            {"length": 10**9, "dtype": [["x", "<u8"]], "compression": "lz4", "compressed_fields": ["x"]},
            struct.pack("<I", 4) + b"abcd",
        ),
        "cannot be 1000000000 rows",
    ),
    "csdat_damaged": (
        csdat(
            {"length": 3, "dtype": [["x", "<u8"]], "compression": "lz4", "compressed_fields": ["x"]},
            struct.pack("<I", 4) + b"abcd",
        ),
        "damaged column",
    ),
    "csdat_text_nowhere": (
        csdat({"length": 1, "dtype": [["x", "|O"]], "compression": None}, struct.pack("<IQ", 8, 99) + b"\0"),
        "text that is not there",
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_is_no_dataset_says_what_it_is(tmp_path, name, grown_mb):
    content, reason = BAD_FILES[name]
    (tmp_path / "a.cs").write_bytes(content)
    with pytest.raises(BadInput, match=reason) as caught:
        read_cs(tmp_path / "a.cs")
    assert str(tmp_path / "a.cs") in str(caught.value)
    assert grown_mb() < 50


def test_a_missing_file_and_a_missing_column_are_said(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        read_cs(tmp_path / "none.cs")
    write_cs(tmp_path / "a.cs", columns())
    with pytest.raises(MissingMetadata, match="has no column blob/path"):
        read_cs(tmp_path / "a.cs", ["blob/path"])


def test_headers_are_read_by_many_threads_at_once(tmp_path):
    wide = {"uid": np.arange(2, dtype=np.uint64)} | {f"slot/field_{i}": np.zeros(2, np.float32) for i in range(300)}
    write_cs(tmp_path / "a.cs", wide)
    with ThreadPoolExecutor(8) as pool:
        assert {header.n_rows for header in pool.map(read_cs_header, [tmp_path / "a.cs"] * 400)} == {2}


def test_real_files_are_read_for_what_they_are(realdata):
    header = read_cs_header(realdata / "cryosparc_files" / "4k_dataset.cs")
    assert header.n_rows == 0
    assert len(header.dtype.names) > 100
    assert all(len(values) == 0 for values in read_cs(realdata / "cryosparc_files" / "4k_dataset.cs").values())
    with pytest.raises(CryoflowError, match="git-lfs pointer"):
        read_cs_header(realdata / "cryosparc_files" / "job096_run_data.star")


def test_a_killed_write_leaves_the_old_file(tmp_path):
    write_cs(tmp_path / "a.cs", columns())
    before = (tmp_path / "a.cs").read_bytes()
    with pytest.raises(ValueError, match="one length"):
        write_cs(tmp_path / "a.cs", {"uid": np.arange(3), "x": np.arange(2)})
    assert (tmp_path / "a.cs").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.cs"]
