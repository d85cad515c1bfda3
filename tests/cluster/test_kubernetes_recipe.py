"""The Kubernetes recipe: the form fills into a Job, deployments name fields of it, manifests name each other."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deployments"
PAGE = (FOLDER.parent / "docs" / "cluster.md").read_text()


@pytest.fixture
def form() -> dict[str, Any]:
    return dict(json.loads((FOLDER / "kubernetes.json").read_text()))


@pytest.fixture
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    found = [m for m in yaml.safe_load_all((FOLDER / "kubernetes-site.yaml").read_text()) if m]
    return {(m["kind"], m["metadata"]["name"]): m for m in found}


@pytest.fixture
def deployments() -> list[dict[str, Any]]:
    return list(yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())["deployments"])


def test_a_deployments_values_fill_the_pools_form_into_a_job_without_gaps(
    form: dict[str, Any], deployments: list[dict[str, Any]]
) -> None:
    from prefect.utilities.templating import apply_values

    defaults = {name: field.get("default") for name, field in form["variables"]["properties"].items()}
    for deployment in deployments:
        values = defaults | deployment["work_pool"]["job_variables"]
        values |= {"name": "run", "command": "prefect flow-run execute", "labels": {}}
        job = apply_values(form["job_configuration"]["job_manifest"], values)
        assert "{{" not in json.dumps(job)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == values["gpus"]
        assert container["image"] == ("cryoflow:gpu" if values["gpus"] else "cryoflow:cpu")
        assert job["spec"]["activeDeadlineSeconds"] == values["time_limit_s"] > 0


def test_the_form_has_each_field_that_the_job_or_a_deployment_names_and_no_other(
    form: dict[str, Any], deployments: list[dict[str, Any]]
) -> None:
    fields = set(form["variables"]["properties"])
    assert set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(form["job_configuration"]))) == fields
    for deployment in deployments:
        assert set(deployment["work_pool"]["job_variables"]) <= fields


def test_projects_are_mounted_read_only_from_the_claims_of_the_manifests(
    form: dict[str, Any], manifests: dict[tuple[str, str], dict[str, Any]]
) -> None:
    pod = form["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount for mount in pod["containers"][0]["volumeMounts"]}
    asked = pod["completions"], pod["parallelism"], pod["restartPolicy"], pod["containers"][0]["name"]
    assert asked == (1, 1, "Never", "prefect-job"), "Prefect's worker refuses a form without them"
    assert {volume["name"] for volume in pod["volumes"]} == set(mounts)
    assert mounts["projects"]["readOnly"] is True
    assert "readOnly" not in mounts["results"]
    fields = form["variables"]["properties"]
    for name in mounts:
        assert ("PersistentVolumeClaim", fields[name]["default"]) in manifests
    assert {m["metadata"]["namespace"] for m in manifests.values()} == {fields["namespace"]["default"]}


def test_the_manifests_name_each_other_and_the_page_makes_their_secrets(
    manifests: dict[tuple[str, str], dict[str, Any]],
) -> None:
    binding = manifests["RoleBinding", "cryoflow-worker"]
    assert ("Role", binding["roleRef"]["name"]) in manifests
    assert all((subject["kind"], subject["name"]) in manifests for subject in binding["subjects"])
    for (kind, _), manifest in manifests.items():
        if kind == "Deployment":
            pod = manifest["spec"]["template"]
            assert manifest["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
            if account := pod["spec"].get("serviceAccountName"):
                assert ("ServiceAccount", account) in manifests
            (container,) = pod["spec"]["containers"]
            for source in container["envFrom"]:
                assert f"create secret generic {source['secretRef']['name']} " in PAGE
    server, service = manifests["Deployment", "cryoflow-server"], manifests["Service", "cryoflow-server"]
    assert service["spec"]["selector"] == server["spec"]["selector"]["matchLabels"]
    worker = manifests["Deployment", "cryoflow-worker"]["spec"]["template"]["spec"]["containers"][0]
    address = next(v["value"] for v in worker["env"] if v["name"] == "PREFECT_API_URL")
    assert address == f"http://cryoflow-server:{service['spec']['ports'][0]['port']}/api"


def test_every_flow_of_a_user_is_deployed_and_shards_are_not(deployments: list[dict[str, Any]]) -> None:
    from cryoflow.cluster.deployments import STAGES, load_flow
    from cryoflow.settings.profiles import INTERNAL_FLOWS

    users = [stage.entrypoint for stage in STAGES if load_flow(stage).name not in INTERNAL_FLOWS]
    assert [deployment["entrypoint"] for deployment in deployments] == users
    assert all("CRYOFLOW_PROFILE" not in d["work_pool"]["job_variables"]["env"] for d in deployments)
