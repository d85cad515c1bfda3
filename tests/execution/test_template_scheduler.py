"""Schedulers that are described by templates, against stand-ins that print what PBS Pro, LSF and Grid Engine print."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from cryoflow.errors import BadInput, ToolFailed
from cryoflow.execution.resources import JobRequest
from cryoflow.execution.slurm import SchedulerSilent
from cryoflow.execution.stage_script import StageJob
from cryoflow.execution.template_scheduler import SchedulerTemplates, TemplateScheduler
from cryoflow.settings.load import load_settings

SITES = Path(__file__).parents[2] / "examples" / "sites"
JOB = StageJob(
    JobRequest("ingest · P12", log="/logs/a.log", cpus=4, memory_mb=8000, minutes=90, partition="cpu"), ("true",)
)
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
[ -e "$CALLS.silent" ] && { echo "cannot connect to server" >&2; exit 1; }
case $(basename "$0") in
    bsub) cat > "$CALLS.stdin" ;;
esac
cat "$ANSWERS/$(basename "$0")"
exit "$(cat "$ANSWERS/$(basename "$0").status" 2> /dev/null || echo 0)"
"""
PBS = """
pbs01:
                                                            Req'd  Req'd   Elap
Job ID          Username Queue    Jobname    SessID NDS TSK Memory Time  S Time
--------------- -------- -------- ---------- ------ --- --- ------ ----- - -----
123.pbs01       ann      workq    ingest        --    1   4  8000m 01:30 Q   --
124.pbs01       ann      workq    judge       4567    1   4  8000m 01:30 R 00:01
125.pbs01       ann      workq    judge       4568    1   4  8000m 01:30 F 00:07
"""
LSF = "123 PEND\n124 RUN\n125 DONE\n"
SGE = """job-ID  prior   name       user         state submit/start at     queue              slots ja-task-ID
---------------------------------------------------------------------------------------------------
    123 0.00000 ingest     ann          qw    11/27/2026 07:00:00                                    4
    124 0.55500 judge      ann          r     11/27/2026 07:00:00 all.q@node1                        4
    125 0.55500 judge      ann          Eqw   11/27/2026 07:00:00 all.q@node1                        4
"""
ANSWERS = {
    "pbs-pro": {"qsub": "123.pbs01\n", "qstat": PBS, "qdel": ""},
    "lsf": {"bsub": "Job <123> is submitted to queue <normal>.\n", "bjobs": LSF, "bkill": "Job <123> is terminated\n"},
    "grid-engine": {"qsub": 'Your job 123 ("ingest") has been submitted\n', "qstat": SGE, "qdel": ""},
}  # fmt: skip
UNKNOWN = {
    "pbs-pro": "qdel: Unknown Job Id 123.pbs01",
    "lsf": "Job <123>: No matching job found",
    "grid-engine": 'denied: job "123" does not exist',
}


def templates(name: str) -> dict[str, Any]:
    return dict(tomllib.loads((SITES / f"{name}.toml").read_text())["site"]["scheduler"])


@pytest.fixture(params=sorted(ANSWERS))
def example(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name: str = request.param
    programs, answers = tmp_path / "programs", tmp_path / "answers"
    programs.mkdir()
    answers.mkdir()
    for program, answer in ANSWERS[name].items():
        (programs / program).write_text(STAND_IN)
        (programs / program).chmod(0o755)
        (answers / program).write_text(answer)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("ANSWERS", str(answers))
    return name


def test_a_job_is_submitted_found_and_cancelled(example: str, tmp_path: Path) -> None:
    scheduler = TemplateScheduler(SchedulerTemplates.model_validate(templates(example)))
    script = tmp_path / "a job.sh"
    script.write_text(scheduler.script(JOB))
    assert scheduler.submit(script, os.environ) == 123
    queue = scheduler.queue()
    states = {number: job.state for number, job in queue.items()}
    assert states == {123: "PENDING", 124: "RUNNING"}
    assert set(scheduler.ended([123, 125, 999])) == {125}
    scheduler.cancel([123])
    calls = (tmp_path / "calls").read_text().splitlines()
    assert [line.split()[0] for line in calls] == list(ANSWERS[example])
    assert calls[-1].split()[-1] == "123"
    if example == "lsf":
        assert (tmp_path / "calls.stdin").read_text() == script.read_text()
    else:
        assert str(script) in calls[0]


def test_the_script_has_every_value_and_is_one_that_bash_accepts(example: str, tmp_path: Path) -> None:
    scheduler = TemplateScheduler(SchedulerTemplates.model_validate(templates(example)))
    text = scheduler.script(JOB)
    head = text.partition("\n\n")[0]
    assert not re.search(r"(?<!\$)\{[a-z_]+\}", head)
    for value in ("ingest___P12", "/logs/a.log", "cpu"):
        assert value in head
    assert ("2000M" if example == "grid-engine" else "8000") in head
    assert ("-W 90" if example == "lsf" else "01:30:00") in head
    (tmp_path / "s").write_text(text)
    assert subprocess.run(["bash", "-n", tmp_path / "s"], check=False).returncode == 0


def test_a_value_that_is_missing_is_an_error_and_not_an_empty_directive(example: str) -> None:
    scheduler = TemplateScheduler(SchedulerTemplates.model_validate(templates(example)))
    job = StageJob(JobRequest("a", log="/l", memory_mb=1, minutes=1), ("true",))
    with pytest.raises(BadInput, match=r"\{partition\} has no value"):
        scheduler.script(job)


def test_a_silent_scheduler_and_a_forgotten_job_are_told_apart(example: str, tmp_path: Path) -> None:
    scheduler = TemplateScheduler(SchedulerTemplates.model_validate(templates(example)))
    program = list(ANSWERS[example])[2]
    (tmp_path / "answers" / program).write_text(UNKNOWN[example])
    (tmp_path / "answers" / f"{program}.status").write_text("1")
    scheduler.cancel([123])
    (tmp_path / "calls.silent").touch()
    with pytest.raises(SchedulerSilent):
        scheduler.queue()
    with pytest.raises(ToolFailed, match="cannot connect"):
        scheduler.cancel([123])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("script", "#PBS -l mem={memory}", r"\{memory\}"),
        ("submit", "qsub {file}", r"\{file\}"),
        ("status", "qstat {job_ids}", r"\{job_ids\}"),
        ("status_line", "(?P<id>x)", "state"),
        ("job_id", "(", "regular expression"),
    ],
)
def test_templates_with_a_mistake_are_refused_when_they_are_read(field: str, value: str, message: str) -> None:
    with pytest.raises(BadInput, match=rf"site\.scheduler.*{message}"):
        SchedulerTemplates.of(templates("pbs-pro") | {field: value})


@pytest.mark.parametrize("file", sorted(SITES.glob("*.toml")), ids=lambda file: file.stem)
def test_every_example_site_is_valid_and_can_be_deployed(file: Path) -> None:
    from cryoflow.cluster.deployments import STAGES, job_variables

    settings = load_settings(file).settings
    for stage in STAGES:
        job_variables(stage, settings, settings.place)
