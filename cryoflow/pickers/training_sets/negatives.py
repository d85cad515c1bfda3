"""Picks that somebody called wrong, or that nobody could judge: never examples of particles, but worth keeping.

An entry such as CryoSPARC's excluded particles of a 2D selection has wrong picks only. It names the same micrographs
as the entry with the right ones, and its picks belong on those.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from cryoflow.picks import PickSet

RIGHT, UNKNOWN, WRONG = 1, 0, -1
COLUMNS = ("micrograph", "x_px", "y_px", "label")


def has_only_wrong_picks(pickset: PickSet) -> bool:
    """Whether a set has no pick that is, or may be taken for, a particle."""
    return len(pickset.picks) > 0 and not is_particle(pickset.picks).any()


def is_particle(picks: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Which picks stand for particles, (n,) bool: all, but where labels say that they are wrong or not known."""
    if "label" not in picks:
        return np.ones(len(picks), bool)
    return np.asarray(picks["label"].to_numpy() == RIGHT)


def wrong_picks(
    picksets: Sequence[PickSet], keys: npt.ArrayLike, keep: npt.NDArray[np.bool_], new_row: npt.NDArray[np.intp]
) -> pd.DataFrame:
    """Picks of all sets that are labelled wrong or not known, on the micrographs that are kept.

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
    parts, first = [], 0
    for pickset in picksets:
        picks = pickset.picks
        part = picks.loc[~is_particle(picks), [c for c in COLUMNS if c in picks]]
        row = row_of_code[codes[part["micrograph"].to_numpy() + first]]
        parts.append(part.assign(micrograph=row.astype(np.int32))[row >= 0])
        first += len(pickset.micrographs)
    parts = [part for part in parts if len(part)]
    if not parts:
        return none()
    wrong: pd.DataFrame = pd.concat(parts, ignore_index=True)
    ordered: pd.DataFrame = wrong.iloc[np.argsort(wrong["micrograph"].to_numpy(), kind="stable")]
    return ordered.reset_index(drop=True)


def none() -> pd.DataFrame:
    """No such picks."""
    types = {"micrograph": np.int32, "x_px": np.float64, "y_px": np.float64, "label": np.int8}
    return pd.DataFrame({name: np.zeros(0, dtype) for name, dtype in types.items()})
