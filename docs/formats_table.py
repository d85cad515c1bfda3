"""Writes the table of docs/formats.md from the declarations in `cryoflow/formats/pick_tables`.

    python docs/formats_table.py            # after a format was added or changed

A test compares the page with what this writes.
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables import PickFormat, formats

PAGE = Path(__file__).with_name("formats.md")
START, END = "<!-- table: python docs/formats_table.py -->\n", "<!-- end of table -->\n"
HEAD = (
    "format",
    "programs that write it",
    "recognized by",
    "position means",
    "score",
    "marks and blocks",
    "kept",
    "not kept",
)


def row(form: PickFormat) -> tuple[str, ...]:
    """The cells of one format."""
    position = form.position
    position += "" if form.units == "pixels" else f", {form.units}"
    position += "" if form.y_counts_from == "first row" else f", y counts from the {form.y_counts_from}"
    special = "; ".join(filter(None, (form.marks, form.blocks and f"blocks: {form.blocks}")))
    name = f"{form.name} ({' '.join(f'`{suffix}`' for suffix in form.suffixes)})"
    return (name, ", ".join(form.programs), form.recognized_by, position, form.score, special, form.kept, form.not_kept)


def table() -> str:
    """All formats as a Markdown table, by name."""
    rows = [HEAD, ("---",) * len(HEAD), *(row(form) for form in sorted(formats(), key=lambda form: form.name.lower()))]
    return "".join("| " + " | ".join(cell or "-" for cell in cells) + " |\n" for cells in rows)


def page(text: str) -> str:
    """The page with the table put in."""
    before, _, rest = text.partition(START)
    return before + START + "\n" + table() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text()))
