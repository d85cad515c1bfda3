"""SLURM over HTTP: the same methods as `cryoflow.execution.slurm.Scheduler`, by requests to slurmrestd.

For a worker on a machine without SLURM's commands. slurmrestd reads no `#SBATCH` lines, so the options of a job travel
as fields beside its script; an option without a field is refused. Written from SLURM's OpenAPI description v0.0.38 and
tried against slurmrestd 22.05.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import httpx

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution import stage_script
from cryoflow.execution.slurm import TERMINAL, EndedJob, QueuedJob, SchedulerSilent, assigned_nodes
from cryoflow.storage import inputs

_TIMEOUT_S = 60.0

_FIELDS: Mapping[str, tuple[str, Callable[[str], object]]] = {
    "job-name": ("name", str),
    "comment": ("comment", str),
    "output": ("standard_output", str),
    "chdir": ("current_working_directory", str),
    "cpus-per-task": ("cpus_per_task", int),
    "ntasks": ("tasks", int),
    "nodes": ("nodes", lambda value: [int(value), int(value)]),
    "mem": ("memory_per_node", lambda value: int(value.removesuffix("M"))),
    "mem-per-cpu": ("memory_per_cpu", lambda value: int(value.removesuffix("M"))),
    "mem-per-gpu": ("memory_per_gpu", lambda value: int(value.removesuffix("M"))),
    "time": ("time_limit", int),
    "partition": ("partition", str),
    "account": ("account", str),
    "qos": ("qos", str),
    "constraint": ("constraints", str),
    "gres": ("gres", str),
    "gpus": ("gpus", str),
    "signal": ("signal", str),
    "open-mode": ("open_mode", str),
    "reservation": ("reservation", str),
    "exclusive": ("exclusive", lambda value: value or "true"),
    "licenses": ("licenses", str),
    "nice": ("nice", int),
    "prefer": ("prefer", str),
    "wckey": ("wckey", str),
    "mail-type": ("mail_type", str),
    "mail-user": ("mail_user", str),
}
"""Option of sbatch -> the field of a job in slurmrestd, and the value's type there."""

_WITHOUT_FIELD = ("no-requeue", "exclude")
"""Options of ours that v0.0.38 cannot express; the script ends a job that SLURM started again by itself."""

_ENDS_REQUEUED = """\
# slurmrestd cannot forbid that SLURM starts a job again by itself, beside a run that was given up
[ -z "${SLURM_RESTART_COUNT:-}" ] || exit 143
"""


class RestScheduler:
    """Requests to slurmrestd. All methods block.

    Parameters
    ----------
    address
        `http://host:port`, or `unix:/path` of a socket of the same machine.
    version
        Version of the OpenAPI plugin, such as `v0.0.38`.
    min_interval_s
        Seconds between two requests for the queue.
    token
        Returns the JSON web token of this user; None where none is set, as over a socket.
    """

    lists_comments = True

    def __init__(
        self,
        address: str,
        version: str,
        *,
        min_interval_s: float = 0.0,
        token: Callable[[], str | None] = lambda: os.environ.get("SLURM_JWT"),
    ) -> None:
        self.address, self.version, self.min_interval_s, self.token = address, version, min_interval_s, token
        self._lock = threading.Lock()
        self._asked_at = float("-inf")
        self._queue: dict[int, QueuedJob] = {}
        self._ended: dict[int, EndedJob] = {}

    def script(self, job: stage_script.StageJob) -> str:
        """Return the job script of a stage; its `#SBATCH` lines are what `submit` reads."""
        head, _, rest = stage_script.script(job).partition("\n\n")
        return f"{head}\n\n{_ENDS_REQUEUED}\n{rest}"

    def submit(self, script: Path, environment: Mapping[str, str]) -> int:
        """Submit a job script and return the job's number.

        Raises
        ------
        ToolFailed
            With SLURM's own words.
        BadInput
            For an option that slurmrestd cannot be given.
        """
        text = inputs.read_text(script)
        given = {name: value for name, value in environment.items() if name != "SLURM_JWT"}
        job = {**job_fields(text), "environment": given}
        answer = self._request("POST", "slurm", "job/submit", {"script": text, "job": job})
        if not isinstance(number := answer.get("job_id"), int) or number <= 0:
            raise ToolFailed(["slurmrestd", "job/submit"], 1, f"no job number in: {answer}")
        return number

    def queue(self) -> dict[int, QueuedJob]:
        """Return all jobs of this user that wait or run, as they are now or later, in one request.

        Raises
        ------
        SchedulerSilent
            Where slurmrestd or the controller does not answer: a job that is not listed then has not ended.
        """
        called_at = time.monotonic()
        with self._lock:
            if self._asked_at < called_at:
                time.sleep(max(0.0, self._asked_at + self.min_interval_s - called_at))
                asked_at = time.monotonic()
                try:
                    answer = self._request("GET", "slurm", "jobs")
                except ToolFailed as error:
                    raise SchedulerSilent(str(error)) from error
                self._asked_at = asked_at
                mine = [job for job in answer.get("jobs", []) if job.get("user_name") == getpass.getuser()]
                self._queue = {job.job_id: job for job in map(queued_job, mine) if job.state not in TERMINAL}
                self._ended = {job.job_id: job for job in map(ended_job, mine) if job is not None}
            return self._queue

    def ended(self, job_ids: Collection[int]) -> dict[int, EndedJob]:
        """Return the jobs of `job_ids` that have ended: from the last answer, the controller, or the accounting."""
        found = {number: self._ended[number] for number in job_ids if number in self._ended}
        for number in set(job_ids) - set(found):
            for service, read in (("slurm", ended_job), ("slurmdb", accounted_job)):
                try:
                    jobs = self._request("GET", service, f"job/{number}").get("jobs", [])
                except ToolFailed:
                    continue  # forgotten already, no accounting, or silent
                if jobs and (job := read(jobs[-1])) is not None:
                    found[number] = job
                    break
        return found

    def cancel(self, job_ids: Collection[int]) -> None:
        """End jobs, waiting or running. Jobs that ended already or that SLURM has forgotten are no error."""
        for number in sorted(job_ids):
            try:
                self._request("DELETE", "slurm", f"job/{number}")
            except ToolFailed as error:
                if not re.search(r"invalid job id|already complet", error.tail, re.IGNORECASE):
                    raise

    def _request(self, method: str, service: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the answer of slurmrestd.

        Raises
        ------
        ToolFailed
            Where there is no answer, or it holds an error.
        """
        what = ["slurmrestd", method, path]
        socket = self.address.removeprefix("unix:") if self.address.startswith("unix:") else None
        token = self.token()
        headers = {"X-SLURM-USER-NAME": getpass.getuser(), "X-SLURM-USER-TOKEN": token} if token else {}
        base = "http://localhost" if socket else self.address.rstrip("/")
        try:
            with httpx.Client(transport=httpx.HTTPTransport(uds=socket), timeout=_TIMEOUT_S, headers=headers) as client:
                answer = client.request(method, f"{base}/{service}/{self.version}/{path}", json=body)
        except httpx.HTTPError as error:
            raise ToolFailed(what, 1, f"unable to contact slurmrestd at {self.address}: {error}") from error
        try:
            found = json.loads(answer.text) if answer.text.strip() else {}
        except ValueError:
            found = {}
        errors = found.get("errors") or [] if isinstance(found, dict) else []
        if errors or answer.is_error or not isinstance(found, dict):
            words = [str(e.get("error") or e.get("description")) for e in errors] or [answer.text.strip()[:500]]
            raise ToolFailed(what, answer.status_code, " ".join([*words, f"(HTTP status {answer.status_code})"]))
        return found


def job_fields(script: str) -> dict[str, object]:
    """Return the fields of a job for the `#SBATCH` lines of a script.

    Raises
    ------
    BadInput
        For an option without a field.

    >>> job_fields('#!/bin/bash\\n#SBATCH --mem=4096M\\n#SBATCH "--job-name=a b"\\n')
    {'memory_per_node': 4096, 'name': 'a b'}
    """
    fields: dict[str, object] = {}
    for line in script.splitlines():
        if not line.startswith("#SBATCH "):
            continue
        name, _, value = unquoted(line.removeprefix("#SBATCH ")).removeprefix("--").partition("=")
        if name in _WITHOUT_FIELD:
            continue
        if name not in _FIELDS:
            raise BadInput("resources", f"slurmrestd cannot be given --{name}.", f"There are: {', '.join(_FIELDS)}.")
        field, convert = _FIELDS[name]
        try:
            fields[field] = convert(value)
        except ValueError:
            raise BadInput("resources", f"--{name}={value} is not as slurmrestd needs it.") from None
    return fields


def unquoted(text: str) -> str:
    """Return a directive as sbatch reads it, the inverse of `cryoflow.execution.quoting.directive`."""
    if text.startswith('"') and text.endswith('"') and len(text) > 1:
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def queued_job(job: Mapping[str, Any]) -> QueuedJob:
    """Read a job of the controller's answer."""
    reason = str(job.get("state_reason") or "None")
    return QueuedJob(int(job["job_id"]), str(job.get("job_state", "")), reason, str(job.get("comment") or ""))


def ended_job(job: Mapping[str, Any]) -> EndedJob | None:
    """Read a job of the controller's answer; None for one that has not ended. Its exit status is that of `wait`."""
    if (state := str(job.get("job_state", ""))) not in TERMINAL:
        return None
    status = int(job.get("exit_code") or 0)
    began, ended = int(job.get("start_time") or 0), int(job.get("end_time") or 0)
    elapsed_s = ended - began if 0 < began <= ended else None
    return EndedJob(
        int(job["job_id"]),
        state,
        status >> 8 & 0xFF,
        status & 0x7F or None,
        assigned_nodes(str(job.get("nodes") or "")),
        elapsed_s,
    )


def accounted_job(job: Mapping[str, Any]) -> EndedJob | None:
    """Read a job of the accounting's answer, which has no exit status in SLURM 22.05."""
    if (state := str(job.get("state", {}).get("current", ""))) not in TERMINAL:
        return None
    elapsed_s = job.get("time", {}).get("elapsed")
    return EndedJob(int(job["job_id"]), state, None, None, assigned_nodes(str(job.get("nodes") or "")), elapsed_s)
