"""Settings, and where each value comes from.

The command line comes first, then `CRYOFLOW_*` variables, then `cryoflow.toml`, then the profile, then the defaults.
The file is the first that exists of: the one that `--config` or `CRYOFLOW_CONFIG` names; the nearest `cryoflow.toml` in
the working folder or above it, if the user trusts it (`trust.py`) and it does not lie in a folder that is being
crawled; the user's own in `~/.config/cryoflow/`; the site's in `/etc/cryoflow/`. Relative paths in it start at its
folder. A profile is a named set of values: a table `[profiles.NAME]` in that file, chosen by `profile = "NAME"` or
`CRYOFLOW_PROFILE`. A command's option that bears the name of a setting takes its value from here if the command line
does not give it.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from cryoflow.errors import BadInput
from cryoflow.settings.profiles import ProfileName
from cryoflow.settings.settings_files import FILE_NAME as FILE_NAME
from cryoflow.settings.settings_files import PREFIX, SITE_FOLDER, user_folder
from cryoflow.settings.site import Site
from cryoflow.storage import budgets, inputs
from cryoflow.storage.parsing import parse_toml

log = logging.getLogger(__name__)


class Settings(BaseSettings):
    """Settings of a site or a user; everything else is an option of a command."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    profile: str = Field("local", description="the set of values [profiles.NAME] that is laid over the defaults")
    database: Path | None = Field(None, description="folder of the text database")
    workers: int | None = Field(
        None, ge=1, description="processes that work at the same time; by default each command's own number"
    )
    remap: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="OLD=NEW: folders that have moved since a project was made; separated by commas in a variable"
    )
    chunk_micrographs: int = Field(100, ge=1, description="micrographs that one task of a flow works on")
    min_free_gb: float = Field(10.0, ge=0, description="free disk space below which `cryoflow doctor` warns")
    site: Site = Field(default=Site(), description="machines, folders and images of the site (table [site])")

    @property
    def place(self) -> ProfileName:
        """Return where stages run. A profile of another name than those of places runs them on this machine."""
        return ProfileName(self.profile) if self.profile in set(ProfileName) else ProfileName.LOCAL

    @field_validator("remap", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        return tuple(filter(None, value.split(","))) if isinstance(value, str) else value


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, and for each field the source its value comes from."""

    settings: Settings
    origins: Mapping[str, str]
    file: Path | None


def find_file() -> Path | None:
    """Return the settings file that applies in the working folder, None if there is none.

    Raises
    ------
    BadInput
        If `--config` or `CRYOFLOW_CONFIG` names a file that does not exist.
    """
    return _found(())[0]


def _found(crawled: Iterable[Path]) -> tuple[Path | None, bytes]:
    """Return the settings file that applies and its content, which is what the user trusts."""
    if named := os.environ.get("CRYOFLOW_CONFIG"):
        if not Path(named).is_file():
            raise BadInput(named, "--config or CRYOFLOW_CONFIG names this file, and it is not there.")
        return Path(named), content_of(Path(named))
    start = Path.cwd().resolve()
    if (near := next((f for folder in (start, *start.parents) if (f := folder / FILE_NAME).is_file()), None)) and (
        content := _content_if_trusted(near, crawled)
    ) is not None:
        return near, content
    for folder in (user_folder(), SITE_FOLDER):
        if (file := folder / FILE_NAME).is_file():
            return file, content_of(file)
    return None, b""


def _content_if_trusted(file: Path, crawled: Iterable[Path]) -> bytes | None:
    """Return the content of a settings file in the working folder or above it, None if it is not to be used."""
    from cryoflow.settings.trust import is_trusted, trusted

    if file.parent == user_folder().resolve() or file.parent == SITE_FOLDER:
        return content_of(file)
    if any(file.is_relative_to(os.path.realpath(root)) for root in crawled):
        log.warning("%s: not used, since it lies in a folder that is being crawled.", file, extra={"once": True})
        return None
    try:
        content = content_of(file)
    except BadInput:  # too large, or closed to us: it was never trusted so, and must not end every command here
        if os.path.realpath(file) in trusted():
            raise
        content = b""
    if is_trusted(file, content):
        return content
    log.warning(
        "%s: not used, since anybody may have put it there, or changed it. Read it, then run: "
        "cryoflow settings trust %s",
        file,
        shlex.quote(str(file)),
        extra={"once": True},
    )
    return None


def content_of(file: Path) -> bytes:
    """Return the content of a settings file.

    Raises
    ------
    BadInput
        If it cannot be read, or is too large for a settings file.
    """
    try:
        return inputs.read_bytes(file, at_most=budgets.TOML_BYTES)
    except OSError as error:
        raise BadInput(file, f"cannot be read: {error.strerror or error}.") from error


def load_settings(file: Path | None = None, *, crawled: Iterable[Path] = (), **command_line: object) -> LoadedSettings:
    """Read all sources; the result names the source of each value.

    Parameters
    ----------
    file
        A settings file; None looks for one (`find_file`).
    crawled
        See `find_file`.
    command_line
        Values given to a command; those that are None were not given.

    Raises
    ------
    BadInput
        Where the file is not TOML, a value is not valid, or a name is not that of a setting or profile.
    """
    file, content = (file, content_of(file)) if file else _found(crawled)
    from_file, profiles = _read(file, content) if file else ({}, {})
    sources: list[tuple[str, Mapping[str, object]]] = [
        ("command line", {k: v for k, v in command_line.items() if v is not None}),
        ("environment", _from_environment()),
        (str(file), from_file),
    ]
    profile = next((str(values["profile"]) for _, values in sources if "profile" in values), "local")
    if profile in profiles:
        sources.append((f"profile {profile} in {file}", profiles[profile]))
    elif profile not in set(ProfileName):
        known = ", ".join(sorted({*ProfileName, *profiles}))
        raise BadInput(file or FILE_NAME, f"there is no profile {profile!r} (profiles: {known}).")
    merged: dict[str, object] = {}
    origins = dict.fromkeys(Settings.model_fields, "default")
    for source, values in reversed(sources):
        merged = _overlaid(merged, values)
        origins |= dict.fromkeys(values, source)
        origins |= dict.fromkeys(_names(values), source)
    try:
        return LoadedSettings(Settings.model_validate(merged), origins, file)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        source = origins.get(name, "command line")
        hint = "" if name in Settings.model_fields else f"Known settings: {', '.join(Settings.model_fields)}."
        where = ".".join(map(str, first["loc"])) or name
        given = repr(first.get("input"))[:200]
        raise BadInput(source, f"setting {where}: {first['msg']} (it is {given}).", hint) from None


def _from_environment() -> dict[str, object]:
    """Return the values of `CRYOFLOW_*` variables; those of tables are JSON."""
    try:
        return EnvSettingsSource(Settings)()
    except (ValueError, RecursionError) as error:  # SettingsError is a ValueError
        cause = error.__cause__ or error
        given = [f"CRYOFLOW_{name.upper()}" for name in Settings.model_fields]
        longest = max(given, key=lambda name: len(os.environ.get(name, "")))
        named = re.findall(r'"(\w+)"', str(error))
        variable = f"CRYOFLOW_{named[0].upper()}" if named else longest
        raise BadInput(variable, f"this variable is not JSON: {str(cause)[:200]}.") from None


def _names(values: Mapping[str, object], above: str = "") -> list[str]:
    """Return names of all values, those in tables with dots: `site.server`."""
    found = []
    for name, value in values.items():
        found += _names(value, f"{above}{name}.") if isinstance(value, Mapping) else [f"{above}{name}"]
    return found


def _overlaid(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    """Return values with others laid over them; a table, such as [site], is overlaid value by value."""
    result = dict(below)
    for name, value in above.items():
        under = result.get(name)
        both = isinstance(under, Mapping) and isinstance(value, Mapping)
        result[name] = _overlaid(under, value) if both else value  # type: ignore[arg-type]  # checked right here
    return result


def _read(file: Path, content: bytes) -> tuple[dict[str, object], dict[str, dict[str, object]]]:
    """Return the values of a settings file, and its profiles."""
    values = parse_toml(file, content)
    profiles = values.pop("profiles", {})
    if not isinstance(profiles, dict) or not all(isinstance(p, dict) for p in profiles.values()):
        raise BadInput(file, "profiles is not a set of tables.", "Write [profiles.NAME] and the values below it.")
    for table in (values, *profiles.values()):
        if isinstance(database := table.get("database"), str):
            table["database"] = file.parent / database
    return values, profiles
