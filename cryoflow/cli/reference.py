"""Write the command-line reference as Markdown, from the declarations: `python -m cryoflow.cli.reference FOLDER`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING
from pathlib import Path

from cyclopts import App

from cryoflow.cli.main import COMMANDS, EVERYWHERE, app
from cryoflow.parameters import Field, Parameters, fields_of, shown

NAME = "commands.md"
HEAD = (
    "# Commands\n\n`cryoflow COMMAND --help` prints the same. Tables list every option, its default and its meaning.\n"
)


def write(folder: Path) -> Path:
    """Write the reference of all commands into a folder, and return its path."""
    from cryoflow.storage.files import write_atomically

    file = folder / NAME
    write_atomically(file, reference())
    return file


def reference() -> str:
    """Return the reference of all commands."""
    parts = [HEAD, f"```text\n{EVERYWHERE}\n```\n"]
    for name, _, group, _ in sorted(COMMANDS, key=lambda c: c[2].sort_key):
        parts += _section(app[name], f"cryoflow {name}", level=2, note=f"*{group.name}*\n")
    return "\n".join(parts)


def _section(command: App, name: str, *, level: int, note: str = "") -> Iterator[str]:
    yield f"{'#' * level} {name}\n"
    if note:
        yield note
    if function := command.default_command:
        text = inspect.getdoc(function) or ""
        yield _escaped(text.partition("\nParameters\n---")[0].strip()) + "\n"
        yield _table(command)
    else:
        yield _escaped(command.help) + "\n"
    seen: list[App] = []
    for sub in command:
        found = command[sub]
        if sub not in (*command.help_flags, *command.version_flags) and found.show and found not in seen:
            seen.append(found)  # a second name of a command comes after the first
            yield from _section(found, f"{name} {sub}", level=level + 1)


def _table(command: App) -> str:
    """Return the options of a command: those that its parameters declare, then its own."""
    function = command.default_command
    declaration = getattr(function, "declaration", None)
    rows = field_rows(declaration) if declaration else []
    from docstring_parser import parse

    documented = {p.arg_name: p.description or "" for p in parse(inspect.getdoc(function) or "").params}
    declared = {name for names, *_ in rows for name in names}
    for argument in command.assemble_argument_collection():
        if argument.show and not declared.intersection({*argument.names, argument.name.removeprefix("--").upper()}):
            default = argument.field_info.default
            value = (
                "required"
                if argument.required
                else shown(None if default in (MISSING, inspect.Parameter.empty) else default)
            )
            rows.append(
                (argument.names, value, argument.parameter.help or documented.get(argument.field_info.name, ""))
            )
    return options_table((names, value, _escaped(meaning)) for names, value, meaning in rows)


def _escaped(text: str) -> str:
    """Return a text whose angle brackets are no HTML."""
    return text.replace("<", "&lt;")


def field_rows(declaration: type[Parameters]) -> list[tuple[tuple[str, ...], str, str]]:
    """Return names, default and meaning of each field that the command line shows."""
    return [
        (
            (field.title,) if field.option.positional else (*field.names, *_negative(field)),
            "required" if field.required else shown(field.default),
            f"{field.option_meaning}{field.example}",
        )
        for field in fields_of(declaration)
        if field.option.command_line is not False and not field.option.hidden
    ]


def _negative(field: Field) -> tuple[str, ...]:
    return (f"--no-{field.names[0].removeprefix('--')}",) if field.has_negative else ()


def options_table(rows: Iterable[tuple[tuple[str, ...], str, str]]) -> str:
    """Return option names, defaults and meanings (`field_rows`) as a Markdown table."""
    lines = ["| option | default | meaning |", "|---|---|---|"]
    for names, default, meaning in rows:
        cells = (f"`{', '.join(names)}`", default or "-", meaning)
        lines.append("| " + " | ".join(map(_escaped_cell, cells)) + " |")
    return "\n".join(lines) + "\n"


def _escaped_cell(text: str) -> str:
    """Return a text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    print(write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/reference")))
