"""Promise 5: bad files never take the batch down: only our own error, within a memory limit, and the rest goes on."""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import zipfile
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
PART = "0000000-0000002-0123456789abcdef.npz"
MANIFEST = b"# cryoflow manifest 1\tpicker topaz\nstem\tsplit\na\ttrain\n"


def mrc(nx: int, ny: int, nz: int, mode: int = 2) -> bytes:
    return struct.pack("<4i", nx, ny, nz, mode) + bytes(1008) + bytes(100)


def npz(compression: int, array: bytes, *, zeros: int = 0) -> bytes:
    """One array under the names that a model and a part of an export begin with, and so many zeros behind it."""
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", compression) as archive:
        for name in ("made", "kernel"):
            with archive.open(f"{name}.npy", "w") as member:
                member.write(array)
                for _ in range(zeros >> 20):
                    member.write(bytes(1 << 20))
    return raw.getvalue()


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
    "npz of 10^12 numbers": npz(zipfile.ZIP_STORED, npy("(1000000000000,)")),
    "npz of 256 MB in 256 kB": npz(zipfile.ZIP_DEFLATED, npy("(67108800,)"), zeros=1 << 28),
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


def readers_of_bad_files() -> dict[str, Callable[[Path], object]]:
    import numpy as np
    import pandas as pd

    from cryoflow.database import Database, verify
    from cryoflow.database.data_reader import read_data_text
    from cryoflow.database.info import parse_info
    from cryoflow.database.layout import content
    from cryoflow.database.micrograph_links import read_links
    from cryoflow.formats import star
    from cryoflow.formats.cs import read_cs, read_cs_header
    from cryoflow.formats.pick_tables import read_file
    from cryoflow.ingest.state import read_states, state_file
    from cryoflow.micrographs.header import read_header
    from cryoflow.micrographs.image import read_micrograph, read_stack
    from cryoflow.pickers.comparing.curves import keras_curve, topaz_curve
    from cryoflow.pickers.importing.import_picks import import_picks
    from cryoflow.pickers.registry import picker
    from cryoflow.pickers.running.preflight import problems_of
    from cryoflow.pickers.running.work_folder import RECORD
    from cryoflow.pickers.running.work_folder import mend as mend_links
    from cryoflow.pickers.training_sets.contents import NAME as CONTENTS_NAME
    from cryoflow.pickers.training_sets.contents import read_contents
    from cryoflow.pickers.training_sets.contents import verify as verify_export
    from cryoflow.pickers.training_sets.existing_export import settings_of_export
    from cryoflow.pickers.training_sets.export_shards import shard_of, write_shard
    from cryoflow.pickers.training_sets.links import read_any
    from cryoflow.pickers.training_sets.manifest import COLUMNS, made_with, manifest_text, read_manifest, read_settings
    from cryoflow.pickers.training_sets.manifest import NAME as MANIFEST_NAME
    from cryoflow.preparation.picked_micrograph import PickedMicrograph
    from cryoflow.preparation.two_channel import TwoChannelPreprocessing
    from cryoflow.projects.crawl import crawl, jobs_of
    from cryoflow.projects.tables import read_table_of_picks
    from cryoflow.report.execution import read_trace
    from cryoflow.report.sections import ReportedEvaluation
    from cryoflow.shards import Shard
    from cryoflow.unpicker.bundle import ModelBundle
    from cryoflow.unpicker.network import Architecture
    from cryoflow.unpicker.star_lines import StarRows
    from cryoflow.unpicker.train import finished_model
    from cryoflow.unpicker.unpick_shards import read_shard

    def as_files(names: tuple[str, ...], read: Callable[[Path], object]) -> Callable[[Path], object]:
        def reader(path: Path) -> object:
            with tempfile.TemporaryDirectory(dir=path.parent) as folder:
                for name in names:
                    place = Path(folder, name)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    if path.is_file() and path.stat().st_size < 1 << 24:
                        place.write_bytes(path.read_bytes())
                    else:
                        place.symlink_to(path)
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

    def whole_database(folder: Path) -> object:
        database = Database(folder, check=False)
        entries = database.entries()
        for entry in entries:
            try:
                database.load(entry)
            except CryoflowError:
                continue
        read_states(database, Path("/p"))
        verify(folder)
        return Database(folder).entries()

    def training_set(folder: Path) -> object:
        for work in (
            lambda: read_settings(folder),
            lambda: settings_of_export(folder),
            lambda: made_with(folder),
            lambda: mend_links(folder),
            lambda: picker("topaz").problems(folder, pd.DataFrame(columns=list(COLUMNS))),
            lambda: import_picks("topaz", folder / "particles_train.txt", folder / "manifest.tsv"),
        ):
            try:
                work()
            except CryoflowError:
                continue
        return None

    def labels(folder: Path) -> object:
        """A sound manifest and picture, and bad files in the place of labels, lists and configurations."""
        table = pd.DataFrame(
            {"stem": ["a"], "split": ["train"], "nx": [8.0], "ny": [6.0], "scale": [1.0], "n_picks": [2]}
        )
        (folder / MANIFEST_NAME).write_text(manifest_text(table, ""))
        (folder / "train_image/a.mrc").write_bytes(MRC)
        return [problems_of(picker(name), folder) for name in PICKERS]

    def shard(path: Path) -> object:
        model = ModelBundle(Architecture("residual", 12, 2), TwoChannelPreprocessing(pixels_per_diameter=12), {}, 120.0)
        centers, labels = np.array([[1.0, 1.0], [2.0, 2.0]]), np.zeros(2, np.int8)
        micrograph = PickedMicrograph("a.mrc", path.parent / "a.mrc", 1.0, 120.0, centers, labels)
        return read_shard(model, [micrograph], Shard(0, 1, path))

    database_files = (
        "cryoflow-database.json",
        str(state_file(Database("/d"), Path("/p")).relative_to("/d")),
        "P1/micrographs.txt",
        *(f"P1/Particles/Homo_J1/{name}" for name in ("info.txt", "data.txt", "manifest.json", "mark.json")),
    )
    set_files = ("manifest.tsv", "settings.tsv", RECORD, "particles_train.txt", "image_list_train.txt")
    label_files = (
        *("config_cryolo.json", "train_annot/a.box", "particles_train.txt", "image_list_train.txt"),
        *("train_image/a.txt", "info/a_info.json", "finetune_dataset/csv_files/a.csv", "train/a.coord", "train/a.star"),
    )
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
        "coordinates": read_file,
        "lone table": read_table_of_picks,
        "manifest": read_manifest,
        "contents of an export": as_files((CONTENTS_NAME,), lambda p: (read_contents(p), verify_export(p))),
        "data.txt": read_data_text,
        "info.txt": lambda p: parse_info(p, content(p).decode(errors="surrogateescape")),
        "micrographs.txt": as_files(("micrographs.txt",), read_links),
        "unpicker's STAR": StarRows.read,
        "evaluation": ReportedEvaluation.read,
        "trace": read_trace,
        "database": as_files(database_files, whole_database),
        "training set": as_files(set_files, training_set),
        "labels of a training set": as_files(label_files, labels),
        "picker's log": lambda p: (keras_curve(p), topaz_curve(p)),
        "shard": shard,
        "folder of a training": as_files(("training.txt",), lambda p: finished_model(p, "mark", overwrite=False)),
        "model bundle": as_files(("bundle.json",), ModelBundle.load),
        "part of an export": as_files((PART,), lambda folder: write_shard(shard_of(folder / PART))),
        "cryosparc project": as_files(cryosparc, all_jobs),
        "relion project": as_files(relion, all_jobs),
    }


ENDINGS = (".star", ".cs", ".mrc", ".txt", ".coord", ".csv", ".csg", ".tif", ".cbox", ".json")


BY_NAME = ("coordinates", "lone table", "any image")
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


PICKERS = ("cryolo", "topaz", "warp", "epicker", "cryosegnet", "eman2")


SEEDS = (STAR, BOX, TOPAZ, CSV, JOB, CSG, NPY + bytes(16), MRC, MANIFEST)


@settings(
    max_examples=100,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    st.sampled_from(SEEDS),
    st.binary(max_size=60),
    st.integers(0, 400),
    st.booleans(),
    st.sampled_from(ENDINGS),
    st.data(),
)
def random_bytes_in_good_files(
    seed: bytes, noise: bytes, at: int, replace: bool, ending: str, data: st.DataObject
) -> None:
    content = seed[:at] + noise + seed[at + (len(noise) if replace else 0) :]
    readers = {
        n: r for n, r in readers_of_bad_files().items() if "project" not in n or data.draw(st.integers(0, 5)) == 0
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"a{ending}")
        path.write_bytes(content)
        assert escaped(readers, path) == []


SPECIAL = ("pipe", "device", "1 TiB without a line", "1 TiB behind a good head", "a line of 30 MB")
LONGEST_S = 60.0
"""What one reader may take for one of these; most are refused at once. On a machine at rest the slowest takes 2 s."""


def special_files(folder: Path) -> int:
    """Named pipes, devices, files larger than any memory and lines without an end, under the names of good files."""

    def too_long(*_: object) -> None:
        raise TimeoutError(f"still at work after {LONGEST_S} s")

    signal.signal(signal.SIGALRM, too_long)
    readers = readers_of_bad_files()
    n = 0
    for what in SPECIAL:
        for ending, head in (
            (".star", STAR),
            (".box", BOX),
            (".csv", CSV),
            (".cs", NPY),
            (".json", JOB),
            (".mrc", MRC),
        ):
            path = folder / f"special{ending}"
            make_special(path, what, head)
            for name, reader in readers.items():
                signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
                for line in escaped({name: reader}, path):
                    print(f"ESCAPED {what}{ending}: {line}", flush=True)
                signal.setitimer(signal.ITIMER_REAL, 0)
                n += 1
            path.unlink()
    return n


def make_special(path: Path, what: str, head: bytes) -> None:
    if what == "pipe":
        os.mkfifo(path)
    elif what == "device":
        path.symlink_to("/dev/zero")
    elif what == "a line of 30 MB":
        with path.open("wb") as file:
            file.write(head.rstrip(b"\n"))
            file.writelines(b" 5" * 500_000 for _ in range(30))
    else:
        path.write_bytes(head if "head" in what else b"")
        os.truncate(path, 1 << 40)  # sparse: takes no room on the disk


def main(folder: Path) -> int:
    """Every file of the corpus through every reader, then random bytes, under the limit; prints what escaped."""
    readers = readers_of_bad_files()
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
    n += special_files(folder)
    random_bytes_in_good_files()
    print(f"DONE {n}")
    return 0


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="no /proc: memory in use is not known")
def test_the_whole_corpus_and_random_bytes_through_every_reader_within_the_memory_limit(tmp_path: Path) -> None:
    argv = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=850, cwd=tmp_path)
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith("ESCAPED")] == []
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(lines[-1].split()[1]) > 2500
    assert list(tmp_path.rglob("hacked")) == []


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
