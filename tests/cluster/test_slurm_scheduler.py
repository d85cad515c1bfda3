"""What SLURM's commands print becomes small types, and their failures stay failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prefect.client.schemas.objects import StateType
from slurm_folder import FakeSlurm

from cryoflow.cluster.exit_reason import Action, ExitReason, action, exit_reason_of, explain, tail
from cryoflow.errors import ToolFailed
from cryoflow.execution.slurm import (
    EndedJob,
    QueuedJob,
    Scheduler,
    SchedulerSilent,
    parse_accounts,
    parse_job,
    parse_queue,
)


def test_a_job_number_is_found_among_a_sites_greetings(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    script = tmp_path / "a job.sbatch"
    script.write_text("#SBATCH --comment=cryoflow:1\n#SBATCH --output=/x\n")
    assert Scheduler().submit(script, os.environ) == 100


def test_what_sbatch_refuses_is_told_in_its_own_words(fake_slurm: FakeSlurm, tmp_path: Path) -> None:
    fake_slurm.flag("next-sbatch", "invalid partition specified: gpuu")
    with pytest.raises(ToolFailed, match="invalid partition specified: gpuu"):
        Scheduler().submit(tmp_path / "x.sbatch", os.environ)


def test_a_silent_controller_is_not_an_empty_queue(fake_slurm: FakeSlurm) -> None:
    fake_slurm.flag("silent")
    with pytest.raises(SchedulerSilent):
        Scheduler().queue()


@pytest.mark.parametrize("accounting", [True, False])
def test_ended_jobs_are_read_from_accounting_or_from_the_controller(fake_slurm: FakeSlurm, accounting: bool) -> None:
    if not accounting:
        fake_slurm.flag("no-sacct")
    fake_slurm.set(101, state="COMPLETED")
    fake_slurm.set(102, state="FAILED", exit="0:9", comment="cryoflow:x JobState=RUNNING")
    fake_slurm.set(103, state="RUNNING")
    ended = Scheduler().ended([101, 102, 103, 104])
    assert ended == {
        101: EndedJob(101, "COMPLETED", 0, None, "node1", 61),
        102: EndedJob(102, "FAILED", 0, 9, "node1", 61),
    }
    assert len(fake_slurm.calls("sacct")) == 1


def test_a_record_that_lags_behind_is_no_end() -> None:
    assert parse_accounts("7|RUNNING|0:0|cpu1|5\n7.batch|COMPLETED|0:0|cpu1|5\n") == {}


def test_a_state_that_says_who_cancelled_is_read() -> None:
    assert parse_accounts("7|CANCELLED by 1000|0:0|cpu1|5\n")[7].state == "CANCELLED"


def test_what_a_signal_ended_in_a_jobs_shell_is_known_although_sacct_takes_128_from_its_status() -> None:
    jobs = parse_accounts("7|FAILED|15:0|cpu1|5\n8|FAILED|9:0|cpu1|5\n9|FAILED|79:0|cpu1|5\n10|FAILED|0:15|cpu1|5\n")
    assert [(job.exit_code, job.signal) for job in jobs.values()] == [(143, None), (137, None), (79, None), (0, 15)]


@pytest.mark.parametrize(
    ("nodes", "elapsed", "never"), [("None assigned", 0, True), ("cpu1", 0, False), ("cpu1", 5, False)]
)
def test_a_job_that_was_cancelled_while_it_waited_has_no_nodes(nodes: str, elapsed: int, never: bool) -> None:
    job = parse_accounts(f"7|CANCELLED by 1000|0:0|{nodes}|{elapsed}\n")[7]
    assert (job.never_started, job.nodes) == (never, "" if never else "cpu1")
    assert not parse_accounts(f"7|COMPLETED|0:0|{nodes}|{elapsed}\n")[7].never_started


def test_the_queue_is_read_whatever_the_comment_holds() -> None:
    printed = "7|RUNNING|None|cryoflow:abc\n8|PENDING|Priority|a|b\n9|PENDING|None|(null)\nslurm_load_jobs: note\n"
    assert parse_queue(printed) == {
        7: QueuedJob(7, "RUNNING", "None", "cryoflow:abc"),
        8: QueuedJob(8, "PENDING", "Priority", "a|b"),
        9: QueuedJob(9, "PENDING", "None", ""),
    }


def test_a_real_line_of_scontrol_is_read() -> None:
    line = (
        "JobId=1 JobName=name with 'quote\" x UserId=root(0) Priority=4294901759 JobState=TIMEOUT Reason=TimeLimit "
        "Requeue=0 ExitCode=0:15 RunTime=1-00:01:29 TimeLimit=00:01:00 NodeList=cpu[1-2] BatchHost=cpu1 "
        "Comment=cryoflow:x  StdErr=/a b JobState=RUNNING"
    )
    assert parse_job(line) == EndedJob(1, "TIMEOUT", 0, 15, "cpu[1-2]", 86489)
    assert parse_job("JobId=1 JobState=RUNNING ExitCode=0:0 RunTime=00:00:01 NodeList=a") is None
    assert parse_job("slurm_load_jobs error: Invalid job id specified") is None


def test_cancelling_a_job_that_slurm_has_forgotten_is_no_error_and_ends_the_others(fake_slurm: FakeSlurm) -> None:
    fake_slurm.set(100, state="COMPLETED", purged=True)
    fake_slurm.set(101, state="RUNNING")
    Scheduler().cancel([100, 101])
    assert fake_slurm.job(101)["state"] == "CANCELLED"
    fake_slurm.flag("silent")
    with pytest.raises(ToolFailed, match="Unable to contact"):
        Scheduler().cancel([101])


def test_cancel_is_one_call_for_all_jobs_and_none_for_none(fake_slurm: FakeSlurm) -> None:
    Scheduler().cancel([])
    assert fake_slurm.calls("scancel") == []
    Scheduler().cancel([101, 100])
    assert fake_slurm.calls("scancel") == ["scancel --quiet 100 101"]


@pytest.mark.parametrize(
    ("job", "end"),
    [
        (EndedJob(1, "COMPLETED", 0), ExitReason.DONE),
        (EndedJob(1, "FAILED", 1), ExitReason.DONE),
        (EndedJob(1, "OUT_OF_MEMORY", 0, 125), ExitReason.MEMORY),
        (EndedJob(1, "FAILED", 0, 9), ExitReason.MEMORY),
        (EndedJob(1, "FAILED", 137), ExitReason.MEMORY),
        (EndedJob(1, "CANCELLED", 0, 9), ExitReason.CANCELLED),
        (EndedJob(1, "TIMEOUT", 0, 15), ExitReason.TIME),
        (EndedJob(1, "NODE_FAIL"), ExitReason.NODE),
        (EndedJob(1, "PREEMPTED"), ExitReason.PREEMPTED),
        (EndedJob(1, "UNKNOWN"), ExitReason.LOST),
        (EndedJob(1, "FAILED", 143), ExitReason.NODE),
        (EndedJob(1, "FAILED", 0, 15), ExitReason.NODE),
        (EndedJob(1, "FAILED", 75), ExitReason.SERVER),
    ],
)
def test_how_a_job_ended_decides_what_a_second_attempt_could_cure(job: EndedJob, end: ExitReason) -> None:
    assert exit_reason_of(job) == end


@pytest.mark.parametrize(
    ("state", "end", "cancelled", "expected"),
    [
        (StateType.COMPLETED, ExitReason.DONE, False, Action.KEEP),
        (StateType.COMPLETED, ExitReason.TIME, False, Action.KEEP),
        (StateType.FAILED, ExitReason.DONE, False, Action.KEEP),
        (StateType.SCHEDULED, ExitReason.DONE, False, Action.KEEP),
        (StateType.PAUSED, ExitReason.DONE, False, Action.KEEP),
        (StateType.RUNNING, ExitReason.DONE, False, Action.CRASH),
        (StateType.RUNNING, ExitReason.MEMORY, False, Action.CRASH),
        (StateType.PENDING, ExitReason.LOST, False, Action.CRASH),
        (StateType.CRASHED, ExitReason.TIME, False, Action.CRASH),
        (StateType.CRASHED, ExitReason.DONE, False, Action.KEEP),
        (StateType.CANCELLING, ExitReason.CANCELLED, False, Action.CANCEL),
        (StateType.CRASHED, ExitReason.CANCELLED, True, Action.CANCEL),
        (StateType.CRASHED, ExitReason.CANCELLED, False, Action.CRASH),
        (StateType.COMPLETED, ExitReason.CANCELLED, True, Action.KEEP),
        (StateType.CANCELLED, ExitReason.CANCELLED, True, Action.KEEP),
        (None, ExitReason.DONE, False, Action.KEEP),
    ],
)
def test_a_run_keeps_what_its_engine_reported_unless_slurm_knows_better(
    state: StateType | None, end: ExitReason, cancelled: bool, expected: Action
) -> None:
    assert action(state, end, cancelled=cancelled) == expected


def test_the_reason_names_job_state_node_time_and_what_to_do() -> None:
    text = explain(EndedJob(7, "OUT_OF_MEMORY", 0, 125, "cpu1", 3661))
    assert text.startswith("SLURM job 7 ended OUT_OF_MEMORY on cpu1 after 1:01:01.")
    assert "memory_gb" in text
    assert "exit code 3" in explain(EndedJob(7, "FAILED", 3))
    assert "server reachable" in explain(EndedJob(7, "COMPLETED", 0))
    assert "None" not in explain(EndedJob(7, "UNKNOWN"))


def test_the_tail_is_the_end_of_a_log_or_says_why_there_is_none(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    assert "cannot be read" in tail(log)
    log.write_bytes(b"")
    assert "is empty" in tail(log)
    log.write_bytes(b"".join(b"line %d \xff\n" % i for i in range(1000)))
    lines = tail(log).splitlines()
    assert (len(lines), lines[-2:]) == (40, ["line 998 \ufffd", "line 999 \ufffd"])
