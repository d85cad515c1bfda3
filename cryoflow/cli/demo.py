"""`cryoflow demo`."""

from __future__ import annotations

import shlex

from cryoflow.cli.declared import Profile, declared
from cryoflow.cli.flow_runs import prepare_prefect, show_result
from cryoflow.cli.output import Json, say
from cryoflow.errors import ExitCode
from flows.parameters import DemoParameters


@declared
def demo(parameters: DemoParameters, *, profile: Profile = None, json: Json = False) -> ExitCode:
    """Run the pipeline on two simulated projects: about 1 minute on 2 cores, a second run much less.

    Writes a RELION 5 and a CryoSPARC 4 project of simulated micrographs whose true particles are known, ingests them,
    exports training sets for crYOLO and Topaz, trains the unpicker, cleans the picks, compares them with the truth,
    and writes report.html.
    """
    prepare_prefect(profile)
    from cryoflow.cluster.orphaned_runs import own_runs
    from flows.demo import demo as run

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
