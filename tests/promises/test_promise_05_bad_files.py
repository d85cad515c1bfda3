"""Promise 5: bad files never take the batch down: only our own error, within a memory limit, and the rest goes on."""

from __future__ import annotations

import gzip
import json
import resource
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryoflow.errors import CryoflowError

MEMORY_MB = 700
"""What a reader may take beyond what the interpreter has after its imports."""

STAR = b"data_particles\n\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n_rlnMicrographName #3\n1 2 a.mrc\n3 4 a.mrc\n"
BOX = b"10\t20\t64\t64\n30\t40\t64\t64\n"
TOPAZ = b"image_name\tx_coord\ty_coord\tscore\na\t10\t20\t0.5\n"
CSV = b"x,y,score\n1,2,0.1\n3,4,0.2\n"
JOB = json.dumps({"uid": "J1", "status": "completed", "output_result_groups": [], "type": "homo_refine"}).encode()
CSG = (
    b"group:\n  name: particles\nresults:\n  location:\n    metafile: '>J1_particles.cs'\n"
    b"    num_items: 2\n    type: particle\n"
)
NPY = (
    b"\x93NUMPY\x01\x00"
    + struct.pack("<H", 80)
    + b"{'descr': [('uid', '<u8')], 'fortran_order': False, 'shape': (2,)}".ljust(80)
)
MRC = struct.pack("<4i", 8, 6, 1, 2) + bytes(1008) + bytes(8 * 6 * 4)
MANIFEST = b"# cryoflow manifest 1\tpicker topaz\nstem\tsplit\na\ttrain\n"


def mrc(nx: int, ny: int, nz: int, mode: int = 2) -> bytes:
    return struct.pack("<4i", nx, ny, nz, mode) + bytes(1008) + bytes(100)


def npy(shape: str) -> bytes:
    return NPY.replace(b"(2,)".ljust(4), shape.encode())[: 10 + 80] + bytes(16)


CORPUS: dict[str, bytes] = {
    "empty": b"",
    "one newline": b"\n",
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "garbage": bytes((i * 197 + i // 7) % 256 for i in range(6000)),
    "long line": b"1 2 " * 500_000,
    "a million columns": b"data_\nloop_\n" + b"".join(b"_c%d\n" % i for i in range(1_000_000)),
    "a million columns of csv": b",".join(b"c%d" % i for i in range(1_000_000)) + b"\n1,2\n",
    "utf-16": "data_\nloop_\n_rlnCoordinateX #1\n_rlnCoordinateY #2\n1 2\n".encode("utf-16"),
    "latin-1": "data_\nloop_\n_rlnMicrographName #1\nm\xfcller.mrc\n".encode("latin-1"),
    "crlf": STAR.replace(b"\n", b"\r\n"),
    "cr only": STAR.replace(b"\n", b"\r"),
    "nan": STAR.replace(b"1 2 a", b"nan NaN a").replace(b"3 4 a", b"inf -inf a"),
    "1e308": STAR.replace(b"1 2 a", b"1e308 -1e308 a").replace(b"3 4 a", b"1e999 4 a"),
    "huge integers": BOX.replace(b"10", b"9" * 400),
    "short row": STAR + b"5 6\n",
    "header without rows": STAR[: STAR.index(b"1 2 a")],
    "row without header": b"1 2 a.mrc\n",
    "cut in a header": STAR[:40],
    "git-lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n",
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "gzip": gzip.compress(STAR, mtime=0),
    "zip": b"PK\x03\x04" + bytes(100),
    "deep json": b"[" * 200_000,
    "deep json object": b'{"a":' * 100_000,
    "json of another kind": b'{"boxes": 7, "output_result_groups": "x", "status": []}',
    "json number": b"1" * 5000,
    "boxes of words": b'{"boxes": [["a", "b"], [null, 1]]}',
    "deep yaml": b"group:\n" + b"".join(b" " * i + b"a:\n" for i in range(3000)),
    "yaml aliases": b"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: [*b,*b,*b,*b,*b,*b,*b]\n",
    "yaml that builds": b"group: !!python/object/apply:os.system ['touch hacked']\nresults: {}\n",
    "npy of 10^12 rows": npy("(1000000000000,)"),
    "npy of -1 rows": npy("(-1,)"),
    "npy of text": npy("'x'"),
    "npy header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "npy of code": npy("__import__('os')"),
    "csdat of 10^12 rows": b"\x95CSDAT"
    + struct.pack("<I", 53)
    + b'{"length":1000000000000,"dtype":[["a","<u8"]],"b":12}',
    "csdat header of 4 GB": b"\x95CSDAT\xff\xff\xff\xff{}",
    "mrc of 10^18 pixels": mrc(10**9, 10**9, 1),
    "mrc of negative size": mrc(-5, -5, 1),
    "mrc of no size": mrc(0, 0, 0),
    "mrc of mode 99": mrc(8, 6, 1, 99),
    "mrc cut short": MRC[:-3],
    "coord of words": b"1 2 3 4\nx y z w\n",
    "manifest without columns": MANIFEST,
    "manifest of nothing": b"# cryoflow manifest 1\n",
    "database head of 10^12": b"cryoflow picks 1\nNumber of Particles: 1000000000000\n",
    "topaz": TOPAZ,
    "topaz of words": TOPAZ.replace(b"10\t20", b"ten\ttwenty"),
    "csv with quotes": b'x,y\n"1,2\n3,4\n',
    "csv": CSV,
    "box": BOX,
    "csg": CSG,
    "csg out of its folder": CSG.replace(b">J1", b">../../../../etc"),
}


def _readers() -> dict[str, Callable[[Path], object]]:
    from cryoflow.database.data_reader import read_data_text
    from cryoflow.database.info import parse_info
    from cryoflow.database.links import read_links
    from cryoflow.formats import star
    from cryoflow.formats.cs import read_cs, read_cs_header
    from cryoflow.micrographs.header import read_header
    from cryoflow.micrographs.image import read_micrograph, read_stack
    from cryoflow.pickers.coordinates import read_coordinates
    from cryoflow.pickers.links import read_any
    from cryoflow.pickers.manifest import read_manifest
    from cryoflow.projects.coordinate_files import read_coordinate_file
    from cryoflow.projects.crawl import crawl, jobs_of
    from cryoflow.projects.tables import read_table_of_picks
    from cryoflow.report.sections import Evaluation
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.star_rows import StarRows

    def as_files(names: tuple[str, ...], read: Callable[[Path], object]) -> Callable[[Path], object]:
        def reader(path: Path) -> object:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                for name in names:
                    place = Path(folder, name)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(path.read_bytes())
                return read(Path(folder))

        return reader

    def all_jobs(folder: Path) -> object:
        found = jobs_of(crawl([folder]).projects)
        from cryoflow.projects import read_job

        for job in found.jobs:
            try:
                read_job(job)
            except CryoflowError:
                continue
        return found

    cryosparc = ("project.json", "job_manifest.json", "J1/job.json", "J1/J1_particles.cs", "J1/particles.csg")
    relion = (
        "default_pipeline.star",
        "Extract/job001/particles.star",
        "Extract/job001/job.star",
        "Refine3D/job002/run_data.star",
    )
    return {
        "star list_blocks": star.list_blocks,
        "star read_blocks": star.read_blocks,
        "star read_table": lambda p: star.read_table(p, None, ["rlnCoordinateX"]),
        "cs": read_cs,
        "cs header": read_cs_header,
        "mrc header": read_header,
        "mrc": read_micrograph,
        "mrc stack": read_stack,
        "any image": lambda p: read_any(str(p)),
        "coordinates": read_coordinate_file,
        "pickers' coordinates": read_coordinates,
        "lone table": read_table_of_picks,
        "manifest": read_manifest,
        "data.txt": read_data_text,
        "info.txt": lambda p: parse_info(p, p.read_bytes().decode(errors="surrogateescape")),
        "micrographs.txt": as_files(("micrographs.txt",), read_links),
        "unpicker's STAR": StarRows.read,
        "evaluation": Evaluation.read,
        "model bundle": as_files(("bundle.json",), ModelBundle.load),
        "cryosparc project": as_files(cryosparc, all_jobs),
        "relion project": as_files(relion, all_jobs),
    }


ENDINGS = (".star", ".cs", ".mrc", ".txt", ".coord", ".csv", ".csg", ".tif", ".cbox", ".json")


BY_NAME = ("coordinates", "pickers' coordinates", "lone table", "any image")
"""Readers that look at a file's ending."""


def escaped(readers: dict[str, Callable[[Path], object]], path: Path) -> list[str]:
    """What came out of the readers that is not our own error."""
    found = []
    for name, read in readers.items():
        try:
            read(path)
        except CryoflowError as error:
            if not str(error).strip():
                found.append(f"{name}: an error without a word")
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found.append(
                f"{name}: {type(error).__name__}: {str(error)[:100]} at {Path(last.filename).name}:{last.lineno}"
            )
    return found


def main(folder: Path) -> int:
    """Every file of the corpus through every reader, under the limit; prints what escaped."""
    readers = _readers()
    for name in readers:  # imports, and what libraries set up at their first call
        (folder / "warm.star").write_bytes(STAR)
        escaped({name: readers[name]}, folder / "warm.star")
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = in_use + (MEMORY_MB << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    n = 0
    for number, (what, content) in enumerate(CORPUS.items()):
        for ending in ENDINGS if len(content) < 100_000 else ENDINGS[:1]:
            path = folder / f"{number}{ending}"
            path.write_bytes(content)
            chosen = {k: r for k, r in readers.items() if ending == ENDINGS[0] or k in BY_NAME}
            if len(content) >= 100_000:
                chosen = {k: r for k, r in chosen.items() if "project" not in k}
            for line in escaped(chosen, path):
                print(f"ESCAPED {what}{ending}: {line}", flush=True)
            n += len(chosen)
            path.unlink()
    print(f"DONE {n}")
    return 0


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: memory in use is not known")
def test_the_whole_corpus_through_every_reader_within_the_memory_limit(tmp_path: Path) -> None:
    argv = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=400, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("ESCAPED")] == []
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(lines[-1].split()[1]) > 2500
    assert list(tmp_path.rglob("hacked")) == []


SEEDS = (STAR, BOX, TOPAZ, CSV, JOB, CSG, NPY + bytes(16), MRC, MANIFEST)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(SEEDS),
    st.binary(max_size=60),
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from(ENDINGS),
    st.data(),
)
def test_no_bytes_make_a_reader_raise_anything_else(
    seed: bytes, noise: bytes, at: int, replace: bool, ending: str, data: st.DataObject
) -> None:
    content = seed[:at] + noise + seed[at + (len(noise) if replace else 0) :]
    readers = {n: r for n, r in _readers().items() if "project" not in n or data.draw(st.integers(0, 5)) == 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{ending}")
        path.write_bytes(content)
        assert escaped(readers, path) == []


def test_a_batch_goes_on_past_bad_files_and_ends_with_3(
    finished_projects: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from cryoflow.cli.main import launch
    from cryoflow.database import Database

    folder = tmp_path / "tables"
    folder.mkdir()
    chosen = ("garbage", "git-lfs", "utf-16", "npy of 10^12 rows", "html", "csdat of 10^12 rows", "zeros")
    for number, name in enumerate(chosen):
        (folder / f"bad{number}.star").write_bytes(CORPUS[name])
    good = next((finished_projects / "relion/Refine3D").glob("job*/run_data.star"))
    files = [*sorted(folder.iterdir()), good]
    code = launch(["ingest", *map(str, files), "--database", str(tmp_path / "DB"), "--no-check-orientation"])
    assert code == 3
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert len([line for line in said.out.splitlines() if "\tfailed\t" in line]) == len(chosen)
    (entry,) = Database(tmp_path / "DB").entries()
    assert entry.n_picks > 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
