"""`cryoflow up`, `cryoflow deploy` and `cryoflow trace`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from cryoflow.cli.declared import Profile
from cryoflow.cli.output import Json, UsageError, emit_table, say
from cryoflow.errors import CryoflowError, ExitCode
from cryoflow.settings.profiles import ProfileName
from cryoflow.storage.safe_names import expanded

if TYPE_CHECKING:
    from cryoflow.cluster.supervisor import Running
    from cryoflow.settings.load import Settings

HOST = "Address that the server listens on. Whoever reaches it may run stages: see docs/cluster.md before you open it."
CURE_OF_PAGE = "Its server must have PREFECT_UI_STATIC_DIRECTORY set to a folder that its account can write to."
INSECURE = "Listen on another address than loopback without a secret: whoever reaches it may run stages as you."
VIEWER = "Use --no-viewer if no viewer of the site's database is wanted here."
HOW_TO_SIGN_IN = "Set it to NAME:PASSWORD of whoever runs the server"


def up(
    *,
    profile: Profile = None,
    server: Annotated[
        bool, Parameter(negative="--no-server", help="Use --no-server if a server runs already at the site's address.")
    ] = True,
    host: Annotated[str, Parameter(help=HOST)] = "127.0.0.1",
    insecure: Annotated[bool, Parameter(negative="", help=INSECURE)] = False,
    viewer: Annotated[bool, Parameter(negative="--no-viewer", help=VIEWER)] = True,
    logs: Annotated[Path, Parameter(help="Folder for the output of server and workers.")] = Path(
        "~/cryoflow-logs/services"
    ),
) -> ExitCode:
    """Start the Prefect server, the workers and the viewer, and print the address. Ctrl-C stops them.

    Starts Prefect's server, registers the deployments, starts a worker for each pool of the profile, and the viewer of
    the site's database. Jobs of a cluster go on when it is stopped, and are found again when it is started.
    """
    import signal
    import time

    settings, chosen = _settings(profile)
    from cryoflow.cluster import services, supervisor
    from cryoflow.cluster.deployments import pools
    from cryoflow.cluster.orphaned_runs import end_pools

    if viewer:
        settings = services.with_viewer(settings)
    if server:
        services.check(settings, chosen, host=host, insecure=insecure)
        services.check_port(settings.site.server)
    address = settings.site.server
    for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C, also in the background of a script; systemd, and `kill`
        signal.signal(number, signal.default_int_handler)
    with supervisor.Running(expanded(logs)) as running:
        try:
            if server:
                if services.answers(address):
                    say(f"a server answers at {address} already: using it")
                else:
                    say(f"starting Prefect's server at {address}, a quarter of a minute")
                    running.start(services.server(settings, host=host))
            running.wait_for(f"Prefect's server at {address}", lambda: services.answers(address))
            _require_server(settings)
            _register(settings, chosen)
            end_pools([pool for pool, kind in pools(chosen).items() if kind == "process"], tell=say)
            for worker in services.workers(settings, chosen):
                if not running.start(worker):
                    say(f"the {worker.name} runs already: {running.log(worker)}")
            if problem := services.page_problem(address):
                raise CryoflowError(f"{address} answers, but shows no page ({problem}). {CURE_OF_PAGE}")
            has_viewer = viewer and start_viewer(running, settings)
            if not len(running):
                say(f"everything runs already; open {address} in a browser")
                return ExitCode.OK
            for line in services.other_workers(settings, chosen):
                say(line)
            say(f"open {address} in a browser; logs are in {running.log_folder}; Ctrl-C stops")
            while True:
                time.sleep(1)
                if viewer and not has_viewer:  # the site's first ingest makes the database
                    has_viewer = start_viewer(running, settings)
                if (ended := running.ended()) is None:
                    continue
                say(f"{ended.name} has ended: see {running.log(ended)}")
                if not running.restart(ended):
                    return ExitCode.FAILED
                say(f"{ended.name} is started again")
        except KeyboardInterrupt:
            say("stopping; jobs on a cluster go on")
            return ExitCode.OK


def start_viewer(running: Running, settings: Settings) -> bool:
    """Start the viewer and print its link; return False as long as the site has no database."""
    from cryoflow.cluster import services
    from cryoflow.view.serve import links_of, tokens

    if (service := services.viewer(settings)) is None:
        return False
    read, write = tokens(services.viewer_tokens())
    port = services.viewer_port(settings)
    link = links_of(port, read, write).write
    if services.is_taken(port):
        say(f"port {port} is taken: no other viewer is started; `viewer` in [site] names another port")
    elif running.start(service):
        say(f"open {link} to look at picks and clean them; the links' tokens are in {services.viewer_tokens()}")
    return True


def deploy(*, profile: Profile = None, json: Json = False) -> None:
    """Register all flows as deployments of a profile on the site's Prefect server, and create its pools.

    Run it again after an upgrade or a change of the settings. Schedules are registered switched off. Changes that were
    made to them on their deployment's page stay, and so do the defaults of the pools.
    """
    settings, chosen = _settings(profile)
    _require_server(settings)
    emit_table(_register(settings, chosen), as_json=json)


def trace(
    run: Annotated[str, Parameter(help="Id of a run of the pipeline: the end of its page's address.")],
    *,
    output: Annotated[
        Path | None, Parameter(name=["--output", "-o"], help="File to write the same to, with tabs between the values.")
    ] = None,
    json: Json = False,
) -> None:
    """Show time, memory and exit status of each stage of a run, and its CPU time, wait in the queue and SLURM job."""
    from uuid import UUID

    try:
        flow_run_id = UUID(run)
    except ValueError:
        raise UsageError(f"{run!r} is not the id of a run, such as 0f8fad5b-d9cb-469f-a165-70867728950e.") from None
    _require_server(_settings(None)[0])
    from cryoflow.cluster.trace import trace as trace_of
    from cryoflow.report.execution import write_trace

    rows = trace_of(flow_run_id)
    if output:
        write_trace(output, rows)
    shown = (
        "name", "status", "slurm_job", "slurm_state", "partition", "nodes", "exit", "queued_s", "elapsed_s",
        "cpu_percent", "peak_mb",
    )  # fmt: skip
    emit_table(rows, columns=shown, as_json=json, empty="this run has started no other runs")


def _settings(profile: ProfileName | None) -> tuple[Settings, ProfileName]:
    """Return the settings with a profile, and set Prefect's environment before it is imported."""
    import os

    from cryoflow.settings.load import load_settings

    settings = load_settings(profile=str(profile) if profile else None).settings
    os.environ["PREFECT_API_URL"] = f"{settings.site.server.rstrip('/')}/api"
    import flows  # noqa: F401  # sets what Prefect reads when it is imported

    return settings, settings.place


def _require_server(settings: Settings) -> None:
    from cryoflow.doctor import access_problem

    if problem := access_problem(f"{settings.site.server.rstrip('/')}/api"):
        cure = "Start it (`cryoflow up`), or correct `server` in [site] of cryoflow.toml"
        raise CryoflowError(f"{problem}. {HOW_TO_SIGN_IN if 'secret' in problem else cure}.")


def _register(settings: Settings, profile: ProfileName) -> list[dict[str, object]]:
    from cryoflow.cluster.pools import make_pools
    from cryoflow.cluster.registration import register

    say(f"registering the deployments of the profile {profile} at {settings.site.server}")
    if profile == ProfileName.SLURM:
        for image in settings.site.missing_images():
            say(f"the image {image} is not here: jobs that need it will fail; containers/build makes it")
    make_pools(profile)
    rows: list[dict[str, object]] = []
    for deployment in register(settings, profile):
        rows.append(
            {
                "deployment": f"{deployment.flow_name}/{deployment.name}",
                "pool": deployment.work_pool_name,
                "schedule": ", ".join(str(getattr(s.schedule, "cron", "")) for s in deployment.schedules or ()),
            }
        )
    return rows
