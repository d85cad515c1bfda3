"""`cryoflow run`: the pipeline on finished projects."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli.flow_runs import filled, prepare_prefect, show_result
from cryoflow.cli.output import Json, UsageError, say
from cryoflow.errors import ExitCode
from cryoflow.settings.profiles import ProfileName


def run(
    *roots: Path,
    output: Annotated[Path, Parameter(name=["--output", "-o"])],
    database: Annotated[Path | None, Parameter(name=["--database", "--db"])] = None,
    picker: tuple[str, ...] = ("cryolo", "topaz"),
    diameter: float | None = None,
    remap: tuple[str, ...] = (),
    epochs: int | None = None,
    seed: int = 0,
    chunk_micrographs: int = 100,
    profile: ProfileName | None = None,
    resume: bool = True,
    json: Json = False,
) -> ExitCode:
    """Run the whole pipeline on finished projects: ingest, export, train the unpicker, clean the picks, report.

    Running it again goes on where it was stopped, and reads and writes only what is new or changed.

    Parameters
    ----------
    roots
        Folders below which finished RELION and CryoSPARC projects lie. They are never written to.
    output
        Folder for training sets, model, clean picks and report.html.
    database
        The database's folder; by default `database` in the output folder.
    picker
        Write a training set for this picker; may be given several times.
    diameter
        Particle diameter in angstrom, where the jobs do not say.
    remap
        OLD=NEW: a folder that has moved since a project was made; may be given several times.
    epochs
        At most so many epochs of the unpicker's training; 30 by default.
    seed
        Of the splits and the training.
    chunk_micrographs
        Micrographs that one task works on.
    profile
        Where stages run: local, docker, slurm or slurm-bare. By default what the settings say.
    resume
        Go on with what the output folder holds already. With --no-resume it must be empty.
    """
    if not roots:
        raise UsageError("name one folder or more that finished projects lie in.")
    if not resume and output.is_dir() and any(output.iterdir()):
        raise UsageError(f"--no-resume: {output} is not empty. Name a new folder, or leave --no-resume out.")
    prepare_prefect(profile)
    from cryoflow.cluster.remains import own_runs
    from flows.parameters import PipelineParameters
    from flows.pipeline import pipeline

    parameters = filled(
        PipelineParameters,
        roots=roots,
        output=output,
        database=database,
        pickers=picker,
        diameter_A=diameter,
        remaps=remap,
        epochs=epochs,
        seed=seed,
        chunk_micrographs=chunk_micrographs,
    )
    with own_runs():
        result = pipeline(parameters)
    code = show_result(result, as_json=json)
    say(f"look at {result.report}")
    return code
