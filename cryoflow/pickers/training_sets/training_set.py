"""One training set made of several database entries: unique names, one box size an entry, one split for every picker.

Every exported micrograph gets a stem `000012__name`. Its number is unique and of fixed width, and `__` stands in it
only once, so no stem is a part of another: crYOLO pairs pictures and labels by substring.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.micrographs.header import MicrographHeader
from cryoflow.pickers.training_sets.negatives import none
from cryoflow.pickers.training_sets.split import TEST, TRAIN, VALIDATION
from cryoflow.picks import FloatArray, PickSet

TIFF_SUFFIXES = (".tif", ".tiff")
MICROGRAPHS_IN_MEMORY = 1000
"""Micrographs of a shard that `TrainingSet.in_shards` yields."""
OF_SHARDS = {
    **dict.fromkeys(("stem", "split", "path", "convert", "link_as"), "object"),
    **dict.fromkeys(("ny", "nx"), "Int32"),
    **dict.fromkeys(("pixel_size_A", "scale", "box_px", "diameter_A"), "float64"),
}
"""Columns of micrographs, and their types, that a shard of a set keeps."""


@dataclass(frozen=True)
class Skipped:
    """A micrograph that could not be used, and why."""

    entry: str
    micrograph: str
    reason: str


@dataclass(frozen=True)
class TrainingSet:
    """Picks of several entries on micrographs with unique stems.

    Attributes
    ----------
    micrographs : DataFrame
        One row an exported micrograph, the columns of `manifest.COLUMNS`, sorted by stem.
    picks : DataFrame
        As in `PickSet`, `micrograph` counting rows of this table; positions in micrograph pixels.
    picksets
        The entries, in the order of the column `entry_index`.
    headers
        Header of each micrograph; None for TIFF, and where micrographs are named only.
    skipped
        Micrographs that were left out.
    notes
        What a user should know.
    not_positive : DataFrame
        Picks labeled negative (-1) or unlabeled (0): see `not_positive_picks`.
    """

    micrographs: pd.DataFrame
    picks: pd.DataFrame
    picksets: tuple[PickSet, ...]
    headers: tuple[MicrographHeader | None, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    not_positive: pd.DataFrame = field(default_factory=none)

    @property
    def offsets(self) -> npt.NDArray[np.intp]:
        """Return row offsets, (n_micrographs + 1,): picks of micrograph `i` are rows `offsets[i]:offsets[i + 1]`."""
        return np.searchsorted(self.picks["micrograph"].to_numpy(), np.arange(len(self.micrographs) + 1))

    def each(self) -> Iterator[tuple[str, str, int, int]]:
        """Yield stem, split, and first and last + 1 row of picks, of each micrograph."""
        offsets = self.offsets.tolist()
        rows = zip(self.micrographs["stem"], self.micrographs["split"], offsets[:-1], offsets[1:], strict=True)
        yield from rows

    def per_pick(self, column: str) -> FloatArray:
        """Return a number of the micrographs' table, for each pick.

        Returns
        -------
        (n_picks,) float
            NaN where the table has no value.
        """
        values = np.asarray(self.micrographs[column].to_numpy(np.float64, na_value=np.nan), np.float64)
        per_pick: FloatArray = values[self.picks["micrograph"].to_numpy()]
        return per_pick

    def shard(self, first: int, last: int) -> TrainingSet:
        """Return micrographs `first` to `last` (not included) and their picks, as `write_micrographs` needs them."""

        def of(picks: pd.DataFrame, columns: Iterable[str]) -> pd.DataFrame:
            start, stop = np.searchsorted(picks["micrograph"].to_numpy(), (first, last))
            rows = picks.iloc[start:stop][list(columns)].reset_index(drop=True)
            return rows.assign(micrograph=(rows["micrograph"] - first).astype(np.int32))

        rows = self.micrographs.iloc[first:last].reindex(columns=list(OF_SHARDS)).reset_index(drop=True)
        picks, others = of(self.picks, ("micrograph", "x_px", "y_px")), of(self.not_positive, self.not_positive.columns)
        return TrainingSet(rows, picks, (), (), not_positive=others)

    def in_shards(self, first: int = 0, last: int | None = None) -> Iterator[TrainingSet]:
        """Yield micrographs `first` to `last` (not included; by default all) in shards, which bounds the memory."""
        end = len(self.micrographs) if last is None else last
        for start in range(first, end, MICROGRAPHS_IN_MEMORY):
            yield self.shard(start, min(start + MICROGRAPHS_IN_MEMORY, end))

    def without(self, drop: npt.NDArray[np.bool_]) -> TrainingSet:
        """Return the same without some picks.

        Parameters
        ----------
        drop : (n_picks,) bool
            Which picks to leave out.
        """
        picks = self.picks[~drop].reset_index(drop=True)
        counts = np.bincount(picks["micrograph"].to_numpy(), minlength=len(self.micrographs))
        return replace(self, picks=picks, micrographs=self.micrographs.assign(n_picks=counts))


def splits_of(training: TrainingSet) -> dict[str, int]:
    """Return number of micrographs of each split."""
    counts = training.micrographs["split"].value_counts()
    return {split: int(counts.get(split, 0)) for split in (TRAIN, VALIDATION, TEST)}
