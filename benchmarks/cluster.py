"""What the SLURM worker costs, on a cluster of any size: idle with many jobs queued, and many short jobs to their end.

    python benchmarks/cluster.py [--queued 200] [--shards 100] [--image cryoflow-cpu.sif]
    python benchmarks/cluster.py --at-once 500 [--pack 8]
    python benchmarks/cluster.py --cancel 100

Starts a PostgreSQL, a Prefect server and a worker of its own and submits to the cluster that `squeue` talks to. Stages
are stubs that report Running and Completed. With an image, the start of real stages in it is measured too, beside two
bare `import prefect` in the same image. Prints one line a figure.

With --at-once a parent starts so many shards, all at the same time, as a pipeline does, and waits for their end; with
--pack so many of them share a job. With --cancel so many runs are cancelled at once, as many at work as the
cluster takes and the others queued, and the end of each is waited for, and that of its job.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from uuid import UUID

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "cluster"))

from pydantic import BaseModel
from real_site import FLOWS, RealSite, postgres

CANCELLED = {"flow_runs": {"state": {"type": {"any_": ["CANCELLED"]}}}}
TICK_HZ = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of its children that have ended (squeue, sbatch)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system, child_user, child_system = (int(f) / TICK_HZ for f in fields[11:15])
    return user + system, child_user + child_system


def queue_length() -> int:
    return len(subprocess.run(["squeue", "-h"], capture_output=True, text=True, check=True).stdout.splitlines())


def start_up(image: Path, starts: int = 7) -> None:
    """From the first line of a job to the first line of its flow, against importing Prefect twice in the image.

    Each start stands beside two imports of its own, taken right before it: other work on the machine is then in both.
    """
    bare = ["apptainer", "exec", "--cleanenv", str(image), "python", "-c", "import prefect"]
    subprocess.run(bare, check=True)  # warm
    pairs: list[tuple[float, float]] = []
    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        site = RealSite(Path(folder), database=database)
        try:
            site.start_server()
            values = {"image": str(image), "read_only": [str(FLOWS)], "env": {"PYTHONPATH": str(FLOWS)}}
            site.set_up(memory_gb=1.5, **values)
            site.start_worker()
            for _ in range(starts):
                before = time.monotonic()
                for _ in range(2):
                    subprocess.run(bare, check=True)
                twice_s = time.monotonic() - before
                run = site.until(site.launch(), lambda run: run.state.is_final(), within_s=300)
                began = re.search(r"on \S+, (\S+ \S+)", Path(run.labels["slurm.log"]).read_text())
                assert began is not None
                first = datetime.strptime(began[1], "%Y-%m-%d %H:%M:%S")
                pairs.append(((run.start_time.astimezone().replace(tzinfo=None) - first).total_seconds(), twice_s))
        finally:
            site.close()
    ratios = sorted(start_s / twice_s for start_s, twice_s in pairs)
    median_s, median_twice_s = (statistics.median(values) for values in zip(*pairs, strict=True))
    print(
        f"the start of a stage: {median_s:.1f} s; two imports of Prefect in its image: {median_twice_s:.1f} s (medians)"
    )
    print("each start over the two imports before it:", ", ".join(f"{ratio:.2f}" for ratio in ratios))


class Number(BaseModel):
    number: int


def controller_s() -> float:
    """CPU seconds that slurmctld has used so far; 0 where it runs on another machine."""
    processes = (p for p in Path("/proc").glob("[0-9]*/comm") if p.read_text().strip() == "slurmctld")
    return sum(cpu_s(int(p.parent.name))[0] for p in processes)


def all_at_once(n: int, pack: int) -> None:
    """Start shards all at the same time, as a pipeline does, and count what became of each."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from cryoflow.cluster.dispatch import Work, run_shards

    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "cryoflow.toml"
        file.write_text(f"[site]\nshards_at_once = {-(-n // pack)}\n")
        os.environ |= {"CRYOFLOW_CONFIG": str(file), "CRYOFLOW_PROFILE": "slurm"}
        site = RealSite(Path(folder), database=database)
        try:
            site.start_server()
            stub = f"{sys.executable} {FLOWS / 'stub_engine.py'}"
            site.set_up(name="stage (slurm)", command=stub, memory_gb=0.1, pack=pack)
            site.start_worker()
            assert site.worker is not None
            controller, start = controller_s(), time.monotonic()
            with temporary_settings({PREFECT_API_URL: site.environment["PREFECT_API_URL"]}):
                done = run_shards("stage", [Work(f"shard {i}", Number(number=i)) for i in range(n)])
            took_s = time.monotonic() - start
            own, children = cpu_s(site.worker.pid)
            used = controller_s() - controller
        finally:
            site.close()
    jobs = sorted({d.slurm_job for d in done})
    sacct = ["sacct", "-nPX", "-j", ",".join(jobs), "-o", "State"]
    states = subprocess.run(sacct, capture_output=True, text=True, check=True).stdout.split()
    ends = Counter(d.state for d in done)
    print(f"{n} shards at once, {pack} a job: {dict(ends)}, jobs {dict(Counter(states))}, in {took_s:.0f} s")
    print(f"attempts: {dict(Counter(d.attempts for d in done))}; {60 * n / took_s:.0f} shards a minute")
    print(f"CPU seconds: slurmctld {used:.1f}, worker {own:.1f}, its sbatch, squeue and sacct {children:.1f}")


async def ask_for_the_end_of(runs: Sequence[UUID]) -> None:
    """Cancel runs, six at a time: so many requests a browser has under way."""
    from prefect.client.orchestration import get_client
    from prefect.states import Cancelling

    at_once = asyncio.Semaphore(6)
    async with get_client() as client:

        async def ask(run_id: UUID) -> None:
            async with at_once:
                await client.set_flow_run_state(run_id, Cancelling())

        await asyncio.gather(*map(ask, runs))


def cancel_at_once(n: int) -> None:
    """Cancel runs that work or wait, all at once as the page does, and time their end."""
    from prefect.client.schemas.objects import StateType
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        site = RealSite(Path(folder), database=database)
        try:
            site.start_server()
            stub = f"{sys.executable} {FLOWS / 'stub_engine.py'}"
            site.set_up(command=stub, memory_gb=0.1, time_minutes=60, env={"STUB_SECONDS": "3600"})
            site.start_worker()
            assert site.worker is not None
            runs = [site.launch() for _ in range(n)]
            for run_id in runs:
                site.until(run_id, lambda run: bool(run.infrastructure_pid), within_s=900)
            assert site.server is not None
            (own, children), (of_server, _) = cpu_s(site.worker.pid), cpu_s(site.server.pid)
            load, start = os.getloadavg()[0], time.monotonic()
            with temporary_settings({PREFECT_API_URL: site.environment["PREFECT_API_URL"]}):
                asyncio.run(ask_for_the_end_of(runs))
            asked_s = time.monotonic() - start
            half_s = now = 0.0
            with site.client() as client:
                while (ended := client._client.post("/flow_runs/count", json=CANCELLED).json()) < n:
                    now = time.monotonic() - start
                    half_s = half_s if ended >= n / 2 else now
                    assert now < 900, Counter(client.read_flow_run(run_id).state for run_id in runs)
                    time.sleep(1)
                all_s = time.monotonic() - start
                assert {client.read_flow_run(run_id).state.type for run_id in runs} == {StateType.CANCELLED}
            while queue_length():
                time.sleep(0.2)
            out_s = time.monotonic() - start
            (own2, children2), (of_server2, _) = cpu_s(site.worker.pid), cpu_s(site.server.pid)
        finally:
            site.close()
    print(f"{n} cancels, load {load:.1f}: accepted in {asked_s:.1f} s, all Cancelled in {all_s:.1f} s")
    print(f"half of them in {half_s:.1f} s; queue empty by {out_s:.1f} s")
    spent = {"the server": of_server2 - of_server, "the worker": own2 - own, "SLURM's programs": children2 - children}
    print("CPU seconds of", ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queued", type=int, default=200)
    parser.add_argument("--shards", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to watch the idle worker")
    parser.add_argument("--image", type=Path, help="measure the start of stages in this image")
    parser.add_argument("--at-once", type=int, help="start so many shards at the same time, and nothing else")
    parser.add_argument("--pack", type=int, default=1, help="so many of them share a job")
    parser.add_argument("--cancel", type=int, help="cancel so many runs at once, and nothing else")
    options = parser.parse_args()
    if options.cancel:
        cancel_at_once(options.cancel)
        return
    if options.at_once:
        all_at_once(options.at_once, options.pack)
        return
    if options.image:
        start_up(options.image)
    queued: list[UUID] = []
    with postgres() as database, tempfile.TemporaryDirectory() as folder:
        site = RealSite(Path(folder), database=database)
        try:
            site.start_server()
            site.set_up(command=f"{sys.executable} {FLOWS / 'stub_engine.py'}", memory_gb=0.1)
            site.start_worker()
            assert site.worker is not None

            start = time.monotonic()
            shards = [site.launch() for _ in range(options.shards)]
            for run_id in shards:
                site.until(run_id, lambda run: run.state.is_final(), within_s=900)
            print(f"{options.shards} jobs from the first request to the last end: {time.monotonic() - start:.0f} s")

            before = queue_length()
            start = time.monotonic()
            queued = [site.launch({"extra_directives": ["--begin=now+1hour"]}) for _ in range(options.queued)]
            while queue_length() < before + options.queued:
                time.sleep(1)
            took = time.monotonic() - start
            print(f"{options.queued} jobs queued in {took:.0f} s: {took / options.queued:.2f} s each")
            time.sleep(15)
            own, children = cpu_s(site.worker.pid)
            time.sleep(options.seconds)
            own2, children2 = cpu_s(site.worker.pid)
            for name, used in (("worker itself", own2 - own), ("its squeue calls", children2 - children)):
                print(f"idle with {options.queued} jobs queued, {name}: {100 * used / options.seconds:.2f} % of a core")
            memory = Path(f"/proc/{site.worker.pid}/status").read_text()
            print("worker's memory:", next(line.split()[1] for line in memory.splitlines() if "VmRSS" in line), "kB")
        finally:
            with site.client() as client:
                jobs = [client.read_flow_run(run_id).infrastructure_pid for run_id in queued]
            site.close()
            subprocess.run(["scancel", "--quiet", *filter(None, jobs)], check=False)


if __name__ == "__main__":
    main()
