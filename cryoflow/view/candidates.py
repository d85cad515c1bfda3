"""The picks of an entry that a person may keep or remove, with what is known of each.

An un-picked entry holds only what was kept. What was removed lies in the entry that it was made from: both together are
shown, so that a removed pick can be taken back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from cryoflow.database import Database, Entry
from cryoflow.database.project_diameter import load_with_diameter
from cryoflow.errors import BadInput
from cryoflow.parameters import CALIBRATED
from cryoflow.picks import Kind, PickSet
from cryoflow.storage.fingerprints import checksum
from cryoflow.storage.safe_names import short_hash
from cryoflow.unpicker.decision import JOB_TYPE

Float = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Candidates:
    """Picks of an entry to look at.

    Attributes
    ----------
    entry
        The entry that was asked for.
    picks
        All picks, those that un-picking removed included.
    scores : (n,) float
        NaN where unknown.
    calibrated
        Whether scores are probabilities.
    threshold
        Where the slider stands at first: the picks of at least this score are those that the entry holds.
    removed_without_score
        Picks whose score is unknown because un-picking removed them.
    labels : (n,) int8
        Labels of the entry: 1 positive, -1 negative, 0 unlabeled.
    fingerprint
        Changes where the picks do: decisions of an older content do not fit.
    notes
        What a user should know.
    """

    entry: Entry
    picks: PickSet
    scores: Float
    calibrated: bool
    threshold: float
    removed_without_score: npt.NDArray[np.bool_]
    labels: Labels
    fingerprint: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.picks)

    @cached_property
    def offsets(self) -> npt.NDArray[np.intp]:
        """Return row offsets: picks of micrograph `i` are rows `offsets[i]:offsets[i + 1]`."""
        return self.picks.offsets

    @cached_property
    def micrograph(self) -> npt.NDArray[np.int32]:
        """Return the micrograph of each pick, (n,)."""
        return self.picks.picks["micrograph"].to_numpy(np.int32)

    @cached_property
    def probabilities(self) -> Float:
        """Return scores, with 0 where they are unknown, (n,)."""
        return np.nan_to_num(self.scores)

    @cached_property
    def kept_without_score(self) -> npt.NDArray[np.intp]:
        """Return the rows whose score is unknown, except those that un-picking removed."""
        return np.flatnonzero(np.isnan(self.scores) & ~self.removed_without_score)

    @cached_property
    def labeled(self) -> npt.NDArray[np.intp]:
        """Return the rows that the entry labels."""
        return np.flatnonzero(self.labels)

    @cached_property
    def centers_xy_px(self) -> Float:
        """Return the positions, (n, 2), x first."""
        return self.picks.centers_xy_px

    def rows(self, micrograph: int) -> slice:
        """Return the rows of one micrograph."""
        return slice(int(self.offsets[micrograph]), int(self.offsets[micrograph + 1]))

    @property
    def has_scores(self) -> bool:
        """Return whether any score is known."""
        return bool(np.isfinite(self.scores).any())

    @cached_property
    def score_range(self) -> tuple[float, float]:
        """Return the range of the slider: 0 to 1 for probabilities, else lowest to highest score."""
        if self.calibrated or not self.has_scores:
            return 0.0, 1.0
        return float(np.nanmin(self.scores)), float(np.nanmax(self.scores))

    def with_scores(self, scores: Float, threshold: float) -> Candidates:
        """Return the same picks with a model's probabilities.

        Where the model has not scored them, probabilities that the entry has stay, and picks that un-picking removed
        stay removed.
        """
        if self.calibrated:
            scores = np.where(np.isnan(scores), self.scores, scores)
        removed = self.removed_without_score & np.isnan(scores)
        return replace(self, scores=scores, calibrated=True, threshold=threshold, removed_without_score=removed)


def open_candidates(database: Database, name: str) -> Candidates:
    """Load an entry to look at.

    Raises
    ------
    BadInput
        Where there is no such entry, or it is damaged.
    """
    entry = database.entry(name)
    picks = load_with_diameter(database, name)
    content = checksum(entry.folder / "data.txt")
    if entry.job_type == JOB_TYPE and entry.output_group:
        try:
            source = database.load(f"{entry.project}/{entry.output_group}")
            content += checksum(database.entry(f"{entry.project}/{entry.output_group}").folder / "data.txt")
        except BadInput as error:
            return _of(entry, picks, content, (f"The picks that were removed cannot be shown: {error.reason}",))
        if (joined := _with_removed(source, picks)) is not None:
            return _of(entry, joined, content, ())
        note = f"The picks that were removed cannot be shown: {entry.output_group} was changed since."
        return _of(entry, picks, content, (note,))
    return _of(entry, picks, content, ())


def _of(entry: Entry, picks: PickSet, content: str, notes: tuple[str, ...]) -> Candidates:
    table = picks.picks
    scores = table["score"].to_numpy(np.float64) if "score" in table else np.full(len(picks), np.nan)
    labels = table["label"].to_numpy(np.int8) if "label" in table else np.zeros(len(picks), np.int8)
    calibrated = picks.score_kind == CALIBRATED
    known = scores[np.isfinite(scores)]
    removed = np.isnan(scores) if calibrated and entry.kind == Kind.UNPICKED else np.zeros(len(picks), bool)
    return Candidates(
        entry=entry,
        picks=picks,
        scores=scores,
        calibrated=calibrated,
        threshold=float(known.min()) if len(known) else 0.0,
        removed_without_score=removed,
        labels=labels,
        fingerprint=short_hash(content, 16),
        notes=notes,
    )


def _with_removed(source: PickSet, kept: PickSet) -> PickSet | None:
    """Return all picks of the source with the scores of those that were kept; None where a kept one is not there."""
    row_of = {name: i for i, name in enumerate(source.micrographs["name"])}
    at: dict[tuple[int, int, int], int] = {}
    for row, key in enumerate(_keys(source, None)):
        at.setdefault(key, row)
    scores = np.full(len(source), np.nan)
    kept_scores = kept.picks["score"].to_numpy(np.float64)
    for key, score in zip(_keys(kept, row_of), kept_scores.tolist(), strict=True):
        row_or_none = at.get(key)
        if row_or_none is None:
            return None
        scores[row_or_none] = score
    table = source.picks.drop(columns=["score", "label"], errors="ignore").assign(score=scores)
    who = kept.provenance
    diameter = kept.diameter_A or source.diameter_A
    return replace(
        source, picks=table, provenance=who, diameter_A=diameter, score_kind=kept.score_kind, notes=kept.notes
    )


def _keys(picks: PickSet, row_of: Mapping[str, int] | None) -> list[tuple[int, int, int]]:
    """Return micrograph and position of each pick in thousandths of a pixel, as the database's text keeps them."""
    rows = picks.picks["micrograph"].to_numpy()
    if row_of is not None:
        rows = np.array([row_of.get(name, -1) for name in picks.micrographs["name"]])[rows]
    thousandths = np.rint(picks.centers_xy_px * 1000).astype(np.int64)
    return list(zip(rows.tolist(), thousandths[:, 0].tolist(), thousandths[:, 1].tolist(), strict=True))
