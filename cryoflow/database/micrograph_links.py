"""`Micrographs/` and `micrographs.txt`: one link a micrograph of a project, and the record of what each stands for.

A link's name is given once and kept, so that entries written years apart agree. Two micrographs of one base name get
links that differ by the folder they lie in, and where that does not tell them apart, by a hash of their name.

A link follows its micrograph to another place. Where the earlier file is still there and of another shape (the new one
is binned), the entries of before keep their link, and the new file gets one of its own.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryoflow.database import layout
from cryoflow.database.values import line, parse_pairs, parse_word, word
from cryoflow.errors import BadInput, UnsafePath
from cryoflow.micrographs.header import read_header, shape_of_file
from cryoflow.storage import files
from cryoflow.storage.safe_names import short_hash
from cryoflow.storage.sealing import refuse_newer
from cryoflow.system.threads import on_each_file

VERSION = 1
_MAGIC = "cryoflow micrographs "
_HINT = "Run 'cryoflow database verify --repair' to make it anew from the entries."


@dataclass(frozen=True)
class Link:
    """Target of one link: the micrograph's name in its project, and the file; None while that is missing."""

    name: str
    target: str | None


@dataclass(frozen=True)
class ProjectLinks:
    """The record of one project folder."""

    project: Path
    """Absolute path of the project."""
    title: str
    """Its display name."""
    links: Mapping[str, Link] = field(default_factory=dict)


def identity(name: str, project: Path) -> str:
    """Return a micrograph's name as a normal path, relative to the project where it lies inside."""
    normal = posixpath.normpath(name) if name else name
    if posixpath.isabs(normal) and normal.startswith(f"{project}/"):
        return normal[len(str(project)) + 1 :]
    return normal


def with_micrographs(
    record: ProjectLinks, names: Sequence[str], paths: Sequence[str | None]
) -> tuple[ProjectLinks, list[str]]:
    """Return the record with these micrographs in it, and the link of each."""
    links = dict(record.links)
    links_of: dict[str, list[str]] = {}
    for name, link in links.items():
        links_of.setdefault(link.name, []).append(name)
    taken = {layout.folded(name) for name in links}
    identities = [identity(name, record.project) for name in names]
    targets_of = {who: [links[name].target for name in links_of.get(who, [])] for who in identities}
    moved = [
        (target, path)
        for who, path in dict.fromkeys(zip(identities, paths, strict=True))
        for target in targets_of[who]
        if target is not None and path is not None and path not in targets_of[who]
    ]
    has_same_shape = dict(zip(moved, on_each_file(lambda pair: _has_same_shape(*pair), moved), strict=True))
    chosen: list[str] = []
    for who, path in zip(identities, paths, strict=True):
        its = {name: links[name].target for name in links_of.get(who, [])}
        chosen_name = _link_of(its, path, has_same_shape)
        if chosen_name is None:
            # A second link of a micrograph is named after its file: the folder tells the two apart.
            chosen_name = layout.free_name(layout.link_names(path if its and path else who), taken)
            links_of.setdefault(who, []).append(chosen_name)
            taken.add(layout.folded(chosen_name))
            links[chosen_name] = Link(who, path)
        elif path is not None:
            links[chosen_name] = Link(who, path)
        chosen.append(chosen_name)
    return ProjectLinks(record.project, record.title, links), chosen


def _link_of(
    targets: Mapping[str, str | None], path: str | None, has_same_shape: Mapping[tuple[str, str], bool | None]
) -> str | None:
    """Return which of a micrograph's links is for a file, None where it needs another one."""
    if path is None:
        without = [name for name, target in targets.items() if target is None]
        return next(iter(targets if len(targets) == 1 else without), None)
    for name, target in targets.items():
        if target == path:
            return name
    fits = {name: has_same_shape.get((target, path)) if target else None for name, target in targets.items()}
    return next((name for fit in (True, None) for name, found in fits.items() if found is fit), None)


def _has_same_shape(before: str, path: str) -> bool | None:
    """Return whether two files are images of one shape; None where the earlier one is gone or no image."""
    try:
        shape_yx = read_header(before).shape_yx
    except BadInput as error:
        return False if isinstance(error.__cause__, PermissionError) else None  # others may still read it
    return shape_of_file(path) == shape_yx


def write_links(folder: Path, record: ProjectLinks, *, root: Path) -> None:
    """Make the links of a project folder, then commit the record of them; what exists already is left alone.

    Parameters
    ----------
    root
        The database's folder; nothing is written outside it (`cryoflow.storage.open_folder.held`).

    Raises
    ------
    UnsafePath
        If a name would lead out of `Micrographs/`, or a link stands in the place of a folder.
    """
    record_path = folder / layout.MICROGRAPHS_TEXT
    if not os.path.lexists(record_path):
        files.write_atomically(record_path, links_text(ProjectLinks(record.project, record.title)), root=root)
    links_folder = folder / layout.LINKS
    there = {entry.name for entry in os.scandir(links_folder)} if links_folder.is_dir() else set()
    for name, link in sorted(record.links.items()):
        path = link_path(folder, name)
        if link.target is not None and (name not in there or read_link(path) != link.target):
            files.link(path, link.target, root=root)
    text = links_text(record).encode()
    if layout.content(record_path) != text:
        files.write_atomically(record_path, text, root=root)


def is_link_name(name: str) -> bool:
    """Return whether a name may be that of a link in `Micrographs/`.

    `layout.link_names` makes no others. A record that somebody sends may hold any text: an absolute path, `..`, NUL.
    """
    return re.fullmatch(r"[A-Za-z0-9_+=@][A-Za-z0-9._+=@-]{0,250}", name) is not None


def link_path(folder: Path, name: str) -> Path:
    """Return the path of a link in the `Micrographs/` of a project folder.

    Raises
    ------
    UnsafePath
        If the name would lead out of it.
    """
    if not is_link_name(name):
        raise UnsafePath(folder / layout.MICROGRAPHS_TEXT, f"{name!r} cannot be the name of a link.", _HINT)
    return folder / layout.LINKS / name


def read_link(path: Path) -> str | None:
    """Return what a link points to, None where there is none."""
    try:
        return str(path.readlink())
    except (OSError, ValueError):  # ValueError: NUL in the name
        return None


def links_text(record: ProjectLinks) -> str:
    """Return the text of a micrographs.txt; its last line is the checksum of the lines before."""
    lines = [
        f"{_MAGIC}{VERSION}",
        f"Project: {line(record.title)}",
        f"Project Path: {line(str(record.project))}",
        f"Number of Micrographs: {len(record.links)}",
    ]
    for name, link in sorted(record.links.items()):
        lines.append(f"Micrograph {word(name)} name={word(link.name)} target={word(link.target)}")
    body = "\n".join(lines) + "\n"
    return f"{body}Checksum: {short_hash(body, 32)}\n"


def read_links(folder: Path) -> ProjectLinks | None:
    """Read a project folder's record, None where it has none (an older database).

    Raises
    ------
    BadInput
        Where it is damaged, or a newer cryoflow wrote it.
    """
    path = folder / layout.MICROGRAPHS_TEXT
    try:
        text = layout.content(path).decode()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise BadInput(path, "damaged: not UTF-8 text.", _HINT) from None
    body, _, mark = text.rpartition("Checksum: ")
    if mark != f"{short_hash(body, 32)}\n":
        raise BadInput(path, "damaged: its checksum does not fit its content.", _HINT)
    rows = body.split("\n")
    refuse_newer(path, rows[0].removeprefix(_MAGIC), VERSION)
    try:
        fields = dict(row.split(": ", 1) for row in rows[1:4])
        links: dict[str, Link] = {}
        for row in rows[4:-1]:
            token, pairs = parse_pairs(row.removeprefix("Micrograph "))
            name, target = parse_word(token) or "", parse_word(pairs["target"])
            if not is_link_name(name) or (target is not None and (not target or "\0" in target)):
                raise UnsafePath(path, f"{name!r} -> {target!r} cannot be a link of a database.", _HINT)
            links[name] = Link(parse_word(pairs["name"]) or "", target)
        title, project = (_unquoted(fields[key]) for key in ("Project", "Project Path"))
    except (ValueError, KeyError) as error:
        raise BadInput(path, f"damaged: {error}.", _HINT) from None
    return ProjectLinks(Path(project), title, links)


def project_of(folder: Path) -> Path | None:
    """Return the path of the project that a project folder is for, from the head of its record alone."""
    try:
        with layout.opened(folder / layout.MICROGRAPHS_TEXT) as file:
            rows = [file.readline(100_000).decode() for _ in range(3)]
        return Path(_unquoted(rows[2].removeprefix("Project Path: ").rstrip())) if rows[0].startswith(_MAGIC) else None
    except (BadInput, OSError, ValueError):
        return None


def _unquoted(value: str) -> str:
    return (parse_word(value) or "") if value.startswith('"') else value
