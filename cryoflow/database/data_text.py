"""`data.txt`: the picks of an entry as text, grouped by micrograph (docs/database.md shows one).

    cryoflow picks 1
    Frame: ...
    Columns: x_px y_px score class
    Decimals: 3 3 6 0
    Widths: 8 8 9 2
    Number of Micrographs: 2
    Number of Particles: 3
    $
    Micrograph stack_1.mrc name=MotionCorr/job002/stack_1.mrc picks=2 status=found ny=3838 nx=3710 pixel_size_A=0.885
    3667.810 1882.903  1.419362 24
    1551.781 3880.390  0.586818  7
    $
    Micrograph stack_2.mrc ...

`cryoflow.database.data_reader` reads it back, `cryoflow.database.older_text` what the older scripts wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.database import aligned_columns as text_columns
from cryoflow.database.aligned_columns import BLOCK_ROWS
from cryoflow.database.values import number, word
from cryoflow.picks import MICROGRAPH_COLUMNS, PICK_COLUMNS, PickSet

VERSION = 1
MAGIC = b"cryoflow picks "
POSITION_DECIMALS = 3
_FRAME = (
    "x along columns, y along rows, in pixels of the stored MRC file, first pixel stored is (0, 0); particle centres"
)
ATTRIBUTES = [name for name in MICROGRAPH_COLUMNS if name not in ("name", "path")]
Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class DataText:
    """Contents of a data.txt: one link name a micrograph, the micrographs (`path` unknown), and the picks."""

    links: tuple[str, ...]
    micrographs: pd.DataFrame
    picks: pd.DataFrame


def data_text(pickset: PickSet, links: Sequence[str]) -> Iterator[bytes]:
    """Yield the bytes of a data.txt, in pieces; `links` names each micrograph's link."""
    columns = _columns_within_bounds(pickset)
    decimals = {name: c.decimals for name, c in PICK_COLUMNS.items()} | dict.fromkeys(
        ("x_px", "y_px"), POSITION_DECIMALS
    )
    formats = [text_columns.column_format(name, values, decimals[name]) for name, values in columns.items()]
    yield (
        MAGIC
        + f"{VERSION}\nFrame: {_FRAME}\n"
        f"Columns: {' '.join(f.name for f in formats)}\n"
        f"Decimals: {' '.join('exact' if f.decimals is None else str(f.decimals) for f in formats)}\n"
        f"Widths: {' '.join(str(f.width) for f in formats)}\n"
        f"Number of Micrographs: {len(pickset.micrographs)}\nNumber of Particles: {len(pickset)}\n$\n".encode()
    )
    heads = _micrograph_lines(pickset, links)
    offsets = pickset.offsets
    row_bytes = text_columns.row_bytes(formats)
    first = 0
    while first < len(heads):  # whole micrographs, about BLOCK_ROWS picks at a time
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + BLOCK_ROWS, side="right")) - 1)
        start, end = int(offsets[first]), int(offsets[last])
        pieces = [
            text_columns.encode({name: v[a : min(a + BLOCK_ROWS, end)] for name, v in columns.items()}, formats)
            for a in range(start, end, BLOCK_ROWS)
        ]
        rows = b"".join(p.tobytes() for p in pieces)
        parts: list[bytes] = []
        for i in range(first, last):
            parts += (heads[i], rows[(offsets[i] - start) * row_bytes : (offsets[i + 1] - start) * row_bytes], b"$\n")
        yield b"".join(parts)
        first = last


def _columns_within_bounds(pickset: PickSet) -> dict[str, Array]:
    """Return the pick columns; a position that its decimals would round out of the micrograph is kept on its last
    0.001 px."""
    table = {str(name): pickset.picks[name].to_numpy() for name in pickset.picks.columns if name != "micrograph"}
    index = pickset.picks["micrograph"].to_numpy()
    for name, size in (("x_px", "nx"), ("y_px", "ny")):
        sizes = pickset.micrographs[size].to_numpy(np.float64, na_value=np.inf)
        if len(index) and np.isfinite(sizes).any():
            largest = (sizes - 0.5 - 10.0**-POSITION_DECIMALS)[index]
            if (table[name] > largest).any():
                table[name] = np.minimum(table[name], largest)
    return table


def _micrograph_lines(pickset: PickSet, links: Sequence[str]) -> list[bytes]:
    counts = np.diff(pickset.offsets).tolist()
    table = pickset.micrographs
    lines = [
        [f"Micrograph {word(link)} name={word(name)} picks={n}"]
        for link, name, n in zip(links, table["name"], counts, strict=True)
    ]
    for attribute in ATTRIBUTES:
        is_text = MICROGRAPH_COLUMNS[attribute][0] == "object"
        known = np.flatnonzero(table[attribute].notna().to_numpy()).tolist()
        values = table[attribute].tolist()
        texts: dict[object, str] = {}  # all micrographs of a project mostly have one voltage, shape and pixel size
        for i in known:
            if (value := values[i]) not in texts:
                texts[value] = f"{attribute}={word(str(value)) if is_text else number(float(value))}"
            lines[i].append(texts[value])
    return [(" ".join(parts) + "\n").encode() for parts in lines]
