"""Read a large RELION particle STAR, side by side with starfile.read: seconds, and peak memory above the interpreter's.

    python benchmarks/read_star.py                       # 1,000,000 picks on 5,000 micrographs, 25 columns
    python benchmarks/read_star.py --picks 10000000 --only cryoflow

Each reader runs in a process of its own, so that its peak memory is its own. Seconds are of reading alone (by the
clock, and of all cores), and of the whole process with its imports. cryoflow's result is a `PickSet`: sorted by
micrograph, refined shifts subtracted, duplicates looked for, defocus of each micrograph; starfile's is two DataFrames.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

READERS = ("cryoflow", "starfile")


def main() -> None:
    """Write the file where it is not there, run the readers, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--micrographs", type=int, default=5_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the file is kept")
    parser.add_argument("--only", choices=READERS, help="run one reader alone")
    parser.add_argument("--repeats", type=int, default=3, help="runs of cryoflow, of which the best counts")
    parser.add_argument("--child", choices=READERS, help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        print(json.dumps(measure(arguments.child, arguments.file)))
        return
    path = arguments.folder / "cryoflow_benchmark_star" / f"{arguments.picks}.star"
    if not path.exists():
        print(f"writing {path} ...", flush=True)
        write(path, arguments.picks, arguments.micrographs)
    size_MB = path.stat().st_size / 1e6
    print(f"{arguments.picks:,} picks, {arguments.micrographs:,} micrographs, 25 columns, {size_MB:.0f} MB")
    bare_MB = bare_interpreter_MB()
    results = {}
    print(f"{'':10} {'read s':>8} {'CPU s':>8} {'process s':>10} {'peak MB above the interpreter':>30} {'picks':>12}")
    for reader in READERS:
        if arguments.only not in (None, reader):
            continue
        runs = [run(reader, path) for _ in range(arguments.repeats if reader == "cryoflow" else 1)]
        best = min(runs, key=lambda r: r["read_s"])
        results[reader] = best
        peak_MB = max(r["peak_MB"] for r in runs) - bare_MB
        seconds = f"{best['read_s']:8.2f} {best['cpu_s']:8.2f} {best['process_s']:10.2f}"
        print(f"{reader:10} {seconds} {peak_MB:30.0f} {int(best['picks']):12,}", flush=True)
    if len(results) == 2:
        faster = results["starfile"]["read_s"] / results["cryoflow"]["read_s"]
        leaner = (results["starfile"]["peak_MB"] - bare_MB) / (results["cryoflow"]["peak_MB"] - bare_MB)
        print(f"cryoflow is {faster:.1f} times as fast and needs {leaner:.1f} times less memory")


def run(reader: str, path: Path) -> dict[str, float]:
    """Measure a reader in a process of its own."""
    started = time.perf_counter()
    argv = [sys.executable, __file__, "--child", reader, "--file", str(path)]
    out = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    return {**json.loads(out), "process_s": time.perf_counter() - started}


def measure(reader: str, path: Path) -> dict[str, float]:
    """Read the file in this process."""
    if reader == "cryoflow":
        from cryoflow.projects.relion.standalone import read_standalone

        started, cpu = time.perf_counter(), time.process_time()
        picks = len(read_standalone(path))
    else:
        import starfile

        started, cpu = time.perf_counter(), time.process_time()
        picks = len(starfile.read(path)["particles"])
    read_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {"read_s": read_s, "cpu_s": cpu_s, "peak_MB": peak_MB(), "picks": picks}


PEAK_MB = """int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024"""
"""Of this process alone: `ru_maxrss` counts what its parent held when it was started, too."""


def peak_MB() -> float:
    """Peak resident memory of this process."""
    return float(eval(PEAK_MB))


def bare_interpreter_MB() -> float:
    """Peak resident memory of a Python that does nothing."""
    code = f"print({PEAK_MB})"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def write(path: Path, n_picks: int, n_micrographs: int) -> None:
    """A particle table as RELION 5 writes it after a refinement; seeded."""
    import numpy as np

    from cryoflow.storage.files import replacing

    rng = np.random.default_rng(0)
    text = (
        "CoordinateX CoordinateY AutopickFigureOfMerit ClassNumber AnglePsi ImageName MicrographName OpticsGroup "
        "CtfMaxResolution CtfFigureOfMerit DefocusU DefocusV DefocusAngle CtfBfactor CtfScalefactor PhaseShift "
        "GroupNumber AngleRot AngleTilt OriginXAngst OriginYAngst NormCorrection LogLikeliContribution "
        "MaxValueProbDistribution NrOfSignificantSamples"
    )
    labels = text.split()
    row = (
        "%12.6f %12.6f %12.6f %12d %12.6f %s %s %12d %12.6f %12.6f %12.6f %12.6f %12.6f %12.6f %12.6f %12.6f %12d "
        "%12.6f %12.6f %12.6f %12.6f %12.6f %12.6e %12.6f %12d \n"
    )
    with replacing(path) as hidden, hidden.open("w") as file:
        file.write(
            "\n# version 50001\n\ndata_optics\n\nloop_ \n_rlnOpticsGroupName #1 \n_rlnOpticsGroup #2 \n"
            "_rlnMicrographPixelSize #3 \n_rlnVoltage #4 \n_rlnSphericalAberration #5 \n_rlnAmplitudeContrast #6 \n"
            "_rlnImagePixelSize #7 \n_rlnImageSize #8 \n_rlnImageDimensionality #9 \n"
            "opticsGroup1            1     0.885000   300.000000     2.700000     0.100000     3.540000           64"
            "            2 \n \n\n# version 50001\n\ndata_particles\n\nloop_ \n"
        )
        file.writelines(f"_rln{label} #{i} \n" for i, label in enumerate(labels, 1))
        for start in range(0, n_picks, 100_000):
            n = min(100_000, n_picks - start)
            mic = ((start + np.arange(n)) * n_micrographs // n_picks).tolist()
            x, y, fom, psi, rot, tilt, res, norm, pmax = (
                (rng.random(n) * top).tolist() for top in (4000, 5700, 1, 360, 360, 180, 5, 1, 1)
            )
            du, dv = ((10_000 + 10_000 * rng.random(n)).tolist() for _ in range(2))
            ox, oy = (rng.normal(0, 4, n).tolist() for _ in range(2))
            like = (rng.random(n) * 1e5).tolist()
            k, samples = rng.integers(1, 5, n).tolist(), rng.integers(1, 100, n).tolist()
            for i in range(n):
                image = f"{start + i:06d}@Extract/job009/Movies/FoilHole_{mic[i]:08d}_Data.mrcs"
                name = f"MotionCorr/job002/Movies/FoilHole_{mic[i]:08d}_Data_{mic[i]:05d}_fractions.mrc"
                words = (x[i], y[i], fom[i], k[i], psi[i], image, name, 1, res[i], 0.1, du[i], dv[i], 45.0, 0.0)
                more = (1.0, 0.0, mic[i] + 1, rot[i], tilt[i], ox[i], oy[i], norm[i], like[i], pmax[i], samples[i])
                file.write(row % (*words, *more))
        file.write(" \n")


if __name__ == "__main__":
    main()
