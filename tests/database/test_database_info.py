"""info.txt: the names on disk stay what they are, whatever classes and attributes are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryoflow.database import OrientationRecord
from cryoflow.database.info import info_text, parse_info
from cryoflow.picks import PickSet

NAMES = (
    "Project",
    "Project Path",
    "Program",
    "Program Version",
    "Job",
    "Job Type",
    "Job Status",
    "Job Title",
    "Kind",
    "Output Group",
    "Suffix",
    "Number of Micrographs",
    "Number of Micrographs with Particles",
    "Number of Missing Micrographs",
    "Number of Particles",
    "Voltage (kV)",
    "Cs (mm)",
    "Amplitude Contrast",
    "Pixel Size (A)",
    "Micrograph Shape (ny x nx)",
    "Box (px)",
    "Diameter (A)",
    "Score Kind",
    "Dropped (duplicate)",
    "Orientation",
    "Orientation Best",
    "Orientation Detail",
    "Note",
    "Source File",
    "Missing Micrograph",
)
"""Of databases that exist: an entry written by any version must mean the same to all later ones."""
CONTRADICTED = OrientationRecord("contradicted", "flip_y", "z 17.1 flip_y, 2.9 as recorded")


def test_the_names_of_lines_are_those_of_all_databases(make_pickset: Callable[..., PickSet]) -> None:
    picks = make_pickset(counts={"duplicate": 3}, notes=("a note",))
    lines = info_text(picks, orientation=CONTRADICTED).splitlines()[1:]
    assert tuple(dict.fromkeys(row.partition(":")[0] for row in lines)) == NAMES


def test_the_verdict_of_an_earlier_version_still_counts() -> None:
    text = (
        "cryoflow entry 1\nProject: P1\n"
        "Orientation: contradicted\nOrientation Best: flip_y\n"
        "Orientation Detail: z 17.1 flip_y, 2.9 as recorded\n"
    )
    assert parse_info(Path("info.txt"), text).orientation == CONTRADICTED
