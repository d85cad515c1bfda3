"""Score picks on held-out micrographs: recall of reference picks, or agreement with the un-picker, at a fixed number.

The number of picks of each micrograph is fixed when the first picks are made: as many as the un-picker keeps of them,
and no fewer than the reference has. Each model is scored on its best picks up to that number, so that neither a
threshold nor incomplete labels favor a model.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cryoflow.models.gate import MicrographCounts
from cryoflow.parameters import MATCH_RADIUS
from cryoflow.pickers.comparing.matching import match_picks
from cryoflow.picks import PickSet

Clean = Callable[[PickSet], PickSet]
"""Returns the picks of a set that are particles."""


def on_micrographs(picks: PickSet, names: Collection[str]) -> PickSet:
    """Return the picks on some micrographs; other micrographs are left out."""
    return picks.on_micrographs(picks.micrographs["name"].isin(list(names)).to_numpy())


def best_picks(picks: PickSet, number: Mapping[str, int]) -> PickSet:
    """Return the picks of the highest scores, at most `number[name]` on each micrograph; without scores the first."""
    scores = picks.picks["score"].to_numpy(np.float64) if "score" in picks.picks else np.zeros(len(picks))
    keep = np.zeros(len(picks), bool)
    offsets = picks.offsets
    for i, name in enumerate(picks.micrographs["name"]):
        start, stop = offsets[i : i + 2]
        order = np.argsort(-scores[start:stop], kind="stable")[: number.get(str(name), 0)]
        keep[start + order] = True
    return picks.where(keep)


def picks_per_micrograph(picks: PickSet) -> dict[str, int]:
    """Return the number of picks on each micrograph by name."""
    counts = np.diff(picks.offsets).tolist()
    return dict(zip(map(str, picks.micrographs["name"]), counts, strict=True))


@dataclass(frozen=True)
class PicksScorer:
    """Score of picks on held-out micrographs.

    Attributes
    ----------
    contents
        Held-out micrographs: name -> fingerprint of the file.
    reference
        Picks that are particles, perhaps not all; None scores by the agreement with `clean`.
    """

    project: str
    contents: Mapping[str, str]
    clean: Clean
    reference: PickSet | None
    diameter_A: float

    @property
    def measure(self) -> str:
        """Return the name of the score, for messages."""
        if self.reference is None:
            return "share of the best picks that the un-picker keeps"
        return f"recall of {self.reference.provenance.entry_name}"

    def numbers(self, first: PickSet) -> dict[str, int]:
        """Return how many picks count on each held-out micrograph, from the first picks."""
        kept = picks_per_micrograph(self.clean(on_micrographs(first, self.contents)))
        known = picks_per_micrograph(self.reference) if self.reference is not None else {}
        return {name: max(kept.get(name, 0), known.get(name, 0)) for name in self.contents}

    def counts(self, picks: PickSet, numbers: Mapping[str, int]) -> list[MicrographCounts]:
        """Score the best picks of each held-out micrograph; a micrograph that was not picked scores 0.

        Of a reference, `n_picks` is the reference's number too, so that F1 of the counts is the recall.
        """
        best = best_picks(on_micrographs(picks, self.contents), numbers)
        if self.reference is None:
            kept = picks_per_micrograph(self.clean(best))
            matched = {name: kept.get(name, 0) for name in self.contents}
            of = dict(numbers)
        else:
            known, matched = _positions(self.reference), {}
            found = _positions(best)
            for name in self.contents:
                xy, pixel_A = known.get(name, (np.zeros((0, 2)), 1.0))
                picked, picked_pixel_A = found.get(name, (np.zeros((0, 2)), pixel_A))
                radius_px = MATCH_RADIUS * self.diameter_A / pixel_A
                matched[name] = len(match_picks(xy, picked * (picked_pixel_A / pixel_A), radius_px).pick)
            of = {name: len(known.get(name, ((), 1.0))[0]) for name in self.contents}
        return [MicrographCounts(self.project, self.contents[n], of[n], of[n], matched[n]) for n in sorted(of)]


def _positions(picks: PickSet) -> dict[str, tuple[npt.NDArray[np.float64], float]]:
    """Return the picks of each micrograph in its pixels, and the pixel size in angstrom, by name."""
    xy, offsets = picks.centers_xy_px, picks.offsets
    rows = zip(picks.micrographs["name"], picks.micrographs["pixel_size_A"].to_numpy(np.float64), strict=True)
    return {str(name): (xy[offsets[i] : offsets[i + 1]], float(size)) for i, (name, size) in enumerate(rows)}
