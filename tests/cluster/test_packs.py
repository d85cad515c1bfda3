"""Many stages in one job: the script under bash, and the gathering of runs. Each member has its log, end and limit."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cryoflow.cluster import packs
from cryoflow.cluster.exit_reason import ExitReason, exit_reason_of
from cryoflow.cluster.packs import CancelledRun, Gatherer, jobs_to_cancel, packed
from cryoflow.execution import pack_script, stage_script
from cryoflow.execution.pack_script import Member, cancel_member, end_of_member, pack_of, write_pack
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.stage_script import StageJob


class JobOfPack:
    """The job of a pack, run by bash; `command` of each member is a line of shell that sees its run's id."""

    def __init__(self, folder: Path, command: str, n: int, at_once: int, **request: Any) -> None:
        self.folder = folder
        self.logs = [folder / f"st age.{i}.log" for i in range(n)]
        members = tuple(Member(log, {"PREFECT__FLOW_RUN_ID": str(i)}) for i, log in enumerate(self.logs))
        values: dict[str, Any] = {"minutes": 60, "memory_mb": 1000} | request
        job = StageJob(JobRequest("stage", **values), ("bash", "-c", command), scratch=str(folder))
        self.job, self.log = packed(job, members, at_once, "id")
        for log in self.logs:
            write_pack(log, "id", [str(i) for i in range(n)])
        self.text = stage_script.script(self.job)

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        script = self.folder / "pack.sbatch"
        script.write_text(self.text)
        return subprocess.Popen(["bash", str(script)], env=os.environ | {"SLURM_JOB_ID": "7"} | environment)

    def run(self, **environment: str) -> int:
        return self.start(**environment).wait(60)

    def ends(self) -> list[int | None]:
        found = [end_of_member(7, log) for log in self.logs]
        return [None if end is None else end.exit_code for end in found]

    def until(self, text: str, i: int) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if self.logs[i].exists() and text in self.logs[i].read_text():
                return
            time.sleep(0.05)
        raise AssertionError(f"{text!r} is not in {self.logs[i]}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_script, "WATCH_EVERY_S", 0.1)


def test_each_member_has_its_own_log_end_and_folder(tmp_path: Path) -> None:
    show = 'echo "run $PREFECT__FLOW_RUN_ID in $TMPDIR"; touch "$TMPDIR/x"; exit $((PREFECT__FLOW_RUN_ID % 3))'
    pack = JobOfPack(tmp_path, show, n=5, at_once=2)
    assert pack.run() == 0
    assert pack.ends() == [0, 1, 2, 0, 1]
    texts = [log.read_text() for log in pack.logs]
    assert all(text.startswith("cryoflow: job 7 on ") for text in texts)
    assert [f"run {i} in " in text for i, text in enumerate(texts)] == [True] * 5
    assert len({text.split(" in ")[1] for text in texts}) == 5
    assert not list(tmp_path.glob("cryoflow-job-*"))


def test_the_members_of_one_slot_follow_one_another_and_slots_run_side_by_side(tmp_path: Path) -> None:
    meet = f"""
    cd {shlex.quote(str(tmp_path))}
    i=$PREFECT__FLOW_RUN_ID; touch began$i
    for _ in $(seq 600); do [ -e began$((i ^ 1)) ] && break; sleep 0.05; done  # the neighbor of the other slot
    [ -e began$((i ^ 1)) ] && {{ [ $i -lt 2 ] || [ -e ended$((i - 2)) ]; }} && touch ended$i
    """
    pack = JobOfPack(tmp_path, meet, n=4, at_once=2)
    pack.run()
    assert pack.ends() == [0, 0, 0, 0]


def test_a_member_that_is_cancelled_ends_alone(tmp_path: Path) -> None:
    hold = "trap 'echo told; exit 143' TERM; echo begun; while [ ! -e go ]; do sleep 0.05; done"
    pack = JobOfPack(tmp_path, f"cd {shlex.quote(str(tmp_path))}; {hold}", n=3, at_once=2)
    process = pack.start()
    for i in (0, 1):
        pack.until("begun", i)
    cancel_member(pack.logs[0])
    cancel_member(pack.logs[2])  # has not begun
    pack.until("told", 0)
    (tmp_path / "go").touch()
    process.wait(60)
    assert pack.ends() == [143, 0, 143]
    assert "begun" not in pack.logs[2].read_text()


def test_a_member_whose_time_is_over_is_ended_and_the_next_one_runs(tmp_path: Path) -> None:
    hold = 'echo begun; [ "$PREFECT__FLOW_RUN_ID" = 1 ] || sleep 600'
    pack = JobOfPack(tmp_path, f"exec bash -c {shlex.quote(hold)}", n=2, at_once=1)
    pack.text = pack.text.replace("SECONDS + 3600", "SECONDS + 3").replace("-lt 3600", "-lt 3")
    assert pack.text.count("+ 3)") == 1
    pack.run()
    assert pack.ends() == [124, 0]
    first = end_of_member(7, pack.logs[0])
    assert first is not None
    assert exit_reason_of(first) == ExitReason.TIME


def test_a_member_that_is_warned_before_its_limit_goes_on_in_another_job(tmp_path: Path) -> None:
    save = "trap 'echo saved; exit 1' TERM; echo begun; while :; do sleep 0.05; done"
    pack = JobOfPack(tmp_path, save, n=1, at_once=1, warn_s=3590)
    assert pack.job.request.warn_s == 0  # SLURM would warn of the end of the whole job
    pack.text = pack.text.replace("SECONDS + 10)", "SECONDS + 3)").replace("-lt 10 ]", "-lt 3 ]")
    pack.run()
    end = end_of_member(7, pack.logs[0])
    assert end is not None
    assert exit_reason_of(end) == ExitReason.WARNED
    assert "saved" in pack.logs[0].read_text()


def test_where_the_whole_job_is_ended_its_own_reason_counts(tmp_path: Path) -> None:
    pack = JobOfPack(tmp_path, "echo begun; exec sleep 600", n=3, at_once=1)
    script = tmp_path / "pack.sbatch"
    script.write_text(pack.text)
    argv = ["bash", str(script)]
    with subprocess.Popen(argv, env=os.environ | {"SLURM_JOB_ID": "7"}, start_new_session=True) as process:
        pack.until("begun", 0)
        os.killpg(process.pid, signal.SIGTERM)  # as SLURM does: every process of the job
        assert process.wait(60) == 143
    assert pack.ends() == [None, None, None]
    assert not pack.logs[1].exists()


def test_each_slot_gets_gpus_of_its_own(tmp_path: Path) -> None:
    pack = JobOfPack(tmp_path, 'echo "gpus $CUDA_VISIBLE_DEVICES."', n=4, at_once=2, gpus=2)
    pack.run(CUDA_VISIBLE_DEVICES="4,5,6,7")
    shown = [log.read_text().splitlines()[-1] for log in pack.logs]
    assert shown == ["gpus 4,5.", "gpus 6,7.", "gpus 4,5.", "gpus 6,7."]


def test_the_job_asks_for_what_its_members_need_together(tmp_path: Path) -> None:
    pack = JobOfPack(tmp_path, "true", n=8, at_once=3, cpus=2, gpus=1, memory_factor=2.0, minutes=10)
    request = pack.job.request
    assert (request.all_cpus, request.all_memory_mb, request.gpus) == (6, 6000, 3)
    assert request.all_minutes == 3 * (10 + 1)  # three rounds of members, and what they need to start
    assert pack.job.environment["OMP_NUM_THREADS"] == "2"
    alone, _ = packed(replace(pack.job, request=JobRequest("x", cpus=2)), (Member(tmp_path / "x.log", {}),), 3, "id")
    assert alone.request.cpus == 2


def test_an_image_is_given_the_variables_of_the_member(tmp_path: Path) -> None:
    program = tmp_path / "apptainer"
    program.write_text('#!/bin/bash\nenv | grep -E "^APPTAINERENV_(PREFECT__|TMPDIR)"\n')
    program.chmod(0o755)
    pack = JobOfPack(tmp_path, "true", n=2, at_once=1)
    image = replace(pack.job, image="/i.sif", apptainer=str(program))
    pack.text = stage_script.script(image)
    pack.run()
    for i, log in enumerate(pack.logs):
        assert f"APPTAINERENV_PREFECT__FLOW_RUN_ID={i}\n" in log.read_text()
        assert f"/{i}/tmp\n" in log.read_text()


def test_only_the_last_members_of_a_pack_take_its_job_along(tmp_path: Path) -> None:
    logs = {name: tmp_path / f"stage.{name}.log" for name in "abc"}
    for log in logs.values():
        write_pack(log, "id", list("abc"))
    lone = CancelledRun("x", 9, tmp_path / "lone.log")
    a, b = (CancelledRun(name, 7, logs[name]) for name in "ab")
    assert jobs_to_cancel([a, b, lone]) == [9]
    assert [log.with_suffix(".cancel").exists() for log in logs.values()] == [True, True, False]
    logs["c"].with_suffix(".end").write_text("0 node1 3\n")
    assert jobs_to_cancel([a, b]) == [7]
    write_pack(logs["a"], "new", ["a"])  # of the next job of this run
    assert not logs["a"].with_suffix(".cancel").exists()
    assert pack_of(logs["a"]) == ("new", ("a",))


def gathered(works: list[tuple[str, str]], size: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[list[str]]:
    """The runs of each job that a gatherer submits, for runs of (name, partition) that come one after the other."""
    monkeypatch.setattr(packs, "GATHER_S", 2.0)
    jobs: list[list[str]] = []

    async def submit(pack_id: str, job: StageJob, log: Path, is_cancelled: Any) -> int:
        assert job.pack is not None
        jobs.append([m.environment["PREFECT__FLOW_RUN_ID"] for m in job.pack.members])
        return len(jobs)

    async def never() -> bool:
        return False

    async def whole() -> None:
        gatherer = Gatherer(submit)
        async with asyncio.TaskGroup() as group:
            for name, partition in works:
                run: Any = SimpleNamespace(id=name)
                environment = {"PREFECT__FLOW_RUN_ID": name}
                job = StageJob(JobRequest(name, log=name, partition=partition), ("true",), environment=environment)
                log = folder / f"{name}.log"
                group.create_task(gatherer.add(run, job, log, never, size=size, at_once=1))
                await asyncio.sleep(0)

    asyncio.run(whole())
    return sorted(jobs, key=lambda job: int(job[0]))


def test_runs_that_ask_for_the_same_share_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    works = [(str(i), "gpu" if i == 3 else "cpu") for i in range(8)]
    assert gathered(works, 3, monkeypatch, tmp_path) == [["0", "1", "2"], ["3"], ["4", "5", "6"], ["7"]]
    assert {pack_of(tmp_path / f"{i}.log")[1] for i in (0, 1, 2)} == {("0", "1", "2")}  # type: ignore[index]


def test_a_thousand_shards_in_packs_of_eight_are_125_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = gathered([(str(i), "cpu") for i in range(1000)], 8, monkeypatch, tmp_path)
    assert [len(job) for job in jobs] == [8] * 125


def test_a_refusal_of_a_pack_reaches_each_of_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "GATHER_S", 0.1)

    async def submit(pack_id: str, job: StageJob, log: Path, is_cancelled: Any) -> int:
        raise ValueError("invalid partition")

    async def never() -> bool:
        return False

    async def whole() -> list[Any]:
        gatherer = Gatherer(submit)
        job = StageJob(JobRequest("x"), ("true",))
        runs: list[Any] = [SimpleNamespace(id=name) for name in "ab"]
        logs = [tmp_path / f"{run.id}.log" for run in runs]
        adding = [gatherer.add(r, job, log, never, size=8, at_once=1) for r, log in zip(runs, logs, strict=True)]
        return await asyncio.gather(*adding, return_exceptions=True)

    assert [str(error) for error in asyncio.run(whole())] == ["invalid partition"] * 2
