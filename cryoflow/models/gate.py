"""The gate: whether a candidate may replace the version in use, on micrographs that neither learned from.

Both versions are scored on the same held-out micrographs. The candidate passes only where the mean F1 of the projects
that were known before falls by at most `GateRule.max_macro_fall`, that of no single one by more than
`max_project_fall`, and the new projects gain, unless they were found nearly perfectly before. Where an un-picker scored
the picks, its agreement with them must not fall by more, either.
Intervals are a paired bootstrap over micrographs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_ROUNDING = 1e-9


@dataclass(frozen=True)
class GateRule:
    """Limits of the gate, as differences of F1."""

    max_macro_fall: float = 0.01
    max_project_fall: float = 0.03
    n_bootstrap: int = 1000
    confidence: float = 0.95


@dataclass(frozen=True)
class MicrographCounts:
    """Picks of one version on one held-out micrograph, against its reference picks.

    Where the reference is incomplete, precision means nothing: `n_picks` is then `n_reference`, and F1 is the recall at
    a fixed number of picks.

    Attributes
    ----------
    n_reference
        Picks that are right by the reference.
    n_picks
        Picks that the version kept or made.
    n_matched
        Of these, matched one to one with the reference.
    n_scored, n_agreed
        Number of picks that are compared, and of those that an un-picker takes for particles: a version that finds
        fewer agrees less. 0 where the reference is complete or there is no un-picker.
    """

    project: str
    micrograph: str
    n_reference: int
    n_picks: int
    n_matched: int
    n_scored: int = 0
    n_agreed: int = 0


@dataclass(frozen=True)
class ProjectChange:
    """F1 of one project before and after; `low` and `high` bound the change. NaN where a version was not scored.

    `agreed_before` and `agreed_after` are shares of the best picks that an un-picker takes for particles.
    """

    project: str
    is_new: bool
    n_micrographs: int
    f1_before: float
    f1_after: float
    low: float
    high: float
    agreed_before: float = float("nan")
    agreed_after: float = float("nan")

    @property
    def change(self) -> float:
        """Return F1 after minus F1 before."""
        return self.f1_after - self.f1_before


@dataclass(frozen=True)
class Verdict:
    """Decision of the gate; `reasons` are sentences, in the order of the rules."""

    accepted: bool
    reasons: tuple[str, ...]
    changes: tuple[ProjectChange, ...]


def compare(
    before: Sequence[MicrographCounts],
    after: Sequence[MicrographCounts],
    *,
    known_projects: Collection[str],
    rule: GateRule | None = None,
    seed: int = 0,
) -> Verdict:
    """Decide whether the candidate whose counts are `after` may replace the version whose counts are `before`.

    Parameters
    ----------
    known_projects
        Projects that the version in use learned from; the others are new.

    Raises
    ------
    ValueError
        Where the two were not scored on the same micrographs.
    """
    rule = rule or GateRule()
    if sorted((c.project, c.micrograph) for c in before) != sorted((c.project, c.micrograph) for c in after):
        raise ValueError("both versions must be scored on the same micrographs")
    changes = tuple(
        _change(project, before, after, project not in known_projects, rule, seed)
        for project in sorted({c.project for c in after})
    )
    reasons = [*_falls(changes, rule), *_agreement_falls(changes, rule), *_gain(changes, rule)]
    accepted = not reasons
    if accepted:
        old = [c for c in changes if not c.is_new]
        new = [c for c in changes if c.is_new]
        reasons = [f"{len(old)} known projects keep their F1 within the limits"] if old else []
        # The first version of all is compared with finding nothing, which is no version to name.
        from_nothing = not known_projects and all(c.f1_before == 0 for c in new)
        reasons += [
            f"{c.project} is new: F1 "
            + (f"{c.f1_after:.3f}" if from_nothing else f"{c.f1_before:.3f} -> {c.f1_after:.3f}")
            for c in new
        ]
    return Verdict(accepted, tuple(reasons), changes)


def _falls(changes: Sequence[ProjectChange], rule: GateRule) -> list[str]:
    """Return the reasons against the candidate on projects of earlier versions."""
    old = [c for c in changes if not c.is_new]
    if not old:
        return []
    reasons = []
    macro = float(np.mean([c.change for c in old]))
    if not macro >= -rule.max_macro_fall - _ROUNDING:  # `not >=` is also true of NaN
        reasons.append(
            f"mean F1 of {len(old)} known projects changes by {macro:+.3f}; at most -{rule.max_macro_fall} is allowed"
        )
    for c in old:
        if not c.change >= -rule.max_project_fall - _ROUNDING:
            reasons.append(
                f"{c.project}: F1 {c.f1_before:.3f} -> {c.f1_after:.3f} ({c.low:+.3f} to {c.high:+.3f} on "
                f"{c.n_micrographs} micrographs); a fall of at most {rule.max_project_fall} is allowed"
            )
    return reasons


def _agreement_falls(changes: Sequence[ProjectChange], rule: GateRule) -> list[str]:
    """Return what an un-picker holds against the candidate's picks on projects that were known before."""
    scored = [c for c in changes if not c.is_new and not np.isnan(c.agreed_after)]
    if not scored:
        return []
    reasons = []
    macro = float(np.mean([c.agreed_after - c.agreed_before for c in scored]))
    if not macro >= -rule.max_macro_fall - _ROUNDING:
        reasons.append(
            f"mean agreement with the un-picker on {len(scored)} known projects changes by {macro:+.3f}; "
            f"at most -{rule.max_macro_fall} is allowed"
        )
    for c in scored:
        if not c.agreed_after - c.agreed_before >= -rule.max_project_fall - _ROUNDING:
            reasons.append(
                f"{c.project}: agreement with the un-picker {c.agreed_before:.3f} -> {c.agreed_after:.3f}; "
                f"a fall of at most {rule.max_project_fall} is allowed"
            )
    return reasons


def _gain(changes: Sequence[ProjectChange], rule: GateRule) -> list[str]:
    """Return why the new projects do not gain; where nothing is new, the known ones must not lose.

    New projects that were found nearly perfectly before have nothing to gain; they must not lose.
    """
    new = [c for c in changes if c.is_new]
    if new and all(min(c.f1_before, c.f1_after) >= 1 - rule.max_macro_fall - _ROUNDING for c in new):
        return []
    if new and not float(np.mean([c.change for c in new])) > 0:
        names = ", ".join(f"{c.project} {c.f1_before:.3f} -> {c.f1_after:.3f}" for c in new)
        return [f"the new projects do not gain: {names}"]
    if not new and not float(np.mean([c.change for c in changes] or [np.nan])) >= 0:
        return ["nothing is new, and the known projects do not gain"]
    return []


def f1(counts: npt.NDArray[np.float64]) -> float:
    """Return F1 of summed (n, 3) counts: reference, picks, matched; 1 where there is nothing to find and no pick.

    >>> f1(np.array([[10.0, 10.0, 5.0]]))
    0.5
    """
    return float(_f1_of_sums(counts.sum(axis=0)))


def _f1_of_sums(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return F1 of (..., 3) sums of reference, picks and matched, (...) float."""
    total = sums[..., 0] + sums[..., 1]
    return np.where(total == 0, 1.0, 2 * sums[..., 2] / np.maximum(total, 1))


def _change(
    project: str,
    before: Sequence[MicrographCounts],
    after: Sequence[MicrographCounts],
    is_new: bool,
    rule: GateRule,
    seed: int,
) -> ProjectChange:
    old, new = _table(before, project), _table(after, project)
    random = np.random.default_rng(seed)
    n = len(old)
    weights = random.multinomial(n, np.full(n, 1 / n), rule.n_bootstrap)  # the same micrographs for both versions
    differences = _f1_of_sums(weights @ new) - _f1_of_sums(weights @ old)
    tail = (1 - rule.confidence) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    agreed = (_agreement(counts, project) for counts in (before, after))
    return ProjectChange(project, is_new, n, f1(old), f1(new), float(low), float(high), *agreed)


def _agreement(counts: Sequence[MicrographCounts], project: str) -> float:
    """Return the share of a project's scored picks that the un-picker takes for particles; NaN without any."""
    mine = [c for c in counts if c.project == project]
    scored = sum(c.n_scored for c in mine)
    return sum(c.n_agreed for c in mine) / scored if scored else float("nan")


def _table(counts: Sequence[MicrographCounts], project: str) -> npt.NDArray[np.float64]:
    """Return (n, 3) reference, picks, matched of a project, in order of micrograph."""
    rows = sorted((c.micrograph, c.n_reference, c.n_picks, c.n_matched) for c in counts if c.project == project)
    return np.array([row[1:] for row in rows], np.float64).reshape(-1, 3)
