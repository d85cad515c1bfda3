"""`manifest.tsv`: from every name that was given to a picker back to the micrograph it stands for.

Text with tabs between the values. Its first line is `# cryoflow manifest 1` and what the set was made with; then one
head line, then one line a micrograph. An empty value is one that is not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from cryoflow.errors import BadInput, UnsafePath
from cryoflow.picks import MICROGRAPH_COLUMNS
from cryoflow.storage import inputs
from cryoflow.storage.safe_names import is_file_name
from cryoflow.storage.tab_separated import read_table_text, table_text

NAME, SETTINGS = "manifest.tsv", "settings.tsv"
COLUMNS = {
    "stem": "object",
    "split": "object",
    "entry": "object",
    "project": "object",
    "project_path": "object",
    "name": "object",
    "path": "object",
    "uid": "object",
    "ny": "Int32",
    "nx": "Int32",
    "pixel_size_A": "float64",
    "scale": "float64",
    "box_px": "float64",
    "diameter_A": "float64",
    "n_picks": "int64",
    "defocus_A": "float64",
    "defocus_u_A": "float64",
    "defocus_v_A": "float64",
    "defocus_angle_deg": "float64",
    "phase_shift_deg": "float64",
    "voltage_kV": "float64",
    "cs_mm": "float64",
    "amplitude_contrast": "float64",
}
"""Columns and their types. `stem`: the exported name; `name`, `path`: the micrograph in its project and its file;
`scale`: micrograph pixels per pixel of the coordinates that were exported (1 but for pickers that downsample)."""

_HEAD = "# cryoflow manifest 1"


def manifest_text(micrographs: pd.DataFrame, made_with: str) -> str:
    """Return the manifest of some micrographs, with one line about how it was made."""
    table = micrographs.reindex(columns=list(COLUMNS))
    return f"{_HEAD}\t{made_with}\n{table_text(table, '%.9g')}"


def is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest that cryoflow wrote."""
    try:
        with inputs.text_lines(path) as file:
            return file.readline(len(_HEAD)).startswith(_HEAD)
    except (OSError, UnicodeDecodeError):
        return False


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest; `path` may be the folder it lies in.

    Raises
    ------
    BadInput
        Where it is none, or lacks a column.
    """
    path = path / NAME if path.is_dir() else path
    if not is_manifest(path):
        raise BadInput(
            path, "is not a manifest of cryoflow.", "Name the folder that `cryoflow export` or `cryoflow picker` wrote."
        )
    try:
        with inputs.opened_table(path) as file:
            table = read_table_text(file, skip_lines=1)
    except (OSError, ValueError) as error:  # pandas' own errors are among them
        raise BadInput(path, f"is damaged: {error}.", "Export it again.") from error
    if missing := [c for c in COLUMNS if c not in table.columns]:
        raise BadInput(path, f"lacks the columns {', '.join(missing)}.")
    if table["stem"].duplicated().any():
        raise BadInput(path, "names a stem twice.")
    refuse_paths(path, table["stem"])
    for name, dtype in COLUMNS.items():
        if dtype == "object":
            table[name] = table[name].astype(object).where(table[name] != "", None)
            continue
        try:
            table[name] = pd.Series(pd.to_numeric(table[name].replace("", None)), dtype=dtype)
        except (ValueError, TypeError, OverflowError) as error:
            raise BadInput(
                path, f"is damaged: {name} is no column of numbers ({error}).", "Export it again."
            ) from error
    return table[list(COLUMNS)]


def refuse_paths(path: Path, stems: Iterable[object]) -> None:
    """Raise `UnsafePath` if a stem cannot be a file's name: files are read and written under these names."""
    for stem in stems:
        if not is_file_name(str(stem)):
            raise UnsafePath(path, f"the stem {str(stem)[:100]!r} cannot be the name of a file.", "Export it again.")


def nearest(path: Path) -> Path | None:
    """Return the manifest of the set that a file or folder lies in, if any."""
    path = path.absolute()
    return next((p / NAME for p in (path, *path.parents) if is_manifest(p / NAME)), None)


def made_with(path: Path) -> str:
    """Return values of the first line: how the set was made.

    Raises
    ------
    BadInput
        Where the file cannot be read.
    """
    path = path / NAME if path.is_dir() else path
    try:
        file = inputs.text_lines(path, errors="replace")
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
    with file:
        return file.readline(100_000).rstrip("\n").partition("\t")[2]


def settings_table(folder: Path) -> pd.DataFrame:
    """Return columns setting, value and why, as text, from the `settings.tsv` beside a manifest.

    Raises
    ------
    BadInput
        Where it is missing or damaged.
    """
    try:
        with inputs.opened_table(folder / SETTINGS) as file:
            table = read_table_text(file)
        return table[["setting", "value", "why"]]
    except (OSError, KeyError, ValueError) as error:
        raise BadInput(folder, f"has no readable {SETTINGS} ({error}).", "Export it again.") from error


class _Settings(dict[str, str]):
    """Settings by name; one that the file lacks is an error of the file."""

    def __init__(self, folder: Path, table: pd.DataFrame) -> None:
        super().__init__(zip(table["setting"], table["value"], strict=True))
        self._file = folder / SETTINGS

    def __missing__(self, name: str) -> str:
        raise BadInput(self._file, f"lacks the setting {name}.", "Export it again.")


def read_settings(folder: Path) -> dict[str, str]:
    """Return settings by name, from the `settings.tsv` beside a manifest.

    To read one that is not there raises `BadInput`.
    """
    return _Settings(folder, settings_table(folder))


def micrographs_of(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return a micrograph table (`cryoflow.picks.MICROGRAPH_COLUMNS`) of manifest rows."""
    from cryoflow.picks import micrograph_table

    columns = {c: manifest[c].tolist() for c in MICROGRAPH_COLUMNS if c in manifest.columns}
    status = ["found" if p is not None and Path(p).exists() else "missing" for p in manifest["path"]]
    return micrograph_table(columns | {"status": status})
