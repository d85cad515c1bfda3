"""Declarations of stages: what is said once comes out of the command line, the form, the library and the docs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pytest
from annotated_types import Gt, MinLen
from cyclopts import App, CycloptsError
from pydantic import TypeAdapter, ValidationError, create_model

from cryoflow.cli.declared import declared
from cryoflow.cli.output import UsageError
from cryoflow.cli.reference import field_rows, options_table
from cryoflow.parameters import (
    RARE,
    Count,
    DatabaseFolder,
    DiameterA,
    Entries,
    Option,
    ParameterError,
    Parameters,
    Remaps,
    Roots,
    Share,
    fields_of,
)


@dataclass(frozen=True, kw_only=True)
class Shared(Parameters):
    threads: Annotated[Count, Option(group=RARE)] = 4
    """Threads that smooth."""
    seed: int = 0
    """Seed of the noise."""


@dataclass(frozen=True, kw_only=True)
class SmoothParameters(Shared):
    """Smooth the micrographs of a database."""

    entries: Entries = ()
    database: DatabaseFolder
    width_A: Annotated[float, Gt(0), Option(names=("--width", "--sigma"), examples=(20.0,))] = 10.0
    """Width of the filter in angstrom."""
    picker: Annotated[str, Option(choices=lambda: ("topaz", "cryolo"))] = "cryolo"
    """Program whose picks are kept."""
    settings: Annotated[dict[str, str], Option(names=("--set",))] = field(default_factory=dict)
    """Settings by hand."""
    remaps: Remaps = ()
    old: Annotated[float | None, Option(hidden=True, form=False)] = None
    keep_edges: bool = True
    """Leave the edges as they are."""
    dry: bool = False
    """Write nothing."""
    test: Share | None = None
    """Share of the micrographs."""

    def check(self) -> None:
        if self.width_A > 100 and self.keep_edges:
            raise ParameterError("{width_A} of more than 100 A and {keep_edges} do not go together.")


def smooth(parameters: SmoothParameters) -> SmoothParameters:
    """Smooth."""
    return parameters


@pytest.fixture
def smooth_command() -> Callable[..., Any]:
    app = App(name="smooth", result_action="return_value", print_error=False, exit_on_error=False)
    app.default(declared(smooth))

    def run(*arguments: str) -> Any:
        return app(list(arguments))

    return run


def form(declaration: type[Parameters]) -> dict[str, Any]:
    """The schema of a form, as a flow's parameter has it, after a server has stored it as jsonb."""
    schema = create_model("Flow", parameters=(declaration, ...)).model_json_schema()["$defs"]
    stored: dict[str, Any] = as_jsonb(schema[declaration.__name__])
    return stored


def as_jsonb(value: Any) -> Any:
    """PostgreSQL's jsonb sorts keys by length, then by bytes."""
    if isinstance(value, dict):
        return {k: as_jsonb(value[k]) for k in sorted(value, key=lambda k: (len(k.encode()), k.encode()))}
    return [as_jsonb(v) for v in value] if isinstance(value, list) else value


def shown_order(schema: dict[str, Any]) -> list[str]:
    """The order in which Prefect's pages show the fields of an object, whatever its level: by position."""
    return sorted(schema["properties"], key=lambda name: schema["properties"][name].get("position", 0))


def test_a_field_that_is_declared_is_an_option_a_field_of_the_form_an_argument_and_a_row_of_the_docs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    @dataclass(frozen=True, kw_only=True)
    class Extended(SmoothParameters):
        """Smooth more."""

        passes: Annotated[Count, Option(names=("--passes", "-p"), examples=(3,))] = 2
        """How often to smooth."""

    def library(parameters: Extended) -> int:
        return parameters.passes

    def command(parameters: Extended) -> int:
        """Smooth more."""
        return library(parameters)

    command.__annotations__["parameters"] = Extended  # it is local to this test, where no name is resolved
    app = App(name="more", result_action="return_value", help_format="plaintext")
    app.default(declared(command))
    app(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "--passes -p INT How often to smooth (at least 1). [default: 2]" in shown
    assert app(["--database", "DB", "-p", "5"]) == 5
    assert library(Extended(database=Path("DB"), passes=7)) == 7
    assert form(Extended)["properties"]["passes"] == {
        "title": "Passes",
        "type": "integer",
        "default": 2,
        "minimum": 1,
        "position": 1,
        "description": "How often to smooth (at least 1). Example: 3",
    }
    assert "| `--passes, -p` | 2 | How often to smooth (at least 1). Example: 3 |" in options_table(
        field_rows(Extended)
    )


def test_the_form_keeps_the_declared_order_where_the_server_loses_that_of_keys() -> None:
    schema = form(SmoothParameters)
    declared_order = [f.name for f in fields_of(SmoothParameters) if f.option.form is not False]
    assert list(schema["properties"]) != declared_order
    assert shown_order(schema) == declared_order


def test_required_fields_come_first_then_own_ones_and_rarely_needed_ones_last() -> None:
    names = [f.name for f in fields_of(SmoothParameters)]
    assert names[:2] == ["database", "entries"]
    assert names[-2:] == ["seed", "threads"]


def test_the_form_marks_required_fields_offers_choices_and_refuses_others() -> None:
    schema = form(SmoothParameters)
    assert schema["required"] == ["database"]
    assert schema["properties"]["picker"]["enum"] == ["cryolo", "topaz"]
    assert schema["additionalProperties"] is False
    assert "old" not in schema["properties"]
    assert all(p["description"].strip(".") for p in schema["properties"].values())


def test_a_field_that_a_form_requires_may_be_left_out_on_the_command_line() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Two(Parameters):
        database: Annotated[DatabaseFolder | None, Option(required_in_form=True)] = None

    schema = create_model("Flow", parameters=(Two, ...)).model_json_schema()["$defs"]["Two"]
    assert schema["required"] == ["database"]
    assert "default" not in schema["properties"]["database"]
    assert Two().database is None


def test_a_form_shows_a_value_that_may_be_left_out_as_one_empty_field() -> None:
    share = form(SmoothParameters)["properties"]["test"]
    assert share["type"] == "number"
    assert (share["minimum"], share["exclusiveMaximum"]) == (0, 1)
    assert not {"anyOf", "default"} & set(share)
    assert "test" not in form(SmoothParameters)["required"]
    assert TypeAdapter(SmoothParameters).validate_python({"database": "x", "test": None}).test is None


def test_the_command_line_takes_old_names_mappings_and_switches(smooth_command: Callable[..., Any]) -> None:
    found = smooth_command(
        "A", "B", "--db", "x", "--sigma", "3", "--set", "a=b", "--set=c=d=e", "--dry", "--no-keep-edges"
    )
    assert found == SmoothParameters(
        entries=("A", "B"),
        database=Path("x"),
        width_A=3.0,
        settings={"a": "b", "c": "d=e"},
        dry=True,
        keep_edges=False,
    )
    assert smooth_command("--database", "x", "--old", "3").old == 3


@pytest.mark.parametrize("option", ["--no-dry", "--empty-set", "--empty-entries"])
def test_options_that_nobody_declared_are_refused(option: str, smooth_command: Callable[..., Any]) -> None:
    with pytest.raises(CycloptsError, match=option):
        smooth_command("--database", "x", option)


@pytest.mark.parametrize(
    ("values", "option", "field"),
    [
        ({"width_A": 0.0}, "--width should be greater than 0; it is 0.0.", "width_A should be greater"),
        ({"threads": 0}, "--threads should be greater than or equal to 1; it is 0.", "threads should be greater"),
        ({"width_A": 101.0}, "--width of more than 100 A and --keep-edges do not go", "width_A of more than 100 A and"),
        ({"remaps": ("{x}",)}, "--remap: {x}: is not a remap.", "remaps: {x}: is not a remap."),
    ],
)
def test_a_value_that_is_not_valid_is_refused_in_the_words_of_the_caller(
    values: dict[str, Any], option: str, field: str, smooth_command: Callable[..., Any]
) -> None:
    names = {f.name: f.names[0] for f in fields_of(SmoothParameters)}
    words = [f"{names[k]}={v[0] if isinstance(v, tuple) else v}" for k, v in values.items()]
    with pytest.raises(UsageError) as typed:
        smooth_command("--database", "x", *words)
    assert str(typed.value).startswith(option)
    with pytest.raises(ParameterError) as called:
        SmoothParameters(database=Path("x"), **values)
    assert str(called.value).startswith(field)
    with pytest.raises(ValidationError):
        TypeAdapter(SmoothParameters).validate_python({"database": "x"} | values)


def test_a_value_that_is_no_choice_is_refused_with_the_choices(smooth_command: Callable[..., Any]) -> None:
    with pytest.raises(ParameterError, match="picker: 'warp' is none of cryolo, topaz"):
        SmoothParameters(database=Path("x"), picker="warp")
    with pytest.raises(CycloptsError, match='Choose from: "cryolo", "topaz"'):
        smooth_command("--database", "x", "--picker", "warp")


def test_a_misspelt_name_and_a_missing_value_are_refused_by_name() -> None:
    with pytest.raises(ParameterError, match="There is no parameter 'databse'; there are: database, entries"):
        SmoothParameters.from_values({"databse": "x"})
    with pytest.raises(ParameterError, match=r"database is required\. Folder of"):
        SmoothParameters.from_values({})


def test_values_get_the_declared_types() -> None:
    found = SmoothParameters.from_values({"database": "x", "entries": ["A"], "width_A": 3})
    assert found.database == Path("x")
    assert found.entries == ("A",)
    assert json.dumps(found.to_json()["database"]) == '"x"'
    assert SmoothParameters.from_values(found.to_json()) == found
    assert "old" not in found.to_json()


def test_an_empty_list_of_folders_and_a_remap_without_target_are_refused() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Crawl(Parameters):
        roots: Roots
        remaps: Remaps = ()

    with pytest.raises(ParameterError, match=r"roots needs at least 1\. Folders below"):
        Crawl(roots=())
    with pytest.raises(ParameterError, match=r"remaps: .*OLD=NEW"):
        Crawl(roots=(Path("/data"),), remaps=("/old",))


def test_limits_within_a_union_are_kept_and_told() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Size(Parameters):
        diameter_A: DiameterA | None = None
        names: Annotated[tuple[str, ...], MinLen(1)] = ("a",)

    assert {f.name: f.limits for f in fields_of(Size)} == {"diameter_A": "more than 0", "names": "at least 1"}
    with pytest.raises(ParameterError, match="diameter_A"):
        Size(diameter_A=-1.0)


DECLARATIONS = ("cryoflow.parameters", "cryoflow.unpicker.parameters")


@pytest.mark.parametrize("module", DECLARATIONS)
def test_a_declaration_imports_nothing_heavy(module: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"numpy", "pandas", "pydantic", "prefect", "tensorflow", "matplotlib"}
