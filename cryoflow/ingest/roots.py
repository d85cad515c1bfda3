"""What a user names to be read: projects and folders above them, jobs, and tables of picks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cryoflow.errors import CryoflowError
from cryoflow.formats.pick_tables import format_of
from cryoflow.projects.crawl import crawl
from cryoflow.projects.table_folders import tables_of

_LOOKED_AT = 20


def split_roots(roots: Sequence[Path], micrographs: Path | None = None) -> tuple[list[Path], list[Path]]:
    """Return the roots that are tables of picks or folders of them, and those that are crawled for projects.

    A folder is one of tables where its files are, and it holds no project and lies in none. With a folder of
    micrographs, all folders are of tables: projects know their micrographs.
    """
    tables: list[Path] = []
    folders: list[Path] = []
    for root in roots:
        is_table = root.is_file() or (root.is_dir() and (micrographs is not None or _is_folder_of_tables(root)))
        (tables if is_table else folders).append(root)
    return tables, folders


def _is_folder_of_tables(root: Path) -> bool:
    try:
        files = [path for group in tables_of(root).groups for path in group.files]
    except CryoflowError:
        return False
    return any(map(_is_table, files[:_LOOKED_AT])) and not crawl([root]).projects


def _is_table(path: Path) -> bool:
    try:
        return format_of(path) is not None
    except CryoflowError:
        return False
