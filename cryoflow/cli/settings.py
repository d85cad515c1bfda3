"""`cryoflow settings`: show settings and where each value comes from; trust a settings file of a working folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from cryoflow.cli.output import Json, emit_table, say

app = App(name="settings", help="Show settings, and trust a settings file.", help_format="plaintext")


@app.default
def show(*, json: Json = False) -> None:
    """Show every setting, its value and where that comes from.

    The command line comes before CRYOFLOW_* variables, cryoflow.toml, the profile and the defaults. The file is the
    one that --config or CRYOFLOW_CONFIG names, a trusted one of the working folder or above it, ~/.config/cryoflow/ or
    /etc/cryoflow/.
    """
    from cryoflow.settings.load import load_settings

    loaded = load_settings()
    rows = [
        {
            "setting": name,
            "value": value,
            "from": loaded.origins.get(name, "default"),
            "variable": f"CRYOFLOW_{name.upper()}" if "." not in name else None,
            "meaning": meaning,
        }
        for name, value, meaning in _values(loaded.settings, tables=json)
    ]
    say(f"settings file: {loaded.file or 'none'}")
    emit_table(rows, as_json=json)


@app.command
def trust(file: Path | None = None) -> None:
    """Use a cryoflow.toml of the working folder or above it from now on, until its content changes.

    Such a file chooses the server that gets your secret, the images, and shell lines that run on nodes: read it first.

    Parameters
    ----------
    file
        The settings file; the nearest one if it is not given.
    """
    from cryoflow.settings import trust as trusting
    from cryoflow.settings.load import content_of, load_settings

    path = _nearest(file)
    content = content_of(path)
    load_settings(path)  # a file with an error is refused before it is trusted
    trusting.trust(path, content)
    say(f"{path} is trusted as it is now")


@app.command
def untrust(file: Path | None = None) -> None:
    """Use a settings file no longer.

    Parameters
    ----------
    file
        The settings file; the nearest one if it is not given.
    """
    from cryoflow.settings import trust as trusting

    path = file or _nearest(None)
    say(f"{path} is no longer trusted" if trusting.untrust(path) else f"{path} was not trusted")


@app.command
def trusted(*, json: Json = False) -> None:
    """List the settings files that are trusted, and whether each is as it was when it was trusted."""
    from cryoflow.settings import trust as trusting

    rows = [{"file": name, "status": _status(Path(name))} for name in trusting.trusted()]
    emit_table(rows, columns=("file", "status"), as_json=json, empty="none is trusted")


def _status(path: Path) -> str:
    from cryoflow.errors import BadInput
    from cryoflow.settings.load import content_of
    from cryoflow.settings.trust import is_trusted

    if not path.is_file():
        return "gone"
    try:
        return "trusted" if is_trusted(path, content_of(path)) else "changed"
    except BadInput:  # it cannot be read any more, or is too large
        return "changed"


def _nearest(file: Path | None) -> Path:
    from cryoflow.errors import BadInput
    from cryoflow.settings.load import FILE_NAME

    here = Path.cwd()
    folders = (here, *here.parents)
    found = file or next((f for folder in folders if (f := folder / FILE_NAME).is_file()), here / FILE_NAME)
    if not found.is_file():
        raise BadInput(found, "there is no such settings file.", "Name the file that you want to trust.")
    return found


def _values(settings: object, above: str = "", *, tables: bool = False) -> Iterator[tuple[str, object, str | None]]:
    """Name, value and meaning of each setting, those in tables with dots, one by one; with `tables` those as well."""
    from pydantic import BaseModel

    assert isinstance(settings, BaseModel)
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if tables and isinstance(value, BaseModel):
            yield name, value, field.description
        if isinstance(value, BaseModel):
            yield from _values(value, f"{above}{name}.")
        elif isinstance(value, dict):
            for key, below in value.items():
                yield from _values(below, f"{above}{name}.{key}.")
        else:
            yield f"{above}{name}", value, field.description
