"""What reading a file of others may cost: limits of time, memory and expansion per byte of input, for every format.

A file of a few hundred bytes can claim to hold 10^12 rows, nest a million levels deep, or repeat itself by reference
until no memory is left. Every reader takes its limits from this module, so that such a file is one clear error
(`OverBudget`) and the work on the other files goes on. `cryoflow.storage.parsing` reads JSON, YAML and TOML so.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from cryoflow.errors import OverBudget

if TYPE_CHECKING:
    import yaml

T = TypeVar("T")

SECONDS = 20.0
"""Seconds that reading any file may take, however small it is."""
SECONDS_PER_MB = 2.0
"""Further seconds for each megabyte of the file."""
MEMORY_BYTES = 1 << 30
"""Most bytes that the values of one parsed file of JSON or YAML may take in memory."""
JSON_BYTES = 1 << 27
"""Most bytes of a JSON file. A `job.json` of CryoSPARC has up to a few megabytes."""
YAML_BYTES = 1 << 19
"""Most bytes of a YAML file. A `.csg` file of CryoSPARC has a few thousand; PyYAML reads about 0.1 MB/s."""
TOML_BYTES = 1 << 18
"""Most bytes of a settings file."""
MOST_DOTS = 1000
"""Most dots in a line of TOML."""
DEEPEST = 64
"""Most levels of nesting in YAML and TOML."""
YAML_VALUES_PER_BYTE = 2
"""Most values of a YAML file, with aliases written out, for each byte of it (aliases repeat a value by reference)."""
WHOLE_BYTES = 1 << 28
"""Most bytes of a file that is read whole. Larger ones are read in pieces, or are not what they are named like."""
LONGEST_LINE_BYTES = 1 << 20
"""Most bytes of a line of text."""
MOST_COLUMNS = 2048
"""Most columns of a table of text; RELION's widest tables have about 60."""
LONGEST_ROW_BYTES = 1 << 16
"""Most bytes of one row of a table of text."""
MOST_PIXELS = 1 << 28
"""Most pixels of a micrograph that is held whole, 1 GiB; the largest cameras have 94 million in super-resolution."""
EXPANSION_BYTES = 1 << 28
"""Bytes that a compressed file may unpack to, however small it is: an empty micrograph of 8192 x 8192."""
EXPANSION_PER_BYTE = 64
"""Further bytes for each byte of it; images of noise compress to a half."""
_JSON_VALUE_BYTES = 80
"""Bytes of memory that one JSON value takes on average: a small object, and its place in a list or dict."""


class Deadline:
    """The time that reading a file may take, which grows with its size; call `check` in each long loop.

    It is over when both the clock and the processor have run so long: on a loaded machine, or over a slow network, the
    clock alone says little of a file.

    Parameters
    ----------
    path
        The file, for the error message.
    n_bytes
        Its size.
    """

    def __init__(self, path: str | Path, n_bytes: int) -> None:
        self.path = path
        self.seconds = SECONDS + SECONDS_PER_MB * n_bytes / 1e6
        self._end, self._cpu_end = time.monotonic() + self.seconds, time.process_time() + self.seconds

    def check(self) -> None:
        """Raise `OverBudget` if the time is over."""
        if time.monotonic() > self._end and time.process_time() > self._cpu_end:
            raise OverBudget(
                self.path, f"reading it takes more than the {self.seconds:.0f} s that a file of its size may cost."
            )

    def watch(self, items: Sequence[T], every: int = 1000) -> Iterator[T]:
        """Iterate over items and check the time at every thousandth."""
        for number, item in enumerate(items):
            if number % every == 0:
                self.check()
            yield item


def check_json(path: str | Path, raw: bytes) -> None:
    """Raise `OverBudget` if the values of a JSON text would take more memory than `MEMORY_BYTES`."""
    n_values = sum(raw.count(sign) for sign in (b",", b"[", b"{", b":"))
    if 4 * len(raw) + n_values * _JSON_VALUE_BYTES > MEMORY_BYTES:
        raise OverBudget(path, f"its {n_values} values are more than a JSON file may hold.")


def check_yaml(path: str | Path, raw: bytes, events: Iterable[yaml.Event]) -> None:
    """Count the values of a YAML text as if its aliases were written out; events need little memory.

    Raises
    ------
    OverBudget
        If they are more than `YAML_VALUES_PER_BYTE` allows, are nested deeper than `DEEPEST`, or repeat without end.
    """
    import yaml

    most = 1000 + YAML_VALUES_PER_BYTE * len(raw)
    deadline = Deadline(path, len(raw))
    sizes: dict[str | None, int] = {}  # values below each anchor
    anchors: list[str | None] = []  # of the collections that are open
    counts: list[int] = [0]  # values below each of them, and of the document
    for number, event in enumerate(events):
        if number % 1000 == 0:
            deadline.check()
        if isinstance(event, yaml.AliasEvent):
            if event.anchor in anchors:
                raise OverBudget(path, f"its value {event.anchor!r} contains itself.")
            counts[-1] += sizes.get(event.anchor, 1)
        elif isinstance(event, yaml.ScalarEvent):
            counts[-1] += 1
            sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            anchors.append(event.anchor)
            counts.append(1)
            if len(anchors) > DEEPEST:
                raise OverBudget(path, f"it is nested deeper than {DEEPEST} levels.")
        elif isinstance(event, yaml.CollectionEndEvent):
            below = counts.pop()
            sizes[anchors.pop()] = below
            counts[-1] += below
        if counts[-1] > most:
            raise OverBudget(path, f"its aliases repeat more than {most} values.")


def check_nesting(path: str | Path, values: Mapping[str, object]) -> None:
    """Raise `OverBudget` if parsed values are nested deeper than `DEEPEST`."""
    level: list[object] = [values]
    for _ in range(DEEPEST + 1):  # a loop, since a recursion is what deep values break
        level = [
            below
            for value in level
            for below in (value.values() if isinstance(value, dict) else value)  # type: ignore[attr-defined]
            if isinstance(below, dict | list)
        ]
        if not level:
            return
    raise OverBudget(path, f"it is nested deeper than {DEEPEST} levels.")


def check_rows(path: str | Path, file: BinaryIO) -> None:
    """Check the length of every row and the number of words in the widest rows of a text table, then rewind.

    Raises
    ------
    OverBudget
        If a row has more than `LONGEST_ROW_BYTES` bytes or `MOST_COLUMNS` columns.
    """
    import numpy as np

    rest = b""
    while piece := file.read(1 << 20):
        block = (rest + piece).replace(b"\r", b"\n")
        ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        starts = np.concatenate([[0], ends + 1])
        lengths = np.diff(np.concatenate([starts, [len(block)]]))
        longest = int(lengths.max())
        if longest > LONGEST_ROW_BYTES:
            raise OverBudget(path, f"it has a row of more than {LONGEST_ROW_BYTES >> 10} KiB.")
        for i in np.flatnonzero(lengths >= 2 * MOST_COLUMNS).tolist():  # a column takes at least two bytes
            row = block[int(starts[i]) : int(starts[i]) + int(lengths[i])]
            if max(len(row.split()), *(row.count(sign) for sign in (b",", b";", b"\t"))) > MOST_COLUMNS:
                raise OverBudget(path, f"it has a row of more than {MOST_COLUMNS} columns.")
        rest = block[int(starts[-1]) :]
    file.seek(0)


def check_expansion(path: str | Path, n_bytes: int, n_unpacked: int) -> None:
    """Raise `OverBudget` if compressed content would unpack to much more than the size of its file allows."""
    if n_unpacked > EXPANSION_BYTES + EXPANSION_PER_BYTE * n_bytes:
        raise OverBudget(path, f"its {n_bytes} bytes unpack to {n_unpacked}, more than a file of its size may hold.")


def lines(path: str | Path, file: BinaryIO) -> Iterator[bytes]:
    """Iterate over the lines of a file; a file with holes may have one of many terabytes.

    Raises
    ------
    OverBudget
        If a line has more than `LONGEST_LINE_BYTES`.
    """
    while row := file.readline(LONGEST_LINE_BYTES + 1):
        if len(row) > LONGEST_LINE_BYTES:
            raise OverBudget(path, f"it has a line of more than {LONGEST_LINE_BYTES >> 10} KiB.")
        yield row
