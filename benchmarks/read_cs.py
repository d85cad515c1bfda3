"""How fast a CryoSPARC dataset is read, beside NumPy, cryosparc-tools and, where it is installed, pyem.

    python benchmarks/read_cs.py --picks 1000000

Writes a project whose one job has that many particles on 5,000 micrographs (about 350 bytes a particle, rows in no
order of micrographs) into a temporary folder, in both containers. Then each reader runs in a process of its own:
cryoflow from the job to a `PickSet` in its common frame, with recentring, folding of duplicates and finding of
micrographs; `numpy.load` and `cryosparc.dataset.Dataset.load` to their own tables; pyem's `csparc2star.py` to a STAR
file. Seconds are those of the reading by the clock, and of the processor (user and system), imports apart but for
pyem's; memory is the peak of the process less that of a bare interpreter, imports included. The file is in the page
cache.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

MEASURE = """
import json, sys, time
def peak():
    return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1]) / 1024
"""
BARE = MEASURE + "print(json.dumps({'seconds': 0, 'peak_mb': peak(), 'n': 0}))"
CRYOFLOW = (
    MEASURE
    + """
from pathlib import Path
from cryoflow.projects import find_jobs, read_job
from cryoflow.projects.cryosparc import recognize
import os, pandas, numpy, lz4.block
import cryoflow.projects.cryosparc.read
start, cpu = time.perf_counter(), time.process_time()
project = recognize(Path(sys.argv[1]), set(os.listdir(sys.argv[1])))
(pickset,) = read_job(next(job for job in find_jobs(project) if job.job == "J2"))
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
n = len(pickset) + sum(pickset.counts.values())
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak(), "n": n}))
"""
)
NUMPY = (
    MEASURE
    + """
import numpy
start, cpu = time.perf_counter(), time.process_time()
table = numpy.load(sys.argv[1] + "/J2/extracted_particles.cs", max_header_size=1 << 20)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({"seconds": seconds, "cpu": cpu, "peak_mb": peak(), "n": len(table)}))
"""
)
TOOLS = (
    (
        MEASURE
        + """
from cryosparc.dataset import Dataset
start, cpu = time.perf_counter(), time.process_time()
table = Dataset.load(sys.argv[1] + "/J2/extracted_particles.cs"{options})
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
print(json.dumps({{"seconds": seconds, "cpu": cpu, "peak_mb": peak(), "n": len(table)}}))
"""
    )
    .replace("{options}", "OPTIONS")
    .replace("{{", "{")
    .replace("}}", "}")
)
PYEM = (
    MEASURE
    + """
import os, resource, shutil, subprocess
tool = shutil.which("csparc2star.py")
if tool is None:
    sys.exit("not installed: there is no csparc2star.py on the PATH")
written = sys.argv[1] + "/csparc2star.star"
start = time.perf_counter()
subprocess.run([tool, sys.argv[1] + "/J2/extracted_particles.cs", written], check=True)
seconds, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
n = sum(b"@" in line for line in open(written, "rb"))
os.remove(written)
print(json.dumps(
    {"seconds": seconds, "cpu": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024, "n": n}
))
"""
)
READERS = {
    "cryoflow, job to PickSet": (CRYOFLOW, ("npy", "csdat")),
    "numpy.load": (NUMPY, ("npy",)),
    "cryosparc-tools Dataset.load": (TOOLS.replace("OPTIONS", ""), ("npy", "csdat")),
    "the same, location/* alone": (TOOLS.replace("OPTIONS", ', prefixes=["location"]'), ("npy", "csdat")),
    "pyem csparc2star.py, to a STAR": (PYEM, ("npy",)),
}


def main() -> None:
    """Write the projects, run every reader on each, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--picks", type=int, default=1_000_000)
    parser.add_argument("--micrographs", type=int, default=5_000)
    parser.add_argument("--containers", nargs="+", default=["npy", "csdat"], choices=["npy", "csdat"])
    parser.add_argument("--repeats", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        bare = run(BARE, Path(folder))["peak_mb"]
        print(f"{options.picks:,} particles; a bare interpreter has {bare:.0f} MB")
        print(f"{'reader':34} {'container':10} {'seconds':>8} {'CPU s':>8} {'MB above bare':>14}")
        for container in options.containers:
            project = Path(folder, container)
            make = [sys.executable, __file__.replace("read_cs.py", "make_cs_project.py"), str(project), container]
            subprocess.run([*make, str(options.picks), str(options.micrographs)], check=True)
            for name, (script, containers) in READERS.items():
                if container in containers:
                    runs = [run(script, project) for _ in range(options.repeats)]
                    report(name, container, runs, options.picks, bare)


def run(script: str, project: Path) -> dict[str, float]:
    """What one process measured; nothing where the reader is not installed."""
    done = subprocess.run([sys.executable, "-c", script, str(project)], capture_output=True, text=True)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}  # type: ignore[dict-item]
    return json.loads(done.stdout.splitlines()[-1])


def report(name: str, container: str, runs: list[dict[str, float]], n_picks: int, bare: float) -> None:
    """One line of the table."""
    if any("error" in one for one in runs):
        print(f"{name:34} {container:10} {next(one['error'] for one in runs if 'error' in one)}")
        return
    if any(one["n"] != n_picks for one in runs):
        raise SystemExit(f"{name} found {runs[0]['n']} particles instead of {n_picks}")
    seconds = min(one["seconds"] for one in runs)
    cpu, peak_mb = min(one["cpu"] for one in runs), min(one["peak_mb"] for one in runs) - bare
    print(f"{name:34} {container:10} {seconds:8.2f} {cpu:8.2f} {peak_mb:14.0f}", flush=True)


if __name__ == "__main__":
    main()
