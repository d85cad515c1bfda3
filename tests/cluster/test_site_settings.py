"""Settings of a site reach what they are for: the job's script, its environment, and the worker."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from slurm_folder import FakeSlurm

from cryoflow.execution.slurm import Scheduler
from cryoflow.settings.load import load_settings
from cryoflow.settings.profiles import ProfileName

TOML = """
[site]
memory = "per-cpu"
gpu_option = "gpus"
leave_out = ["chdir", "nodes"]
server_patience_minutes = 7
cpu_image = "/images/cpu.sif"
apptainer_options = ["--userns"]
setup = "module load apptainer"
scratch = "/fast"
pickers.topaz.programs = "/opt/topaz/bin"
resources.gpu = {cpus = 4, memory_gb = 32, gpus = 2, gpu_type = ["h100", "a100"], warn_seconds = 90}
"""


def script_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, dict[str, str]]:
    """The script of the unpicker's training at the site of `TOML`, and what sbatch is started with."""
    from cryoflow.cluster.deployments import STAGES, job_variables
    from cryoflow.cluster.job import SlurmJobConfiguration
    from cryoflow.execution.stage_script import environment, script

    file = tmp_path / "cryoflow.toml"
    file.write_text(TOML)
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    (training,) = [s for s in STAGES if s.entrypoint.endswith(":train_unpicker")]
    values = job_variables(training, load_settings().settings, ProfileName.SLURM)
    job = SlurmJobConfiguration.model_validate(values).stage_job(name="a", flow_run_id="1", log=Path("/logs/a.log"))
    return script(job), environment(job, {})


def test_properties_of_a_cluster_reach_the_script_of_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, environment = script_of_training(tmp_path, monkeypatch)
    directives = [shlex.split(line)[1] for line in text.splitlines() if line.startswith("#SBATCH ")]
    options = dict(directive[2:].partition("=")[::2] for directive in directives)
    assert options["mem-per-cpu"] == "8192M"
    assert options["gpus"] == "2"
    assert options["constraint"] == "h100|a100"
    assert options["signal"] == "B:TERM@90"
    assert not options.keys() & {"chdir", "nodes", "mem", "gres"}
    assert "module load apptainer" in text
    assert "--userns" in text
    assert "source=/opt/topaz/bin,destination=/opt/topaz/bin" in text
    assert "where=/fast" in text
    assert environment["APPTAINERENV_CRYOFLOW_SERVER_PATIENCE_MINUTES"] == "7"


def test_the_worker_polls_as_often_as_the_site_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.cluster.slurm_worker import SlurmWorker

    monkeypatch.delenv("CRYOFLOW_SLURM_POLL_SECONDS", raising=False)
    monkeypatch.setenv("CRYOFLOW_SITE", '{"poll_seconds": 30, "lost_after_seconds": 90, "attempts": 5}')
    worker = SlurmWorker(work_pool_name="hpc")
    assert (worker.poll_s, worker.poller.lost_after_s, worker.attempts) == (30, 90, 5)
    assert isinstance(worker.scheduler, Scheduler)
    assert worker.scheduler.min_interval_s == 30  # whoever asks: recovery and submissions read the queue, too


def test_two_calls_of_squeue_are_an_interval_apart(fake_slurm: FakeSlurm) -> None:
    scheduler = Scheduler(min_interval_s=2.0)
    scheduler.queue()
    fake_slurm.set(101, state="RUNNING")
    assert 101 in scheduler.queue()
    first, second = fake_slurm.starts_s("squeue")
    assert second - first > 1.0  # half of it: the interval begins a little before the first process does


def test_the_image_of_a_picker_is_a_setting_of_the_site(monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.pickers.parameters import TrainAndPickParameters
    from cryoflow.pickers.stages import executor_of

    monkeypatch.setenv("CRYOFLOW_SITE", '{"pickers": {"topaz": {"container": "apptainer", "image": "/t.sif"}}}')
    form = TrainAndPickParameters(picker="topaz", database=Path("/d"), output=Path("/o"), to_pick=("*",))
    assert (executor_of(form).container, executor_of(form).image) == ("apptainer", "/t.sif")
