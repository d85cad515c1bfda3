"""How many picks and micrographs the outputs of a job have, for which its tables are read through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star import count_rows, read_table
from cryoflow.projects.found import Job, Output, damaged
from cryoflow.projects.relion.sniff import sniff
from cryoflow.storage import inputs
from cryoflow.system.threads import on_each_file

_LARGEST_BYTES = 2 << 30
"""A larger table is not read through to count its rows; ingest counts them."""


def with_counts(job: Job) -> Job:
    """Return a job whose outputs say how many picks and micrographs they have, as far as its tables can be read.

    A table that is cut off in its middle looks complete from its beginning: the job then has a reason.
    """
    tables: dict[Path, tuple[npt.NDArray[np.integer], npt.NDArray[np.floating] | None] | None] = {}
    outputs, problems = [], []
    for output in job.outputs:
        path = job.folder / output.group
        try:
            if path.name.startswith("coords_suffix") or sniff(path).is_coordinate_list:
                output = _counted_list(job.folder, path, output)
            elif path.stat().st_size <= _LARGEST_BYTES:
                if path not in tables:
                    tables[path] = _read(path)
                output = _counted_table(output, tables[path])
        except BadInput as error:
            problems.append(str(error))
        except OSError:
            pass  # it went away since it was listed
        outputs.append(output)
    return damaged(replace(job, outputs=tuple(outputs)), problems)


def _read(path: Path) -> tuple[npt.NDArray[np.integer], npt.NDArray[np.floating] | None]:
    """Return micrograph (as a number) and class of each particle."""
    table = read_table(path, None, ["rlnMicrographName"], optional=["rlnClassNumber"], narrow=["rlnClassNumber"])
    classes = table.get("rlnClassNumber")
    codes = np.asarray(table["rlnMicrographName"].codes)  # type: ignore[union-attr]
    return codes, None if classes is None else np.asarray(classes)


def _counted_table(
    output: Output, read: tuple[npt.NDArray[np.integer], npt.NDArray[np.floating] | None] | None
) -> Output:
    if read is None:
        return output
    codes, classes = read
    if output.class_number is not None and classes is not None:
        codes = codes[classes == output.class_number]
    return replace(output, n_picks=len(codes), n_micrographs=int(np.count_nonzero(np.bincount(codes))))


def _counted_list(folder: Path, path: Path, output: Output) -> Output:
    """Return rows of all small files that belong to a list: those of the job's folder with the list's ending."""
    word = path.stem.removeprefix("coords_suffix_")
    files = [file for file in _files(folder) if file.endswith((f"_{word}.star", f"_{word}.box"))]
    if not files:
        return output
    numbers = [n for n in on_each_file(_rows, files) if n is not None]
    n_micrographs = output.n_micrographs if output.n_micrographs is not None else len(files)
    return replace(output, n_picks=sum(numbers), n_micrographs=n_micrographs)


def _files(folder: Path) -> Iterator[str]:
    for top, _, names in os.walk(folder):
        yield from (os.path.join(top, name) for name in names if not name.startswith("coords_suffix"))


def _rows(file: str) -> int | None:
    try:
        if file.endswith(".box"):
            return sum(1 for line in inputs.read_bytes(file).splitlines() if line.strip())
        return count_rows(file, "rlnCoordinateX")
    except (BadInput, OSError):
        return None
