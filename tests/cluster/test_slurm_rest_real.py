"""A real slurmrestd of the real SLURM: submitted, listed, ended and cancelled without any command of SLURM."""

from __future__ import annotations

import os
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ports import free_port

from cryoflow.execution import stage_script
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import SchedulerSilent
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


CONF = """
ClusterName=tokens
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthAltTypes=auth/jwt
AuthAltParameters=jwt_key={folder}/key
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=2
NodeName=tokens1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=500 State=UNKNOWN
PartitionName=cpu Nodes=tokens1 Default=YES MaxTime=INFINITE State=UP
"""


@pytest.fixture
def rest_with_tokens(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Address of a slurmrestd that takes tokens, of a SLURM of one node that lives as long as the test; and a token."""
    if not list(Path("/usr/lib").glob("*/slurm*/auth_jwt.so")) or os.getuid() != 0:
        pytest.skip("SLURM's plugin for tokens is not installed, or this is not root")
    (tmp_path / "key").write_bytes(os.urandom(32))
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "state").mkdir()
    (tmp_path / "spool").mkdir()
    conf = tmp_path / "slurm.conf"
    ports = [free_port() for _ in range(3)]
    conf.write_text(CONF.format(host=socket.gethostname().partition(".")[0], ports=ports, folder=tmp_path))
    environment = os.environ | {"SLURM_CONF": str(conf), "SLURMRESTD_SECURITY": "disable_user_check"}
    address = f"127.0.0.1:{ports[2]}"
    started = []
    try:
        for argv, more in (
            (["slurmctld", "-D"], {}),
            (["slurmd", "-D", "-N", "tokens1"], {}),
            (["slurmrestd", "-a", "rest_auth/jwt", "-s", "openapi/v0.0.38", address], {"SLURM_JWT": "daemon"}),
        ):
            started.append(subprocess.Popen(argv, env=environment | more, stderr=subprocess.DEVNULL))
        asked = ["scontrol", "token", "lifespan=3600"]
        until(lambda: subprocess.run(asked, env=environment, capture_output=True, check=False).returncode == 0)
        token = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True).stdout
        yield f"http://{address}", token.strip().removeprefix("SLURM_JWT=")
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(60)


def test_a_token_opens_slurmrestd_over_the_network_and_another_does_not(
    rest_with_tokens: tuple[str, str], tmp_path: Path
) -> None:
    address, token = rest_with_tokens
    rest = RestScheduler(address, "v0.0.38", token=lambda: token)
    until(lambda: answers(rest))
    log = tmp_path / "job.log"
    request = JobRequest("a", str(log), str(tmp_path), "cryoflow:1", memory_mb=100, minutes=3)
    script = tmp_path / "job.sbatch"
    script.write_text(rest.script(StageJob(request, ("sh", "-c", 'echo "token: $SLURM_JWT"; sleep 1'))))
    number = rest.submit(script, {"PATH": os.environ["PATH"], "SLURM_JWT": token})
    until(lambda: number not in rest.queue())
    assert rest.ended([number])[number].state == "COMPLETED"
    assert "token: \n" in log.read_text()  # a job gets no token
    with pytest.raises(SchedulerSilent):
        RestScheduler(address, "v0.0.38", token=lambda: f"{token}x").queue()


def answers(rest: RestScheduler) -> bool:
    try:
        rest.queue()
    except SchedulerSilent:
        return False
    return True


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
