"""A real slurmrestd of the real SLURM: submitted, listed, ended and cancelled without any command of SLURM."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryoflow.execution import stage_script
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm_rest import RestScheduler
from cryoflow.execution.stage_script import StageJob

pytestmark = [pytest.mark.slurmrestd]


@pytest.fixture
def rest(tmp_path: Path) -> Iterator[RestScheduler]:
    # root's jobs are tried here; slurmrestd itself prefers an account of its own
    environment = os.environ | {"SLURMRESTD_SECURITY": "disable_user_check"}
    address = f"unix:{tmp_path / 's.sock'}"
    argv = ["slurmrestd", "-a", "rest_auth/local", "-s", "openapi/v0.0.38,openapi/dbv0.0.38", address]
    with subprocess.Popen(argv, env=environment) as process:
        try:
            while not (tmp_path / "s.sock").exists():
                assert process.poll() is None
                time.sleep(0.05)
            yield RestScheduler(address, "v0.0.38")
        finally:
            process.terminate()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.3)


def test_jobs_are_submitted_listed_ended_and_cancelled_over_http(rest: RestScheduler, tmp_path: Path) -> None:
    def submit(command: str) -> tuple[int, str, Path]:
        name = str(uuid.uuid4())
        log = tmp_path / f"50% of 'it'.{name}.log"
        request = JobRequest('a "b"', str(log), str(tmp_path), f"cryoflow:{name}", memory_mb=100, minutes=3)
        job = StageJob(request, ("bash", "-c", command), environment={"X": "y z"})
        script = tmp_path / f"{name}.sbatch"
        script.write_text(rest.script(job))
        return rest.submit(script, stage_script.environment(job, os.environ)), name, log

    failing, _, log = submit('echo "sees $X in $SLURM_JOB_ID"; exit 3')
    holding, name, _ = submit("sleep 600")
    until(lambda: holding in rest.queue() and rest.queue()[holding].state == "RUNNING")
    assert rest.queue()[holding].comment == f"cryoflow:{name}"
    until(lambda: failing not in rest.queue())
    (end,) = rest.ended([failing]).values()
    assert (end.state, end.exit_code, end.signal) == ("FAILED", 3, None)
    assert end.nodes
    assert f"sees y z in {failing}" in log.read_text()
    rest.cancel([holding])
    until(lambda: holding not in rest.queue())
    rest.cancel([holding, 10**7])
    assert rest.ended([holding])[holding].state == "CANCELLED"
