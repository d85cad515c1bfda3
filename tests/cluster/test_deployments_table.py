"""Deployments: every flow is offered, with the resources of its class in the words of its pool."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil
import tomllib
from pathlib import Path

import pytest

from cryoflow.errors import BadInput
from cryoflow.settings.load import Settings, load_settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.site import Site

TOML = """
database = "picks"
profile = "slurm"

[site]
server = "http://login1:4200"
server_database = "postgresql+asyncpg://u@h/db"
read_only = ["/data/It's 50%"]
read_write = ["/data/picks"]
log_folder = "/data/logs"
scratch = "/scratch"
cpu_image = "/images/cryoflow-cpu.sif"
gpu_image = "/images/cryoflow-gpu.sif"
models = "/data/models"

[site.resources.large]
cpus = 16
memory_gb = 64
partition = "cpu"
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    file = tmp_path / "cryoflow.toml"
    file.write_text(TOML)
    monkeypatch.setenv("CRYOFLOW_CONFIG", str(file))
    return load_settings().settings


def stage(name: str):
    from cryoflow.cluster.deployments import STAGES

    return next(s for s in STAGES if s.entrypoint.endswith(f":{name}"))


def test_every_flow_of_the_package_is_deployed_once() -> None:
    from prefect import Flow

    import flows
    from cryoflow.cluster.deployments import STAGES, load_flow

    found = set()
    for module in pkgutil.iter_modules(flows.__path__, "flows."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, Flow) and value.fn.__module__ == module.name:
                found.add(f"{module.name}:{name}")
    assert sorted(found) == sorted(s.entrypoint for s in STAGES)
    names = [load_flow(s).name for s in STAGES]
    assert len(set(names)) == len(names)


def test_a_class_becomes_slurms_words_and_the_gpu_class_gets_the_gpu_image(settings: Settings) -> None:
    from cryoflow.cluster.deployments import job_variables

    large = job_variables(stage("ingest"), settings, ProfileName.SLURM)
    assert large["cpus"] == 16
    assert large["memory_gb"] == 64
    assert large["partition"] == "cpu"
    assert large["image"] == "/images/cryoflow-cpu.sif"
    assert large["read_only"] == ["/data/It's 50%"]
    assert large["log_folder"] == "/data/logs"
    gpu = job_variables(stage("train_unpicker"), settings, ProfileName.SLURM)
    assert gpu["gpus"] == 1
    assert gpu["image"] == "/images/cryoflow-gpu.sif"
    assert "image" not in job_variables(stage("ingest"), settings, ProfileName.SLURM_BARE)


@pytest.mark.parametrize("profile", [ProfileName.SLURM, ProfileName.SLURM_BARE])
def test_the_pools_form_accepts_what_deployments_say(settings: Settings, profile: ProfileName) -> None:
    from cryoflow.cluster.deployments import STAGES, job_variables
    from cryoflow.cluster.job import SlurmJobConfiguration

    for s in STAGES:
        if s.resources:
            job = SlurmJobConfiguration.model_validate(job_variables(s, settings, profile))
            assert job.memory_gb > 0


@pytest.mark.parametrize("profile", [ProfileName.SLURM_BARE, ProfileName.DOCKER])
def test_a_stage_gets_more_memory_than_ingest_of_two_small_projects_needs_where_a_site_sets_none(
    profile: ProfileName,
) -> None:
    from docker.utils import parse_bytes

    from cryoflow.cluster.deployments import STAGES, job_variables

    of_ingest_gb = 1.3  # its peak in a job, measured
    for s in STAGES:
        if s.resources:
            values = job_variables(s, Settings(site=Site(cpu_image="/i.sif")), profile)
            memory_gb = values.get("memory_gb") or parse_bytes(values["mem_limit"]) / 1024**3
            assert memory_gb > 2 * of_ingest_gb, s.entrypoint


def test_docker_gets_volumes_a_memory_limit_and_no_registry(settings: Settings) -> None:
    from cryoflow.cluster.deployments import job_variables

    values = job_variables(stage("ingest"), settings, ProfileName.DOCKER)
    assert "/data/It's 50%:/data/It's 50%:ro" in values["volumes"]
    assert "/data/picks:/data/picks:rw" in values["volumes"]
    assert values["mem_limit"] == "65536m"
    assert values["image_pull_policy"] == "Never"


def test_flows_that_only_wait_run_beside_the_server_and_know_the_profile(settings: Settings) -> None:
    from cryoflow.cluster.deployments import job_variables, pool_of

    assert pool_of(stage("pipeline"), ProfileName.SLURM) == "cryoflow-service"
    assert pool_of(stage("ingest"), ProfileName.SLURM) == "cryoflow-slurm"
    assert pool_of(stage("pipeline"), ProfileName.LOCAL) == "cryoflow-local"
    assert job_variables(stage("pipeline"), settings, ProfileName.SLURM)["env"]["CRYOFLOW_PROFILE"] == "slurm"


def test_without_an_image_the_profile_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cryoflow.cluster.deployments import job_variables

    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match="make images"):
        job_variables(stage("ingest"), Settings(), ProfileName.SLURM)


def test_slurm_without_postgresql_is_refused(settings: Settings) -> None:
    from cryoflow.cluster.services import check

    check(settings, ProfileName.SLURM, host="10.0.0.1", insecure=True)
    check(Settings(), ProfileName.LOCAL)
    with pytest.raises(BadInput, match="PostgreSQL"):
        check(Settings(), ProfileName.SLURM)


def test_a_server_that_nodes_could_not_reach_is_refused(settings: Settings) -> None:
    from cryoflow.cluster.services import check

    with pytest.raises(BadInput, match="login1 does not lead"):
        check(settings, ProfileName.SLURM)


def test_the_server_listens_on_loopback_and_its_pages_call_the_sites_address(settings: Settings) -> None:
    from cryoflow.cluster.services import server, workers

    service = server(settings)
    assert service.argv[-4:] == ("--host", "127.0.0.1", "--port", "4200")
    assert service.environment["PREFECT_UI_API_URL"] == "http://login1:4200/api"
    assert service.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://u@h/db"
    kinds = {
        w.argv[w.argv.index("--pool") + 1]: w.argv[w.argv.index("--type") + 1]
        for w in workers(settings, ProfileName.SLURM)
    }
    assert kinds == {"cryoflow-service": "process", "cryoflow-slurm": "cryoflow-slurm"}


def test_deploying_registers_flows_with_forms_descriptions_and_schedules_that_are_off(
    settings: Settings, prefect_server: None
) -> None:
    from prefect.client.orchestration import get_client

    from cryoflow.cluster.deployments import STAGES
    from cryoflow.cluster.pools import make_pools
    from cryoflow.cluster.registration import register

    for _ in range(2):  # a second time changes nothing
        make_pools(ProfileName.SLURM)
        assert len(list(register(settings, ProfileName.SLURM))) == len(STAGES)
    with get_client(sync_client=True) as client:
        ingest = client.read_deployment_by_name("ingest/ingest (slurm)")
        assert "Read every new or changed finished job" in ingest.description
        assert "class large" in ingest.description
        assert {"cryoflow", "data", "slurm"} <= set(ingest.tags)
        assert [s.active for s in ingest.schedules] == [False]
        assert ingest.parameters["parameters"]["roots"] == ["/data/It's 50%"]
        assert ingest.pull_steps in (None, [])
        assert ingest.entrypoint == "flows.ingest.ingest"
        assert "roots" in str(ingest.parameter_openapi_schema)
        assert client.read_work_pool("cryoflow-slurm").type == "cryoflow-slurm"
        assert client.read_deployment_by_name("pipeline/pipeline (slurm)").work_pool_name == "cryoflow-service"


def test_deploying_again_keeps_what_users_did_to_schedules_and_pools(settings: Settings, prefect_server: None) -> None:
    """`cryoflow up` deploys at each start: a nightly run that was switched on must not be off from then on."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolUpdate
    from prefect.client.schemas.schedules import CronSchedule

    from cryoflow.cluster.pools import make_pools
    from cryoflow.cluster.registration import register

    def deploy() -> None:
        make_pools(ProfileName.SLURM)
        for _ in register(settings, ProfileName.SLURM):
            pass

    deploy()
    with get_client(sync_client=True) as client:
        ingest = client.read_deployment_by_name("ingest/ingest (slurm)")
        (schedule,) = ingest.schedules
        client.update_deployment_schedule(
            ingest.id, schedule.id, active=True, schedule=CronSchedule(cron="30 3 * * 1", timezone="Europe/Zurich")
        )
        template = client.read_work_pool("cryoflow-slurm").base_job_template
        template["variables"]["properties"]["qos"]["default"] = "night"
        template["variables"]["properties"]["cpus"]["description"] = "of an earlier version"
        client.update_work_pool("cryoflow-slurm", WorkPoolUpdate(base_job_template=template))
        deploy()
        (kept,) = client.read_deployment_by_name("ingest/ingest (slurm)").schedules
        fields = client.read_work_pool("cryoflow-slurm").base_job_template["variables"]["properties"]
    assert (kept.active, kept.schedule.cron, kept.schedule.timezone) == (True, "30 3 * * 1", "Europe/Zurich")
    assert fields["qos"]["default"] == "night"
    assert fields["cpus"]["description"] == "CPU cores."


def test_internal_deployments_carry_a_tag_and_come_behind_those_of_users(settings: Settings) -> None:
    from cryoflow.cluster.deployments import deployments
    from cryoflow.settings.profiles import INTERNAL_FLOWS

    by_name = sorted(deployments(settings, ProfileName.SLURM), key=lambda d: d.name.lower())
    internal = ["internal" in deployment.tags for deployment in by_name]
    assert internal == sorted(internal)
    assert {d.flow_name for d, is_internal in zip(by_name, internal, strict=True) if is_internal} == INTERNAL_FLOWS


@pytest.mark.parametrize(
    ("flow_name", "name"),
    [
        ("write shard", "write shard (slurm)"),
        ("write part", "write part (slurm)"),
        ("write part", "z internal: write part (slurm)"),
    ],
)
def test_an_internal_deployment_of_an_earlier_name_goes_once_none_of_its_runs_is_at_work(
    settings: Settings, prefect_server: None, flow_name: str, name: str
) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Completed

    from cryoflow.cluster.pools import make_pools
    from cryoflow.cluster.registration import register

    @flow(name=flow_name)
    def write_shard() -> None: ...

    make_pools(ProfileName.SLURM)
    with get_client(sync_client=True) as client:
        old = client.create_deployment(client.create_flow(write_shard), name)
        run = client.create_flow_run_from_deployment(old)
        assert len(list(register(settings, ProfileName.SLURM))) > 1
        assert client.read_deployment(old).name == name
        client.set_flow_run_state(run.id, Completed(), force=True)
        assert len(list(register(settings, ProfileName.SLURM))) > 1
        with pytest.raises(ObjectNotFound):
            client.read_deployment(old)
        assert client.read_deployment_by_name("write shard/z internal: write shard (slurm)")


@pytest.mark.parametrize("kind", ["cryoflow-slurm", "cryoflow-docker", "process"])
def test_every_field_of_a_pools_form_has_its_position_and_those_of_every_run_come_last(kind: str) -> None:
    from cryoflow.cluster.pools import pool_form

    fields = pool_form(kind)["variables"]["properties"]
    ordered = sorted(fields, key=lambda name: fields[name]["position"])
    assert [fields[name]["position"] for name in ordered] == list(range(len(fields)))
    assert set(ordered[-4:]) == {"command", "env", "labels", "name"}


def test_a_pool_of_another_type_is_not_written_over(prefect_server: None) -> None:
    """As one that an earlier version made: Prefect cannot change a pool's type."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from cryoflow.cluster.pools import make_pools

    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="cryoflow-docker", type="docker", base_job_template={}))
        with pytest.raises(BadInput, match=r"of the type docker, and must be cryoflow-docker.*work-pool delete"):
            make_pools(ProfileName.DOCKER)
        assert client.read_work_pool("cryoflow-docker").type == "docker"
        client.delete_work_pool("cryoflow-docker")
    make_pools(ProfileName.DOCKER)


def test_a_pool_of_the_old_type_is_migrated_once_none_of_its_runs_waits(prefect_server: None) -> None:
    from prefect import flow
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled

    from cryoflow.cluster.pools import make_pools

    @flow(name="of an old pool")
    def stage() -> None: ...

    name = "cryoflow-slurm-bare"
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectNotFound):
            client.delete_work_pool(name)
        template = {
            "job_configuration": {"qos": "{{ qos }}"},
            "variables": {"properties": {"qos": {"default": "night"}}},
        }
        client.create_work_pool(WorkPoolCreate(name=name, type="slurm", base_job_template=template))
        deployment = client.create_deployment(client.create_flow(stage), "d", work_pool_name=name)
        run = client.create_flow_run_from_deployment(deployment)
        with pytest.raises(BadInput, match="1 of its runs have not ended"):
            make_pools(ProfileName.SLURM_BARE)
        client.set_flow_run_state(run.id, Cancelled(), force=True)
        make_pools(ProfileName.SLURM_BARE)
        pool = client.read_work_pool(name)
    assert pool.type == "cryoflow-slurm"
    fields = pool.base_job_template["variables"]["properties"]
    assert fields["qos"]["default"] == "night"
    assert "memory_option" in fields


def test_the_server_refuses_a_run_with_a_path_outside_the_sites_folders_by_its_field(
    settings: Settings, prefect_server: None
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    from cryoflow.cluster.pools import make_pools
    from cryoflow.cluster.registration import register

    make_pools(ProfileName.SLURM)
    list(register(settings, ProfileName.SLURM))
    with get_client(sync_client=True) as client:
        ingest = client.read_deployment_by_name("ingest/ingest (slurm)")
        form = {"roots": [str(settings.site.read_only[0])], "database": "picks"}
        with pytest.raises(PrefectHTTPStatusError) as refused:
            client.create_flow_run_from_deployment(ingest.id, parameters={"parameters": form})
    assert "database" in refused.value.response.text
    assert "roots" not in refused.value.response.text


@pytest.mark.parametrize("profile", list(ProfileName))
def test_the_server_refuses_a_run_with_a_misspelt_job_variable_by_its_name(
    settings: Settings, prefect_server: None, profile: ProfileName
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    from cryoflow.cluster.deployments import deployments
    from cryoflow.cluster.pools import make_pools

    make_pools(profile)
    deployment = next(d for d in deployments(settings, profile) if d.flow_name == "ingest").apply()
    with get_client(sync_client=True) as client:
        form = client.read_deployment(deployment).parameters
        with pytest.raises(PrefectHTTPStatusError) as refused:
            client.create_flow_run_from_deployment(deployment, parameters=form, job_variables={"memry": 4})
        assert client.create_flow_run_from_deployment(deployment, parameters=form, job_variables={"env": {"A": "b"}})
    assert "'memry' was unexpected" in refused.value.response.text


@pytest.mark.parametrize("profile", list(ProfileName))
def test_the_form_of_a_pool_has_each_variable_that_a_deployment_gives(settings: Settings, profile: ProfileName) -> None:
    from cryoflow.cluster.deployments import STAGES, job_variables, pool_of, pools
    from cryoflow.cluster.pools import pool_form

    for s in STAGES:
        form = pool_form(pools(profile)[pool_of(s, profile)])
        assert set(job_variables(s, settings, profile)) <= set(form["variables"]["properties"])


@pytest.mark.parametrize("directive", ["--clusters=b", "--hold", "--mem-per-cpu=1G", "--wrap=ls"])
def test_a_directive_that_would_break_the_worker_is_refused_at_deploy(directive: str) -> None:
    from cryoflow.cluster.deployments import job_variables

    classes = {"small": {"extra_directives": [directive]}}
    site = Site.model_validate({"resources": classes, "cpu_image": "/i.sif"})
    with pytest.raises(BadInput, match=rf"resources\.small: extra_directives.*{directive}.*cannot be used: "):
        job_variables(stage("evaluate"), Settings(site=site), ProfileName.SLURM)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("extra_directives", ["--tmp=5G"]),
        ("warn_seconds", 60),
        ("gpu_type", ["h100", "a100"]),
        ("qos", "long"),
    ],
)
def test_resources_that_no_template_carries_are_refused_at_deploy(field: str, value: object) -> None:
    from cryoflow.cluster.deployments import job_variables

    pbs = Path(__file__).resolve().parents[2] / "examples" / "sites" / "pbs-pro.toml"
    scheduler = tomllib.loads(pbs.read_text())["site"]["scheduler"]
    resources = {"partition": "gpuq", "gpus": 1, field: value}
    site = {"resources": {"gpu": resources}, "scheduler": scheduler}
    with pytest.raises(BadInput, match=f"{field} has no effect"):
        job_variables(stage("pick"), Settings(site=Site.model_validate(site)), ProfileName.SLURM_BARE)


def test_gpus_that_no_template_carries_are_refused_at_deploy() -> None:
    from cryoflow.cluster.deployments import job_variables

    pbs = Path(__file__).resolve().parents[2] / "examples" / "sites" / "pbs-pro.toml"
    scheduler = tomllib.loads(pbs.read_text())["site"]["scheduler"] | {"script": "#PBS -o {log}", "gpu_script": ""}
    site = {"resources": {"gpu": {"gpus": 1}}, "scheduler": scheduler}
    with pytest.raises(BadInput, match="gpus has no effect"):
        job_variables(stage("pick"), Settings(site=Site.model_validate(site)), ProfileName.SLURM_BARE)


def test_no_form_has_words_that_a_page_would_take_for_tags(settings: Settings) -> None:
    """Prefect's pages show descriptions as Markdown: `<project>` in one would not be seen."""
    from cryoflow.cluster.deployments import deployments

    for deployment in deployments(settings, ProfileName.SLURM):
        schema = deployment._parameter_openapi_schema.model_dump_json()
        assert "description" in schema
        assert "<" not in schema + deployment.description, deployment.name


def test_the_files_for_prefects_own_commands_are_made_from_the_same_table() -> None:
    from cryoflow.cluster.templates import files

    folder = Path(__file__).resolve().parents[2] / "deployments"
    for name, text in files():
        assert (folder / name).read_text() == text, "run: python -m cryoflow.cluster.templates deployments"
