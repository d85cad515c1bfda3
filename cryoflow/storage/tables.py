"""Tables as text with tabs between the cells, which no spreadsheet takes for formulas.

A cell that begins with `=`, `+`, `@` or `-` (unless it is a number) gets a backslash before it; so do backslashes,
quotation marks and tabs in a cell. `read_table_text` removes them.
"""

from __future__ import annotations

import re
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"(?m)(^|\t)(?=[=+@]|-(?!\d+(?:\.\d*)?(?:[eE][-+]?\d+)?(?:\t|$)))")


def table_text(table: pd.DataFrame, float_format: str | None = None) -> str:
    """Return a table as text; an empty cell is a value that is not known."""
    text: str = table.to_csv(
        sep="\t", index=False, na_rep="", float_format=float_format, lineterminator="\n", quoting=3, escapechar="\\"
    )
    return _FORMULA.sub(r"\1\\", text)


def read_table_text(file: IO[bytes], skip_lines: int = 0) -> pd.DataFrame:
    """Return the cells of a table that `table_text` wrote, all as text.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    import pandas as pd

    return pd.read_csv(
        file, sep="\t", skiprows=skip_lines, dtype=str, keep_default_na=False, quoting=3, escapechar="\\"
    )
