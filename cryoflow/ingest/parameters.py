"""Parameters of crawling and ingest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cryoflow.parameters import (
    DatabaseFolder,
    Option,
    ParameterError,
    Parameters,
    Positive,
    Remaps,
    Roots,
    Workers,
)

TABLES = "Tables of picks that belong to no project"
AXES = "Axes that a project counts from the other side"


@dataclass(frozen=True, kw_only=True)
class CrawlParameters(Parameters):
    """Folders to search."""

    roots: Roots
    quick: bool = False
    """Leave out numbers for which tables would have to be read."""


@dataclass(frozen=True, kw_only=True)
class IngestParameters(Parameters):
    """Projects to read, and the database to write them to."""

    roots: Annotated[
        Roots,
        Option(
            help="Folders above finished projects, projects, a job's folder, or tables of picks and folders of them "
            "(docs/formats.md has the formats); they are never written to"
        ),
    ]
    database: DatabaseFolder
    workers: Annotated[Workers, Option(form=False)] = 1
    remaps: Remaps = ()
    include_unfinished: Annotated[bool, Option(rare=True)] = False
    """Read jobs that run or failed, too."""
    check_orientation: bool = True
    """Compare the picks with the pixels of a few micrographs, and draw them."""
    again: Annotated[bool, Option(rare=True)] = False
    """Read unchanged jobs again, too."""
    flip_x: Annotated[tuple[str, ...], Option(group=AXES, examples=(("P190",),), rare=True)] = ()
    """Project (its name or path; any word for tables) whose x counts from the other side."""
    flip_y: Annotated[tuple[str, ...], Option(group=AXES, examples=(("P190",),), rare=True)] = ()
    """Project whose y counts from the other side."""
    swap_xy: Annotated[tuple[str, ...], Option(group=AXES, examples=(("P190",),), rare=True)] = ()
    """Project whose x and y are exchanged (before any flip)."""
    micrographs: Annotated[Path | None, Option(group=TABLES, form=False)] = None
    """Folder of the micrographs of the tables."""
    name: Annotated[str | None, Option(group=TABLES, form=False)] = None
    """Name of the tables' project; by default that of their folder."""
    scale: Annotated[Positive, Option(group=TABLES, form=False)] = 1.0
    """Factor of the positions: 8 for a Topaz table of micrographs downsampled 8 times."""

    def tables_and_folders(self) -> tuple[list[Path], list[Path]]:
        """Return the roots that are tables of picks or folders of them, and the folders to crawl."""
        from cryoflow.ingest.roots import split_roots

        return split_roots(self.roots, self.micrographs)

    def check(self) -> None:
        """Refuse options of tables where there is none."""
        if (self.name is not None or self.scale != 1) and not self.tables_and_folders()[0]:
            raise ParameterError(
                "{name} and {scale} are for tables of picks: name a file, or a folder with {micrographs}."
            )
