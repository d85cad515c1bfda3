"""`cryoflow run`: the pipeline on finished projects."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli.declared import Profile, declared
from cryoflow.cli.flow_runs import prepare_prefect, show_result
from cryoflow.cli.output import Json, UsageError, say
from cryoflow.errors import ExitCode
from flows.parameters import PipelineParameters

Resume = Annotated[
    bool, Parameter(help="Go on with what the output folder holds already. With --no-resume it must be empty.")
]


@declared
def run(
    parameters: PipelineParameters, *, profile: Profile = None, resume: Resume = True, json: Json = False
) -> ExitCode:
    """Run the whole pipeline on finished projects: ingest, export, train the unpicker, clean the picks, report.

    Running it again goes on where it was stopped, and reads and writes only what is new or changed.
    """
    output = parameters.output
    if not resume and output.is_dir() and any(output.iterdir()):
        raise UsageError(f"--no-resume: {output} is not empty. Name a new folder, or leave --no-resume out.")
    prepare_prefect(profile)
    from cryoflow.cluster.orphaned_runs import own_runs
    from flows.pipeline import pipeline

    with own_runs():
        result = pipeline(parameters)
    code = show_result(result, as_json=json)
    say(f"look at {result.report}")
    return code
