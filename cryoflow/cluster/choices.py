"""Lists in forms: the entries and projects of the site's database, as they are when deployments are registered."""

from __future__ import annotations

import re
from typing import Any

from cryoflow.database.layout import entry_folders_of, entry_name, project_folders
from cryoflow.settings.load import Settings

ENTRIES = frozenset(("entries", "to_pick", "selected", "entry", "first", "reference"))
"""Fields of forms that name entries of the database."""
PROJECTS = frozenset(("projects", "trusted", "flip_x", "flip_y", "swap_xy"))
"""Fields of forms that name projects of the database."""
MOST = 500
"""Names in a list. A longer one is not offered: the server stores it with each form, and nobody reads it."""
_EXAMPLE = re.compile(r"(?<=Example: ).*")


class Choices:
    """Names to choose from.

    Parameters
    ----------
    settings
        Its database is listed now; where it is missing or cannot be read there is nothing to choose.
    """

    def __init__(self, settings: Settings) -> None:
        found: dict[str, list[str]] = {}
        try:
            for project in project_folders(settings.database) if settings.database else []:
                found[project.name] = [entry_name(folder) for folder in entry_folders_of(project)]
        except OSError:
            found = {}
        self.projects = [project for project, names in found.items() if names]
        self.entries = [f"{project}/{name}" for project, names in found.items() for name in names]

    def offer(self, schema: dict[str, Any]) -> None:
        """Let a form's fields be chosen from the lists; a name that is in none of them can be typed.

        An entry that was added after the last deploy would be refused by a list alone. The example becomes a name of
        this database; of a list that is too long, a pattern.
        """
        for model in schema.get("definitions", {}).values():
            for name, field in model.get("properties", {}).items():
                names = self.entries if name in ENTRIES else self.projects if name in PROJECTS else []
                if names:
                    is_long = len(names) > MOST and field.get("type") == "array"
                    example = names[0].partition("/")[0] + ("/*" if name in ENTRIES else "*") if is_long else names[0]
                    field["description"] = _with_example(field.get("description", ""), example)
                if 0 < len(names) <= MOST:
                    _offer(field, names)


def _with_example(description: str, name: str) -> str:
    return _EXAMPLE.sub(lambda _: name, description)


def _offer(field: dict[str, Any], names: list[str]) -> None:
    listed = {"type": "string", "enum": names}
    if field.get("type") == "string":
        kinds: list[dict[str, Any]] = [listed, {"type": "string"}]
    elif field.get("type") == "array" and field.get("items", {}).get("type") == "string":
        kinds = [{"type": "array", "items": items} for items in (listed, field.pop("items"))]
    else:
        return
    del field["type"]
    field["anyOf"] = [kind | {"title": title} for kind, title in zip(kinds, ("From the list", "Typed"), strict=True)]
