"""Print tables, records and progress of commands, for a person at a terminal or for a script.

Results go to stdout; progress, logging and errors go to stderr. On a terminal tables are drawn with rich; elsewhere
they are lines with tabs between the values and one head line; with `--json` they are one JSON value. Unknown values are
`null` in JSON.

Names in projects are untrusted: control characters and bytes that are no text are printed as escapes.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Protocol, TypeAlias

from cyclopts import Parameter

from cryoflow.errors import CryoflowError
from cryoflow.storage.json_values import plain

Json: TypeAlias = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value.")]
"""The type of a command's `json` parameter."""

_quiet = False


class UsageError(CryoflowError):
    """Arguments of a command that do not go together: exit code 2."""


def set_up(*, verbose: bool = False, quiet: bool = False, debug: bool = False) -> None:
    """Set what goes to stderr: warnings by default, more with `verbose` and `debug`, errors only with `quiet`."""
    global _quiet
    _quiet = quiet
    level = logging.DEBUG if debug else logging.INFO if verbose else logging.ERROR if quiet else logging.WARNING
    logger = logging.getLogger("cryoflow")
    logger.setLevel(level)
    logger.handlers[:] = [_StderrHandler()]
    logger.propagate = False


class _StderrHandler(logging.Handler):
    """Writes one line for each record to the current sys.stderr, which rich replaces while a progress bar is drawn.

    A record with `extra={"once": True}` is written once a command: settings, for one, are read at several places.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname.lower()}: {record.getMessage()}"
        if getattr(record, "once", False):
            if text in self._written:
                return
            self._written.add(text)
        if record.exc_info:
            text += "\n" + logging.Formatter().formatException(record.exc_info)
        print(visible(text), file=sys.stderr)


_STEERS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, marks that turn the direction of writing, and bytes of names that are no UTF-8."""


def visible(text: str) -> str:
    """Return a text that every terminal can show and that cannot control one; tabs and line ends stay."""
    return _STEERS.sub(lambda found: ascii(found[0])[1:-1], text.replace("\r\n", "\n").replace("\r", "\n"))


def emit_table(
    rows: Iterable[Mapping[str, object] | object],
    *,
    columns: Sequence[str] | None = None,
    title: str = "",
    as_json: bool = False,
    empty: str = "nothing found",
) -> None:
    """Print rows.

    Parameters
    ----------
    rows
        Mappings or dataclass instances.
    columns
        The names to show, in order; None shows those of the first row. JSON always holds all of them.
    title
        Shown on a terminal only.
    empty
        Text that a terminal shows if there are no rows.
    """
    table = [_as_mapping(row) for row in rows]
    if as_json:
        emit_json(table)
        return
    names = list(columns or (table[0] if table else ()))
    cells = [[visible(_text(row.get(name))) for name in names] for row in table]
    if not sys.stdout.isatty():
        print("\t".join(names))
        for row_cells in cells:
            print("\t".join(_one_line(cell) for cell in row_cells))
        return
    if not cells:
        print(empty)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(title=title or None, title_justify="left", header_style="bold", pad_edge=False)
    for name in names:
        numeric = all(isinstance(row.get(name), int | float | None) for row in table)
        drawn.add_column(name.replace("_", " "), justify="right" if numeric else "left", overflow="fold")
    for row_cells in cells:
        drawn.add_row(*(Text(cell) for cell in row_cells))  # Text: a name with brackets is no markup
    Console().print(drawn)


def emit_record(record: Mapping[str, object] | object, *, as_json: bool = False) -> None:
    """Print one record as `name: value` lines, or as a JSON object."""
    values = _as_mapping(record)
    if as_json:
        emit_json(values)
        return
    width = max(map(len, values), default=0) + 1 if sys.stdout.isatty() else 0
    for name, value in values.items():
        print(f"{name + ':':{width}} {_one_line(visible(_text(value)))}")


def emit_json(value: object) -> None:
    """Print a value of cryoflow's types as JSON."""
    text = json.dumps(plain(value), indent=2, ensure_ascii=False)  # escapes what steers a terminal, but for the last:
    print(
        re.sub("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", lambda m: f"\\u{ord(m[0]):04x}", text), flush=True
    )


def say(text: str) -> None:
    """Print one line on stderr; nothing with `--quiet`."""
    if not _quiet:
        print(visible(text), file=sys.stderr, flush=True)


def fail(error: object) -> None:
    """Print an error of one item of a batch, on stderr, also with `--quiet`."""
    print(f"cryoflow: {visible(str(error))}", file=sys.stderr, flush=True)


class Advance(Protocol):
    """Type of the function that `progress` yields."""

    def __call__(self, steps: int = 1, /, *, note: str = "") -> None:
        """Count `steps` more as done, and show a note on the current one."""


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Advance]:
    """Show a progress bar on a terminal; elsewhere print one line at the end."""
    done = 0
    if _quiet or not sys.stderr.isatty():

        def count(steps: int = 1, /, *, note: str = "") -> None:  # noqa: ARG001
            nonlocal done
            done += steps

        yield count
        say(f"{what}: {done}" + (f" of {total}" if total is not None and total != done else ""))
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*parts, TextColumn("{task.fields[note]}", markup=False), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, note="")

        def advance(steps: int = 1, /, *, note: str = "") -> None:
            bar.update(task, advance=steps, note=visible(note))

        yield advance


def _as_mapping(row: object) -> Mapping[str, object]:
    if isinstance(row, Mapping):
        return row
    return {f.name: getattr(row, f.name) for f in dataclasses.fields(row)}  # type: ignore[arg-type]


def _text(value: object) -> str:
    """Return a value as a table shows it: unknown as a dash, floats with up to six digits."""
    value = plain(value)
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items()) or "-"
    return str(value)


def _one_line(text: str) -> str:
    return " ".join(text.replace("\t", " ").splitlines())
