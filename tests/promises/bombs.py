"""Small files that are sound by the letter of their format, and cost much time or memory.

`BOMBS` are for readers of any kind; `bombs_of` makes those of one format of pick tables, from a sound file of it. Run
as a program, each goes through its readers, in a process whose memory and CPU time are limited:

    python bombs.py readers|registry FOLDER
"""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import re
import resource
import signal
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parents[1] / "formats"), str(Path(__file__).parent)]

import numpy as np  # noqa: E402
from pick_writers import WRITERS  # noqa: E402
from test_promise_05_bad_files import BY_NAME, MEMORY_MB, STAR, escaped, npy, npz, readers_of_bad_files  # noqa: E402

from cryoflow.formats.pick_tables import PickFormat, formats, read_file  # noqa: E402
from cryoflow.storage.budgets import Deadline  # noqa: E402

YAML_ALIASES = (
    b"a0: &a0 [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b",".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12))
    + b"results:\n  blob: {metafile: *a11, num_items: *a11, type: *a11}\ngroup: {type: *a11, title: *a11}\n"
)


def _csdat_that_overlaps() -> bytes:
    """Return texts each of which begins one byte later in the same text without an end."""
    n = 300_000
    head = json.dumps({"length": n, "dtype": [["t", "|O"]]}).encode()
    column = b"".join(struct.pack("<Q", i) for i in range(n))
    return b"\x95CSDAT" + struct.pack("<I", len(head)) + head + struct.pack("<I", len(column)) + column + b"x" * n


def _csdat_packed() -> bytes:
    """Return a column of 4 GB of zeros, packed as far as LZ4 can."""
    n = 1 << 29
    packed = b"\x1f\x00\x01\x00" + b"\xff" * (n * 8 // 255 // 100) + b"\x00"
    head = {"length": n, "dtype": [["uid", "<u8"]], "compression": "lz4", "compressed_fields": ["uid"]}
    raw = json.dumps(head).encode()
    return b"\x95CSDAT" + struct.pack("<I", len(raw)) + raw + struct.pack("<I", len(packed)) + packed


def _tiff_of_zeros() -> bytes:
    packed = zlib.compress(bytes(30_000), 9)
    n = 30_000
    tags = [(256, 4, 1, n), (257, 4, 1, n), (258, 3, 1, 32), (259, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    tags += [(278, 4, 1, n), (339, 3, 1, 3), (273, 4, 1, 8), (279, 4, 1, len(packed))]
    start = 8 + len(packed)
    ifd = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *t) for t in sorted(tags)) + bytes(4)
    return b"II*\0" + struct.pack("<I", start) + packed + ifd


@functools.cache
def _zeros() -> bytes:
    """Return 256 MB of zeros as a gzip file, compressed to a thousandth; it takes seconds to make."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()


def _gzipped(head: bytes) -> bytes:
    """Return a text and 256 MB of zeros behind it, compressed; gzip files are read one after another."""
    return gzip.compress(head, mtime=0) + _zeros()


def _zipped(head: bytes) -> bytes:
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a", "w") as member:
        member.write(head)
        for _ in range(256):
            member.write(bytes(1 << 20))
    return raw.getvalue()


def _mrc(nx: int, ny: int, nz: int = 1, mode: int = 2, n_bytes: int = 400) -> bytes:
    return struct.pack("<4i", nx, ny, nz, mode) + bytes(1008) + bytes(n_bytes)


BOMBS: dict[str, bytes] = {
    "yaml aliases 10^11": YAML_ALIASES,
    "yaml that contains itself": b"group: &a {name: *a, type: *a}\nresults: *a\n",
    "yaml flow nested": b"{a: " * 20_000,
    "json of 10^7 lists": b"[" + b"[]," * 3_000_000 + b"1]",
    "json of many keys": b"{" + b",".join(b'"%d":1' % i for i in range(500_000)) + b"}",
    "json digits": b'{"length": ' + b"9" * 5000 + b', "boxes": [[' + b"1" * 5000 + b"]]}",
    "csv of 100,000 columns": b"x_coord,y_coord\n" + b",".join([b"1"] * 100_000) + b"\n",
    "csv of many columns in every row": b"x,y\n" + (b"1," * 2000 + b"1\n") * 300,
    "star of 20,000 columns": b"data_\nloop_\n" + b"".join(b"_c%d\n" % i for i in range(20_000)) + b"1 " * 20_000,
    "star of 100,000 blocks": b"".join(b"data_%d\n_a 1\n" % i for i in range(100_000)),
    "digits": b"1" * 5000 + b" " + b"2" * 5000 + b"\n",
    "blank lines": b"\n" * 2_000_000 + STAR,
    "spaces": b" " * 2_000_000 + b"x",
    "gzip of 256 MB": _gzipped(STAR),
    "gzip in gzip": gzip.compress(_gzipped(STAR), mtime=0),
    "zip of 256 MB": _zipped(STAR),
    "mrc of 20000 x 20000 in 1 kB": _mrc(20_000, 20_000),
    "mrc of 30000 x 30000 sections": _mrc(1, 1, 2**31 - 1),
    "csdat text that overlaps": _csdat_that_overlaps(),
    "csdat packed": _csdat_packed(),
    "tiff of 3.6 GB": _tiff_of_zeros(),
}


def sound_file(form: PickFormat, path: Path) -> bytes:
    """Return what a program writes for some picks in a format."""
    xy = np.random.default_rng(0).uniform(30, 200, (12, 2)).round(3)
    if form.name in WRITERS:
        WRITERS[form.name](path, xy, np.linspace(0.1, 0.9, 12), (240, 320))
        return path.read_bytes()
    assert form.name == "RELION list of coordinate files"
    return (
        b"data_coordinate_files\nloop_\n_rlnMicrographName #1\n_rlnMicrographCoordinates #2\n"
        + b"a.mrc mic_001.star\n" * 12
    )


def bombs_of(form: PickFormat, sound: bytes) -> Iterator[tuple[str, bytes, int]]:
    """Give the name of each bomb of a format, its content, and the size to which a sparse file is extended."""
    rows = sound.rstrip(b"\n").split(b"\n")
    head, row = b"\n".join(rows[:-1]) + b"\n", rows[-1]
    yield "unpacks to 256 MB", _gzipped(sound), 0
    yield "sparse", sound, 1 << 40
    yield "sparse line", sound.rstrip(b"\n"), 1 << 33
    if form.project_reader == "cryosparc":
        for shape in ("(1000000000000,)", "(-1,)", "(4294967295,)"):
            yield f"declares {shape} rows", npy(shape), 0
        yield "a head of 4 GB", b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{", 0
        yield "a head nested", b"\x93NUMPY\x01\x00" + struct.pack("<H", 60_000) + b"(" * 60_000, 0
        yield "a CSDAT head nested", b"\x95CSDAT" + struct.pack("<I", 200_000) + b"[" * 200_000, 0
        columns = [["uid", "<u8"], *([f"c{i}", "<f4"] for i in range(100_000))]
        wide = json.dumps({"length": 1, "dtype": columns}).encode()
        yield "100,000 columns", b"\x95CSDAT" + struct.pack("<I", len(wide)) + wide, 0
        yield "a column of many dimensions", npy("(1,)").replace(b"'<u8'", b"'<u8', " + b"(9,)*9"), 0
        yield "text that overlaps", _csdat_that_overlaps(), 0
        yield "packed", _csdat_packed(), 0
        yield "aliases", YAML_ALIASES, 0
        yield "compressed arrays", npz(zipfile.ZIP_DEFLATED, npy("(33554432,)"), zeros=1 << 28), 0
        return
    yield "a row of 400,000 words", head + (row + b" ") * (400_000 // max(1, len(row.split()))), 0
    yield "a row of 400,000 commas", head + row + b"," * 400_000, 0
    yield "rows of 2,000 words each", head + (row + b" 1" * 2000 + b"\n") * 300, 0
    yield "a word of 30 MB", head + b"x" * 30_000_000, 0
    yield "numbers of 5,000 digits", re.sub(rb"(?<=\d)\.\d+", b"9" * 5000 + b".5", sound), 0
    yield "exponents", re.sub(rb"(?<=\d)\.\d+", b"e999999999", sound), 0
    yield "blank lines before it", b"\n" * 300_000 + sound, 0
    yield "blanks before it", b" \t" * 500_000 + sound, 0
    yield "blank lines behind it", sound + b"\n" * 300_000, 0
    yield "comments", b"# micrograph: a\n#helix: x\n" * 100_000 + sound, 0
    yield "a comment of blanks", b"#micrograph:" + b" " * 500_000 + b"\n" + sound, 0
    yield "quotation marks", head + row + b' "' * 100_000, 0
    yield "quotation without an end", head + b'"' + (row + b"\n") * 100_000, 0
    yield "NUL", head + row + b"\0" * 1_000_000, 0
    if b"data_" in sound:
        names = [line for line in rows if line.strip().startswith(b"_")]
        more = b"\n".join(b"_c%d" % i for i in range(20_000))
        yield "20,000 columns", sound.replace(names[-1], names[-1] + b"\n" + more) + b"1 " * 20_000, 0
        yield "20,000 names alike", sound.replace(names[-1], b"\n".join([names[-1]] * 20_000)), 0
        yield "100,000 blocks", b"".join(b"data_%d\n_a 1\n" % i for i in range(100_000)) + sound, 0
        yield "3,000 blocks of picks", sound * 3000, 0
        yield "blanks behind a block's name", sound.replace(b"data_", b"data_" + b" " * 500_000, 1), 0
        yield "text of many lines", head + b"\n;\n" + b"x\n" * 500_000 + b";\n", 0
    if b"{" in sound:
        deep = b"[" * 100_000 + b"]" * 100_000
        yield "nested lists", b'{"boxes": ' + deep + b"}", 0
        yield "nested objects", b'{"boxes": ' + b'{"a":' * 100_000, 0
        yield "nested in a row", sound.replace(b"{", b"{" * 60_000, 1), 0
        yield "10^7 values", b'{"boxes": [' + b"[]," * 3_000_000 + b"1]}", 0
        yield "a number of 5,000 digits", b'{"boxes": [[' + b"1" * 5000 + b", 2]]}", 0
        points = ("[" + ",".join(["1"] * 30_000) + "]").replace('"', '""')
        shape = f'"{{""name"": ""polygon"", ""all_points_x"": {points}, ""all_points_y"": {points}}}"'
        yield "a polygon of 30,000 points", rows[0] + f'\na.png,1,"{{}}",1,0,{shape},"{{}}"\n'.encode(), 0


def limit_memory(folder: Path, work: dict[str, Callable[[Path], object]]) -> None:
    """Do the imports of some readers, then let this process take `MEMORY_MB` more than it has."""
    for name in work:
        (folder / "warm.star").write_bytes(STAR)
        escaped({name: work[name]}, folder / "warm.star")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + (MEMORY_MB << 20),) * 2)


def _too_long(*_: object) -> None:
    raise TimeoutError("more CPU time than the budget of a file of this size")


def within_budget(work: dict[str, Callable[[Path], object]], path: Path) -> list[str]:
    """Return what came out of some readers of a file that is not an error of ours, or took longer than its budget.

    The time is that of `budgets.Deadline` for the bytes that are on the disk; holes count for nothing.
    """
    signal.signal(signal.SIGVTALRM, _too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, Deadline(path, path.stat().st_blocks * 512).seconds)
    try:
        return escaped(work, path)
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def reader_bombs(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Put every bomb through every reader; give what it was and what escaped."""
    every = readers_of_bad_files()
    limit_memory(folder, every)
    for what, content in BOMBS.items():
        for ending in (".star", ".csv", ".tif", ".json"):
            path = folder / f"bomb{ending}"
            path.write_bytes(content)
            for name, reader in every.items():
                if ending == ".star" or name in BY_NAME:
                    yield f"{what}{ending}", within_budget({name: reader}, path)
            path.unlink()


def registry_bombs(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Put the bombs of each format of pick tables through its own reader, and through recognition by content."""
    limit_memory(folder, {"any": read_file})
    for form in formats():
        sound = sound_file(form, folder / f"sound{form.suffixes[0]}")
        for what, content, sparse in bombs_of(form, sound):
            for suffix in form.suffixes:
                path = folder / f"bomb{suffix}"
                path.write_bytes(content)
                if sparse:
                    os.truncate(path, sparse)
                for name, read in (("its reader", form.read), ("any file", read_file)):
                    yield f"{form.name}: {what}{suffix}", within_budget({name: read}, path)
                path.unlink()


def main() -> int:
    """Print what escaped, and how many were tried."""
    n = 0
    for what, escapes in {"readers": reader_bombs, "registry": registry_bombs}[sys.argv[1]](Path(sys.argv[2])):
        n += 1
        print("FAILED" if escapes else "HELD", what, flush=True)
        for line in escapes:
            print(f"ESCAPED {what}: {line}", flush=True)
    print(f"DONE {n}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
