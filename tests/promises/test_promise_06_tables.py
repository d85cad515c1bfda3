"""Promise 6: no spreadsheet takes a cell of our tables for a formula, no terminal takes it for a command."""

from __future__ import annotations

import io
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryoflow.storage.tab_separated import read_table_text, table_text

HOSTILE = [
    *("=cmd|' /C calc'!A0", "+1+cmd", "-1+cmd", "@SUM(1)", "\t=c", "\n=b", "x\r=cmd", "\r=1", '"=q', "\\=d"),
    *("\x1b]0;title\x07", "\x9b31m", "\u2028=y", "\u202efdp.exe", "\ufeff=z", "nul\0", "\x0b=x", "\x85=n"),
    *("a\\x1b", "\\u2028", "\\", "b\\", "", "-1", "caf\u00e9"),
]


@pytest.mark.parametrize("cell", HOSTILE)
def test_a_hostile_cell_stays_one_cell_begins_no_formula_and_comes_back(cell: str) -> None:
    text = table_text(pd.DataFrame({"name": [cell, "b"], "n": [1, -2]}))
    rows = re.split(r"[\n\r\v\f\x85\u2028\u2029]", text)
    assert len(rows) == 4, "a head, two rows, and what follows the last end of line"
    assert not [word for row in rows for word in row.split("\t") if re.match(r"[=+@]|-\D|-\d+\D", word)]
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ufeff]", text)
    assert read_table_text(io.BytesIO(text.encode()))["name"].tolist() == [cell, "b"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), min_size=1, max_size=4))
def test_any_text_comes_back(cells: list[str]) -> None:
    text = table_text(pd.DataFrame({"name": cells, "n": range(len(cells))}))
    assert read_table_text(io.BytesIO(text.encode()))["name"].tolist() == cells
