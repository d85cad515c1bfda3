"""Work in shards: cut, fingerprint what goes in, skip what is done, run, and report the rate.

A shard is some consecutive items of a piece of work and the path of its result, a file or folder that is complete or
absent. Its name has the fingerprint of everything that the result depends on: a result of other input, another model or
other settings has another name, and is never taken. So a second run repeats nothing, and several machines can run
shards of the same work at the same time. Un-picking, picking, export and ingest are small adapters of this module; the
command line and the flows use the same ones.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from cryoflow.errors import BadInput, NotWritten
from cryoflow.storage.fingerprints import Fingerprint

T = TypeVar("T")

OnProgress = Callable[[int, int], None]
"""Called with the number of items done and of all items."""

FINGERPRINT_DIGITS = 16
_NAME = re.compile(rf"(?:.+-)?(?P<first>\d{{7,}})-(?P<last>\d{{7,}})-[0-9a-f]{{{FINGERPRINT_DIGITS}}}", re.ASCII)


@dataclass(frozen=True)
class Shard:
    """Items `first` to `last` (not included) of a piece of work, and where their result goes."""

    first: int
    last: int
    result: Path

    @property
    def is_done(self) -> bool:
        """Return whether the result exists."""
        return self.result.exists()

    def __len__(self) -> int:
        return self.last - self.first


def cut(n_items: int, n_a_job: int, n_a_shard: int = 1) -> Iterator[tuple[int, int]]:
    """Return ranges of about `n_a_job` items, each a whole number of shards.

    >>> list(cut(250, 100, 30))
    [(0, 90), (90, 180), (180, 250)]
    """
    step = max(1, n_a_job // n_a_shard) * n_a_shard
    for first in range(0, n_items, step):
        yield first, min(first + step, n_items)


def groups(sizes: Mapping[T, int], at_least: int) -> list[tuple[T, ...]]:
    """Return consecutive items in groups of at least a total size; the last group may be smaller.

    >>> groups({"a": 3, "b": 4, "c": 1}, 5)
    [('a', 'b'), ('c',)]
    """
    found: list[tuple[T, ...]] = []
    group: list[T] = []
    filled = 0
    for item, size in sizes.items():
        group.append(item)
        filled += size
        if filled >= at_least:
            found.append(tuple(group))
            group, filled = [], 0
    return [*found, tuple(group)] if group else found


def shard(first: int, last: int, folder: Path, stem: str, content: Iterable[object], suffix: str = "") -> Shard:
    """Return the shard whose result is named by its range and the fingerprint of what it depends on.

    Parameters
    ----------
    stem
        Start of the name; "" for none.
    content
        Values that decide the result. Buffers count by their bytes, all others by their `repr`.
    """
    found = Fingerprint(FINGERPRINT_DIGITS)
    for value in content:
        found.add(value if isinstance(value, bytes | memoryview) else f"{value!r}\n")
    start = f"{stem}-" if stem else ""
    return Shard(first, last, folder / f"{start}{first:07d}-{last:07d}-{found.digits}{suffix}")


def range_of(name: str) -> tuple[int, int] | None:
    """Return the range in the name of a result, without its suffix; None for any other name."""
    match = _NAME.fullmatch(name)
    return None if match is None else (int(match["first"]), int(match["last"]))


def in_folder(folder: Path, suffix: str = "") -> list[Path]:
    """Return the files of a folder that are named like shards, in the order of their names."""
    names = sorted(os.listdir(folder)) if folder.is_dir() else []
    return [folder / name for name in names if name.endswith(suffix) and range_of(name.removesuffix(suffix))]


def remaining(shards: Sequence[Shard]) -> list[Shard]:
    """Return the shards without a result."""
    return [s for s in shards if not s.is_done]


def unfinished(ranges: Iterable[tuple[int, int]], shards: Sequence[Shard]) -> list[tuple[int, int]]:
    """Return the ranges in which a shard without a result begins: what is left for jobs of their own."""
    left = {s.first for s in remaining(shards)}
    return [(first, last) for first, last in ranges if not left.isdisjoint(range(first, last))]


def run(
    shards: Sequence[Shard], do: Callable[[Shard], object], *, on_progress: OnProgress | None = None
) -> list[BadInput]:
    """Run the shards that are not done, one after the other, and return the errors of those that failed.

    A shard that fails does not keep the others from being tried. Where nothing can be written, the rest is not tried.

    Parameters
    ----------
    do
        Writes the result of a shard, complete or not at all.
    on_progress
        Called after each shard; those that were done before count at once.

    Raises
    ------
    NotWritten
        Where a result cannot be written: the disk is full, or read-only.
    """
    total = sum(map(len, shards))
    left = remaining(shards)
    done = total - sum(map(len, left))
    failed: list[BadInput] = []
    if on_progress and done:
        on_progress(done, total)
    for each in left:
        try:
            do(each)
        except NotWritten:
            raise
        except BadInput as error:
            failed.append(error)
        done += len(each)
        if on_progress:
            on_progress(done, total)
    return failed


@dataclass
class Rate:
    """Rate and time left of work whose items take about equally long. Items that were done before do not count."""

    clock: Callable[[], float] = time.monotonic
    _started: float | None = field(default=None, init=False)
    _done_before: int = field(default=0, init=False)

    def text(self, done: int, total: int) -> str:
        """Return `120 of 1000, 3.2 a second, 4 min left`; only the numbers until a rate is known.

        >>> now = iter((0.0, 10.0))
        >>> rate = Rate(clock=lambda: next(now))
        >>> rate.text(100, 1000), rate.text(140, 1000)
        ('100 of 1000', '140 of 1000, 4.0 a second, 4 min left')
        """
        now = self.clock()
        if self._started is None:
            self._started, self._done_before = now, done
        new, seconds = done - self._done_before, now - self._started
        if new <= 0 or seconds <= 0:
            return f"{done} of {total}"
        return f"{done} of {total}, {new / seconds:.1f} a second, {_duration((total - done) * seconds / new)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
