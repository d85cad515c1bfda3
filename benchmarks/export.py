"""How fast picks are exported to each picker, beside a loop that formats pick by pick.

    python benchmarks/export.py                                  # 1,000,000 picks on 5,000 micrographs
    python benchmarks/export.py --picks 100000 --micrographs 500 --only cryolo topaz
    python benchmarks/export.py --memory --picks 10000000 --micrographs 50000 --only cryolo topaz

The micrographs are sparse files of 4092 x 5760 bytes. Of each export is shown: `linking`, reading all headers and
making links; `check`, the orientation check, which reads pixels of a few micrographs; `export`, all the rest: names,
split, boxes, settings, formatting, writing, manifest, and the sync to disk; `CPU` is that in CPU seconds, of all
threads, which other work on the machine does not touch. Pictures that a picker gets converted are
no part of the export: for Warp and CryoSegNet the labels of all micrographs are drawn, and pictures are timed on five.

With `--memory` the picks are put into a database first, and each export is a process of its own that loads them from
there and writes: shown are its time by the clock, its CPU time, and the peak of its memory, all from loading on.
"""

from __future__ import annotations

import argparse
import os
import resource
import struct
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd

from cryoflow.database import Database
from cryoflow.pickers.programs.warp import PIXEL_SIZE_A as WARP_PIXEL_SIZE_A
from cryoflow.pickers.programs.warp.slices import label_radius_px
from cryoflow.pickers.registry import pickers
from cryoflow.pickers.training_sets import build, export, links
from cryoflow.pickers.training_sets.discs import paint_discs
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

SHAPE_YX = (4092, 5760)
PIXEL_SIZE_A, DIAMETER_A = 0.83, 150.0
SECONDS: dict[str, tuple[float, float]] = {}
"""What -> seconds by the clock and of the CPU."""


def now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float], *without: str) -> tuple[float, float]:
    """Seconds by the clock and of the CPU since `start`, less those of some parts."""
    wall, cpu = (end - begin for begin, end in zip(start, now(), strict=True))
    parts = [SECONDS.get(name, (0.0, 0.0)) for name in without]
    return wall - sum(p[0] for p in parts), cpu - sum(p[1] for p in parts)


def timed(name: str, function: Callable[..., object]) -> Callable[..., object]:
    def wrapper(*args: object, **options: object) -> object:
        start = now()
        try:
            return function(*args, **options)
        finally:
            before, taken = SECONDS.get(name, (0.0, 0.0)), since(start)
            SECONDS[name] = before[0] + taken[0], before[1] + taken[1]

    return wrapper


def make_entry(folder: Path, n_picks: int, n_micrographs: int) -> PickSet:
    rng = np.random.default_rng(0)
    names = [f"MotionCorr/job002/Movies/mic_{i:05d}.mrc" for i in range(n_micrographs)]
    paths = [folder / f"mic_{i:05d}.mrc" for i in range(n_micrographs)]
    for i, path in enumerate(paths):
        with mrcfile.new_mmap(path, SHAPE_YX, mrc_mode=0, overwrite=True) as file:  # a sparse file
            file.voxel_size = PIXEL_SIZE_A
            # No copy of another one, which would go to the same part of the split.
            file.data[0, :4] = np.frombuffer(struct.pack("<I", i), np.int8)
    n = n_micrographs
    micrographs = micrograph_table(
        {
            "name": names,
            "path": [str(p) for p in paths],
            "status": ["found"] * n,
            "uid": [str(10**17 + i) for i in range(n)],
        }
        | {"ny": [SHAPE_YX[0]] * n, "nx": [SHAPE_YX[1]] * n, "pixel_size_A": [PIXEL_SIZE_A] * n, "cs_mm": [2.7] * n}
        | {"voltage_kV": [300.0] * n, "amplitude_contrast": [0.1] * n, "defocus_u_A": rng.uniform(5e3, 3e4, n).tolist()}
        | {"defocus_v_A": rng.uniform(5e3, 3e4, n).tolist(), "defocus_angle_deg": rng.uniform(0, 180, n).tolist()}
    )
    picks = pd.DataFrame(
        {
            "micrograph": np.sort(rng.integers(0, n, n_picks)).astype(np.int32),
            "x_px": rng.uniform(100, SHAPE_YX[1] - 100, n_picks),
            "y_px": rng.uniform(100, SHAPE_YX[0] - 100, n_picks),
            "score": rng.random(n_picks),
            "uid": np.arange(1, n_picks + 1, dtype=np.uint64),
        }
    )
    where = Provenance("cryosparc", folder, "bench", "J51", Kind.HOMO)
    return PickSet.build(where, micrographs, picks, diameter_A=DIAMETER_A)


def pick_by_pick(entry: PickSet, folder: Path) -> float:
    """What the older scripts do: one pick after the other, one formatted line each."""
    start = time.perf_counter()
    box = round(DIAMETER_A / PIXEL_SIZE_A)
    lines: dict[str, list[str]] = {}
    for _, pick in entry.picks.iterrows():
        name = entry.micrographs["name"][int(pick["micrograph"])]
        line = f"{pick['x_px'] - box / 2:.1f}\t{pick['y_px'] - box / 2:.1f}\t{box}\t{box}\n"
        lines.setdefault(name, []).append(line)
    folder.mkdir()
    for name, rows in lines.items():
        (folder / (Path(name).stem + ".box")).write_text("".join(rows))
    return time.perf_counter() - start


def drawing(entry: PickSet, radius_px: float, shrink: float) -> float:
    """Labels of all micrographs."""
    shape = (int(SHAPE_YX[0] / shrink), int(SHAPE_YX[1] / shrink))
    xy, bounds = entry.centers_xy_px / shrink, entry.offsets.tolist()
    start = time.perf_counter()
    for first, last in pairwise(bounds):
        paint_discs(shape, xy[first:last], radius_px)
    return time.perf_counter() - start


def in_child(work: Callable[[], object]) -> tuple[float, float, float]:
    """Do something in a process of its own: seconds by the clock and of the CPU, and its peak of memory in MB."""
    start = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:  # a child must not go on as its parent
            print(error, flush=True)
            os._exit(1)
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit("the export failed")
    return time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def memory_of_exports(home: Path, n_picks: int, n_micrographs: int, names: list[str]) -> None:
    """Time and memory of exports whose picks come from a database; each in a process of its own."""
    database = Database(home / "database")
    in_child(lambda: database.add(make_entry(home / "mics", n_picks, n_micrographs)))
    name = "bench/Homo_J51"
    bare = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{n_picks:,} picks on {n_micrographs:,} micrographs; a bare interpreter: {bare:.0f} MB\n")
    print(f"{'':24}{'clock s':>10}{'CPU s':>10}{'peak MB':>10}")
    row = "{:24}{:>10.1f}{:>10.1f}{:>10.0f}".format
    print(row("loading alone", *in_child(lambda: database.load(name))), flush=True)
    for picker in names:
        done = in_child(lambda picker=picker: export.export(picker, [database.load(name)], home / picker))
        print(row(picker, *done), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--micrographs", type=int, default=5_000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--folder", type=Path, help="where to write (default: a temporary folder)")
    parser.add_argument("--memory", action="store_true", help="time and peak memory of each export, in its own process")
    options = parser.parse_args()
    if options.memory:
        with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
            (Path(scratch) / "mics").mkdir()
            names = options.only or [name for name in pickers() if name not in ("warp", "cryosegnet")]
            memory_of_exports(Path(scratch), options.picks, options.micrographs, names)
        return
    build.read_headers_of = timed("linking", build.read_headers_of)  # type: ignore[assignment]
    links.link_micrographs = timed("linking", links.link_micrographs)  # type: ignore[assignment]
    export.check_orientations = timed("check", export.check_orientations)  # type: ignore[assignment]
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        home = Path(scratch)
        (home / "mics").mkdir()
        entry = make_entry(home / "mics", options.picks, options.micrographs)
        print(f"{len(entry):,} picks on {options.micrographs:,} micrographs\n")
        print(f"{'picker':24}{'linking s':>10}{'check s':>10}{'export s':>10}{'CPU s':>10}")
        for name in options.only or pickers():
            SECONDS.clear()
            start = now()
            if name == "warp":
                seconds = drawing(entry, label_radius_px(DIAMETER_A), WARP_PIXEL_SIZE_A / PIXEL_SIZE_A)
                print(f"{'warp (labels)':24}{'-':>10}{'-':>10}{seconds:>10.1f}")
                continue
            chosen = {"masks": "no"} if name == "cryosegnet" else {}
            export.export(name, [entry], home / name, settings=chosen)
            wall, cpu = since(start, "linking", "check")
            linking, check = (SECONDS.get(part, (0.0, 0.0))[0] for part in ("linking", "check"))
            print(f"{name:24}{linking:>10.1f}{check:>10.1f}{wall:>10.1f}{cpu:>10.1f}", flush=True)
        if not options.only:
            five = min(5, options.micrographs)
            few = entry.where((entry.picks["micrograph"] < five).to_numpy(), micrographs=entry.micrographs.head(five))
            rng = np.random.default_rng(1)
            for path in few.micrographs["path"]:
                with Path(path).open("r+b") as file:
                    file.seek(len(struct.pack("1024x")))
                    file.write(rng.integers(-9, 9, SHAPE_YX, np.int8).tobytes())
            for name in ("warp", "cryosegnet"):
                start_few = time.perf_counter()
                export.export(name, [few], home / f"{name}_few")
                print(f"{name + ' (pictures)':24}{(time.perf_counter() - start_few) / five:>9.2f} s a micrograph")
            print(f"{'cryolo, pick by pick':24}{'-':>10}{'-':>10}{pick_by_pick(entry, home / 'loop'):>10.1f}")


if __name__ == "__main__":
    main()
