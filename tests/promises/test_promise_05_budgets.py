"""Promise 5, budgets of readers: what is within a limit is read, what is just above it is one error that says so."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from cryoflow.errors import OverBudget
from cryoflow.storage import budgets, inputs
from cryoflow.storage.parsing import parse_json, parse_toml, read_yaml


def nested_yaml(levels: int) -> str:
    return "a: " + "[" * (levels - 1) + "]" * (levels - 1)  # the document itself is a level


def nested_toml(levels: int) -> str:
    return "[" + ".".join("a" * levels) + "]\n"


@pytest.mark.parametrize("separator", [b",", b";", b"\t", b" "])
def test_a_row_of_too_many_columns_is_refused(separator: bytes, tmp_path: Path) -> None:
    n = budgets.MOST_COLUMNS
    budgets.check_rows(tmp_path, io.BytesIO(separator.join([b"1"] * n) + b"\n"))
    with pytest.raises(OverBudget, match=f"more than {n} columns"):
        budgets.check_rows(tmp_path, io.BytesIO(b"1 2\n" + separator.join([b"1"] * (n + 2)) + b"\n"))


def test_a_row_of_too_many_bytes_is_refused_wherever_it_begins(tmp_path: Path) -> None:
    n = budgets.LONGEST_ROW_BYTES
    for before in (b"", b"1 2\n" * (1 << 18)):  # the second one begins in a later piece of the file
        budgets.check_rows(tmp_path, io.BytesIO(before + b"x" * (n - 1) + b"\n"))  # with its end
        with pytest.raises(OverBudget, match=f"a row of more than {n >> 10} KiB"):
            budgets.check_rows(tmp_path, io.BytesIO(before + b"x" * n + b"\n"))


def test_a_line_of_too_many_bytes_is_refused(tmp_path: Path) -> None:
    n = budgets.LONGEST_LINE_BYTES
    assert len(list(budgets.lines(tmp_path, io.BytesIO(b"x" * (n - 1) + b"\ny\n")))) == 2
    with pytest.raises(OverBudget, match=f"a line of more than {n >> 10} KiB"):
        list(budgets.lines(tmp_path, io.BytesIO(b"y\n" + b"x" * (n + 1))))


def test_yaml_is_refused_where_it_is_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "a.csg"
    path.write_text(nested_yaml(budgets.DEEPEST))
    assert isinstance(read_yaml(path), dict)
    path.write_text(nested_yaml(budgets.DEEPEST + 1))
    with pytest.raises(OverBudget, match=f"deeper than {budgets.DEEPEST} levels"):
        read_yaml(path)


def test_toml_is_refused_where_it_is_nested_too_deeply(tmp_path: Path) -> None:
    path = tmp_path / "cryoflow.toml"
    assert parse_toml(path, nested_toml(budgets.DEEPEST).encode())["a"]
    with pytest.raises(OverBudget, match=f"deeper than {budgets.DEEPEST} levels"):
        parse_toml(path, nested_toml(budgets.DEEPEST + 1).encode())


def test_json_is_refused_where_its_values_would_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budgets, "MEMORY_BYTES", 100_000)  # the real one is a file of many megabytes
    assert parse_json(tmp_path, b"[" + b"1," * 900 + b"1]") == [1] * 901
    with pytest.raises(OverBudget, match=re.escape("its 1401 values are more than a JSON file may hold")):
        parse_json(tmp_path, b"[" + b"1," * 1400 + b"1]")


def test_a_table_of_text_is_held_to_the_length_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b"x" * (budgets.LONGEST_ROW_BYTES + 1))
    with pytest.raises(OverBudget, match="a row of more than"), inputs.opened_table(path):
        pass
