"""Any scheduler, described by templates: the head of a script, and the commands that submit, list and cancel jobs.

PBS Pro, LSF and Grid Engine are described in `examples/sites`. Job numbers are the digits that `job_id` finds; jobs
that a scheduler no longer lists have ended, and their stage has reported how.
"""

from __future__ import annotations

import re
import shlex
import string
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import EndedJob, QueuedJob, SchedulerSilent
from cryoflow.execution.stage_script import StageJob, body
from cryoflow.system.programs import run

_TIMEOUT_S = 60
_OF_SCRIPT = (
    "name", "log", "cpus", "memory_mb", "memory_mb_per_cpu", "memory_gb", "minutes", "hours", "clock", "gpus",
    "partition", "account", "qos", "constraint", "comment",
)  # fmt: skip
_OF_COMMAND = {"submit": ("script",), "status": ("user",), "cancel": ("job_ids",)}
State = Literal["pending", "running", "done", "failed", "cancelled"]


class SchedulerTemplates(BaseModel):
    """Table [site.scheduler] of cryoflow.toml: a scheduler other than SLURM."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    script: str = Field(description="head of a job script; {name} {log} {cpus} {memory_mb} {minutes} ... are filled in")
    gpu_script: str = Field(default="", description="further lines of the head of a job with GPUs")
    submit: str = Field(description="command that submits {script}")
    submit_stdin: bool = Field(default=False, description="the command reads the script from standard input (bsub)")
    job_id: str = Field(default=r"(\d+)", description="regular expression whose group is the number in its answer")
    status: str = Field(description="command that lists the jobs of {user}")
    status_line: str = Field(description="regular expression of one of its lines, with groups id and state")
    states: dict[str, State] = Field(description="the scheduler's word for a state -> pending, running, done, ...")
    cancel: str = Field(description="command that ends {job_ids}")

    @classmethod
    def of(cls, table: Mapping[str, object]) -> SchedulerTemplates:
        """Return the templates of the table.

        Raises
        ------
        BadInput
            Where a field is missing, unknown or wrong.
        """
        try:
            return cls.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(("site.scheduler", *map(str, first["loc"])))
            hint = "`[site.scheduler]` of examples/sites shows what it may hold."
            raise BadInput(field, f"is wrong: {first['msg'].removeprefix('Value error, ')}.", hint) from None

    @field_validator("job_id", "status_line")
    @classmethod
    def _is_an_expression(cls, text: str) -> str:
        try:
            re.compile(text)
        except re.error as error:
            raise ValueError(f"{text!r} is no regular expression: {error}") from None
        return text

    @model_validator(mode="after")
    def _known_placeholders(self) -> SchedulerTemplates:
        for field in ("script", "gpu_script"):
            _refuse_unknown(field, getattr(self, field), _OF_SCRIPT)
        for field, known in _OF_COMMAND.items():
            _refuse_unknown(field, getattr(self, field), known)
        if not {"id", "state"} <= set(re.compile(self.status_line).groupindex):
            raise ValueError("status_line needs the groups (?P<id>...) and (?P<state>...)")
        return self


def refuse_ignored(templates: SchedulerTemplates, request: JobRequest) -> None:
    """Refuse resources that no template carries to the scheduler.

    Raises
    ------
    BadInput
        Where a job asks for one.
    """
    carried = _placeholders(templates.script + (templates.gpu_script if request.gpus else ""))
    values = {
        "extra_directives": request.extra,
        "warn_seconds": request.warn_s,
        "gpu_type": request.gpu_types,
        **{
            name: getattr(request, name)
            for name in ("partition", "account", "qos", "constraint", "gpus")
            if name not in carried
        },
    }
    if ignored := [name for name, value in values.items() if value]:
        hint = "Leave it out, and write what the scheduler needs into the templates."
        raise BadInput("site.scheduler", f"{ignored[0]} has no effect: no template carries it.", hint)


class TemplateScheduler:
    """Runs the commands of `SchedulerTemplates`; the same methods as `cryoflow.execution.slurm.Scheduler`."""

    lists_comments = False

    def __init__(self, templates: SchedulerTemplates) -> None:
        self.templates = templates
        self._ended: dict[int, EndedJob] = {}

    def script(self, job: StageJob) -> str:
        """Return the whole job script.

        Raises
        ------
        BadInput
            Where the head needs a value that the job does not have, such as a partition.
        """
        values = _values(job.request)
        head = fill(self.templates.script, values)
        if job.request.gpus and self.templates.gpu_script:
            head += "\n" + fill(self.templates.gpu_script, values)
        return "\n".join(["#!/bin/bash", head.strip(), "", *filter(None, body(job))])

    def submit(self, script: Path, environment: Mapping[str, str]) -> int:
        """Submit a job script and return the job's number.

        Raises
        ------
        ToolFailed
            With the scheduler's own words.
        """
        argv = _command(self.templates.submit, {"script": str(script)})
        if self.templates.submit_stdin:
            argv = ["bash", "-c", 'exec "${@:2}" < "$1"', "submit", str(script), *argv]
        printed = run(argv, env=environment, timeout_s=_TIMEOUT_S)
        if not (found := re.search(self.templates.job_id, printed)):
            raise ToolFailed(argv, 0, f"no job number in: {printed.strip()}")
        return int(found[1])

    def queue(self) -> dict[int, QueuedJob]:
        """Return the jobs that wait or run, in one call.

        Raises
        ------
        SchedulerSilent
            Where the command fails: a job that is not listed then has not ended.
        """
        try:
            printed = run(_command(self.templates.status, {"user": _user()}), timeout_s=_TIMEOUT_S)
        except ToolFailed as error:
            raise SchedulerSilent(str(error)) from error
        jobs: dict[int, QueuedJob] = {}
        for line in printed.splitlines():
            found = re.search(self.templates.status_line, line)
            state = self.templates.states.get(found["state"]) if found else None
            if not found or not state:
                continue
            number = int(found["id"])
            if state in ("pending", "running"):
                jobs[number] = QueuedJob(number, state.upper(), "None", "")
            else:
                self._ended[number] = _ended(number, state)
        return jobs

    def ended(self, job_ids: Collection[int]) -> dict[int, EndedJob]:
        """Return how jobs ended, as far as the last `queue` listed them."""
        return {number: self._ended[number] for number in job_ids if number in self._ended}

    def cancel(self, job_ids: Collection[int]) -> None:
        """End jobs, waiting or running; jobs that the scheduler has forgotten are no error."""
        for number in job_ids:  # one by one: most commands stop at the first unknown number
            try:
                run(_command(self.templates.cancel, {"job_ids": str(number)}), timeout_s=_TIMEOUT_S)
            except ToolFailed as error:
                if not re.search(r"unknown|finished|not found|does not exist|no matching", error.tail, re.IGNORECASE):
                    raise


def fill(template: str, values: Mapping[str, str]) -> str:
    """Return a template with its placeholders filled; lines of a script may use $ and ${} as they are.

    Raises
    ------
    BadInput
        For a placeholder without a value.
    """
    missing = [name for name in _placeholders(template) if not values.get(name)]
    if missing:
        hint = "Give it in the resource class of [site]."
        raise BadInput("site.scheduler", f"{{{missing[0]}}} has no value for this job.", hint)
    return _PLACEHOLDER.sub(lambda match: values[match[1]], template)


_PLACEHOLDER = re.compile(r"(?<!\$)\{([a-z_]+)\}")


def _placeholders(template: str) -> list[str]:
    return [match[1] for match in _PLACEHOLDER.finditer(template)]


def _refuse_unknown(field: str, template: str, known: Collection[str]) -> None:
    for name in _placeholders(template):
        if name not in known:
            raise ValueError(f"{field} has the placeholder {{{name}}}; there are: {', '.join(known)}")


def _command(template: str, values: Mapping[str, str]) -> list[str]:
    """Return the words of a command; a placeholder alone in a word becomes as many words as it has values."""
    argv: list[str] = []
    for word in shlex.split(template):
        if (alone := _PLACEHOLDER.fullmatch(word)) and alone[1] == "job_ids":
            argv += values["job_ids"].split()
        else:
            argv.append(_PLACEHOLDER.sub(lambda match: values.get(match[1], ""), word))
    return argv


def _values(request: JobRequest) -> dict[str, str]:
    minutes = request.all_minutes
    values: dict[str, object] = {
        "name": "".join(c if c in string.ascii_letters + string.digits + "_.-" else "_" for c in request.name)[:60],
        "log": request.log,
        "cpus": request.all_cpus,
        "memory_mb": request.all_memory_mb,
        "memory_mb_per_cpu": -(-request.all_memory_mb // request.all_cpus),
        "memory_gb": -(-request.all_memory_mb // 1024),
        "minutes": minutes,
        "hours": -(-minutes // 60),
        "clock": f"{minutes // 60:02}:{minutes % 60:02}:00",
        "gpus": request.gpus,
        "partition": request.partition or "",
        "account": request.account or "",
        "qos": request.qos or "",
        "constraint": request.constraint or "",
        "comment": request.comment,
    }
    for name, value in values.items():
        if any(c in str(value) for c in "\n\r\0"):
            raise BadInput("site.scheduler", f"{name} has a line break in it: {value!r}.")
    return {name: str(value) for name, value in values.items()}


def _ended(number: int, state: State) -> EndedJob:
    words = {"done": "COMPLETED", "failed": "FAILED", "cancelled": "CANCELLED"}
    return EndedJob(number, words[state])


def _user() -> str:
    import getpass

    return getpass.getuser()
