"""docs/formats.md is what the declarations of the formats say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_has_the_table_of_the_registry() -> None:
    spec = importlib.util.spec_from_file_location("formats_table", DOCS / "formats_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = (DOCS / "formats.md").read_text()
    assert module.page(text) == text, "run: python docs/formats_table.py"
    assert text.count("\n| ") > len(module.formats())
