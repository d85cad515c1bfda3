"""Deployments: the one table of what is offered in Prefect's pages, for a profile.

A deployment is named after its flow and its place (`ingest (slurm)`), so that several may stand side by side. Its
description is the flow's own docstring, its form the flow's parameters, its resources those of its class at the site.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryoflow.cluster import docker
from cryoflow.cluster.choices import Choices
from cryoflow.cluster.exit_reason import SLURM_TYPE
from cryoflow.cluster.forms import offered_values, restrict_paths
from cryoflow.cluster.start_stage import PATIENCE
from cryoflow.errors import BadInput
from cryoflow.execution.job_script import slurm_script
from cryoflow.execution.template_scheduler import SchedulerTemplates, refuse_ignored
from cryoflow.settings.load import FILE_NAME, Settings
from cryoflow.settings.profiles import INTERNAL_FLOWS, ProfileName, deployment_name
from cryoflow.settings.site import ClassName, ResourceClass, Site
from cryoflow.storage.safe_names import expanded

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

POOL_TYPES: Mapping[ProfileName, str] = {
    ProfileName.LOCAL: "process",
    ProfileName.DOCKER: "cryoflow-docker",
    ProfileName.SLURM: SLURM_TYPE,
    ProfileName.SLURM_BARE: SLURM_TYPE,
}


@dataclass(frozen=True)
class DeployedStage:
    """One flow that is deployed.

    Attributes
    ----------
    entrypoint
        `module:function` of the flow.
    resources
        Its class at the site. None for flows that only start others and wait: in any profile they run beside the
        server, as processes.
    cron
        When it would run by itself; switched off until a user switches it on.
    """

    entrypoint: str
    resources: ClassName | None
    tags: tuple[str, ...]
    cron: str = ""


STAGES: tuple[DeployedStage, ...] = (
    DeployedStage("flows.pipeline:pipeline", None, ("pipeline",)),
    DeployedStage("flows.demo:demo", None, ("pipeline", "demo")),
    DeployedStage("flows.ingest:ingest", "large", ("data",), cron="0 2 * * *"),
    DeployedStage("flows.export:export", None, ("picking",)),
    DeployedStage("flows.export_shards:cut_export", "small", ("picking",)),
    DeployedStage("flows.export_shards:write_shard", "small", ("picking", "shard")),
    DeployedStage("flows.export:write_training_set", "small", ("picking",)),
    DeployedStage("flows.picking:train_picker_and_pick", None, ("picking", "training")),
    DeployedStage("flows.picking_shards:train_picker", "gpu", ("picking", "training")),
    DeployedStage("flows.picking_shards:pick", "gpu", ("picking", "shard")),
    DeployedStage("flows.finding:find_particles", None, ("picking",)),
    DeployedStage("flows.unpicker:train_unpicker", "gpu", ("picking", "training")),
    DeployedStage("flows.detector:train_detector", "gpu", ("picking", "training")),
    DeployedStage("flows.nightly:retrain", "gpu", ("picking", "training"), cron="0 4 * * *"),
    DeployedStage("flows.scoring:score", "gpu", ("picking", "shard")),
    DeployedStage("flows.learning:learn", None, ("training",), cron="0 3 * * *"),
    DeployedStage("flows.learning:update_detector", "gpu", ("training",)),
    DeployedStage("flows.learning:update_unpicker", "gpu", ("training",)),
    DeployedStage("flows.learning:improve", "gpu", ("picking", "training")),
    DeployedStage("flows.unpicker:unpick", "gpu", ("picking",)),
    DeployedStage("flows.evaluation:evaluate", "small", ("reporting",)),
    DeployedStage("flows.report:report", "small", ("reporting",)),
)


def tags_of(stage: DeployedStage, flow_name: str, place: str) -> list[str]:
    """Return the tags of a stage's deployment, by which users filter Prefect's lists."""
    return ["cryoflow", *stage.tags, *(["internal"] if flow_name in INTERNAL_FLOWS else []), place]


def pool_name(profile: ProfileName) -> str:
    """Return the pool that a profile's stages run on."""
    return f"cryoflow-{profile}"


def service_pool_name(profile: ProfileName) -> str:
    """Return the pool of flows that only wait for others; locally it is the same."""
    return pool_name(profile) if profile == ProfileName.LOCAL else "cryoflow-service"


def pool_of(stage: DeployedStage, profile: ProfileName) -> str:
    """Return the pool that a stage runs on."""
    return service_pool_name(profile) if stage.resources is None else pool_name(profile)


def pools(profile: ProfileName) -> dict[str, str]:
    """Return the pools that a profile needs: name -> type."""
    return {service_pool_name(profile): "process"} | {pool_name(profile): POOL_TYPES[profile]}


def environment(site: Site) -> dict[str, str]:
    """Return the variables that every run needs, wherever it is."""
    return {
        "PREFECT_API_URL": f"{site.server.rstrip('/')}/api",
        "PREFECT_LOGGING_LEVEL": "INFO",
        PATIENCE: f"{site.server_patience_minutes:g}",
        **engine_defaults(),
    }


def engine_defaults() -> dict[str, str]:
    """Return what `flows` sets for Prefect; an engine reads it before it imports a flow, so it must be set before."""
    from flows import PREFECT_DEFAULTS

    return {name: value for name, value in PREFECT_DEFAULTS.items() if "SERVER" not in name}


def job_variables(stage: DeployedStage, settings: Settings, profile: ProfileName) -> dict[str, Any]:
    """Return a stage's resources in the job variables of its pool's type."""
    env = environment(settings.site)
    if stage.resources is None:
        return {"env": env | _where_stages_run(profile)}
    if profile == ProfileName.LOCAL:
        return {"env": env}
    if profile == ProfileName.DOCKER:
        resources = settings.site.resource_class(stage.resources)
        values = docker.variables(settings.site, resources, _image(settings.site, resources.gpus))
        return values | {"env": values["env"] | env}
    return _slurm_variables(settings.site, stage.resources, profile) | {"env": env}


def _where_stages_run(profile: ProfileName) -> dict[str, str]:
    """Return the variables by which flows that start others find the profile and the settings file of the deploy."""
    from cryoflow.settings.load import find_file

    file = find_file()
    return {"CRYOFLOW_PROFILE": str(profile)} | ({"CRYOFLOW_CONFIG": str(file.resolve())} if file else {})


def resource_variables(resources: ResourceClass) -> dict[str, Any]:
    """Return the numbers of a class as a SLURM pool's form has them; what is not set is left to the pool."""
    values = resources.model_dump(mode="json")
    unset = {key: field.default for key, field in ResourceClass.model_fields.items() if key.startswith("pack")}
    values = {key: value for key, value in values.items() if unset.get(key) != value}
    return {key: value for key, value in values.items() if value not in (None, [], 0) or key == "gpus"}


def _slurm_variables(site: Site, name: ClassName, profile: ProfileName) -> dict[str, Any]:
    resources = site.resource_class(name)
    values: dict[str, Any] = {
        "read_only": [str(p) for p in dict.fromkeys((*site.read_only, *_folders_of_pickers(site)))],
        "read_write": [str(p) for p in site.read_write],
        "log_folder": str(expanded(site.log_folder)),
        "scratch": str(site.scratch) if site.scratch else None,
        "setup": site.setup,
        "apptainer_options": list(site.apptainer_options),
        "memory_option": None if site.memory == "per-node" else site.memory,
        "gpu_option": None if site.gpu_option == "gres" else site.gpu_option,
        "leave_out": list(site.leave_out),
    }
    if profile == ProfileName.SLURM:
        values["image"] = _image(site, resources.gpus)
    values = {key: value for key, value in values.items() if value not in (None, "", [])}
    values = resource_variables(resources) | values
    _check_form(name, values, site)
    return values


def _folders_of_pickers(site: Site) -> list[Path]:
    """Return the folders of pickers' programs: images must see them."""
    return [picker.programs for picker in site.pickers.values() if picker.programs]


def _check_form(name: ClassName, values: Mapping[str, Any], site: Site) -> None:
    """Refuse values now that the form of a job would refuse when a stage starts, or that the scheduler is not given."""
    from pydantic import ValidationError

    from cryoflow.cluster.job import SlurmJobConfiguration

    try:
        job = SlurmJobConfiguration.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        text = str(first["msg"]).removeprefix("Value error, ")
        raise BadInput(FILE_NAME, f"resources.{name}: {field}: {text}.") from None
    request = job.request(name=name, flow_run_id="", log=Path("/log"))
    if site.scheduler:
        refuse_ignored(SchedulerTemplates.of(site.scheduler), request)
    elif site.slurmrestd:
        from cryoflow.execution.slurm_rest import job_fields

        job_fields(slurm_script(request.sbatch_options()))


def _image(site: Site, gpus: int) -> str:
    image = site.gpu_image if gpus and site.gpu_image else site.cpu_image
    if image is None:
        raise BadInput(FILE_NAME, "names no image.", "Build one with `make images`, and set cpu_image in [site].")
    return image


def scheduled_parameters(stage: DeployedStage, settings: Settings) -> dict[str, Any] | None:
    """Return the parameters of a scheduled stage from the site's settings; None where a setting is missing."""
    site, database = settings.site, settings.database
    if database is None:
        return None
    if stage.entrypoint == "flows.ingest:ingest" and site.read_only:
        return {"roots": [str(p) for p in site.read_only], "database": str(database)}
    if stage.entrypoint == "flows.learning:learn" and site.read_only and site.models:
        roots = [str(p) for p in site.read_only]
        return {"roots": roots, "database": str(database), "models": str(site.models)}
    if stage.entrypoint == "flows.nightly:retrain" and site.models:
        return {"database": str(database), "models": str(site.models)}
    return None


def load_flow(stage: DeployedStage) -> Any:
    """Load a stage's flow."""
    module, _, name = stage.entrypoint.partition(":")
    return getattr(importlib.import_module(module), name)


def deployments(settings: Settings, profile: ProfileName) -> Iterator[RunnerDeployment]:
    """Return all deployments of a profile, not yet registered."""
    import cryoflow

    choices = Choices(settings)
    for stage in STAGES:
        yield _deployment(stage, settings, profile, cryoflow.__version__, choices)


def _deployment(
    stage: DeployedStage, settings: Settings, profile: ProfileName, version: str, choices: Choices
) -> RunnerDeployment:
    from prefect.deployments.runner import EntrypointType  # type: ignore[attr-defined]
    from prefect.schedules import Cron

    flow = load_flow(stage)
    parameters = scheduled_parameters(stage, settings) if stage.cron else None
    deployment: RunnerDeployment = flow.to_deployment(
        name=deployment_name(flow.name, profile),
        description=_description(flow.description or "", stage, profile),
        tags=tags_of(stage, flow.name, str(profile)),
        version=version,
        work_pool_name=pool_of(stage, profile),
        job_variables=job_variables(stage, settings, profile),
        schedules=[Cron(stage.cron, active=False)] if parameters else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
    )
    schema = deployment._parameter_openapi_schema.model_dump(exclude_unset=True)
    restrict_paths(schema, settings)
    if flow.name not in INTERNAL_FLOWS:
        choices.offer(schema)
    deployment._parameter_openapi_schema = type(deployment._parameter_openapi_schema).model_validate(schema)
    deployment.parameters = {"parameters": parameters} if parameters else offered_values(schema, settings)
    return deployment


def _description(docstring: str, stage: DeployedStage, profile: ProfileName) -> str:
    where = "beside the server" if stage.resources is None else f"as a job of the class {stage.resources}"
    return f"{docstring.strip()}\n\nRuns {where} ({profile})."
