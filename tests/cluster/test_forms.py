"""Forms at a site: every deployed flow refuses relative and foreign paths by field, and offers the site's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cryoflow.cluster.deployments import STAGES, DeployedStage, deployments
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.site import Site

SETTINGS = Settings(
    database=Path("/data/cryo-flow/picks"),
    site=Site(
        read_only=(Path("/data/pro jects.x"),),
        read_write=(Path("/data/cryo-flow"),),
        models=Path("/data/cryo-flow/m"),
        masks=(Path("/data/cryo-flow/masks"), Path("/data/more")),
    ),
)
INSIDE = ("/data/pro jects.x/P12", "/data/cryo-flow", "/data/cryo-flow/picks/.hidden/..x")
OUTSIDE = ("out", "./out", "../out", "~/out", "/home/ann", "/data/cryo-flow2", "/data/pro jectsxx/a",
           "/data/cryo-flow/../../etc", "/data/cryo-flow/..", "")  # fmt: skip


@pytest.fixture(scope="module")
def forms() -> dict[str, Any]:
    """Flow name -> deployment, of all flows that are deployed."""
    return {d.flow_name: d for d in deployments(SETTINGS, ProfileName.SLURM_BARE)}


def paths_of(schema: dict[str, Any]) -> dict[str, bool]:
    """Fields of a form that are paths, and whether each is a list of them."""
    (model,) = [d for n, d in schema["definitions"].items() if schema["properties"]["parameters"]["$ref"].endswith(n)]
    found = {}
    for name, field in model["properties"].items():
        kinds = [field, *field.get("anyOf", [])]
        if any(kind.get("format") == "path" for kind in kinds):
            found[name] = False
        elif field.get("items", {}).get("format") == "path":
            found[name] = True
    return found


def problems(schema: dict[str, Any], name: str, value: object) -> list[Any]:
    from prefect.utilities.schema_tools.validation import validate

    found: list[Any] = validate({"parameters": {name: value}}, schema, ignore_required=True)
    return [p for p in found if name in p.absolute_path]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.entrypoint)
def test_every_deployment_refuses_relative_and_foreign_paths_by_field(
    stage: DeployedStage, forms: dict[str, Any]
) -> None:
    from cryoflow.cluster.deployments import load_flow

    schema = forms[load_flow(stage).name]._parameter_openapi_schema.model_dump(exclude_unset=True)
    fields = paths_of(schema)
    assert fields, "a flow without any path"
    for name, is_list in fields.items():
        for path in OUTSIDE:
            assert problems(schema, name, [path] if is_list else path), (name, path)
        for path in INSIDE:
            assert not problems(schema, name, [path] if is_list else path), (name, path)


def test_a_field_says_where_its_path_may_lie(forms: dict[str, Any]) -> None:
    schema = forms["pipeline"]._parameter_openapi_schema.model_dump(exclude_unset=True)
    text = str(schema)
    assert "below /data/pro jects.x or /data/cryo-flow" in text


def test_examples_are_paths_of_this_site(forms: dict[str, Any]) -> None:
    for flow_name, examples in {
        "pipeline": {
            "roots": "/data/pro jects.x", "output": "/data/cryo-flow/november", "database": "/data/cryo-flow/picks",
        },
        "find particles": {"micrographs": "/data/pro jects.x/micrographs"},
        "unpick": {"model": "/data/cryo-flow/m/unpicker"},
    }.items():  # fmt: skip
        schema = forms[flow_name]._parameter_openapi_schema.model_dump(exclude_unset=True)
        (model,) = [
            d for n, d in schema["definitions"].items() if schema["properties"]["parameters"]["$ref"].endswith(n)
        ]
        for name, example in examples.items():
            assert f"Example: {example} [path, " in model["properties"][name]["description"]


def test_forms_offer_the_sites_database_projects_models_and_masks(forms: dict[str, Any]) -> None:
    assert forms["ingest"].parameters["parameters"] == {
        "roots": ["/data/pro jects.x"],
        "database": "/data/cryo-flow/picks",
    }
    assert forms["unpick"].parameters["parameters"]["database"] == "/data/cryo-flow/picks"
    assert forms["retrain"].parameters["parameters"]["models"] == "/data/cryo-flow/m"
    assert forms["report"].parameters["parameters"]["masks"] == "/data/cryo-flow/masks"
    assert "masks" not in forms["pick"].parameters["parameters"]  # whether to write them


def test_entries_and_projects_are_chosen_from_lists_that_a_deploy_refreshes_or_typed(tmp_path: Path) -> None:
    from prefect.utilities.schema_tools.validation import validate

    from cryoflow.database import layout

    settings = Settings(database=tmp_path)

    def lists() -> tuple[dict[str, Any], dict[str, Any]]:
        """Schema of `export`, and of each of its fields with a list what can be chosen."""
        (export,) = [d for d in deployments(settings, ProfileName.SLURM_BARE) if d.flow_name == "export"]
        schema = export._parameter_openapi_schema.model_dump(exclude_unset=True)
        fields = schema["definitions"]["ExportParameters"]["properties"]
        offered = {name: field["anyOf"][0]["items"]["enum"] for name, field in fields.items() if "anyOf" in field}
        return schema, offered

    assert not {"entries", "projects"} & set(lists()[1])
    for number in (9, 51):
        folder = tmp_path / "P12" / layout.ENTRIES / f"Refine3D_J{number}"
        folder.mkdir(parents=True)
        (folder / layout.INFO).touch()
    (tmp_path / "of no project").mkdir()
    schema, offered = lists()
    entry = "P12/Refine3D_J9"
    assert (offered["entries"], offered["projects"]) == ([entry, "P12/Refine3D_J51"], ["P12"])
    for names in ([entry], ["new/Refine3D_job1"], []):
        assert not validate({"parameters": {"entries": names}}, schema, ignore_required=True)
    assert validate({"parameters": {"entries": entry}}, schema, ignore_required=True)


def test_a_site_without_folders_takes_any_absolute_path_but_no_relative_one() -> None:
    (ingest,) = [d for d in deployments(Settings(), ProfileName.LOCAL) if d.flow_name == "ingest"]
    schema = ingest._parameter_openapi_schema.model_dump(exclude_unset=True)
    assert problems(schema, "database", "picks")
    assert not problems(schema, "database", "/home/ann/picks")
