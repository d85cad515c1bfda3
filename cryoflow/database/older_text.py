"""The older scripts' data.txt: numbers of the microscope, `$`, then `Micrograph NAME`, rows of x and y, `$`.

Files with x and y alone under their `Micrograph` lines, without head or `$`, are read as well. The older scripts wrote
0 where they knew nothing, so that 0 is unknown here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from cryoflow.database import layout
from cryoflow.database.data_text import DataText
from cryoflow.errors import BadInput
from cryoflow.picks import micrograph_table
from cryoflow.storage import budgets

_HEAD = {
    "Voltage": "voltage_kV",
    "CS": "cs_mm",
    "AmpContrast": "amplitude_contrast",
    "PixelSize": "pixel_size_A",
}


def count_older_data(path: Path) -> tuple[int, int]:
    """Return the number of micrographs and of picks in a data.txt of the older scripts, for a listing.

    Raises
    ------
    BadInput
        If it cannot be read.
    """
    names: set[bytes] = set()
    n_picks = 0
    inside = False
    with layout.opened(path) as file:
        for raw in budgets.lines(path, file):
            row = raw.strip()
            if row.startswith((b"Micrograph ", b"Micrograph\t")):
                names.add(row)
                inside = True
            elif row == b"$":
                inside = False
            elif row and inside:
                n_picks += 1
    return len(names), n_picks


def read_older_data(path: Path) -> DataText:
    """Read a data.txt of the older scripts; picks of micrographs of one name come together.

    Raises
    ------
    BadInput
        Where it is something else.
    """
    head: dict[str, float] = {}
    index_of: dict[str, int] = {}
    rows: dict[int, list[bytes]] = {}
    current: int | None = None
    with layout.opened(path) as file:
        for number, raw in enumerate(budgets.lines(path, file), 1):
            row = raw.strip()
            if row == b"$" or not row:
                current = None if row else current
            elif row.startswith(b"Micrograph ") or row.startswith(b"Micrograph\t"):
                name = row[len(b"Micrograph") :].strip().decode(errors="surrogateescape")
                current = index_of.setdefault(name, len(index_of))
                rows.setdefault(current, [])
            elif current is not None:
                rows[current].append(row)
            else:
                key, _, value = row.decode(errors="replace").replace(":", " ").partition(" ")
                try:
                    head[_HEAD[key]] = float(value)
                except (KeyError, ValueError):
                    raise BadInput(
                        path,
                        f"line {number}: {row[:60]!r} is no head line ({', '.join(_HEAD)}), no 'Micrograph', no '$'.",
                        "Is it a data.txt?",
                    ) from None
    if not index_of and not head:
        raise BadInput(path, "it holds neither a head nor a micrograph.", "Is it a data.txt?")
    blocks = [_positions(path, name, rows[i]) for name, i in index_of.items()]
    n = len(blocks)
    known = {key: [value] * n for key, value in head.items() if value > 0}
    positions = np.concatenate([np.zeros((0, 2)), *blocks])
    picks = pd.DataFrame(
        {
            "micrograph": np.repeat(np.arange(n, dtype=np.int32), [len(b) for b in blocks]),
            "x_px": positions[:, 0],
            "y_px": positions[:, 1],
        }
    )
    names = list(index_of)
    return DataText(tuple(names), micrograph_table({"name": pd.Series(names, dtype="object"), **known}), picks)


def _positions(path: Path, name: str, rows: list[bytes]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """Return x and y of each row, whatever columns follow."""
    try:
        return np.array([[float(v) for v in row.split(None, 2)[:2]] for row in rows], np.float64).reshape(len(rows), 2)
    except ValueError:
        raise BadInput(path, f"a row of {name} does not start with two numbers.", "Is it a data.txt?") from None
