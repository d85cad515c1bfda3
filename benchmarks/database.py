"""Time and memory of the text database: a million picks (or more) written and read back, beside the older ways.

    python benchmarks/database.py                    # 1,000,000 picks on 5,000 micrographs
    python benchmarks/database.py --picks 10000000
    python benchmarks/database.py --project 1000000  # a .cs and a STAR of that many picks, from project to database

Each way runs in a process of its own; memory is its peak above what it held once the picks were made. The older ways
are a loop in Python that writes '%f %f' a pick, as the scripts before cryoflow did (x and y alone), the same with all
five columns, and pandas' `to_csv` and `read_csv` of all five.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.database import Database
from cryoflow.picks import Kind, PickSet, Provenance, micrograph_table

PICKS_A_MICROGRAPH = 200


def make(n_picks: int) -> PickSet:
    """Picks with score, class and uid, on non-square micrographs."""
    rng = np.random.default_rng(1)
    n = max(1, n_picks // PICKS_A_MICROGRAPH)
    micrographs = micrograph_table(
        {
            "name": pd.Series([f"J2/motioncorrected/{i:021d}_mic_{i:06d}.mrc" for i in range(n)], dtype="object"),
            "status": pd.Series(["missing"] * n, dtype="object"),
            "ny": pd.array(np.full(n, 4092), dtype="Int32"),
            "nx": pd.array(np.full(n, 5760), dtype="Int32"),
            "pixel_size_A": np.full(n, 0.834),
            "voltage_kV": np.full(n, 300.0),
            "cs_mm": np.full(n, 2.7),
            "amplitude_contrast": np.full(n, 0.1),
            "defocus_u_A": rng.uniform(5e3, 3e4, n),
            "defocus_v_A": rng.uniform(5e3, 3e4, n),
        }
    )
    picks = pd.DataFrame(
        {
            "micrograph": np.sort(rng.integers(0, n, n_picks, dtype=np.int32)),
            "x_px": rng.uniform(0, 5759, n_picks),
            "y_px": rng.uniform(0, 4091, n_picks),
            "score": rng.normal(0, 1, n_picks),
            "class": rng.integers(0, 50, n_picks, dtype=np.int32),
            "uid": rng.integers(0, 2**64 - 1, n_picks, dtype=np.uint64),
        },
        copy=False,
    )
    return PickSet.build(Provenance("cryosparc", Path("/data/P1"), "P1", "J51", Kind.HOMO), micrographs, picks)


def cryoflow_write(picks: PickSet, folder: Path) -> None:
    Database(folder / "DB").add(picks)


def cryoflow_read(_: PickSet | None, folder: Path) -> None:
    Database(folder / "DB").load("P1/Homo_J51")


def loop_xy_write(picks: PickSet, folder: Path) -> None:
    with (folder / "xy.txt").open("w") as file:
        for i, rows in picks.by_micrograph():
            file.write(f"Micrograph {picks.micrographs['name'].iat[i]}\n")
            for x, y in zip(rows["x_px"].tolist(), rows["y_px"].tolist(), strict=True):
                file.write("%f %f\n" % (x, y))  # noqa: UP031 as it was
            file.write("$\n")


def loop_xy_read(_: PickSet | None, folder: Path) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    with (folder / "xy.txt").open() as file:
        for row in file:
            if row.startswith("Micrograph"):
                rows = found.setdefault(row.split()[1], [])
            elif not row.startswith("$"):
                x, y = row.split()
                rows.append((float(x), float(y)))


def loop_all_write(picks: PickSet, folder: Path) -> None:
    with (folder / "all.txt").open("w") as file:
        for i, rows in picks.by_micrograph():
            file.write(f"Micrograph {picks.micrographs['name'].iat[i]}\n")
            columns = [rows[c].tolist() for c in ("x_px", "y_px", "score", "class", "uid")]
            for values in zip(*columns, strict=True):
                file.write("%.3f %.3f %.6f %d %d\n" % values)  # noqa: UP031 as it was
            file.write("$\n")


def loop_all_read(_: PickSet | None, folder: Path) -> None:
    found: dict[str, list[tuple[float, float, float, int, int]]] = {}
    with (folder / "all.txt").open() as file:
        for row in file:
            if row.startswith("Micrograph"):
                rows = found.setdefault(row.split()[1], [])
            elif not row.startswith("$"):
                x, y, s, c, u = row.split()
                rows.append((float(x), float(y), float(s), int(c), int(u)))


def pandas_write(picks: PickSet, folder: Path) -> None:
    picks.picks.to_csv(folder / "picks.csv", index=False)


def pandas_read(_: PickSet | None, folder: Path) -> None:
    pd.read_csv(folder / "picks.csv", dtype={"uid": np.uint64, "class": np.int32, "micrograph": np.int32})


WAYS: dict[str, tuple[Callable[[PickSet, Path], None], Callable[[PickSet | None, Path], None]]] = {
    "cryoflow": (cryoflow_write, cryoflow_read),
    "loop, x and y": (loop_xy_write, loop_xy_read),
    "loop, all": (loop_all_write, loop_all_read),
    "pandas CSV": (pandas_write, pandas_read),
}


def peak_mb() -> float:
    """Of this process alone: getrusage counts the parent's memory before exec, too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def child(way: str, step: str, n_picks: int, folder: Path) -> None:
    """One measurement, printed as JSON."""
    picks = make(n_picks) if step == "write" else None
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    if picks is not None:
        WAYS[way][0](picks, folder)
    else:
        WAYS[way][1](None, folder)
    print(json.dumps({"s": time.perf_counter() - started, "cpu": time.process_time() - cpu, "mb": peak_mb() - before}))


def project_child(kind: str, folder: Path) -> None:
    """Read a project's only table and write it to a database; the clock runs from import's end."""
    before, started, cpu = peak_mb(), time.perf_counter(), time.process_time()
    from cryoflow.ingest import ingest

    report = ingest(folder / kind, folder / f"DB-{kind}", check_orientation=False)
    n = sum(line.n_picks for line in report.lines)
    print(
        json.dumps(
            {
                "s": time.perf_counter() - started,
                "cpu": time.process_time() - cpu,
                "mb": peak_mb() - before,
                "all_mb": peak_mb(),
                "n": n,
            }
        )
    )


def write_projects(n_picks: int, folder: Path) -> None:
    """A CryoSPARC project without job.json and a RELION Refine3D of this many picks, as large as real ones are."""
    rng = np.random.default_rng(2)
    n = max(1, n_picks // PICKS_A_MICROGRAPH)
    index = np.sort(rng.integers(0, n, n_picks))
    names = np.array([f"J2/motioncorrected/{i:021d}_mic_{i:06d}_patch_aligned_doseweighted.mrc" for i in range(n)])
    fields: list[tuple[str, str] | tuple[str, str, tuple[int, ...]]] = [
        ("uid", "<u8"),
        ("location/micrograph_uid", "<u8"),
        ("location/exp_group_id", "<u4"),
        ("location/micrograph_path", f"S{len(names[0])}"),
        ("location/micrograph_shape", "<u4", (2,)),
        ("location/center_x_frac", "<f4"),
        ("location/center_y_frac", "<f4"),
        ("location/micrograph_psize_A", "<f4"),
        ("pick_stats/ncc_score", "<f4"),
        ("pick_stats/power", "<f4"),
        ("ctf/df1_A", "<f4"),
        ("ctf/df2_A", "<f4"),
        ("ctf/df_angle_rad", "<f4"),
        ("ctf/accel_kv", "<f4"),
        ("ctf/cs_mm", "<f4"),
        ("ctf/amp_contrast", "<f4"),
        ("blob/path", "S80"),
        ("blob/idx", "<u4"),
        ("blob/shape", "<u4", (2,)),
        ("blob/psize_A", "<f4"),
        ("alignments2D/class", "<u4"),
        ("alignments2D/shift", "<f4", (2,)),
        ("alignments2D/psize_A", "<f4"),
    ]
    table = np.zeros(n_picks, np.dtype(fields))
    table["uid"] = rng.permutation(n_picks).astype(np.uint64) + 10**18
    table["location/micrograph_uid"] = index
    table["location/micrograph_path"] = names[index]
    table["location/micrograph_shape"] = (4092, 5760)
    table["location/center_x_frac"] = rng.random(n_picks)
    table["location/center_y_frac"] = rng.random(n_picks)
    table["location/micrograph_psize_A"] = 0.834
    table["pick_stats/ncc_score"] = rng.normal(0, 1, n_picks)
    for name, value in (("ctf/accel_kv", 300), ("ctf/cs_mm", 2.7), ("ctf/amp_contrast", 0.1)):
        table[name] = value
    job = folder / "cs" / "CS-large" / "J4"
    job.mkdir(parents=True)
    (job.parent / "project.json").write_text('{"uid": "P1", "title": "large"}')
    np.save(job / "picked_particles.npy", table)
    (job / "picked_particles.npy").rename(job / "picked_particles.cs")
    (job / "job.json").write_text(
        json.dumps(
            {
                "uid": "J4",
                "job_type": "template_picker_gpu",
                "status": "completed",
                "version": "v4.5.3",
                "output_result_groups": [{"name": "particles", "type": "particle", "num_items": n_picks}],
                "output_results": [
                    {
                        "type": f"particle.{slot}",
                        "group_name": "particles",
                        "name": slot,
                        "versions": [0],
                        "metafiles": ["J4/picked_particles.cs"],
                        "num_items": [n_picks],
                        "passthrough": False,
                    }
                    for slot in ("location", "pick_stats", "ctf")
                ],
            }
        )
    )
    refine = folder / "star" / "relion-large" / "Refine3D" / "job001"
    refine.mkdir(parents=True)
    (refine.parents[1] / "default_pipeline.star").write_text(
        "# version 50001\n\ndata_pipeline_general\n\n_rlnPipeLineJobCounter 2\n\n"
        "data_pipeline_processes\n\nloop_\n_rlnPipeLineProcessName #1\n_rlnPipeLineProcessAlias #2\n"
        "_rlnPipeLineProcessTypeLabel #3\n_rlnPipeLineProcessStatusLabel #4\n"
        "Refine3D/job001/ None relion.refine3d Succeeded\n"
    )
    (refine / "RELION_JOB_EXIT_SUCCESS").touch()
    labels = ["CoordinateX", "CoordinateY", "MicrographName", "ImageName", "OpticsGroup", "GroupNumber", "AngleRot"]
    labels += ["AngleTilt", "AnglePsi", "OriginXAngst", "OriginYAngst", "ClassNumber", "DefocusU", "DefocusV"]
    labels += ["DefocusAngle", "PhaseShift", "CtfMaxResolution", "CtfFigureOfMerit", "CtfBfactor", "CtfScalefactor"]
    labels += [
        "NormCorrection",
        "LogLikeliContribution",
        "MaxValueProbDistribution",
        "NrOfSignificantSamples",
        "RandomSubset",
    ]
    with (refine / "run_data.star").open("w") as file:
        file.write(
            "# version 50001\n\ndata_optics\n\nloop_\n_rlnOpticsGroupName #1\n_rlnOpticsGroup #2\n_rlnVoltage #3\n"
            "_rlnSphericalAberration #4\n_rlnAmplitudeContrast #5\n_rlnImagePixelSize #6\n_rlnImageSize #7\n"
            "_rlnMicrographPixelSize #8\nopticsGroup1 1 300 2.7 0.1 1.668 128 0.834\n\n"
            "# version 50001\n\ndata_particles\n\nloop_\n" + "".join(f"_rln{c} #{i}\n" for i, c in enumerate(labels, 1))
        )
        x, y = rng.uniform(0, 5759, n_picks), rng.uniform(0, 4091, n_picks)
        shift = rng.normal(0, 3, (n_picks, 2))
        for a in range(0, n_picks, 10_000):
            file.write(
                "".join(
                    f"{x[i]:12.6f} {y[i]:12.6f} MotionCorr/job002/Movies/mic_{m:06d}.mrc "
                    f"{i % 200:06d}@Extract/job003/Movies/mic_{m:06d}.mrcs 1 {m:12d}   120.500000    45.250000 "
                    f"  -33.125000 {shift[i, 0]:12.6f} {shift[i, 1]:12.6f} 1 15012.250000 14890.125000    45.000000 "
                    "    0.000000     3.500000     0.120000     0.000000     1.000000     0.875000 1.23456e+05 "
                    "    0.950000            4            1\n"
                    for i, m in enumerate(index[a : a + 10_000].tolist(), a)
                )
            )


def measured(*arguments: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--project", type=int, help="read whole projects of this many picks instead")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--folder", type=Path, help="where to write; a temporary folder by default")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--project-child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        way, step, picks, folder = given.child
        child(way, step, int(picks), Path(folder))
        return
    if given.project_child:
        project_child(given.project_child[0], Path(given.project_child[1]))
        return
    folder = Path(tempfile.mkdtemp(prefix="cryoflow-benchmark-", dir=given.folder))
    try:
        if given.project:
            write_projects(given.project, folder)
            print(f"{given.project:,} picks: a project read and written to the database, in one process")
            for kind in ("cs", "star"):
                m = measured("--project-child", kind, str(folder))
                times = f"{m['s']:6.2f} s, {m['cpu']:6.2f} CPU s"
                print(f"{kind:5} {times}, {m['all_mb']:5.0f} MB at most, {m['n']:,.0f} picks", flush=True)
            return
        print(f"{given.picks:,} picks on {max(1, given.picks // PICKS_A_MICROGRAPH):,} micrographs")
        print(f"{'':14} {'write s':>8} {'CPU s':>7} {'MB':>6} {'read s':>8} {'CPU s':>7} {'MB':>6}")
        for way in given.ways:
            w, r = (measured("--child", way, step, str(given.picks), str(folder)) for step in ("write", "read"))
            write, read = (f"{m['s']:8.2f} {m['cpu']:7.2f} {m['mb']:6.0f}" for m in (w, r))
            print(f"{way:14} {write} {read}", flush=True)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
