"""A module's name stands once, so that a first guess opens the right file."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import cryoflow

PACKAGE = Path(cryoflow.__file__).parent
BUILT_ALIKE = [{"projects/cryosparc", "projects/relion"}, {"detector", "unpicker"}]
"""Packages that do the same work on other things: their modules of one role have one name."""
ROLES = {"parameters", "stage", "registry", "evaluate", "__init__"}
"""What several packages have, each its own."""


def test_a_module_name_stands_once_but_for_roles_and_packages_that_are_built_alike() -> None:
    folders: dict[str, set[str]] = defaultdict(set)
    for file in PACKAGE.rglob("*.py"):
        folder = file.parent.relative_to(PACKAGE).as_posix()
        if folder != "cli":  # a command is named for what it runs, as a flow is
            folders[file.stem].add(folder)
    several = {
        name: sorted(places)
        for name, places in folders.items()
        if len(places) > 1 and name not in ROLES and places not in BUILT_ALIKE
    }
    assert several == {}
