"""`cryoflow demo`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from cryoflow.cli.flow_runs import filled, prepare_prefect, show_result
from cryoflow.cli.output import Json, say
from cryoflow.errors import ExitCode
from cryoflow.settings.profiles import ProfileName


def demo(
    *,
    output: Annotated[Path, Parameter(name=["--output", "-o"])] = Path("demo"),
    micrographs: int = 12,
    epochs: int | None = None,
    seed: int = 1,
    profile: ProfileName | None = None,
    json: Json = False,
) -> ExitCode:
    """Run the whole path on two simulated projects: about 3 minutes on 2 cores, a second run much less.

    Writes a RELION 5 and a CryoSPARC 4 project of simulated micrographs whose true particles are known, ingests them,
    exports training sets for crYOLO and Topaz, trains the unpicker, cleans the picks, compares them with the truth,
    and writes report.html.

    Parameters
    ----------
    output
        Folder to write to; a second run goes on with what is there.
    micrographs
        Of each project.
    epochs
        Of the unpicker's training; 12 by default.
    seed
        Another number is another simulation.
    profile
        Where stages run: local, docker, slurm or slurm-bare. By default what the settings say.
    """
    prepare_prefect(profile)
    from cryoflow.cluster.remains import own_runs
    from flows.demo import demo as run
    from flows.parameters import DemoParameters

    parameters = filled(DemoParameters, output=output, n_micrographs=micrographs, epochs=epochs, seed=seed)
    with own_runs():
        result = run(parameters)
    code = show_result(result, as_json=json)
    database, model = shlex.quote(str(result.database)), shlex.quote(str(result.model))
    say(f"\nlook at {result.report} first, then try")
    say(f"  cryoflow database list --database {database}")
    say(f"  cryoflow database show {shlex.quote(result.unpicked[0])} --database {database}")
    say(f"  cryoflow unpicker info {model}")
    say("  cryoflow run /path/to/your/projects --output run      (the same on your own projects)")
    return code
