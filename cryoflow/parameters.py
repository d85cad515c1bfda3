"""Declare the parameters of a stage once; the command line, Prefect's form, the library and the docs derive from it.

A stage declares its parameters in the module `parameters.py` of its package::

    @dataclass(frozen=True, kw_only=True)
    class SmoothParameters(Parameters):
        \"\"\"Smooth the micrographs of a database.\"\"\"

        database: DatabaseFolder
        width_A: Annotated[float, Gt(0), Option(names=("--width",), examples=(20.0,))] = 10.0
        \"\"\"Width of the filter in angstrom.\"\"\"

That is all. What derives from it:

command line
    `cryoflow.cli.declared.declared` turns a function of the dataclass into a command with one option for each field.
form
    A flow that takes the dataclass as its parameter gets a form with descriptions, limits, examples and the declared
    order (`__get_pydantic_json_schema__`).
library
    A function that takes the dataclass. Every instance is valid, however it was made: types and limits are checked
    when it is made, by pydantic, and `ParameterError` names the field. The command line words the same error with the
    option's name.
documentation
    `python -m cryoflow.cli.reference` writes the Markdown tables of all commands.

Help comes from the attribute's docstring, else from the `Option` of its type. Limits are those of `annotated_types`
(`Gt`, `Ge`, `Le`, `Lt`, `MinLen`). Fields that several stages share are types of this module. Modules of declarations
import only the standard library, `annotated_types` and this module, which keeps every `--help` fast.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, MinLen

from cryoflow.annotations import attribute_docstrings, limits_in_words, metadata_of, without_metadata
from cryoflow.errors import CryoflowError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

RARE = "Rarely needed"
"""Group of the options that few users change; they come last in help, form and docs, and forms mark them."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """Presentation of a field on the command line and in forms. None: not set here.

    Where several stand in one annotation, values of the outer one win.

    Attributes
    ----------
    names
        Option names on the command line. The first is shown; the others keep working. By default the field's name.
    help
        Description, where the field has no docstring of its own.
    examples
        Values that show how to write one.
    group
        Heading in help and docs.
    positional
        An argument without an option name; a tuple takes all of them.
    command_line, form
        Whether the command line, and the form, offer it.
    rare
        Few users change it: it comes last, and its form says so. Fields of the group `RARE` are rare without it.
    hidden
        Taken on the command line, and shown nowhere.
    required_in_form
        Required where a flow takes it, although the command line has another way to say the same.
    allow_leading_hyphen
        Whether a value on the command line may begin with a hyphen.
    choices
        Returns the values it may have, where these are not known before run time.
    check
        Returns the value, checked; raises ValueError.
    """

    names: tuple[str, ...] | None = None
    help: str | None = None
    examples: tuple[object, ...] | None = None
    group: str | None = None
    positional: bool | None = None
    command_line: bool | None = None
    form: bool | None = None
    rare: bool | None = None
    hidden: bool | None = None
    required_in_form: bool | None = None
    allow_leading_hyphen: bool | None = None
    choices: Callable[[], Iterable[str]] | None = None
    check: Callable[[Any], Any] | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Check choices, and what `check` checks, wherever pydantic validates the field."""
        schema = handler(source)
        from pydantic_core import core_schema

        for check in (self._is_a_choice if self.choices else None, self.check):
            if check:
                schema = core_schema.no_info_after_validator_function(check, schema)
        return schema

    def __get_pydantic_json_schema__(self, schema: Any, handler: Callable[[Any], Any]) -> Any:
        """Offer the choices in the form."""
        return handler(schema) | ({"enum": sorted(self.choices())} if self.choices else {})

    def _is_a_choice(self, value: str) -> str:
        assert self.choices
        if value not in (known := sorted(self.choices())):
            raise ValueError(f"{value!r} is none of {', '.join(known)}.")
        return value


class ParameterError(CryoflowError, ValueError):
    """A parameter has a value that it must not have, or parameters do not go together.

    Parameters
    ----------
    template
        The message; field names stand in braces: "Give {diameter_A} or {box_px}, not both."
    """

    def __init__(self, template: str) -> None:
        self.template = template
        super().__init__(template)

    def worded(self, name_of: Callable[[str], str]) -> str:
        """Return the message with the fields' names as the caller writes them, such as `--diameter`."""

        class Names(dict[str, str]):
            def __missing__(self, field: str) -> str:
                return name_of(field)

        return self.template.format_map(Names())

    def __str__(self) -> str:
        return self.worded(str)


@dataclass(frozen=True)
class Field:
    """One field of a declaration, resolved.

    Attributes
    ----------
    annotation, plain_type
        Its type with and without metadata.
    default
        `dataclasses.MISSING` where it is required.
    limits
        In words, or "".
    """

    name: str
    annotation: Any
    plain_type: Any
    default: Any
    help: str
    limits: str
    option: Option

    @property
    def required(self) -> bool:
        """Return whether it has no default."""
        return self.default is dataclasses.MISSING

    @property
    def rare(self) -> bool:
        """Return whether few users change it."""
        return bool(self.option.rare) or self.option.group == RARE

    @property
    def names(self) -> tuple[str, ...]:
        """Return the option names on the command line; the first is shown."""
        return self.option.names or ("--" + self.name.rstrip("_").replace("_", "-"),)

    @property
    def has_negative(self) -> bool:
        """Return whether `--no-NAME` is an option: of a switch that is on, or undecided, by default."""
        return self.plain_type == (bool | None) or (self.plain_type is bool and self.default is True)

    @property
    def title(self) -> str:
        """Return the name in help and messages of the command line: `--box`, or `ROOTS` for an argument."""
        return self.name.upper() if self.option.positional else self.names[0]

    @property
    def many(self) -> bool:
        """Return whether it takes any number of values."""
        return get_origin(self.plain_type) is tuple and self.plain_type.__args__[-1] is Ellipsis

    @property
    def meaning(self) -> str:
        """Return help and limits."""
        limits = f"({self.limits})" if self.limits else ""
        return " ".join(filter(None, (self.help.rstrip("."), limits))) + "."

    @property
    def option_meaning(self) -> str:
        """Return help and limits, as the command line prints them."""
        repeated = (self.many or get_origin(self.plain_type) is dict) and not self.option.positional
        return f"{self.meaning} May be given several times." if repeated else self.meaning

    @property
    def description(self) -> str:
        """Return the text of a field in a form: help, limits, an example, and whether few users need it."""
        meaning, example = self.meaning, self.example
        if get_origin(self.plain_type) is dict:  # the page takes JSON
            meaning = re.sub(r"([A-Z]+)=([A-Z]+)", r'{"\1": "\2"}', meaning)
            example = f" Example: {json.dumps(self.option.examples[0])}" if self.option.examples else ""
        return f"{f'{RARE}. ' if self.rare else ''}{meaning}{example}"

    @property
    def example(self) -> str:
        """Return the first example as a sentence, or ""."""
        examples = self.option.examples
        return f" Example: {shown(examples[0])}" if examples else ""


class Parameters:
    """Base of the declarations; see the module. A subclass is a frozen dataclass with keyword-only fields."""

    __pydantic_config__: ClassVar[Any] = {"use_attribute_docstrings": True, "extra": "forbid"}

    def __post_init__(self) -> None:
        values = {field.name: getattr(self, field.name) for field in fields_of(type(self))}
        for name, value in _validated(type(self), values).items():
            object.__setattr__(self, name, value)
        self.check()

    def check(self) -> None:
        """Raise `ParameterError` where values do not go together; each of them is valid by itself."""

    @classmethod
    def from_values(cls, values: Mapping[str, Any]) -> Self:
        """Return an instance made from a mapping of names to values, such as a form's.

        Raises
        ------
        ParameterError
            Where a name is unknown, a required one is missing or a value is not valid.
        """
        known = {field.name: field for field in fields_of(cls)}
        for name in values:
            if name not in known:
                raise ParameterError(_escaped(f"There is no parameter {name!r}; there are: {', '.join(known)}."))
        for name, field in known.items():
            if field.required and name not in values:
                raise ParameterError(f"{{{name}}} is required. {_escaped(field.meaning)}")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the values that a form has, as JSON has them.

        None is left out where it is the default: forms have no null for a field that may be left out.
        """
        from pydantic_core import to_jsonable_python

        offered = [f for f in fields_of(type(self)) if f.option.form is not False]
        values = {f.name: to_jsonable_python(getattr(self, f.name)) for f in offered}
        return {f.name: values[f.name] for f in offered if values[f.name] is not None or f.default is not None}

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> Any:
        """Return the form's schema: the fields that a form offers, described, in the declared order.

        A server with PostgreSQL stores the schema as jsonb, which loses the order of keys, so each field gets a
        `position`: Prefect's pages sort by it. Paths are absolute: a run's working folder is deleted at its end.
        """
        schema = handler.resolve_ref_schema(handler(core))
        properties, required = {}, []
        for position, field in enumerate(f for f in fields_of(cls) if f.option.form is not False):
            offered = _without_null(schema["properties"][field.name])
            if field.required or field.option.required_in_form:
                required.append(field.name)
                offered.pop("default", None)
            for part in path_parts(offered):
                part["pattern"] = "^/"
            properties[field.name] = {**offered, "position": position, "description": field.description}
        schema |= {"properties": properties, "required": required, "description": inspect.getdoc(cls) or ""}
        return schema


def fields_of(declaration: type[Parameters]) -> tuple[Field, ...]:
    """Return the fields in order: required, others, rarely needed; its own before those of its bases."""
    hashable: type = declaration  # mypy takes type[Parameters] for unhashable
    return _fields_of(hashable)


@cache
def _fields_of(declaration: type) -> tuple[Field, ...]:
    hints = get_type_hints(declaration, include_extras=True)
    docs: dict[str, str] = {}
    order: dict[str, None] = {}
    for base in declaration.__mro__:
        if base is not Parameters and dataclasses.is_dataclass(base):
            order |= dict.fromkeys(name for name in inspect.get_annotations(base) if name not in order)
            docs = attribute_docstrings(base) | docs
    declared = {field.name: field for field in dataclasses.fields(declaration)}
    found = [_field(declared[name], hints[name], docs.get(name, "")) for name in order]
    return tuple(sorted(found, key=lambda f: (f.rare, not (f.required or f.option.required_in_form))))


def _field(declared: dataclasses.Field[Any], annotation: Any, docstring: str) -> Field:
    option, limits = Option(), []
    for item in metadata_of(annotation):
        if isinstance(item, Option):
            given = {f.name: v for f in dataclasses.fields(item) if (v := getattr(item, f.name)) is not None}
            option = dataclasses.replace(option, **given)
        else:
            limits.append(item)
    default = declared.default
    if declared.default_factory is not dataclasses.MISSING:
        default = declared.default_factory()
    text = " ".join((docstring or option.help or "").split())
    return Field(
        declared.name, annotation, without_metadata(annotation), default, text, limits_in_words(limits), option
    )


def path_parts(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the parts of a field's schema that describe a path: itself, its items, or one of several types."""
    if schema.get("format") in ("path", "file-path", "directory-path"):
        yield schema
    for part in (schema.get("items"), *schema.get("anyOf", [])):
        if isinstance(part, dict):
            yield from path_parts(part)


def shown(value: object) -> str:
    """Return a value as one writes it."""
    if value is None or value == ():
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return " ".join(f"{name}={shown(item)}" for name, item in value.items())
    return " ".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a field's schema without its null: a field that is left empty is not sent.

    Prefect's pages show a field that may be null as a choice of two types; its server takes null where no value is
    required, whatever the schema says.
    """
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    rest = {k: v for k, v in schema.items() if k != "anyOf" and not (k == "default" and v is None)}
    return {**(kinds[0] if len(kinds) == 1 else {"anyOf": kinds} if kinds else {}), **rest}


@cache
def _adapter(declaration: type) -> TypeAdapter[Any]:
    """Return the validator of the fields' values.

    It is that of a plain dataclass with the same fields: validating the declaration itself would construct it, and
    constructing it validates.
    """
    from pydantic import TypeAdapter

    fields = [(field.name, field.annotation) for field in _fields_of(declaration)]
    return TypeAdapter(dataclasses.make_dataclass(declaration.__name__, fields))


def _validated(declaration: type[Parameters], values: Mapping[str, Any]) -> dict[str, Any]:
    from pydantic import ValidationError

    try:
        hashable: type = declaration
        return dict(vars(_adapter(hashable).validate_python(values)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    name, message = str(first["loc"][0]), first["msg"]
    if first["type"] == "too_short":
        meaning = next(field.meaning for field in fields_of(declaration) if field.name == name)
        message = f"needs at least {first['ctx']['min_length']}. {meaning}"
    elif first["type"] == "value_error":  # a check of ours: whole sentences
        message = message.removeprefix("Value error, ")
        raise ParameterError(f"{{{name}}}: {_escaped(message)}")
    else:
        message = f"{message.removeprefix('Input ')}; it is {shown(first['input']) or repr(first['input'])}."
    raise ParameterError(f"{{{name}}} {_escaped(message)}")


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def check_remaps(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return OLD=NEW texts that are well formed."""
    from cryoflow.errors import BadInput
    from cryoflow.remaps import parse_remaps

    try:
        parse_remaps(texts)
    except BadInput as error:
        raise ValueError(str(error)) from None
    return texts


CALIBRATED = "cryoflow/probability"
"""`score_kind` of picks whose scores are calibrated probabilities."""
MATCH_RADIUS = 0.25
"""Distance in particle diameters within which two picks are of the same particle."""
VALIDATION_SHARE = 0.2
"""Share of the micrographs that a training is validated on."""
SHARD_MICROGRAPHS = 1000
CHUNK_MICROGRAPHS = 100

Share = Annotated[float, Ge(0), Lt(1)]
Probability = Annotated[float, Gt(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]
Count = Annotated[int, Ge(1)]

DatabaseFolder = Annotated[
    Path, Option(names=("--database", "--db"), help="Folder of the text database", examples=("/data/picks",))
]
OutputFolder = Annotated[
    Path, Option(names=("--output", "-o"), help="Folder to write to", examples=("/data/training/cryolo",))
]
HeldOutBy = Annotated[
    Path | None,
    Option(
        names=("--models",),
        group=RARE,
        help="Folder of models; what one of them holds out is not learned from. By default those of the site's "
        "settings and `models` beside the database",
        examples=("/data/models",),
    ),
]
ModelFolder = Annotated[
    Path,
    Option(
        help="A trained unpicker: its folder, that of a checkpoint, or NAME or NAME@VERSION of the registry",
        examples=("/data/models/unpicker", "unpicker@v0007"),
    ),
]
Roots = Annotated[
    tuple[Path, ...],
    MinLen(1),
    Option(
        positional=True,
        help="Folders below which finished projects lie; they are never written to",
        examples=(("/data/projects",),),
    ),
]
Entries = Annotated[
    tuple[str, ...],
    Option(
        positional=True,
        help="Entries of the database, PROJECT/KIND_JOB, or patterns (P190/*); `cryoflow database list` shows them",
        examples=(("P190/NonUniform_J60", "apoferritin/Refine3D_job035"),),
    ),
]
Remaps = Annotated[
    tuple[str, ...],
    Option(
        names=("--remap",),
        help="A folder that has moved since a project was made, OLD=NEW",
        examples=(("/old/store=/new/store",),),
        check=check_remaps,
    ),
]
DiameterA = Annotated[
    Positive,
    Option(
        names=("--diameter",),
        help="Particle diameter in angstrom, where the jobs do not say it or another is wanted",
        examples=(160.0,),
    ),
]
MatchRadius = Annotated[
    Positive, Option(names=("--radius",), help="Distance in particle diameters within which two picks match", rare=True)
]
Seed = Annotated[int, Ge(0), Option(help="Another number is another random split and start", rare=True)]
Epochs = Annotated[Count, Option(names=("--epochs", "--num-epochs"), help="Most epochs of a training", examples=(12,))]
Workers = Annotated[Count, Option(help="Processes that work at the same time", group=RARE)]
ChunkMicrographs = Annotated[Count, Option(help="Micrographs that one task works on", group=RARE)]
ShardMicrographs = Annotated[
    Count,
    Option(
        help="Micrographs of one job, where stages are jobs of a cluster; jobs of less than some minutes mostly wait",
        group=RARE,
    ),
]
