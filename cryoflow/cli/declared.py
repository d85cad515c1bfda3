"""Commands from declarations (`cryoflow.parameters`): one option for each field, and one clear error."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from cyclopts import App, Group, Parameter

from cryoflow.cli.output import UsageError
from cryoflow.parameters import Field, ParameterError, Parameters, fields_of, shown
from cryoflow.settings.profiles import ProfileName

Profile = Annotated[
    ProfileName | None,
    Parameter(help="Where stages run: local, docker, slurm or slurm-bare. By default what the settings say."),
]
"""The type of the parameter `profile` of commands that run stages."""


def declared(function: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a function whose first parameter is a declaration into a command; its other parameters stay options.

    >>> @app.command
    ... @declared
    ... def smooth(parameters: SmoothParameters, *, json: Json = False) -> int: ...
    """
    hints = get_type_hints(function, include_extras=True)
    first, *others = inspect.signature(function).parameters.values()
    declaration: type[Parameters] = hints[first.name]
    fields = {f.name: f for f in fields_of(declaration) if f.option.command_line is not False}
    signature = inspect.Signature(
        [*_parameters(fields.values()), *(p.replace(annotation=hints[p.name]) for p in others)]
    )

    def title(name: str) -> str:
        return fields[name].title if name in fields else name

    @functools.wraps(function)
    def command(*arguments: Any, **options: Any) -> Any:
        values = signature.bind(*arguments, **options).arguments
        given = {name: _value(fields[name], values.pop(name)) for name in fields if name in values}
        try:
            return function(declaration.from_values(given), **values)
        except ParameterError as error:
            raise UsageError(error.worded(title)) from None

    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in signature.parameters.values()}
    command.declaration = declaration  # type: ignore[attr-defined]
    return command


def _parameters(fields: Iterable[Field]) -> Iterator[inspect.Parameter]:
    """Yield one parameter for each field, arguments first, as Python wants them."""
    groups: dict[str, Group] = {}
    for field in sorted(fields, key=lambda f: (not f.option.positional, bool(f.option.positional and f.many))):
        group = None
        if title := field.option.group:
            group = groups.setdefault(title, Group(title, sort_key=len(groups) + 1))
        elements = bool(field.option.positional and field.many)
        annotation = _annotation(field, group, elements=elements)
        if elements:
            yield inspect.Parameter(field.name, inspect.Parameter.VAR_POSITIONAL, annotation=annotation)
            continue
        default = () if isinstance(field.default, dict) else field.default
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.POSITIONAL_OR_KEYWORD if field.option.positional else inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.required else default,
            annotation=annotation,
        )


def _annotation(field: Field, group: Group | None, *, elements: bool) -> Any:
    kind = field.plain_type
    if get_origin(kind) is dict:
        kind = tuple[str, ...]
    if elements:
        kind = get_args(kind)[0]
    if field.option.choices and kind is str:
        kind = Literal[tuple(sorted(field.option.choices()))]  # shown in help, and completed by shells
    options: dict[str, Any] = {
        "help": field.option_meaning,
        "show": not field.option.hidden,
        "show_default": default_in_help,
        "allow_leading_hyphen": bool(field.option.allow_leading_hyphen),
    }
    if not field.has_negative:
        options["negative"] = ()
    if not elements:
        options["name"] = field.names
    if group:
        options["group"] = group
    return Annotated[kind, Parameter(**options)]


def default_in_help(value: object) -> str | None:
    """Return a default as one types it; None, for no text, where it is a switch that is off, or nothing."""
    return None if value is False else shown(value) or None


def name_arguments(app: App, tokens: Sequence[str]) -> None:
    """Set the usage line of the command that tokens name: `ROOTS...` or `[MODEL]` in place of cyclopts's `[ARGS]`."""
    from cyclopts.help import format_usage

    chain, apps, _ = app.parse_commands([t for t in tokens if t not in app.help_flags])
    command = apps[-1]
    if command.default_command is None:
        return
    declaration = getattr(command.default_command, "declaration", None)
    required = {f.name for f in fields_of(declaration) if f.required} if declaration else set()
    arguments = []
    for argument in command.assemble_argument_collection():
        info = argument.field_info
        many = info.kind is inspect.Parameter.VAR_POSITIONAL
        if argument.show and not argument.required and (many or argument.index is not None):
            title = f"{info.name.upper()}{'...' if many else ''}"
            arguments.append(title if info.name in required else f"[{title}]")
    usage = format_usage(app, chain, execution_path=apps).plain.strip()
    command.usage = usage.replace("[ARGS...]", " ".join(arguments)).replace("[ARGS]", " ".join(arguments))


def _value(field: Field, value: Any) -> Any:
    """Return a value as the declaration has it: NAME=VALUE texts become a mapping."""
    if get_origin(field.plain_type) is not dict or isinstance(value, dict):
        return value
    pairs = {}
    for text in value:
        name, equals, setting = text.partition("=")
        if not (name and equals):
            raise UsageError(f"{field.title} {text}: write NAME=VALUE.")
        pairs[name] = setting
    return pairs
