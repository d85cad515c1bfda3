"""A review: what people decided about the candidates of an entry, folded from the journal of their actions.

Actions, as they stand in the journal (micrographs and picks by number; picks beyond the candidates are added ones, in
the order in which they were added):

    {"do": "label", "label": 1 | -1 | 0, "picks": {"<micrograph>": [<pick>, ...]}}    accept, remove, undecide
    {"do": "add", "micrograph": m, "xy_px": [[x, y], ...]}
    {"do": "mark", "micrograph": m, "mark": "finished" | "bad" | "", "threshold": t}
    {"do": "undo" | "redo", "of": <number of an action>}

A finished micrograph keeps the threshold at which it was finished: what a person has seen and confirmed does not move
when somebody moves the slider later.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import numpy as np
import numpy.typing as npt

from cryoflow.errors import CryoflowError
from cryoflow.view.candidates import Candidates, Float, Labels
from cryoflow.view.journal import Journal, Line

Mark = Literal["", "finished", "bad"]
MARKS: tuple[Mark, ...] = ("", "finished", "bad")
MOST_ADDED = 20_000
"""Most picks that people may add on one micrograph."""
MOST_AT_ONCE = 20_000
"""Most picks of one action."""


class BadAction(CryoflowError):
    """An action that does not fit the entry: a defect of the page, or somebody's own program."""


@dataclass
class Added:
    """Picks that people added on one micrograph, and the label of each: 1, or 0 where it was taken away again."""

    xy_px: list[tuple[float, float]] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)


@dataclass
class Decisions:
    """What all actions come to.

    Attributes
    ----------
    labels : (n,) int8
        Decision on each candidate: 1 accepted, -1 removed, 0 none.
    added
        Picks that people added, by micrograph.
    marks
        Marks of micrographs that have one.
    finished_at
        Threshold at which each finished micrograph was finished.
    people
        Who decided something.
    """

    labels: Labels
    added: dict[int, Added] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    finished_at: dict[int, float] = field(default_factory=dict)
    people: set[str] = field(default_factory=set)


class Review:
    """The review of one entry, shared by all who look at it.

    Parameters
    ----------
    candidates
        The entry's picks.
    journal
        Where actions are kept.
    """

    def __init__(self, candidates: Candidates, journal: Journal) -> None:
        self.candidates, self.journal = candidates, journal
        self._lock = threading.RLock()
        self._folded: int = -1
        self.decisions = Decisions(np.zeros(len(candidates), np.int8))
        self.refresh()

    @property
    def revision(self) -> int:
        """Number of the last action that is folded in."""
        return max(0, self._folded)

    def refresh(self) -> int:
        """Take in what others appended, and return the revision."""
        with self._lock:
            self.journal.read()
            lines = self.journal.lines
            if self._folded < 0 or any(_is_undo(line) for line in lines[self._folded :]):
                self._fold_all()
            else:
                for line in lines[self._folded :]:
                    self._apply(line)
            self._folded = len(lines)
            return len(lines)

    def act(self, by: str, window: str, action: Mapping[str, object]) -> Line | None:
        """Check an action, keep it, and fold it in; None where an undo finds nothing to undo.

        Raises
        ------
        BadAction
            Where it does not fit the entry.
        NotWritten, BadInput
            Where it cannot be kept; nothing has changed then.
        """
        with self._lock:
            checked = self._checked(action)

            def resolved() -> Mapping[str, object] | None:
                if checked["do"] not in ("undo", "redo"):
                    return checked
                of = self._last_of(by, window, undone=checked["do"] == "redo")
                return None if of is None else {"do": checked["do"], "of": of}

            line = self.journal.append(by, window, resolved)
            self.refresh()
            return line

    def changes_since(self, revision: int) -> list[Line]:
        """Return the actions after a revision."""
        return list(self.journal.lines[max(0, revision) :])

    def micrographs_of(self, line: Line) -> set[int]:
        """Return the micrographs that an action changed; an undo changed those of the action that it undid."""
        if _is_undo(line):
            of = line.action.get("of")
            if not isinstance(of, int) or not 0 < of < line.number or _is_undo(self.journal.lines[of - 1]):
                return set()
            line = self.journal.lines[of - 1]
        action = line.action
        if action.get("do") == "label":
            return {int(m) for m in cast(Mapping[str, object], action["picks"])}
        return {cast(int, action["micrograph"])}

    def n_picks(self, micrograph: int) -> int:
        """Return the number of candidates and added picks of a micrograph."""
        rows = self.candidates.rows(micrograph)
        n_added = len(self.decisions.added.get(micrograph, Added()).labels)
        return int(rows.stop) - int(rows.start) + n_added

    @property
    def labels(self) -> Labels:
        """Label of each candidate, (n,): what people decided, else what the entry says."""
        return np.where(self.decisions.labels != 0, self.decisions.labels, self.candidates.labels)

    def kept(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Return which candidates are kept, (n,): by decision, else by the entry's label, else by score.

        Candidates of bad micrographs are not kept. Those without a score are, unless un-picking removed them.
        """
        c, d = (
            self.candidates,
            self.decisions,
        )  # whole-array passes are few: a toggle among a million picks waits for this
        with np.errstate(invalid="ignore"):
            kept: npt.NDArray[np.bool_] = c.scores >= threshold
            for micrograph, at in d.finished_at.items():
                rows = c.rows(micrograph)
                kept[rows] = c.scores[rows] >= at
        kept[c.kept_without_score] = True
        kept[c.labeled] = c.labels[c.labeled] > 0
        decided = np.flatnonzero(d.labels)
        kept[decided] = d.labels[decided] > 0
        for micrograph, mark in d.marks.items():
            if mark == "bad":
                kept[c.rows(micrograph)] = False
        return kept

    def touched(self) -> set[int]:
        """Return the micrographs on which a person decided something."""
        d = self.decisions
        decided = np.unique(self.candidates.micrograph[d.labels != 0]).tolist()
        return {*decided, *(m for m, added in d.added.items() if any(added.labels)), *d.marks}

    def _last_of(self, by: str, window: str, *, undone: bool) -> int | None:
        """Return the action of a person's window to undo, or to redo: what was undone last and nothing done since."""
        stack: list[int] = []
        again: list[int] = []
        for line in self.journal.lines:
            if line.by != by or line.window != window:
                continue
            if line.action.get("do") == "undo" and stack:
                again.append(stack.pop())
            elif line.action.get("do") == "redo" and again:
                stack.append(again.pop())
            elif not _is_undo(line):
                stack.append(line.number)
                again.clear()
        chosen = again if undone else stack
        return int(chosen[-1]) if chosen else None

    def _fold_all(self) -> None:
        self.decisions = Decisions(np.zeros(len(self.candidates), np.int8))
        undone: set[int] = set()
        for line in self.journal.lines:
            if line.action.get("do") == "undo":
                undone.add(cast(int, line.action.get("of")))
            elif line.action.get("do") == "redo":
                undone.discard(cast(int, line.action.get("of")))
        for line in self.journal.lines:
            self._apply(line, undone=line.number in undone)

    def _apply(self, line: Line, *, undone: bool = False) -> None:
        """Fold one action in. An undone addition keeps its place, so that later numbers of picks stay right."""
        try:
            action = self._checked(line.action)
        except BadAction as error:
            raise BadAction(f"{self.journal.path}: action {line.number} does not fit the entry: {error}") from None
        do = action["do"]
        if do == "add":
            added = self.decisions.added.setdefault(cast(int, action["micrograph"]), Added())
            for x, y in cast(list[tuple[float, float]], action["xy_px"]):
                added.xy_px.append((x, y))
                added.labels.append(0 if undone else 1)
        if undone or do in ("undo", "redo"):
            return
        self.decisions.people.add(line.by)
        if do == "label":
            self._label(cast(int, action["label"]), cast(dict[str, list[int]], action["picks"]))
        elif do == "mark":
            micrograph, mark = cast(int, action["micrograph"]), cast(Mark, action["mark"])
            self.decisions.marks.pop(micrograph, None)
            self.decisions.finished_at.pop(micrograph, None)
            if mark:
                self.decisions.marks[micrograph] = mark
            if mark == "finished":
                self.decisions.finished_at[micrograph] = cast(float, action["threshold"])

    def _label(self, label: int, picks: Mapping[str, list[int]]) -> None:
        for text, numbers in picks.items():
            micrograph = int(text)
            rows = self.candidates.rows(micrograph)
            n = rows.stop - rows.start
            old = [i for i in numbers if i < n]
            self.decisions.labels[np.array(old, np.intp) + rows.start] = label
            added = self.decisions.added.get(micrograph)
            for i in numbers:
                if i >= n and added is not None:
                    added.labels[i - n] = 1 if label > 0 else 0

    def _checked(self, action: Mapping[str, object]) -> dict[str, object]:
        """Return an action with nothing in it but what belongs there."""
        do = action.get("do")
        if do in ("undo", "redo"):
            return {"do": do, "of": action.get("of")}
        if do == "label":
            label, picks = action.get("label"), action.get("picks")
            if label not in (1, -1, 0) or isinstance(label, bool) or not isinstance(picks, Mapping):
                raise BadAction("a label is 1, -1 or 0, and has picks")
            checked = {str(self._micrograph(int(m))): self._numbers(int(m), p) for m, p in picks.items() if _digits(m)}
            if not 0 < sum(map(len, checked.values())) <= MOST_AT_ONCE or len(checked) != len(picks):
                raise BadAction(f"an action is about 1 to {MOST_AT_ONCE:,} picks")
            return {"do": do, "label": label, "picks": checked}
        if do == "add":
            micrograph = self._micrograph(action.get("micrograph"))
            return {"do": do, "micrograph": micrograph, "xy_px": self._positions(micrograph, action.get("xy_px"))}
        if do == "mark":
            micrograph, mark = self._micrograph(action.get("micrograph")), action.get("mark")
            threshold = action.get("threshold", 0.0)
            if mark not in MARKS or not isinstance(threshold, int | float) or not math.isfinite(threshold):
                raise BadAction(f"a mark is one of {MARKS}, with a threshold")
            return {"do": do, "micrograph": micrograph, "mark": mark, "threshold": float(threshold)}
        raise BadAction(f"there is no action {do!r}"[:100])

    def _micrograph(self, value: object) -> int:
        n = len(self.candidates.picks.micrographs)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n:
            raise BadAction(f"a micrograph is a number from 0 to {n - 1}")
        return value

    def _numbers(self, micrograph: int, picks: object) -> list[int]:
        n = self.n_picks(micrograph)
        if not isinstance(picks, list) or not all(type(i) is int and 0 <= i < n for i in picks):
            raise BadAction(f"picks of micrograph {micrograph} are numbers from 0 to {n - 1}")
        return list(dict.fromkeys(picks))

    def _positions(self, micrograph: int, value: object) -> list[tuple[float, float]]:
        row = self.candidates.picks.micrographs.iloc[micrograph]
        ny, nx = (
            math.inf if row[name] != row[name] or row[name] is None else float(row[name]) for name in ("ny", "nx")
        )
        added = self.decisions.added.get(micrograph, Added())
        if not isinstance(value, list) or not 0 < len(value) + len(added.labels) <= MOST_ADDED:
            raise BadAction(f"at most {MOST_ADDED:,} picks can be added on a micrograph")
        return [_position(pair, ny, nx) for pair in value]


def _position(pair: object, ny: float, nx: float) -> tuple[float, float]:
    """Return a position on a micrograph, by the rule of `PickSet.build`."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise BadAction("a position is x and y")
    if not all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in pair):
        raise BadAction("a position is two numbers")
    x, y = (round(float(v), 2) for v in pair)
    if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5):
        raise BadAction("a position lies on the micrograph")
    return x, y


def _digits(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10


def _is_undo(line: Line) -> bool:
    return line.action.get("do") in ("undo", "redo")


@dataclass(frozen=True)
class Tally:
    """Counts at a threshold.

    Attributes
    ----------
    n, n_kept
        Candidates and added picks, and how many of them are kept.
    precision
        Expected share of particles among the kept picks; NaN where scores are no probabilities.
    recall
        Expected share of the particles under all picks that is kept. Particles that no pick lies on are not counted.
        NaN where the scores of removed picks are unknown.
    """

    n: int
    n_kept: int
    precision: float
    recall: float


def tally(review: Review, threshold: float) -> Tally:
    """Count what is kept in the whole entry, and expect precision and recall from calibrated scores.

    A decision of a person counts as certain.
    """
    c, d = review.candidates, review.decisions
    kept = review.kept(threshold)
    bad = {m for m, mark in d.marks.items() if mark == "bad"}
    added = sum(sum(a.labels) for m, a in d.added.items() if m not in bad)
    n, n_kept = len(c) + added, int(kept.sum()) + added
    if not c.calibrated or not c.has_scores:
        return Tally(n, n_kept, math.nan, math.nan)
    labels = review.labels
    known = np.flatnonzero(labels)
    p, is_right = c.probabilities, labels[known] > 0
    surplus = is_right - p[known]  # what decisions change in the sums of probabilities
    right = float(p[kept].sum()) + float(surplus[kept[known]].sum()) + added
    all_right = float(p.sum()) + float(surplus.sum()) + added
    known_recall = not c.removed_without_score.any()
    return Tally(n, n_kept, _ratio(right, n_kept), _ratio(right, all_right) if known_recall else math.nan)


def doubt(candidates: Candidates) -> Float:
    """Return the expected number of wrong decisions on each micrograph; NaN where scores are no probabilities."""
    n = len(candidates.picks.micrographs)
    if not candidates.calibrated or not candidates.has_scores:
        return np.full(n, np.nan)
    p = candidates.probabilities
    expected: Float = np.bincount(candidates.micrograph, np.minimum(p, 1 - p), minlength=n).astype(np.float64)
    return expected


def per_micrograph(candidates: Candidates, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """Return how many of the chosen candidates each micrograph has."""
    return np.bincount(candidates.micrograph[chosen], minlength=len(candidates.picks.micrographs))


def names_of(people: Iterable[str]) -> str:
    """Return people's names as text, in a fixed order."""
    return ", ".join(sorted(people)) or "nobody"


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
