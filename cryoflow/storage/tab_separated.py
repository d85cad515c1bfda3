"""Tables as text with tabs between the cells, which no spreadsheet takes for formulas.

A cell that begins with `=`, `+`, `@` or `-` (unless it is a number) gets a backslash before it; so do backslashes,
quotation marks and tabs in a cell. Characters that would steer a terminal, end a row or reverse what is displayed are
written as `\\x1b` or `\\u2028`. `read_table_text` gives the cells as they were.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_STEERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]|\\(?=x[0-9a-f]{2}|u[0-9a-f]{4})")
"""Such characters, and what looks like one that was written out."""
_WRITTEN_OUT = re.compile(r"\\x([0-9a-f]{2})|\\u([0-9a-f]{4})")
_FORMULA = re.compile(r"(?m)([=+@-])(?<![^\t\n].)(?!(?<=-)\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?:\t|$))")
"""First character of such a cell. It stands first in the pattern, which makes the search twice as fast."""


def table_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as text; an empty cell is a value that is not known."""
    from pandas.api.types import is_numeric_dtype

    table = table.copy(deep=False)
    for name in [name for name, column in table.items() if not is_numeric_dtype(column)]:
        if _STEERS.search("".join(cell for cell in table[name] if isinstance(cell, str))):
            table[name] = table[name].map(_written_out)
    text: str = table.to_csv(
        sep="\t", index=False, na_rep="", float_format=float_format, lineterminator="\n", quoting=3, escapechar="\\"
    )
    return _FORMULA.sub(r"\\\1", text)


def read_table_text(file: IO[bytes], skip_lines: int = 0) -> pd.DataFrame:
    """Return the cells of a table that `table_text` wrote, all as text.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    import pandas as pd

    table = pd.read_csv(
        file, sep="\t", skiprows=skip_lines, dtype=str, keep_default_na=False, quoting=3, escapechar="\\"
    )
    for name in [name for name in table if table[name].str.contains("\\", regex=False).any()]:
        table[name] = table[name].map(_read)
    return table


def _written_out(cell: object) -> object:
    if not isinstance(cell, str):
        return cell
    return _STEERS.sub(lambda m: f"\\x{ord(m[0]):02x}" if m[0] <= "\xff" else f"\\u{ord(m[0]):04x}", cell)


def _read(cell: str) -> str:
    return _WRITTEN_OUT.sub(lambda m: chr(int(m[1] or m[2], 16)), cell)
