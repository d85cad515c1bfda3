"""Tables of numbers without a header, and tables with a line of names: lines to columns."""

from __future__ import annotations

import csv
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, OverBudget
from cryoflow.formats.pick_tables.declaration import FloatArray, Head
from cryoflow.storage import budgets, inputs

if TYPE_CHECKING:
    import pandas as pd

_LARGEST_TEXT_BYTES = 1 << 30
_DECIMAL_COMMAS = re.compile(r"\d,\d+\s*[;\s]\s*[-+]?\d")
"""A comma between digits in a line whose numbers are separated by something else."""
_DECIMAL_COMMA = r"[-+]?\d+,\d+"
_NO_NUMBER = ("", "nan", "na", "<na>", "none", "null", "n/a")


def read_lines(path: Path) -> list[str]:
    """Return all lines of a text file that are not blank.

    Raises
    ------
    BadInput
        Where it cannot be read, or is larger than any table of picks.
    """
    try:
        if path.stat().st_size > _LARGEST_TEXT_BYTES:
            raise BadInput(path, "is too large for a text file of picks.")
        with inputs.opened_table(path) as file:
            text = file.read().decode("utf-8-sig", "replace")
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    return [line for line in text.splitlines() if line.strip()]


def note_on_end(path: Path) -> str:
    """Return a note where the last line of a file does not end: it may have been cut within a number.

    Programs end each line. Other damage of a file that was cut short is an error: rows of too few words.
    """
    with inputs.opened(path) as file:
        size_bytes = file.seek(0, 2)
        file.seek(max(0, size_bytes - 1))
        is_ended = file.read(1) in (b"", b"\n", b"\r")
    return "" if is_ended else "the last line has no end: 1 row may have been cut short"


def without_comments(lines: Sequence[str]) -> list[str]:
    """Return the lines that do not begin with `#`."""
    return [line for line in lines if not line.lstrip().startswith("#")]


def numbers(path: Path, lines: Sequence[str]) -> FloatArray:
    """Return rows of numbers, separated by blanks, tabs, commas or semicolons; (n rows, n columns) float.

    Raises
    ------
    BadInput
        Where rows differ in length or hold text.
    """
    deadline = budgets.Deadline(path, sum(map(len, lines)))
    if lines and _DECIMAL_COMMAS.search(lines[0]):
        raise _decimal_commas(path, lines[0].strip())
    rows = [line.replace(",", " ").replace(";", " ").split() for line in deadline.watch(lines)]
    if not rows:
        return np.zeros((0, 2))
    widths = {len(row) for row in rows}
    if len(widths) > 1:
        raise BadInput(path, f"has lines of {min(widths)} and of {max(widths)} words.", "Was it cut short?")
    try:
        return np.array(rows, np.float64).reshape(len(rows), -1)
    except ValueError as error:
        raise BadInput(path, f"is no file of picks that is known: {error}.") from error


def read_frame(path: Path) -> pd.DataFrame:
    """Return a table with a line of names, every value as text: tab, comma, semicolon or blanks between columns.

    A micrograph may be called `NA` or `nan`, so that nothing is taken for missing here.

    Raises
    ------
    BadInput
        Where it cannot be read.
    """
    import pandas as pd

    try:
        head = Head.of(path)
        n_before, first = head.names_line
        rest = head.start.decode("utf-8", "surrogateescape").split("\n")[n_before + 1 :]
        separator = next((found for found in "\t;," if found in first), None)
        width, in_first_row = (_n_fields(line, separator) for line in (first, rest[0] if rest else ""))
        if width > budgets.MOST_COLUMNS:
            raise OverBudget(path, f"its first line names {width} columns, and {budgets.MOST_COLUMNS} are the most.")
        if in_first_row > width:  # pandas would cut it; of later rows it says so itself
            raise BadInput(path, f"has a row of {in_first_row} values where its first line names {width} columns.")
        with inputs.opened_table(path) as file, warnings.catch_warnings():
            # pandas only warns when it drops the values of rows that are too long
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=separator or r"\s+",
                dtype="object",
                encoding="utf-8-sig",
                encoding_errors="surrogateescape",
                skiprows=n_before,
                skipinitialspace=True,
                keep_default_na=False,
                index_col=False,
            )
    except (ValueError, OSError, pd.errors.ParserError, pd.errors.ParserWarning, csv.Error) as error:
        raise BadInput(path, f"cannot be read as a table: {error}.") from error
    if short := int(frame.isna().any(axis=1).sum()):
        raise BadInput(
            path, f"has {short} rows of fewer values than its first line names columns.", "Was it cut short?"
        )
    if any(frame[name].str.contains("\n", regex=False).any() for name in frame.columns):
        raise BadInput(path, "has a value that reaches over several lines.", "Is a quote not closed?")
    frame.columns = pd.Index([str(label).strip().lstrip("#_").strip().lower() for label in frame.columns])
    return frame.loc[:, ~frame.columns.duplicated()]


def _n_fields(line: str, separator: str | None) -> int:
    return len(next(csv.reader([line], delimiter=separator), [])) if separator else len(line.split())


def column(frame: pd.DataFrame, known: Sequence[str]) -> pd.Series | None:
    """Return the first column that has one of the known names; None where there is none."""
    return next((frame[name] for name in known if name in frame.columns), None)


def required_column(path: Path, frame: pd.DataFrame, name: str) -> pd.Series:
    """Return the column `name` of a table.

    Raises
    ------
    BadInput
        If the table has no such column.
    """
    if name not in frame.columns:
        raise BadInput(path, f"has no column `{name}`.", "Was its first line damaged?")
    return frame[name]


def column_of_numbers(path: Path, name: str, values: pd.Series) -> FloatArray:
    """Return a column of text as numbers; words such as `nan` and nothing at all are NaN.

    Raises
    ------
    BadInput
        Where it holds other text.
    """
    import pandas as pd

    try:
        words = values.str.strip()
        if (with_commas := words[words.str.fullmatch(_DECIMAL_COMMA)]).size:
            raise _decimal_commas(path, str(with_commas.iloc[0]))
        return np.asarray(pd.to_numeric(words.mask(words.str.lower().isin(_NO_NUMBER))), np.float64)
    except (ValueError, TypeError, AttributeError) as error:
        raise BadInput(path, f"column {name} holds text where numbers are expected: {error}.") from error


def _decimal_commas(path: Path, text: str) -> BadInput:
    return BadInput(path, f"has numbers with commas: {text[:60]!r}.", "Write decimal points in place of commas.")


def column_of_names(values: pd.Series) -> npt.NDArray[np.object_]:
    """Return a column of text as (n,) objects."""
    return np.array([str(value) for value in values], object)


def median(values: npt.NDArray[np.floating]) -> float | None:
    """Return the lower median of the finite values; None where there is none.

    One damaged size must not decide: of two sizes the smaller one counts, since near picks are folded by it.
    """
    finite = np.sort(values[np.isfinite(values)], axis=None)
    return round(float(finite[(finite.size - 1) // 2]), 2) if finite.size else None
