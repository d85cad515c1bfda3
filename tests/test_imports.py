"""Imports point one way: up the table of packages in docs/architecture.md."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import cryoflow

PACKAGE = Path(cryoflow.__file__).parent
TABLE = Path(__file__).parent.parent / "docs" / "architecture.md"
WHEN_CALLED = {("picks", "formats"), ("picks", "drawing")}
"""Methods of `PickSet` that write and draw."""


def rows() -> dict[str, int]:
    """Package or module of the top level -> its row in the table."""
    lines = TABLE.read_text().partition("| package | is responsible for |\n|---|---|\n")[2].partition("\n\n")[0]
    names = [re.findall(r"`(\w+)(?:/|\.py)`", line.split("|")[1]) for line in lines.splitlines()]
    return {name: row for row, several in enumerate(names) for name in several}


def imports_of(file: Path) -> Iterator[tuple[str, bool]]:
    """Yield the top-level names of ours that a file imports, and whether it does so when it is imported itself."""
    tree = ast.parse(file.read_text())
    at_once = {id(node) for node in _outside_functions(tree)}
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            home, _, rest = name.partition(".")
            if home == "cryoflow" and rest:
                yield rest.partition(".")[0], id(node) in at_once


def _outside_functions(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
            if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
                yield from _outside_functions(child)


def test_a_package_imports_only_from_rows_above_its_own() -> None:
    row = rows()
    downwards = set()
    for file in sorted(PACKAGE.rglob("*.py")):
        home = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if home.startswith("__"):
            continue
        for name, at_once in imports_of(file):
            if name in row and row[name] > row[home] and (at_once or (home, name) not in WHEN_CALLED):
                downwards.add(f"{file.relative_to(PACKAGE)} imports {name}")
    assert downwards == set()


def test_the_table_names_every_package_and_module_of_the_top_level() -> None:
    there = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file()}
    assert {name for name in there if not name.startswith("__")} == set(rows()) - {"flows"}
