"""One HTML page: text, figures, tables and pictures, in a single file that fetches nothing and runs nothing.

Everything that comes from data is escaped by the template; the page carries a content policy that forbids scripts and
every outside resource, so a hostile micrograph name stays a name.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryoflow.storage.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Commands or file content, as they stand."""

    text: str


@dataclass(frozen=True)
class ReportTable:
    """Rows under a head. Numbers are right-aligned; `caption` says what a row is."""

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    caption: str = ""
    folded: bool = False
    """Shown closed, for long tables."""


@dataclass(frozen=True)
class Picture:
    """A figure, or the bytes of a PNG or JPEG file, with a caption.

    Attributes
    ----------
    alt
        Text for screen readers; the caption where empty.
    photo
        The figure is mostly micrograph: kept as JPEG, which is much smaller for noise.
    """

    image: Figure | bytes
    caption: str = ""
    alt: str = ""
    photo: bool = False

    @property
    def data_uri(self) -> str:
        """Return the picture as a data URI, which embeds it in the page."""
        from cryoflow.drawing.figures import jpeg, png

        content = self.image if isinstance(self.image, bytes) else (jpeg if self.photo else png)(self.image)
        kind = "png" if content.startswith(b"\x89PNG") else "jpeg"
        return f"data:image/{kind};base64," + base64.b64encode(content).decode()


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, wrapping to the window's width."""

    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Figures:
    """The few numbers that matter, large: (number, what it is, remark)."""

    items: Sequence[tuple[str, str, str]]


Block = Text | Code | ReportTable | Picture | Gallery | Figures


@dataclass(frozen=True)
class Section:
    """A part of the page with its title, listed in the page's contents."""

    title: str
    blocks: Sequence[Block] = field(default_factory=tuple)


def render_page(title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> str:
    """Return the whole page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("cryoflow.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    environment.tests["numeric"] = lambda value: isinstance(value, int | float) and not isinstance(value, bool)
    environment.globals["block_kind"] = lambda block: type(block).__name__
    return environment.get_template("page.html").render(
        title=title, subtitle=subtitle, sections=sections, footer=footer
    )


def write_report(path: Path, title: str, sections: Sequence[Section], *, subtitle: str = "", footer: str = "") -> Path:
    """Write the page, complete or not at all, and return its path."""
    write_atomically(path, render_page(title, sections, subtitle=subtitle, footer=footer))
    return path


def cell(value: object) -> str:
    """Return a table's value as people write it: unknown is a dash, large integers are grouped, fractions have three
    digits.

    >>> cell(1234567), cell(0.12345), cell(None), cell(float("nan"))
    ('1,234,567', '0.123', '–', '–')
    """
    if value is None or value != value:  # NaN and NA differ from themselves
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
