"""CryoSPARC datasets (`.cs`): bytes to columns and back, in both containers. Nothing of their meaning is known here.

Two containers carry the name. *npy* is NumPy's format 1 to 3 with one structured type; text is fixed-width bytes.
*CSDAT* (CryoSPARC 4.4 on) is a JSON header, then each column as one block (LZ4 or plain), then a heap of
NUL-terminated text that columns of type `|O` point into. Both are read without unpickling anything, column by column,
and a header is believed only as far as the file is long.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput, MissingMetadata
from cryoflow.formats.cs_csdat import CSDAT_MAGIC, Csdat, write_csdat
from cryoflow.formats.cs_distinct import Distinct
from cryoflow.formats.cs_header import HINT, Array, CsHeader
from cryoflow.formats.cs_npy import NPY_MAGIC, Npy, write_npy
from cryoflow.storage import inputs
from cryoflow.storage.files import replacing

__all__ = ["CsHeader", "Distinct", "read_cs", "read_cs_distinct", "read_cs_header", "read_cs_rows", "write_cs"]


def read_cs_header(path: str | Path) -> CsHeader:
    """Return number of rows and columns of a dataset, from its head alone; the file's length is checked against it.

    Raises
    ------
    BadInput
        Where it is not a dataset (git-lfs pointer, web page, raw records), is truncated, or would need unpickling.
    """
    with _opened(path) as file:
        return _container(file, path).header


def read_cs(path: str | Path, columns: Collection[str] | None = None) -> dict[str, Array]:
    """Return columns of a dataset by name, such as `location/center_x_frac`; all of them by default.

    Text is returned as fixed-width bytes (`S`) from npy and as `str` objects from CSDAT.

    Raises
    ------
    BadInput
        As `read_cs_header`.
    MissingMetadata
        Where a requested column is missing.
    """
    return read_cs_distinct(path, columns, ())[0]


def read_cs_distinct(
    path: str | Path, columns: Collection[str] | None, distinct: Sequence[str]
) -> tuple[dict[str, Array], Distinct]:
    """Return columns of a dataset, and beside them a few columns that repeat (a micrograph's path, uid, shape) told
    apart.

    A million rows hold the same few thousand micrographs, so their paths are never all in memory: the file passes by in
    pieces of a few MiB.

    Parameters
    ----------
    columns
        Columns to return row by row; None means all that are not in `distinct`.
    distinct
        Columns whose distinct rows are wanted.
    """
    with _opened(path) as file:
        container = _container(file, path)
        names = container.header.dtype.names or ()
        wanted = [n for n in names if n not in distinct] if columns is None else list(dict.fromkeys(columns))
        if missing := [name for name in (*wanted, *distinct) if name not in names]:
            raise MissingMetadata(path, f"has no column {', '.join(missing)} (columns: {_some(names)}).")
        return container.read(wanted, list(distinct))


def read_cs_rows(path: str | Path, columns: Collection[str], rows: npt.NDArray[np.integer]) -> dict[str, Array]:
    """Return columns of a few rows of a dataset, in the order of `rows`, without reading the others where that is
    possible."""
    with _opened(path) as file:
        container = _container(file, path)
        if missing := [name for name in columns if name not in (container.header.dtype.names or ())]:
            raise MissingMetadata(path, f"has no column {', '.join(missing)}.")
        return container.read_rows(list(columns), np.asarray(rows, np.int64))


def write_cs(
    path: str | Path, columns: Mapping[str, npt.ArrayLike], *, container: Literal["npy", "csdat"] = "npy"
) -> None:
    """Write a dataset, complete or not at all. Text columns may be `str` or bytes.

    Raises
    ------
    ValueError
        Where columns differ in length or have a type that a dataset cannot hold: a defect of the caller.
    """
    arrays = {name: _writable(name, np.asarray(values)) for name, values in columns.items()}
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) != 1:
        raise ValueError(f"a dataset's columns must have one length, not {sorted(lengths)}")
    with replacing(Path(path)) as hidden, hidden.open("wb") as file:
        (write_npy if container == "npy" else write_csdat)(file, arrays, lengths.pop())


def _opened(path: str | Path) -> BufferedReader:
    try:
        return inputs.opened(path)
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error


def _container(file: BufferedReader, path: str | Path) -> Npy | Csdat:
    try:
        magic = file.read(6)
        if magic == NPY_MAGIC:
            return Npy(file, path)
        if magic == CSDAT_MAGIC:
            return Csdat(file, path)
        raise _not_a_dataset(path, magic + file.read(200))
    except OSError as error:
        raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error


def _not_a_dataset(path: str | Path, start: bytes) -> BadInput:
    if not start:
        return BadInput(path, "is empty (0 bytes).", HINT)
    if start.startswith(b"version https://git-lfs"):
        return BadInput(path, "is a git-lfs pointer, not the file itself.", "Fetch the content (`git lfs pull`).")
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return BadInput(path, "is a web page, not a dataset.", "The download failed; fetch the file again.")
    if start.startswith(b"\x94CSDAT"):
        return BadInput(path, "is of CryoSPARC's first CSDAT format, which CryoSPARC itself no longer reads.", HINT)
    if start.startswith(NPY_MAGIC[: len(start)]) or start.startswith(CSDAT_MAGIC[: len(start)]):
        return BadInput(path, "is truncated within its first bytes.", HINT)
    return BadInput(path, "is not a CryoSPARC dataset: it has neither NumPy's nor CSDAT's first bytes.", HINT)


def _writable(name: str, array: Array) -> Array:
    if array.dtype.kind in "UO":
        encoded = [str(text).encode(errors="surrogateescape") for text in array.tolist()]
        array = np.array(encoded, f"S{max([1, *map(len, encoded)])}")
    if array.dtype.kind not in "biufS" or array.ndim == 0:
        raise ValueError(f"a dataset cannot hold the column {name} of type {array.dtype}")
    return array


def _some(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")
