"""How many micrographs the outputs of a job have; how many picks, the heads of its datasets state already."""

from __future__ import annotations

from dataclasses import replace

from cryoflow.errors import BadInput
from cryoflow.formats.cs import read_cs_distinct
from cryoflow.projects.cryosparc import outputs as on_disk
from cryoflow.projects.cryosparc.jobs import outputs_of
from cryoflow.projects.found import Job, Output, damaged

_LARGEST_BYTES = 1 << 30
"""A larger dataset is not read through to count its rows; ingest counts them."""
_MICROGRAPH = ("location/micrograph_uid", "location/micrograph_path")


def with_counts(job: Job) -> Job:
    """Return a job whose outputs say on how many micrographs their picks are, as far as their datasets are of modest
    size."""
    if not job.outputs:
        return job
    index = on_disk.ProjectIndex(job.project)
    record = index.record(job.job)
    found = {(seen.group, seen.suffix): output for seen, output, _ in outputs_of(index, record)}
    outputs, problems = [], []
    for output in job.outputs:
        try:
            output = _counted(index, record, output, found[output.group, output.suffix])
        except BadInput as error:
            problems.append(str(error))
        except (OSError, KeyError):
            pass  # it changed since it was listed
        outputs.append(output)
    return damaged(replace(job, outputs=tuple(outputs)), problems)


def _counted(
    index: on_disk.ProjectIndex, record: on_disk.Record, seen: Output, output: on_disk.OutputDatasets
) -> Output:
    if seen.n_picks is None:
        return seen
    for _, source in index.with_location(record, output):
        table = source.slots["location"].table
        columns = [name for name in _MICROGRAPH if table.has(name) or table.has_text(name)][:1]
        same_rows = table.header.n_rows == seen.n_picks
        if columns and same_rows and table.path.stat().st_size <= _LARGEST_BYTES:
            return replace(seen, n_micrographs=len(read_cs_distinct(table.path, [], columns)[1].first_row))
        break
    return seen
