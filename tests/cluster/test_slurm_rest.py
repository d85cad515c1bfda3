"""SLURM over HTTP, against a small server that answers as slurmrestd 22.05 does."""

from __future__ import annotations

import getpass
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_rest import FakeRest, fake_rest

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution import stage_script
from cryoflow.execution.job_script import slurm_script
from cryoflow.execution.resources import GpuOption, JobRequest, MemoryOption
from cryoflow.execution.slurm import EndedJob, QueuedJob, SchedulerSilent
from cryoflow.execution.slurm_rest import RestScheduler, job_fields
from cryoflow.execution.stage_script import StageJob


@pytest.fixture
def rest() -> Iterator[FakeRest]:
    with fake_rest() as rest:
        yield rest


def scheduler(rest: FakeRest, token: str | None = None) -> RestScheduler:
    return RestScheduler(rest.address, "v0.0.38", token=lambda: token)


def test_a_jobs_options_travel_as_fields_and_its_environment_beside_the_script(rest: FakeRest, tmp_path: Path) -> None:
    rest.answers["POST", "/slurm/v0.0.38/job/submit"] = (200, {"errors": [], "job_id": 7})
    request = JobRequest('a "b"', log="/lo g/50%.log", folder="/lo g", comment="cryoflow:x", cpus=2, memory_mb=900)
    script = tmp_path / "x.sbatch"
    script.write_text(scheduler(rest).script(StageJob(request, ("true",))))
    assert scheduler(rest, "secret").submit(script, {"X": "1", "SLURM_JWT": "secret"}) == 7
    ((_, _, body, headers),) = rest.asked
    assert body["job"] == {
        "name": 'a "b"', "comment": "cryoflow:x", "standard_output": "/lo g/50%%.log", "tasks": 1, "nodes": [1, 1],
        "current_working_directory": "/lo g", "cpus_per_task": 2, "memory_per_node": 900, "open_mode": "append",
        "environment": {"X": "1"},
    }  # fmt: skip
    assert body["script"] == script.read_text()
    assert headers["X-SLURM-USER-TOKEN"] == "secret"
    assert headers["X-SLURM-USER-NAME"] == getpass.getuser()


def test_every_option_that_a_job_of_ours_may_have_is_a_field() -> None:
    full = JobRequest(
        "n", log="/l", folder="/f", comment="c", minutes=5, gpus=2, gpu_types=("a100",), partition="p", account="a",
        qos="q", constraint="c", exclude=("n1",), memory_mb=5, warn_s=30, extra=("--reservation=r", "--exclusive"),
    )  # fmt: skip
    fields = job_fields(slurm_script(full.sbatch_options()))
    assert (fields["gres"], fields["time_limit"], fields["signal"]) == ("gpu:a100:2", 5, "B:TERM@30")
    assert (fields["reservation"], fields["exclusive"]) == ("r", "true")
    for option in MemoryOption:
        job_fields(slurm_script(JobRequest("n", memory_mb=5, gpus=1, memory_option=option).sbatch_options()))
    one = JobRequest("n", gpus=1, gpu_option=GpuOption.GPUS)
    assert job_fields(slurm_script(one.sbatch_options()))["gpus"] == "1"


def test_an_option_that_slurmrestd_does_not_have_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="cannot be given --tmp"):
        job_fields("#SBATCH --tmp=5G\n")


def test_deploy_refuses_what_slurmrestd_cannot_be_given() -> None:
    from cryoflow.cluster.deployments import STAGES, job_variables
    from cryoflow.settings.load import Settings
    from cryoflow.settings.profiles import ProfileName

    stage = next(s for s in STAGES if s.resources == "small")
    site: dict[str, Any] = {"resources": {"small": {"extra_directives": ["--tmp=5G"]}}}
    bare = ProfileName.SLURM_BARE
    job_variables(stage, Settings.model_validate({"site": site}), bare)
    over_http = site | {"slurmrestd": "http://login:6820"}
    with pytest.raises(BadInput, match="--tmp"):
        job_variables(stage, Settings.model_validate({"site": over_http}), bare)


def test_the_queue_has_this_users_jobs_that_have_not_ended(rest: FakeRest) -> None:
    rest.jobs(
        {"job_id": 1, "job_state": "PENDING", "state_reason": "Priority", "comment": "cryoflow:x"},
        {"job_id": 2, "job_state": "RUNNING"},
        {"job_id": 3, "job_state": "COMPLETED", "exit_code": 0},
        {"job_id": 4, "job_state": "RUNNING", "user_name": "somebody else"},
    )
    queue = scheduler(rest).queue()
    assert queue == {
        1: QueuedJob(1, "PENDING", "Priority", "cryoflow:x"),
        2: QueuedJob(2, "RUNNING", "None", ""),
    }


@pytest.mark.parametrize(("status", "code", "signal"), [(0, 0, None), (768, 3, None), (9, 0, 9), (137 << 8, 137, None)])
def test_how_a_job_ended_is_in_the_controllers_answer(
    rest: FakeRest, status: int, code: int, signal: int | None
) -> None:
    job = {"job_id": 5, "job_state": "FAILED", "exit_code": status, "nodes": "n1", "start_time": 10, "end_time": 71}
    rest.jobs(job)
    one = scheduler(rest)
    one.queue()
    assert one.ended([5]) == {5: EndedJob(5, "FAILED", code, signal, "n1", 61)}
    rest.answers["GET", "/slurm/v0.0.38/job/5"] = (200, {"errors": [], "jobs": [job]})
    assert scheduler(rest).ended([5]) == {5: EndedJob(5, "FAILED", code, signal, "n1", 61)}


def test_a_job_that_the_controller_has_forgotten_is_read_from_the_accounting(rest: FakeRest) -> None:
    job = {"job_id": 5, "state": {"current": "TIMEOUT"}, "nodes": "n1", "time": {"elapsed": 61}}
    rest.answers["GET", "/slurmdb/v0.0.38/job/5"] = (200, {"errors": [], "jobs": [job]})
    assert scheduler(rest).ended([5, 6]) == {5: EndedJob(5, "TIMEOUT", None, None, "n1", 61)}


@pytest.mark.parametrize(
    "answer", [(500, {"errors": [{"error": "Unable to contact slurm controller"}]}), (502, b"<p>")]
)
def test_a_silent_controller_is_not_an_empty_queue_over_http(rest: FakeRest, answer: tuple[int, Any]) -> None:
    rest.answers["GET", "/slurm/v0.0.38/jobs"] = answer
    with pytest.raises(SchedulerSilent):
        scheduler(rest).queue()


def test_slurmrestd_that_is_not_there_is_named() -> None:
    with pytest.raises(SchedulerSilent, match=r"unix:/nowhere/s\.sock"):
        RestScheduler("unix:/nowhere/s.sock", "v0.0.38").queue()


def test_what_slurm_refuses_over_http_is_told_in_its_own_words(rest: FakeRest, tmp_path: Path) -> None:
    refusal = {"errors": [{"error_code": 2000, "error": "Invalid partition name specified"}]}
    rest.answers["POST", "/slurm/v0.0.38/job/submit"] = (500, refusal)
    script = tmp_path / "x.sbatch"
    script.write_text("#!/bin/bash\n")
    with pytest.raises(ToolFailed, match="Invalid partition name"):
        scheduler(rest).submit(script, {})


def test_a_job_that_ended_already_is_no_error_to_cancel_and_a_refusal_is(rest: FakeRest) -> None:
    rest.answers["DELETE", "/slurm/v0.0.38/job/7"] = (200, {"errors": []})
    scheduler(rest).cancel([7, 8])  # 8 is unknown
    assert [path for _, path, _, _ in rest.asked] == ["/slurm/v0.0.38/job/7", "/slurm/v0.0.38/job/8"]
    rest.answers["DELETE", "/slurm/v0.0.38/job/7"] = (500, {"errors": [{"error": "Access/permission denied"}]})
    with pytest.raises(ToolFailed, match="permission denied"):
        scheduler(rest).cancel([7])


def test_a_job_that_slurm_starts_again_by_itself_ends_at_once() -> None:
    text = RestScheduler("http://x", "v0.0.38").script(StageJob(JobRequest("x"), ("true",)))
    assert text.index("SLURM_RESTART_COUNT") < text.index("trap")
    assert stage_script.script(StageJob(JobRequest("x"), ("true",))).partition("\n\n")[0] in text
