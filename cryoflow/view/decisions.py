"""What people decided about the candidates of an entry: a state, and the actions that change it.

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
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, cast

import numpy as np

from cryoflow.errors import CryoflowError
from cryoflow.view.candidates import Candidates, Labels

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
    """Result of all actions.

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
    revision
        Number of the last action.
    """

    labels: Labels
    added: dict[int, Added] = field(default_factory=dict)
    marks: dict[int, Mark] = field(default_factory=dict)
    finished_at: dict[int, float] = field(default_factory=dict)
    people: set[str] = field(default_factory=set)
    revision: int = 0

    def copy(self) -> Decisions:
        """Return the same decisions, to be changed while others still read these."""
        added = {m: Added(list(a.xy_px), list(a.labels)) for m, a in self.added.items()}
        return replace(
            self,
            labels=self.labels.copy(),
            added=added,
            marks=dict(self.marks),
            finished_at=dict(self.finished_at),
            people=set(self.people),
        )


def n_picks(candidates: Candidates, decisions: Decisions, micrograph: int) -> int:
    """Return the number of candidates and added picks of a micrograph."""
    rows = candidates.rows(micrograph)
    return int(rows.stop) - int(rows.start) + len(decisions.added.get(micrograph, Added()).labels)


def fold(decisions: Decisions, candidates: Candidates, action: Mapping[str, object], by: str, *, undone: bool) -> None:
    """Change decisions by one checked action. An undone addition keeps its place: later numbers of picks stay right."""
    do = action["do"]
    if do == "add":
        added = decisions.added.setdefault(cast(int, action["micrograph"]), Added())
        for x, y in cast(list[tuple[float, float]], action["xy_px"]):
            added.xy_px.append((x, y))
            added.labels.append(0 if undone else 1)
    if undone or do in ("undo", "redo"):
        return
    decisions.people.add(by)
    if do == "label":
        _label(decisions, candidates, cast(int, action["label"]), cast(dict[str, list[int]], action["picks"]))
    elif do == "mark":
        micrograph, mark = cast(int, action["micrograph"]), cast(Mark, action["mark"])
        decisions.marks.pop(micrograph, None)
        decisions.finished_at.pop(micrograph, None)
        if mark:
            decisions.marks[micrograph] = mark
        if mark == "finished":
            decisions.finished_at[micrograph] = cast(float, action["threshold"])


def _label(decisions: Decisions, candidates: Candidates, label: int, picks: Mapping[str, list[int]]) -> None:
    for text, numbers in picks.items():
        micrograph = int(text)
        rows = candidates.rows(micrograph)
        n = rows.stop - rows.start
        old = [i for i in numbers if i < n]
        decisions.labels[np.array(old, np.intp) + rows.start] = label
        added = decisions.added.get(micrograph)
        for i in numbers:
            if i >= n and added is not None:
                added.labels[i - n] = 1 if label > 0 else 0


def checked(action: Mapping[str, object], candidates: Candidates, decisions: Decisions) -> dict[str, object]:
    """Return an action with nothing in it but what belongs there.

    Raises
    ------
    BadAction
        Where it does not fit the entry.
    """
    do = action.get("do")
    if do in ("undo", "redo"):
        return {"do": do, "of": action.get("of")}
    if do == "label":
        return _checked_label(action, candidates, decisions)
    if do == "add":
        micrograph = _micrograph(candidates, action.get("micrograph"))
        return {
            "do": do,
            "micrograph": micrograph,
            "xy_px": _positions(candidates, decisions, micrograph, action.get("xy_px")),
        }
    if do == "mark":
        micrograph, mark = _micrograph(candidates, action.get("micrograph")), action.get("mark")
        threshold = finite_number(action.get("threshold", 0.0))
        if mark not in MARKS or threshold is None:
            raise BadAction(f"a mark is one of {MARKS}, with a threshold")
        return {"do": do, "micrograph": micrograph, "mark": mark, "threshold": threshold}
    raise BadAction("an action is to label, add, mark, undo or redo")


def _checked_label(action: Mapping[str, object], candidates: Candidates, decisions: Decisions) -> dict[str, object]:
    """Return a label's action with the numbers of its picks.

    A page names added picks by position, `added_xy_px`: their numbers are known here alone, since somebody else may
    have added one at the same moment.
    """
    label, picks, added = action.get("label"), action.get("picks", {}), action.get("added_xy_px", {})
    if label not in (1, -1, 0) or isinstance(label, bool):
        raise BadAction("a label is 1, -1 or 0")
    if not isinstance(picks, Mapping) or not isinstance(added, Mapping) or not all(map(_digits, (*picks, *added))):
        raise BadAction("a label has picks by micrograph")
    found = {_micrograph(candidates, int(m)): _numbers(candidates, decisions, int(m), p) for m, p in picks.items()}
    for m, positions in added.items():
        numbers = found.setdefault(_micrograph(candidates, int(m)), [])
        numbers += _numbers_at(candidates, decisions, int(m), positions)
    if not 0 < sum(map(len, found.values())) <= MOST_AT_ONCE or not all(found.values()):
        raise BadAction(f"an action is about 1 to {MOST_AT_ONCE:,} picks")
    return {"do": "label", "label": label, "picks": {str(m): list(dict.fromkeys(n)) for m, n in found.items()}}


def _numbers_at(candidates: Candidates, decisions: Decisions, micrograph: int, positions: object) -> list[int]:
    """Return the numbers of added picks; all of those that stand at one position."""
    there = decisions.added.get(micrograph, Added()).xy_px
    if not isinstance(positions, list) or len(positions) > MOST_AT_ONCE:
        raise BadAction("added picks are named by a list of positions")
    first = n_picks(candidates, decisions, micrograph) - len(there)
    numbers: dict[tuple[float, float], list[int]] = {}
    for i, position in enumerate(there):
        numbers.setdefault(position, []).append(first + i)
    found = [numbers.get(_position(pair, math.inf, math.inf), []) for pair in positions]
    if not all(found):
        raise BadAction("one of the added picks is not there")
    return [number for at in found for number in at]


def finite_number(value: object) -> float | None:
    """Return a number of JSON; None for what is no number, is not finite, or is beyond what a float holds."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _micrograph(candidates: Candidates, value: object) -> int:
    n = len(candidates.picks.micrographs)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < n:
        raise BadAction(f"a micrograph is a number from 0 to {n - 1}")
    return value


def _numbers(candidates: Candidates, decisions: Decisions, micrograph: int, picks: object) -> list[int]:
    n = n_picks(candidates, decisions, micrograph)
    if not isinstance(picks, list) or not all(type(i) is int and 0 <= i < n for i in picks):
        raise BadAction(f"picks of micrograph {micrograph} are numbers from 0 to {n - 1}")
    return list(dict.fromkeys(picks))


def _positions(
    candidates: Candidates, decisions: Decisions, micrograph: int, value: object
) -> list[tuple[float, float]]:
    row = candidates.picks.micrographs.iloc[micrograph]
    ny, nx = (math.inf if row[name] != row[name] or row[name] is None else float(row[name]) for name in ("ny", "nx"))
    added = decisions.added.get(micrograph, Added())
    if not isinstance(value, list) or not 0 < len(value) <= MOST_ADDED - len(added.labels):
        raise BadAction(f"1 to {MOST_ADDED:,} picks can be added on a micrograph")
    return [_position(pair, ny, nx) for pair in value]


def _position(pair: object, ny: float, nx: float) -> tuple[float, float]:
    """Return a position on a micrograph, by the rule of `PickSet.build`."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        raise BadAction("a position is x and y")
    x, y = map(finite_number, pair)
    if x is None or y is None:
        raise BadAction("a position is two numbers")
    x, y = round(x, 2), round(y, 2)
    if not (-0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5):
        raise BadAction("a position lies on the micrograph")
    return x, y


def _digits(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 10
