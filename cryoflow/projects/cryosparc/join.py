"""The rows of several datasets brought together by particle uid, whatever their order."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.errors import BadInput
from cryoflow.formats.cs import Distinct, read_cs_distinct
from cryoflow.formats.cs_header import Array

UidArray = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Match:
    """For each row of one table the row of another that has its uid.

    Attributes
    ----------
    rows : (n,) int or None
        None where the tables have the same rows in the same order. Where nothing matches, the row is 0.
    found : (n,) bool or None
        Whether there is one; None where all have.
    """

    rows: npt.NDArray[np.intp] | None = None
    found: npt.NDArray[np.bool_] | None = None

    def take(self, values: Array) -> Array:
        """Return values of the other table in the rows of the first; NaN where there is none, for whole numbers 0."""
        if self.rows is None:
            taken = values
        elif len(values):
            taken = values[self.rows]
        else:  # an empty table: row 0 cannot stand in for missing rows
            taken = np.zeros((len(self.rows), *values.shape[1:]), values.dtype)
        if self.found is not None:
            taken[~self.found] = np.nan if taken.dtype.kind == "f" else 0
        return taken


def match_uids(uids: UidArray, others: UidArray) -> Match:
    """Find each of `uids` among `others`; of repeated uids among `others` the first counts.

    >>> match_uids(np.array([3, 1], np.uint64), np.array([1, 2, 3], np.uint64)).rows
    array([2, 0])
    """
    if np.array_equal(uids, others):
        return Match()
    # A hash table: a tenth of the time of argsort and searchsorted, which jump through memory where uids are random.
    index = pd.Index(others)
    if index.is_unique:
        rows = index.get_indexer(pd.Index(uids))
    else:
        first = np.flatnonzero(~index.duplicated())
        rows = pd.Index(others[first]).get_indexer(pd.Index(uids))
        rows[rows >= 0] = first[rows[rows >= 0]]
    found = rows >= 0
    if found.all():
        return Match(rows)
    rows[~found] = 0
    return Match(rows, found)


@dataclass(frozen=True)
class Joined:
    """Columns of several datasets in the rows of the first.

    Attributes
    ----------
    columns
        By name, `uid` among them; columns of tables that lack some rows hold NaN or 0 there.
    distinct
        The distinct rows of the columns that repeat, with codes in the rows of the first dataset.
    is_located : (n,) bool or None
        Whether the dataset of the distinct columns has the row; None where it has all.
    matches
        By path of the dataset.
    """

    columns: dict[str, Array]
    distinct: Distinct
    is_located: npt.NDArray[np.bool_] | None
    matches: Mapping[Path, Match]


def join(primary: Path, wanted: Mapping[Path, Collection[str]], repeated: tuple[Path, Sequence[str]]) -> Joined:
    """Read columns from several datasets, each once, and join them on `uid`.

    Parameters
    ----------
    primary
        The dataset whose rows count.
    wanted
        Columns by dataset.
    repeated
        The dataset of the columns that repeat, and their names.

    Raises
    ------
    BadInput
        Where the dataset of the columns that repeat has no rows, and the first one has.
    """
    columns: dict[str, Array] = {}
    matches: dict[Path, Match] = {}
    distinct = None
    for path in dict.fromkeys([primary, *wanted, repeated[0]]):
        names = list(repeated[1]) if path == repeated[0] else []
        values, repeating = read_cs_distinct(path, ["uid", *wanted.get(path, ())], names)
        own = values.pop("uid").astype(np.uint64, copy=False)
        if path == primary:
            columns["uid"], match = own, Match()
        else:
            match = match_uids(columns["uid"].astype(np.uint64, copy=False), own)
        del own
        matches[path] = match
        for name in list(values):
            columns[name] = match.take(values.pop(name))
        if path == repeated[0]:
            if not len(repeating.codes) and len(columns["uid"]):
                raise BadInput(path, "has no rows, so that it locates no particle.")
            codes = repeating.codes if match.rows is None else repeating.codes[match.rows]
            distinct = Distinct(codes, repeating.columns, repeating.first_row)
    if distinct is None:
        distinct = Distinct(np.zeros(len(columns["uid"]), np.int32), {}, np.zeros(0, np.int64))
    return Joined(columns, distinct, matches[repeated[0]].found, matches)
