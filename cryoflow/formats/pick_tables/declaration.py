"""What a format of tables of picks declares, the start of a file that it is recognized by, and what its reader returns.

Readers return centers in the frame of `cryoflow.picks`, with one exception: `y_is_flipped`, since mirroring needs the
height of the micrograph.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from cryoflow.errors import BadInput
from cryoflow.formats.star_blocks import walk
from cryoflow.formats.star_words import is_number
from cryoflow.storage import inputs

if TYPE_CHECKING:
    import pandas as pd

FloatArray = npt.NDArray[np.float64]
Row = tuple[str, ...]
_HEAD_BYTES = 1 << 16
_SMALL_BYTES = 1 << 20
_POSITION = re.compile(r"(Coordinate|[xy]coor|OriginalXPosition)", re.IGNORECASE)
# Blanks within the line alone: `\s*` takes all blank lines below, at each of them again, so that 64 kB cost seconds.
_BLOCK_NAME = re.compile(rb"(?m)^[^\S\n]*data_\S*[^\S\n]*$")


@dataclass(frozen=True)
class FilePicks:
    """Picks of one file, in its order.

    Attributes
    ----------
    format
        Name of the format that it was read as.
    x_px, y_px : (n,) float
        Centers.
    score, psi_deg, class_number, uid : (n,) or None
        Where the file has them. A score that stands for "none" is NaN.
    score_kind
        What the score is.
    micrographs : (n,) text or None
        Micrograph of each pick as the file names it. None where the file's own name says it.
    micrograph
        The one micrograph that the file names in a comment; empty where it names none.
    box_px
        Edge of the boxes; their median where they differ.
    diameter_px, pixel_size_A
        Where the file says it.
    y_is_flipped
        y counts from the last stored row: CryoPPP.
    is_helical
        Picks are segments of helices, which overlap.
    label
        -1 where the file says that its picks are no particles.
    notes
        Rows that were not read, and warnings for the user.
    counts
        Rows that were left out, by reason.
    """

    format: str
    x_px: FloatArray
    y_px: FloatArray
    score: FloatArray | None = None
    score_kind: str = ""
    psi_deg: FloatArray | None = None
    class_number: npt.NDArray[np.int32] | None = None
    uid: npt.NDArray[np.uint64] | None = None
    micrographs: npt.NDArray[np.object_] | None = None
    micrograph: str = ""
    box_px: float | None = None
    diameter_px: float | None = None
    pixel_size_A: float | None = None
    y_is_flipped: bool = False
    is_helical: bool = False
    label: int | None = None
    notes: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.x_px)

    def frame(self) -> pd.DataFrame:
        """Return the picks as columns `name` (None where the file's own name says it), `x_px`, `y_px`, `score` and
        `uid`."""
        import pandas as pd

        # object: pandas' own type for text refuses names that are not UTF-8
        names = pd.Series(self.micrographs if self.micrographs is not None else [None] * len(self), dtype=object)
        columns: dict[str, object] = {"name": names, "x_px": self.x_px, "y_px": self.y_px}
        columns |= {name: value for name in ("score", "uid") if (value := getattr(self, name)) is not None}
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class Head:
    """The first bytes of a file, and what follows from them. Formats are recognized by it."""

    path: Path
    start: bytes
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Head:
        """Read the head of a file.

        Raises
        ------
        BadInput
            Where the file cannot be read.
        """
        try:
            with inputs.opened(path) as file:
                start = file.read(_HEAD_BYTES)
                size_bytes = file.seek(0, 2)
        except OSError as error:
            raise BadInput(path, f"cannot be read: {error.strerror or error}.") from error
        return cls(path, start, size_bytes)

    @property
    def is_blank(self) -> bool:
        """Return whether the file has no bytes, or white space alone."""
        return not self.start.strip() and self.size_bytes <= len(self.start)

    @cached_property
    def is_star(self) -> bool:
        """Return whether it has a line `data_NAME`, or is named like a STAR file."""
        return self.path.suffix.lower() == ".star" or bool(_BLOCK_NAME.search(self.start))

    @cached_property
    def columns(self) -> tuple[frozenset[str], ...]:
        """Return the labels of each STAR block; of a large file, of the blocks up to the first with positions.

        A file that is no STAR file has none.
        """
        if not self.is_star:
            return ()
        found = []
        for block in walk(self.path):
            found.append(frozenset(block.columns))
            if self.size_bytes > _SMALL_BYTES and any(_POSITION.search(label) for label in block.columns):
                break
        return tuple(found)

    def has_block(self, *labels: str) -> bool:
        """Return whether a STAR block has all of these labels."""
        return any(set(labels) <= columns for columns in self.columns)

    @cached_property
    def lines(self) -> list[str]:
        """Return the lines that are neither blank nor comments, without the last one, which may be cut off."""
        text = self.start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        whole = text.splitlines() if self.size_bytes <= len(self.start) else text.splitlines()[:-1]
        return [line for line in whole if line.strip() and not line.lstrip().startswith("#")]

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """Return the words of the line of names, lower case, without `_`, `#` and quotes."""
        line = self.names_line[1]
        words = re.split(r"[,;\t]|\s+", line.strip().lstrip("#").strip())
        return tuple(word.strip().strip('"').lstrip("_").lower() for word in words)

    @cached_property
    def names_line(self) -> tuple[int, str]:
        """Return the number of lines before the line of names of a table, and that line.

        It is the first line that is no comment; where that one holds numbers, the comment before it.
        """
        comment, first = (0, ""), None
        text = self.start.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
        for number, line in enumerate(text.split("\n")):
            if line.lstrip().startswith("#"):
                comment = (number, line)
            elif line.strip():
                first = (number, line)
                break
        if first is None:
            return comment
        words = [word.strip('"') for word in re.split(r"[,;\s]+", first[1])]
        return comment if comment[1] and any(is_number(word.encode()) for word in words) else first

    @cached_property
    def numbers(self) -> Row | None:
        """Return the words of the first row, where all are numbers; None where the file is no table of numbers."""
        if self.is_star or b"\0" in self.start or not self.lines:
            return None
        words = tuple(word for word in re.split(r"[,;\s]+", self.lines[0].strip()) if word)
        return words if words and all(is_number(word.encode()) for word in words) else None


@dataclass(frozen=True)
class PickFormat:
    """One format of tables of picks: how it is recognized and read, and what users should know of it.

    Attributes
    ----------
    name
        Stands in databases as the type of the job.
    programs
        That write it.
    suffixes
        Usual suffixes, lower case. Files are recognized by content; in folders, these suffixes are looked at.
    recognized_by
        For the documentation: the content that `sniff` looks for.
    sniff
        Whether a file that is not blank is of this format.
    read
        Read a file of this format.
    position
        What the file stores: the center of a particle, or the corner of its box with the smallest x and y.
    units, y_counts_from
        Of positions.
    score, marks, blocks
        For the documentation: what the score is, which values and comments have a meaning, which blocks are read.
    kept, not_kept
        For the documentation: what a database gets of it.
    rounding_px
        How far a position may be off, since the format rounds.
    is_lines
        Rows are lines of text: a last line without an end may have been cut short.
    priority
        Formats of a higher priority are tried first.
    project_reader
        `relion` or `cryosparc`: the reader of projects, which also reads optics, shifts and other datasets.
    """

    name: str
    programs: tuple[str, ...]
    suffixes: tuple[str, ...]
    recognized_by: str
    sniff: Callable[[Head], bool]
    read: Callable[[Path], FilePicks]
    position: Literal["center", "corner"]
    kept: str
    not_kept: str = ""
    units: Literal["pixels", "fraction of the micrograph", "angstrom"] = "pixels"
    y_counts_from: Literal["first row", "last row"] = "first row"
    score: str = ""
    marks: str = ""
    blocks: str = ""
    rounding_px: float = 0.0
    is_lines: bool = True
    priority: int = 0
    project_reader: Literal["", "relion", "cryosparc"] = ""
