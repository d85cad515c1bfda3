"""Picks labeled negative or unlabeled: never examples of particles, but of use to some pickers.

An entry such as CryoSPARC's excluded particles of a 2D selection has negative picks only. It names the same micrographs
as the entry with the positive ones, and its picks belong on those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.picks import PickSet

POSITIVE, UNLABELED, NEGATIVE = 1, 0, -1
COLUMNS = ("micrograph", "x_px", "y_px", "label")


def has_no_positive(pickset: PickSet) -> bool:
    """Return whether a set has picks, none of which may be taken for a particle."""
    return len(pickset.picks) > 0 and not is_positive(pickset.picks).any()


def is_positive(picks: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Return which picks are particles: all of them, except those labeled negative or unlabeled.

    Returns
    -------
    (n,) bool
    """
    if "label" not in picks:
        return np.ones(len(picks), bool)
    return np.asarray(picks["label"].to_numpy() == POSITIVE)


def not_positive_picks(
    picksets: Sequence[PickSet], keys: npt.ArrayLike, keep: npt.NDArray[np.bool_], new_row: npt.NDArray[np.intp]
) -> pd.DataFrame:
    """Return the negative and unlabeled picks of all sets, on the micrographs that are kept.

    Parameters
    ----------
    keys : (n,) text
        Of each micrograph of each set, one after the other; the same for one file in two sets.
    keep, new_row : (n,)
        Which micrographs are kept, and their row then.

    Returns
    -------
    DataFrame
        `COLUMNS`, sorted by micrograph.
    """
    codes = pd.factorize(np.asarray(keys, object))[0]
    row_of_code = np.full(len(codes), -1, np.int64)
    row_of_code[codes[keep]] = new_row[keep]
    tables, first = [], 0
    for pickset in picksets:
        picks = pickset.picks
        table = picks.loc[~is_positive(picks), [c for c in COLUMNS if c in picks]]
        row = row_of_code[codes[table["micrograph"].to_numpy() + first]]
        tables.append(table.assign(micrograph=row.astype(np.int32))[row >= 0])
        first += len(pickset.micrographs)
    tables = [table for table in tables if len(table)]
    if not tables:
        return none()
    picks = pd.concat(tables, ignore_index=True)
    ordered: pd.DataFrame = picks.iloc[np.argsort(picks["micrograph"].to_numpy(), kind="stable")]
    return ordered.reset_index(drop=True)


def none() -> pd.DataFrame:
    """Return an empty table of such picks."""
    types = {"micrograph": np.int32, "x_px": np.float64, "y_px": np.float64, "label": np.int8}
    return pd.DataFrame({name: np.zeros(0, dtype) for name, dtype in types.items()})
