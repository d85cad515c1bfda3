"""How jobs are read: what a user may set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.projects.axis_convention import AS_STORED, AxisConvention


@dataclass(frozen=True)
class IngestOptions:
    """Options for reading jobs.

    Attributes
    ----------
    include_unfinished
        Read jobs that run, failed or were killed, too.
    remaps
        Old folder -> new folder of micrographs that were moved.
    flips
        Project -> flip, by the project's name or its path.
    check_orientation
        Compare each entry's convention with the pixels, and draw its picks on a few micrographs.
    reread
        Read unchanged jobs again, too.
    """

    include_unfinished: bool = False
    remaps: Mapping[str, str] = field(default_factory=dict)
    flips: Mapping[str, AxisConvention] = field(default_factory=dict)
    check_orientation: bool = True
    reread: bool = False

    def flip_of(self, project_name: str, project: Path) -> AxisConvention:
        """Return the flip of a project, none by default."""
        return self.flips.get(str(project)) or self.flips.get(project_name) or AS_STORED

    def unused_flips(self, projects: Mapping[str, Path]) -> list[str]:
        """Return projects of `flips` that are not among these (name -> path): most likely misspelt."""
        known = set(projects) | {str(path) for path in projects.values()}
        return sorted(name for name in self.flips if name not in known)


def flips_by_project(
    flip_x: tuple[str, ...] = (), flip_y: tuple[str, ...] = (), swap_xy: tuple[str, ...] = ()
) -> dict[str, AxisConvention]:
    """Return the flips of each project, from options of the command line that each name projects."""
    return {
        project: AxisConvention(project in flip_x, project in flip_y, project in swap_xy)
        for project in dict.fromkeys((*flip_x, *flip_y, *swap_xy))
    }
