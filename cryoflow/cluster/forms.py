"""Forms of deployments and pools: which paths a field takes, which values it offers, and the order of the fields.

The server checks the schema of a form when a run is made, so a path that no worker could use is refused there, by its
field. A relative path would be lost: a run's working folder is a temporary one that is deleted at its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from cryoflow.parameters import path_parts
from cryoflow.settings.load import Settings

_READ = ("roots", "micrographs")
"""Fields of paths below the folders of projects; what other fields name is a result."""
_EXAMPLE = re.compile(r"(?<=Example: )/\S+")


def restrict_paths(schema: dict[str, Any], settings: Settings) -> None:
    """Let a form's paths be absolute, and below the site's folders where it has any; write so in the description.

    Examples of paths become some of this site.
    """
    site = settings.site
    folders = [str(p) for p in dict.fromkeys((*site.read_only, *site.read_write))]
    folders += [str(p) for p in (settings.database, site.models) if p and folders and not _is_below(str(p), folders)]
    pattern = path_pattern(folders)
    words = f"below {' or '.join(folders)}" if folders else "absolute"
    for name, field in _fields(schema):
        for part in path_parts(field):
            part["pattern"] = pattern
            text = field.get("description", "")
            if example := _EXAMPLE.search(text):
                text = text.replace(example[0], _example_of_site(name, example[0], settings), 1)
            field["description"] = f"{text} [path, {words}]".strip()


def path_pattern(folders: Sequence[str]) -> str:
    """Return the regular expression of absolute paths below some folders, or of all where none is named.

    >>> bool(re.search(path_pattern(["/data"]), "/data/a")), bool(re.search(path_pattern(["/data"]), "/data/../etc"))
    (True, False)
    """
    start = f"(?:{'|'.join(map(_below, folders))})" if folders else "/"
    return rf"^(?!.*/\.\.(?:/|$)){start}"


def offered_values(schema: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """Return the paths that a form offers, field by field: the database, folders of projects, models and masks."""
    known = _known_paths(settings)
    offered: dict[str, Any] = {}
    for name, field in schema.get("properties", {}).items():
        fields = _definition(schema, field).get("properties", {})
        if values := {key: value for key, value in known.items() if key in fields and any(path_parts(fields[key]))}:
            offered[name] = values
        elif not fields and name in known:
            offered[name] = known[name]
    return offered


def _known_paths(settings: Settings) -> dict[str, Any]:
    """Return the values of fields that the site's settings hold, by the fields' names."""
    site = settings.site
    known: dict[str, Any] = {
        "database": str(settings.database) if settings.database else None,
        "roots": [str(p) for p in site.read_only],
        "models": str(site.models) if site.models else None,
        "masks": str(site.masks[0]) if site.masks else None,
    }
    return {name: value for name, value in known.items() if value}


def _example_of_site(name: str, example: str, settings: Settings) -> str:
    """Return an example of a field's path at this site; the given one where no setting has one.

    >>> _example_of_site("output", "/data/runs/november", Settings.model_validate({"site": {"read_write": ["/disk"]}}))
    '/disk/november'
    """
    site, known = settings.site, _known_paths(settings).get(name)
    if known:
        return known if isinstance(known, str) else str(known[0])
    folders = (site.models,) if name in ("model", "unpicker") else site.read_only if name in _READ else site.read_write
    folder = next(filter(None, folders), None)
    return str(folder / Path(example).name) if folder else example


def number_fields(template: dict[str, Any], *, last: Sequence[str] = ()) -> dict[str, Any]:
    """Give each field of a pool's form its position, and return the form.

    PostgreSQL stores the form as JSONB, which keeps no order; the page sorts by `position`.

    Parameters
    ----------
    last
        Fields that come after all others.
    """
    fields = template["variables"]["properties"]
    for position, name in enumerate(sorted(fields, key=lambda name: name in last)):
        fields[name]["position"] = position
    return template


def _is_below(path: str, folders: Sequence[str]) -> bool:
    return any(re.search(path_pattern([folder]), path) for folder in folders)


def _below(folder: str) -> str:
    folder = folder.rstrip("/")
    return re.escape(folder).replace(r"\-", "-").replace(r"\ ", " ") + "(?:/|$)"


def _definition(schema: dict[str, Any], field: dict[str, Any]) -> dict[str, Any]:
    """Return the model that a field refers to, the field itself where it refers to none."""
    reference = field.get("$ref") or next((p["$ref"] for p in field.get("allOf", []) if "$ref" in p), "")
    definitions: dict[str, Any] = schema.get("definitions", {})
    found: dict[str, Any] = definitions.get(reference.rpartition("/")[2], field)
    return found


def _fields(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for model in (schema, *schema.get("definitions", {}).values()):
        yield from model.get("properties", {}).items()
