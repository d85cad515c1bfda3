"""Run shards of a stage as jobs of their own; the stage itself then gathers their results.

`cryoflow.shards` cuts the work and finds what is done. A shard's result is complete or absent, so the gathering stage
repeats failed shards, and a second run does only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cryoflow.cluster.dispatch import Done, Work, dispatches, run_shards
from flows.run_page import show_table, shown_progress


def run_remaining(stage: str, remaining: Iterable[tuple[int, Work]], n_a_job: int) -> tuple[Done, ...]:
    """Run what is left of a stage as jobs at the same time, unless stages run in this process or one job is enough.

    Parameters
    ----------
    stage
        Name of the flow of one job.
    remaining
        Size of each job and the job; read only where stages are jobs.
    n_a_job
        Size up to which the gathering stage does all that is left.
    """
    if not dispatches():
        return ()
    jobs = list(remaining)
    if len(jobs) < 2 or sum(size for size, _ in jobs) <= n_a_job:
        return ()
    return run_jobs(stage, [work for _, work in jobs])


def run_jobs(stage: str, works: Sequence[Work]) -> tuple[Done, ...]:
    """Run shards as jobs, show how many are done, and show a table of how each ended."""
    count = 0
    with shown_progress(f"{stage} shards", f"shards of {stage}") as report:

        def note(_done: Done) -> None:
            nonlocal count
            count += 1
            report(count, len(works))

        done = run_shards(stage, works, on_done=note)
    failed = sum(not d.succeeded for d in done)
    show_table(f"{stage} shards", done, f"{len(done)} shards of {stage}, {failed} failed")
    return done
