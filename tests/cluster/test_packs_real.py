"""Packs on the real SLURM: members that end well, fail, or are cancelled, in one job."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from real_site import RealSite, has_ended, is_running

pytestmark = [pytest.mark.slurm]


def test_members_of_one_job_end_each_in_its_own_way(site: RealSite, tmp_path: Path) -> None:
    from prefect.states import Cancelling

    hold = tmp_path / "hold"
    hold.touch()
    pack: dict[str, Any] = {"pack": 3, "pack_at_once": 2, "memory_gb": 0.6, "cpus": 1}
    cancelled = site.launch(pack, hold=str(hold))
    site.until(cancelled, lambda run: run.state.is_pending())  # it is the first member: the last one follows it
    failing, last = site.launch(pack, fail="x.star is broken"), site.launch(pack)
    jobs = {site.until(cancelled, is_running).infrastructure_pid}
    site.set_state(cancelled, Cancelling())
    site.until(cancelled, lambda run: run.state.name == "Cancelled")
    ended = [site.until(run_id, has_ended) for run_id in (failing, last)]
    assert [run.state.name for run in ended] == ["Failed", "Completed"]
    assert "x.star is broken" in ended[0].state.message
    jobs |= {run.infrastructure_pid for run in ended}
    assert len(jobs) == 1
    sacct = ["sacct", "-nPX", "-j", *jobs, "-o", "AllocCPUS"]
    assert subprocess.run(sacct, capture_output=True, text=True, check=True).stdout.strip() == "2"
    for run in ended:
        log = Path(run.labels["slurm.log"]).read_text()
        assert log.startswith(f"cryoflow: job {run.infrastructure_pid} on ")
