"""Packs on the real SLURM: members that end well, die for memory, or are cancelled, in one job."""

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
    pack: dict[str, Any] = {"pack": 4, "pack_at_once": 2, "memory_gb": 0.6, "cpus": 1}
    cancelled, failing, held, last = [
        site.launch(pack, **what)
        for what in ({"hold": str(hold)}, {"fail": "x.star is broken"}, {"hold": str(hold)}, {})
    ]
    runs = {run_id: site.until(run_id, is_running) for run_id in (cancelled, held)}
    site.set_state(cancelled, Cancelling())
    site.until(cancelled, lambda run: run.state.name == "Cancelled")
    assert "x.star is broken" in site.until(failing, has_ended).state.message
    hold.unlink()
    ended = {run_id: site.until(run_id, has_ended) for run_id in (held, last)}
    assert {run.state.name for run in ended.values()} == {"Completed"}
    jobs = {run.infrastructure_pid for run in (*runs.values(), *ended.values())}
    assert len(jobs) == 1
    record = subprocess.run(
        ["sacct", "-nPX", "-j", *jobs, "-o", "AllocCPUS"], capture_output=True, text=True, check=True
    )
    assert record.stdout.strip() == "2"
    for run in ended.values():
        log = Path(run.labels["slurm.log"]).read_text()
        assert log.startswith(f"cryoflow: job {run.infrastructure_pid} on ")
