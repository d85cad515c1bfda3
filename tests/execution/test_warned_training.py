"""A training that is told to stop before its time limit comes, in another job, to the result of a whole one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cryoflow.cluster.exit_reason import ExitReason, exit_reason_of
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import EndedJob
from cryoflow.execution.stage_script import StageJob, script
from cryoflow.unpicker.bundle import ModelBundle

PROGRAM = Path(__file__).with_name("small_training.py")


def job(folder: Path, number: int, *models: str) -> subprocess.Popen[str]:
    """Start the job script of a training, as SLURM does."""
    text = script(StageJob(JobRequest("train", warn_s=60), (sys.executable, str(PROGRAM), str(folder), *models)))
    environment = dict(os.environ) | {"SLURM_JOB_ID": str(number), "TMPDIR": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    with (folder / f"{number}.log").open("w") as log:
        return subprocess.Popen(["bash", "-c", text], env=environment, stdout=log, stderr=log, text=True)


@pytest.mark.slow
def test_a_training_that_was_warned_before_its_time_limit_ends_in_another_job_at_the_same_model(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    warned = job(tmp_path, 1, "warned")
    end = time.monotonic() + 400
    while not (tmp_path / "held").exists():
        assert warned.poll() is None, (tmp_path / "1.log").read_text()
        assert time.monotonic() < end
        time.sleep(0.1)
    warned.send_signal(signal.SIGTERM)  # as SLURM: to the shell alone
    status = warned.wait(60)
    assert exit_reason_of(EndedJob(1, "FAILED", status)) == ExitReason.WARNED  # the worker submits it again
    assert not (tmp_path / "warned" / "bundle.json").exists()
    (tmp_path / "hold").unlink()
    again = job(tmp_path, 2, "warned", "whole")
    log = tmp_path / "2.log"
    assert again.wait(400) == 0, log.read_text()
    steps = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("step ")]
    assert steps[0] == 8, "it goes on behind the epoch that was done"
    assert steps.count(21) == 2
    models = [ModelBundle.load(tmp_path / name) for name in ("warned", "whole")]
    assert models[0].fingerprint == models[1].fingerprint
    assert models[0].threshold == pytest.approx(models[1].threshold, abs=1e-3)
    for name, value in models[1].weights.items():
        np.testing.assert_allclose(models[0].weights[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
