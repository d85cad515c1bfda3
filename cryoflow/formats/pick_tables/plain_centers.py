"""Plain text: x and y of centers a line, and perhaps a score. RELION reads and many scripts write it.

With lines `#helix:` before them, the rows are segments of helices: crYOLO's EMAN_HELIX_SEGMENTED has two columns.
"""

from __future__ import annotations

from pathlib import Path

from cryoflow.formats.pick_tables.declaration import FilePicks, Head, PickFormat
from cryoflow.formats.pick_tables.eman_box import has_helices, named_micrograph
from cryoflow.formats.pick_tables.text import numbers, read_lines, without_comments


def read(path: Path) -> FilePicks:
    """Read the centers of one micrograph."""
    lines = read_lines(path)
    rows = numbers(path, without_comments(lines))
    score = rows[:, 2] if rows.shape[1] > 2 else None
    return FilePicks(
        FORMAT.name,
        rows[:, 0],
        rows[:, 1],
        score,
        "third column" if score is not None else "",
        micrograph=named_micrograph(lines),
        is_helical=has_helices(lines),
    )


def _sniff(head: Head) -> bool:
    if head.numbers is not None:
        return len(head.numbers) in (2, 3)
    return head.start.lstrip(b"\xef\xbb\xbf").lstrip().startswith(b"#") and not head.lines and not head.is_star


FORMAT = PickFormat(
    name="text of centers",
    programs=("RELION (.coord, .txt)", "crYOLO (EMAN_HELIX_SEGMENTED)", "scripts"),
    suffixes=(".txt", ".coord", ".coords"),
    recognized_by="lines of 2 or 3 numbers",
    sniff=_sniff,
    read=read,
    position="center",
    score="the third number",
    marks="lines `#helix:`: segments of helices",
    kept="center, score; the micrograph that a line `#micrograph:` names",
)
