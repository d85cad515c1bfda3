"""`cryoflow detector update`, `cryoflow unpicker update` and `cryoflow improve`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryoflow.cli import output as out
from cryoflow.cli.declared import declared
from cryoflow.errors import ExitCode
from cryoflow.learning.parameters import ImproveParameters, UpdateDetectorParameters, UpdateUnpickerParameters

if TYPE_CHECKING:
    from cryoflow.learning.update import UpdateResult


@declared
def update_detector(parameters: UpdateDetectorParameters, *, json: out.Json = False) -> int:
    """Learn from projects that are new or changed, and put the result into use if it is better.

    The same command goes on where it was stopped. The exit code is 3 where projects were quarantined or the gate
    refused the result: the version in use stays.
    """
    from cryoflow.learning.stage import update_detector as run

    return _ending(run(parameters, say=out.say), as_json=json)


@declared
def update_unpicker(parameters: UpdateUnpickerParameters, *, json: out.Json = False) -> int:
    """Learn from projects that are new or changed, and put the result into use if it is better.

    The same command goes on where it was stopped. The exit code is 3 where projects were quarantined or the gate
    refused the result: the version in use stays.
    """
    from cryoflow.learning.stage import update_unpicker as run

    return _ending(run(parameters, say=out.say), as_json=json)


@declared
def improve(parameters: ImproveParameters, *, json: out.Json = False) -> None:
    """Improve a picker on micrographs without labels: pick, clean the picks, train on them, keep the better model.

    Rounds are compared on held-out micrographs, and end when nothing is gained. The same command goes on where it was
    stopped. The best model goes into use as a version of the registry; its picks become an entry of the database.
    """
    from cryoflow.cli.picker import log_lines
    from cryoflow.learning.improve_stage import improve_picker as run

    out.emit_record(run(parameters, say=out.say, on_line=log_lines()).described(), as_json=json)


def _ending(result: UpdateResult, *, as_json: bool) -> int:
    from cryoflow.learning.stage import described

    out.emit_record(described(result), as_json=as_json)
    refused = result.outcome in ("candidate", "refused before")
    return ExitCode.PARTLY_FAILED if refused or result.quarantined else ExitCode.OK
