"""A stage is told to stop before its time limit; the job's exit status then asks for another job."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cryoflow.cluster.exit_reason import ExitReason, exit_reason_of
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import EndedJob
from cryoflow.execution.stage_script import WARNED, StageJob, script

STAGE = """#!/bin/bash
trap 'sleep 0.5; echo checkpoint > {folder}/checkpoint; exit {status}' TERM
touch {folder}/started
for _ in $(seq 6000); do sleep 0.1; done
"""


@contextmanager
def started_job(text: str, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a job script until its stage has started; at the end, kill what still runs."""
    environment = {"PATH": os.environ["PATH"], "SLURM_JOB_ID": "7", "TMPDIR": str(folder)}
    job = subprocess.Popen(["bash", "-c", text], env=environment, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while not (folder / "started").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        yield job
    finally:
        with suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
        job.wait()


@pytest.mark.parametrize(("status", "expected"), [(143, WARNED), (0, 0)])
def test_the_stage_gets_the_warning_and_time_to_write_a_checkpoint(tmp_path: Path, status: int, expected: int) -> None:
    stage = tmp_path / "stage"
    stage.write_text(STAGE.format(folder=tmp_path, status=status))
    stage.chmod(0o755)
    text = script(StageJob(JobRequest("a", warn_s=60), (str(stage),)))
    assert "#SBATCH --signal=B:TERM@60" in text
    with started_job(text, tmp_path) as job:
        job.send_signal(signal.SIGTERM)  # SLURM sends it to the shell alone
        assert job.wait(120) == expected
    assert (tmp_path / "checkpoint").exists()
    assert not list(tmp_path.glob("cryoflow-job-*"))


def test_a_job_that_something_outside_ends_with_sigterm_is_tried_again_as_after_a_lost_node(
    tmp_path: Path,
) -> None:
    """As when a node shuts down, or an administrator ends the step: all processes of the job get the signal."""
    stage = tmp_path / "stage"
    stage.write_text(f"#!/bin/bash\ntouch {tmp_path}/started\nexec sleep 600\n")
    stage.chmod(0o755)
    text = script(StageJob(JobRequest("a"), (str(stage),)))
    with started_job(text, tmp_path) as job:
        os.killpg(job.pid, signal.SIGTERM)
        assert job.wait(120) == 128 + signal.SIGTERM
    assert exit_reason_of(EndedJob(7, "FAILED", job.returncode)) == ExitReason.NODE
    assert not list(tmp_path.glob("cryoflow-job-*"))


def test_a_warned_job_is_followed_by_another_and_no_warning_is_sent_unless_asked_for() -> None:
    assert exit_reason_of(EndedJob(1, "FAILED", WARNED)) == ExitReason.WARNED
    assert "--signal" not in script(StageJob(JobRequest("a"), ("true",)))
