"""A review: the decisions about the candidates of an entry, folded from the journal of people's actions."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import cast

import numpy as np
import numpy.typing as npt

from cryoflow.view.candidates import Candidates, Labels
from cryoflow.view.decisions import BadAction, Decisions, checked, fold, n_picks
from cryoflow.view.journal import Journal, Line


class Review:
    """The review of one entry, shared by all who look at it.

    Each action replaces `decisions` and changes nothing in it: other threads read it meanwhile.

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
        self.decisions = self._nothing()
        self._fold_all()
        self.refresh()

    @property
    def revision(self) -> int:
        """Return the number of the last action that is folded in."""
        return self.decisions.revision

    def refresh(self) -> int:
        """Take in what others appended, and return the revision."""
        with self._lock:
            self.journal.read()
            lines = self.journal.lines[self.decisions.revision :]
            if any(_is_undo(line) for line in lines):
                self._fold_all()
            elif lines:
                decisions = self.decisions.copy()
                for line in lines:
                    self._fold(line, decisions)
                self.decisions = decisions
            return self.decisions.revision

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
            fits = checked(action, self.candidates, self.decisions)

            def resolved() -> Mapping[str, object] | None:
                if fits["do"] not in ("undo", "redo"):
                    return fits
                of = self._last_of(by, window, undone=fits["do"] == "redo")
                return None if of is None else {"do": fits["do"], "of": of}

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
        return n_picks(self.candidates, self.decisions, micrograph)

    @property
    def labels(self) -> Labels:
        """Return the label of each candidate, (n,); see `labels_by`."""
        return labels_by(self.candidates, self.decisions)

    def kept(self, threshold: float) -> npt.NDArray[np.bool_]:
        """Return which candidates are kept, (n,); see `kept_by`."""
        return kept_by(self.candidates, self.decisions, threshold)

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

    def _nothing(self) -> Decisions:
        return Decisions(np.zeros(len(self.candidates), np.int8))

    def _fold_all(self) -> None:
        decisions = self._nothing()
        undone: set[int] = set()
        for line in self.journal.lines:
            if line.action.get("do") == "undo":
                undone.add(cast(int, line.action.get("of")))
            elif line.action.get("do") == "redo":
                undone.discard(cast(int, line.action.get("of")))
        for line in self.journal.lines:
            self._fold(line, decisions, undone=line.number in undone)
        self.decisions = decisions

    def _fold(self, line: Line, decisions: Decisions, *, undone: bool = False) -> None:
        try:
            action = checked(line.action, self.candidates, decisions)
        except BadAction as error:
            raise BadAction(f"{self.journal.path}: action {line.number} does not fit the entry: {error}") from None
        fold(decisions, self.candidates, action, line.by, undone=undone)
        decisions.revision = line.number


def labels_by(candidates: Candidates, decisions: Decisions) -> Labels:
    """Return the label of each candidate, (n,): what people decided, else what the entry says."""
    return np.where(decisions.labels != 0, decisions.labels, candidates.labels)


def kept_by(candidates: Candidates, decisions: Decisions, threshold: float) -> npt.NDArray[np.bool_]:
    """Return which candidates are kept, (n,): by decision, else by the entry's label, else by score.

    Candidates of bad micrographs are not kept. Those without a score are, unless un-picking removed them. Passes over
    whole arrays are few: a toggle among a million picks waits for this.
    """
    c, d = candidates, decisions
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


def touched_by(candidates: Candidates, decisions: Decisions) -> set[int]:
    """Return the micrographs on which a person decided something."""
    decided = np.unique(candidates.micrograph[decisions.labels != 0]).tolist()
    return {*decided, *(m for m, added in decisions.added.items() if any(added.labels)), *decisions.marks}


def _is_undo(line: Line) -> bool:
    return line.action.get("do") in ("undo", "redo")
