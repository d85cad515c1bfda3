"""Forms at a site: every deployed flow refuses relative and foreign paths by field, and offers the site's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryoflow.cluster import choices
from cryoflow.cluster.deployments import STAGES, DeployedStage, deployments
from cryoflow.database import layout
from cryoflow.parameters import RARE, fields_of
from cryoflow.pickers.parameters import ExportParameters
from cryoflow.settings.load import Settings
from cryoflow.settings.profiles import INTERNAL_FLOWS, ProfileName
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


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.entrypoint)
def test_a_flow_deployed_by_prefects_own_commands_refuses_relative_paths_by_field(stage: DeployedStage) -> None:
    """They know nothing of the site, and the working folder of a run is deleted with what it holds."""
    from prefect.utilities.callables import parameter_schema

    from cryoflow.cluster.deployments import load_flow

    schema = parameter_schema(load_flow(stage)).model_dump(exclude_unset=True)
    for name, is_list in paths_of(schema).items():
        for path in ("out", "./out", "../out", "~/out", ""):
            assert problems(schema, name, [path] if is_list else path), (name, path)
        assert not problems(schema, name, ["/anywhere"] if is_list else "/anywhere")


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
    for number in range(choices.MOST):
        folder = tmp_path / "P12" / layout.ENTRIES / f"Extract_J{number}"
        folder.mkdir(parents=True)
        (folder / layout.INFO).touch()
    schema, offered = lists()
    assert set(offered) == {"projects"}
    assert "Example: P12/*" in schema["definitions"]["ExportParameters"]["properties"]["entries"]["description"]


def test_a_site_without_folders_takes_any_absolute_path_but_no_relative_one() -> None:
    (ingest,) = [d for d in deployments(Settings(), ProfileName.LOCAL) if d.flow_name == "ingest"]
    schema = ingest._parameter_openapi_schema.model_dump(exclude_unset=True)
    assert problems(schema, "database", "picks")
    assert not problems(schema, "database", "/home/ann/picks")


def fields_of_form(deployment: Any) -> dict[str, dict[str, Any]]:
    """Return the fields of a deployment's form by name, in the order in which Prefect's pages show them."""
    schema = deployment._parameter_openapi_schema.model_dump(exclude_unset=True)
    name = schema["properties"]["parameters"]["$ref"].rpartition("/")[2]
    fields = schema["definitions"][name]["properties"]
    return dict(sorted(fields.items(), key=lambda item: item[1]["position"]))


def for_users() -> Iterator[DeployedStage]:
    from cryoflow.cluster.deployments import load_flow

    return (stage for stage in STAGES if load_flow(stage).name not in INTERNAL_FLOWS)


@pytest.fixture(scope="module")
def forms_with_entries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Flow name -> deployment, of a site whose database holds entries of two projects."""
    root = tmp_path_factory.mktemp("picks")
    for project, entry in (("apo", "Refine3D_job035"), ("P12", "AutoPick_J9")):
        folder = root / project / layout.ENTRIES / entry
        folder.mkdir(parents=True)
        (folder / layout.INFO).touch()
    site = SETTINGS.site.model_copy(update={"read_write": (root.parent,)})
    settings = SETTINGS.model_copy(update={"database": root, "site": site})
    return {d.flow_name: d for d in deployments(settings, ProfileName.SLURM_BARE)}


OFTEN_LEFT_ALONE = {
    "seed", "patience", "validation", "programs", "container", "image", "gpus", "cpus", "settings", "work",
    "shard_micrographs", "chunk_micrographs", "joint_every", "least_gain", "box_px", "reflink", "flip_x", "unlabeled",
}  # fmt: skip
"""Fields that a biologist does not need, wherever a form has them."""


@pytest.mark.parametrize("stage", for_users(), ids=lambda stage: stage.entrypoint)
def test_every_form_says_what_to_type_offers_what_the_site_has_and_puts_rare_fields_last(
    stage: DeployedStage, forms: dict[str, Any], forms_with_entries: dict[str, Any]
) -> None:
    from cryoflow.cluster.deployments import load_flow

    fields = fields_of_form(forms[load_flow(stage).name])
    of_site = fields_of_form(forms_with_entries[load_flow(stage).name])
    assert list(fields) == list(of_site)
    is_rare = [field["description"].startswith(f"{RARE}. ") for field in fields.values()]
    assert is_rare == sorted(is_rare), "rarely needed fields come last"
    assert not {*fields} & OFTEN_LEFT_ALONE - {name for name, rare in zip(fields, is_rare, strict=True) if rare}
    for name, field in fields.items():
        assert field["description"].strip("."), name
        kinds = [field, field.get("items", {})]
        chosen = field.get("type") == "boolean" or any("enum" in kind for kind in kinds)
        example = re.search(r"Example: ([^\[]+)", field["description"])
        shown = field.get("default") not in (None, "", [], {})
        assert chosen or example or shown, f"nothing says what to type into {name}"
        if example and re.fullmatch(r"(?:P190|apoferritin)(?:/\S+)?", example[1].split()[0]):
            kind = of_site[name]["anyOf"][0]
            listed = kind.get("items", kind)["enum"]
            assert listed == (["P12/AutoPick_J9", "apo/Refine3D_job035"] if "/" in example[1] else ["P12", "apo"])
            assert f"Example: {listed[0]}" in of_site[name]["description"]


@pytest.mark.parametrize("stage", for_users(), ids=lambda stage: stage.entrypoint)
def test_a_form_with_its_required_fields_alone_is_enough_or_says_what_else_to_name(
    stage: DeployedStage, forms: dict[str, Any]
) -> None:
    """The best entries are the default: a form without entries takes these."""
    from prefect.exceptions import ParameterTypeError

    from cryoflow.cluster.deployments import load_flow

    flow = load_flow(stage)
    schema = forms[flow.name]._parameter_openapi_schema.model_dump(exclude_unset=True)
    (model,) = [d for n, d in schema["definitions"].items() if schema["properties"]["parameters"]["$ref"].endswith(n)]
    values: dict[str, Any] = {}
    for name in model["required"]:
        field = model["properties"][name]
        one = "/data/cryo-flow/x" if field.get("format") == "path" else field.get("enum", [100.0])[0]
        values[name] = ["/data/cryo-flow/x"] if field.get("type") == "array" else one
    needed = {"find particles": "to_pick", "train and pick": "to_pick", "improve": "entry"}.get(flow.name)
    if needed:
        with pytest.raises(ParameterTypeError, match=needed):
            flow.validate_parameters({"parameters": values})
    else:
        flow.validate_parameters({"parameters": values})


def test_a_field_of_names_and_values_says_that_json_is_typed() -> None:
    described = {f.name: f.description for f in fields_of(ExportParameters)}
    assert described["settings"].endswith('by hand, {"NAME": "VALUE"}. Example: {"target_pixel_size": "8"}')
