"""What a crawl costs beside `find` over the same tree.

    python benchmarks/crawl.py --files 1000000 --projects 200

Writes a tree of that many empty files into a temporary folder: labs, years, CryoSPARC projects with job folders that
hold most of the files, and folders of raw movies that are no projects. Then `find TREE -name project.json` and
`cryoflow.projects.crawl.crawl` (and, on a line of its own, the listing of all jobs) run in turn, each in a process of
its own; the best of the repeats counts. The seconds of `find` include its start; those of the crawl leave out Python's.
The folders are in the page cache for both.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CRAWL = """
import json, sys, time
from cryoflow.projects.crawl import crawl, jobs_of
import cryoflow.projects.cryosparc, cryoflow.projects.relion
start, cpu = time.perf_counter(), time.process_time()
projects = crawl(sys.argv[1]).projects
crawled, crawled_cpu = time.perf_counter() - start, time.process_time() - cpu
jobs = jobs_of(projects).jobs
print(json.dumps([
    len(projects), crawled, crawled_cpu, len(jobs), time.perf_counter() - start, time.process_time() - cpu
]))
"""
JOB = {"uid": "J1", "job_type": "patch_motion_correction_multi", "status": "completed", "version": "v4.4.1"}


def main() -> None:
    """Write the tree, time both, print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--projects", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=10, help="jobs a project")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where to write; a temporary folder by default")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        tree = Path(folder)
        n_files = write_tree(tree, options.files, options.projects, options.jobs)
        print(f"{n_files:,} files, {options.projects} projects of {options.jobs} jobs")
        finds = [timed(["find", str(tree), "-name", "project.json"]) for _ in range(options.repeats)]
        crawls = [json.loads(output(CRAWL, tree)) for _ in range(options.repeats)]
        n_projects, _, _, n_jobs, _, _ = crawls[0]
        if n_projects != options.projects:
            raise SystemExit(f"found {n_projects} projects instead of {options.projects}")
        told = (
            ("find", min(finds)[0], min(one[1] for one in finds), ""),
            ("crawl", *(min(one[i] for one in crawls) for i in (1, 2)), f"{n_projects} projects"),
            ("crawl and listing the jobs", *(min(one[i] for one in crawls) for i in (4, 5)), f"{n_jobs} jobs"),
        )
        print(f"{'':26} {'seconds':>8} {'CPU s':>8}")
        for what, seconds, cpu, found in told:
            print(f"{what:26} {seconds:8.2f} {cpu:8.2f}   {found}")


def write_tree(tree: Path, n_files: int, n_projects: int, n_jobs: int) -> int:
    """Three quarters of the files lie in job folders, a quarter in folders of movies outside projects."""
    n_each = n_files * 3 // 4 // (n_projects * n_jobs)
    written = 0
    for p in range(n_projects):
        project = tree / f"lab{p % 20:02d}" / f"{2015 + p % 10}" / f"CS-project-{p}"
        for j in range(1, n_jobs + 1):
            images = project / f"J{j}" / "motioncorrected"
            images.mkdir(parents=True)
            (project / f"J{j}" / "job.json").write_text(json.dumps({**JOB, "uid": f"J{j}"}))
            for i in range(n_each):
                (images / f"{i:021d}_movie_patch_aligned_doseweighted.mrc").touch()
            written += n_each + 1
        (project / "project.json").write_text(json.dumps({"uid": f"P{p}"}))
        (project / "job_manifest.json").write_text(json.dumps({"jobs": [f"J{j}" for j in range(1, n_jobs + 1)]}))
        written += 2
    for m in range(100):
        movies = tree / "raw" / f"session{m:03d}" / "GridSquare_1" / "Data"
        movies.mkdir(parents=True)
        for i in range(n_files // 4 // 100):
            (movies / f"FoilHole_{i:06d}_fractions.tiff").touch()
        written += n_files // 4 // 100
    return written


def timed(argv: list[str]) -> tuple[float, float]:
    """Seconds that a program takes by the clock, and of the processor."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def output(script: str, tree: Path) -> str:
    """What a Python process of its own prints."""
    return subprocess.run([sys.executable, "-c", script, str(tree)], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
