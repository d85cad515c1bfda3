"""A hundred shards on three nodes, with PostgreSQL: none is lost, none is stuck, none is run twice."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from pydantic import BaseModel
from real_site import FLOWS, RealSite, postgres

pytestmark = [pytest.mark.slurm]
N = 100


class Number(BaseModel):
    number: int


def states_once_ended(jobs: set[str]) -> list[str]:
    """State and nodes of each job in SLURM's records, once none is at work: a run says so before its job has ended."""
    words = ["sacct", "-nPX", "-j", ",".join(sorted(jobs)), "-o", "State,NodeList"]
    end = time.monotonic() + 120
    while True:
        states = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
        at_work = {s.split("|")[0] for s in states} & {"RUNNING", "COMPLETING", "PENDING"}
        if not at_work or time.monotonic() > end:
            return states
        time.sleep(1)


def test_a_hundred_shards_come_to_their_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from cryoflow.cluster import dispatch, shard_runner

    file = tmp_path / "cryoflow.toml"
    file.write_text(f"[site]\nshards_at_once = {N}\n")
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    monkeypatch.setenv("CRYOFLOW_PROFILE", "slurm")
    monkeypatch.setattr(shard_runner, "POLL_S", 2.0)
    with postgres() as database:
        if database is None:
            pytest.skip("there is no PostgreSQL server to start")
        site = RealSite(tmp_path / "site", database=database)
        site.folder.mkdir()
        try:
            site.start_server()
            stub = f"{sys.executable} {FLOWS / 'stub_engine.py'}"
            site.set_up(name="stage (slurm)", command=stub, memory_gb=0.1)
            site.start_worker()
            start = time.monotonic()
            with temporary_settings({PREFECT_API_URL: site.environment["PREFECT_API_URL"]}):
                works = [dispatch.Work(f"shard {i}", Number(number=i)) for i in range(N)]
                done = dispatch.run_shards("stage", works)
            print(f"{N} shards took {time.monotonic() - start:.0f} s")
        finally:
            site.close()
    assert [(d.name, d.state, d.message, d.slurm_job) for d in done if not d.succeeded] == []
    assert {d.attempts for d in done} == {1}
    jobs = {d.slurm_job for d in done}
    assert len(jobs) == N
    states = states_once_ended(jobs)
    assert len(states) == N
    assert {s.split("|")[0] for s in states} == {"COMPLETED"}
    assert len({s.split("|")[1] for s in states}) >= 2
